// The keys of servers, and the servers that are asked for them (profile, section 2).
import { BAD_SIGNATURE, DeliveryService, PEER_UNREACHABLE, refused } from "./ds.js";
import type { Surroundings } from "./group.js";
import { type Matrix, MatrixError, serverOf } from "./matrix.js";
import { cipherSuite } from "./mls.js";
import type { Route } from "./route.js";
import { fromBase64 } from "./wire.js";

/** The longest time for which a server's key is kept, in milliseconds (Matrix specification, "Publishing keys"). */
const MAX_KEPT = 7 * 24 * 3600_000;

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
    private readonly route: Route,
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
    const { signature } = await cipherSuite(1); // its scheme is Ed25519
    try {
      return await signature.verify(fromBase64(key), s.text, s.signature);
    } catch {
      return false; // not a key, or not a signature
    }
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
    const object = await this.object(server, host, keyId);
    const key = object?.verify_keys[keyId]?.key;
    if (object === undefined || typeof key !== "string") return undefined;
    this.known.set(name, { key, until: Math.min(object.valid_until_ts, now + MAX_KEPT) });
    return key;
  }

  /**
   * The key object with which a server publishes a current key; undefined if nobody has it. The own homeserver vouches
   * for it. A homeserver without the module does so as a notary. If that one does not help, the client also asks the
   * server itself. At last it asks the group's Delivery Service, and an event says so. That one gains no more power by
   * its answer than its own signature gives it.
   */
  async object(server: string, host: string, keyId: string): Promise<KeyObject | undefined> {
    const current = (k: any): KeyObject | undefined => {
      const valid = k?.server_name === server && k.valid_until_ts > this.world.now();
      return valid && typeof k.verify_keys?.[keyId]?.key === "string" ? k : undefined;
    };
    const at = (asked: string) => new DeliveryService(this.route, asked).serverKey(server, keyId);
    const { userId } = this.matrix.transport;

    if (await this.route.forwards()) return current(await at(serverOf(userId)).catch(orNothing));
    const known = await askNotary(this.matrix, server, keyId, this.world.now()).catch(orNothing);
    const own = known?.map(current).find((k) => k !== undefined);
    const itself = own ?? current(await at(server).catch(() => undefined));
    if (itself !== undefined || server === host) return itself;
    const vouched = current(await at(host).catch(() => undefined));
    if (vouched !== undefined) this.world.emit({ event: "vouched", server, by: host });
    return vouched;
  }
}

/** Passes over the refusal of a homeserver that does not have a key, or serves as no notary. */
function orNothing(e: unknown): undefined {
  const hasNone = refused(e, BAD_SIGNATURE) || refused(e, PEER_UNREACHABLE);
  if (!hasNone && !(e instanceof MatrixError && e.status < 500)) throw e;
}

/** The key objects of a server that a homeserver knows. Some homeservers answer only at an address with their name. */
async function askNotary(matrix: Matrix, server: string, keyId: string, now: number): Promise<unknown[]> {
  const criteria = { [keyId]: { minimum_valid_until_ts: now } };
  const { server_keys } = await matrix.request("POST", "/_matrix/key/v2/query", {
    server_keys: { [server]: criteria },
  });
  return Array.isArray(server_keys) ? server_keys : [];
}
