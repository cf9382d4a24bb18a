// Members whose Delivery Service is lost, and a successor on which the room has agreed. The members follow it without a
// call.
import assert from "node:assert/strict";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import type { StateEvent } from "../src/matrix.js";
import { emptyState } from "../src/records.js";
import { RoomState } from "../src/room.js";
import { loadStore, saveStore } from "./files.js";
import { successorsIn, successorsNow, successorsOf } from "../src/successors.js";
import { refuse } from "./fake.js";
import { clock, net, nextRoom, party, together, User } from "./party.js";

const HOUR = 3600_000;
const SUCCESSORS = "io.github.mimiport.successors";
const POWER_LEVELS = "m.room.power_levels";

const hosted = (u: User, ds = u.group.ds) => net.ds(ds).groups.get(u.group.key)!;

/** A group of alice and bob at s, whose room has agreed on t. Only alice may send the pointer. */
async function agreed(t_: TestContext, { list = (t: string) => [t] } = {}) {
  t_.after(() => (clock.ahead = 0));
  const p = await party("alice", "bob");
  const [alice, bob] = p.users as [User, User];
  net.setState(p.room, POWER_LEVELS, { users: { [alice.id]: 100 }, state_default: 100 }, alice.id);
  net.members.set(p.room, [alice.id, bob.id, `@carol:${p.t}`, `@dave:u${p.t}`]);
  await alice.client.setSuccessors(alice.group, list(p.t));
  for (const u of [alice, bob]) await u.client.bringUpToDate(u.group);
  return { ...p, alice, bob };
}

/** Loses the host. Another server recovers the group in bob's state. */
async function recovered(p: { s: string; bob: User }, by: string) {
  const held = await p.bob.client.export(p.bob.group);
  net.ds(p.s).down = true;
  net.ds(by).claim(3, held);
}

/** Makes a user check the group each hour for some hours. */
async function hours(u: User, n: number): Promise<void> {
  for (let i = 0; i < n; i++) {
    clock.ahead += HOUR;
    await u.sync();
  }
}

test("a member follows a successor's recover when the host could not be reached for a day", async (t_) => {
  const p = await agreed(t_);
  const { alice, bob, s, t, room } = p;
  await recovered(p, t);
  await hours(bob, 24); // from the first hour on, the host is known to be away
  assert.equal(bob.group.ds, s);
  await hours(bob, 1);
  assert.deepEqual([bob.group.ds, bob.group.term, bob.group.silent], [t, 1, undefined]);
  await hours(alice, 25);
  together(alice, bob);
  assert.equal(net.state.get(`${room} io.github.mimiport.delivery_service`).via, t); // alice may send it
  await bob.say("on");
  await alice.sync();
  assert.equal(alice.texts().at(-1), "on");
});

test("a member follows a successor at once when the host has stopped", async (t_) => {
  const { bob, s, t } = await agreed(t_);
  const held = await bob.client.export(bob.group);
  net.ds(t).claim(3, held);
  await bob.sync();
  hosted(bob, s).state = "stopped";
  await assert.rejects(bob.client.update(bob.group), /M_GROUP_STOPPED/);
  await bob.sync();
  assert.deepEqual([bob.group.ds, bob.group.term], [t, 1]);
});

test("a host that answers once, and a client that was away itself, begin anew", async (t_) => {
  const p = await agreed(t_);
  const { bob, s, t } = p;
  await recovered(p, t);
  await hours(bob, 20);
  net.ds(s).down = false;
  await hours(bob, 1);
  assert.equal(bob.group.silent, undefined);
  net.ds(s).down = true;
  await hours(bob, 20);
  clock.ahead += 7 * HOUR;
  await hours(bob, 23);
  assert.equal(bob.group.ds, s);
  clock.ahead -= 30 * HOUR; // nor does a clock that has gone back tell anything
  await hours(bob, 23);
  assert.equal(bob.group.ds, s);
  await hours(bob, 2);
  assert.equal(bob.group.ds, t);
});

