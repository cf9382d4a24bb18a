// Groups that were ended for good, and the next group of their room.
import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { createCommit, encodeMlsMessage } from "ts-mls";
import { utf8 } from "../src/bytes.js";
import { BINDING } from "../src/matrix.js";
import * as mls from "../src/mls.js";
import { TOMBSTONE } from "../src/room.js";
import { loadStore, saveStore } from "./files.js";
import { toBase64 } from "../src/wire.js";
import { net, party, User } from "./party.js";

test("a closed group takes nothing more, and its members meet in the room's next one", async (t) => {
  const { users, s, room } = await party("alice", "bob", "carol");
  const [alice, bob, carol] = users as [User, User, User];
  const former = alice.group;
  await assert.rejects(alice.client.reset(former), /not closed/);
  await alice.client.close(former);
  await assert.rejects(bob.say("too late"), /M_GROUP_CLOSED/);
  await assert.rejects(carol.client.update(carol.group), /M_GROUP_CLOSED/);
  for (const u of users) assert.deepEqual(u.take("closed"), [{ event: "closed", group: former.key }]);
  assert.deepEqual(bob.group.outbox, []);
  const dir = mkdtempSync(join(tmpdir(), "mimiport-"));
  t.after(() => rmSync(dir, { recursive: true }));
  saveStore(join(dir, "bob"), bob.client.stored);
  assert.ok(loadStore(join(dir, "bob")).groups.get(former.key)!.closed);

  net.oneTimeKeys.get(carol.id)!.clear(); // nobody can add carol
  const next = await alice.client.reset(former);
  assert.notEqual(next.key, former.key);
  assert.deepEqual([next.roomId, next.ds, next.closed], [room, s, undefined]);
  await bob.sync();
  await alice.client.send(next, utf8("here we are"));
  await bob.sync();
  assert.deepEqual(bob.texts(), ["here we are"]);
  assert.deepEqual(
    mls.members(bob.client.group(next.key).state).map((m) => m.userId),
    [alice.id, bob.id],
  );
  const [failed, ...more] = alice.take("failed");
  assert.deepEqual(more, []);
  assert.ok(failed?.event === "failed" && failed.reason.includes(carol.id));

  const found = await carol.client.nextOf(former);
  assert.deepEqual(found, { roomId: room, id: next.key });
  net.ds(s).groups.get(next.key)!.tree = toBase64(mls.ratchetTree(next.state));
  const entered = await carol.client.rejoin(found!.roomId);
  await alice.sync();
  await carol.client.send(entered, utf8("me too"));
  await alice.sync();
  assert.deepEqual(alice.texts().at(-1), "me too");
});

test("a group goes on only in the group that names it, in its room or the one that replaces it", async () => {
  const { users, room } = await party("alice");
  const { client, group, id } = users[0]!;
  const [after, other] = [`!after${room}`, `!other${room}`];
  const next = (names: object) => ({ group_id: "BBBB", ...names });
  const inRoom = { room_id: room, former: { group_id: group.key } };
  const inAfter = { room_id: after, former: { group_id: group.key, room_id: room } };
  const found = (roomId: string) => ({ roomId, id: "BBBB" });
  for (const [binding, replacement, afterBinding, want] of [
    [next(inRoom), undefined, undefined, found(room)],
    [next({ ...inRoom, former: undefined }), undefined, undefined, undefined],
    [next({ ...inRoom, former: { group_id: "CCCC" } }), undefined, undefined, undefined],
    [next({ ...inRoom, room_id: other }), undefined, undefined, undefined], // a copy of another room's
    [{}, after, next(inAfter), found(after)],
    [{}, other, next(inAfter), undefined],
    [{}, after, next({ ...inAfter, former: { group_id: group.key } }), undefined], // a group of the other room
    [{}, { not: "a name" }, next(inAfter), undefined],
  ] as const) {
    net.setState(room, BINDING, binding, id);
    net.setState(room, TOMBSTONE, replacement && { replacement_room: replacement }, id);
    net.setState(after, BINDING, afterBinding, id);
    assert.deepEqual(await client.nextOf(group), want);
  }
});

test("a ReInit closes a group, and is no removal", async () => {
  const { users, s } = await party("alice", "bob");
  const [alice, bob] = users as [User, User];
  const cipherSuite = await mls.cipherSuite(1);
  const reinit = {
    groupId: new Uint8Array(32),
    version: "mls10" as const,
    cipherSuite: cipherSuite.name,
    extensions: [],
  };
  const { commit, newState } = await createCommit(
    { state: alice.group.state, cipherSuite },
    { extraProposals: [{ proposalType: "reinit", reinit }], wireAsPublicMessage: true },
  );
  const body = { message: toBase64(encodeMlsMessage(commit)), group_info: toBase64(await mls.groupInfo(newState)) };
  net.ds(s).answer("POST", ["groups", alice.group.key, "messages"], new URLSearchParams(), body, alice.id);
  await bob.sync();
  assert.deepEqual(bob.take("closed"), [{ event: "closed", group: bob.group.key }]);
  assert.deepEqual([...bob.take("removed"), ...bob.take("failed")], []);
  assert.equal(bob.group.state.groupContext.epoch, newState.groupContext.epoch);
  await assert.rejects(bob.client.update(bob.group));
});
