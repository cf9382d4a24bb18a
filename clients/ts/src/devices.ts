// The data that Matrix publishes for a device: its keys, with the MLS key, and KeyPackages as signed one-time keys
// (profile, section 12).
import type { KeyPackage } from "ts-mls";
import { compare, utf8 } from "./bytes.js";
import { MimiportError } from "./errors.js";
import { cipherSuite, type Identity, type Member, parseKeyPackage, suiteOfKeyPackage } from "./mls.js";
import type { Transport } from "./transport.js";
import { fromBase64, type LeafIdentity, toBase64 } from "./wire.js";

/** The algorithm of one-time keys that are KeyPackages. */
export const KEY_PACKAGE = "io.github.mimiport.key_package";

/** Device keys as the Matrix specification has them. */
export interface DeviceKeys {
  user_id: string;
  device_id: string;
  algorithms: string[];
  keys: Record<string, string>;
  signatures?: Signatures;
  unsigned?: unknown;
}

type Signatures = Record<string, Record<string, string>>;

/** An answer to /keys/query. */
export interface PublishedKeys {
  device_keys?: Record<string, Record<string, DeviceKeys>>;
  master_keys?: Record<string, CrossSigningKey>;
  self_signing_keys?: Record<string, CrossSigningKey>;
  /** Servers that did not answer. */
  failures?: Record<string, unknown>;
}

interface CrossSigningKey {
  keys: Record<string, string>;
  signatures?: Signatures;
}

/** A key that signs with Ed25519. */
export interface KeyPair {
  signKey: Uint8Array;
  publicKey: Uint8Array;
}

/**
 * The trust that a leaf belongs to the device that it names. Either the device's homeserver has not been asked or has
 * not answered, or the device does not publish the leaf's key, or it does, or it does and the user's other devices have
 * cross-signed it.
 */
export type Verification = "unknown" | "unverified" | "key" | "cross-signed";

/** Thrown for a KeyPackage that its device did not sign, or that names another device. */
export class OddKeyPackage extends Error {
  override name = "OddKeyPackage";
}

/** The code of the error for a device of which another program has yet to publish the keys. */
export const NOT_PUBLISHED = "NOT_PUBLISHED";

/** All signatures in this file are Ed25519, as in both cipher suites. */
const ed25519 = async () => (await cipherSuite(1)).signature;

/** The name of a device's MLS key among its device keys. */
export const mlsKeyId = (deviceId: string) => `io.github.mimiport.ed25519:${deviceId}`;
const deviceKeyId = (deviceId: string) => `ed25519:${deviceId}`;

/** Orders by code points, as UTF-8 does. */
const byCodePoints = ([a]: [string, unknown], [b]: [string, unknown]) => compare(utf8(a), utf8(b));

/** Canonical JSON (Matrix specification, appendices). */
export function canonicalJson(value: unknown): string {
  if (Array.isArray(value)) return `[${value.map(canonicalJson).join(",")}]`;
  if (typeof value !== "object" || value === null) return JSON.stringify(value);
  const fields = Object.entries(value).sort(byCodePoints);
  return `{${fields.map(([name, v]) => `${JSON.stringify(name)}:${canonicalJson(v)}`).join(",")}}`;
}

/** The signed part of an object: everything except `signatures` and `unsigned`. */
function signedPart(object: object): Uint8Array {
  const { signatures: _, unsigned: __, ...rest } = object as Record<string, unknown>;
  return utf8(canonicalJson(rest));
}

async function sign(object: object, { signKey }: KeyPair): Promise<string> {
  return toBase64(await (await ed25519()).sign(signKey, signedPart(object)));
}

/** Whether an object has a valid signature of a user under a key's name. */
async function isSigned(object: any, userId: string, keyId: string, key: string): Promise<boolean> {
  const signature = object?.signatures?.[userId]?.[keyId];
  if (typeof signature !== "string") return false;
  try {
    return await (await ed25519()).verify(fromBase64(key), signedPart(object), fromBase64(signature));
  } catch {
    return false; // not base64, or not a key
  }
}

/** The MLS signature key that a device publishes, in base64; undefined for a device that publishes none. */
const publishedKey = ({ userId, deviceId }: LeafIdentity, published: PublishedKeys): string | undefined =>
  published.device_keys?.[userId]?.[deviceId]?.keys?.[mlsKeyId(deviceId)];

/** The devices of a user that have KeyPackages, but those that no Delivery Service takes: JSON escapes their ids. */
export const joinable = (userId: string, published: PublishedKeys): string[] =>
  Object.entries(published.device_keys?.[userId] ?? {})
    .filter(([, keys]) => Array.isArray(keys?.algorithms) && keys.algorithms.includes(KEY_PACKAGE))
    .map(([deviceId]) => deviceId)
    .filter((deviceId) => JSON.stringify(deviceId) === `"${deviceId}"`);

/**
 * A device's keys, with the MLS key and the algorithm of KeyPackages added; undefined if both are there. Throws if the
 * device has published another MLS key, since a device keeps its first one.
 */
