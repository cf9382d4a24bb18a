// createUpdatePath and applyUpdatePath of ts-mls 1.6.4 hash the whole tree again for each Commit, one promise for each
// hash. The first also encrypts to all members at once, and nothing else runs in between.
import type { CiphersuiteImpl, GroupContext, RatchetTree, UpdatePath } from "ts-mls";
import { encode } from "ts-mls/codec/tlsEncoder.js";
import { encryptWithLabel, type PrivateKey } from "ts-mls/crypto/hpke.js";
import { deriveSecret } from "ts-mls/crypto/kdf.js";
import { groupContextEncoder } from "ts-mls/groupContext.js";
import { signLeafNodeCommit } from "ts-mls/leafNode.js";
import { filteredDirectPath, filteredDirectPathAndCopathResolution, getHpkePublicKey } from "ts-mls/ratchetTree.js";
import { type LeafIndex, leafToNodeIndex } from "ts-mls/treemath.js";
import type { PathSecret } from "ts-mls/updatePath.js";
import { same, toHex } from "../bytes.js";
import { each, type Pace } from "../pace.js";
import { must } from "./rules.js";
import { treeHasher } from "./tree-hash.js";

const encodeContext = encode(groupContextEncoder);

/** A path that a committer has made. */
export interface NewPath {
  /** The tree with the path, and its hash. */
  tree: RatchetTree;
  treeHash: Uint8Array;
  path: UpdatePath;
  /** The secrets of the nodes above the leaf, upwards. */
  secrets: PathSecret[];
  leafKey: PrivateKey;
}

/**
 * Gives a leaf a new path, and encrypts its secrets to all but the new leaves (RFC 9420, sections 7.5 and 7.6). context
 * is the provisional one, with the present epoch.
 */
export async function createUpdatePath(
  before: RatchetTree,
  self: LeafIndex,
  context: GroupContext,
  signKey: Uint8Array,
  cs: CiphersuiteImpl,
  newLeaves: LeafIndex[],
  pace: Pace,
): Promise<NewPath> {
  const own = before[leafToNodeIndex(self)];
  must(own?.nodeType === "leaf", "no leaf commits");
  const keyPair = async (secret: Uint8Array) => cs.hpke.deriveKeyPair(await deriveSecret(secret, "node", cs.kdf));
  const excluded = new Set(newLeaves.map(leafToNodeIndex));
  const secrets: PathSecret[] = [];
  const keys: Uint8Array[] = [];
  const first = cs.rng.randomBytes(cs.kdf.size);
  let secret = first;
  for (const { nodeIndex, resolution } of filteredDirectPathAndCopathResolution(self, before)) {
    secret = await deriveSecret(secret, "path", cs.kdf);
    secrets.push({ nodeIndex, secret, sendTo: resolution.filter((i) => !excluded.has(i)) });
    keys.push(await cs.hpke.exportPublicKey((await keyPair(secret)).publicKey));
  }
  const above = secrets.map((s) => s.nodeIndex);
  const { tree, parentHash } = await treeHasher.withPath(before, self, above, keys, pace);
  const { publicKey, privateKey: leafKey } = await keyPair(first);
  const hpkePublicKey = await cs.hpke.exportPublicKey(publicKey);
  const { extensions, capabilities, credential, signaturePublicKey } = own.leaf;
  const kept = { extensions, capabilities, credential, signaturePublicKey };
  const fresh = { leafNodeSource: "commit" as const, hpkePublicKey, parentHash };
  const place = { groupId: context.groupId, leafIndex: self };
  const leafNode = await signLeafNodeCommit({ ...kept, ...fresh, ...place }, signKey, cs.signature);
  tree[leafToNodeIndex(self)] = { nodeType: "leaf", leaf: leafNode };

  const treeHash = await treeHasher.root(tree, pace);
  const info = encodeContext({ ...context, treeHash, epoch: context.epoch + 1n });
  const seal = async ({ to, secret }: { to: number; secret: Uint8Array }) => {
    const key = await cs.hpke.importPublicKey(getHpkePublicKey(before[to]!));
    const { ct, enc } = await encryptWithLabel(key, "UpdatePathNode", info, secret, cs.hpke);
    return { ciphertext: ct, kemOutput: enc };
  };
  const letters = secrets.flatMap(({ secret, sendTo }) => sendTo.map((to) => ({ to, secret })));
  const sealed = await each(letters, seal, pace);
  const nodes = secrets.map(({ sendTo }, n) => {
    return { hpkePublicKey: keys[n]!, encryptedPathSecret: sealed.splice(0, sendTo.length) };
  });
  return { tree, treeHash, path: { leafNode, nodes }, secrets, leafKey };
}

/** Merges the path of another one's Commit into the tree (RFC 9420, section 7.5). An external committer has no leaf. */
export async function applyUpdatePath(
  before: RatchetTree,
  committer: LeafIndex,
  { leafNode, nodes }: UpdatePath,
  isExternal: boolean,
  pace: Pace,
): Promise<RatchetTree> {
  const own = before[leafToNodeIndex(committer)];
  must(own?.nodeType === "leaf", "no leaf commits");
  must(isExternal || !same(own.leaf.hpkePublicKey, leafNode.hpkePublicKey), "the leaf's key is not new");
  const keys = nodes.map((node) => node.hpkePublicKey);
  const used = new Set(before.map((node) => (node?.nodeType === "parent" ? toHex(node.parent.hpkePublicKey) : "")));
  must(!keys.some((key) => used.has(toHex(key))), "a key of the path is in the tree");
  const above = filteredDirectPath(committer, before);
  must(keys.length === above.length, "the path has another length");
  const { tree, parentHash } = await treeHasher.withPath(before, committer, above, keys, pace);
  must(same(parentHash, leafNode.parentHash), "the path's parent hash does not verify");
  tree[leafToNodeIndex(committer)] = { nodeType: "leaf", leaf: leafNode };
  return tree;
}
