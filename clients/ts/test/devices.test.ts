// Device keys, signed KeyPackages, and the trust that a leaf belongs to its device.
import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { canonicalJson, type DeviceKeys, joinable, KEY_PACKAGE } from "../src/devices.js";
import * as mls from "../src/mls.js";
import { emptyState } from "../src/records.js";
import { loadStore, saveStore } from "./files.js";
import { fromBase64, toBase64, toBase64url } from "../src/wire.js";
import { net, nextRoom, party, published, rooms, together, User } from "./party.js";

const MLS = "io.github.mimiport.ed25519";
const KP = "io.github.mimiport.key_package";

const keysOf = ({ id, client }: User): DeviceKeys => net.deviceKeys.get(id)![client.matrix.transport.deviceId]!;

async function verifies({ signatures, unsigned: _, ...rest }: any, userId: string, keyId: string, key: string) {
  const { signature } = await mls.cipherSuite(1);
  const signed = fromBase64(signatures[userId][keyId]);
  return signature.verify(fromBase64(key), new Uint8Array(Buffer.from(canonicalJson(rest))), signed);
}

async function sign(object: object, signKey: Uint8Array): Promise<string> {
  const { signatures: _, unsigned: __, ...rest } = object as any;
  const { signature } = await mls.cipherSuite(1);
  return toBase64(await signature.sign(signKey, new Uint8Array(Buffer.from(canonicalJson(rest)))));
}

test("canonical JSON is as the Matrix specification has it", () => {
  assert.equal(
    canonicalJson({ b: "2", a: [true, null, { y: 1, x: "日" }] }),
    '{"a":[true,null,{"x":"日","y":1}],"b":"2"}',
  );
  assert.equal(canonicalJson({ "\u{1f600}": 1, "\uffff": 2, a: '"' }), '{"a":"\\"","\uffff":2,"\u{1f600}":1}');
});

test("a device publishes its MLS key, and keys that it has signed itself", async () => {
  const user = await published(`dora${nextRoom()}`);
  const keys = keysOf(user);
  const { deviceId } = user.client.matrix.transport;
  const own = keys.keys[`ed25519:${deviceId}`]!;
  assert.equal(keys.keys[`${MLS}:${deviceId}`], toBase64(user.client.stored.identity!.publicKey));
  assert.ok(await verifies(keys, user.id, `ed25519:${deviceId}`, own));
  await user.client.publishKeyPackages(1);
  assert.equal(keysOf(user), keys, "the same keys are not published again");
});

test("the MLS key is one for the device's life, over suites and restarts", async (t) => {
  const dir = mkdtempSync(join(tmpdir(), "mimiport-"));
  t.after(() => rmSync(dir, { recursive: true }));
  const user = await published(`eve${nextRoom()}`);
  const { publicKey } = user.client.stored.identity!;
  assert.deepEqual((await user.client.createIdentity(3)).publicKey, publicKey);
  saveStore(join(dir, "store"), user.client.stored);
  const stored = loadStore(join(dir, "store"));
  assert.deepEqual([stored.identity, stored.deviceKey], [user.client.stored.identity, user.client.stored.deviceKey]);
  const before = keysOf(user);
  const other = await User.create(`eve${rooms}`); // has lost its store
  await assert.rejects(other.client.publishKeyPackages(1), /has published another MLS signature key/);
  assert.equal(keysOf(user), before);
});

test("keys of another program on the device stay, and that program signs", async () => {
  const name = `olm${nextRoom()}`;
  const { signature } = await mls.cipherSuite(1);
  const olm = await signature.keygen();
  const [user_id, device_id] = [`@${name}:h.example`, name.toUpperCase()];
  const keys = { [`ed25519:${device_id}`]: toBase64(olm.publicKey), [`curve25519:${device_id}`]: "Y3VydmU" };
  net.publish({ user_id, device_id, algorithms: ["m.olm.v1.curve25519-aes-sha2"], keys, unsigned: { name: "phone" } });
  const unable = await User.create(name);
  await assert.rejects(unable.client.publishKeyPackages(1), /keys of another program/);
  const { stored } = unable.client;
  const asked: DeviceKeys[] = [];
  const signDeviceKeys = async (k: DeviceKeys) => {
    asked.push(k);
    return sign(k, olm.signKey);
  };
  const user = await User.create(name, stored, undefined, { signDeviceKeys });
  await user.client.publishKeyPackages(1);
  const merged = keysOf(user);
  assert.deepEqual(merged.keys, { ...keys, [`${MLS}:${device_id}`]: toBase64(stored.identity!.publicKey) });
  assert.deepEqual(merged.algorithms, ["m.olm.v1.curve25519-aes-sha2", "io.github.mimiport.key_package"]);
  assert.equal(merged.unsigned, undefined);
  assert.ok(await verifies(merged, user_id, `ed25519:${device_id}`, toBase64(olm.publicKey)));
  assert.equal(asked.length, 1);
});

