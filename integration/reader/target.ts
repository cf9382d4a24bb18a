// An offline target: it checks a MigrationContent and takes the group (profile, sections 3 to 6).
import { verifyLineage } from "./chain.js";
import { keysIn, sha256, signedBy } from "./keys.js";
import { type Covered, ExternalSender, ExternalSenders, Group, readHandshake, readMessage } from "./mls.js";
import {
  CommitReceipt,
  GroupState,
  type Joiners,
  LeafIdentity,
  type LogEntry,
  MigrationCommitAAD,
  MigrationContent,
  MigrationResponse,
} from "./structures.js";
import { decode, equal, require } from "./wire.js";

export interface Offer {
  response: Uint8Array; // the target's MigrationResponse
  user: string;
  roomID: string;
  externalSender: Uint8Array; // the target's entry
  live: Record<string, Uint8Array>; // key objects, by server
}

/** The group that a target takes from a content. */
export interface Staged {
  hash: Uint8Array;
  term: number;
  group: Group;
  members: string[];
  log: Served[]; // the log of the former terms, with the migration Commit at its end
}

/** An entry of the log as members read it, without the message. */
export interface Served {
  term: bigint;
  seq: bigint;
  epoch: bigint;
  kind: string;
  sender: string;
}

const invalid = (ok: unknown, why: string, rule?: string) => require(ok, "M_INVALID", why, rule);
const identity = (of: { credential: { identity: Uint8Array } }) => Buffer.from(of.credential.identity).toString();
const userOf = (leaf: { credential: { identity: Uint8Array } }) =>
  decode(LeafIdentity, leaf.credential.identity).user_id;

export function stage(offer: Offer, data: Uint8Array, keyID: string): Staged {
  const content = decode(MigrationContent, data);
  const response = content.migration_response;
  const { source_domain_name: source, target_domain_name: target, group_id, epoch } = response.migration_request;
  invalid(equal(MigrationResponse.write(response), offer.response), "another offer");
  const key = keysIn(source, offer.live[source] ?? new Uint8Array())?.get(keyID);
  const genuine = key && signedBy(key, "MigrationContent", data, content.signature);
  require(genuine, "M_BAD_SIGNATURE", "the content's signature does not verify");

  const state = decode(GroupState, content.group_state);
  const { lineage } = state;
  invalid(lineage.room_id === offer.roomID, "another room", "lineage");
  require(lineage.preimage, "M_FORBIDDEN", "a foreign id, and the room names none");
  const chain = verifyLineage(group_id, lineage, { source, live: offer.live });
  invalid(chain.end.server === source && epoch >= chain.epoch, "the chain ends elsewhere", "lineage");

  require(state.base.protocol === "mls10", "M_UNSUPPORTED", "another protocol");
  const base = Group.open(state.base.group_info, state.base.ratchet_tree);
  invalid(equal(base.context.group_id, group_id) && base.context.epoch === epoch, "another group or epoch");
  for (const p of state.proposals) base.propose(p);
  const commit = base.commit(state.commit.commit, state.commit.group_info);
  requireMigrationCommit(base, commit, source, target, offer.externalSender);
  require(userOf(commit.before) === offer.user, "M_FORBIDDEN", "the Commit is another user's");
  const log = formerLog(state, offer, group_id, epoch, BigInt(chain.end.term));
  const members = commit.next.tree.leaves().map(([, leaf]) => userOf(leaf));
  return { hash: sha256(data), term: chain.end.term + 1, group: commit.next, members, log };
}

type Commit = ReturnType<Group["commit"]>;

