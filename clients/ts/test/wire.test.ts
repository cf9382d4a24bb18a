// The test vectors that every implementation of the profile shares (mimiport/testdata/README.md).
import assert from "node:assert/strict";
import { createPublicKey, verify } from "node:crypto";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { verifyWithLabel } from "ts-mls/crypto/signature.js";
import { directHeader } from "../src/direct.js";
import { cipherSuite } from "../src/mls.js";
import * as wire from "../src/wire.js";

const load = (name: string) =>
  JSON.parse(readFileSync(new URL(`../../../../mimiport/testdata/${name}.json`, import.meta.url), "utf8"));
const bytes = (hex: string) => new Uint8Array(Buffer.from(hex, "hex"));

const codecs: Record<string, wire.Codec<any>> = {
  migration_request: wire.migrationRequest,
  migration_response: wire.migrationResponse,
  migration_init: wire.migrationInit,
  migration_commit_aad: wire.migrationCommitAAD,
  migration_content: wire.migrationContent,
  target_migration_complete: wire.targetMigrationComplete,
  migration_vote: wire.migrationVote,
  migration_confirmation: wire.migrationConfirmation,
  migration_abort: wire.migrationAbort,
  external_sender_offer: wire.externalSenderOffer,
  lineage: wire.lineage,
  lineage_step: wire.lineageStep,
  lineage_claim: wire.lineageClaim,
  commit_receipt: wire.commitReceipt,
  move_request: wire.moveRequest,
  direct_request: wire.directRequest,
  leaf_identity: wire.leafIdentity,
};
const decodes = ["valid", "invalid-request", "bad-signature", "wrong-signer", "wrong-label"];

/** A decoded value in the form of the vectors: the draft's names, hexadecimal bytes. */
function plain(value: any): any {
  if (value === undefined) return null;
  if (Array.isArray(value)) return value.map(plain);
  if (value instanceof Uint8Array) return Buffer.from(value).toString("hex");
  if (typeof value === "bigint") return value > Number.MAX_SAFE_INTEGER ? String(value) : Number(value);
  if (typeof value !== "object") return value;
  return Object.fromEntries(
    Object.entries(value).map(([k, v]) => [k.replace(/[A-Z]/g, (c) => `_${c.toLowerCase()}`), plain(v)]),
  );
}

async function verifies(codec: any, value: any, key: Uint8Array): Promise<boolean> {
  if (codec === wire.migrationInit) {
    const { signature } = await cipherSuite(1);
    return verifyWithLabel(key, "MigrationInitTBS", wire.encode(codec.unsigned, value), value.signature, signature);
  }
  const jwk = { kty: "OKP", crv: "Ed25519", x: Buffer.from(key).toString("base64url") };
  return verify(null, wire.signedContent(codec, value), createPublicKey({ key: jwk, format: "jwk" }), value.signature);
}

test("a direct request has the header of the vectors", () => {
  const { encoded } = load("direct_request").cases.find((c: any) => c.name === "valid");
  const { authorization } = load("direct_headers").cases.find((c: any) => c.name === "ed25519");
  assert.equal(directHeader(wire.decode(wire.directRequest, bytes(encoded))), authorization);
});

for (const [name, codec] of Object.entries(codecs)) {
  const file = load(name);
  for (const c of file.cases) {
    test(`${file.struct}: ${c.name}`, async () => {
      const encoded = bytes(c.encoded);
      if (!decodes.includes(c.outcome)) {
        assert.throws(() => wire.decode(codec, encoded), wire.WireError);
        return;
      }
      const value = wire.decode(codec, encoded);
      assert.deepEqual(wire.encode(codec, value), encoded);
      if (c.outcome === "valid") assert.deepEqual(plain(value), c.fields);
      if (c.public_key !== undefined)
        assert.equal(await verifies(codec, value, bytes(c.public_key)), c.outcome === "valid");
    });
  }
}

/** A small generator of pseudo-random numbers below n, the same in every run. */
function generator(seed: number): (n: number) => number {
  return (n) => {
    seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0;
    return Math.floor((seed / 2 ** 32) * n);
  };
}

for (const [name, codec] of Object.entries(codecs)) {
  test(`${name}: whatever decodes encodes to the same bytes`, () => {
    const random = generator(1);
    const valid = load(name).cases.filter((c: any) => c.outcome === "valid");
    for (let i = 0; i < 2000; i++) {
      const mutated = bytes(valid[random(valid.length)].encoded);
      for (let n = random(3); n >= 0; n--) mutated[random(Math.min(mutated.length, 64))] = random(256);
      const cut = mutated.subarray(0, random(4) === 0 ? random(mutated.length) : mutated.length);
      try {
        assert.deepEqual(wire.encode(codec, wire.decode(codec, cut)), cut);
      } catch (e) {
        if (!(e instanceof wire.WireError)) throw e;
      }
    }
  });
}

test("migration ids", () => {
  for (const { migration_response, migration_id } of load("derivations").migration_ids) {
    assert.equal(wire.migrationId(wire.decode(wire.migrationResponse, bytes(migration_response))), migration_id);
  }
});

test("server names", () => {
  const names = load("server_names");
  for (const name of [...names.valid, ...names.ip_literals]) assert.ok(wire.isServerName(name), name);
  for (const name of names.invalid) assert.ok(!wire.isServerName(name), name);
});

test("what no message can carry is not encoded", () => {
  const aad = (epoch: bigint) =>
    wire.encode(wire.migrationRequest, {
      sourceDomainName: "s",
      targetDomainName: "t",
      groupId: new Uint8Array(1),
      epoch,
    });
  assert.throws(() => aad(1n << 64n), wire.WireError);
  assert.throws(() => aad(-1n), wire.WireError);
  const short = {
    domainName: "t",
    nonce: new Uint8Array(31),
    groupId: new Uint8Array(1),
    signature: new Uint8Array(64),
  };
  assert.throws(() => wire.encode(wire.migrationConfirmation, short), wire.WireError);
});

test("a name is read back as it was written", () => {
  for (const target of ["\uFEFFt.example", "", "täget"]) {
    assert.deepEqual(
      wire.decode(wire.migrationCommitAAD, wire.encode(wire.migrationCommitAAD, { targetDsDomain: target })),
      { targetDsDomain: target },
    );
  }
  assert.throws(() => wire.decode(wire.migrationCommitAAD, Uint8Array.of(1, 0xff)), wire.WireError);
});

test("base64 is unpadded and standard", () => {
  assert.deepEqual(wire.fromBase64("+/8"), Uint8Array.of(0xfb, 0xff));
  for (const bad of ["+/8=", "-_8", "+/9", "a", "+ /8"]) assert.throws(() => wire.fromBase64(bad), wire.WireError);
});
