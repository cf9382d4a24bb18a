// Clients against Delivery Services in memory: races, lost and forged fan-out, migrations and their ends.
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import type { Migrated } from "../src/ds.js";
import { emptyState } from "../src/records.js";
import { loadStore, saveStore } from "./files.js";
import { externalSenders } from "../src/corrections/external-senders.js";
import { utf8 } from "../src/bytes.js";
import { members, ratchetTree, transcript } from "../src/mls.js";
import { decode, fromBase64, migrationAbort, migrationConfirmation, migrationResponse, toBase64 } from "../src/wire.js";
import type { LineageStep, MigrationResponse } from "../src/wire.js";
import { type FakeDs, refuse } from "./fake.js";
import { authenticator, clock, net, nextRoom, party, published, rooms, together, User } from "./party.js";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

/** Whether each Commit of a user was accepted; undefined while they cannot know. */
function fates({ events }: User): (boolean | undefined)[] {
  const ended = new Map<string, boolean>();
  for (const e of events) if (e.event === "commit_ended") ended.set(e.to, e.accepted);
  return events.flatMap((e) => (e.event === "commit" ? [ended.get(e.to)] : []));
}

describe("a group at one Delivery Service", () => {
  test("create, add, send, remove", async () => {
    const {
      users: [alice, bob, carol],
    } = (await party("alice", "bob", "carol")) as { users: User[] } as any;
    await bob.say("hello");
    await alice.sync();
    await carol.sync();
    await bob.sync();
    assert.deepEqual(
      [alice, bob, carol].map((u: User) => u.texts()),
      [["hello"], [], ["hello"]],
    );
    await alice.client.remove(alice.group, carol.id);
    await bob.sync();
    await carol.sync();
    together(alice, bob);
    assert.equal(carol.take("removed").length, 1);
    assert.deepEqual([...alice.take("failed"), ...bob.take("failed"), ...carol.take("failed")], []);
  });

  test("a removed user is added again", async () => {
    const { users } = await party("alice", "bob");
    const [alice, bob] = users as [User, User];
    await alice.client.remove(alice.group, bob.id);
    await bob.sync();
    await alice.client.add(alice.group, bob.id);
    await bob.sync();
    together(alice, bob);
  });

  test("a lost race is caught up and tried again", async () => {
    const { users } = await party("alice", "bob", "carol");
    const [alice, bob, carol] = users as [User, User, User];
    await bob.client.update(bob.group); // alice does not know of it
    await alice.client.update(alice.group);
    await bob.sync();
    await carol.sync();
    together(alice, bob, carol);
    assert.equal(Number(alice.group.state.groupContext.epoch), 4);
    assert.deepEqual(fates(alice), [true, true, false, true]);
    const steps = alice.events.flatMap((e) => (e.event === "commit" ? [[e.from, e.to]] : []));
    const [raced] = bob.events.flatMap((e) => (e.event === "commit" ? [[e.from, e.to]] : []));
    assert.deepEqual([steps[2]![0], steps[3]], [raced![0], [raced![1], transcript(alice.group.state)]]);
  });

  test("a message that came too late for its epoch is encrypted again", async () => {
    const { users } = await party("alice", "bob");
    const [alice, bob] = users as [User, User];
    await bob.client.update(bob.group);
    await alice.say("late");
    await bob.sync();
    assert.deepEqual(bob.texts(), ["late"]);
  });

  test("an answer that is lost loses nothing", async () => {
    const { users, s } = await party("alice", "bob");
    const [alice, bob] = users as [User, User];
    const ds = net.ds(s);
    const honest = ds.answer.bind(ds);
    let lost = 0;
    ds.answer = (method, path, ...rest) => {
      const answer = honest(method, path, ...rest);
      if (path[2] === "messages" && method === "POST" && lost++ < 8) refuse(502, "M_PEER_UNREACHABLE");
      return answer;
    };
    await assert.rejects(alice.client.update(alice.group), { status: 502 }); // but it was accepted
    assert.deepEqual(fates(alice), [true, undefined]);
    await alice.client.add(alice.group, (await published(`carol${rooms}`)).id);
    await bob.sync();
    together(alice, bob);
    assert.equal(members(alice.group.state).length, 3);
    assert.equal(Number(alice.group.state.groupContext.epoch), 3);
    assert.deepEqual(fates(alice), [true, true, true]);
  });

  /** Loses the first n answers to submissions that a Delivery Service accepted. */
  function loseAnswers(s: string, n: number): void {
    const ds = net.ds(s);
    const honest = ds.answer.bind(ds);
    ds.answer = (method, path, ...rest) => {
      const answer = honest(method, path, ...rest);
      if (path[2] === "messages" && method === "POST" && n-- > 0) refuse(502, "M_PEER_UNREACHABLE");
      return answer;
    };
  }

  test("a text whose answer is lost three times arrives once", async () => {
    const { users, s } = await party("alice", "bob");
    const [alice, bob] = users as [User, User];
    loseAnswers(s, 3);
    await alice.say("once");
    await bob.say("and mine");
    for (const u of [alice, bob]) await u.sync();
    assert.deepEqual([alice.texts(), bob.texts()], [["and mine"], ["once"]]);
    assert.deepEqual([alice.group.outbox, alice.group.sent.size], [[], 0]);
  });

  test("a text without any answer is kept over a restart, and arrives once, also after another Commit", async (t) => {
    const dir = mkdtempSync(join(tmpdir(), "mimiport-"));
    t.after(() => rmSync(dir, { recursive: true }));
    const { users, s } = await party("alice", "bob");
    const [alice, bob] = users as [User, User];
    loseAnswers(s, 7);
    await assert.rejects(alice.say("first"), { status: 502 });
    assert.deepEqual(
      alice.group.outbox.map((o) => o.content),
      [toBase64(utf8("first"))],
    );
    saveStore(join(dir, "alice"), alice.client.stored);
    const again = await User.create(alice.id.slice(1, alice.id.indexOf(":")), loadStore(join(dir, "alice")));
    await bob.sync();
    await bob.client.update(bob.group);
    await again.say("second");
    for (const u of [again, bob]) await u.sync();
    together(again, bob);
    assert.deepEqual(bob.texts(), ["first", "second"]);
    assert.deepEqual([...bob.take("failed"), ...again.take("failed")], []);
  });

  test("what a Delivery Service refuses is not sent later", async () => {
    const { users, s } = await party("alice", "bob");
    const [alice, bob] = users as [User, User];
    const ds = net.ds(s);
    const honest = ds.answer.bind(ds);
    let refusals = 1;
    ds.answer = (method, path, ...rest) => {
      if (path[2] === "messages" && method === "POST" && refusals-- > 0) refuse(403, "M_FORBIDDEN");
      return honest(method, path, ...rest);
    };
    await assert.rejects(alice.say("refused"), { status: 403 });
    await alice.say("taken");
    await bob.sync();
    assert.deepEqual(bob.texts(), ["taken"]);
  });

  test("a client tries again after as long as a full quota asks for", async () => {
    const { users, s } = await party("alice", "bob");
    const [{ id, client }, bob] = users as [User, User];
    const pauses: number[] = [];
    const pause = async (ms: number) => void pauses.push(ms);
    const alice = await User.create(id.slice(1).split(":")[0]!, client.stored, undefined, { pause });
    const ds = net.ds(s);
    const honest = ds.answer.bind(ds);
    let refusals = 2;
    ds.answer = (method, path, ...rest) => {
      const quota = () => refuse(429, "M_LIMIT_EXCEEDED", { errcode: "M_LIMIT_EXCEEDED", retry_after_ms: 12_345 });
      if (path[2] === "messages" && method === "POST" && refusals-- > 0) quota();
      return honest(method, path, ...rest);
    };
    await alice.say("later");
    await bob.sync();
    assert.deepEqual([bob.texts(), pauses], [["later"], [12_345, 12_345]]);
  });

  test("the Delivery Service proposes a Remove: it is committed before anything else", async () => {
    const n = rooms + 1;
    await net.ds(`s${n}.example`).becomeSender();
    const { users, s } = await party("alice", "bob", "carol");
    const [alice, bob, carol] = users as [User, User, User];
    await net.ds(s).proposeRemove(alice.group.key, carol.group.state.privatePath.leafIndex);
    for (const u of users) await u.sync();
    await assert.rejects(carol.client.migrate(carol.group, `t${n}.example`), /about to be removed/);
    await bob.say("without carol");
    await alice.sync();
    await carol.sync();
    assert.deepEqual(alice.texts(), ["without carol"]);
    assert.equal(carol.take("removed").length, 1);
    together(alice, bob);
  });

  test("fan-out in any order, twice, or not at all", async () => {
    const { users } = await party("alice", "bob");
    const [alice, bob] = users as [User, User];
    net.held = [];
    for (const text of ["one", "two"]) await alice.say(text);
    await alice.client.update(alice.group);
    await alice.say("three");
    const held = net.held;
    net.held = undefined;
    for (const deliver of [...held.reverse(), ...held]) deliver();
    await bob.sync();
    assert.deepEqual(bob.texts(), ["one", "two", "three"]);
    together(alice, bob);

    await alice.say("four");
    net.lose(bob.id);
    await alice.say("five");
    await bob.sync();
    assert.deepEqual(bob.texts(), ["one", "two", "three", "four", "five"]);
  });

  test("fan-out from anybody but the Delivery Service does not count", async () => {
    const { users, t, room } = await party("alice", "bob");
    const [alice, bob] = users as [User, User];
    net.held = [];
    await alice.client.update(alice.group);
    const commit = net.ds(alice.group.ds).groups.get(alice.group.key)!.log.at(-1)!;
    net.held = undefined;
    const content = {
      group_id: bob.group.key,
      room_id: room,
      protocol: "mls10",
      term: 0,
      ...commit,
    };
    const before = authenticator(bob);
    for (const sender of [alice.id, `@_mimiport:${t}`, "@_mimiport:", `@_mimiport:${bob.group.ds}x`]) {
      net.toDevice(bob.id, sender, content);
      net.toDevice(bob.id, sender, { ...content, kind: "welcome" });
    }
    net.toDevice(bob.id, `@_mimiport:${t}`, { group_id: "%" });
    await bob.sync();
    assert.equal(authenticator(bob), before);
    assert.ok(bob.take("ignored").length >= 4);
    net.toDevice(bob.id, `@_mimiport:${bob.group.ds}`, content);
    await bob.sync();
    together(alice, bob);
  });

  test("a device that has lost its state enters by an external Commit, and so does a new one", async () => {
    const { users, s, room } = await party("alice", "bob");
    const [alice, bob] = users as [User, User];
    const hosted = net.ds(s).groups.get(alice.group.key)!;
    const { identity } = bob.client.stored; // a device keeps its key for life
    for (const [name, stored] of [
      [bob.id.slice(1, bob.id.indexOf(":")), { ...emptyState(), identity }],
      [`dave${rooms}`, emptyState()],
    ] as const) {
      hosted.tree = toBase64(ratchetTree(alice.group.state));
      const device = await User.create(name, stored);
      const [enough, length] = [new Error("enough"), hosted.log.length];
      await assert.rejects(device.client.rejoin(room, AbortSignal.abort(enough)), enough);
      assert.equal(hosted.log.length, length);
      await device.client.rejoin(room);
      await alice.sync();
      together(alice, device);
      await device.say(`from ${name}`);
      await alice.sync();
    }
    assert.equal(alice.texts().length, 2);
    assert.equal(members(alice.group.state).length, 3);
  });
});

