// The chain of a group's hosts (profile, section 3).
import { isServerName, keysIn, sha256, signedBy, unsigned } from "./keys.js";
import {
  GroupIDPreimage,
  type Lineage,
  LineageClaim,
  LineageStep,
  MigrationConfirmation,
  MigrationRequest,
  MigrationResponse,
  MigrationVote,
  type SignedMessage,
} from "./structures.js";
import { type Of, concat, decode, equal, require, text } from "./wire.js";

export interface Place {
  server: string;
  term: number;
}

/** The inputs besides a lineage: the members of a case in chains.json. */
export interface Knowledge {
  recorded?: Lineage;
  next?: boolean;
  hashed?: boolean;
  source?: string;
  named?: Place;
  own?: string[];
  known?: Record<string, Uint8Array[]>;
  live?: Record<string, Uint8Array>;
  not_asked?: string[];
}

export interface Chain {
  end: Place;
  epoch: bigint;
  stored: Lineage;
  presented: { term: number; server: string; key_id: string }[];
}

/** The error when nobody can ask a server whose key is needed. */
export class Unreachable extends Error {}

const holds = (ok: unknown, why: string) => require(ok, "M_INVALID", why, "lineage");

/** The id of the group that a preimage names. */
export const groupID = (p: Of<typeof GroupIDPreimage>) =>
  sha256(concat(text.write("MIMI Portability 1.0 GroupID"), GroupIDPreimage.write(p)));

export const isRequest = (r: Of<typeof MigrationRequest>) =>
  isServerName(r.source_domain_name) &&
  isServerName(r.target_domain_name) &&
  r.source_domain_name !== r.target_domain_name &&
  r.group_id.length >= 1 &&
  r.group_id.length <= 255;

interface Signature {
  server: string;
  struct: string;
  signed: SignedMessage;
  signature: Uint8Array;
  term: number;
  decider?: string; // of an offer: the server that decided on it
  key?: Uint8Array;
  object?: Uint8Array; // the key object with the key
  unreachable?: boolean; // the server cannot be asked
  closed?: boolean; // no presented key counts
}

/** Reads a lineage: finds its end, and the signatures that must verify. */
function follow(id: Uint8Array, l: Lineage) {
  holds(l.preimage === null || equal(groupID(l.preimage), id), "the preimage of another id");
  holds(isServerName(l.creating_server), "the creating server is none");
  const at = { host: l.creating_server, before: undefined as string | undefined, epoch: 0n };
  const signatures: Signature[] = [];
  const nonces = new Set<string>();
  l.steps.forEach((step, i) => {
    const term = i + 1;
    const go = (host: string, epoch: bigint) => Object.assign(at, { host, before: at.host, epoch });
    if (step.kind === 1) {
      const { migration_response: response, migration_confirmation: confirmation } = step;
      const offer = decode(MigrationResponse, response.message);
      const decision = decode(MigrationConfirmation, confirmation.message);
      const r = offer.migration_request;
      const nonce = Buffer.from(offer.nonce).toString("hex");
      holds(isRequest(r), "an invalid request");
      holds(decision.domain_name === r.target_domain_name, "a decision for another target");
      holds(equal(decision.nonce, offer.nonce) && equal(decision.group_id, r.group_id), "another decision");
      holds(r.source_domain_name === at.host && equal(r.group_id, id), "a step from elsewhere");
      holds(!nonces.has(nonce) && r.epoch >= at.epoch, "a nonce twice, or epochs that do not rise");
      nonces.add(nonce);
      const target = { server: r.target_domain_name, struct: "MigrationResponse", signed: response, term };
      const source = { server: at.host, struct: "MigrationConfirmation", signed: confirmation, term };
      signatures.push({ ...target, signature: offer.signature, decider: at.host });
      signatures.push({ ...source, signature: decision.signature });
      return go(r.target_domain_name, r.epoch + 1n);
    }
    const signed: SignedMessage = step["lineage_claim"];
    const claim = decode(LineageClaim, signed.message);
    holds(isServerName(claim.domain_name), "a claim by nobody");
    holds(claim.kind === step.kind && claim.term === BigInt(term) && equal(claim.group_id, id), "another claim");
    holds(step.kind === 3 || [at.host, at.before].includes(claim.domain_name), "reclaimed by another");
    holds(claim.epoch >= at.epoch, "epochs do not rise");
    signatures.push({ server: claim.domain_name, struct: "LineageClaim", signed, signature: claim.signature, term });
    return go(claim.domain_name, claim.epoch);
  });
  return { end: { server: at.host, term: l.steps.length }, epoch: at.epoch, signatures };
}

type Step = Of<typeof LineageStep>;

/** The message of a step. Two steps with the same message are the same step. */
const essence = (step: Step): Uint8Array => (step["migration_response"] ?? step["lineage_claim"]).message;

function continues(recorded: Lineage, l: Lineage): boolean {
  const both = Math.min(recorded.steps.length, l.steps.length);
  return (
    recorded.creating_server === l.creating_server &&
    l.steps.slice(0, both).every((s, i) => equal(essence(s), essence(recorded.steps[i]!)))
  );
}

