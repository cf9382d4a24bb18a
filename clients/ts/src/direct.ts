// Signed requests of a device to a Delivery Service, for a device whose homeserver lacks the module (profile, section
// 11).
import { randomBytes, sha256, utf8 } from "./bytes.js";
import { mlsKeyId } from "./devices.js";
import { clientAddresses, fetchJson } from "./discovery.js";
import { PEER_UNREACHABLE, refusal } from "./ds.js";
import { type Answer, call, json } from "./matrix.js";
import { cipherSuite, type Identity } from "./mls.js";
import { pathOf, TAKES_DIRECT, type Route } from "./route.js";
import { type DirectRequest, directRequest, isServerName, type Signature, signedContent, toBase64 } from "./wire.js";

/** The longest wait for an answer, in milliseconds, and its largest size, in bytes. The largest answer is a tree. */
const PATIENCE = 120_000;
const MAX_ANSWER = 64 << 20;

/** A Delivery Service's own homeserver. */
interface Service {
  /** The base URL of its client API. */
  address: string;
  /** How far its clock is ahead of this one, in milliseconds, according to its last complaint. */
  ahead: number;
}

const quoted = (text: string) => `"${text.replace(/[\\"]/g, "\\$&")}"`;

/** The Authorization header of a signed request. */
export function directHeader(r: DirectRequest & Signature): string {
  const fields = {
    user: r.userId,
    device: r.deviceId,
    key: mlsKeyId(r.deviceId),
    time: String(r.time),
    nonce: toBase64(r.nonce),
    sha256: toBase64(r.bodyHash),
    sig: toBase64(r.signature),
  };
  return `MimiDevice ${Object.entries(fields)
    .map(([name, value]) => `${name}=${quoted(value)}`)
    .join(",")}`;
}

/** The route to a Delivery Service without the help of the own homeserver. */
export class Direct implements Route {
  private readonly services = new Map<string, Promise<Service>>();

  /** now gives milliseconds since 1970. */
  constructor(
    private readonly identity: () => Identity,
    private readonly now: () => number,
  ) {}

  async forwards(): Promise<boolean> {
    return false;
  }

  /** If the server refuses a request for its time, the client sends it once more, by the server's clock. */
  async send(server: string, method: string, path: string, body?: string): Promise<Answer> {
    const service = await this.find(server);
    const answer = await this.sendOnce(service, server, method, path, body);
    const { rule, server_time: time } = (answer.status === 403 && json(answer)) || ({} as any);
    if (rule !== "time" || !Number.isSafeInteger(time) || time < 0) return answer;
    service.ahead = time - this.now();
    return this.sendOnce(service, server, method, path, body);
  }

  private async sendOnce({ address, ahead }: Service, service: string, method: string, path: string, body?: string) {
    const uri = pathOf(service, path);
    const authorization = await this.sign({ service, method, uri, body: body ?? "", time: this.now() + ahead });
    // A signature is for one URI only, so the client follows no redirect.
    const init: RequestInit = {
      method,
      headers: { authorization, "content-type": "application/json" },
      redirect: "error",
    };
    if (body !== undefined) init.body = body;
    try {
      return await call(address + uri, init, PATIENCE, MAX_ANSWER);
    } catch (e) {
      this.services.delete(service); // look it up again the next time
      throw unreachable(`${service}: ${e}`);
    }
  }

  private async sign(request: { service: string; method: string; uri: string; body: string; time: number }) {
    const { body, time, ...of } = request;
    const { userId, deviceId, suite, signKey } = this.identity();
    const unsigned = {
      ...{ ...of, userId, deviceId, time: BigInt(time) },
      bodyHash: sha256(utf8(body)),
      nonce: randomBytes(32),
    };
    const { signature } = await cipherSuite(suite);
    const content = signedContent(directRequest, unsigned);
    return directHeader({ ...unsigned, signature: await signature.sign(signKey, content) });
  }

  /** The homeserver of a Delivery Service. The client looks for it until it finds it. */
  private find(server: string): Promise<Service> {
    const known = this.services.get(server) ?? this.discover(server);
    this.services.set(server, known);
    known.catch(() => this.services.delete(server));
    return known;
  }

  private async discover(server: string): Promise<Service> {
    if (!isServerName(server)) throw unreachable(`${server} is no server name`);
    for (const address of await clientAddresses(server)) {
      const versions = await fetchJson(`${address}/_matrix/client/versions`);
      if (versions?.unstable_features?.[TAKES_DIRECT] === true) return { address, ahead: 0 };
    }
    throw unreachable(`${server} does not answer, or takes no direct requests`);
  }
}

/** The error that a homeserver returns when it cannot reach a Delivery Service. */
const unreachable = (reason: string) => refusal(502, PEER_UNREACHABLE, reason);
