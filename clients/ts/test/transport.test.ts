// Each way to the homeserver keeps the same promises.
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { ClientEvent, createClient, type MatrixClient } from "matrix-js-sdk";
import { logger } from "matrix-js-sdk/lib/logger.js";
import { textOf, utf8 } from "../src/bytes.js";
import { FetchTransport, login, MemoryStore, Mimiport, type News, type Session, type Transport } from "../src/index.js";
import { json, Matrix } from "../src/matrix.js";
import { SdkTransport } from "../src/matrix-js-sdk.js";
import { FakeNetwork } from "../src/testing.js";
import { examplesIn, runOf } from "./examples.js";
import { net, nextRoom, published } from "./party.js";

(logger as unknown as { disableAll(): void }).disableAll();

/** A device's way, and what begins and ends it. */
interface Way {
  transport: Transport;
  /** Begins to follow /sync, where another program does. */
  start(): Promise<void>;
  stop(): void;
}

function sdkClient({ homeserver: baseUrl, token: accessToken, userId, deviceId }: Session): MatrixClient {
  return createClient({ baseUrl, accessToken, userId, deviceId });
}

const kinds: Record<string, (session: Session) => Way> = {
  "in memory": ({ userId }) => ({
    transport: net.transport(userId.slice(1, userId.indexOf(":"))),
    start: async () => {},
    stop: () => {},
  }),
  fetch: (session) => ({ transport: new FetchTransport(session), start: async () => {}, stop: () => {} }),
  "matrix-js-sdk": (session) => {
    const client = sdkClient(session);
    return {
      transport: new SdkTransport(client),
      start: () => client.startClient(),
      stop: () => client.stopClient(),
    };
  },
};

const enter = (name: string) => login(net.homeserver, name, "password", undefined);

for (const [kind, create] of Object.entries(kinds))
  describe(`a way to the homeserver: ${kind}`, () => {
    test("gives news, which the homeserver keeps until they are stored", async (t) => {
      const n = nextRoom();
      const session = await enter(`alice${n}`);
      const { transport, start, stop } = create(session);
      const matrix = new Matrix(transport);
      const ended = new AbortController();
      t.after(() => {
        ended.abort();
        stop();
      });
      let since: string | undefined;
      /** The first news that have something of a kind. */
      const news = async (part: "toDevice" | "state"): Promise<News> => {
        const got = await matrix.sync(since, 1000, ended.signal);
        since = got.next ?? since;
        return got[part]?.length ? got : news(part);
      };
      let first = await matrix.sync(undefined, 0, ended.signal);
      await start();
      while (first.next === undefined) first = await matrix.sync(undefined, 0, ended.signal);
      since = first.next;
      net.toDevice(session.userId, "@_mimiport:s.example", { n });
      const [event] = (await news("toDevice")).toDevice!;
      assert.deepEqual([event!.sender, event!.content], ["@_mimiport:s.example", { n }]);
      assert.equal(net.unread(session.userId), 1);
      net.point(`!room${n}`, { via: "s.example" });
      net.toDevice(session.userId, "@_mimiport:s.example", { n: 0 });
      const { state } = await news("state");
      const { type, state_key, content } = state!.find((e) => e.roomId === `!room${n}`)!;
      assert.deepEqual([type, state_key, content], ["io.github.mimiport.delivery_service", "", { via: "s.example" }]);
      assert.equal(net.unread(session.userId), 1);
    });

    test("returns an answer with any status and bytes, and ends a wait", async () => {
      const n = nextRoom();
      const session = await enter(`alice${n}`);
      const matrix = new Matrix(create(session).transport);
      const base = `/_matrix/client/unstable/io.github.mimiport.v0/ds/s${n}.example`;
      const refused = await matrix.send("GET", `${base}/groups/none`);
      if (!net.stock) assert.equal(refused.status, 404);
      assert.match(json(refused).errcode, /M_/);
      const state = `/_matrix/client/v3/rooms/!room${n}/state/x/`;
      await matrix.request("PUT", state, { é: [1, null] });
      assert.deepEqual(await matrix.request("GET", state), { é: [1, null] });
      const wait = matrix.send(
        "GET",
        "/_matrix/client/v3/sync?timeout=1000000",
        undefined,
        1e6,
        AbortSignal.timeout(1),
      );
      await assert.rejects(wait, { name: "TimeoutError" });
      net.answersNothing = true;
      await assert.rejects(matrix.send("GET", "/_matrix/client/versions"), { code: "UNREACHABLE", retryable: true });
      net.answersNothing = false;
    });

    test("lets an application join, talk and move", async () => {
      const n = nextRoom();
      const [alice, session] = [await published(`alice${n}`), await enter(`bob${n}`)];
      const { transport, start, stop } = create(session);
      const bob = await Mimiport.open({ transport, store: new MemoryStore(), keyPackages: 2 });
      const heard = new Promise<string>((resolve) =>
        bob.on("message", ({ content, own }) => own || resolve(textOf(content))),
      );
      const moved = new Promise((resolve) => bob.on("moved", ({ to }) => resolve(to)));
      const joined = new Promise((resolve) => bob.on("joined", resolve));
      bob.start();
      await start();
      const g = await alice.client.createGroup(`!room${n}`, `s${n}.example`);
      await alice.client.add(g, session.userId);
      await joined;
      await alice.client.send(g, utf8("hello"));
      assert.equal(await heard, "hello");
      const [conversation] = bob.conversations.values();
      await conversation!.send(utf8("hello, alice"));
      await alice.sync();
      assert.deepEqual(alice.texts(), ["hello, alice"]);
      await alice.client.migrate(g, `t${n}.example`);
      assert.equal(await moved, `t${n}.example`);
      stop();
      await bob.close();
    });
  });

