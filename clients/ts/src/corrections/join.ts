// joinGroup of ts-mls 1.6.4 refuses trees that RFC 9420 permits (see tree.ts). It finds the own leaf by encoding all.
import type { CiphersuiteImpl, ClientConfig, ClientState, GroupContext, GroupInfo, KeyPackage } from "ts-mls";
import { makePskIndex, type PrivateKeyPackage, type RatchetTree, type Welcome } from "ts-mls";
import { verifyGroupInfoConfirmationTag, verifyGroupInfoSignature } from "ts-mls/groupInfo.js";
import { makeKeyPackageRef } from "ts-mls/keyPackage.js";
import { deriveKeySchedule } from "ts-mls/keySchedule.js";
import type { LeafNode } from "ts-mls/leafNode.js";
import { pathToRoot } from "ts-mls/pathSecrets.js";
import { mergePrivateKeyPaths, toPrivateKeyPath } from "ts-mls/privateKeyPath.js";
import { accumulatePskSecret } from "ts-mls/pskIndex.js";
import { encodeNode } from "ts-mls/ratchetTree.js";
import { type LeafIndex, leafToNodeIndex, leafWidth } from "ts-mls/treemath.js";
import { nodeToLeafIndex, toLeafIndex, toNodeIndex } from "ts-mls/treemath.js";
import { firstCommonAncestor } from "ts-mls/updatePath.js";
import { decryptGroupInfo, decryptGroupSecrets } from "ts-mls/welcome.js";
import { same } from "../bytes.js";
import type { Pace } from "../pace.js";
import { must } from "./rules.js";
import { createSecretTree } from "./secret-tree.js";
import { readTree } from "./tree.js";

/** How a joiner does the long part of its work. */
export interface Work {
  pace: Pace;
  /** Validates a tree, of which it also gets the encoding. */
  validate(encoded: Uint8Array, tree: RatchetTree, context: GroupContext): Promise<void>;
}

/** The error of joinGroup when the Welcome has no tree. */
export const NO_TREE = "no ratchet tree";

/** Reads the tree of a GroupInfo, and checks it and the GroupInfo's signature. */
export async function verifyGroup(
  info: GroupInfo,
  encodedTree: Uint8Array,
  cs: CiphersuiteImpl,
  { pace, validate }: Work,
): Promise<RatchetTree> {
  const tree = await readTree(encodedTree, pace);
  const signer = tree[leafToNodeIndex(toLeafIndex(info.signer))];
  must(signer?.nodeType === "leaf", "the GroupInfo's signer is no member");
  const { signaturePublicKey } = signer.leaf;
  must(await verifyGroupInfoSignature(info, signaturePublicKey, cs.signature), "the GroupInfo does not verify");
  await validate(encodedTree, tree, info.groupContext);
  return tree;
}

/** joinGroup with this check of the tree. The tree is in the Welcome, or comes from the Delivery Service. */
export async function joinGroup(
  welcome: Welcome,
  kp: KeyPackage,
  keys: PrivateKeyPackage,
  cs: CiphersuiteImpl,
  config: ClientConfig,
  work: Work,
  fetched?: Uint8Array,
): Promise<ClientState> {
  const initKey = await cs.hpke.importPrivateKey(keys.initPrivateKey);
  const secrets = await decryptGroupSecrets(initKey, await makeKeyPackageRef(kp, cs.hash), welcome, cs.hpke);
  must(secrets !== undefined, "malformed group secrets");
  const { joinerSecret, pathSecret } = secrets;
  const [psk] = await accumulatePskSecret(secrets.psks, makePskIndex(undefined, {}), cs, new Uint8Array(cs.kdf.size));
  const info = await decryptGroupInfo(welcome, joinerSecret, psk, cs);
  must(info !== undefined && info.groupContext.cipherSuite === kp.cipherSuite, "malformed GroupInfo");
  const inWelcome = info.extensions.find((e) => e.extensionType === "ratchet_tree")?.extensionData;
  const encodedTree = inWelcome ?? fetched;
  must(encodedTree !== undefined, NO_TREE);
  const tree = await verifyGroup(info, encodedTree, cs, work);
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
    secretTree: await createSecretTree(leafWidth(tree.length), encryptionSecret, work.pace),
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