test("a KeyPackage is signed as Matrix signs JSON, with the device's MLS key", async () => {
  const user = await published(`fay${nextRoom()}`);
  const { deviceId } = user.client.matrix.transport;
  const [[id, value]] = Object.entries<any>(net.oneTimeKeys.get(user.id)!.get(deviceId)!) as [[string, any]];
  const ref = await mls.keyPackageRef(mls.parseKeyPackage(fromBase64(value.key)).keyPackage);
  assert.equal(id, `io.github.mimiport.key_package:${toBase64url(ref.subarray(0, 12))}`);
  assert.ok(await verifies(value, user.id, `${MLS}:${deviceId}`, keysOf(user).keys[`${MLS}:${deviceId}`]!));
});

/** Bob, with a good KeyPackage, and a second device, whose good KeyPackage `odd` changes. */
async function twoDevices(odd: (value: any, keys: DeviceKeys, signKey: Uint8Array) => unknown) {
  const { users } = await party("alice");
  const alice = users[0]!;
  const bob = await published(`bob${rooms}`);
  const stored = emptyState();
  const second = { userId: bob.id, deviceId: "SECOND" };
  stored.identity = await mls.newIdentity(second, 1);
  const other = await User.create(`bob${rooms}`, stored); // logs in as the only device there is
  const keys = () => net.oneTimeKeys.get(bob.id)!.get(bob.client.matrix.transport.deviceId)!;
  const before = keys();
  await other.client.publishKeyPackages(1);
  const own = keys();
  const [name, value] = Object.entries(own).find(([id]) => !(id in before))!;
  delete own[name];
  net.oneTimeKeys.get(bob.id)!.set("SECOND", { [name]: value });
  await odd(value, net.deviceKeys.get(bob.id)!.SECOND!, stored.identity.signKey);
  return { alice, bob };
}

test("a device whose id JSON escapes is not added", () => {
  const keys = { algorithms: [KEY_PACKAGE], keys: {} };
  const ids = ["PHONE", 'D"', "D\\", "D\n", "É<&", 'D":{}},"@victim:x":{"D'];
  const published: any = { device_keys: { "@u:x": Object.fromEntries(ids.map((id) => [id, keys])) } };
  assert.deepEqual(joinable("@u:x", published), ["PHONE", "É<&"]);
});

test("all devices of a user are added", async () => {
  const { alice, bob } = await twoDevices(() => undefined);
  await alice.client.add(alice.group, bob.id);
  assert.equal(mls.members(alice.group.state).length, 3);
  assert.deepEqual(alice.take("skipped"), []);
});

test("a device whose keys make no sense keeps nobody else out", async () => {
  for (const odd of [null, 7, "keys", { algorithms: "all" }, { algorithms: { includes: 1 } }] as any[]) {
    const { alice, bob } = await twoDevices((_, { user_id }) => (net.deviceKeys.get(user_id)!.SECOND = odd));
    await alice.client.add(alice.group, bob.id);
    assert.equal(mls.members(alice.group.state).length, 2);
  }
});

test("a KeyPackage of last resort serves again and again, and is renewed once it was used", async (t) => {
  t.after(() => (net.hasFallback = false));
  net.hasFallback = true;
  const { users } = await party("alice");
  const [alice] = users as [User];
  const bob = await published(`bob${rooms}`);
  const { lastResorts, keyPackages } = bob.client.stored;
  const [first] = lastResorts;
  const add = () => alice.client.add(alice.group, bob.id);
  const remove = () => alice.client.remove(alice.group, bob.id);
  await add(); // by the only one-time key
  await bob.sync();
  assert.deepEqual(lastResorts, [first]);
  await remove();
  for (let i = 0; i < 2; i++) {
    await add();
    await remove();
    await add();
    await bob.sync();
    together(alice, bob);
    await remove();
  }
  assert.equal(bob.take("joined").length, 5);
  assert.deepEqual([lastResorts.length, lastResorts.includes(first!)], [2, false]);
  assert.deepEqual([...keyPackages.keys()], lastResorts);
});