/** Checks a lineage of a group. Returns its end, and the keys that it depends on. */
export function verifyLineage(id: Uint8Array, lineage: Lineage, k: Knowledge): Chain {
  const recorded = k.recorded;
  holds(lineage.preimage || !(k.hashed || recorded?.preimage), "the preimage is missing");
  holds(!recorded || continues(recorded, lineage), "not the recorded lineage");
  const l = structuredClone(lineage);
  let way = follow(id, l);
  if (k.next) {
    l.steps = l.steps.slice(0, (recorded?.steps.length ?? 0) + 1);
    way = follow(id, l);
  }
  const open = way.signatures.filter((s) => !isRecorded(s, recorded?.steps[s.term - 1]));
  const named = k.named?.server === way.end.server && k.named.term === way.end.term;
  const least = (s: Signature) =>
    s.server === k.source ? "live" : named || (s.decider && k.own?.includes(s.decider)) ? "presented" : "known";
  lookUp(open, least, k);
  const presented = open.filter((s) => {
    if (s.key) return false;
    if (least(s) === "presented" && !s.closed && tryKey(s, s.signed.key_object)) return true;
    if (s.unreachable) throw new Unreachable(`${s.server} cannot be asked`);
    return holds(false, `a signature of ${s.server} that no key verifies`);
  });
  open.forEach((s) => clean(s, l.steps[s.term - 1]!));
  l.steps = l.steps.map((s, i) => recorded?.steps[i] ?? s);
  const uses = presented.map((s) => ({ term: s.term, server: s.server, key_id: s.signed.key_id }));
  return { end: way.end, epoch: way.epoch, stored: l, presented: uses };
}

/** The room's state: the claim that its pointer names, in hexadecimal, and the successors that count. */
export interface Word {
  claim_hash?: string;
  successors?: string[];
}

/** The number of common steps of two lineages, and the lineage that all servers choose if they differ. */
export function prefer(first: Lineage, second: Lineage, word: Word): [at: number, preferred: string] {
  const at = first.steps.findIndex((s, i) => !second.steps[i] || !equal(essence(s), essence(second.steps[i]!)));
  const [a, b] = [first, second].map((l) => l.steps.slice(at).map((s) => rank(s, word))) as [number[][], number[][]];
  const best = (ranks: number[][]) => (ranks.some(([named]) => named === 0) ? [0] : ranks[0]!);
  const less = (x: number[], y: number[]) => {
    const i = x.findIndex((v, i) => v !== y[i]);
    return i >= 0 && i < y.length && x[i]! < y[i]!;
  };
  const counts = (l: Lineage) => l.steps[at]!.kind !== 1 || l.steps[at]!["migration_vote"];
  if (less(best(a), best(b)) && (best(a)[0] === 0 || counts(first))) return [at, "first"];
  return [at, less(best(b), best(a)) && (best(b)[0] === 0 || counts(second)) ? "second" : "neither"];
}

/** The rank of a step among others: by the pointer, then by its kind, then by the list of successors. */
function rank(step: Step, { claim_hash, successors = [] }: Word): number[] {
  if (step.kind === 1) return [1, 1, 0];
  const claim: SignedMessage = step["lineage_claim"];
  const named = Buffer.from(sha256(claim.message)).toString("hex") === claim_hash;
  const listed = successors.indexOf(decode(LineageClaim, claim.message).domain_name);
  const place = step.kind === 3 && listed >= 0 ? listed : successors.length;
  return [named ? 0 : 1, step.kind, place];
}

/** Whether a recorded step contains the same signature. */
function isRecorded(s: Signature, step: Step | undefined): boolean {
  const parts: SignedMessage[] = step
    ? [step["migration_response"], step["migration_confirmation"], step["lineage_claim"]].filter((p) => p)
    : [];
  return parts.some((p) => p.key_id === s.signed.key_id && equal(p.message, s.signed.message));
}

/** Looks for a signature's key in a key object: true, false, or undefined if the object has no key with its id. */
function tryKey(s: Signature, object: Uint8Array): boolean | undefined {
  const key = keysIn(s.server, object)?.get(s.signed.key_id);
  if (!key) return undefined;
  if (!signedBy(key, s.struct, s.signed.message, s.signature)) return false;
  Object.assign(s, { key, object });
  return true;
}

/** Finds known keys, then asks at most eight servers for live keys, first the servers whose key must be live. */
function lookUp(open: Signature[], least: (s: Signature) => string, k: Knowledge) {
  for (const s of open.filter((s) => least(s) !== "live")) {
    for (const object of k.known?.[s.server] ?? []) s.closed ||= tryKey(s, object) === false;
  }
  const missing = open.filter((s) => !s.key);
  const inTurn = ["live", "known", "presented"].flatMap((origin) => missing.filter((s) => least(s) === origin));
  const asked = [...new Set(inTurn.map((s) => s.server))].slice(0, 8);
  for (const s of missing) {
    const object = k.live?.[s.server];
    if (asked.includes(s.server) && k.not_asked?.includes(s.server)) s.closed = true;
    else if (!object || !asked.includes(s.server)) s.unreachable = true;
    else tryKey(s, object);
  }
}

/** Removes the key object and the vote beside a signature if they prove nothing. */
function clean(s: Signature, step: Step) {
  const beside = keysIn(s.server, s.signed.key_object)?.get(s.signed.key_id);
  if (!beside || !equal(beside, s.key!)) s.signed.key_object = s.object!;
  const vote: SignedMessage | undefined = step["migration_vote"];
  if (s.struct !== "MigrationResponse" || !vote) return;
  if (isVote(vote, s)) vote.key_object = s.signed.key_object;
  else step["migration_vote"] = undefined;
}

/** Whether a message is the target's vote in the migration of an offer and its term, under the key of the offer. */
function isVote(vote: SignedMessage, offer: Signature): boolean {
  try {
    const { migration_id, term, signature } = decode(MigrationVote, vote.message);
    const id = sha256(unsigned(offer.signed.message, offer.signature));
    const named = equal(migration_id, id) && term === BigInt(offer.term) && vote.key_id === offer.signed.key_id;
    return named && signedBy(offer.key!, "MigrationVote", vote.message, signature);
  } catch {
    return false; // it does not decode
  }
}
