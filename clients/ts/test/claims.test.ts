// Members whose Delivery Service is lost or has forgotten messages follow a claim, and continue or join again.
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { test, type TestContext } from "node:test";
import { ratchetTree } from "../src/mls.js";
import { decode, encode, fromBase64, lineage, lineageClaim, toBase64 } from "../src/wire.js";
import { refuse } from "./fake.js";
import { clock, net, nextRoom, party, published, rooms, together, User } from "./party.js";
import { emptyState } from "../src/records.js";
import { loadStore, saveStore } from "./files.js";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

const hosted = (u: User, ds = u.group.ds) => net.ds(ds).groups.get(u.group.key)!;

const pointer = (room: string) => net.state.get(`${room} io.github.mimiport.delivery_service`);

/** The claim at the end of a server's lineage, and its hash. */
function lastClaim(u: User, ds: string) {
  const step = hosted(u, ds).lineage.steps.at(-1)!;
  assert.ok("lineageClaim" in step);
  const { message } = step.lineageClaim;
  return { step, message, hash: toBase64(new Uint8Array(createHash("sha256").update(message).digest())) };
}

/** Makes users send in both directions. */
async function talk(a: User, b: User): Promise<void> {
  for (const [from, to] of [
    [a, b],
    [b, a],
  ] as const) {
    const text = `${from.id} ${from.texts().length} ${to.texts().length}`;
    await from.say(text);
    await to.sync();
    assert.equal(to.texts().at(-1), text);
  }
}

/** A group that moved from s to t while alice was offline. bob has followed it, and t is lost. */
async function lostTarget({ receipts = true } = {}) {
  const p = await party("alice", "bob");
  const [alice, bob] = p.users as [User, User];
  net.ds(p.t).receipts = receipts;
  await alice.client.migrate(alice.group, p.t);
  await bob.sync();
  await alice.client.bringUpToDate(alice.group);
  const held = await alice.client.export(alice.group);
  await bob.client.update(bob.group);
  await bob.say("at the target");
  net.lose(alice.id);
  net.ds(p.t).down = true;
  return { ...p, alice, bob, held };
}

test("a reclaim: who is where the new term begins goes on, who went on elsewhere enters anew", async () => {
  const { alice, bob, held, s, t, room } = await lostTarget();
  net.ds(s).claim(2, held);
  await bob.sync();
  assert.equal(bob.group.ds, t); // no server that counts has said anything
  await alice.client.follow(alice.group, s);
  assert.deepEqual([alice.group.ds, alice.group.term, alice.group.unproven], [s, 2, undefined]);
  assert.equal(alice.take("joined").length, 0);
  assert.deepEqual(pointer(room), {
    ...{ room_id: room, group_id: alice.group.key, via: s, term: 2, epoch: 2 },
    claim_hash: lastClaim(alice, s).hash,
  });
  await bob.client.follow(bob.group, s);
  assert.equal(bob.take("joined").length, 2);
  await alice.sync();
  together(alice, bob);
  await talk(alice, bob);
  await bob.client.update(bob.group);
  await alice.sync();
  const carol = await User.create(`carol${rooms}`);
  await carol.client.publishKeyPackages(1);
  await alice.client.add(alice.group, carol.id);
  for (const u of [bob, carol]) await u.sync();
  together(alice, bob, carol);
  assert.equal((await bob.client.migrate(bob.group, `u${s}`)).state, "moved");
  for (const u of [alice, carol]) await u.sync();
  together(alice, bob, carol);
  assert.equal(decode(lineage, fromBase64((await bob.client.export(bob.group)).lineage)).steps.length, 3);
});

test("a server that is back gives its last messages and no Commit, and is told", async () => {
  const { alice, held, s, t } = await lostTarget();
  const other = hosted(alice, t);
  net.ds(s).claim(2, held);
  await alice.client.follow(alice.group, s);
  const before = alice.group.state.groupContext;
  net.ds(t).down = false;
  await alice.client.bringUpToDate(alice.group);
  assert.equal(alice.group.state.groupContext.epoch, before.epoch);
  assert.deepEqual([other.state, other.moved?.delivery_service], ["moved", s]);
});

test("who holds the server that yields follows its redirect", async () => {
  const { alice, bob, held, s, t } = await lostTarget({ receipts: false });
  net.ds(s).claim(2, held);
  await alice.client.follow(alice.group, s);
  net.ds(t).down = false;
  await alice.client.bringUpToDate(alice.group);
  await bob.client.update(bob.group);
  await alice.sync();
  together(alice, bob);
  assert.equal(bob.group.ds, s);
  await talk(alice, bob);
});

