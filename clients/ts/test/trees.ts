// Ratchet trees as the Commits of many members leave them, made without those members' secrets.
import type { ClientState, RatchetTree } from "ts-mls";
import type { LeafNode } from "ts-mls/leafNode.js";
import { signLeafNodeCommit } from "ts-mls/leafNode.js";
import { addLeafNode, filteredDirectPath, removeLeafNode } from "ts-mls/ratchetTree.js";
import { toLeafIndex } from "ts-mls/treemath.js";
import { treeHasher } from "../src/corrections/tree-hash.js";
import * as mls from "../src/mls.js";
import { unpaced } from "../src/pace.js";
import { device, NOW } from "./group.js";

/** Numbers from 0 up to 1, the same for each seed (mulberry32). */
export function numbers(seed: number): () => number {
  return () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let t = Math.imul(seed ^ (seed >>> 15), seed | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

const bytes = (random: () => number, n: number) => Uint8Array.from({ length: n }, () => 256 * random());

/** A leaf that nobody has signed. */
export const unsignedLeaf = (random: () => number): LeafNode => ({
  leafNodeSource: "key_package",
  hpkePublicKey: bytes(random, 32),
  signaturePublicKey: bytes(random, 32),
  credential: { credentialType: "basic", identity: bytes(random, 8) },
  capabilities: { versions: ["mls10"], ciphersuites: [], extensions: [], proposals: [], credentials: ["basic"] },
  lifetime: { notBefore: 0n, notAfter: 2n ** 40n },
  extensions: [],
  signature: bytes(random, 64),
});

/** The tree after a Commit of one leaf. sign gives the leaf its new parent hash. */
export async function afterCommit(
  tree: RatchetTree,
  leaf: number,
  random: () => number,
  sign: (leaf: LeafNode, parentHash: Uint8Array) => Promise<LeafNode>,
): Promise<RatchetTree> {
  const above = filteredDirectPath(toLeafIndex(leaf), tree);
  const keys = above.map(() => bytes(random, 32));
  const { tree: next, parentHash } = await treeHasher.withPath(tree, toLeafIndex(leaf), above, keys, unpaced);
  const node = next[2 * leaf];
  if (node?.nodeType !== "leaf") throw new Error("no leaf commits");
  next[2 * leaf] = { nodeType: "leaf", leaf: await sign(node.leaf, parentHash) };
  return next;
}

/** A tree after some random Adds, Removes and Commits of leaves that nobody has signed. */
export async function randomTree(random: () => number): Promise<RatchetTree> {
  let tree: RatchetTree = [{ nodeType: "leaf", leaf: unsignedLeaf(random) }];
  const unsigned = async (leaf: LeafNode, parentHash: Uint8Array): Promise<LeafNode> => {
    const { hpkePublicKey, signaturePublicKey, credential, capabilities, extensions, signature } = leaf;
    const kept = { hpkePublicKey, signaturePublicKey, credential, capabilities, extensions, signature };
    return { ...kept, leafNodeSource: "commit", parentHash };
  };
  for (let steps = Math.floor(40 * random()); steps > 0; steps--) {
    const members = tree.flatMap((node, i) => (node?.nodeType === "leaf" ? [i / 2] : []));
    const one = members[Math.floor(members.length * random())]!;
    const kind = random();
    if (kind < 0.5) [tree] = addLeafNode(tree, unsignedLeaf(random));
    else if (kind < 0.65 && members.length > 1) tree = removeLeafNode(tree, toLeafIndex(one));
    else tree = await afterCommit(tree, one, random, unsigned);
  }
  return tree;
}

/**
 * The state of a group's founder as if the group had n members. Either all of them have committed, in random order, or
 * none but the founder.
 */
export async function grown(
  founder: ClientState,
  n: number,
  haveCommitted: boolean,
  random: () => number,
): Promise<ClientState> {
  const { groupId } = founder.groupContext;
  const { signature } = await mls.cipherSuite(1);
  const signKeys = [founder.signaturePrivateKey];
  let tree = founder.ratchetTree;
  while (signKeys.length < n) {
    const identity = await device(`member${signKeys.length}`);
    const { publicPackage } = await mls.newKeyPackage(identity, NOW);
    [tree] = addLeafNode(tree, publicPackage.leafNode);
    signKeys.push(identity.signKey);
  }
  const order = signKeys.map((_, i) => [random(), i] as const).sort(([a], [b]) => a - b);
  for (const [, i] of haveCommitted ? order : [[0, 0] as const])
    tree = await afterCommit(tree, i, random, (leaf, parentHash) =>
      signLeafNodeCommit(
        { ...leaf, leafNodeSource: "commit", parentHash, groupId, leafIndex: i },
        signKeys[i]!,
        signature,
      ),
    );
  const treeHash = await treeHasher.root(tree, unpaced);
  return { ...founder, ratchetTree: tree, groupContext: { ...founder.groupContext, treeHash } };
}
