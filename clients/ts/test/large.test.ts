// Joining a group of 200 members: its tree is validated beside the page, or in slices.
import assert from "node:assert/strict";
import { afterEach, before, test } from "node:test";
import type { ClientState } from "ts-mls";
import * as mls from "../src/mls.js";
import { slices } from "../src/pace.js";
import { device, NOW, noTree, utf8 } from "./group.js";
import { grown, numbers } from "./trees.js";
import { NodeWorker } from "./workers.js";

let inviter: ClientState;
let own: mls.OwnKeyPackage;
let welcome: Uint8Array;

before(async () => {
  own = await mls.newKeyPackage(await device("joiner"), NOW);
  const founder = await mls.newGroup(await device("alice"), utf8("a group"), undefined, NOW);
  const state = await grown(founder, 200, false, numbers(1));
  const add = mls.byValue({ proposalType: "add", add: { keyPackage: own.publicPackage } });
  const commit = await mls.commit(state, [add]);
  [inviter, welcome] = [commit.next, commit.welcome!];
});
afterEach(() => {
  NodeWorker.made = [];
  Reflect.deleteProperty(globalThis, "Worker");
});

/** Gives the page this kind of Worker. */
const provide = (kind: unknown) => Reflect.set(globalThis, "Worker", kind);

const together = (joined: ClientState) =>
  assert.deepEqual(joined.keySchedule.epochAuthenticator, inviter.keySchedule.epochAuthenticator);

/** A Worker that a page cannot have, or that cannot be loaded. */
class NoWorker {
  constructor() {
    throw new DOMException("the page forbids it", "SecurityError");
  }
}
class MissingWorker extends NodeWorker {
  constructor(url: URL) {
    super(new URL("./missing.js", url));
  }
}

for (const [how, kind, made] of [
  ["in a Worker", NodeWorker, 1],
  ["where there are none", undefined, 0],
  ["where the page forbids one", NoWorker, 0],
  ["where its program is missing", MissingWorker, 1],
] as const) {
  test(`a joiner validates a large tree ${how}`, async () => {
    provide(kind);
    together(await mls.join(welcome, own, noTree));
    assert.equal(NodeWorker.made.length, made);
    for (const worker of NodeWorker.made) assert.ok(worker.isOver, "the Worker ends with its task");
  });

  test(`a joiner refuses a large tree with a wrong signature ${how}`, async () => {
    provide(kind);
    const tree = structuredClone(inviter.ratchetTree);
    const node = tree[200]!;
    if (node.nodeType === "leaf") node.leaf.signature[0]! ^= 1;
    const info = await mls.groupInfo(inviter);
    const join = mls.externalCommit(await device("late"), info, mls.encodeTree(tree), NOW);
    await assert.rejects(join, { name: "MlsRuleError", message: "a leaf does not verify: true" });
  });

  test(`who joins a large group by the own Commit validates its tree too ${how}`, async () => {
    provide(kind);
    const info = await mls.groupInfo(inviter);
    const commit = await mls.externalCommit(await device("late"), info, mls.ratchetTree(inviter), NOW);
    const { state } = await mls.process(inviter, commit.message);
    assert.deepEqual(state.keySchedule.epochAuthenticator, commit.next.keySchedule.epochAuthenticator);
    assert.equal(NodeWorker.made.length, made);
  });

  test(`a signal ends the validation of a large tree ${how}`, async () => {
    provide(kind);
    const ending = new AbortController();
    const [identity, info] = [await device("late"), await mls.groupInfo(inviter)];
    const join = mls.externalCommit(identity, info, mls.ratchetTree(inviter), NOW, [], ending.signal);
    setImmediate(() => ending.abort(new Error("enough")));
    await assert.rejects(join, /enough/);
    for (const worker of NodeWorker.made) assert.ok(worker.isOver, "the Worker ends at once");
  });
}

test("a Worker gets the tree and the public context of the group, and no secret", async () => {
  provide(NodeWorker);
  await mls.join(welcome, own, noTree);
  const [worker] = NodeWorker.made;
  const { encoded, context, ...more } = worker!.task as any;
  assert.deepEqual([encoded, context, more], [mls.ratchetTree(inviter), inviter.groupContext, {}]);
});

test("the tree of a small group needs no Worker", async () => {
  provide(NodeWorker);
  const kp = await mls.newKeyPackage(await device("bob"), NOW);
  const state = await mls.newGroup(await device("alice"), new Uint8Array(4), undefined, NOW);
  const add = mls.byValue({ proposalType: "add", add: { keyPackage: kp.publicPackage } });
  const { welcome: invitation } = await mls.commit(state, [add]);
  await mls.join(invitation!, kp, noTree);
  assert.equal(NodeWorker.made.length, 0);
});

test("other work runs between the slices of long work", async () => {
  let [now, ran] = [0, false];
  const pace = slices(undefined, () => now);
  setImmediate(() => (ran = true));
  for (; now <= 15; now++) await pace();
  assert.equal(ran, false);
  await pace();
  assert.equal(ran, true);
});
