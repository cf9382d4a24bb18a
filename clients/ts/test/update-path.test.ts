// Paths of Commits, against those of ts-mls.
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { test } from "node:test";
import type { CiphersuiteImpl, RatchetTree } from "ts-mls";
import { treeHashRoot } from "ts-mls/treeHash.js";
import { nodeWidth, toLeafIndex } from "ts-mls/treemath.js";
import { applyUpdatePath as originalApply, createUpdatePath as originalCreate } from "ts-mls/updatePath.js";
import { TreeHasher } from "../src/corrections/tree-hash.js";
import { applyUpdatePath, createUpdatePath } from "../src/corrections/update-path.js";
import * as mls from "../src/mls.js";
import { unpaced } from "../src/pace.js";
import { device, TestGroup } from "./group.js";
import { numbers, randomTree, unsignedLeaf } from "./trees.js";

const context = async () => (await TestGroup.create("alice")).state("alice").groupContext;

/** A tree of n leaves, of which none has committed. */
const fresh = (n: number): RatchetTree => {
  const random = numbers(n);
  return Array.from({ length: nodeWidth(n) }, (_, i) =>
    i % 2 === 0 ? { nodeType: "leaf" as const, leaf: unsignedLeaf(random) } : undefined,
  );
};

test("each reads the other's path, in trees of random histories", async () => {
  const [cs, before] = [await mls.cipherSuite(1), await context()];
  const { signKey } = await device("alice");
  for (let seed = 1; seed <= 40; seed++) {
    const random = numbers(seed);
    const tree = await randomTree(random);
    const leaves = tree.flatMap((node, i) => (node?.nodeType === "leaf" ? [i / 2] : []));
    const self = toLeafIndex(leaves[Math.floor(leaves.length * random())]!);
    const newLeaves = leaves.filter((leaf) => leaf !== self && random() < 0.1).map(toLeafIndex);
    const excluded = newLeaves.map((leaf) => 2 * leaf) as Parameters<typeof originalCreate>[5];

    const [theirs, theirPath, theirSecrets] = await originalCreate(tree, self, before, signKey, cs, excluded);
    assert.deepEqual(await applyUpdatePath(tree, self, theirPath, false, unpaced), theirs, `seed ${seed}`);

    const ours = await createUpdatePath(tree, self, before, signKey, cs, newLeaves, unpaced);
    assert.deepEqual(await originalApply(tree, self, ours.path, cs.hash), ours.tree, `seed ${seed}`);
    assert.deepEqual(ours.treeHash, await treeHashRoot(ours.tree, cs.hash));
    const places = (secrets: typeof theirSecrets) => secrets.map(({ nodeIndex, sendTo }) => ({ nodeIndex, sendTo }));
    assert.deepEqual(places(ours.secrets), places(theirSecrets));
    assert.deepEqual(
      ours.path.nodes.map((node) => node.encryptedPathSecret.length),
      theirPath.nodes.map((node) => node.encryptedPathSecret.length),
    );
  }
});

test("a path takes as many hashes as it has nodes. The original hashes the whole tree", async () => {
  const [cs, before] = [await mls.cipherSuite(1), await context()];
  const { signKey } = await device("alice");
  for (const n of [64, 256]) {
    const tree = fresh(n);
    const count = { ours: 0, theirs: 0 };
    const hasher = new TreeHasher((input) => {
      count.ours++;
      return new Uint8Array(createHash("sha256").update(input).digest());
    });
    const digest = (input: Uint8Array) => (count.theirs++, cs.hash.digest(input));
    const counted: CiphersuiteImpl = { ...cs, hash: { ...cs.hash, digest } };
    const [, path] = await originalCreate(tree, toLeafIndex(1), before, signKey, counted);
    assert.ok(count.theirs > 1.9 * tree.length, `the original needs only ${count.theirs} hashes to make a path`);
    count.theirs = 0;
    await originalApply(tree, toLeafIndex(1), path, counted.hash);
    assert.ok(count.theirs > 0.9 * tree.length, `the original needs only ${count.theirs} hashes to apply a path`);

    await hasher.hashes(tree, unpaced);
    count.ours = 0;
    const above = path.nodes.map((_, level) => 2 * 2 ** level - 1);
    const keys = path.nodes.map((node) => node.hpkePublicKey);
    const made = await hasher.withPath(tree, toLeafIndex(1), above, keys, unpaced);
    await hasher.root(made.tree, unpaced);
    assert.ok(count.ours <= 3 * above.length, `${count.ours} hashes for ${above.length} nodes`);
  }
});

test("some of a path's secrets are encrypted at once. The original encrypts to all members at once", async () => {
  const [cs, before] = [await mls.cipherSuite(1), await context()];
  const { signKey } = await device("alice");
  const tree = fresh(128);
  const open = { now: 0, most: 0 };
  const seal: typeof cs.hpke.seal = async (...letter) => {
    open.most = Math.max(open.most, ++open.now);
    const sealed = await cs.hpke.seal(...letter);
    open.now--;
    return sealed;
  };
  const watched: CiphersuiteImpl = { ...cs, hpke: { ...cs.hpke, seal } };
  await originalCreate(tree, toLeafIndex(1), before, signKey, watched);
  assert.equal(open.most, 127);
  open.most = 0;
  let turns = 0;
  await createUpdatePath(tree, toLeafIndex(1), before, signKey, watched, [], async () => {
    if (open.most > 0) turns++;
  });
  assert.equal(open.most, 32);
  assert.equal(turns, 3);
});

test("a path that breaks a rule is refused", async () => {
  const group = await TestGroup.create("alice");
  await group.add("alice", "bob", "carol");
  const { groupContext, ratchetTree, signaturePrivateKey, privatePath } = group.state("bob");
  const [cs, bob] = [await mls.cipherSuite(1), toLeafIndex(privatePath.leafIndex)];
  const { path } = await createUpdatePath(ratchetTree, bob, groupContext, signaturePrivateKey, cs, [], unpaced);
  const apply = (change: Partial<typeof path>, leaf = bob) =>
    applyUpdatePath(ratchetTree, leaf, { ...path, ...change }, false, unpaced);
  await apply({});
  const [own, parent] = [ratchetTree[2 * bob]!, ratchetTree.find((node) => node?.nodeType === "parent")!];
  assert.ok(own.nodeType === "leaf" && parent.nodeType === "parent");
  const { hpkePublicKey } = own.leaf;
  await assert.rejects(apply({ leafNode: { ...path.leafNode, hpkePublicKey } }), /key is not new/);
  const [first, ...more] = path.nodes;
  await assert.rejects(
    apply({ nodes: [{ ...first!, hpkePublicKey: parent.parent.hpkePublicKey }, ...more] }),
    /is in the tree/,
  );
  await assert.rejects(apply({ nodes: more }), /another length/);
  await assert.rejects(apply({ nodes: [first!, ...path.nodes] }), /another length/);
  await assert.rejects(
    apply({ nodes: [{ ...first!, hpkePublicKey: new Uint8Array(32) }, ...more] }),
    /parent hash does not verify/,
  );
  await assert.rejects(apply({}, toLeafIndex(7)), /no leaf commits/);
});
