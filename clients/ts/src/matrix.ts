// The part of the Matrix client-server API that the client needs.
import { concat, textOf } from "./bytes.js";
import { MimiportError } from "./errors.js";
import { type DeviceKeys, KEY_PACKAGE, type PublishedKeys } from "./devices.js";
import { type MatrixEvent, type News, newsOf, type Session, type Transport } from "./transport.js";
import { toBase64url } from "./wire.js";

/** A refusal by a server: its HTTP status and its Matrix error, of which the code is without a prefix. */
export class MatrixError extends MimiportError {
  override name = "MatrixError";

  constructor(
    readonly status: number,
    readonly body: { errcode?: string; error?: string } & Record<string, unknown>,
  ) {
    const { errcode = "", error = "", retry_after_ms: after } = body;
    const code = errcode.replace("IO.GITHUB.MIMIPORT.", "") || `HTTP_${status}`;
    super(code, `${status} ${errcode}: ${error}`, status >= 500 || after !== undefined);
  }
}

/** A state event of a room. */
export interface StateEvent extends MatrixEvent {
  state_key: string;
}

/**
 * The events of profile, section 12: the binding of a room to its group, the pointer to the group's place, the list of
 * successors, and fan-out.
 */
export const BINDING = "io.github.mimiport.group";
export const FAN_OUT = "io.github.mimiport.message";
export const MOVE_REQUEST = "io.github.mimiport.move_request";
export const POINTER = "io.github.mimiport.delivery_service";
export const SUCCESSORS = "io.github.mimiport.successors";

/** There was no answer, or only a part of one. */
export class Unreachable extends MimiportError {
  override name = "Unreachable";

  constructor(message: string) {
    super("UNREACHABLE", message, true);
  }
}

export interface Answer {
  status: number;
  body: Uint8Array;
}

/**
 * Makes a request. Throws Unreachable without a whole answer of at most that many bytes within the patience, which is
 * in milliseconds. request is as fetch.
 */
export async function call(
  url: string,
  init: RequestInit,
  patience: number,
  limit = Infinity,
  request: Transport["fetch"] = fetch,
): Promise<Answer> {
  const { signal } = init;
  const late = AbortSignal.timeout(patience);
  try {
    const response = await request(url, { ...init, signal: signal ? AbortSignal.any([signal, late]) : late });
    return { status: response.status, body: await bodyOf(response, limit) };
  } catch (e) {
    throw signal?.aborted ? e : new Unreachable(`${url}: ${e}`);
  }
}

/** Reads an answer. It takes at most one chunk above the limit into memory. */
async function bodyOf({ body }: Response, limit: number): Promise<Uint8Array> {
  const reader = body?.getReader();
  const chunks: Uint8Array[] = [];
  for (let size = 0; reader !== undefined; ) {
    const { done, value } = await reader.read();
    if (done) break;
    chunks.push(value);
    if ((size += value.length) > limit) {
      void reader.cancel();
      throw new Error(`more than ${limit} bytes`);
    }
  }
  return concat(...chunks);
}

/** The JSON of an answer, or its text if it is not JSON. */
export function json({ body }: Answer): any {
  const text = textOf(body);
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}

/** Returns the answer unless it is a refusal. */
export function granted(answer: Answer): Answer {
  if (answer.status < 300) return answer;
  const body = json(answer);
  const error = typeof body === "object" && body !== null ? body : { error: String(body).slice(0, 200) };
  throw new MatrixError(answer.status, error);
}

async function post(url: string, body: unknown): Promise<any> {
  const init = { method: "POST", headers: JSON_BODY, body: JSON.stringify(body) };
  return json(granted(await call(url, init, PATIENCE)));
}

const JSON_BODY = { "content-type": "application/json" };

/** The longest wait for an answer, in milliseconds: a source may take 40 seconds to hand a group over. */
const PATIENCE = 60_000;

/** The server name of a user id: everything after its first colon. */
export const serverOf = (userId: string) => userId.slice(userId.indexOf(":") + 1);

/** Logs in by password. With a device id, the login reuses that device, so that a restarted client keeps its leaf. */
export async function login(
  homeserver: string,
  user: string,
  password: string,
  deviceId: string | undefined,
): Promise<Session> {
  const identifier = { type: "m.id.user", user };
  const body = { type: "m.login.password", identifier, password, device_id: deviceId };
  return session(homeserver, await post(`${homeserver}/_matrix/client/v3/login`, body));
}

/** Makes an account on a server with open registration, and logs in. */
export async function register(
  homeserver: string,
  user: string,
  password: string,
  deviceId: string | undefined,
): Promise<Session> {
  const body = { auth: { type: "m.login.dummy" }, username: user, password, device_id: deviceId };
  return session(homeserver, await post(`${homeserver}/_matrix/client/v3/register`, body));
}

