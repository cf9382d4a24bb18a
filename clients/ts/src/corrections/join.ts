// ts-mls 1.6.4 refuses a tree in which two nodes of one direct path list different unmerged leaves. RFC 9420, section
// 12.4.3.1: "Verify that every non-blank intermediate node between the leaf node and the parent node also has an entry
// for the leaf node in its unmerged_leaves." The rule does not cover nodes above the parent.
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
import { verifyLeafNodeSignatureKeyPackage } from "ts-mls/leafNode.js";
import { verifyParentHashes } from "ts-mls/parentHash.js";
import { pathToRoot } from "ts-mls/pathSecrets.js";
import { mergePrivateKeyPaths, toPrivateKeyPath } from "ts-mls/privateKeyPath.js";
import { accumulatePskSecret } from "ts-mls/pskIndex.js";
import { findLeafIndex, getHpkePublicKey } from "ts-mls/ratchetTree.js";
import { createSecretTree } from "ts-mls/secretTree.js";
import { treeHashRoot } from "ts-mls/treeHash.js";
import { directPath, isLeaf, leafToNodeIndex, leafWidth, toLeafIndex, toNodeIndex } from "ts-mls/treemath.js";
import { firstCommonAncestor } from "ts-mls/updatePath.js";
import { decryptGroupInfo, decryptGroupSecrets } from "ts-mls/welcome.js";
import { same, toHex } from "../bytes.js";
import { must } from "./rules.js";

/** The error of joinGroup when the Welcome has no tree. */
export const NO_TREE = "no ratchet tree";

/** Checks a received tree (RFC 9420, section 12.4.3.1), except lifetimes. An MlsRuleError says what is wrong. */
export async function validateTree(
  tree: RatchetTree,
  context: ClientState["groupContext"],
  cs: CiphersuiteImpl,
  config: ClientConfig,
): Promise<void> {
  const encryptionKeys = new Set<string>();
  const signatureKeys = new Set<string>();
  const unseen = (seen: Set<string>, key: Uint8Array) => seen.size < seen.add(toHex(key)).size;
  for (const [i, node] of tree.entries()) {
    if (node === undefined) continue;
    must(isLeaf(toNodeIndex(i)) === (node.nodeType === "leaf"), "a leaf and a parent node have changed places");
    must(unseen(encryptionKeys, getHpkePublicKey(node)), "an encryption key is used twice");
    if (node.nodeType === "parent") {
      for (const leaf of node.parent.unmergedLeaves.map(toLeafIndex)) {
        const below = directPath(leafToNodeIndex(leaf), leafWidth(tree.length));
        const at = below.indexOf(toNodeIndex(i));
        must(tree[2 * leaf] !== undefined && at >= 0, "an unmerged leaf is no descendant");
        const lists = (n: number) =>
          tree[n]?.nodeType !== "parent" || (tree[n] as any).parent.unmergedLeaves.includes(leaf);
        must(below.slice(0, at).every(lists), "a node in between does not list an unmerged leaf");
      }
      continue;
    }
    const { leaf } = node;
    must(unseen(signatureKeys, leaf.signaturePublicKey), "a signature key is used twice");
    must(
      await config.authService.validateCredential(leaf.credential, leaf.signaturePublicKey),
      "a credential is not acceptable",
    );
    const error =
      leaf.leafNodeSource === "key_package"
        ? !(await verifyLeafNodeSignatureKeyPackage(leaf, cs.signature))
        : await validateLeafNodeUpdateOrCommit(leaf, i / 2, context, config.authService, cs.signature);
    must(!error, `a leaf does not verify: ${error}`);
  }
  must(await verifyParentHashes(tree, cs.hash), "a parent hash does not verify");
  must(same(context.treeHash, await treeHashRoot(tree, cs.hash)), "the tree is not the one of the GroupContext");
}

/** Checks a GroupInfo's signature and its tree. */
export async function verifyGroup(
  info: GroupInfo,
  tree: RatchetTree,
  cs: CiphersuiteImpl,
  config: ClientConfig,
): Promise<void> {
  const signer = tree[leafToNodeIndex(toLeafIndex(info.signer))];
  must(signer?.nodeType === "leaf", "the GroupInfo's signer is no member");
  const { signaturePublicKey } = signer.leaf;
  must(await verifyGroupInfoSignature(info, signaturePublicKey, cs.signature), "the GroupInfo does not verify");
  await validateTree(tree, info.groupContext, cs, config);
}

/** joinGroup with this check of the tree. The tree is in the Welcome, or comes from the Delivery Service. */
export async function joinGroup(
  welcome: Welcome,
  kp: KeyPackage,
  keys: PrivateKeyPackage,
  cs: CiphersuiteImpl,
  config: ClientConfig,
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
  await verifyGroup(info, tree, cs, config);
  must(await verifyGroupInfoConfirmationTag(info, joinerSecret, psk, cs), "the confirmation tag does not verify");

  const self = findLeafIndex(tree, kp.leafNode);
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
    secretTree: await createSecretTree(leafWidth(tree.length), encryptionSecret, cs.kdf),
    unappliedProposals: {},
    historicalReceiverData: new Map(),
    groupActiveState: { kind: "active" },
    clientConfig: config,
  };
}
