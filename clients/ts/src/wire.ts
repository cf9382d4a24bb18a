// The draft's messages and the profile's, in TLS presentation language (RFC 9420, section 2.1.2; profile, section 1).
// Decoding is strict: minimal lengths, no trailing bytes, nothing that would not be encoded identically.
import { concat, sha256 } from "./bytes.js";

/** Thrown for bytes that are not a well-formed message, and for values that no message can encode. */
export class WireError extends Error {
  override name = "WireError";
}

function fail(why: string): never {
  throw new WireError(why);
}

/** The largest length of a vector, in bytes (RFC 9420, section 2.1.2). */
const MAX_VECTOR = 2 ** 30 - 1;

class Writer {
  private parts: Uint8Array[] = [];

  bytes(b: Uint8Array): void {
    this.parts.push(b);
  }

  uint(value: bigint, size: number): void {
    const b = new Uint8Array(size);
    for (let i = size - 1; i >= 0; i--, value >>= 8n) b[i] = Number(value & 0xffn);
    if (value !== 0n) fail("integer out of range");
    this.bytes(b);
  }

  vector(b: Uint8Array): void {
    const n = BigInt(b.length);
    if (n < 1n << 6n) this.uint(n, 1);
    else if (n < 1n << 14n) this.uint(n | (1n << 14n), 2);
    else if (n <= MAX_VECTOR) this.uint(n | (2n << 30n), 4);
    else fail("vector longer than 2^30-1 bytes");
    this.bytes(b);
  }

  done(): Uint8Array {
    return concat(...this.parts);
  }
}

class Reader {
  private at = 0;

  constructor(private readonly data: Uint8Array) {}

  bytes(n: number): Uint8Array {
    if (n > this.data.length - this.at) throw new WireError("truncated");
    return this.data.subarray(this.at, (this.at += n));
  }

  uint(size: number): bigint {
    return this.bytes(size).reduce((value, b) => (value << 8n) | BigInt(b), 0n);
  }

  vector(): Uint8Array {
    const first = this.bytes(1)[0]!;
    const size = 2 ** (first >> 6);
    if (size === 8) throw new WireError("reserved vector length");
    const low = this.bytes(size - 1).reduce((n, b) => n * 256 + b, first & 0x3f);
    if (size > 1 && low < 2 ** (4 * size - 2)) throw new WireError("vector length is not minimal");
    return this.bytes(low);
  }

  get empty(): boolean {
    return this.at === this.data.length;
  }
}

/** The encoder and the decoder of one type, side by side so that neither changes alone. */
export interface Codec<T> {
  write(w: Writer, value: T): void;
  read(r: Reader): T;
}

export type TypeOf<C> = C extends Codec<infer T> ? T : never;

/** Encodes a value. Throws a WireError for a value that does not fit its field. */
export function encode<T>(codec: Codec<T>, value: T): Uint8Array {
  const w = new Writer();
  codec.write(w, value);
  return w.done();
}

/** Decodes all of data, or throws a WireError. Byte fields share memory with data. */
export function decode<T>(codec: Codec<T>, data: Uint8Array): T {
  const r = new Reader(data);
  const value = codec.read(r);
  if (!r.empty) throw new WireError("trailing bytes");
  return value;
}

const opaque: Codec<Uint8Array> = {
  write: (w, v) => w.vector(v),
  read: (r) => r.vector(),
};

// ignoreBOM keeps a leading byte order mark, so that every name is encoded as it was read.
const utf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

const text: Codec<string> = {
  write: (w, v) => w.vector(new TextEncoder().encode(v)),
  read: (r) => {
    try {
      return utf8.decode(r.vector());
    } catch (e) {
      throw e instanceof WireError ? e : new WireError("a name is not UTF-8");
    }
  },
};

/** A name that is not empty. */
const name: Codec<string> = {
  write: text.write,
  read: (r) => text.read(r) || fail("a name is empty"),
};

/** Epochs of 2^63 and more are refused (profile, section 1). */
const epoch: Codec<bigint> = {
  write: (w, v) => w.uint(v, 8),
  read: (r) => {
    const v = r.uint(8);
    return v < 1n << 63n ? v : fail("an epoch of 2^63 or more");
  },
};

