// Receipts of a Delivery Service for accepted Commits, and their consequences (profile, section 3).
import { same, sha256 } from "./bytes.js";
import type { Claimed, KnownCommit, LogMessage, Signed } from "./ds.js";
import type { Group } from "./group.js";
import { type CommitReceipt, commitReceipt, decode, fromBase64, lineageClaim, toBase64 } from "./wire.js";

export const receiptIn = ({ message }: Signed): CommitReceipt => decode(commitReceipt, fromBase64(message));

/** The latest receipt of the present term. */
function latest(g: Group): CommitReceipt | undefined {
  const receipt = g.receipt && receiptIn(g.receipt);
  return receipt && Number(receipt.term) === g.term ? receipt : undefined;
}

/** The fields that a server compares before it accepts a message; empty without a receipt. */
export function known(g: Group): { known?: KnownCommit } {
  const receipt = latest(g);
  return receipt ? { known: { epoch: Number(receipt.epoch), commit_hash: toBase64(receipt.commitHash) } } : {};
}

/** Whether a server in this epoch must have forgotten the Commit of the latest receipt, or accepted another. */
export function isForgotten(g: Group, epoch: number): boolean {
  const receipt = latest(g);
  return receipt !== undefined && epoch <= Number(receipt.epoch);
}

/** Whether a claim continues from an epoch before the Commit of the latest receipt. */
export function isLost(g: Group, claim: Claimed): boolean {
  const { epoch } = decode(lineageClaim, fromBase64(claim.lineage_claim));
  return g.receipt !== undefined && epoch < receiptIn(g.receipt).epoch;
}

/** The news in a genuine receipt: none, a later Commit, or a second Commit for one epoch. */
export type News = undefined | "later" | "fork";

/** The news in a receipt that came with a message. One for anything else tells nothing. */
export function news(g: Group, receipt: CommitReceipt, of: Pick<LogMessage, "seq" | "message">): News {
  const { seq, message = "" } = of;
  const hash = sha256(fromBase64(message));
  const fits = same(receipt.groupId, g.id) && same(receipt.commitHash, hash) && Number(receipt.seq) === seq;
  if (!fits || Number(receipt.term) !== g.term) return undefined;
  const before = latest(g);
  if (before === undefined || before.epoch < receipt.epoch) return "later";
  return before.epoch === receipt.epoch && !same(before.commitHash, receipt.commitHash) ? "fork" : undefined;
}
