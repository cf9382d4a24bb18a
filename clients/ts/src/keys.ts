// The keys of servers, and the servers that are asked for them (profile, section 2).
import { createPublicKey, verify } from "node:crypto";
import { request as httpRequest } from "node:http";
import { request as httpsRequest } from "node:https";
import { fetchJson } from "./discovery.js";
import type { Surroundings } from "./group.js";
import { type Answer, bodyOf, granted, json, type Matrix, MatrixError, serverOf, Unreachable } from "./matrix.js";
import type { Transport } from "./transport.js";
import { fromBase64, toBase64url } from "./wire.js";

/** The longest time for which a server's key is kept, in milliseconds (Matrix specification, "Publishing keys"). */
const MAX_KEPT = 7 * 24 * 3600_000;

/** The longest wait for a notary's answer, in milliseconds, and the answer's largest size, in bytes. */
const PATIENCE = 60_000;
const MAX_ANSWER = 1 << 20;

/** A server's keys in their published form, with signatures (Matrix specification, "Publishing keys"). */
export interface KeyObject {
  server_name: string;
  valid_until_ts: number;
  verify_keys: Record<string, { key: string }>;
}

/** A server's signature over a text. */
export interface ServerSignature {
  server: string;
  keyId: string;
  text: Uint8Array;
  signature: Uint8Array;
}

/** Current keys of servers. */
export class ServerKeys {
  /** By server name and key id. */
  private readonly known = new Map<string, { key: string; until: number }>();

  constructor(
    private readonly matrix: Matrix,
    private readonly transport: Transport,
    private readonly world: Pick<Surroundings, "now" | "emit">,
  ) {}

  /**
   * Checks an Ed25519 signature with the server's current key of that id. False also for an unknown, expired or
   * unreachable key. host is the group's Delivery Service. If there is no current key, a key of the kept object counts.
   */
  async verify(s: ServerSignature, host: string, kept?: KeyObject): Promise<boolean> {
    const current = await this.current(s, host).catch((e: unknown) => {
      if (kept === undefined) throw e;
    });
    const key = current ?? kept?.verify_keys[s.keyId]?.key;
    if (key === undefined) return false;
    const jwk = { kty: "OKP", crv: "Ed25519", x: toBase64url(fromBase64(key)) };
    return verify(null, s.text, createPublicKey({ key: jwk, format: "jwk" }), s.signature);
  }

  /**
   * A current key of a server. The client keeps it as long as it is valid, since every Commit has a signature to
   * verify.
   */
  private async current({ server, keyId }: ServerSignature, host: string): Promise<string | undefined> {
    const name = `${server} ${keyId}`;
    const now = this.world.now();
    const kept = this.known.get(name);
    if (kept !== undefined && kept.until > now) return kept.key;
    for (const { valid_until_ts: until, verify_keys } of await this.objects(server, host, keyId)) {
      const key = verify_keys[keyId]?.key;
      if (typeof key !== "string") continue;
      this.known.set(name, { key, until: Math.min(until, now + MAX_KEPT) });
      return key;
    }
    return undefined;
  }

  /**
   * A server's key objects that are valid now; only those with the key if its id is known. The own homeserver vouches
   * for them as a notary. If it does not help, the client also asks the server itself. At last it asks the group's
   * Delivery Service, and an event says so. That one gains no more power by its answer than its own signature gives it.
   */
  async objects(server: string, host: string, keyId?: string): Promise<KeyObject[]> {
    const now = this.world.now();
    const criteria = keyId === undefined ? {} : { [keyId]: { minimum_valid_until_ts: now } };
    const valid = (objects: any[]) =>
      objects.filter((k) => k?.server_name === server && k.valid_until_ts > now && typeof k.verify_keys === "object");
    const has = (objects: KeyObject[]) => objects.some((k) => keyId === undefined || keyId in k.verify_keys);
    const { homeserver, userId } = this.matrix.session;

    const own = valid(await askNotary(homeserver, serverOf(userId), server, criteria).catch(orNothing));
    if (has(own)) return own;
    const itself = valid(await this.askItself(server));
    if (has(itself) || server === host) return itself;
    const vouched = valid(await this.askHost(host, server, criteria));
    if (has(vouched)) this.world.emit({ event: "vouched", server, by: host });
    return vouched;
  }

  /** The server's own answer; nothing if the own homeserver asks for this client. */
  private async askItself(server: string): Promise<unknown[]> {
    const address = await this.addressOf(server);
    return address === undefined ? [] : [await fetchJson(`${address}/_matrix/key/v2/server`)];
  }

  /** The answer about another server from a Delivery Service's homeserver, as a notary. */
  private async askHost(host: string, server: string, criteria: object): Promise<unknown[]> {
    const address = await this.addressOf(host);
    return address === undefined ? [] : askNotary(address, host, server, criteria).catch(() => []);
  }

  private addressOf(server: string): Promise<string | undefined> {
    return this.transport.addressOf(server).catch(() => undefined);
  }
}

/** If a homeserver does not serve as a notary, it knows no keys. */
function orNothing(e: unknown): [] {
  if (e instanceof MatrixError && e.status < 500) return [];
  throw e;
}

/**
 * The key objects of a server that a homeserver knows. A homeserver answers as a notary only under its own name, and
 * fetch does not allow a Host header.
 */
async function askNotary(address: string, name: string, server: string, criteria: object): Promise<unknown[]> {
  const url = new URL(`${address}/_matrix/key/v2/query`);
  const request = url.protocol === "https:" ? httpsRequest : httpRequest;
  const headers = { host: name, "content-type": "application/json" };
  const answer = await new Promise<Answer>((resolve, reject) => {
    const failed = (e: unknown) => reject(new Unreachable(`${url}: ${e}`));
    const options = { method: "POST", headers, signal: AbortSignal.timeout(PATIENCE) };
    const req = request(url, options, (res) => {
      bodyOf(res, MAX_ANSWER).then((body) => resolve({ status: res.statusCode ?? 0, body }), failed);
    });
    req.on("error", failed);
    req.end(JSON.stringify({ server_keys: { [server]: criteria } }));
  });
  const { server_keys } = json(granted(answer));
  return Array.isArray(server_keys) ? server_keys : [];
}