test("who has a receipt for a Commit that a claim leaves out follows it by the user's word alone", async () => {
  const { alice, bob, held, s, t } = await lostTarget();
  net.ds(s).claim(2, held);
  await alice.client.follow(alice.group, s);
  net.ds(t).down = false;
  await alice.client.bringUpToDate(alice.group); // alice shows the claim to t, which yields
  await assert.rejects(bob.client.update(bob.group), /M_GROUP_MOVED/);
  assert.equal(bob.group.ds, t);
  const ignored = bob.take("ignored").some((e) => e.event === "ignored" && e.from === s && /a receipt/.test(e.reason));
  assert.ok(ignored);
  await bob.client.follow(bob.group, s);
  await alice.sync();
  together(alice, bob);
  await talk(alice, bob);
});

test("a host goes on that the room does not tell to yield, and members stay", async () => {
  const { alice, bob, held, s, t, room } = await lostTarget({ receipts: false });
  net.ds(s).claim(2, held);
  const group_id = bob.group.key;
  net.point(room, { room_id: room, group_id, via: s, term: 2, epoch: 2, claim_hash: "another" });
  net.ds(t).down = false;
  await bob.client.bringUpToDate(bob.group);
  await bob.sync();
  assert.deepEqual([hosted(bob, t).state, bob.group.ds], ["active", t]);
  await alice.client.follow(alice.group, s); // keeps the pointer, which is already of this term
  assert.equal(pointer(room).claim_hash, "another");
  const shown = { lineage: toBase64(encode(lineage, hosted(alice, s).lineage)) };
  const path = ["groups", bob.group.key, "lineage"];
  assert.throws(() => net.ds(t).answer("PUT", path, new URLSearchParams(), shown, bob.id), /M_CONFLICT/);
});

/** The lost target, a claim to the group, and a room whose pointer names the claim. */
async function named({ receipts = false } = {}) {
  const p = await lostTarget({ receipts });
  net.ds(p.s).claim(2, p.held);
  await p.alice.client.follow(p.alice.group, p.s);
  net.point(p.room, pointer(p.room));
  return p;
}

/** Sets all users' clocks ahead until the test ends. */
function ahead(t: TestContext, minutes: number): void {
  clock.ahead = minutes * 60_000;
  t.after(() => (clock.ahead = 0));
}

test("a member shows the host the claim that the pointer names, and follows where the host yields", async () => {
  const { alice, bob, s, t } = await named();
  net.ds(t).down = false;
  await bob.sync();
  assert.deepEqual([hosted(bob, t).state, bob.group.ds, bob.group.term], ["moved", s, 2]);
  await alice.sync();
  together(alice, bob);
});

test("a member follows the pointer when the host has not yielded within ten minutes", async (t_) => {
  const { alice, bob, s, t } = await named();
  await bob.sync();
  ahead(t_, 9);
  await bob.sync();
  assert.equal(bob.group.ds, t);
  ahead(t_, 11);
  await bob.sync();
  assert.deepEqual([bob.group.ds, bob.group.term, bob.group.named], [s, 2, undefined]);
  await alice.sync();
  together(alice, bob);
  await talk(alice, bob);
});

test("a claim that the pointer still names after a move is found in the lineage", async () => {
  const { alice, bob, room, s, t } = await named();
  const target = `u${s}`;
  await alice.client.migrate(alice.group, target);
  hosted(alice, target).tree = toBase64(ratchetTree(alice.group.state));
  const answer = net.ds(target).answer.bind(net.ds(target));
  net.ds(target).answer = (method, path, query, ...rest) =>
    path[2] === "messages" && query.get("term") === "2" // bob can read nothing: he is on the lost branch
      ? { messages: [], next: 1, end: true }
      : answer(method, path, query, ...rest);
  net.point(room, { ...pointer(room), via: target, term: 3 });
  net.ds(t).down = false;
  await bob.sync();
  assert.deepEqual([hosted(bob, t).state, hosted(bob, t).moved?.delivery_service], ["moved", s]);
  await alice.sync();
  together(alice, bob);
  assert.deepEqual([bob.group.ds, bob.group.term], [target, 3]);
});

