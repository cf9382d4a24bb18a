// Clients whose homeserver lacks the module: their requests, the destinations of these, and their events in the room.
import assert from "node:assert/strict";
import { describe, test, type TestContext } from "node:test";
import { Direct } from "../src/direct.js";
import { clientAddresses } from "../src/discovery.js";
import { json } from "../src/matrix.js";
import { POWER_LEVELS } from "../src/room.js";
import { fromBase64, migrationId, migrationResponse, decode, toBase64 } from "../src/wire.js";
import { refuse } from "./fake.js";
import { clock, net, nextRoom, party, published, rooms, together, type User } from "./party.js";

const BINDING = "io.github.mimiport.group";
const POINTER = "io.github.mimiport.delivery_service";

let original: typeof fetch | undefined;

/** Replaces fetch until the test ends. */
function replaceFetch(t: TestContext, by: (original: typeof fetch) => typeof fetch): void {
  original ??= globalThis.fetch;
  globalThis.fetch = by(original);
  t.after(() => (globalThis.fetch = original!));
}

/** Records all fetched addresses and their Authorization until the test ends. */
function overhear(t: TestContext): { url: string; authorization: string }[] {
  const heard: { url: string; authorization: string }[] = [];
  replaceFetch(t, (fetch) => (url, init) => {
    const { authorization = "" } = (init?.headers ?? {}) as Record<string, string>;
    heard.push({ url: String(url), authorization });
    return fetch(url, init);
  });
  return heard;
}

/** Makes all servers give the same answer until the test ends. */
const say = (t: TestContext, answer: (url: string) => Response) =>
  replaceFetch(t, () => async (url) => answer(String(url)));

/** The direct route of a device that has published its key, with a clock that is ahead. */
async function way(minutes = 0) {
  const { client } = await published(`alice${nextRoom()}`);
  const s = `s${rooms}.example`;
  const direct = new Direct(
    () => client.stored.identity!,
    () => Date.now() + minutes * 60_000,
  );
  return { s, ask: () => direct.send(s, "GET", "/groups/none") };
}

const field = (name: string, header: string) => new RegExp(`${name}="([^"]*)"`).exec(header)?.[1];

describe("a direct request", () => {
  test("is signed anew for each try, and by the server's clock after a refusal for its time", async (t) => {
    for (const minutes of [-6, 0, 6]) {
      const { s, ask } = await way(minutes);
      const heard = overhear(t);
      for (let i = 0; i < 2; i++) assert.equal(json(await ask()).errcode, "IO.GITHUB.MIMIPORT.M_UNKNOWN_GROUP");
      const signed = heard.filter(({ authorization }) => authorization !== "");
      assert.equal(signed.length, minutes === 0 ? 2 : 3);
      assert.equal(new Set(signed.map(({ authorization }) => field("nonce", authorization))).size, signed.length);
      const [last] = signed.slice(-1);
      assert.ok(Math.abs(Number(field("time", last!.authorization)) - Date.now()) < 60_000);
      assert.ok(last!.url.endsWith(`/ds/${s}/groups/none`));
    }
  });

  test("is not repeated for ever where a server's time makes no sense", async (t) => {
    for (const server_time of [0, -1, 1.5, "now", Number.MAX_SAFE_INTEGER]) {
      const { s, ask } = await way();
      net.ds(s).answer = () => refuse(403, "M_BAD_SIGNATURE", { rule: "time", server_time });
      const heard = overhear(t);
      assert.equal((await ask()).status, 403);
      const tries = heard.filter(({ authorization }) => authorization !== "").length;
      assert.equal(tries, Number.isSafeInteger(server_time) && Number(server_time) >= 0 ? 2 : 1);
    }
  });

  test("to a server that is away is refused as a homeserver would, until it is back", async () => {
    const { s, ask } = await way();
    const away = { status: 502, body: { errcode: "IO.GITHUB.MIMIPORT.M_PEER_UNREACHABLE" } };
    net.ds(s).down = true;
    await assert.rejects(ask, ({ status, body }: any) => {
      assert.deepEqual({ status, body: { errcode: body.errcode } }, away);
      return true;
    });
    net.ds(s).down = false;
    assert.equal((await ask()).status, 404);
    net.ds(s).down = true;
    await assert.rejects(ask, { status: 502 });
    net.ds(s).down = false;
    assert.equal((await ask()).status, 404);
  });
});

