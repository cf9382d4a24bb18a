// Signatures, hashes and Matrix key objects (profile, section 2).
import { createHash, createPublicKey, verify as verifyBytes } from "node:crypto";
import { isIPv6 } from "node:net";
import { bytes, concat, text } from "./wire.js";

export const sha256 = (data: Uint8Array) => new Uint8Array(createHash("sha256").update(data).digest());

/** SignContent{label, content} of the profile, and of RFC 9420, section 5.1.2. */
export const signContent = (label: string, content: Uint8Array) => concat(text.write(label), bytes.write(content));

const base64url = (b: Uint8Array) => Buffer.from(b).toString("base64url");

/** The signature schemes by their TLS names: the curve, and the hash of ECDSA. */
const schemes: Record<string, [curve: string, hash: string | null]> = {
  ed25519: ["Ed25519", null],
  ed448: ["Ed448", null],
  ecdsa_secp256r1_sha256: ["P-256", "sha256"],
  ecdsa_secp384r1_sha384: ["P-384", "sha384"],
  ecdsa_secp521r1_sha512: ["P-521", "sha512"],
};

export function verify(key: Uint8Array, content: Uint8Array, signature: Uint8Array, scheme = "ed25519"): boolean {
  const [crv, hash] = schemes[scheme] ?? [];
  if (crv === undefined || hash === undefined) return false;
  const half = (key.length + 1) / 2;
  const jwk = hash
    ? { kty: "EC", crv, x: base64url(key.subarray(1, half)), y: base64url(key.subarray(half)) }
    : { kty: "OKP", crv, x: base64url(key) };
  try {
    return verifyBytes(hash, content, createPublicKey({ key: jwk, format: "jwk" }), signature);
  } catch {
    return false; // not a key of the scheme
  }
}

/** An encoded structure without its last field, the signature. */
export const unsigned = (encoded: Uint8Array, signature: Uint8Array) =>
  encoded.subarray(0, encoded.length - bytes.write(signature).length);

/** Whether a server has signed an encoded structure. */
export function signedBy(key: Uint8Array, struct: string, encoded: Uint8Array, signature: Uint8Array): boolean {
  return verify(key, signContent(`MIMI Portability 1.0 ${struct}`, unsigned(encoded, signature)), signature);
}

/** Canonical JSON of the Matrix specification, for JSON with integers. */
export function canonical(value: any): string {
  if (Array.isArray(value)) return `[${value.map(canonical).join(",")}]`;
  if (value === null || typeof value !== "object") return JSON.stringify(value);
  const keys = Object.keys(value).sort((a, b) => Buffer.compare(Buffer.from(a), Buffer.from(b)));
  return `{${keys.map((k) => `${JSON.stringify(k)}:${canonical(value[k])}`).join(",")}}`;
}

/** The keys in a server's key object, by id; null if the object does not prove them. */
export function keysIn(server: string, object: Uint8Array): Map<string, Uint8Array> | null {
  if (object.length > 16 << 10) return null;
  try {
    const { signatures, unsigned, ...signed } = JSON.parse(Buffer.from(object).toString());
    const content = Buffer.from(canonical(signed));
    const keys = new Map<string, Uint8Array>();
    for (const [id, { key }] of Object.entries<any>({ ...signed.old_verify_keys, ...signed.verify_keys })) {
      keys.set(id, Buffer.from(key, "base64"));
    }
    const current = Object.keys(signed.verify_keys);
    const proved = (id: string) => verify(keys.get(id)!, content, Buffer.from(signatures[server][id], "base64"));
    return signed.server_name === server && current.length > 0 && current.every(proved) ? keys : null;
  } catch {
    return null;
  }
}

const host = (name: string) => name.replace(/:[0-9]+$/, "");

/** Whether a name is a Matrix server name. */
export function isServerName(name: string): boolean {
  const [, port] = /:([0-9]+)$/.exec(name) ?? [];
  const bare = host(name);
  const address = /^\[(.*)\]$/.exec(bare);
  const valid = address ? isIPv6(address[1]!) : /^[A-Za-z0-9.-]+$/.test(bare);
  return valid && name.length <= 255 && Number(port ?? 0) <= 65535;
}

/** Whether a valid server name is an IP literal: it is in brackets, or its last label is a number. */
export function isAddress(name: string): boolean {
  const last = host(name).replace(/\.$/, "").split(".").at(-1)!;
  return name.startsWith("[") || /^([0-9]+|0x[0-9a-f]*)$/i.test(last);
}