test("a pointer that has changed, or a claim that leaves out a Commit with a receipt, moves nobody", async (t_) => {
  for (const receipts of [false, true]) {
    const { bob, room, t } = await named({ receipts });
    await bob.sync();
    if (!receipts) net.state.set(`${room} io.github.mimiport.delivery_service`, {});
    ahead(t_, 11);
    await bob.sync();
    assert.equal(bob.group.ds, t);
    clock.ahead = 0;
  }
});

test("a recover: members go on from what one of them held", async () => {
  const { users, s, t } = await party("alice", "bob", "carol");
  const [alice, bob, carol] = users as [User, User, User];
  net.lose(carol.id);
  await bob.client.update(bob.group);
  await alice.sync();
  await bob.client.bringUpToDate(bob.group);
  net.ds(s).down = true;
  net.lose(carol.id);
  await assert.rejects(alice.client.update(alice.group)); // a Commit without an answer
  net.ds(t).claim(3, await bob.client.export(bob.group));
  await alice.client.follow(alice.group, t);
  assert.ok(alice.group.pending);
  await bob.client.follow(bob.group, t);
  await alice.client.update(alice.group); // that Commit comes first
  await bob.sync();
  together(alice, bob);
  assert.equal(alice.take("joined").length, 0);
  hosted(bob).tree = toBase64(ratchetTree(bob.group.state));
  await carol.client.follow(carol.group, t); // the messages that she missed are lost
  for (const u of [alice, bob]) await u.sync();
  together(alice, bob, carol);
  await talk(alice, carol);
});

test("a restored server is behind; what it recovers goes on without loss", async () => {
  const { users, s } = await party("alice", "bob");
  const [alice, bob] = users as [User, User];
  const backup = structuredClone(hosted(alice));
  await alice.client.bringUpToDate(alice.group);
  for (const u of [alice, bob]) await u.client.update(u.group);
  await alice.sync();
  await bob.sync();
  net.ds(s).groups.set(alice.group.key, backup);
  const behind = /the Delivery Service is behind: it is in epoch 1, this device in 3/;
  await assert.rejects(alice.client.update(alice.group), behind); // shows the server its receipt
  await assert.rejects(alice.client.update(alice.group), /M_GROUP_STOPPED/);
  await assert.rejects(alice.client.migrate(alice.group, "elsewhere.example"), behind);
  await assert.rejects(bob.say("too early"), /M_GROUP_STOPPED/);
  assert.deepEqual([alice.group.pending, alice.group.migration, bob.group.sent.size], [undefined, undefined, 1]);
  net.ds(s).claim(3, await alice.client.export(alice.group));
  await bob.say("in the new term"); // by itself
  await alice.sync();
  assert.deepEqual(alice.texts(), ["in the new term"]);
  assert.deepEqual([...alice.take("joined"), ...bob.take("joined").slice(1)], []);
  await alice.client.update(alice.group);
  await bob.sync();
  together(alice, bob);
  assert.deepEqual([bob.group.ds, bob.group.term], [s, 1]);
});

test("a message of a branch that was lost is sent again", async () => {
  const { users, s } = await party("alice", "bob");
  const [alice, bob] = users as [User, User];
  net.ds(s).receipts = false; // or bob would not follow
  await alice.client.bringUpToDate(alice.group);
  const held = await alice.client.export(alice.group);
  await bob.client.update(bob.group); // epoch 2 here
  net.lose(alice.id);
  net.ds(s).claim(3, held);
  await alice.client.update(alice.group); // epoch 2 there
  hosted(alice).tree = toBase64(ratchetTree(alice.group.state));
  net.lose(bob.id);
  await bob.say("heard");
  await alice.sync();
  assert.deepEqual(alice.texts(), ["heard"]);
  together(alice, bob);
});

test("a server that has stopped says so, and nothing is kept for it", async () => {
  const { users, s } = await party("alice");
  const [alice] = users as [User];
  const answer = net.ds(s).answer.bind(net.ds(s));
  net.ds(s).answer = (method, path, ...rest) =>
    method === "POST" && path[2] === "messages" ? refuse(409, "M_GROUP_STOPPED") : answer(method, path, ...rest);
  await assert.rejects(alice.client.update(alice.group), /M_GROUP_STOPPED/);
  assert.equal(alice.group.pending, undefined);
});

