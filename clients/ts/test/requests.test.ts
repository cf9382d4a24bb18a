// A member whom the group's Delivery Service asks to move the group.
import assert from "node:assert/strict";
import { test } from "node:test";
import { IN_PROGRESS } from "../src/ds.js";
import type { ClientEvent, Group } from "../src/group.js";
import { MatrixError, MOVE_REQUEST } from "../src/matrix.js";
import { type Host, MoveRequests } from "../src/requests.js";
import { type MoveRequest as Signed, moveRequest } from "../src/wire.js";
import { SigningKey } from "./fake.js";
import { net, nextRoom, party, together, User } from "./party.js";

const HOUR = 3600_000;

type MoveRequest = Omit<Signed, "signature">;

/** A group of alice and bob at s, and what its host would ask bob. The room has a user of t. */
async function asked() {
  const p = await party("alice", "bob");
  const [alice, bob] = p.users as [User, User];
  net.members.set(p.room, [alice.id, bob.id, `@carol:${p.t}`]);
  const request: MoveRequest = {
    sourceDomain: p.s,
    groupId: bob.group.id,
    term: 0n,
    roomId: p.room,
    userId: bob.id,
    targets: [p.t],
    expiresAt: BigInt(Date.now() + HOUR),
  };
  return { ...p, alice, bob, request };
}

/** Asks a user, and waits until the user has moved the group, ignored the request or failed. */
async function ask(u: User, ds: string, request: MoveRequest, { key = net.ds(ds).key, sender = ds } = {}) {
  u.events.length = 0;
  net.toDevice(u.id, `@_mimiport:${sender}`, key.sign(moveRequest, request as never), MOVE_REQUEST);
  await u.sync();
  const ended = (e: ClientEvent) =>
    ["ignored", "failed"].includes(e.event) ||
    (e.event === "move" && e.step === "moved") ||
    (e.event === "moveRequested" && e.permitted.length === 0);
  while (!u.events.some(ended)) await new Promise((resolve) => setImmediate(resolve));
  return u.events;
}

test("moves a group on its host's request", async () => {
  const { alice, bob, s, t, request } = await asked();
  await ask(bob, s, { ...request, targets: ["elsewhere.example", t] });
  const wanted = { event: "moveRequested", group: bob.group.key, from: s, targets: ["elsewhere.example", t] };
  assert.deepEqual(bob.take("moveRequested"), [{ ...wanted, permitted: [t] }]);
  assert.deepEqual([bob.group.ds, bob.group.term], [t, 1]);
  await alice.sync();
  together(alice, bob);
});

test("moves a group only to a target that the user permits", async () => {
  const { bob, s, request, room } = await asked();
  net.members.set(room, [bob.id]);
  const [event] = await ask(bob, s, request).then(() => bob.take("moveRequested"));
  assert.deepEqual(event && "permitted" in event && event.permitted, []);
  const choosy = await asked();
  const name = choosy.bob.id.slice(1).split(":")[0]!;
  const mayMove = (_: string, target: string) => target === "elsewhere.example";
  const strict = await User.create(name, choosy.bob.client.stored, undefined, { mayMove });
  await ask(strict, choosy.s, choosy.request);
  assert.deepEqual([bob.group.ds, strict.group.ds], [s, choosy.s]);
});

test("refuses requests that are forged, late or of another server", async () => {
  const { bob, alice, s, t, request } = await asked();
  const refused = async (what: string, change: Partial<MoveRequest>, more = {}) => {
    const events = await ask(bob, s, { ...request, ...change }, more);
    const kinds = events.map((e) => e.event).filter((kind) => kind === "ignored" || kind === "moveRequested");
    assert.deepEqual(kinds, ["ignored"], what);
    assert.equal(bob.group.ds, s, what);
  };
  await refused("another key", {}, { key: new SigningKey() });
  await refused("another sender", {}, { sender: t });
  await refused("another server's request", { sourceDomain: t }, { key: net.ds(t).key, sender: t });
  await refused("another term", { term: 1n });
  await refused("another room", { roomId: "!other" });
  await refused("another user", { userId: alice.id });
  await refused("expired", { expiresAt: BigInt(Date.now() - 1) });
  await refused("for too long", { expiresAt: BigInt(Date.now() + 48 * HOUR) });
  await ask(bob, s, request);
  assert.equal(bob.group.ds, t, "the right one");
  const late = await ask(bob, s, request);
  assert.deepEqual([late.at(-1)?.event, bob.group.ds], ["ignored", t], "after the move");
});

test("ignores what is no request, and requests for groups that are not there", async () => {
  const { bob, s, request } = await asked();
  for (const content of [null, {}, { message: 1, key_id: "a" }, { message: "AAAA", key_id: "a" }])
    net.toDevice(bob.id, `@_mimiport:${s}`, content, MOVE_REQUEST);
  const other = { ...request, groupId: new Uint8Array([1]) };
  net.toDevice(bob.id, `@_mimiport:${s}`, net.ds(s).key.sign(moveRequest, other as never), MOVE_REQUEST);
  await bob.sync();
  await bob.sync();
  assert.deepEqual([bob.take("failed"), bob.group.ds], [[], s]);
});

test("follows a genuine request while it checks a forged one", async () => {
  const { bob, s, t, request } = await asked();
  const keys = [new SigningKey(), net.ds(s).key];
  const event = { type: MOVE_REQUEST, sender: `@_mimiport:${s}` };
  const signed = keys.map((key) => ({ ...event, content: key.sign(moveRequest, request as never) }));
  await Promise.all(signed.map((e) => bob.client["requests"].followRequest(e as never)));
  assert.deepEqual([bob.group.ds, bob.group.term], [t, 1]);
});

test("moves a group from where the request says, not from where it has gone meanwhile", async () => {
  const { bob, s, t, request } = await asked();
  const began: (Host | undefined)[] = [];
  const signedBy = async (g: Group) => {
    Object.assign(g, { ds: t, term: 1 }); // another member's move
    return true;
  };
  const requests = new MoveRequests(
    bob.client.matrix,
    { evidence: { signedBy } } as never,
    { now: Date.now, emit: () => undefined, mayMove: () => true } as never,
    {
      group: () => bob.group,
      bringUpToDate: async () => undefined,
      migrate: async (_, __, from) => {
        began.push(from);
        return { state: "aborted", reason: "" };
      },
    },
  );
  const content = net.ds(s).key.sign(moveRequest, { ...request, targets: ["elsewhere.example"] } as never);
  await requests.followRequest({ type: MOVE_REQUEST, sender: `@_mimiport:${s}`, content } as never);
  assert.deepEqual(began, [{ ds: s, term: 0 }]);
});

test("waits only for a short time, whatever a server asks for", async () => {
  const pauses: number[] = [];
  const u = await User.create(`dora${nextRoom()}`, undefined, undefined, {
    pause: async (ms) => void pauses.push(ms),
  });
  const waits: unknown[] = [1, 1e12, "soon", null];
  await u.client["patiently"](async () => {
    if (waits.length === 0) return;
    throw new MatrixError(409, { errcode: `IO.GITHUB.MIMIPORT.${IN_PROGRESS}`, retry_after_ms: waits.shift() });
  });
  assert.deepEqual(pauses, [200, 30_000, 200, 200]);
});