/** Takes over a session that another program has opened. */
export async function withToken(homeserver: string, token: string): Promise<Session> {
  const headers = { authorization: `Bearer ${token}` };
  const answer = json(granted(await call(`${homeserver}/_matrix/client/v3/account/whoami`, { headers }, PATIENCE)));
  return session(homeserver, { ...answer, access_token: token });
}

function session(homeserver: string, { access_token, user_id, device_id }: any): Session {
  return { homeserver, token: access_token, userId: user_id, deviceId: device_id };
}

/** One device's requests to its homeserver. */
export class Matrix {
  constructor(readonly transport: Transport) {}

  /**
   * Makes an authenticated request. Throws a MatrixError if it is refused. path starts after the homeserver's base URL.
   */
  async request(method: string, path: string, body?: unknown): Promise<any> {
    return json(granted(await this.send(method, path, body)));
  }

  /**
   * Makes an authenticated request with a body of any kind. It sends text unchanged, and returns the answer with any
   * status.
   */
  async raw(method: string, path: string, body?: unknown): Promise<{ status: number; body: unknown }> {
    const answer = await this.send(method, path, body);
    return { status: answer.status, body: json(answer) };
  }

  /** Makes an authenticated request. Returns the answer with any status. Throws Unreachable without one in time. */
  send(method: string, path: string, body?: unknown, patience = PATIENCE, signal?: AbortSignal): Promise<Answer> {
    const init: RequestInit = { method };
    if (body !== undefined) init.headers = JSON_BODY;
    if (body !== undefined) init.body = typeof body === "string" ? body : JSON.stringify(body);
    if (signal !== undefined) init.signal = signal;
    return call(path, init, patience, Infinity, (...asked) => this.transport.fetch(...asked));
  }

  /** Waits up to `wait` milliseconds for news. A request with a token tells the server to drop everything before it. */
  async sync(since: string | undefined, wait: number, signal?: AbortSignal): Promise<News> {
    if (this.transport.sync !== undefined) return this.transport.sync(wait, signal);
    const query = new URLSearchParams({ timeout: String(wait), set_presence: "offline" });
    if (since !== undefined) query.set("since", since);
    const path = `/_matrix/client/v3/sync?${query}`;
    return newsOf(json(granted(await this.send("GET", path, undefined, wait + PATIENCE, signal))));
  }

  private statePath(roomId: string, type: string): string {
    return `/_matrix/client/v3/rooms/${encodeURIComponent(roomId)}/state/${type}/`;
  }

  /** Sends a state event with an empty state key. */
  async setRoomState(roomId: string, type: string, content: unknown): Promise<void> {
    await this.request("PUT", this.statePath(roomId, type), content);
  }

  /** The content of a state event with an empty state key, undefined where there is none. */
  async roomState(roomId: string, type: string): Promise<any> {
    try {
      return await this.request("GET", this.statePath(roomId, type));
    } catch (e) {
      if (e instanceof MatrixError && e.status === 404) return undefined;
      throw e;
    }
  }

  /** All state of a room, with senders. */
  async allRoomState(roomId: string): Promise<StateEvent[]> {
    return this.request("GET", `/_matrix/client/v3/rooms/${encodeURIComponent(roomId)}/state`);
  }

  /** Publishes the device's keys. They replace the published ones. */
  async uploadDeviceKeys(device_keys: DeviceKeys): Promise<void> {
    await this.request("POST", "/_matrix/client/v3/keys/upload", { device_keys });
  }

  /**
   * Publishes KeyPackages, their values by KeyPackageRef: as one-time keys or as a fallback key. A homeserver without
   * fallback keys ignores that one.
   */
  async uploadKeyPackages(
    kind: "one_time_keys" | "fallback_keys",
    packages: { ref: Uint8Array; value: unknown }[],
  ): Promise<void> {
    const keys = packages.map(({ ref, value }) => [`${KEY_PACKAGE}:${toBase64url(ref.subarray(0, 12))}`, value]);
    await this.request("POST", "/_matrix/client/v3/keys/upload", { [kind]: Object.fromEntries(keys) });
  }

  /** The published keys of all devices of users, local or remote. */
  queryKeys(userIds: string[]): Promise<PublishedKeys> {
    const device_keys = Object.fromEntries(userIds.map((user) => [user, []]));
    return this.request("POST", "/_matrix/client/v3/keys/query", { device_keys });
  }

  /** Claims one KeyPackage for each of the given devices of a user. Returns the values of the one-time keys. */
  async claimKeyPackages(userId: string, devices: string[]): Promise<{ deviceId: string; value: unknown }[]> {
    if (devices.length === 0) return [];
    const claimed = await this.request("POST", "/_matrix/client/v3/keys/claim", {
      one_time_keys: { [userId]: Object.fromEntries(devices.map((deviceId) => [deviceId, KEY_PACKAGE])) },
    });
    return Object.entries<any>(claimed.one_time_keys?.[userId] ?? {}).flatMap(([deviceId, keys]) =>
      Object.values<any>(keys ?? {}).map((value) => ({ deviceId, value })),
    );
  }
}
