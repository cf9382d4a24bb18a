// Checks every vector of mimiport/testdata. The README there says what the result must be.
import { strict as assert } from "node:assert";
import { createHash } from "node:crypto";
import { readFileSync, readdirSync } from "node:fs";
import { test } from "node:test";
import { Unreachable, groupID, isRequest, prefer, verifyLineage } from "./chain.js";
import { canonical, isAddress, isServerName, sha256, signContent, signedBy, verify } from "./keys.js";
import { ExternalSender } from "./mls.js";
import { Lineage, MigrationInit, structures } from "./structures.js";
import { stage } from "./target.js";
import { Refused, decode, equal } from "./wire.js";

const folder = new URL("../../../mimiport/testdata/", import.meta.url);
const load = (file: string) => JSON.parse(readFileSync(new URL(file, folder)).toString());
const hex = (s: string) => new Uint8Array(Buffer.from(s, "hex"));
const toHex = (b: Uint8Array) => Buffer.from(b).toString("hex");

/** A value in the format of the files. */
function shown(v: any): any {
  if (typeof v === "bigint") return v <= BigInt(Number.MAX_SAFE_INTEGER) ? Number(v) : String(v);
  if (v instanceof Uint8Array) return toHex(v);
  if (Array.isArray(v)) return v.map(shown);
  if (v === null || typeof v !== "object") return v;
  return Object.fromEntries(Object.entries(v).flatMap(([k, f]) => (f === undefined ? [] : [[k, shown(f)]])));
}

const refused = (code: string, run: () => unknown) =>
  assert.throws(run, (e) => e instanceof Refused && e.code === `M_${code}`);

/** Whether the signature at the end of a structure verifies. */
function isSigned(struct: string, c: any): boolean {
  const encoded = hex(c.encoded);
  const { signature } = decode(structures[struct]!, encoded);
  if (struct !== "MigrationInit") return signedBy(hex(c.public_key), struct, encoded, signature);
  const { migration_response } = decode(MigrationInit, encoded);
  const content = structures["MigrationResponse"]!.write(migration_response);
  return verify(hex(c.public_key), signContent("MLS 1.0 MigrationInitTBS", content), signature);
}

for (const file of readdirSync(folder).filter((f) => f.endsWith(".json"))) {
  const { struct, cases } = load(file);
  if (struct === undefined) continue;
  const codec = structures[struct]!;
  for (const c of cases) {
    test(`${struct}: ${c.name}`, () => {
      const encoded = hex(c.encoded);
      if (["valid", "invalid-request", "bad-signature", "wrong-signer", "wrong-label"].includes(c.outcome)) {
        assert.equal(toHex(codec.write(decode(codec, encoded))), c.encoded);
        if (c.fields) assert.equal(JSON.stringify(shown(decode(codec, encoded))), JSON.stringify(c.fields));
        if (c.public_key) assert.equal(isSigned(struct, c), c.outcome === "valid");
        if (struct === "MigrationRequest") assert.equal(isRequest(decode(codec, encoded)), c.outcome === "valid");
      } else refused(c.outcome === "unsupported" ? "UNSUPPORTED" : "BAD_MESSAGE", () => decode(codec, encoded));
    });
  }
}

for (const c of load("bounds.json").cases) {
  test(`bounds: ${c.name}`, () => {
    const parts = c.parts.map((p: any) => {
      const all = Buffer.alloc((p.bytes.length / 2) * p.times, p.bytes, "hex");
      if (p.counter_at === undefined) return all;
      for (let n = 0; n < p.times; n++) all.writeBigUInt64BE(BigInt(n + 1), (n * p.bytes.length) / 2 + p.counter_at);
      return all;
    });
    const codec = structures[c.struct]!;
    const encoded = new Uint8Array(Buffer.concat(parts));
    if (c.outcome === "valid") assert.ok(equal(codec.write(decode(codec, encoded)), encoded));
    else refused("BAD_MESSAGE", () => decode(codec, encoded));
  });
}