/** Waits until the source has accepted an Init, while somebody reads. */
async function frozen(source: FakeDs, reader: User): Promise<void> {
  while (![...source.migrations.values()].some((m) => m.submission !== undefined)) await reader.sync();
}

/** Fails unless the target of the first migration was shown the receipt that its source has signed for the Commit. */
function requireReceiptShown(source: FakeDs, target: FakeDs, group: string): void {
  const { receipt } = source.groups.get(group)!.log.at(-1)!;
  assert.ok(receipt);
  assert.deepEqual([...target.migrations.values()][0]!.receipt, receipt);
}

describe("a migration", () => {
  test("every member follows, and life goes on at the target", async () => {
    const { users, t, s } = await party("alice", "bob", "carol");
    const [alice, bob, carol] = users as [User, User, User];
    assert.deepEqual(await alice.client.migrate(alice.group, t), { state: "moved", to: t, term: 1 });
    requireReceiptShown(net.ds(s), net.ds(t), alice.group.key);
    await bob.sync();
    await carol.sync();
    together(alice, bob, carol);
    assert.equal(bob.group.ds, t);
    await bob.say("we are here");
    await carol.sync();
    await alice.sync();
    assert.deepEqual(carol.texts(), ["we are here"]);
    await carol.client.update(carol.group);
    await alice.sync();
    assert.deepEqual(await alice.client.migrate(alice.group, s), { state: "moved", to: s, term: 2 }); // and back again
    for (const u of [bob, carol]) await u.sync();
    together(alice, bob, carol);
  });

  test("the target's entry in external_senders takes the place of the source's", async () => {
    const n = rooms + 1;
    for (const name of [`s${n}.example`, `t${n}.example`]) await net.ds(name).becomeSender();
    const { users, t } = await party("alice", "bob", "carol");
    const [alice, bob, carol] = users as [User, User, User];
    await net.ds(`s${n}.example`).proposeRemove(alice.group.key, carol.group.state.privatePath.leafIndex);
    await alice.client.migrate(alice.group, t); // this also commits the Remove
    await bob.sync();
    await carol.sync();
    together(alice, bob);
    assert.equal(carol.take("removed").length, 1);
    assert.deepEqual(
      externalSenders(bob.group.state.groupContext.extensions).map((e) => e.signaturePublicKey),
      [net.ds(t).sender!.signaturePublicKey],
    );
    await net.ds(t).proposeRemove(alice.group.key, bob.group.state.privatePath.leafIndex);
    await alice.client.bringUpToDate(alice.group);
    await alice.client.update(alice.group);
    await bob.sync();
    assert.equal(bob.take("removed").length, 1);
  });

  test("a member shows the target the decision that nobody else has", async () => {
    const { users, s, t } = await party("alice", "bob");
    const [alice, bob] = users as [User, User];
    net.ds(s).outcome = "wait";
    const migrating = alice.client.migrate(alice.group, t).catch(() => undefined);
    await frozen(net.ds(s), bob);
    net.ds(t).deaf = alice.id;
    net.ds(s).decide([...net.ds(s).migrations.values()][0]!, "confirm", alice.id);
    await bob.client.update(bob.group);
    assert.equal(net.ds(t).groups.get(bob.group.key)!.state, "active");
    requireReceiptShown(net.ds(s), net.ds(t), bob.group.key);
    await migrating;
  });

  test("one who was away follows by the log, also when the target speaks first", async () => {
    const { users, t } = await party("alice", "bob");
    const [alice, bob] = users as [User, User];
    await alice.client.update(alice.group);
    await alice.client.migrate(alice.group, t);
    net.lose(bob.id);
    await alice.say("from the target");
    await bob.sync();
    together(alice, bob);
    assert.deepEqual(bob.texts(), ["from the target"]);
  });

  test("one who writes to the source is redirected", async () => {
    const { users, t } = await party("alice", "bob");
    const [alice, bob] = users as [User, User];
    await alice.client.migrate(alice.group, t);
    await bob.client.update(bob.group);
    await alice.sync();
    together(alice, bob);
    assert.equal(bob.group.ds, t);
  });

  test("an offer that the target has dropped is reported at once, not asked for again", async () => {
    const { users, s, t } = await party("alice");
    const [alice] = users as [User];
    const [source, target] = [net.ds(s), net.ds(t)];
    const init = source.answer.bind(source);
    source.answer = (method, path, ...rest) =>
      path[2] === "init" ? refuse(410, "M_OFFER_EXPIRED") : init(method, path, ...rest);
    const honest = target.answer.bind(target);
    target.answer = (method, path, ...rest) =>
      method === "GET" && path[0] === "migrations"
        ? { state: "dropped", reason: "no room" }
        : honest(method, path, ...rest);
    assert.deepEqual(await alice.client.migrate(alice.group, t), { state: "aborted", reason: "no room" });
    assert.equal(target.migrations.size, 1);

    target.answer = honest; // an offer that is only too old
    await assert.rejects(alice.client.migrate(alice.group, t), /M_OFFER_EXPIRED/);
    assert.ok(target.migrations.size > 2);
  });

  test("an aborted migration leaves everything as it was", async () => {
    const { users, s, t } = await party("alice", "bob");
    const [alice, bob] = users as [User, User];
    net.ds(s).outcome = "abort";
    assert.equal((await alice.client.migrate(alice.group, t)).state, "aborted");
    assert.equal(alice.group.ds, s);
    await alice.say("still here");
    await bob.client.update(bob.group);
    await alice.sync();
    together(alice, bob);
    net.ds(s).outcome = "confirm";
    assert.equal((await alice.client.migrate(alice.group, t)).state, "moved");
    assert.deepEqual(fates(alice), [true, false, true]);
  });

  test("its client can give it up while the group is frozen", async () => {
    const { users, s, t } = await party("alice", "bob");
    const [alice, bob] = users as [User, User];
    net.ds(s).outcome = "wait";
    const outcome = alice.client.migrate(alice.group, t);
    await frozen(net.ds(s), bob);
    await alice.client.abortMigration(alice.group);
    assert.equal((await outcome).state, "aborted");
    await bob.client.update(bob.group);
    await alice.sync();
    together(alice, bob);
  });

  test("an outcome counts only with the source's signature", async () => {
    const { users, s, t } = await party("alice", "bob");
    const [alice, bob] = users as [User, User];
    const source = net.ds(s);
    source.outcome = "wait";
    const stranger = net.ds(`evil${s}`);
    const migrating = alice.client.migrate(alice.group, t);
    await frozen(source, bob);
    const [migration] = source.migrations.values();
    const { nonce, migrationRequest } = migration!.response;
    const { groupId } = migrationRequest;
    const confirm = (domainName: string, by = source) =>
      by.key.sign(migrationConfirmation, { domainName, nonce, groupId });
    const id = new Uint8Array(Buffer.from(migration!.status.migration_id, "base64url"));
    const lies = [
      { migration_confirmation: confirm(t, stranger) },
      { migration_confirmation: confirm(s) },
      { migration_confirmation: source.key.sign(migrationConfirmation, { domainName: t, nonce: id, groupId }) },
      { migration_confirmation: { ...confirm(t), key_id: "ed25519:old" } },
      { migration_abort: stranger.key.sign(migrationAbort, { migrationId: id, sourceDomain: s }) },
      { migration_abort: source.key.sign(migrationAbort, { migrationId: nonce, sourceDomain: s }) },
    ];
    for (const lie of lies) {
      Object.assign(migration!.status, { migration_confirmation: undefined, migration_abort: undefined }, lie);
      for (let i = 0; i < 5; i++) await bob.sync();
      assert.equal(alice.group.ds, s);
      assert.ok(!alice.group.migration?.over);
    }
    source.decide(migration!, "confirm", alice.id);
    assert.equal((await migrating).state, "moved");
  });

  test("an offer counts only with the target's signature on what was asked", async () => {
    const { users, t } = await party("alice");
    const [alice] = users as [User];
    const target = net.ds(t);
    const honest = target.answer.bind(target);
    for (const forge of [
      (response: MigrationResponse) => net.ds(`evil${t}`).key.sign(migrationResponse, response),
      (response: MigrationResponse) => {
        const migrationRequest = { ...response.migrationRequest, epoch: 7n };
        return target.key.sign(migrationResponse, { ...response, migrationRequest });
      },
    ]) {
      target.answer = (...request) => {
        const offer = honest(...request) as any;
        if (offer.migration_response === undefined) return offer;
        const { message } = forge(decode(migrationResponse, fromBase64(offer.migration_response)));
        return { ...offer, migration_response: message };
      };
      await assert.rejects(alice.client.migrate(alice.group, t), /the offer is not the target's/);
      assert.equal(alice.group.migration, undefined);
    }
  });

  test("a refusal leaves the group as it was", async () => {
    const { users, s, t } = await party("alice");
    const [alice] = users as [User];
    const source = net.ds(s);
    const honest = source.answer.bind(source);
    source.answer = (method, path, ...rest) => {
      if (path[2] === "init") refuse(403, "M_FORBIDDEN");
      return honest(method, path, ...rest);
    };
    await assert.rejects(alice.client.migrate(alice.group, t), { status: 403 });
    await alice.client.update(alice.group);
    assert.deepEqual([alice.group.ds, alice.group.migration, alice.group.pending], [s, undefined, undefined]);
    assert.deepEqual(fates(alice), [false, true]);
  });

  test("a Commit that was refused is known should a late copy of it be accepted", async (t_) => {
    const { users, s, t } = await party("alice", "bob");
    const [alice, bob] = users as [User, User];
    const source = net.ds(s);
    const honest = source.answer.bind(source);
    const late: (() => unknown)[] = [];
    source.answer = (...request) => {
      const [method, path] = request;
      if (path[2] !== "init" && !(path[2] === "messages" && method === "POST")) return honest(...request);
      late.push(() => honest(...request));
      return refuse(403, "M_FORBIDDEN");
    };
    await assert.rejects(alice.client.update(alice.group), { status: 403 });
    late.pop()!();
    const dir = mkdtempSync(join(tmpdir(), "mimiport-"));
    t_.after(() => rmSync(dir, { recursive: true }));
    const file = join(dir, "alice.json");
    saveStore(file, { ...emptyState(), groups: new Map([[alice.group.key, alice.group]]) });
    Object.assign(alice.group, loadStore(file).groups.get(alice.group.key)); // as after a restart
    await bob.client.bringUpToDate(bob.group);
    await alice.client.bringUpToDate(alice.group);
    together(alice, bob);
    await assert.rejects(alice.client.migrate(alice.group, t), { status: 403 });
    late.pop()!();
    await alice.client.bringUpToDate(alice.group);
    await bob.client.bringUpToDate(bob.group);
    together(alice, bob);
    assert.equal(alice.group.ds, t);
    assert.deepEqual(fates(alice).slice(-2), [true, true]);
  });

  test("a lost race is tried again with a new offer", async () => {
    const { users, t } = await party("alice", "bob");
    const [alice, bob] = users as [User, User];
    const target = net.ds(t);
    const answer = target.answer.bind(target);
    let raced: Promise<void> | undefined;
    target.answer = (method, path, ...rest) => {
      const offer = answer(method, path, ...rest);
      if (path[0] !== "migrations" || path.length > 1 || raced !== undefined) return offer;
      raced = bob.client.update(bob.group); // between the offer and the Init
      return raced.then(() => offer);
    };
    assert.equal((await alice.client.migrate(alice.group, t)).state, "moved");
    await bob.sync();
    together(alice, bob);
    assert.equal(target.migrations.size, 2);
  });

  test("a Commit of another waits for the end of a freeze", async () => {
    const { users, s, t } = await party("alice", "bob");
    const [alice, bob] = users as [User, User];
    net.ds(s).outcome = "wait";
    const migrating = alice.client.migrate(alice.group, t);
    const source = net.ds(s);
    await frozen(source, bob);
    const answer = source.answer.bind(source);
    let refused = 0;
    source.answer = (method, path, ...rest) => {
      const [migration] = source.migrations.values();
      if (path[2] === "messages" && method === "POST" && ++refused === 3)
        source.decide(migration!, "confirm", alice.id);
      return answer(method, path, ...rest);
    };
    await bob.client.update(bob.group);
    await migrating;
    await bob.client.bringUpToDate(bob.group);
    await alice.client.bringUpToDate(alice.group);
    together(alice, bob);
    assert.equal(bob.group.ds, t);
    assert.ok(refused >= 3);
  });

  test("evidence that does not verify moves nobody, the right one does without the source", async () => {
    const { users, s, t, room } = await party("alice", "bob");
    const [alice, bob] = users as [User, User];
    await alice.say("before the move");
    await alice.client.migrate(alice.group, t);
    net.lose(bob.id);
    const moved = net.ds(s).groups.get(alice.group.key)!.moved as Migrated;
    const stranger = net.ds(`evil${s}`);
    const old = net.ds(s).groups.get(alice.group.key)!;
    net.ds(s).down = true;
    const evidence = (confirmation: string) => ({
      room_id: room,
      group_id: bob.group.key,
      via: t,
      term: 1,
      epoch: old.epoch,
      evidence: {
        migration_response: moved.migration_response,
        response_key_id: "ed25519:1",
        migration_confirmation: confirmation,
        confirmation_key_id: "ed25519:1",
      },
    });
    const genuine = decode(migrationConfirmation, fromBase64(moved.migration_confirmation));
    const forged = stranger.key.sign(migrationConfirmation, genuine);
    const there = net.ds(t).groups.get(alice.group.key)!;
    const step = there.lineage.steps[0] as Extract<LineageStep, { migrationConfirmation: unknown }>;
    const spoilt = { ...step.migrationConfirmation, message: fromBase64(forged.message) };
    there.lineage = { ...there.lineage, steps: [{ ...step, migrationConfirmation: spoilt }] };
    net.point(room, evidence(forged.message));
    await bob.sync();
    assert.equal(bob.group.ds, s);
    net.point(room, { ...evidence(moved.migration_confirmation), room_id: "!before" }); // copied by a room upgrade
    await bob.sync();
    assert.equal(bob.group.ds, s);
    net.point(room, evidence(moved.migration_confirmation));
    await bob.sync();
    together(alice, bob);
    assert.equal(bob.group.ds, t);
    assert.deepEqual(bob.texts(), []);
    for (let i = 0; i < 8; i++) {
      await alice.client.update(alice.group);
      await bob.sync();
    }
    net.ds(s).down = false;
    await bob.client.bringUpToDate(bob.group);
    assert.deepEqual(bob.texts(), ["before the move"]);
    assert.deepEqual(bob.group.former, []);
  });

  test("one who was away when the source was lost follows by the target alone, also over another move", async (t_) => {
    const { users, s, t, room } = await party("alice", "bob");
    const [alice, bob] = users as [User, User];
    const dir = mkdtempSync(join(tmpdir(), "mimiport-"));
    t_.after(() => rmSync(dir, { recursive: true }));
    saveStore(join(dir, "bob"), bob.client.stored);
    await alice.client.update(alice.group);
    await alice.client.migrate(alice.group, t);
    net.ds(s).down = true;
    net.ds(s).keyless = true;
    await alice.client.update(alice.group);
    const u = `second${t}`;
    await alice.client.migrate(alice.group, u);
    net.lose(bob.id);
    const content = { room_id: room, group_id: bob.group.key, via: u, term: 2, epoch: 1 };
    for (const keys of [undefined, bob.group.hostKeys]) {
      const away = await User.create(bob.id.slice(1).split(":")[0]!, loadStore(join(dir, "bob")));
      const g = away.group;
      g.hostKeys = keys;
      net.setState(room, "io.github.mimiport.delivery_service", content, alice.id);
      const catchUp = away.client.bringUpToDate(g);
      if (keys === undefined)
        await assert.rejects(catchUp); // nobody else vouches for the source's signature
      else await catchUp;
      assert.deepEqual([g.ds, g.term], keys === undefined ? [s, 0] : [u, 2]);
    }
  });

  test("a client killed in the middle takes up where it was", async (t_) => {
    const dir = mkdtempSync(join(tmpdir(), "mimiport-"));
    t_.after(() => rmSync(dir, { recursive: true }));
    const file = join(dir, "alice.json");
    const n = nextRoom();
    const [s, t] = [`s${n}.example`, `t${n}.example`];
    const stored = loadStore(file);
    const alice = await User.create(`alice${n}`, stored, () => saveStore(file, stored));
    const bob = await User.create(`bob${n}`);
    await alice.client.createGroup(`!room${n}`, s);
    await bob.client.publishKeyPackages(1);
    await alice.client.add(alice.group, bob.id);
    await bob.sync();
    await alice.say("before");
    net.ds(s).outcome = "wait";
    const lost = alice.client.migrate(alice.group, t);
    lost.catch(() => undefined);
    await frozen(net.ds(s), bob);

    const again = await User.create(`alice${n}`, loadStore(file));
    net.ds(s).decide([...net.ds(s).migrations.values()][0]!, "confirm", alice.id);
    assert.equal((await again.client.finishMigration(again.group)).state, "moved");
    await bob.sync();
    together(again, bob);
    await again.say("after");
    await bob.sync();
    assert.deepEqual(bob.texts(), ["before", "after"]);
    await lost;
  });
});

/** Makes a Delivery Service answer with a log that does not end, a second for each piece. The result counts them. */
function endless(server: string): () => number {
  const ds = net.ds(server);
  const answer = ds.answer.bind(ds);
  let pieces = 0;
  ds.answer = (method, path, query, ...rest) => {
    if (method !== "GET" || path[2] !== "messages") return answer(method, path, query, ...rest);
    clock.ahead += 1000;
    const next = Number(query.get("from") ?? 1) + 1;
    return { term: Number(query.get("term")), messages: [], next, end: ++pieces >= 1000 };
  };
  return () => pieces;
}

test("a log that does not end is left after a minute: other groups have their turn", async (t_) => {
  t_.after(() => (clock.ahead = 0));
  const { users, s } = await party("alice", "bob");
  const [alice] = users as [User, User];
  const pieces = endless(s);
  alice.group.behind = true;
  await alice.sync();
  assert.ok(pieces() <= 62, `${pieces()} pieces`);
  assert.equal(alice.take("failed").length, 1);
});

test("a former host whose log does not end is asked no more", async (t_) => {
  t_.after(() => (clock.ahead = 0));
  const { users, s, t } = await party("alice", "bob");
  const [alice, bob] = users as [User, User];
  await alice.client.migrate(alice.group, t);
  const pieces = endless(s);
  alice.group.former = [{ ds: s, term: 0, next: 1 }];
  alice.group.behind = true;
  await alice.sync();
  assert.ok(pieces() <= 62, `${pieces()} pieces`);
  await bob.client.update(bob.group);
  const before = pieces();
  await alice.sync();
  together(alice, bob);
  assert.equal(pieces(), before);
});
