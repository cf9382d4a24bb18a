// What a device writes when something happens in a large group.
import assert from "node:assert/strict";
import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { before, test } from "node:test";
import { type Group, newGroup } from "../src/group.js";
import { Journal } from "../src/journal.js";
import * as mls from "../src/mls.js";
import { FileStore } from "../src/node.js";
import { loadState } from "../src/records.js";
import { MemoryStore, type Value } from "../src/store.js";
import { device, NOW, noTree, utf8 } from "./group.js";
import { grown, numbers } from "./trees.js";

const MEMBERS = 200;

/** A store that counts the bytes of the last commit. */
class Counting extends FileStore {
  bytes = 0;

  override async commit(changes: ReadonlyMap<string, Value | undefined>): Promise<void> {
    this.bytes = [...changes.values()].reduce((sum, value) => sum + (value?.length ?? 0), 0);
    await super.commit(changes);
  }
}

/** All that a state consists of. */
const parts = (state: Group["state"]) => ({
  state: mls.encodeState(state),
  tree: mls.encodeTree(state.ratchetTree),
  secrets: state.secretTree,
  former: new Map(
    [...state.historicalReceiverData].map(([n, epoch]) => [
      n,
      [mls.encodeEpoch(epoch), mls.encodeTree(epoch.ratchetTree), epoch.secretTree],
    ]),
  ),
});

let alice: mls.Commit["next"];
let bob: mls.Commit["next"];

before(async () => {
  const own = await mls.newKeyPackage(await device("bob"), NOW);
  const founder = await mls.newGroup(await device("alice"), utf8("a group"), undefined, NOW);
  const add = mls.byValue({ proposalType: "add", add: { keyPackage: own.publicPackage } });
  const { welcome, next } = await mls.commit(await grown(founder, MEMBERS, false, numbers(1)), [add]);
  [alice, bob] = [next, await mls.join(welcome!, own, noTree)];
});

test(`a message in a group of ${MEMBERS} writes its own change, and a crash leaves all of it or nothing`, async (t) => {
  const folder = mkdtempSync(join(tmpdir(), "mimiport-"));
  t.after(() => rmSync(folder, { recursive: true }));
  const [path, cut] = [join(folder, "store"), join(folder, "cut")];
  const store = new Counting(path);
  const leave = await store.exclusive();
  const journal = await Journal.open(store, () => undefined);
  const g: Group = newGroup("!room", "s.example", { term: 0, seq: 0 }, bob);
  journal.stored.groups.set(g.key, g);
  const kept: { size: number; state: ReturnType<typeof parts> }[] = [];
  let peer = alice;

  /** Saves a state, and gives the number of bytes that this writes. */
  const save = async (state: Group["state"]): Promise<number> => {
    g.state = state;
    await journal.save(g);
    kept.push({ size: statSync(path).size, state: parts(state) });
    return store.bytes;
  };
  const whole = await save(bob);
  const talk = async () => {
    const sent = await mls.encrypt(g.state, utf8("hello"));
    const sending = await save(sent.state);
    const answer = await mls.encrypt((await mls.process(peer, sent.message)).state, utf8("hello"));
    peer = answer.state;
    return Math.max(sending, await save((await mls.process(g.state, answer.message)).state));
  };
  const early = await mls.encrypt(peer, utf8("early"));
  peer = early.state;
  for (let i = 0; i < 2; i++) {
    const most = await talk();
    assert.ok(most < 6000 && 10 * most < whole, `a message writes ${most} bytes of ${whole}`);
    const made = await mls.commit(g.state, []);
    peer = (await mls.process(peer, made.message)).state;
    await save(made.next);
  }
  const late = await mls.process(g.state, early.message);
  assert.deepEqual(late.plaintext, utf8("early"));
  const most = await save(late.state);
  assert.ok(most < 6000, `a message of a former epoch writes ${most} bytes`);
  await leave();

  for (const [i, { size, state }] of kept.entries())
    for (const [length, wanted] of [
      [size, state],
      [size - 1, kept[i - 1]?.state],
    ] as const) {
      writeFileSync(cut, readFileSync(path).subarray(0, length));
      const loaded = loadState(await new FileStore(cut).load()).groups.get(g.key);
      assert.deepEqual(loaded && parts(loaded.state), wanted, `write ${i}, ${length} bytes`);
    }
});

test("the events of one write are one record, and other work runs between long ones", async () => {
  const store = new MemoryStore();
  const heard: string[] = [];
  let take = () => {};
  const taken = new Promise<void>((resolve) => (take = resolve));
  const journal = await Journal.open(store, ({ event }) => {
    heard.push(event);
    if (heard.length === 1) setImmediate(() => heard.push("other work"));
    for (const since = performance.now(); performance.now() - since < 20; );
    return taken;
  });
  for (let epoch = 0; epoch < 3; epoch++) journal.emit({ event: "epoch", group: "unknown", epoch });
  const events = async () => [...(await store.load()).keys()].filter((name) => name.startsWith("events/"));
  await journal.save();
  assert.deepEqual(heard, ["epoch", "other work", "epoch", "epoch"]);
  assert.equal((await events()).length, 1);

  const repeated: unknown[] = [];
  (await Journal.open(store, (event) => repeated.push(event))).repeat();
  take();
  await new Promise(setImmediate);
  assert.deepEqual(
    repeated.map((e: any) => e.epoch),
    [0, 1, 2],
  );
  await journal.save();
  assert.deepEqual(await events(), []);
});
