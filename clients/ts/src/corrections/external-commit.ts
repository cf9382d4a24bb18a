// joinGroupExternal of ts-mls 1.6.4 refuses the trees that joinGroup does (see join.ts), and knows a former leaf by its
// signature key only, which a device that has lost its state no longer has.
import type { CiphersuiteImpl, ClientConfig, ClientState, GroupInfo, KeyPackage } from "ts-mls";
import type { PrivateKeyPackage, ProposalOrRef, RatchetTree } from "ts-mls";
import { exportSecret } from "ts-mls/clientState.js";
import { addLeafNode, removeLeafNode } from "ts-mls/ratchetTree.js";
import { type LeafIndex, nodeToLeafIndex } from "ts-mls/treemath.js";
import { type Basis, conclude, type PendingCommit } from "./commit.js";
import { verifyGroup } from "./join.js";
import { must } from "./rules.js";

/**
 * An external Commit (RFC 9420, section 12.4.3.2): joins by the GroupInfo of the current epoch and its tree, in place of the
 * joiner's former leaf if there is one.
 */
export async function createExternalCommit(
  info: GroupInfo,
  tree: RatchetTree,
  formerLeaf: LeafIndex | undefined,
  kp: KeyPackage,
  keys: PrivateKeyPackage,
  cs: CiphersuiteImpl,
  config: ClientConfig,
): Promise<PendingCommit> {
  await verifyGroup(info, tree, cs, config);
  const externalPub = info.extensions.find((e) => e.extensionType === "external_pub");
  must(externalPub !== undefined, "the GroupInfo has no external_pub");
  const { enc, secret: initSecret } = await exportSecret(externalPub.extensionData, cs);
  const [withLeaf, node] = addLeafNode(formerLeaf === undefined ? tree : removeLeafNode(tree, formerLeaf), kp.leafNode);
  const self = nodeToLeafIndex(node);
  const proposals: ProposalOrRef[] = [
    { proposalOrRefType: "proposal", proposal: { proposalType: "external_init", externalInit: { kemOutput: enc } } },
  ];
  if (formerLeaf !== undefined) {
    const remove = { proposalType: "remove" as const, remove: { removed: formerLeaf } };
    proposals.push({ proposalOrRefType: "proposal", proposal: remove });
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
  const { commit, next } = await conclude(basis, proposals, new Uint8Array(), cs);
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