test("a KeyPackage of last resort that was used is kept until the homeserver has taken the next but one", async (t) => {
  t.after(() => (net.hasFallback = false));
  net.hasFallback = true;
  const { users } = await party("alice");
  const [alice] = users as [User];
  const bob = await published(`bob${rooms}`);
  await alice.client.add(alice.group, bob.id); // by the only one-time key
  await bob.sync();
  await alice.client.remove(alice.group, bob.id);
  const { client } = bob;
  const { lastResorts, keyPackages } = client.stored;
  const [first] = lastResorts;
  net.held = [];
  await alice.client.add(alice.group, bob.id);
  const late = net.held;
  net.held = undefined;
  const upload = client.matrix.uploadKeyPackages;
  client.matrix.uploadKeyPackages = () => Promise.reject(new Error("the homeserver is away"));
  for (let i = 0; i < 3; i++) await assert.rejects(bob.sync(), /away/);
  client.matrix.uploadKeyPackages = upload;
  for (const deliver of late) deliver();
  await bob.sync();
  together(alice, bob);
  assert.deepEqual([lastResorts.length, lastResorts[0], keyPackages.size], [2, first, 2]);
});

const keepsLastResorts = { skip: net.stock && "the homeserver has no module" };

test("the module keeps a KeyPackage of last resort, which is renewed in time", keepsLastResorts, async (t) => {
  t.after(() => (net.atModule = undefined));
  net.atModule = new Map();
  const { users } = await party("alice");
  const [alice] = users as [User];
  const bob = await published(`bob${rooms}`);
  const { lastResorts, keyPackages } = bob.client.stored;
  const [first] = lastResorts;
  const add = () => alice.client.add(alice.group, bob.id);
  const remove = () => alice.client.remove(alice.group, bob.id);
  await add(); // by the only one-time key
  await remove();
  for (let i = 0; i < 2; i++) {
    await add();
    await bob.sync();
    together(alice, bob);
    await remove();
  }
  assert.deepEqual(lastResorts, [first]);
  const { leafNode } = keyPackages.get(first!)!.publicPackage;
  assert(leafNode.leafNodeSource === "key_package");
  leafNode.lifetime.notBefore -= 7n * 24n * 3600n;
  await bob.sync();
  assert.deepEqual([lastResorts.length, lastResorts[0]], [2, first]);
  await add();
  await bob.sync();
  together(alice, bob);
  await remove();

  net.atModule.set(`${bob.id} ${bob.client.matrix.transport.deviceId}`, { key: "AAEABQ", fallback: true });
  await assert.rejects(add(), /no usable KeyPackage/); // one that the device has not signed
  net.atModule = undefined;
  await assert.rejects(add(), /no usable KeyPackage/);
});

const odd: [string, RegExp, Parameters<typeof twoDevices>[0]][] = [
  ["is not signed", /has not signed/, (value) => delete value.signatures],
  ["is changed", /has not signed/, (value) => (value.more = 1)],
  ["is null", /has not signed/, (_, { user_id }) => net.oneTimeKeys.get(user_id)!.set("SECOND", { [`${KP}:A`]: null })],
  ["is text", /has not signed/, (_, { user_id }) => net.oneTimeKeys.get(user_id)!.set("SECOND", { [`${KP}:A`]: "A" })],
  [
    "is signed by another key",
    /has not signed/,
    async (value) => {
      const { signKey } = await mls.newIdentity({ userId: "@x:y", deviceId: "Z" }, 1);
      for (const by of Object.values<any>(value.signatures)) by[`${MLS}:SECOND`] = await sign(value, signKey);
    },
  ],
  ["is of a device without an MLS key", /publishes no MLS key/, (_, keys) => delete keys.keys[`${MLS}:SECOND`]],
  [
    "is no KeyPackage",
    /malformed/,
    async (value, _, signKey) => {
      value.key = "AAEC";
      for (const by of Object.values<any>(value.signatures)) by[`${MLS}:SECOND`] = await sign(value, signKey);
    },
  ],
  [
    "is of another device",
    /of another device/,
    async (value, { user_id }, signKey) => {
      const other = await mls.newIdentity({ userId: user_id, deviceId: "THIRD" }, 1);
      const { publicPackage } = await mls.newKeyPackage(other, BigInt(Math.floor(Date.now() / 1000)));
      value.key = toBase64(mls.encodeKeyPackage(publicPackage));
      for (const by of Object.values<any>(value.signatures)) by[`${MLS}:SECOND`] = await sign(value, signKey);
    },
  ],
  [
    "has another key than the device",
    /another key/,
    async (value, { user_id }, signKey) => {
      const other = await mls.newIdentity({ userId: user_id, deviceId: "SECOND" }, 1);
      const { publicPackage } = await mls.newKeyPackage(other, BigInt(Math.floor(Date.now() / 1000)));
      value.key = toBase64(mls.encodeKeyPackage(publicPackage));
      for (const by of Object.values<any>(value.signatures)) by[`${MLS}:SECOND`] = await sign(value, signKey);
    },
  ],
  [
    "is past its time",
    /cannot take/,
    async (value, { user_id }, signKey) => {
      const identity = { userId: user_id, deviceId: "SECOND", suite: 1, signKey, publicKey: publicKeyIn(value) };
      const { publicPackage } = await mls.newKeyPackage(identity, 0n);
      value.key = toBase64(mls.encodeKeyPackage(publicPackage));
      for (const by of Object.values<any>(value.signatures)) by[`${MLS}:SECOND`] = await sign(value, signKey);
    },
  ],
];

