// Each way to the homeserver keeps the same promises.
import assert from "node:assert/strict";
import { after, describe, test } from "node:test";
import { ClientEvent, createClient } from "matrix-js-sdk";
import { FetchTransport, login, MemoryStore, Mimiport, type Session } from "../src/index.js";
import { SdkTransport } from "../src/matrix-js-sdk.js";
import { FakeNetwork } from "../src/testing.js";
import { examplesIn, runOf } from "./examples.js";
import { net, nextRoom, world } from "./party.js";
import { requireSigned, sdkClient, sdkWay } from "./sdk.js";
import { promises, type Way } from "./ways.js";

/** All timers of this file. The SDK leaves the time-outs of its requests running: they would keep the process. */
const timers: NodeJS.Timeout[] = [];
const { setTimeout: begin } = globalThis;
globalThis.setTimeout = ((...given: Parameters<typeof begin>) => {
  const timer = begin(...given);
  timers.push(timer);
  return timer;
}) as typeof begin;
after(() => timers.forEach(clearTimeout));

const withoutEnd = { start: async () => {}, stop: () => {} };

const kinds: Record<string, (session: Session) => Way> = {
  "in memory": ({ userId }) => ({
    ...withoutEnd,
    transport: net.transport(userId.slice(1, userId.indexOf(":"))),
  }),
  fetch: (session) => ({ ...withoutEnd, transport: new FetchTransport(session) }),
  "matrix-js-sdk": sdkWay,
};

const enter = (name: string) => login(net.homeserver, name, "password", undefined);

for (const [kind, create] of Object.entries(kinds))
  describe(`a way to the homeserver: ${kind}`, () => {
    for (const [name, keep] of Object.entries(promises)) test(name, () => keep(world, create));
  });

test("matrix-js-sdk signs the device's keys", () => requireSigned(world));

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