test("a host is there that cannot ask the own homeserver for the device", async (t_) => {
  const p = await agreed(t_);
  const { bob, s, t } = p;
  const answer = net.ds(s).answer.bind(net.ds(s));
  await recovered(p, t);
  net.ds(s).down = false;
  net.ds(s).answer = (method, path, ...rest) =>
    path.length === 2 ? refuse(502, "M_PEER_UNREACHABLE", { rule: "homeserver" }) : answer(method, path, ...rest);
  await hours(bob, 25);
  assert.deepEqual([bob.group.ds, bob.group.silent], [s, undefined]);
});

test("how long the host has been out of reach survives a restart", async (t_) => {
  const dir = mkdtempSync(join(tmpdir(), "mimiport-"));
  t_.after(() => rmSync(dir, { recursive: true }));
  t_.after(() => (clock.ahead = 0));
  const n = nextRoom();
  const [file, room, s, t] = [join(dir, "alice.json"), `!room${n}`, `s${n}.example`, `t${n}.example`];
  const stored = emptyState();
  const alice = await User.create(`alice${n}`, stored, () => saveStore(file, stored));
  await alice.client.createGroup(room, s);
  net.setState(room, POWER_LEVELS, { users: { [alice.id]: 100 } }, alice.id);
  net.members.set(room, [alice.id, `@carol:${t}`]);
  await alice.client.setSuccessors(alice.group, [t]);
  await alice.client.bringUpToDate(alice.group);
  await recovered({ s, bob: alice }, t);
  await alice.sync();
  await hours(alice, 12);
  const again = await User.create(`alice${n}`, loadStore(file));
  await hours(again, 11);
  assert.equal(again.group.ds, s);
  await hours(again, 1);
  assert.equal(again.group.ds, t);
});

test("a claim below the receipt, by no successor, or by a list that does not count moves nobody", async (t_) => {
  const stays = async (p: { bob: User; s: string }) => {
    await hours(p.bob, 30);
    assert.equal(p.bob.group.ds, p.s);
    clock.ahead = 0;
  };
  const late = await agreed(t_);
  const held = await late.alice.client.export(late.alice.group);
  await late.bob.client.update(late.bob.group);
  net.ds(late.s).down = true;
  net.ds(late.t).claim(3, held);
  await stays(late);
  const ignored = late.bob.take("ignored").some((e) => e.event === "ignored" && /a receipt/.test(e.reason));
  assert.ok(ignored);

  const other = await agreed(t_);
  await recovered(other, `u${other.t}`); // has a user in the room, and is not listed
  await stays(other);

  const reclaim = await agreed(t_);
  await recovered(reclaim, reclaim.t);
  net.ds(reclaim.t).claim(2, await reclaim.bob.client.export(reclaim.bob.group));
  await stays(reclaim);

  const weak = await agreed(t_);
  await recovered(weak, weak.t);
  net.setState(weak.room, POWER_LEVELS, { users: { [weak.alice.id]: 50 }, state_default: 100 }, weak.alice.id);
  await stays(weak);

  const gone = await agreed(t_);
  await recovered(gone, gone.t);
  net.members.set(gone.room, [gone.alice.id, gone.bob.id]);
  await stays(gone);

  const denied = await agreed(t_);
  await recovered(denied, denied.t);
  const acl = { allow: ["*"], deny: [`*${denied.t.slice(1).toUpperCase()}`] };
  net.setState(denied.room, "m.room.server_acl", acl, denied.alice.id);
  await stays(denied);
});

test("a list that was redacted leaves the last good one", async (t_) => {
  const p = await agreed(t_);
  const { alice, bob, t, room } = p;
  await hours(bob, 1);
  net.setState(room, SUCCESSORS, {}, alice.id);
  await recovered(p, t);
  await hours(bob, 25);
  assert.equal(bob.group.ds, t);
});

test("of two successors the one listed first that has claimed the group is followed", async (t_) => {
  const p = await agreed(t_, { list: (t) => [`gone.${t}`, `u${t}`, t].slice(1) });
  const { bob, t } = p;
  await recovered(p, t);
  net.ds(`u${t}`).claim(3, await bob.client.export(bob.group));
  await hours(bob, 25);
  assert.equal(bob.group.ds, `u${t}`);
});

