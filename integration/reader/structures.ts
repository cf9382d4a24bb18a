// The structures of the draft and of the profile, section 10.
import {
  type Codec,
  type Of,
  bytes,
  checked,
  concat,
  decode,
  digest,
  equal,
  fixed,
  list,
  message,
  name,
  optional,
  require,
  select,
  struct,
  text,
  u16,
  u64,
  u8,
} from "./wire.js";

export const MigrationRequest = struct({
  source_domain_name: text,
  target_domain_name: text,
  group_id: bytes,
  epoch: u64,
});
export const MigrationResponse = struct({ migration_request: MigrationRequest, nonce: fixed(32), signature: bytes });
export const MigrationInit = struct({ migration_response: MigrationResponse, signature: bytes });
export const MigrationCommitAAD = struct({ target_ds_domain: text });
export const MigrationContent = struct({ migration_response: MigrationResponse, group_state: bytes, signature: bytes });
export const TargetMigrationComplete = struct({ migration_content_hash: bytes, signature: bytes });
export const MigrationVote = struct({
  migration_id: digest,
  term: u64,
  migration_content_hash: bytes,
  signature: bytes,
});
export const MigrationConfirmation = struct({
  domain_name: text,
  nonce: fixed(32),
  group_id: bytes,
  signature: bytes,
});
export const MigrationAbort = struct({ migration_id: digest, source_domain: text, signature: bytes });
export const ExternalSenderOffer = struct({ migration_id: digest, external_sender: message, signature: bytes });
export const MoveRequest = struct({
  source_domain: text,
  group_id: bytes,
  term: u64,
  room_id: text,
  user_id: text,
  targets: checked(list(text), (v) => v.length <= 16, "more than 16 targets"),
  expires_at: u64,
  signature: bytes,
});
export const LeafIdentity = struct({ user_id: name, device_id: name });
export const GroupIDPreimage = struct({ creating_server: text, room_id: text, nonce: digest });
export const CommitReceipt = struct({
  group_id: bytes,
  term: u64,
  epoch: u64,
  seq: u64,
  commit_hash: digest,
  signature: bytes,
});
export const LineageClaim = struct({
  kind: checked(u8, (kind) => kind === 2 || kind === 3, "a claim of unknown kind"),
  domain_name: text,
  group_id: bytes,
  term: u64,
  epoch: u64,
  signature: bytes,
});
export const DirectRequest = struct({
  service: text,
  method: text,
  uri: text,
  body_hash: digest,
  user_id: text,
  device_id: text,
  time: u64,
  nonce: digest,
  signature: bytes,
});

export const SignedMessage = struct({ message, key_id: name, key_object: bytes });
export type SignedMessage = Of<typeof SignedMessage>;

const absent = new Uint8Array(3);

/** A vote: a SignedMessage, or three empty vectors for an unknown vote. */
const vote: Codec<SignedMessage | undefined> = {
  read: (r) => {
    if (!equal(r.data.subarray(r.at, r.at + 3), absent)) return SignedMessage.read(r);
    r.take(3);
    return undefined;
  },
  write: (v) => (v === undefined ? absent : SignedMessage.write(v)),
};
const claim = struct({ lineage_claim: SignedMessage });
export const LineageStep = select("kind", u8, {
  1: struct({
    migration_response: SignedMessage,
    migration_confirmation: SignedMessage,
    migration_vote: vote,
  }),
  2: claim,
  3: claim,
});
export const Lineage = checked(
  struct({
    creating_server: text,
    preimage: optional(GroupIDPreimage),
    room_id: text,
    steps: list(LineageStep),
  }),
  (l) => l.preimage === null || l.preimage.creating_server === l.creating_server,
  "a preimage of another creating server",
);
export type Lineage = Of<typeof Lineage>;