describe("a server's client API", () => {
  const wellKnown = (body: BodyInit, init?: ResponseInit) => (url: string) => {
    assert.equal(url, "https://hs.example/.well-known/matrix/client");
    return new Response(body, init);
  };
  const told = (base_url: unknown) => JSON.stringify({ "m.homeserver": { base_url } });

  test("is where its host says, else at its name", async (t) => {
    say(t, wellKnown(told("https://matrix.hs.example/at/")));
    assert.deepEqual(await clientAddresses("hs.example:8448"), [
      "https://matrix.hs.example/at",
      "https://hs.example:8448",
    ]);
    say(t, wellKnown(told("http://localhost:8008")));
    assert.deepEqual(await clientAddresses("hs.example"), ["http://localhost:8008", "https://hs.example"]);
  });

  test("is at its name where what its host says is of no use", async (t) => {
    const large = JSON.stringify({ ...JSON.parse(told("https://m.example")), more: "x".repeat(64 << 10) });
    for (const body of ["", "null", "no JSON", told("http://m.example"), told("m.example"), told(7), large]) {
      say(t, wellKnown(body));
      assert.deepEqual(await clientAddresses("hs.example"), ["https://hs.example"], body.slice(0, 100));
    }
    say(t, wellKnown(told("https://m.example"), { status: 404 }));
    assert.deepEqual(await clientAddresses("hs.example"), ["https://hs.example"]);
    say(t, () => {
      throw new TypeError("no such host");
    });
    assert.deepEqual(await clientAddresses("hs.example"), ["https://hs.example"]);
  });
});