test("who may name successors, and which", async (t_) => {
  const { alice, bob, t } = await agreed(t_);
  await assert.rejects(bob.client.setSuccessors(bob.group, [t]), /may not name successors/);
  await assert.rejects(alice.client.setSuccessors(alice.group, ["stranger.example"]), /no user in the room/);
  await assert.rejects(alice.client.setSuccessors(alice.group, [t, t]), /each once/);
  await assert.rejects(alice.client.setSuccessors(alice.group, [""]), /server names/);
  const many = Array.from({ length: 17 }, (_, i) => `s${i}.example`);
  await assert.rejects(alice.client.setSuccessors(alice.group, many), /at most 16/);
  await alice.client.setSuccessors(alice.group, []);
});

test("what a room's state says of successors", () => {
  const [room_id, group_id] = ["!room", "_".repeat(43)];
  const event = (type: string, content: unknown, sender = "@a:a", state_key = ""): StateEvent => {
    return { type, content, sender, state_key };
  };
  const list = (servers: unknown) => ({ room_id, group_id, servers });
  const joined = event("m.room.member", { membership: "join" }, "@b:b.example", "@b:b.example");
  const now = (...events: StateEvent[]) => successorsNow([joined, ...events], room_id, group_id, ["known.example"]);
  const named = event(SUCCESSORS, list(["b.example"]));

  for (const servers of [undefined, "b.example", [1], ["b.example", "b.example"], ["a/b"]])
    assert.equal(successorsIn(list(servers), room_id, group_id), undefined);
  assert.equal(successorsIn(list([]), "!other", group_id), undefined);
  assert.equal(successorsIn(list([]), room_id, "AA"), undefined);

  const create = (room_version: string) => event("m.room.create", { room_version, additional_creators: ["@c:c"] });
  assert.deepEqual(now(create("11"), named), ["b.example"]); // without power levels the creator has 100
  const levels = (users: object, more = {}) => event(POWER_LEVELS, { users, ...more });
  const pointer = "io.github.mimiport.delivery_service";
  assert.deepEqual(now(levels({ "@a:a": 50 }), named), ["b.example"]);
  assert.deepEqual(now(levels({ "@a:a": 49 }), named), []);
  assert.deepEqual(now(levels({ "@a:a": 60 }, { events: { [pointer]: 100 } }), named), []); // the pointer's level
  assert.deepEqual(now(levels({}, { users_default: 70 }), named), ["b.example"]);
  assert.deepEqual(now(create("12"), levels({}), named), ["b.example"]);
  assert.deepEqual(now(create("11"), levels({}), named), []);
  assert.deepEqual(now(create("12"), levels({}), event(SUCCESSORS, list(["b.example"]), "@c:c")), ["b.example"]);

  const file = new URL("../../../../hooks/testdata/room12.json", import.meta.url);
  const room12 = new RoomState(JSON.parse(readFileSync(file, "utf8")));
  const powers = ["@alice", "@bob", "@carol", "@dave"].map((name) => room12.power(`${name}:localhost`));
  assert.deepEqual(powers, [Infinity, Infinity, 50, 0]); // creator, additional creator, member, nobody
  const odd = event("m.room.create", { room_version: "12", additional_creators: 7 });
  assert.deepEqual(now(odd, levels({}), named), ["b.example"]);

  const acl = (content: unknown) => now(levels({ "@a:a": 100 }), named, event("m.room.server_acl", content));
  for (const [content, is] of [
    [{}, true], // redacted
    [{ allow: ["*"] }, true],
    [{ allow: ["B.EXAMPLE"] }, true],
    [{ allow: ["?.e*e"] }, true],
    [{ allow: ["example"] }, false],
    [{ allow: ["*"], deny: ["b.*"] }, false],
    [{ deny: [] }, false],
  ] as const)
    assert.equal(acl(content).length, is ? 1 : 0, JSON.stringify(content));
  const slow = `${"*a".repeat(5000)}*b`;
  const long = `${"a".repeat(200)}.example`;
  const there = event("m.room.member", { membership: "join" }, `@b:${long}`, `@b:${long}`);
  const state = [there, levels({ "@a:a": 100 }), event("m.room.server_acl", { allow: [slow] })];
  assert.throws(() => successorsOf(state, "@a:a", room_id, group_id, [long]), /denies it/);
});