test("a pending Commit and a migration of the lost term are over", async () => {
  const n = rooms + 1;
  for (const name of [`s${n}.example`, `u${n}.example`]) await net.ds(name).becomeSender();
  const { users, s, t } = await party("alice", "bob", "carol");
  const [alice, bob, carol] = users as [User, User, User];
  await alice.client.bringUpToDate(alice.group);
  const held = await bob.client.bringUpToDate(bob.group).then(() => bob.client.export(bob.group));
  await net.ds(s).proposeRemove(alice.group.key, carol.group.state.privatePath.leafIndex);
  await alice.sync();
  net.ds(s).outcome = "wait";
  const migrating = alice.client.migrate(alice.group, `u${n}.example`).catch((e) => e);
  while (alice.group.migration === undefined) await bob.sync();
  net.ds(s).down = true;
  net.ds(t).claim(3, held);
  await alice.client.follow(alice.group, t);
  assert.equal((await migrating).state, "moved"); // started again, from the new host
  assert.deepEqual(Object.keys(alice.group.state.unappliedProposals), []);
  await bob.client.follow(bob.group, t);
  await bob.sync();
  assert.equal(bob.group.ds, `u${n}.example`);
});

test("a claim counts only with its server's signature, for this group, in a term that follows", async () => {
  const { alice, bob, held, s, t } = await lostTarget();
  const ds = net.ds(s);
  ds.claim(2, held);
  const honest = ds.answer.bind(ds);
  const told = hosted(alice, s).lineage;
  const { step: last, message } = lastClaim(alice, s);
  const claim = decode(lineageClaim, message);
  const by = (signer: string, more: object, kind: 2 | 3 = 2) => {
    const { message, key_id } = net.ds(signer).key.sign(lineageClaim, { ...claim, ...more });
    const step = { kind, lineageClaim: { message: fromBase64(message), keyId: key_id, keyObject: new Uint8Array() } };
    return { ...told, steps: [...told.steps.slice(0, -1), step] };
  };
  const lies = [
    by("stranger.example", {}),
    by(s, { domainName: "stranger.example" }),
    by(s, { groupId: new Uint8Array(32) }),
    by(s, { term: 3n }),
    by(s, { term: 1n }),
    { ...told, steps: told.steps.slice(0, -1) },
    { ...told, steps: [...told.steps.slice(1)] },
    { ...told, creatingServer: "stranger.example", preimage: undefined },
    { ...told, steps: [last, last] },
  ];
  for (const lie of lies) {
    ds.answer = (method, path, ...rest) =>
      path[2] === "host" ? { lineage: toBase64(encode(lineage, lie)) } : honest(method, path, ...rest);
    for (const u of [alice, bob]) {
      await assert.rejects(u.client.follow(u.group, s), /shows no claim/);
      assert.deepEqual([u.group.ds, u.group.term, u.group.unproven], [t, 1, undefined]);
    }
  }
  ds.answer = honest;
  await alice.client.follow(alice.group, s);
  assert.equal(alice.group.ds, s);
  await assert.rejects(alice.client.follow(alice.group, s), /shows no claim/); // it is there already
});

test("what has not been proved yet survives a restart", async (t_) => {
  const dir = mkdtempSync(join(tmpdir(), "mimiport-"));
  t_.after(() => rmSync(dir, { recursive: true }));
  const file = join(dir, "alice.json");
  const n = nextRoom();
  const [s, t] = [`s${n}.example`, `t${n}.example`];
  const stored = emptyState();
  const alice = await User.create(`alice${n}`, stored, () => saveStore(file, stored));
  await alice.client.createGroup(`!room${n}`, s);
  await alice.client.add(alice.group, (await published(`bob${n}`)).id);
  await alice.sync();
  const held = await alice.client.export(alice.group);
  await alice.client.update(alice.group);
  net.ds(s).down = true;
  net.ds(t).claim(3, held);
  const ds = net.ds(t);
  const honest = ds.answer.bind(ds);
  ds.answer = (method, path, ...rest) =>
    path[0] === "groups" && path.length === 2 ? refuse(403, "M_NOT_NOW") : honest(method, path, ...rest);
  await assert.rejects(alice.client.follow(alice.group, t), /M_NOT_NOW/);
  const again = await User.create(`alice${n}`, loadStore(file));
  assert.deepEqual([again.group.ds, again.group.unproven], [t, true]);
  await assert.rejects(again.client.export(again.group), /has not been told/);
  ds.answer = honest;
  await again.say("here"); // proves first, and so enters anew
  assert.equal(again.take("joined").length, 1);
  assert.equal(ds.groups.get(again.group.key)!.log.at(-1)!.kind, "application");
});
