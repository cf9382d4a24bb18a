// Hashes of trees that are kept by node, against those of ts-mls.
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { test } from "node:test";
import type { RatchetTree } from "ts-mls";
import type { Hash } from "ts-mls/crypto/hash.js";
import { calculateParentHash, verifyParentHashes } from "ts-mls/parentHash.js";
import { createSecretTree as originalSecretTree } from "ts-mls/secretTree.js";
import { treeHash, treeHashRoot } from "ts-mls/treeHash.js";
import { nodeWidth, toNodeIndex } from "ts-mls/treemath.js";
import { createSecretTree } from "../src/corrections/secret-tree.js";
import { rootOf, TreeHasher } from "../src/corrections/tree-hash.js";
import * as mls from "../src/mls.js";
import { unpaced } from "../src/pace.js";
import { afterCommit, numbers, randomTree, unsignedLeaf } from "./trees.js";

/** SHA-256 as both have it, and how often each has used it. */
function counted() {
  const digest = (input: Uint8Array) => new Uint8Array(createHash("sha256").update(input).digest());
  const count = { ours: 0, theirs: 0 };
  const original = { digest: async (input: Uint8Array) => (count.theirs++, digest(input)) } as unknown as Hash;
  return { count, hasher: new TreeHasher((input) => (count.ours++, digest(input))), original };
}

test("kept hashes are those of the original, in each tree of a random history", async () => {
  for (let seed = 1; seed <= 60; seed++) {
    const { hasher, original } = counted();
    const random = numbers(seed);
    const tree = await randomTree(random);
    const hashes = await hasher.hashes(tree, unpaced);
    for (const i of tree.keys())
      assert.deepEqual(hashes[i], await treeHash(tree, toNodeIndex(i), original), `seed ${seed}, node ${i}`);
    for (const [i, node] of tree.entries()) {
      if (node === undefined || i === rootOf(tree)) continue;
      const [hash, above] = await calculateParentHash(tree, toNodeIndex(i), original);
      if (tree[above!] === undefined) continue;
      assert.deepEqual(hasher.parentHash(tree, hashes, i, above!), hash, `seed ${seed}, node ${i}`);
    }
    assert.ok(await verifyParentHashes(tree, original), `seed ${seed}`);
    assert.ok(await hasher.parentHashesVerify(tree, hashes, unpaced), `seed ${seed}`);
  }
});

test("parent hashes of a damaged tree verify as with the original", async () => {
  const { hasher, original } = counted();
  const verdicts = { true: 0, false: 0 };
  for (let seed = 1; seed <= 300; seed++) {
    const random = numbers(seed);
    const tree: any[] = structuredClone(await randomTree(random));
    const node = tree[Math.floor(tree.length * random())];
    const { parent, leaf } = node ?? {};
    const other = tree[Math.floor(tree.length * random())];
    if (parent === undefined) leaf?.parentHash?.fill(1);
    else if (random() < 0.3) parent.unmergedLeaves.pop();
    else if (random() < 0.4) parent.hpkePublicKey[0] ^= 1;
    else parent.parentHash = other?.parent?.parentHash ?? other?.leaf.parentHash ?? new Uint8Array(32);
    const ours = await hasher.parentHashesVerify(tree, await hasher.hashes(tree, unpaced), unpaced);
    assert.equal(ours, await verifyParentHashes(tree, original), `seed ${seed}`);
    verdicts[`${ours}`]++;
  }
  assert.ok(verdicts.true > 30 && verdicts.false > 30, JSON.stringify(verdicts));
});

const signed: Parameters<typeof afterCommit>[3] = async (leaf, parentHash) =>
  ({ ...leaf, leafNodeSource: "commit", parentHash }) as typeof leaf;

/** A full tree of n leaves in which some have committed. */
async function committed(n: number, by: Iterable<number>, random: () => number): Promise<RatchetTree> {
  let tree: RatchetTree = Array.from({ length: nodeWidth(n) }, (_, i) =>
    i % 2 === 0 ? { nodeType: "leaf", leaf: unsignedLeaf(random) } : undefined,
  );
  for (const leaf of by) tree = await afterCommit(tree, leaf, random, signed);
  return tree;
}

test("a joiner hashes each node twice at most. The original hashes a quadratic number", async () => {
  for (const n of [64, 128, 256]) {
    const { count, hasher, original } = counted();
    const tree = await committed(n, [0], numbers(n));
    const hashes = await hasher.hashes(tree, unpaced);
    assert.ok(await hasher.parentHashesVerify(tree, hashes, unpaced));
    assert.ok(count.ours <= 2 * tree.length, `${count.ours} hashes for ${n} leaves`);
    assert.ok(await verifyParentHashes(tree, original));
    await treeHashRoot(tree, original);
    assert.ok(count.theirs > (n * n) / 2, `the original needs only ${count.theirs} hashes for ${n} leaves`);
  }
});

test("after a Commit the nodes of its path are hashed again, and no others", async () => {
  const { count, hasher, original } = counted();
  const random = numbers(1);
  const before = await committed(64, Array(64).keys(), random);
  await hasher.root(before, unpaced);
  count.ours = 0;
  const tree = await afterCommit(before, 17, random, signed);
  const hash = await hasher.root(tree, unpaced);
  assert.equal(count.ours, 7); // a leaf and six parent nodes
  assert.deepEqual(hash, await treeHashRoot(tree, original));
});

test("the ratchets of leaves are those of the original. Parent nodes have none", async () => {
  const { kdf } = await mls.cipherSuite(1);
  for (const leaves of [1, 2, 4, 16]) {
    const secret = crypto.getRandomValues(new Uint8Array(32));
    const [ours, theirs] = [
      await createSecretTree(leaves, secret, unpaced),
      await originalSecretTree(leaves, secret, kdf),
    ];
    assert.equal(ours.length, theirs.length);
    for (const [i, node] of ours.entries()) {
      if (i % 2 === 0) assert.deepEqual(node, theirs[i]);
      else assert.deepEqual([node.handshake.secret.length, node.application.secret.length], [0, 0]);
    }
    assert.notEqual(theirs[1]?.handshake.secret.length, 0);
  }
});