test("derived values", () => {
  const derived = load("derivations.json");
  for (const c of derived.group_ids) {
    assert.equal(toHex(sha256(hex(c.hashed))), c.group_id);
    assert.equal(toHex(groupID({ ...c, nonce: hex(c.nonce) })), c.group_id);
  }
  for (const c of derived.migration_ids) {
    const encoded = hex(c.migration_response);
    const id = sha256(encoded.subarray(0, encoded.length - 66)); // without the signature
    assert.equal(Buffer.from(id).toString("base64url"), c.migration_id);
  }
  const hashes = ["", "sha256", "sha256", "sha256", "sha512", "sha512", "sha512", "sha384"];
  for (const c of derived.migration_content_hashes) {
    const hash = createHash(hashes[c.cipher_suite]!).update(hex(c.migration_content)).digest("hex");
    assert.equal(hash, c.migration_content_hash);
  }
});

test("server names", () => {
  const names = load("server_names.json");
  assert.deepEqual(
    names.valid.filter((n: string) => !isServerName(n) || isAddress(n)),
    [],
  );
  assert.deepEqual(
    names.ip_literals.filter((n: string) => !isServerName(n) || !isAddress(n)),
    [],
  );
  assert.deepEqual(names.invalid.filter(isServerName), []);
});

for (const c of load("chains.json").cases) {
  test(`chains: ${c.name}`, () => {
    const unhex = (objects: Record<string, any> = {}, f: (v: any) => any) =>
      Object.fromEntries(Object.entries(objects).map(([server, v]) => [server, f(v)]));
    const run = () =>
      verifyLineage(hex(c.group_id), decode(Lineage, hex(c.lineage)), {
        ...c,
        recorded: c.recorded && decode(Lineage, hex(c.recorded)),
        known: unhex(c.known, (list) => list.map(hex)),
        live: unhex(c.live, hex),
      });
    if (c.outcome === "refused") return assert.throws(run, Refused);
    if (c.outcome === "unreachable") return assert.throws(run, Unreachable);
    const chain = run();
    assert.deepEqual([chain.end, Number(chain.epoch)], [c.end, c.epoch]);
    assert.equal(toHex(Lineage.write(chain.stored)), c.stored ?? c.lineage);
    return assert.deepEqual(chain.presented, c.presented ?? []);
  });
}

for (const c of load("partings.json").cases) {
  test(`partings: ${c.name}`, () => {
    const [first, second] = [c.first, c.second].map((l) => decode(Lineage, hex(l)));
    assert.deepEqual(prefer(first!, second!, c), [c.at, c.preferred]);
  });
}

/** A header in the format of the profile, section 11. */
const field = (name: string) => `${name}="((?:[ !#-\\[\\]-~]|\\\\["\\\\])*)"`;
const direct = new RegExp(
  `^MimiDevice ${["user", "device", "key", "time", "nonce", "sha256", "sig"].map(field).join(",")}$`,
);

