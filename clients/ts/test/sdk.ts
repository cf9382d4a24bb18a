// The way through matrix-js-sdk, for Node and for a browser's page.
import { ed25519 } from "@noble/curves/ed25519.js";
import { createClient, type MatrixClient } from "matrix-js-sdk";
import { logger } from "matrix-js-sdk/lib/logger.js";
import { utf8 } from "../src/bytes.js";
import { canonicalJson } from "../src/devices.js";
import { login, MemoryStore, Mimiport, type Session } from "../src/index.js";
import { SdkTransport } from "../src/matrix-js-sdk.js";
import { fromBase64 } from "../src/wire.js";
import { requireSame, type Way, type World } from "./ways.js";

(logger as unknown as { disableAll(): void }).disableAll();

export function sdkClient({ homeserver: baseUrl, token: accessToken, userId, deviceId }: Session): MatrixClient {
  return createClient({ baseUrl, accessToken, userId, deviceId });
}

export function sdkWay(session: Session): Way {
  const client = sdkClient(session);
  return { transport: new SdkTransport(client), start: () => client.startClient(), stop: () => client.stopClient() };
}

/** The SDK's Rust crypto signs the device's keys, with the library's key among them. */
export async function requireSigned(world: World): Promise<void> {
  const session = await login(world.homeserver, `alice${await world.nextRoom()}`, "password", undefined);
  const { userId, deviceId } = session;
  const client = sdkClient(session);
  await client.initRustCrypto({ useIndexedDB: false });
  const mimiport = await Mimiport.open({ transport: new SdkTransport(client), store: new MemoryStore() });
  mimiport.start();
  await client.startClient();
  const published = async () => (await client.downloadKeysForUsers([userId])).device_keys[userId]?.[deviceId];
  let device = await published();
  while (device?.keys[`io.github.mimiport.ed25519:${deviceId}`] === undefined) {
    await world.toDevice(userId, "@bob:h.example", {}); // the answer of /sync comes with it
    device = await published();
  }
  const { signatures, unsigned: _, ...signed } = device;
  const id = `ed25519:${deviceId}`;
  const [signature, key] = [signatures![userId]![id]!, signed.keys[id]!].map(fromBase64) as [Uint8Array, Uint8Array];
  requireSame(ed25519.verify(signature, utf8(canonicalJson(signed)), key), true);
  requireSame(`curve25519:${deviceId}` in signed.keys, true);
  client.stopClient();
  await mimiport.close();
}
