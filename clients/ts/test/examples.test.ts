// The examples of the README and of docs/clients.md, each in a situation in which an application would use it.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { textOf, utf8 } from "../src/bytes.js";
import { type Conversation, FetchTransport, login, MatrixError, MemoryStore } from "../src/index.js";
import { Mimiport, MimiportError } from "../src/index.js";
import { MOVE_REQUEST } from "../src/matrix.js";
import { insideOf } from "../src/mimiport.js";
import { ratchetTree } from "../src/mls.js";
import { newsOf } from "../src/transport.js";
import { fromBase64url, moveRequest, toBase64 } from "../src/wire.js";
import { close, enter, hearing, isText, pair, start } from "./apps.js";
import { examplesIn, runOf } from "./examples.js";
import { net, nextRoom, published } from "./party.js";

/** Runs an example with the names that it uses, and with other texts in the places of some of its own. */
type Try = (names: Record<string, unknown>, places?: Record<string, string>) => Promise<any>;

type Situation = (run: Try) => Promise<void>;

/** A console that keeps what it is told. */
function listening() {
  const said: unknown[][] = [];
  return { said, console: { log: (...words: unknown[]) => void said.push(words) } };
}

type InPair = Awaited<ReturnType<typeof pair>> & { said: unknown[][]; run: () => Promise<any> };

/** An example that alice runs in a group with bob, which may move to example.com. */
const inPair =
  (act: (p: InPair) => Promise<void>): Situation =>
  async (tryOut) => {
    const [p, { said, console }] = [await pair(), listening()];
    const names = { mimiport: p.alice.mimiport, conversation: p.mine, console, MatrixError, MimiportError };
    const places = { "@bob:example.com": p.bob.user, '"example.com"': `"${p.t}"` };
    await act({ ...p, said, run: () => tryOut(names, places) });
    await close(p.alice, p.bob);
  };

const texts = ({ heard }: Awaited<ReturnType<typeof start>>) =>
  heard.filter(({ kind }) => kind === "message").map(({ event }) => textOf(event.content));

