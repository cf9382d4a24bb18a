// applyProposals of ts-mls 1.6.4
// - takes an empty list of extensions for none. RFC 9420, section 12.1.7: "This is a wholesale replacement, not a
//   merge."
// - demands no path for GroupContextExtensions, which section 17.4 of RFC 9420 does;
// - does not tell a member that an external Commit removes its leaf;
// - passes over SelfRemoves. A Commit with one needs a path, and applies it after Updates and before Removes
//   (draft-ietf-mls-extensions, "SelfRemove").
import { bytesToBase64, type CiphersuiteImpl, type ClientState, type KeyPackage, makePskIndex } from "ts-mls";
import type { Proposal, ProposalOrRef, ProposalWithSender, RatchetTree, Reinit } from "ts-mls";
import { applyProposals as originalApplyProposals } from "ts-mls/clientState.js";
import type { Extension } from "ts-mls/extension.js";
import { removeLeafNode } from "ts-mls/ratchetTree.js";
import { type LeafIndex, leafToNodeIndex, toLeafIndex } from "ts-mls/treemath.js";
import { byName, opaqueSenders } from "./external-senders.js";
import { must } from "./rules.js";
import { isSelfRemove } from "./self-remove.js";

/** The effect of a Commit's proposals on a group. */
export interface Applied {
  tree: RatchetTree;
  extensions: Extension[];
  added: [LeafIndex, KeyPackage][];
  pskSecret: Uint8Array;
  pathRequired: boolean;
  /** Whether the caller's leaf is gone. */
  removed: boolean;
  /** Of an external Commit: the new leaf, and the secret that replaces the init secret. */
  joiner?: { leaf: LeafIndex; initSecret: Uint8Array };
  reinit?: Reinit;
}

const removedBy = (p: Proposal) => (p.proposalType === "remove" ? p.remove.removed : undefined);

/**
 * Applies the proposals of a Commit: of the caller's own Commit (`making`) or of a received one. For a joiner,
 * committer is undefined.
 */
export async function applyProposals(
  state: ClientState,
  proposals: ProposalOrRef[],
  committer: LeafIndex | undefined,
  making: boolean,
  cs: CiphersuiteImpl,
): Promise<Applied> {
  const resolve = (p: ProposalOrRef): ProposalWithSender => {
    if (p.proposalOrRefType === "proposal") return { proposal: p.proposal, senderLeafIndex: committer };
    const pending = state.unappliedProposals[bytesToBase64(p.reference)];
    must(pending !== undefined, "no such proposal");
    return pending;
  };
  const isLeaving = (p: ProposalOrRef) => isSelfRemove(resolve(p).proposal);
  must(
    proposals.every((p) => !isLeaving(p) || p.proposalOrRefType === "reference"),
    "a SelfRemove by value",
  );
  const leavers = proposals.filter(isLeaving).map((p) => toLeafIndex(resolve(p).senderLeafIndex!));
  const others = proposals.filter((p) => !isLeaving(p));
  must(committer === undefined || !leavers.includes(committer), "the committer leaves");
  for (const { proposal, senderLeafIndex: sender } of others.map(resolve)) {
    const leaf = proposal.proposalType === "update" ? sender : removedBy(proposal);
    must(leaf === undefined || !leavers.includes(toLeafIndex(leaf)), "two proposals for one leaf");
    must(leavers.length === 0 || proposal.proposalType !== "reinit", "a ReInit beside another proposal");
  }
  must(new Set(leavers).size === leavers.length, "two proposals for one leaf");
  const opaque = ([ref, p]: [string, ProposalWithSender]) =>
    [ref, { ...p, proposal: opaqueSenders(p.proposal) }] as const;
  const before: ClientState = {
    ...state,
    ratchetTree: leavers.reduce(removeLeafNode, state.ratchetTree),
    unappliedProposals: Object.fromEntries(Object.entries(state.unappliedProposals).map(opaque)),
  };
  const values = others.map(
    (p): ProposalOrRef => (p.proposalOrRefType === "proposal" ? { ...p, proposal: opaqueSenders(p.proposal) } : p),
  );
  const psks = makePskIndex(state, {});
  const applied = await originalApplyProposals(before, values, committer, psks, making, cs);
  const { tree, pskSecret, needsUpdatePath, allProposals, additionalResult } = applied;
  const changes = allProposals.flatMap(({ proposal: p }) =>
    p.proposalType === "group_context_extensions" ? [p.groupContextExtensions.extensions.map(byName)] : [],
  );
  return {
    tree,
    pskSecret,
    extensions: changes[0] ?? state.groupContext.extensions,
    added: additionalResult.kind === "memberCommit" ? additionalResult.addedLeafNodes : [],
    pathRequired: needsUpdatePath || leavers.length > 0 || changes.length > 0,
    removed: tree[leafToNodeIndex(toLeafIndex(state.privatePath.leafIndex))] === undefined,
    ...(additionalResult.kind === "reinit" && { reinit: additionalResult.reinit }),
    ...(additionalResult.kind === "externalCommit" && {
      joiner: { leaf: additionalResult.newMemberLeafIndex, initSecret: additionalResult.externalInitSecret },
    }),
  };
}
