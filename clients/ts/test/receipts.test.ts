// Receipts for Commits: clients keep and compare them, show them to a host that has forgotten, and prove a fork.
import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import type { FanOut, LogMessage, Signed } from "../src/ds.js";
import { messageHash } from "../src/inbox.js";
import { ratchetTree } from "../src/mls.js";
import { receiptIn } from "../src/receipts.js";
import { loadStore, saveStore } from "./files.js";
import { commitReceipt, type CommitReceipt, fromBase64, toBase64 } from "../src/wire.js";
import { SigningKey } from "./fake.js";
import { net, party, together, User } from "./party.js";

const hosted = (u: User, ds = u.group.ds) => net.ds(ds).groups.get(u.group.key)!;
const latest = (u: User) => u.group.receipt && Number(receiptIn(u.group.receipt).epoch);

/** Alice and bob, both in the epoch after bob's Commit. */
async function pair() {
  const p = await party("alice", "bob");
  const [alice, bob] = p.users as [User, User];
  await alice.client.bringUpToDate(alice.group);
  await bob.client.update(bob.group);
  await alice.sync();
  return { ...p, alice, bob };
}

/** A repeated fan-out of the last Commit, with a receipt. */
function again(u: User, more: Partial<CommitReceipt> = {}, signer = u.group.ds): FanOut {
  const { log, room, term, id } = hosted(u);
  const commit = log.findLast((m): m is LogMessage & { receipt: Signed; message: string } => m.kind === "commit")!;
  const receipt = net.ds(signer).key.sign(commitReceipt, { ...receiptIn(commit.receipt), ...more });
  return { ...commit, receipt, group_id: id, room_id: room, protocol: "mls10", term };
}

/** The same place in the log with another Commit, and the host's receipt for it. */
function other(u: User): FanOut {
  const { message: _, ...rest } = again(u);
  const message = toBase64(Buffer.from("another Commit"));
  const commitHash = new Uint8Array(Buffer.from(messageHash(fromBase64(message)), "hex"));
  return { ...rest, ...again(u, { commitHash }), message };
}

const deliver = async (u: User, f: FanOut) => {
  net.toDevice(u.id, `@_mimiport:${u.group.ds}`, f);
  await u.sync();
};

test("the latest receipt is kept, from an answer, the fan-out and the log, over a restart", async (t) => {
  const { alice, bob } = await pair();
  assert.deepEqual([latest(alice), latest(bob)], [2, 2]);
  await alice.client.update(alice.group);
  net.lose(bob.id);
  await bob.client.bringUpToDate(bob.group);
  assert.deepEqual([latest(alice), latest(bob)], [3, 3]);
  assert.deepEqual(alice.group.receipt, bob.group.receipt);
  const dir = mkdtempSync(join(tmpdir(), "mimiport-"));
  t.after(() => rmSync(dir, { recursive: true }));
  saveStore(join(dir, "store"), alice.client.stored);
  assert.deepEqual([...loadStore(join(dir, "store")).groups.values()][0]!.receipt, alice.group.receipt);
});

test("who enters anew has the receipt of the own Commit", async () => {
  const { alice, bob, room } = await pair();
  hosted(alice).tree = toBase64(ratchetTree(alice.group.state));
  await bob.client.rejoin(room);
  assert.equal(latest(bob), 3);
});

test("every submission says what the latest receipt says, if that is of the term", async () => {
  const { alice, s, t } = await pair();
  const said: unknown[] = [];
  for (const ds of [net.ds(s), net.ds(t)]) {
    const answer = ds.answer.bind(ds);
    ds.answer = (method, path, query, body, user) => {
      if (path[2] === "messages" && method === "POST") said.push(body.known?.epoch);
      return answer(method, path, query, body, user);
    };
  }
  await alice.say("a message");
  await alice.client.update(alice.group);
  await alice.client.migrate(alice.group, t);
  await alice.say("at the target");
  await alice.client.update(alice.group);
  await alice.say("with a receipt");
  assert.deepEqual(said, [2, 2, undefined, undefined, 5]);
});