/** The situations of the examples, by their names. Each says what has to come of the example. */
const situations: Record<string, Situation> = {
  open: async (run) => {
    const n = nextRoom();
    const names = { login, FetchTransport, Mimiport, IndexedDbStore: MemoryStore, homeserver: net.homeserver };
    const { mimiport } = await run(names, { '"alice"': `"alice${n}"` });
    const { keys } = net.deviceKeys.get(`@alice${n}:h.example`)![`ALICE${n}`]!;
    assert.ok(`io.github.mimiport.ed25519:ALICE${n}` in keys);
    await mimiport.close();
  },
  create: async (run) => {
    const n = nextRoom();
    const alice = await start(`alice${n}`);
    const { conversation } = await run({ mimiport: alice.mimiport, console }, { "!room:example.org": `!room${n}` });
    assert.deepEqual([conversation.roomId, conversation.host], [`!room${n}`, "h.example"]);
    await close(alice);
  },
  add: async (run) => {
    const n = nextRoom();
    const [alice, bob, { said, console }] = [await start(`alice${n}`), await start(`bob${n}`), listening()];
    const conversation = await alice.mimiport.create(`!room${n}`);
    await run({ mimiport: alice.mimiport, conversation, console }, { "@bob:example.com": bob.user });
    await bob.until("joined");
    assert.deepEqual(said[1], [bob.user, `BOB${n}`, "key"]);
    await close(alice, bob);
  },
  joined: async (run) => {
    const n = nextRoom();
    const [alice, bob, { said, console }] = [await start(`alice${n}`), await start(`bob${n}`), listening()];
    await run({ mimiport: bob.mimiport, console });
    const conversation = await alice.mimiport.create(`!room${n}`);
    await conversation.add(bob.user);
    await bob.until("joined");
    assert.deepEqual(said, [[`!room${n}`, 1]]);
    await close(alice, bob);
  },
  rejoin: async (run) => {
    const { alice, bob, n, mine, room, s } = await pair();
    const { state } = insideOf(alice.mimiport).client.group(mine.id);
    net.ds(s).groups.get(mine.id)!.tree = toBase64(ratchetTree(state)); // a real one follows it itself
    const carol = await start(`carol${n}`);
    const { conversation } = await run({ mimiport: carol.mimiport }, { "!room:example.org": room });
    await conversation.send(utf8("here I am"));
    await alice.until("message", isText("here I am"));
    assert.deepEqual(conversation.authenticator, mine.authenticator);
    await close(alice, bob, carol);
  },
  send: inPair(async ({ bob, run, said, mine }) => {
    const { at } = await run();
    await run();
    await mine.send(utf8("and more"));
    await bob.until("message", isText("and more"));
    assert.deepEqual([texts(bob), said[0]], [["hello", "and more"], [at.term, at.seq]]);
  }),
  remove: inPair(async ({ bob, run }) => {
    await run();
    await bob.until("left");
  }),
  leave: inPair(async ({ alice, his, mine, run }) => {
    await run();
    await his.catchUp();
    await his.update();
    await alice.until("left");
    assert.equal(mine.state, "left");
  }),
  update: inPair(async ({ bob, mine, his, run }) => {
    const before = mine.epoch;
    await run();
    await bob.until("epoch", ({ epoch }) => epoch === before + 1);
    assert.deepEqual(his.authenticator, mine.authenticator);
  }),
  message: inPair(async ({ alice, bob, his, room, run, said }) => {
    await run();
    const at = await his.send(utf8("hello"));
    await alice.until("message");
    assert.deepEqual(said, [[room, at.term, at.seq, bob.user, "hello"]]);
  }),
  receive: async (run) => {
    const n = nextRoom();
    const [alice, transport] = [await start(`alice${n}`), await enter(`bob${n}`)];
    const mimiport = await Mimiport.open({ transport, store: new MemoryStore() });
    const bob = hearing(mimiport, transport.userId);
    const mine = await alice.mimiport.create(`!room${n}`);
    await mine.add(bob.user);
    const answer = await transport.fetch("/_matrix/client/v3/sync", { method: "GET" });
    const { toDevice: events, state } = newsOf(await answer.json());
    await run({ mimiport, events, state, keyCounts: {} });
    const { conversation } = await bob.until("joined");
    assert.deepEqual(conversation.authenticator, mine.authenticator);
    await close(alice, bob);
  },
  move: inPair(async ({ mine, run, said, t }) => {
    await run();
    assert.deepEqual(said, [["offered"], ["sent"], ["decided"], ["moved"], [{ state: "moved", to: t, term: 1 }]]);
    assert.equal(mine.host, t);
  }),
  abort: inPair(async ({ alice, mine, run, s, t }) => {
    await run(); // nothing is under way
    net.ds(s).outcome = "wait";
    const { done } = mine.move(t);
    await alice.until("move", ({ step }) => step === "sent");
    await run();
    assert.deepEqual([await done, mine.host], [{ state: "aborted", reason: "no" }, s]);
  }),
  moved: inPair(async ({ alice, bob, his, run, said, s, t }) => {
    await run();
    await his.move(t).done;
    await alice.until("moved");
    assert.deepEqual(said, [[bob.user, s, t, net.ds(s).key.id]]);
  }),
  mayMove: async (run) => {
    const n = nextRoom();
    const [alice, transport, { said, console }] = [await start(`alice${n}`), await enter(`bob${n}`), listening()];
    const [room, s, t] = [`!room${n}`, `s${n}.example`, `t${n}.example`];
    const names = { Mimiport, transport, store: new MemoryStore(), console };
    const { mimiport } = await run(names, { '"example.com"': `"${t}"` });
    const bob = hearing(mimiport, transport.userId);
    const mine = await alice.mimiport.create(room, { server: s });
    await mine.add(bob.user);
    await bob.until("joined");
    const targets = ["elsewhere.example", t];
    const request = {
      ...{ sourceDomain: s, groupId: fromBase64url(mine.id), term: 0n, roomId: room, userId: bob.user, targets },
      expiresAt: BigInt(Date.now() + 3600_000),
    };
    net.toDevice(bob.user, `@_mimiport:${s}`, net.ds(s).key.sign(moveRequest, request), MOVE_REQUEST);
    await alice.until("moved");
    assert.deepEqual([said, mine.host], [[[s, targets, [t]]], t]);
    await close(alice, bob);
  },
  recover: inPair(async ({ alice, mine, n, room, run, t }) => {
    net.members.set(room, [alice.user, `@carol:${t}`]);
    await mine.catchUp();
    const { body } = await run();
    assert.deepEqual(net.state.get(`${room} io.github.mimiport.successors`).servers, [t]);
    net.ds(`u${n}.example`).claim(3, body);
    await mine.follow(`u${n}.example`);
    assert.equal(mine.host, `u${n}.example`);
  }),
  follow: inPair(async ({ mine, run, s, t }) => {
    await mine.catchUp();
    const data = await mine.recoveryData();
    net.ds(s).down = true;
    net.ds(t).claim(3, data);
    await run();
    assert.deepEqual([mine.host, mine.term], [t, 1]);
  }),
  refused: inPair(async ({ mine, run, s, said }) => {
    net.ds(s).groups.get(mine.id)!.state = "closed";
    await run();
    assert.deepEqual(said, [["M_GROUP_CLOSED", false, undefined]]);
  }),
  end: inPair(async ({ alice, bob, mine, run }) => {
    const { next } = await run();
    const users = (await next.members()).map(({ user }: { user: string }) => user);
    assert.deepEqual([mine.state, users], ["closed", [alice.user, bob.user]]);
  }),
};