describe("the room", () => {
  test("is told of a new group, after its levels, and not again", async () => {
    const { users, s, room } = await party("alice");
    const [alice] = users as [User];
    const of = { room_id: room, group_id: alice.group.key };
    assert.deepEqual(net.state.get(`${room} ${POINTER}`), { ...of, via: s, term: 0, epoch: 0 });
    const { room_id, group_id, creating_server } = net.state.get(`${room} ${BINDING}`);
    assert.deepEqual({ room_id, group_id, creating_server }, { ...of, creating_server: s });
    const { events } = net.state.get(`${room} ${POWER_LEVELS}`);
    assert.deepEqual(events, { [BINDING]: 100, [POINTER]: 100, "io.github.mimiport.successors": 100 });
    if (!net.stock) return;
    const { protocol, cipher_suite, preimage } = net.state.get(`${room} ${BINDING}`);
    assert.deepEqual([protocol, cipher_suite, preimage.room_id], ["mls10", 1, room]);
  });

  test("gets no group from a user who cannot announce it", async () => {
    const alice = await published(`alice${nextRoom()}`);
    const [room, s] = [`!room${rooms}`, `s${rooms}.example`];
    for (const levels of [
      { users_default: 50 }, // too little to reserve
      { users_default: 100, events: { [POWER_LEVELS]: 101 } },
      { users_default: 100, events: { [BINDING]: 101, [POINTER]: 100 } },
    ]) {
      net.setState(room, POWER_LEVELS, levels, alice.id);
      await assert.rejects(alice.client.createGroup(room, s), /has not the power to announce/);
    }
    assert.equal(net.ds(s).groups.size, 0);
    net.setState(room, POWER_LEVELS, { users_default: 50, events: { [BINDING]: 50, [POINTER]: 50 } }, alice.id);
    await alice.client.createGroup(room, s);
    assert.equal(net.state.get(`${room} ${BINDING}`).group_id, alice.group.key);
  });

  test("is told the group of the room that it replaces, if that room says so too", async () => {
    if (!net.stock) return; // the user's homeserver does it
    for (const [replacement_room, isNamed] of [
      ["", true],
      ["!another", false],
    ] as const) {
      const alice = await published(`alice${nextRoom()}`);
      const [room, before, s] = [`!room${rooms}`, `!before${rooms}`, `s${rooms}.example`];
      const binding = { room_id: before, group_id: "AAAA" };
      net.setState(room, "m.room.create", { room_version: "12", predecessor: { room_id: before } }, alice.id);
      net.setState(room, BINDING, binding, alice.id); // a room upgrade may copy it
      net.setState(before, BINDING, binding, alice.id);
      net.setState(before, "m.room.tombstone", { replacement_room: replacement_room || room }, alice.id);
      await alice.client.createGroup(room, s);
      const { former } = net.state.get(`${room} ${BINDING}`);
      assert.deepEqual(former, isNamed ? { group_id: "AAAA", room_id: before } : undefined);
    }
  });

  test("is not told of an id that the server has not made for it", async () => {
    const alice = await published(`alice${nextRoom()}`);
    const [room, s] = [`!room${rooms}`, `s${rooms}.example`];
    const ds = net.ds(s);
    const answer = ds.answer.bind(ds);
    for (const lie of [
      { room_id: "!another" },
      { creating_server: "another.example" },
      { nonce: toBase64(new Uint8Array(32)) },
      { nonce: "" },
    ]) {
      ds.answer = (...asked) => {
        const reserved: any = answer(...asked);
        return { ...reserved, preimage: { ...reserved.preimage, ...lie } };
      };
      await assert.rejects(alice.client.createGroup(room, s), /did not make this id for the room/);
    }
    assert.equal(net.state.get(`${room} ${BINDING}`), undefined);
  });

  test("is pointed to the target of a move, with its evidence, and keeps the claim that it names", async () => {
    const { users, t, room } = await party("alice", "bob");
    const [alice, bob] = users as [User, User];
    const before = net.state.get(`${room} ${POINTER}`);
    net.setState(room, POINTER, { ...before, claim_hash: "kept" }, alice.id);
    await alice.client.migrate(alice.group, t);
    const { evidence, ...pointer } = net.state.get(`${room} ${POINTER}`);
    const response = decode(migrationResponse, fromBase64(evidence.migration_response));
    const where = { via: t, term: 1, epoch: 2, migration_id: migrationId(response), claim_hash: "kept" };
    assert.deepEqual(pointer, { room_id: room, group_id: alice.group.key, ...where });
    assert.deepEqual([evidence.response_key_id, evidence.confirmation_key_id], ["ed25519:1", "ed25519:1"]);
    await bob.sync();
    together(alice, bob);
    net.setState(room, POINTER, { ...pointer, term: 9 }, bob.id);
    await bob.client.migrate(bob.group, `u${t}`);
    assert.equal(net.state.get(`${room} ${POINTER}`).term, 9); // a pointer goes forward only
  });
});

describe("the keys of servers", { skip: !net.stock && "a homeserver with the module knows them" }, () => {
  test("are taken from a server itself, and from the host where that says nothing", async (t_) => {
    t_.after(() => (net.ignorant = false));
    net.ignorant = true;
    const { users, t } = await party("alice", "bob");
    const [alice, bob] = users as [User, User];
    await alice.client.migrate(alice.group, t);
    await bob.sync();
    together(alice, bob);
    assert.deepEqual(alice.take("vouched"), []);
    const third = `u${t}`;
    net.ds(third).mute = true;
    await alice.client.migrate(alice.group, third);
    assert.deepEqual(alice.take("vouched"), [{ event: "vouched", server: third, by: t }]);
    const unknown = `v${t}`;
    net.ds(unknown).mute = net.ds(unknown).keyless = true;
    await assert.rejects(alice.client.migrate(alice.group, unknown), /not the target's/);
  });
});

test("a device whose clock is hours off talks and moves as others do", async (t_) => {
  t_.after(() => (clock.ahead = 0));
  clock.ahead = -5 * 3600_000;
  const { users, t } = await party("alice", "bob");
  const [alice, bob] = users as [User, User];
  clock.ahead = 7 * 3600_000;
  await alice.client.migrate(alice.group, t);
  await bob.say("late");
  await alice.sync();
  assert.deepEqual(alice.texts(), ["late"]);
  together(alice, bob);
});