test("a server without receipts is as good as one with them", async () => {
  const { users, s } = await party("alice", "bob");
  const [alice, bob] = users as [User, User];
  net.ds(s).receipts = false;
  for (const u of [alice, bob, alice]) {
    await u.client.update(u.group);
    for (const v of [alice, bob]) await v.sync();
  }
  together(alice, bob);
  assert.equal(latest(bob), undefined);
});

test("a receipt counts only with the host's signature, for its message, in this group and term", async () => {
  const { alice } = await pair();
  const before = alice.group.receipt;
  const { epoch } = receiptIn(before!);
  for (const f of [
    again(alice, { epoch: epoch + 1n }, "stranger.example"),
    again(alice, { epoch: epoch + 1n, groupId: new Uint8Array(32) }),
    again(alice, { epoch: epoch + 1n, term: 1n }),
    again(alice, { epoch: epoch + 1n, seq: 99n }),
    again(alice, { epoch: epoch + 1n, commitHash: new Uint8Array(32) }),
    { ...again(alice), receipt: { message: "AAEC", key_id: "ed25519:1" } },
    { ...other(alice), receipt: again(alice, {}, "stranger.example").receipt! },
  ])
    await deliver(alice, f);
  assert.deepEqual([alice.group.receipt, alice.group.fork], [before, undefined]);
  assert.deepEqual(alice.take("fork"), []);
});

test("the host's key object is kept, and taken anew when a receipt has another key", async () => {
  const { s, alice, bob } = await pair();
  const keys = (u: User) => Object.keys(u.group.hostKeys!.verify_keys);
  assert.deepEqual([alice.group.hostKeys!.server_name, keys(alice)], [s, ["ed25519:1"]]);
  net.ds(s).key = new SigningKey("ed25519:2");
  await bob.client.update(bob.group);
  await alice.sync();
  assert.deepEqual([keys(alice), keys(bob)], [["ed25519:2"], ["ed25519:2"]]);
});

test("two receipts for one epoch prove a fork: the first is kept, nothing is submitted, both are shown", async () => {
  const { alice, bob } = await pair();
  await deliver(alice, again(alice)); // the same one again
  assert.deepEqual(alice.take("fork"), []);
  const second = other(alice);
  const first = alice.group.receipt!;
  for (let i = 0; i < 2; i++) await deliver(alice, second);
  assert.deepEqual(alice.take("fork"), [
    { event: "fork", group: alice.group.key, epoch: 2, first, second: second.receipt },
  ]);
  const log = hosted(alice).log.length;
  const twoCommits = /signed for two Commits in one epoch/;
  await assert.rejects(alice.client.update(alice.group), twoCommits);
  await assert.rejects(alice.say("not sent"), twoCommits);
  await assert.rejects(alice.client.migrate(alice.group, "elsewhere.example"), twoCommits);
  assert.equal(hosted(alice).log.length, log);
  assert.deepEqual([alice.group.pending, alice.group.migration], [undefined, undefined]);
  await bob.client.update(bob.group);
  await alice.sync(); // alice reads the messages after the first Commit
  together(alice, bob);
  assert.ok(alice.group.fork);
});

test("a host that has taken another Commit since its backup is shown the receipt of the first", async () => {
  const { users, s } = await party("alice", "bob");
  const [alice, bob] = users as [User, User];
  const backup = structuredClone(hosted(alice));
  await alice.client.update(alice.group); // bob does not hear of it
  net.lose(bob.id);
  net.ds(s).groups.set(alice.group.key, backup);
  await bob.client.update(bob.group); // another Commit for the same epoch
  net.lose(alice.id);
  await assert.rejects(alice.say("on the first branch"), /M_GROUP_STOPPED/);
  assert.equal(hosted(alice).state, "stopped");
});