/** The fields of a direct request, null for a malformed header. */
function readDirect(header: string) {
  const values = direct
    .exec(header)
    ?.slice(1)
    .map((v) => v.replace(/\\(["\\])/g, "$1"));
  if (!values || header.length > 4096) return null;
  const [user, device, key, time, ...binary] = values as [string, string, string, string, ...string[]];
  const [nonce, hash, sig] = binary.map((v) => Buffer.from(v, "base64"));
  const exact = binary.every((v) => Buffer.from(v, "base64").toString("base64").replace(/=*$/, "") === v);
  const scheme = /^io\.github\.mimiport\.([^:]*):/.exec(key)?.[1];
  const named = key === `io.github.mimiport.${scheme}:${device}` && device !== "";
  const timely = /^(0|[1-9][0-9]*)$/.test(time) && Number(time) <= Number.MAX_SAFE_INTEGER;
  const whole = nonce!.length === 32 && hash!.length === 32 && /^@[^:]+:.+$/.test(user);
  if (!exact || !named || !timely || !whole) return null;
  return { user, device, scheme: scheme!, time: BigInt(time), nonce: nonce!, hash: hash!, signature: sig! };
}

for (const c of load("direct_headers.json").cases) {
  test(`direct requests: ${c.name}`, () => {
    const r = readDirect(c.authorization);
    assert.equal(r === null, c.outcome === "malformed");
    if (r === null) return;
    const encoded = structures["DirectRequest"]!.write({
      service: c.service,
      method: c.method,
      uri: c.uri,
      body_hash: r.hash,
      user_id: r.user,
      device_id: r.device,
      time: r.time,
      nonce: r.nonce,
      signature: new Uint8Array(),
    });
    const content = signContent("MIMI Portability 1.0 DirectRequest", encoded.subarray(0, -1));
    const genuine = verify(hex(c.public_key), content, r.signature, r.scheme);
    assert.equal(genuine && equal(sha256(Buffer.from(c.body)), r.hash), c.outcome === "valid");
  });
}

const requests = load("content_requests.json");
for (const c of requests.cases) {
  test(`content requests: ${c.name}`, () => {
    const { origin, destination } = requests;
    const [, sig] = /,sig="([^"]*)"$/.exec(c.authorization)!;
    const signed = canonical({ method: c.method, uri: c.uri, origin, destination });
    const genuine = verify(hex(requests.public_key), Buffer.from(signed), Buffer.from(sig!, "base64"));
    assert.equal(genuine, c.outcome !== "bad-signature");
    if (!genuine) return;
    const [path, query] = c.uri.split("?");
    const well = /\/migrations\/[A-Za-z0-9_-]{43}\/content$/.test(path) && isQuery(query);
    assert.equal(well, c.outcome !== "malformed");
    if (!well) return;
    const sum = Buffer.from(new URLSearchParams(query).get("sha256")!, "base64url");
    assert.equal(equal(sha256(hex(c.body)), sum), c.outcome === "valid");
  });
}

function isQuery(query: string): boolean {
  const once = (name: string) => {
    const [value, ...more] = new URLSearchParams(query).getAll(name);
    return more.length === 0 ? value : undefined;
  };
  const decideBy = once("decide_by") ?? "";
  return (
    /^[A-Za-z0-9_-]{43}$/.test(once("sha256") ?? "") &&
    /^[^\ufffd]+$/.test(once("key_id") ?? "") &&
    /^[0-9]+$/.test(decideBy) &&
    Number(decideBy) <= Number.MAX_SAFE_INTEGER
  );
}

const contents = load("contents.json");
for (const c of contents.cases) {
  test(`contents: ${c.name}`, () => {
    const live = Object.fromEntries(Object.entries<string>(contents.live).map(([server, o]) => [server, hex(o)]));
    const offer = {
      response: hex(contents.migration_response),
      user: contents.user,
      roomID: contents.room_id,
      externalSender: hex(contents.external_sender),
      live,
    };
    const run = () => stage(offer, hex(c.content), c.key_id);
    if (c.outcome === "refused") {
      const as = (e: unknown) => e instanceof Refused && e.code === c.code && (!c.rule || e.rule === c.rule);
      return assert.throws(run, as);
    }
    const staged = run();
    return assert.deepEqual(
      {
        migration_content_hash: toHex(staged.hash),
        term: staged.term,
        epoch: Number(staged.group.context.epoch),
        tree_hash: toHex(staged.group.context.tree_hash),
        confirmed_transcript_hash: toHex(staged.group.context.confirmed_transcript_hash),
        external_senders: staged.group.externalSenders().map((e) => toHex(ExternalSender.write(e))),
        members: staged.members,
        log: shown(staged.log),
      },
      c.staged,
    );
  });
}
