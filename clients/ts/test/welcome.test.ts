// Welcomes that arrive after the group has moved on (profile, sections 4 and 5).
import assert from "node:assert/strict";
import { test } from "node:test";
import { submission } from "../src/ds.js";
import * as mls from "../src/mls.js";
import * as wire from "../src/wire.js";
import { encode, fromBase64, toBase64, toBase64url } from "../src/wire.js";
import { refuse } from "./fake.js";
import { net, party, published, rooms, together, type User } from "./party.js";

/** Adds a user who gets no message. */
async function addUnheard(by: User, user: User): Promise<() => void> {
  net.held = [];
  await by.client.add(by.group, user.id);
  const [deliver] = net.held.slice(-1);
  net.held = undefined;
  return deliver!;
}

test("a Welcome that comes after the group has moved counts if the present host has it, too", async () => {
  const { users, s, t } = await party("alice", "bob");
  const [alice, bob] = users as [User, User];
  const carol = await published(`carol${rooms}`);
  const deliver = await addUnheard(alice, carol);
  await alice.client.migrate(alice.group, t);
  net.lose(carol.id);
  net.ds(s).down = true; // for good
  deliver();
  await carol.sync();
  for (const u of [alice, bob]) await u.sync();
  together(alice, bob, carol);
  assert.equal(carol.group.term, 1);
});

test("a Welcome that the present host does not have does not count", async () => {
  const { users, s, t } = await party("alice", "bob");
  const [alice] = users as [User];
  const carol = await published(`carol${rooms}`);
  const deliver = await addUnheard(alice, carol);
  await alice.client.migrate(alice.group, t);
  const { former } = net.ds(t).groups.get(alice.group.key)!;
  const welcome = former!.get(0)!.messages.find((m) => m.kind === "welcome" && m.epoch === 2)!;
  welcome.message = former!.get(0)!.messages.find((m) => m.kind === "welcome")!.message!;
  net.lose(carol.id);
  deliver();
  await carol.sync();
  assert.deepEqual([carol.client.stored.groups.size, carol.client.stored.invitations.length], [0, 1]);
  assert.equal(carol.client.stored.invitations[0]!.server, s);
});

/**
 * Moves a group by a Commit that adds a user. In a real Commit there is a reference to an Add, which these servers do
 * not check.
 */
async function moveWith(alice: User, user: User, target: string): Promise<void> {
  const { client, group: g } = alice;
  const { keyPackages } = user.client.stored;
  const [{ publicPackage: keyPackage }] = [...keyPackages.values()] as [mls.OwnKeyPackage];
  const { epoch } = g.state.groupContext;
  const migrationRequest = { sourceDomainName: g.ds, targetDomainName: target, groupId: g.id, epoch };
  const request = toBase64(encode(wire.migrationRequest, migrationRequest));
  const offer = await client.ds(target).requestMigration(request, g.roomId, 1);
  const migrationResponse = wire.decode(wire.migrationResponse, fromBase64(offer.migration_response));
  const aad = encode(wire.migrationCommitAAD, { targetDsDomain: target });
  const add = mls.byValue({ proposalType: "add", add: { keyPackage } });
  const commit = await mls.commit(g.state, [add], aad);
  const tbs = encode(wire.migrationInit.unsigned, { migrationResponse });
  const signature = await mls.sign(g.state, "MigrationInitTBS", tbs);
  const init = { migration_init: toBase64(encode(wire.migrationInit, { migrationResponse, signature })) };
  const body = { ...init, key_id: offer.key_id, ...submission(commit) };
  const status = await client.ds(g.ds).initMigration(wire.migrationId(migrationResponse), body);
  await client.ds(target).confirmMigration(status.migration_id, status.migration_confirmation!);
  g.pending = { ...commit, target }; // by which its sender goes on
}

test("the Welcome of a migration Commit leads to the target, whether it is in the event or not", async () => {
  for (const inline of [true, false]) {
    const { users, s, t, room } = await party("alice", "bob");
    const [alice, bob] = users as [User, User];
    const carol = await published(`carol${rooms}`);
    await moveWith(alice, carol, t);
    const welcome = net.ds(s).groups.get(toBase64url(alice.group.id))!.log.at(-1)!;
    assert.equal(welcome.kind, "welcome");
    net.lose(carol.id);
    const { message, ...reference } = welcome;
    const of = { group_id: alice.group.key, room_id: room, protocol: "mls10", term: 0 };
    net.toDevice(carol.id, `@_mimiport:${s}`, { ...of, ...reference, ...(inline && { message }) });
    net.ds(s).answer = () => refuse(404, "M_UNKNOWN_GROUP");
    net.state.set(`${room} io.github.mimiport.delivery_service`, { ...of, via: t, term: 1, epoch: 2 });
    await carol.sync();
    for (const u of [alice, bob]) await u.sync();
    together(alice, bob, carol);
    assert.deepEqual([carol.group.ds, carol.group.term, carol.group.next], [t, 1, 1]);
  }
});

test("a Welcome counts only from the server that had the group in its term", async () => {
  for (const moved of [false, true]) {
    const { users, s, t, room } = await party("alice", "bob");
    const [alice, bob] = users as [User, User];
    const carol = await published(`carol${rooms}`);
    const deliver = await addUnheard(alice, carol);
    if (moved) await alice.client.migrate(alice.group, t);
    net.lose(carol.id);
    // A stranger need not know the Welcome: the host has it.
    const of = { group_id: alice.group.key, room_id: room, protocol: "mls10", kind: "welcome", seq: 99, epoch: 2 };
    for (const term of [0, 1, 2]) net.toDevice(carol.id, `@_mimiport:stranger${rooms}.example`, { ...of, term });
    await carol.sync();
    assert.equal(carol.client.stored.groups.size, 0);
    deliver();
    await carol.sync();
    for (const u of [alice, bob]) await u.sync();
    together(alice, bob, carol);
    assert.equal(carol.group.ds, moved ? t : s);
  }
});
