// ts-mls 1.6.4 refuses a tree in which two nodes of one direct path list different unmerged leaves. RFC 9420, section
// 12.4.3.1: "Verify that every non-blank intermediate node between the leaf node and the parent node also has an entry
// for the leaf node in its unmerged_leaves." The rule does not cover nodes above the parent. It also verifies one
// signature after another, and hashes a quadratic number of nodes (see tree-hash.ts).
import type { CiphersuiteImpl, ClientConfig, ClientState, GroupInfo, KeyPackage } from "ts-mls";
import { makePskIndex, type PrivateKeyPackage, type RatchetTree, type Welcome } from "ts-mls";
import { validateLeafNodeUpdateOrCommit } from "ts-mls/clientState.js";
import {
  ratchetTreeFromExtension,
  verifyGroupInfoConfirmationTag,
  verifyGroupInfoSignature,
} from "ts-mls/groupInfo.js";
import { makeKeyPackageRef } from "ts-mls/keyPackage.js";
import { deriveKeySchedule } from "ts-mls/keySchedule.js";
import { type LeafNode, verifyLeafNodeSignatureKeyPackage } from "ts-mls/leafNode.js";
import { pathToRoot } from "ts-mls/pathSecrets.js";
import { mergePrivateKeyPaths, toPrivateKeyPath } from "ts-mls/privateKeyPath.js";
import { accumulatePskSecret } from "ts-mls/pskIndex.js";
import { encodeNode, getHpkePublicKey } from "ts-mls/ratchetTree.js";
import { directPath, isLeaf, type LeafIndex, leafToNodeIndex, leafWidth } from "ts-mls/treemath.js";
import { nodeToLeafIndex, toLeafIndex, toNodeIndex } from "ts-mls/treemath.js";
import { firstCommonAncestor } from "ts-mls/updatePath.js";
import { decryptGroupInfo, decryptGroupSecrets } from "ts-mls/welcome.js";
import { same, toHex } from "../bytes.js";
import type { Pace } from "../pace.js";
import { must } from "./rules.js";
import { createSecretTree } from "./secret-tree.js";
import { rootOf, treeHasher } from "./tree-hash.js";

/** The error of joinGroup when the Welcome has no tree. */
export const NO_TREE = "no ratchet tree";

/** How many signatures are verified at once: a browser and Node have threads for them. */
const AT_ONCE = 32;

/** Checks a received tree (RFC 9420, section 12.4.3.1), except lifetimes. An MlsRuleError says what is wrong. */
export async function validateTree(
  tree: RatchetTree,
  context: ClientState["groupContext"],
  cs: CiphersuiteImpl,
  config: ClientConfig,
  pace: Pace,
): Promise<void> {
  const encryptionKeys = new Set<string>();
  const signatureKeys = new Set<string>();
  const unmerged = tree.map((n) => (n?.nodeType === "parent" ? new Set(n.parent.unmergedLeaves) : undefined));
  const unseen = (seen: Set<string>, key: Uint8Array) => seen.size < seen.add(toHex(key)).size;
  for (const [i, node] of tree.entries()) {
    await pace();
    if (node === undefined) continue;
    must(isLeaf(toNodeIndex(i)) === (node.nodeType === "leaf"), "a leaf and a parent node have changed places");
    must(unseen(encryptionKeys, getHpkePublicKey(node)), "an encryption key is used twice");
    if (node.nodeType === "leaf")
      must(unseen(signatureKeys, node.leaf.signaturePublicKey), "a signature key is used twice");
    for (const leaf of [...(unmerged[i] ?? [])].map(toLeafIndex)) {
      const below = directPath(leafToNodeIndex(leaf), leafWidth(tree.length));
      const at = below.indexOf(toNodeIndex(i));
      must(tree[2 * leaf] !== undefined && at >= 0, "an unmerged leaf is no descendant");
      const lists = (n: number) => unmerged[n]?.has(leaf) ?? true;
      must(below.slice(0, at).every(lists), "a node in between does not list an unmerged leaf");
    }
  }
  const leaves = tree.flatMap((node, i) => (node?.nodeType === "leaf" ? [{ leaf: node.leaf, index: i / 2 }] : []));
  for (let i = 0; i < leaves.length; i += AT_ONCE) {
    await pace();
    const some = leaves.slice(i, i + AT_ONCE);
    await Promise.all(some.map(({ leaf, index }) => validateLeaf(leaf, index, context, cs, config)));
  }
  const hashes = await treeHasher.hashes(tree, pace);
  must(await treeHasher.parentHashesVerify(tree, hashes, pace), "a parent hash does not verify");
  must(same(context.treeHash, hashes[rootOf(tree)]!), "the tree is not the one of the GroupContext");
}

