// The interface for applications, against Delivery Services in memory.
import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { describe, test } from "node:test";
import { textOf, utf8 } from "../src/bytes.js";
import { MemoryStore, type Value, type VerifyLeaf } from "../src/index.js";
import { close, isText, pair, start } from "./apps.js";
import { refuse } from "./fake.js";
import { net, nextRoom, published, rooms } from "./party.js";

test("the README tells what each code of an error means", () => {
  const readme = readFileSync(new URL("../../README.md", import.meta.url), "utf8");
  const told = [...readme.matchAll(/^\| `([A-Z_]+)` \|/gm)].map(([, code]) => code);
  const folder = new URL("../../src/", import.meta.url);
  const sources = readdirSync(folder).filter((name) => name.endsWith(".ts") && name !== "driver.ts");
  const codes = sources.flatMap((name) =>
    [
      ...readFileSync(new URL(name, folder), "utf8").matchAll(/(?:MimiportError|super|NOT_PUBLISHED =)\W*"([A-Z_]+)"/g),
    ].map(([, code]) => code),
  );
  assert.deepEqual([...new Set(codes)].sort(), told.sort());
});

describe("an application", () => {
  test("talks, sees its own words, members and their place, and moves", async () => {
    const { alice, bob, mine, his, n } = await pair();
    const at = await mine.send(utf8("hello"));
    const told = await bob.until("message");
    assert.deepEqual(
      [textOf(told.event.content), told.event.sender, told.event.own, told.event.at],
      ["hello", alice.user, false, at],
    );
    const echo = await alice.until("message");
    assert.deepEqual([echo.event.own, echo.event.at, echo.event.sender], [true, at, alice.user]);
    const { event } = await alice.until("members");
    assert.deepEqual(event.added, [{ user: bob.user, device: `BOB${n}` }]);
    assert.equal((await mine.members()).length, 2);

    const move = mine.move(`t${n}.example`);
    assert.deepEqual(await move.done, { state: "moved", to: `t${n}.example`, term: 1 });
    const { event: moved } = await bob.until("moved");
    assert.deepEqual([moved.from, moved.to, moved.by.user], [`s${n}.example`, `t${n}.example`, alice.user]);
    const { moved: redirect } = net.ds(`s${n}.example`).groups.get(mine.id)!;
    const { event: own } = await alice.until("moved");
    assert.deepEqual([moved.proof, own.proof], [redirect, redirect]);
    assert.deepEqual(mine.authenticator, his.authenticator);
    const steps = alice.heard.filter((h) => h.kind === "move").map((h) => h.event.step);
    assert.deepEqual(steps, ["offered", "sent", "decided", "moved"]);
    await close(alice, bob);
  });

  test("sends a message once, however often it asks with one txnId, also after a restart", async () => {
    const store = new MemoryStore();
    const { alice, bob, mine, n } = await pair(store);
    const ds = net.ds(`s${n}.example`);
    const honest = ds.answer.bind(ds);
    let lost = 0;
    ds.answer = (method, path, ...rest) => {
      const answer = honest(method, path, ...rest);
      if (path[2] === "messages" && method === "POST" && lost++ < 1) refuse(403, "M_BAD_JSON", { retry_after_ms: 1e9 });
      return answer;
    };
    const once = () => mine.send(utf8("pay 10 EUR"), { txnId: "payment" });
    await assert.rejects(once(), { retryable: true });
    const at = await once();
    assert.deepEqual(await once(), at);
    await close(alice);
    const again = await start(`alice${n}`, store);
    const [there] = again.mimiport.conversations.values();
    assert.deepEqual(await there!.send(utf8("pay 10 EUR"), { txnId: "payment" }), at);
    await there!.send(utf8("thanks"));
    await bob.until("message", isText("thanks"));
    const texts = bob.heard.filter((h) => h.kind === "message").map((h) => textOf(h.event.content));
    assert.deepEqual(texts, ["pay 10 EUR", "thanks"]);
    await close(again, bob);
  });

  test("sees what waits, in order, and ends a wait", async () => {
    const { alice, bob, mine, n } = await pair();
    const ds = net.ds(`s${n}.example`);
    const honest = ds.answer.bind(ds);
    let off = true;
    ds.answer = (method, path, ...rest) =>
      off && path[2] === "messages" && method === "POST"
        ? refuse(429, "M_LIMIT_EXCEEDED", { retry_after_ms: 1e9 })
        : honest(method, path, ...rest);
    await assert.rejects(mine.send(utf8("one"), { txnId: "1" }), { code: "M_LIMIT_EXCEEDED", retryable: true });
    const controller = new AbortController();
    const dropped = mine.send(utf8("never"), { txnId: "2", signal: controller.signal });
    assert.deepEqual(mine.outbox, ["1", "2"]);
    controller.abort();
    await assert.rejects(dropped, { name: "AbortError" });
    assert.deepEqual(mine.outbox, ["1"]);
    off = false;
    await mine.send(utf8("three"));
    await bob.until("message", isText("three"));
    const texts = bob.heard.filter((h) => h.kind === "message").map((h) => textOf(h.event.content));
    assert.deepEqual([texts, mine.outbox], [["one", "three"], []]);
    await close(alice, bob);
  });

  test("is told why a message was refused, also if the library was already sending what waits", async () => {
    const store = new MemoryStore();
    const { alice, bob, mine, n } = await pair(store);
    const ds = net.ds(`s${n}.example`);
    const honest = ds.answer.bind(ds);
    const isSend = (method: string, path: string[]) => method === "POST" && path[2] === "messages";
    ds.answer = (method, path, ...rest) =>
      isSend(method, path) ? refuse(429, "M_LIMIT_EXCEEDED", { retry_after_ms: 1e9 }) : honest(method, path, ...rest);
    await assert.rejects(mine.send(utf8("one")), { retryable: true });
    await close(alice);

    let sent = 0;
    let [begun, free] = [() => {}, () => {}];
    const sending = new Promise<void>((resolve) => (begun = resolve));
    const held = new Promise<void>((resolve) => (free = resolve));
    ds.answer = async (method, path, ...rest) => {
      if (!isSend(method, path)) return honest(method, path, ...rest);
      if (++sent === 2) refuse(403, "M_FORBIDDEN");
      begun();
      await held;
      return honest(method, path, ...rest);
    };
    const again = await start(`alice${n}`, store);
    await sending;
    const [there] = again.mimiport.conversations.values();
    const two = assert.rejects(there!.send(utf8("two")), { code: "M_FORBIDDEN" });
    free();
    await two;
    assert.deepEqual([sent, again.heard.filter((h) => h.kind === "failed")], [2, []]);
    await bob.until("message", isText("one"));
    await close(again, bob);
  });

  test("a group whose Delivery Service hangs holds up no other", async () => {
    const { alice, bob, mine, n } = await pair();
    const other = await alice.mimiport.create(`!other${n}`, { server: `hung${n}.example` });
    let free = () => {};
    const ds = net.ds(`hung${n}.example`);
    const honest = ds.answer.bind(ds);
    ds.answer = (...asked) => new Promise((resolve) => (free = () => resolve(honest(...asked))));
    const hung = other.send(utf8("hung"));
    await mine.send(utf8("at once"));
    await bob.until("message", isText("at once"));
    ds.answer = honest;
    free();
    await hung;
    await close(alice, bob);
  });

  test("that moves a group elsewhere meanwhile is not told of success at the former target", async () => {
    const { alice, bob, mine, n } = await pair();
    const source = net.ds(`s${n}.example`);
    source.outcome = "wait";
    const first = mine.move(`t${n}.example`);
    await alice.until("move", (e) => e.step === "sent");
    const second = mine.move(`u${n}.example`);
    source.decide([...source.migrations.values()][0]!, "confirm");
    assert.equal((await first.done).state, "moved");
    assert.deepEqual(await second.done, { state: "moved", to: `u${n}.example`, term: 2 });
    assert.equal(mine.host, `u${n}.example`);
    await close(alice, bob);
  });

  test("that was closed in a migration brings it to its end when it starts again", async () => {
    const store = new MemoryStore();
    const { alice, bob, mine, n } = await pair(store);
    const source = net.ds(`s${n}.example`);
    source.outcome = "wait";
    mine.move(`t${n}.example`);
    await alice.until("move", (e) => e.step === "sent");
    await close(alice);
    source.decide([...source.migrations.values()][0]!, "confirm");
    const again = await start(`alice${n}`, store);
    await again.until("move", (e) => e.step === "moved");
    const [there] = again.mimiport.conversations.values();
    assert.equal(there!.host, `t${n}.example`);
    await close(again, bob);
  });

  test("gives a move up while its host does not answer, and moves later", async () => {
    const { alice, bob, mine, s, t } = await pair();
    const ds = net.ds(s);
    const honest = ds.answer.bind(ds);
    const asked: (() => void)[] = [];
    ds.answer = (...request) => new Promise((resolve) => asked.push(() => resolve(honest(...request))));
    const move = mine.move(t);
    await move.abort();
    assert.deepEqual(await move.done, { state: "aborted", reason: "it was given up before it began" });
    ds.answer = honest;
    for (const answer of asked) answer();
    await mine.catchUp();
    assert.deepEqual([mine.state, mine.currentMove()], ["active", undefined]);
    assert.equal((await mine.move(t).done).state, "moved");
    await close(alice, bob);
  });

  test("gives a move up that its host is about to hear of, and one that its host never hears of", async () => {
    const { alice, bob, mine, s, t } = await pair();
    const ds = net.ds(s);
    ds.outcome = "wait";
    const honest = ds.answer.bind(ds);
    for (const [arrives, reason] of [
      [true, "no"],
      [false, "it was given up before the source had it"],
    ] as const) {
      let given: Promise<void> | undefined;
      let isAsked = () => {};
      const asked = new Promise<void>((resolve) => (isAsked = resolve));
      ds.answer = async (method, path, ...rest) => {
        if (method === "DELETE") isAsked();
        if (path[2] !== "init") return honest(method, path, ...rest);
        given ??= mine.currentMove()!.abort();
        await asked; // before the Init
        return arrives ? honest(method, path, ...rest) : refuse(502, "M_PEER_UNREACHABLE");
      };
      assert.deepEqual(await mine.move(t).done, { state: "aborted", reason });
      await given;
      ds.answer = honest;
      await mine.update();
      await bob.until("epoch", ({ epoch }) => epoch === mine.epoch);
    }
    await close(alice, bob);
  });

  test("hears of a message only when the store has it, and again after a crash, with the same place", async () => {
    /** A store of which the copy is what a crash would leave. */
    class Watched extends MemoryStore {
      copy = new Map<string, Value>();

      override async commit(changes: ReadonlyMap<string, Value | undefined>): Promise<void> {
        await super.commit(changes);
        this.copy = await this.load();
      }
    }
    const n = nextRoom();
    const store = new Watched();
    const [alice, bob] = [await start(`alice${n}`), await start(`bob${n}`, store)];
    const mine = await alice.mimiport.create(`!room${n}`, { server: `s${n}.example` });
    await mine.add(bob.user);
    await bob.until("joined");
    let crashed: ReadonlyMap<string, Value> = new Map();
    bob.mimiport.on("message", () => (crashed = store.copy));
    await mine.send(utf8("hello"));
    const { event } = await bob.until("message");
    await close(bob);

    const left = new MemoryStore();
    await left.commit(crashed);
    const again = await start(`bob${n}`, left);
    const { event: repeated } = await again.until("message");
    assert.deepEqual(repeated, event);
    await close(again, alice);
  });

  test("is told why its conversation stands still, and that it goes on", async () => {
    const { alice, bob, mine, his, n } = await pair();
    const ds = net.ds(`s${n}.example`);
    const group = ds.groups.get(mine.id)!;
    group.state = "stopped";
    await assert.rejects(mine.send(utf8("hello")), { code: "M_GROUP_STOPPED" });
    const { event } = await alice.until("state", (e) => e.state === "stopped");
    assert.deepEqual([event.reason, mine.reason], ["M_GROUP_STOPPED", "M_GROUP_STOPPED"]);
    group.state = "active";
    await mine.send(utf8("hello"));
    await alice.until("state", (e) => e.state === "active" && e.reason === undefined);
    await mine.remove(bob.user);
    await bob.until("state", (e) => e.state === "left" && e.reason === "REMOVED");
    assert.equal(his.reason, "REMOVED");
    await close(alice, bob);
  });

  test("decides how far a leaf is trusted", async () => {
    const n = nextRoom();
    const bob = await published(`bob${n}`);
    const asked: [string, string][] = [];
    const verifyLeaf: VerifyLeaf = ({ user, key }, found) => {
      asked.push([user, found]);
      assert.equal(key.length, 32);
      return user === bob.id ? "cross-signed" : found;
    };
    const alice = await start(`alice${n}`, new MemoryStore(), { verifyLeaf });
    const mine = await alice.mimiport.create(`!room${n}`, { server: `s${n}.example` });
    await mine.add(bob.id);
    const trust = (await mine.members()).map(({ user, verified }) => [user, verified]);
    assert.deepEqual(trust, [
      [alice.user, "key"],
      [bob.id, "cross-signed"],
    ]);
    assert.deepEqual(
      asked.filter(([user]) => user === bob.id),
      [[bob.id, "key"]],
    );
    await close(alice);
  });

  test("keeps its KeyPackages in stock", async () => {
    const app = await start(`carol${nextRoom()}`);
    const keys = () => Object.keys(net.oneTimeKeys.get(app.user)!.get(`CAROL${rooms}`)!).length;
    assert.equal(keys(), 4);
    await app.mimiport.receive({ keyCounts: { "io.github.mimiport.key_package": 2 } });
    assert.equal(keys(), 4);
    await app.mimiport.receive({ keyCounts: { signed_curve25519: 50 } });
    assert.equal(keys(), 8);
    await close(app);
  });
});
