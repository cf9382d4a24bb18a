// joinGroupExternal of ts-mls 1.6.4 refuses the same trees as joinGroup (see tree.ts). It finds a former leaf by its
// signature key only, and a device that has lost its state does not have that key.
import type { CiphersuiteImpl, ClientConfig, ClientState, GroupInfo, KeyPackage } from "ts-mls";
import type { PrivateKeyPackage, ProposalOrRef, RatchetTree } from "ts-mls";
import { exportSecret } from "ts-mls/clientState.js";
import { addLeafNode, removeLeafNode } from "ts-mls/ratchetTree.js";
import { type LeafIndex, nodeToLeafIndex, toLeafIndex } from "ts-mls/treemath.js";
import { type Basis, conclude, type PendingCommit } from "./commit.js";
import { externalPub } from "./external-pub.js";
import { verifyGroup, type Work } from "./join.js";
import { type SelfRemove, selfRemoveRef } from "./self-remove.js";

/**
 * An external Commit (RFC 9420, section 12.4.3.2). It joins by the GroupInfo and the tree of the current epoch. It
 * removes the joiner's former leaf if there is one, and commits the given SelfRemoves.
 */
export async function createExternalCommit(
  info: GroupInfo,
  encodedTree: Uint8Array,
  formerLeafIn: (tree: RatchetTree) => LeafIndex | undefined,
  leaving: SelfRemove[],
  kp: KeyPackage,
  keys: PrivateKeyPackage,
  cs: CiphersuiteImpl,
  config: ClientConfig,
  work: Work,
): Promise<PendingCommit> {
  const tree = await verifyGroup(info, encodedTree, cs, work);
  const formerLeaf = formerLeafIn(tree);
  const { enc, secret: initSecret } = await exportSecret(externalPub(info), cs);
  const others = leaving.filter((m) => m.leaf !== formerLeaf); // the Remove of the former leaf suffices
  const gone = [...others.map((m) => toLeafIndex(m.leaf)), ...(formerLeaf === undefined ? [] : [formerLeaf])];
  const [withLeaf, node] = addLeafNode(gone.reduce(removeLeafNode, tree), kp.leafNode);
  const self = nodeToLeafIndex(node);
  const proposals: ProposalOrRef[] = [
    { proposalOrRefType: "proposal", proposal: { proposalType: "external_init", externalInit: { kemOutput: enc } } },
  ];
  if (formerLeaf !== undefined) {
    const remove = { proposalType: "remove" as const, remove: { removed: formerLeaf } };
    proposals.push({ proposalOrRefType: "proposal", proposal: remove });
  }
  for (const m of others) {
    const reference = await selfRemoveRef(info.groupContext, tree, m, cs);
    proposals.push({ proposalOrRefType: "reference", reference });
  }
  const basis: Basis = {
    context: info.groupContext,
    confirmationTag: info.confirmationTag,
    signKey: keys.signaturePrivateKey,
    sender: { senderType: "new_member_commit" },
    self,
    tree: withLeaf,
    extensions: info.groupContext.extensions,
    newLeaves: [],
    initSecret,
    pskSecret: new Uint8Array(cs.kdf.size),
    membershipKey: new Uint8Array(),
    keys: { leafIndex: self, privateKeys: {} },
  };
  const { commit, next } = await conclude(basis, proposals, new Uint8Array(), cs, work.pace);
  const newState: ClientState = {
    ...next,
    signaturePrivateKey: keys.signaturePrivateKey,
    unappliedProposals: {},
    historicalReceiverData: new Map(),
    groupActiveState: { kind: "active" },
    clientConfig: config,
  };
  return { commit, welcome: undefined, newState };
}