const documents = ["README.md", "../../docs/clients.md"];
for (const file of documents)
  for (const { label, code } of examplesIn(file, "ts").filter(({ label }) => label !== ""))
    test(`the example ${label} of ${file} runs`, async () => {
      assert.ok(label in situations, "no test has the situation");
      await situations[label]!((names, places) => runOf(code, places)(names));
    });

test("the README's first examples run, one after the other", async () => {
  const n = nextRoom();
  const bob = await published(`bob${n}`);
  const { said, console } = listening();
  const first = examplesIn("README.md", "ts").filter(({ label }) => label === "");
  const run = runOf(first.map(({ code }) => code).join(""), {
    ...{ "https://matrix.example.org": net.homeserver, "@bob:example.com": bob.id },
    '"example.com"': `"t${n}.example"`,
  });
  net.members.set("!room:example.org", [bob.id, `@carol:t${n}.example`]);
  const names = { login, FetchTransport, Mimiport, IndexedDbStore: MemoryStore, console };
  const { conversation, next }: Record<"conversation" | "next", Conversation> = await run(names);
  assert.deepEqual([conversation.host, conversation.state, next.epoch], [`t${n}.example`, "closed", 0]);
  const told = said.map((a: any) => (a.length > 1 ? a.slice(-3) : a[0]));
  assert.deepEqual(told.slice(0, 3), [
    [3, "me", "hello"],
    { state: "moved", to: `t${n}.example`, term: 1 },
    [2, "active", []],
  ]);
  assert.equal(told[3].length, 2);
});

test("the README has an example for each public call", () => {
  const types = readFileSync(new URL("../src/mimiport.d.ts", import.meta.url), "utf8");
  const calls = [...types.matchAll(/^    (?:static )?(?:get )?(\w+)(?:<.*>)?\(/gm)].map(([, name]) => name!);
  assert.ok(calls.includes("open") && calls.includes("currentMove"));
  const code = ["ts", "js"].flatMap((language) => examplesIn("README.md", language).map((e) => e.code)).join("");
  const plain = new Set(["constructor", "id", "roomId", "authenticator", "reason", "conversations"]); // they do nothing
  assert.deepEqual(
    calls.filter((name) => !plain.has(name) && !code.includes(`.${name}`)),
    [],
  );
});
