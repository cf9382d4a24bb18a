// A device of matrix-js-sdk that its user has cross-signed gets an MLS key, at a real homeserver. The test in Go gives
// it, as JSON in its argument, the session and the user's password.
import assert from "node:assert/strict";
import { createClient } from "matrix-js-sdk";
import { logger } from "matrix-js-sdk/lib/logger.js";
import { isCrossSigned, type PublishedKeys } from "../src/devices.js";
import { MemoryStore, Mimiport, type Session } from "../src/index.js";
import { SdkTransport } from "../src/matrix-js-sdk.js";

(logger as unknown as { disableAll(): void }).disableAll();

const { session, password }: { session: Session; password: string } = JSON.parse(process.argv[2]!);
const { homeserver: baseUrl, token: accessToken, userId, deviceId } = session;
const client = createClient({ baseUrl, accessToken, userId, deviceId });

/** What the homeserver publishes: whether the device is cross-signed, and the signature of the self-signing key. */
async function published() {
  const keys = (await client.downloadKeysForUsers([userId])) as PublishedKeys;
  const [id] = Object.keys(keys.self_signing_keys?.[userId]?.keys ?? {});
  const signature = keys.device_keys?.[userId]?.[deviceId]?.signatures?.[userId]?.[id ?? ""];
  return { signature, isValid: await isCrossSigned(session, keys) };
}

/** Opens the device, and lets it publish what is missing: its MLS key the first time, and KeyPackages. */
async function open(transport: SdkTransport, store: MemoryStore): Promise<void> {
  const mimiport = await Mimiport.open({ transport, store });
  await mimiport.receive({ keyCounts: {} });
  await mimiport.close();
}

await client.initRustCrypto({ useIndexedDB: false });
await client.startClient();
await client.getCrypto()!.bootstrapCrossSigning({
  authUploadDeviceSigningKeys: async (request) => {
    const asked = await request(null).catch((e) => e.data);
    const identifier = { type: "m.id.user", user: userId };
    await request({ type: "m.login.password", identifier, password, session: asked?.session });
  },
});
let before = await published();
while (!before.isValid) {
  await new Promise((again) => setTimeout(again, 100)); // the keys and the signature come to the server in turn
  before = await published();
}

const store = new MemoryStore();
const silent = new SdkTransport(client);
Object.assign(silent, { crossSign: undefined });
await open(silent, store);
const changed = await published();
assert.deepEqual(changed, { signature: before.signature, isValid: false }, "the homeserver keeps a signature");

await open(new SdkTransport(client), store);
const after = await published();
assert.notEqual(after.signature, before.signature);
assert.ok(after.isValid, "the device is cross-signed again");
process.exit(0);