const publicKeyIn = (value: any) => mls.parseKeyPackage(fromBase64(value.key)).keyPackage.leafNode.signaturePublicKey;

test("a device whose KeyPackage is odd is left out, the others are added", async (t) => {
  for (const [what, reason, make] of odd)
    await t.test(what, async () => {
      const { alice, bob } = await twoDevices(make);
      await alice.client.add(alice.group, bob.id);
      assert.deepEqual(
        mls.members(alice.group.state).map((m) => m.deviceId),
        [alice, bob].map((u) => u.client.matrix.transport.deviceId),
      );
      const [skipped, ...more] = alice.take("skipped");
      assert.deepEqual(more, []);
      assert.ok(skipped?.event === "skipped" && skipped.user === bob.id && skipped.device === "SECOND");
      assert.match(skipped.reason, reason);
    });
});

const verified = async (u: User) => (await u.client.members(u.group)).map((m) => m.verified);

test("a leaf counts as its device's if the device publishes the leaf's key; no Commit is refused for it", async () => {
  const { users, room, s } = await party("alice", "bob");
  const [alice, bob] = users as [User, User];
  for (const u of users) assert.deepEqual(await verified(u), ["key", "key"]);

  const carol = await published(`carol${rooms}`);
  const keys = structuredClone(keysOf(carol));
  net.ds(s).groups.get(alice.group.key)!.tree = toBase64(mls.ratchetTree(alice.group.state));
  await carol.client.rejoin(room);
  net.silent.add(carol.id);
  for (const u of [alice, bob]) await u.sync();
  together(alice, bob, carol);
  assert.deepEqual(await verified(bob), ["key", "key", "unknown"]);
  net.silent.clear();

  await carol.say("hello");
  const { deviceId } = carol.client.matrix.transport;
  net.publish({ ...keys, keys: { ...keys.keys, [`${MLS}:${deviceId}`]: toBase64(new Uint8Array(32)) } });
  assert.deepEqual(await verified(bob), ["key", "key", "unverified"]);
  assert.deepEqual(await verified(bob), ["key", "key", "unverified"]);
  assert.deepEqual(bob.take("unverified"), [
    { event: "unverified", group: bob.group.key, leaf: 2, user: carol.id, device: deviceId },
  ]);
  await bob.sync();
  assert.deepEqual(bob.texts(), ["hello"]);

  net.publish(keys);
  net.changed = [carol.id];
  await bob.sync();
  net.changed = [];
  assert.deepEqual(await verified(bob), ["key", "key", "key"]);
});

test("a device that the user's self-signing key has signed is cross-signed", async () => {
  const { users } = await party("alice", "bob");
  const [alice, bob] = users as [User, User];
  const { signature } = await mls.cipherSuite(1);
  const [master, own] = [await signature.keygen(), await signature.keygen()];
  const [masterKey, ownKey] = [toBase64(master.publicKey), toBase64(own.publicKey)];
  const selfSigning = { user_id: bob.id, usage: ["self_signing"], keys: { [`ed25519:${ownKey}`]: ownKey } };
  const signed = { [bob.id]: { [`ed25519:${masterKey}`]: await sign(selfSigning, master.signKey) } };
  net.crossSigning = {
    master_keys: { [bob.id]: { keys: { [`ed25519:${masterKey}`]: masterKey } } },
    self_signing_keys: { [bob.id]: { ...selfSigning, signatures: signed } },
  };
  const keys = keysOf(bob);
  keys.signatures![bob.id]![`ed25519:${ownKey}`] = await sign(keys, master.signKey); // not by the self-signing key
  assert.deepEqual(await verified(alice), ["key", "key"]);
  keys.signatures![bob.id]![`ed25519:${ownKey}`] = await sign(keys, own.signKey);
  alice.group.checked.clear();
  assert.deepEqual(await verified(alice), ["key", "cross-signed"]);
  net.crossSigning.self_signing_keys![bob.id]!.signatures = {};
  alice.group.checked.clear();
  assert.deepEqual(await verified(alice), ["key", "key"]);
  net.crossSigning = {};
});