/** The kinds of steps in a lineage (profile, section 10). */
const MIGRATION = 1;
const RECLAIM = 2;
export const RECOVER = 3;

const claimKind: Codec<typeof RECLAIM | typeof RECOVER> = {
  write: (w, v) => w.uint(BigInt(v), 1),
  read: (r) => {
    const v = Number(r.uint(1));
    return v === RECLAIM || v === RECOVER ? v : fail("a claim of unknown kind");
  },
};

const NONCE_SIZE = 32;

const nonce: Codec<Uint8Array> = {
  write: (w, v) => (v.length === NONCE_SIZE ? w.bytes(v) : fail("a nonce has 32 bytes")),
  read: (r) => r.bytes(NONCE_SIZE),
};

/** A SHA-256 or a nonce in a vector. */
const opaque32: Codec<Uint8Array> = {
  write: opaque.write,
  read: (r) => {
    const v = r.vector();
    return v.length === 32 ? v : fail("not 32 bytes");
  },
};

/** Items one after another in a vector. */
function list<T>(item: Codec<T>): Codec<T[]> {
  return {
    write: (w, values) => {
      const items = new Writer();
      for (const v of values) item.write(items, v);
      w.vector(items.done());
    },
    read: (r) => {
      const items = new Reader(r.vector());
      const values: T[] = [];
      while (!items.empty) values.push(item.read(items));
      return values;
    },
  };
}

function optional<T>(item: Codec<T>): Codec<T | undefined> {
  return {
    write: (w, v) => {
      w.uint(v === undefined ? 0n : 1n, 1);
      if (v !== undefined) item.write(w, v);
    },
    read: (r) => {
      const present = r.uint(1);
      if (present > 1n) fail("a presence octet above 1");
      return present === 1n ? item.read(r) : undefined;
    },
  };
}

function struct<F extends Record<string, Codec<any>>>(fields: F): Codec<{ [K in keyof F]: TypeOf<F[K]> }> {
  const entries = Object.entries(fields);
  return {
    write: (w, value) => entries.forEach(([name, codec]) => codec.write(w, value[name])),
    read: (r) => Object.fromEntries(entries.map(([name, codec]) => [name, codec.read(r)])) as any,
  };
}

export type Signature = TypeOf<typeof signature>;
const signature = struct({ signature: opaque });

/** A message whose last field is a signature over all fields before it. */
export interface SignedCodec<T> extends Codec<T & Signature> {
  readonly name: string;
  /** All fields but the signature. */
  readonly unsigned: Codec<T>;
}

function signed<F extends Record<string, Codec<any>>>(
  name: string,
  fields: F,
): SignedCodec<{ [K in keyof F]: TypeOf<F[K]> }> {
  return { ...struct({ ...fields, signature: opaque }), name, unsigned: struct(fields) } as any;
}

/** Draft, "Requesting a migration": what a client sends to the target. */
export const migrationRequest = struct({ sourceDomainName: text, targetDomainName: text, groupId: opaque, epoch });
export type MigrationRequest = TypeOf<typeof migrationRequest>;

/** Draft, "Requesting a migration": the target's offer. */
export const migrationResponse = signed("MigrationResponse", { migrationRequest, nonce });
export type MigrationResponse = TypeOf<typeof migrationResponse>;

/** Draft, "Initiating a migration": what the client sends to the source, signed with its leaf key. */
export const migrationInit = signed("MigrationInit", { migrationResponse });

/** Draft, "Initiating a migration": the authenticated_data of a migration Commit. */
export const migrationCommitAAD = struct({ targetDsDomain: text });

/** Draft, "Initiating a migration": the group on its way from source to target. */
export const migrationContent = signed("MigrationContent", { migrationResponse, groupState: opaque });

/** Draft, "Initiating a migration": the target's vote. */
export const targetMigrationComplete = signed("TargetMigrationComplete", { migrationContentHash: opaque });

/** Profile, section 1: the target's vote in one migration of one term. */
export const migrationVote = signed("MigrationVote", {
  migrationId: opaque32,
  term: epoch,
  migrationContentHash: opaque,
});

/** Draft, "Initiating a migration": the source's decision; domainName is the target (profile, section 1). */
export const migrationConfirmation = signed("MigrationConfirmation", { domainName: text, nonce, groupId: opaque });
export type MigrationConfirmation = TypeOf<typeof migrationConfirmation>;