const Section = struct({ type: u16, data: bytes });
const Base = struct({ protocol: text, group_info: message, ratchet_tree: bytes });
const Commit = struct({ commit: message, group_info: message });
const Joiners = struct({ epoch: u64, ratchet_tree: bytes, welcome: message, identities: list(LeafIdentity) });
const LogEntry = checked(
  struct({
    term: u64,
    seq: u64,
    epoch: u64,
    sender: text,
    message,
    receipt: bytes,
    receipt_key_id: text,
  }),
  (e) => e.seq > 0n && Buffer.byteLength(e.sender) <= 255 && (e.receipt.length === 0) === (e.receipt_key_id === ""),
  "a message of the log without a number, with a long sender, or a receipt without a key id",
);
export type LogEntry = Of<typeof LogEntry>;
export type Joiners = Of<typeof Joiners>;

const ascending = <T>(list: T[], less: (a: T, b: T) => boolean) =>
  list.every((v, i) => i === 0 || less(list[i - 1]!, v));

interface Part {
  type: number;
  key: string;
  codec: Codec<any>;
  needed: boolean; // whether the section is present even if empty
}
const parts: Part[] = [
  { type: 0x8001, key: "base", codec: Base, needed: true },
  { type: 0x8002, key: "commit", codec: Commit, needed: true },
  { type: 0x8003, key: "proposals", codec: list(message), needed: true },
  { type: 0x8004, key: "lineage", codec: Lineage, needed: true },
  {
    type: 5,
    key: "welcomes",
    codec: checked(list(Joiners), (l) => ascending(l, (a, b) => a.epoch < b.epoch), "epochs out of order"),
    needed: false,
  },
  {
    type: 6,
    key: "log",
    codec: checked(list(LogEntry), inOrder, "terms, numbers or epochs out of order"),
    needed: false,
  },
];

function inOrder(log: LogEntry[]): boolean {
  return ascending(log, (a, b) => a.epoch <= b.epoch && (a.term < b.term || (a.term === b.term && a.seq < b.seq)));
}

export interface GroupState {
  base: Of<typeof Base>;
  commit: Of<typeof Commit>;
  proposals: Uint8Array[];
  lineage: Lineage;
  welcomes: Joiners[];
  log: LogEntry[];
  unknown: Of<typeof Section>[];
}

export const GroupState: Codec<GroupState> = {
  read: (r) => {
    const version = u16.read(r);
    require(version === 1, "M_UNSUPPORTED", `version ${version}`);
    const found = list(Section).read(r);
    require(ascending(found, (a, b) => a.type < b.type), "M_BAD_MESSAGE", "sections out of order");
    const unknown = found.filter((s) => !parts.some((p) => p.type === s.type));
    require(unknown.every((s) => s.type < 0x8000), "M_UNSUPPORTED", "an unknown critical section");
    const state = parts.map(({ type, key, codec, needed }) => {
      const section = found.find((s) => s.type === type);
      require(section || !needed, "M_BAD_MESSAGE", `no ${key}`);
      const value = section ? decode(codec, section.data) : [];
      require(needed || !section || value.length > 0, "M_BAD_MESSAGE", `an empty ${key}`);
      return [key, value];
    });
    return { ...Object.fromEntries(state), unknown };
  },
  write: (v: Record<string, any>) => {
    const known = parts
      .filter((p) => p.needed || v[p.key].length > 0)
      .map((p) => ({ type: p.type, data: p.codec.write(v[p.key]) }));
    return concat(u16.write(1), list(Section).write([...known, ...v["unknown"]].sort((a, b) => a.type - b.type)));
  },
};

/** All structures that have vectors, by their names. */
export const structures: Record<string, Codec<any>> = {
  MigrationRequest,
  MigrationResponse,
  MigrationInit,
  MigrationCommitAAD,
  MigrationContent,
  TargetMigrationComplete,
  MigrationVote,
  MigrationConfirmation,
  MigrationAbort,
  ExternalSenderOffer,
  MoveRequest,
  LeafIdentity,
  LineageStep,
  LineageClaim,
  Lineage,
  CommitReceipt,
  DirectRequest,
  GroupState,
};