export function withMlsKey(own: Identity, had: DeviceKeys | undefined): DeviceKeys | undefined {
  const { userId: user_id, deviceId: device_id } = own;
  const [id, key] = [mlsKeyId(device_id), toBase64(own.publicKey)];
  const there = had?.keys[id];
  if (there === key && had!.algorithms.includes(KEY_PACKAGE)) return undefined;
  if (there !== undefined && there !== key)
    throw new MimiportError("OTHER_KEY", "the device has published another MLS signature key");
  const { algorithms = [], keys = {} } = had ?? {};
  return { user_id, device_id, algorithms: [...new Set([...algorithms, KEY_PACKAGE])], keys: { ...keys, [id]: key } };
}

/**
 * Signs device keys with the given key, which becomes the device's own key if the device has none. If another program
 * has keys for the device, such as Olm's, that program signs. It must have published them: it would replace these.
 */
export async function signDeviceKeys(
  keys: DeviceKeys,
  own: KeyPair,
  other: Pick<Transport, "signDeviceKeys"> = {},
): Promise<DeviceKeys> {
  const id = deviceKeyId(keys.device_id);
  const signed = (whole: DeviceKeys, signature: string) => {
    return { ...whole, signatures: { [keys.user_id]: { [id]: signature } } };
  };
  if (other.signDeviceKeys !== undefined) {
    if (keys.keys[id] === undefined)
      throw new MimiportError(NOT_PUBLISHED, "the program that has the device's keys has not published them", true);
    return signed(keys, await other.signDeviceKeys(keys));
  }
  const key = toBase64(own.publicKey);
  const whole = { ...keys, keys: { [id]: key, ...keys.keys } };
  if (whole.keys[id] !== key)
    throw new MimiportError("NOT_SIGNED", "the device has keys of another program, which has to sign");
  return signed(whole, await sign(whole, own));
}

/** A KeyPackage (an MLSMessage) as the value of a one-time key or of a fallback key. */
export async function oneTimeKey(own: Identity, message: Uint8Array, fallback = false) {
  const value = { key: toBase64(message), ...(fallback && { fallback }) };
  return { ...value, signatures: { [own.userId]: { [mlsKeyId(own.deviceId)]: await sign(value, own) } } };
}

/**
 * The KeyPackage in a claimed one-time key. Throws an OddKeyPackage if it does not belong to the device, by the key
 * that the device publishes.
 */
export async function verifyOneTimeKey(
  device: LeafIdentity,
  value: any,
  published: PublishedKeys,
  suite: number,
): Promise<KeyPackage> {
  const must = (ok: boolean, reason: string) => {
    if (!ok) throw new OddKeyPackage(reason);
  };
  const key = publishedKey(device, published);
  if (typeof key !== "string") throw new OddKeyPackage("the device publishes no MLS key");
  must(
    await isSigned(value, device.userId, mlsKeyId(device.deviceId), key),
    "the device has not signed the KeyPackage",
  );
  let parsed: ReturnType<typeof parseKeyPackage>;
  try {
    parsed = parseKeyPackage(fromBase64(value.key));
  } catch (e) {
    throw new OddKeyPackage(String(e));
  }
  const { keyPackage, device: named } = parsed;
  must(named.userId === device.userId && named.deviceId === device.deviceId, "the KeyPackage is of another device");
  must(toBase64(keyPackage.leafNode.signaturePublicKey) === key, "the KeyPackage has another key than the device");
  must(suiteOfKeyPackage(keyPackage) === suite, "the KeyPackage is of another cipher suite");
  return keyPackage;
}

/** The trust in a leaf, by the keys that its user's homeserver publishes. */
export async function verify(member: Member, published: PublishedKeys): Promise<Verification> {
  const server = member.userId.slice(member.userId.indexOf(":") + 1);
  if (published.failures?.[server] !== undefined) return "unknown";
  if (publishedKey(member, published) !== toBase64(member.signatureKey)) return "unverified";
  return (await isCrossSigned(member, published)) ? "cross-signed" : "key";
}

/** Whether the user's self-signing key has signed the device, with what it published then or with what it does now. */
export function wasCrossSigned({ userId, deviceId }: LeafIdentity, published: PublishedKeys): boolean {
  const signatures = published.device_keys?.[userId]?.[deviceId]?.signatures?.[userId] ?? {};
  return Object.keys(published.self_signing_keys?.[userId]?.keys ?? {}).some((id) => id in signatures);
}

/**
 * Whether the user's self-signing key signed the device's keys, and the user's master key signed the self-signing key.
 */
export async function isCrossSigned({ userId, deviceId }: LeafIdentity, published: PublishedKeys): Promise<boolean> {
  const [master] = Object.entries(published.master_keys?.[userId]?.keys ?? {});
  const selfSigning = published.self_signing_keys?.[userId];
  const [own] = Object.entries(selfSigning?.keys ?? {});
  return (
    master !== undefined &&
    own !== undefined &&
    (await isSigned(selfSigning, userId, ...master)) &&
    (await isSigned(published.device_keys?.[userId]?.[deviceId], userId, ...own))
  );
}
