// Two devices with matrix-js-sdk and its Rust crypto, at real homeservers: MLS and Megolm side by side. The test in Go
// gives it, as JSON in its argument, two sessions and a room that both users have joined.
import assert from "node:assert/strict";
import { createClient, EventType, type MatrixClient, MatrixEvent, MatrixEventEvent, RoomEvent } from "matrix-js-sdk";
import { logger } from "matrix-js-sdk/lib/logger.js";
import { textOf, utf8 } from "../src/bytes.js";
import { type Events, MemoryStore, Mimiport, type Session } from "../src/index.js";
import { SdkTransport } from "../src/matrix-js-sdk.js";

(logger as unknown as { disableAll(): void }).disableAll();

/** Waits for the first of a kind of things that fits. */
class Heard<T> {
  private readonly all: T[] = [];
  private readonly waiting = new Set<() => void>();

  add(one: T): void {
    this.all.push(one);
    this.waiting.forEach((look) => look());
  }

  until(fits: (one: T) => boolean): Promise<T> {
    return new Promise((resolve) => {
      const look = () => {
        const found = this.all.find(fits);
        if (found === undefined) return;
        this.waiting.delete(look);
        resolve(found);
      };
      this.waiting.add(look);
      look();
    });
  }
}

interface Party {
  client: MatrixClient;
  mimiport: Mimiport;
  megolm: Heard<MatrixEvent>;
  mls: Heard<Events["message"]>;
  joined: Heard<unknown>;
}

async function begin({ homeserver: baseUrl, token: accessToken, userId, deviceId }: Session): Promise<Party> {
  const client = createClient({ baseUrl, accessToken, userId, deviceId });
  await client.initRustCrypto({ useIndexedDB: false });
  const transport = new SdkTransport(client);
  const mimiport = await Mimiport.open({ transport, store: new MemoryStore(), keyPackages: 4 });
  const party = { client, mimiport, megolm: new Heard<MatrixEvent>(), mls: new Heard<Events["message"]>() };
  const joined = new Heard<unknown>();
  client.on(MatrixEventEvent.Decrypted, (event) => party.megolm.add(event));
  client.on(RoomEvent.Timeline, (event) => event.isEncrypted() && void client.decryptEventIfNeeded(event));
  mimiport.on("message", (event) => party.mls.add(event));
  mimiport.on("joined", (event) => joined.add(event));
  mimiport.start();
  await client.startClient();
  return { ...party, joined };
}

/** The keys that a user's devices publish, once they have the wanted ones. */
async function keysOf({ client }: Party, user: string, device: string, wanted: string[]): Promise<any> {
  for (;;) {
    const { device_keys } = await client.downloadKeysForUsers([user]);
    const keys = device_keys[user]?.[device];
    if (wanted.every((name) => keys?.keys[`${name}:${device}`] !== undefined)) return keys;
    await new Promise((again) => setTimeout(again, 100));
  }
}

async function secretly(from: Party, to: Party, room: string, body: string): Promise<void> {
  await from.client.sendEvent(room, EventType.RoomMessage, { msgtype: "m.text", body } as any);
  const event = await to.megolm.until((e) => e.getContent().body === body); // its key may come after it
  assert.equal(event.getWireType(), EventType.RoomMessageEncrypted);
}

const { sessions, room }: { sessions: [Session, Session]; room: string } = JSON.parse(process.argv[2]!);
const [alice, bob] = [await begin(sessions[0]), await begin(sessions[1])];
const kinds = ["ed25519", "curve25519", "io.github.mimiport.ed25519"];
for (const [party, { userId, deviceId }] of [
  [bob, sessions[0]],
  [alice, sessions[1]],
] as const) {
  const keys = await keysOf(party, userId, deviceId, kinds);
  const megolm = ["m.megolm.v1.aes-sha2", "m.olm.v1.curve25519-aes-sha2"];
  assert.deepEqual(keys.algorithms.sort(), ["io.github.mimiport.key_package", ...megolm]);
}

await alice.client.sendStateEvent(room, EventType.RoomEncryption, { algorithm: "m.megolm.v1.aes-sha2" }, "");
for (const { client } of [alice, bob])
  while (!(await client.getCrypto()!.isEncryptionEnabledInRoom(room))) await new Promise((a) => setTimeout(a, 100));
await secretly(alice, bob, room, "by Megolm");

const mine = await alice.mimiport.create(room);
await mine.add(sessions[1].userId);
await bob.joined.until(() => true);
await mine.send(utf8("by MLS"));
const { sender } = await bob.mls.until((e) => textOf(e.content) === "by MLS");
assert.equal(sender, sessions[0].userId);
const [his] = bob.mimiport.conversations.values();
await his!.send(utf8("by MLS, too"));
await alice.mls.until((e) => textOf(e.content) === "by MLS, too");
const trust = (await mine.members()).map(({ user, verified }) => [user, verified]);
assert.deepEqual(trust, [
  [sessions[0].userId, "key"],
  [sessions[1].userId, "key"],
]);

const moved = await his!.move(sessions[1].userId.replace(/^[^:]*:/, "")).done;
assert.equal(moved.state, "moved");
await secretly(bob, alice, room, "by Megolm, after the move");
await his!.send(utf8("by MLS, after the move"));
await alice.mls.until((e) => textOf(e.content) === "by MLS, after the move");
console.log("done");
process.exit(0);