async function validateLeaf(
  leaf: LeafNode,
  index: number,
  context: ClientState["groupContext"],
  cs: CiphersuiteImpl,
  { authService }: ClientConfig,
): Promise<void> {
  must(
    await authService.validateCredential(leaf.credential, leaf.signaturePublicKey),
    "a credential is not acceptable",
  );
  const error =
    leaf.leafNodeSource === "key_package"
      ? !(await verifyLeafNodeSignatureKeyPackage(leaf, cs.signature))
      : await validateLeafNodeUpdateOrCommit(leaf, index, context, authService, cs.signature);
  must(!error, `a leaf does not verify: ${error}`);
}

/** Checks a GroupInfo's signature and its tree. */
export async function verifyGroup(
  info: GroupInfo,
  tree: RatchetTree,
  cs: CiphersuiteImpl,
  config: ClientConfig,
  pace: Pace,
): Promise<void> {
  const signer = tree[leafToNodeIndex(toLeafIndex(info.signer))];
  must(signer?.nodeType === "leaf", "the GroupInfo's signer is no member");
  const { signaturePublicKey } = signer.leaf;
  must(await verifyGroupInfoSignature(info, signaturePublicKey, cs.signature), "the GroupInfo does not verify");
  await validateTree(tree, info.groupContext, cs, config, pace);
}

/** joinGroup with this check of the tree. The tree is in the Welcome, or comes from the Delivery Service. */
export async function joinGroup(
  welcome: Welcome,
  kp: KeyPackage,
  keys: PrivateKeyPackage,
  cs: CiphersuiteImpl,
  config: ClientConfig,
  pace: Pace,
  fetched?: RatchetTree,
): Promise<ClientState> {
  const initKey = await cs.hpke.importPrivateKey(keys.initPrivateKey);
  const secrets = await decryptGroupSecrets(initKey, await makeKeyPackageRef(kp, cs.hash), welcome, cs.hpke);
  must(secrets !== undefined, "malformed group secrets");
  const { joinerSecret, pathSecret } = secrets;
  const [psk] = await accumulatePskSecret(secrets.psks, makePskIndex(undefined, {}), cs, new Uint8Array(cs.kdf.size));
  const info = await decryptGroupInfo(welcome, joinerSecret, psk, cs);
  must(info !== undefined && info.groupContext.cipherSuite === kp.cipherSuite, "malformed GroupInfo");
  const tree = ratchetTreeFromExtension(info) ?? fetched;
  must(tree !== undefined, NO_TREE);
  await verifyGroup(info, tree, cs, config, pace);
  must(await verifyGroupInfoConfirmationTag(info, joinerSecret, psk, cs), "the confirmation tag does not verify");

  const self = leafOf(tree, kp.leafNode);
  must(self !== undefined, "the Welcome is for another leaf");
  const ancestor = firstCommonAncestor(tree, self, toLeafIndex(info.signer));
  const path = pathSecret === undefined ? {} : await pathToRoot(tree, ancestor, pathSecret, cs.kdf);
  const own = { leafIndex: self, privateKeys: { [leafToNodeIndex(self)]: keys.hpkePrivateKey } };
  const [keySchedule, encryptionSecret] = await deriveKeySchedule(joinerSecret, psk, info.groupContext, cs.kdf);
  return {
    groupContext: info.groupContext,
    ratchetTree: tree,
    keySchedule,
    confirmationTag: info.confirmationTag,
    privatePath: mergePrivateKeyPaths(await toPrivateKeyPath(path, self, cs), own),
    signaturePrivateKey: keys.signaturePrivateKey,
    secretTree: await createSecretTree(leafWidth(tree.length), encryptionSecret, pace),
    unappliedProposals: {},
    historicalReceiverData: new Map(),
    groupActiveState: { kind: "active" },
    clientConfig: config,
  };
}

/** The place of a leaf in a tree without a signature key twice. */
function leafOf(tree: RatchetTree, wanted: LeafNode): LeafIndex | undefined {
  const { signaturePublicKey: key } = wanted;
  const i = tree.findIndex((node) => node?.nodeType === "leaf" && same(node.leaf.signaturePublicKey, key));
  const node = tree[i];
  const isSame = node && same(encodeNode(node), encodeNode({ nodeType: "leaf", leaf: wanted }));
  return isSame ? nodeToLeafIndex(toNodeIndex(i)) : undefined;
}