/** Profile, section 1: the source's other decision. */
export const migrationAbort = signed("MigrationAbort", { migrationId: opaque32, sourceDomain: text });
export type MigrationAbort = TypeOf<typeof migrationAbort>;

/** Profile, section 5: the target's entry for external_senders, which takes the place of the source's. */
export const externalSenderOffer = signed("ExternalSenderOffer", { migrationId: opaque32, externalSender: opaque });
export type ExternalSenderOffer = TypeOf<typeof externalSenderOffer>;

/**
 * Profile, section 10: a server's statement that it hosts the group from an epoch on, in a term that no migration
 * began.
 */
export const lineageClaim = signed("LineageClaim", {
  kind: claimKind,
  domainName: text,
  groupId: opaque,
  term: epoch,
  epoch,
});
export type LineageClaim = TypeOf<typeof lineageClaim>;

/**
 * Profile, section 10: a host's statement that it accepted the Commit to an epoch. commitHash is the Commit's SHA-256.
 */
export const commitReceipt = signed("CommitReceipt", {
  groupId: opaque,
  term: epoch,
  epoch,
  seq: epoch,
  commitHash: opaque32,
});
export type CommitReceipt = TypeOf<typeof commitReceipt>;

/** The most targets of a MoveRequest. */
const MAX_TARGETS = 16;

const targets: Codec<string[]> = {
  write: (w, values) => list(text).write(w, values),
  read: (r) => {
    const values = list(text).read(r);
    return values.length <= MAX_TARGETS ? values : fail(`more than ${MAX_TARGETS} targets`);
  },
};

/** Profile, section 10: a host's request to a member to move a group. */
export const moveRequest = signed("MoveRequest", {
  sourceDomain: text,
  groupId: opaque,
  term: epoch,
  roomId: text,
  userId: text,
  targets,
  expiresAt: epoch,
});
export type MoveRequest = TypeOf<typeof moveRequest>;

/** Profile, section 10: an HTTP request of a device to a Delivery Service, as the device's MLS key signs it. */
export const directRequest = signed("DirectRequest", {
  service: text,
  method: text,
  uri: text,
  bodyHash: opaque32,
  userId: text,
  deviceId: text,
  time: epoch,
  nonce: opaque32,
});
export type DirectRequest = TypeOf<typeof directRequest>;

const archived = struct({ message: opaque, keyId: text, keyObject: opaque });

/**
 * Profile, section 10: a message with the key that a later reader needs to verify it. An absent one is three empty
 * vectors.
 */
export type SignedMessage = TypeOf<typeof archived>;

const maybeSignedMessage: Codec<SignedMessage | undefined> = {
  write: (w, v) => archived.write(w, v ?? { message: new Uint8Array(), keyId: "", keyObject: new Uint8Array() }),
  read: (r) => {
    const v = archived.read(r);
    if (v.message.length === 0 && v.keyId === "" && v.keyObject.length === 0) return undefined;
    return v.message.length > 0 && v.keyId !== "" ? v : fail("a signed message without message or key id");
  },
};

const signedMessage: Codec<SignedMessage> = {
  write: archived.write,
  read: (r) => maybeSignedMessage.read(r) ?? fail("a signed message is missing"),
};

/** Profile, section 10: a group's step to its next Delivery Service. */
export type LineageStep =
  | {
      kind: typeof MIGRATION;
      migrationResponse: SignedMessage;
      migrationConfirmation: SignedMessage;
      migrationVote?: SignedMessage;
    }
  | { kind: typeof RECLAIM | typeof RECOVER; lineageClaim: SignedMessage };

export const lineageStep: Codec<LineageStep> = {
  write: (w, step) => {
    w.uint(BigInt(step.kind), 1);
    if (step.kind !== MIGRATION) return signedMessage.write(w, step.lineageClaim);
    signedMessage.write(w, step.migrationResponse);
    signedMessage.write(w, step.migrationConfirmation);
    maybeSignedMessage.write(w, step.migrationVote);
  },
  read: (r) => {
    const kind = Number(r.uint(1));
    if (kind === RECLAIM || kind === RECOVER) return { kind, lineageClaim: signedMessage.read(r) };
    if (kind !== MIGRATION) fail("a step of unknown kind");
    const migrationResponse = signedMessage.read(r);
    const migrationConfirmation = signedMessage.read(r);
    const migrationVote = maybeSignedMessage.read(r);
    return { kind, migrationResponse, migrationConfirmation, ...(migrationVote && { migrationVote }) };
  },
};