/** The README's example that imports a part of the package. */
const example = (part: string) =>
  runOf(examplesIn("README.md", "js").find(({ code }) => code.includes(`"mimiport-client/${part}"`))!.code);

test("the README's example with the SDK runs", async () => {
  const { homeserver, token, userId, deviceId } = await enter(`alice${nextRoom()}`);
  /** The homeserver of these tests has no rooms for the SDK's crypto: integration tests have. */
  const withoutCrypto: typeof createClient = (options) =>
    Object.assign(createClient(options), { initRustCrypto: async () => {} });
  const { client, mimiport } = await example("matrix-js-sdk")({
    ...{ createClient: withoutCrypto, Mimiport, IndexedDbStore: MemoryStore, SdkTransport },
    ...{ baseUrl: homeserver, accessToken: token, userId, deviceId },
  });
  await new Promise((resolve) => client.once(ClientEvent.Sync, resolve));
  assert.equal(Object.keys(net.oneTimeKeys.get(userId)!.get(deviceId)!).length, 20);
  client.stopClient();
  await mimiport.close();
});

test("the README's example of an application's test runs", async () => {
  const { network, alice } = await example("testing")({ FakeNetwork, Mimiport, MemoryStore });
  const conversation = await alice.create("!room", { server: "s.example" });
  await assert.rejects(alice.create("!other", { server: "t.example" }), { code: "M_PEER_UNREACHABLE" });
  network.ds("t.example").down = false;
  assert.equal((await conversation.move("t.example").done).state, "aborted");
  await alice.close();
});

test("the SDK's client starts after the library, which would lose news otherwise", async () => {
  const client = sdkClient(await enter(`alice${nextRoom()}`));
  const synced = new Promise((resolve) => client.once(ClientEvent.Sync, resolve));
  await client.startClient();
  await synced;
  const transport = new SdkTransport(client);
  await assert.rejects(transport.sync(0), { code: "INVALID" });
  client.stopClient();
});

test("the SDK goes on when the library ends", async () => {
  const session = await enter(`alice${nextRoom()}`);
  const client = sdkClient(session);
  const mimiport = await Mimiport.open({ transport: new SdkTransport(client), store: new MemoryStore() });
  mimiport.start();
  await client.startClient();
  await mimiport.close();
  net.toDevice(session.userId, "@_mimiport:s.example", {});
  await new Promise<void>((resolve) => {
    client.on(ClientEvent.Sync, () => net.unread(session.userId) === 0 && resolve());
  });
  client.stopClient();
});