/** Profile, section 5. */
function requireMigrationCommit(base: Group, c: Commit, source: string, target: string, entry: Uint8Array) {
  const rule = "migration-commit";
  invalid(c.committer.type === 1 && c.hasPath, "not a Commit of a member with a path", rule);
  invalid(equal(c.aad, MigrationCommitAAD.write({ target_ds_domain: target })), "another target", rule);
  const own = base.externalSenders().map(identity);
  for (const p of base.pending.values()) {
    if (p.sender.type !== 2 || p.proposal.type !== 3 || own[p.sender.index] !== source) continue;
    const { removed } = p.proposal as Record<string, any>;
    const gone = c.covered.some((x) => x.proposal.type === 3 && x.proposal["removed"] === removed);
    invalid(gone && removed !== c.committer.index, `leaf ${removed} must go`, "pending-remove");
  }
  const swap = (x: Covered) => x.byValue && x.proposal.type === 7;
  invalid(!c.covered.some((x) => x.byValue && !swap(x)), "a proposal by value", rule);
  const swaps = own.includes(source) ? 1 : 0;
  invalid(c.covered.filter(swap).length === swaps, "the entry is not handed over", "external-senders");
  const wanted = swaps ? swapped(base, source, target, entry) : base.externalSenders();
  const same = equal(ExternalSenders.write(c.next.externalSenders()), ExternalSenders.write(wanted));
  invalid(same && othersKept(base, c.next), "external_senders are others", "external-senders");
}

/** external_senders with the target's entry in place of the source's first one, without further entries of either. */
function swapped(base: Group, source: string, target: string, entry: Uint8Array) {
  const before = base.externalSenders();
  const first = before.findIndex((e) => identity(e) === source);
  return before.flatMap((e, i) => {
    if (i === first) return [decode(ExternalSender, entry)];
    return [source, target].includes(identity(e)) ? [] : [e];
  });
}

/** Whether all extensions except external_senders are the same, in the same order. */
function othersKept(base: Group, next: Group): boolean {
  const [a, b] = [base.context.extensions, next.context.extensions];
  return (
    a.length === b.length && a.every((e, i) => e.type === b[i]!.type && (e.type === 5 || equal(e.data, b[i]!.data)))
  );
}

/** The log that T serves of former terms, with the migration Commit at its end (profile, section 4). */
function formerLog(state: GroupState, offer: Offer, groupID: Uint8Array, epoch: bigint, term: bigint): Served[] {
  const seen = new Set([Buffer.from(sha256(state.commit.commit)).toString("hex")]);
  const handshakes = state.log.map((e): Served => {
    invalid(readMessage(e.message).format === 1, "not a handshake");
    const m = readHandshake(e.message);
    invalid(equal(m.group_id, groupID) && m.epoch === e.epoch && e.epoch <= epoch, "another group or epoch");
    const hash = Buffer.from(sha256(e.message)).toString("hex");
    invalid(!seen.has(hash), "a message twice");
    seen.add(hash);
    invalid(e.term <= term, "a later term");
    invalid(e.receipt.length === 0 || isReceiptOf(e, groupID), "another receipt");
    const kind = m.content.type === 3 ? "commit" : "proposal";
    return { term: e.term, seq: e.seq, epoch: e.epoch, kind, sender: e.sender };
  });
  const log = handshakes.flatMap((e, i) => [e, ...welcomeAfter(e, handshakes[i + 1]?.epoch ?? epoch, state.welcomes)]);
  const last = log.at(-1);
  const seq = last?.term === term ? last.seq + 1n : 1n;
  const commit = { term, seq, epoch, kind: "commit", sender: offer.user };
  log.push(commit, ...welcomeAfter(commit, epoch + 1n, state.welcomes));
  const welcomes = log.filter((e) => e.kind === "welcome").length;
  invalid(welcomes === state.welcomes.length, "a Welcome without its Commit");
  const ascends = (a: Served, b: Served) => a.term < b.term || a.seq < b.seq;
  invalid(
    log.every((e, i) => i === 0 || ascends(log[i - 1]!, e)),
    "no number for a Welcome",
  );
  return log;
}

function isReceiptOf(e: LogEntry, groupID: Uint8Array): boolean {
  const r = decode(CommitReceipt, e.receipt);
  const place = r.term === e.term && r.seq === e.seq && r.epoch === e.epoch + 1n;
  return place && equal(r.group_id, groupID) && equal(r.commit_hash, sha256(e.message));
}

/** The Welcome after the last message of an epoch, which is its Commit. next is the epoch of the message after it. */
function welcomeAfter(e: Served, next: bigint, welcomes: Joiners[]): Served[] {
  const found = e.epoch < next && welcomes.some((w) => w.epoch === e.epoch + 1n);
  return found ? [{ ...e, seq: e.seq + 1n, epoch: e.epoch + 1n, kind: "welcome" }] : [];
}