const preimage = struct({ creatingServer: text, roomId: text, nonce: opaque32 });
export type Preimage = TypeOf<typeof preimage>;

const groupIdContent = struct({ label: text, preimage });

/** The id that a server makes from a preimage (profile, section 10). */
export function groupIdOf(made: Preimage): Uint8Array {
  const content = encode(groupIdContent, { label: "MIMI Portability 1.0 GroupID", preimage: made });
  return sha256(content);
}

const anyLineage = struct({
  creatingServer: text,
  preimage: optional(preimage),
  roomId: text,
  steps: list(lineageStep),
});

/** Profile, section 10: the hosts of the group since its creation. The term is the number of steps. */
export type Lineage = TypeOf<typeof anyLineage>;

export const lineage: Codec<Lineage> = {
  write: anyLineage.write,
  read: (r) => {
    const v = anyLineage.read(r);
    const own = v.preimage === undefined || v.preimage.creatingServer === v.creatingServer;
    return own ? v : fail("a preimage of another creating server");
  },
};

/** Profile, section 7: the identity in a leaf's basic credential. */
export const leafIdentity = struct({ userId: name, deviceId: name });
export type LeafIdentity = TypeOf<typeof leafIdentity>;

/** Whether a text is a Matrix server name: a host name or an IP literal, with or without a port, at most 255 bytes. */
export function isServerName(text: string): boolean {
  const [, host = "", port] = /^(\[[^\]]*\]|[^:]*)(?::([0-9]{1,5}))?$/.exec(text) ?? [];
  const literal = /^\[[0-9A-Fa-f:.]+\]$/.test(host) && URL.canParse(`http://${host}`);
  return text.length <= 255 && (literal || /^[A-Za-z0-9.-]+$/.test(host)) && Number(port ?? 0) <= 65535;
}

const signContent = struct({ label: text, content: opaque });

/** SignContent of profile, section 2: what a server signs with its federation key, and a device in a DirectRequest. */
export function signedContent<T>(codec: SignedCodec<T>, message: T): Uint8Array {
  return encode(signContent, {
    label: `MIMI Portability 1.0 ${codec.name}`,
    content: encode(codec.unsigned, message),
  });
}

/** base64url(SHA-256(the MigrationResponse without its signature)) (profile, section 1). */
export function migrationId(response: MigrationResponse): string {
  return toBase64url(sha256(encode(migrationResponse.unsigned, response)));
}

/** How many bytes become text at once: a function takes only so many arguments. */
const CHUNK = 1 << 13;

/** Unpadded standard base64, as in JSON bodies (profile, section 1). */
export function toBase64(b: Uint8Array): string {
  let binary = "";
  for (let i = 0; i < b.length; i += CHUNK) binary += String.fromCharCode(...b.subarray(i, i + CHUNK));
  return unpadded(binary);
}

const unpadded = (binary: string): string => btoa(binary).replace(/=+$/, "");

/** Unpadded base64url, the form of all ids (profile, section 1). */
export function toBase64url(b: Uint8Array): string {
  return toBase64(b).replaceAll("+", "-").replaceAll("/", "_");
}

/** Reads unpadded standard base64. Throws a WireError for anything else. */
export function fromBase64(s: string): Uint8Array {
  try {
    const binary = atob(s);
    const b = new Uint8Array(binary.length);
    for (let i = 0; i < b.length; i++) b[i] = binary.charCodeAt(i); // Uint8Array.from takes more than ten times as long
    if (unpadded(binary) === s) return b;
  } catch {
    // characters that are not base64
  }
  return fail("not unpadded base64");
}

/** Reads unpadded base64url. Throws a WireError for anything else. */
export function fromBase64url(s: string): Uint8Array {
  return /[+/]/.test(s) ? fail("not unpadded base64url") : fromBase64(s.replaceAll("-", "+").replaceAll("_", "/"));
}
