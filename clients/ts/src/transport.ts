// A device's way to its homeserver, and the news that the homeserver has for the device.
import type { DeviceKeys } from "./devices.js";
import type { LeafIdentity } from "./wire.js";

export interface MatrixEvent {
  type: string;
  sender: string;
  content: any;
}

/** News of one /sync. */
export interface News {
  /** The token for the next /sync. */
  next?: string;
  toDevice?: MatrixEvent[];
  /** State events of rooms. */
  state?: { roomId: string; type: string; state_key: string; content: unknown }[];
  /** `device_one_time_keys_count`. */
  keyCounts?: Record<string, number>;
  /** `device_unused_fallback_key_types`. Some homeservers omit it. */
  unusedFallbackKeys?: string[];
  /** `device_lists.changed`. */
  changed?: string[];
}

/** A logged-in device's way to its homeserver. */
export interface Transport extends LeafIdentity {
  /**
   * Makes a request in the device's name. path begins after the homeserver's base URL. It returns the answer with any
   * status, as fetch does, and throws without one.
   */
  fetch(path: string, init: RequestInit): Promise<Response>;

  /**
   * The next news, if another program follows /sync. It waits up to `wait` milliseconds for them. A call says that the
   * device has stored the news of the call before, and that the homeserver may forget them. Without this function the
   * library follows /sync itself.
   */
  sync?(wait: number, signal?: AbortSignal): Promise<News>;

  /**
   * Signs device keys with the device's Ed25519 key, if another program has that key. It signs the Canonical JSON of
   * its argument (Matrix specification, "Signing JSON"), and returns unpadded base64.
   */
  signDeviceKeys?(keys: DeviceKeys): Promise<string>;

  /**
   * Cross-signs the device's keys as they are published now, if another program can: a change has invalidated the
   * user's signature.
   */
  crossSign?(): Promise<void>;
}

/** A device's login. */
export interface Session extends LeafIdentity {
  /** The base URL of the homeserver, without a slash at its end. */
  homeserver: string;
  token: string;
}

/** The way with nothing but fetch. It reads the session's token anew for each request. */
export class FetchTransport implements Transport {
  constructor(private readonly session: Session) {}

  get userId(): string {
    return this.session.userId;
  }

  get deviceId(): string {
    return this.session.deviceId;
  }

  fetch(path: string, init: RequestInit): Promise<Response> {
    const { homeserver, token } = this.session;
    const headers = new Headers(init.headers);
    headers.set("authorization", `Bearer ${token}`);
    return fetch(homeserver + path, { ...init, headers });
  }
}

/** The news in an answer of /sync. */
export function newsOf(answer: any): News {
  const state = Object.entries<any>(answer.rooms?.join ?? {}).flatMap(([roomId, room]) =>
    [...(room.state?.events ?? []), ...(room.timeline?.events ?? [])]
      .filter((e) => typeof e.state_key === "string")
      .map(({ type, state_key, content }) => ({ roomId, type, state_key, content })),
  );
  const { device_one_time_keys_count: keyCounts, device_unused_fallback_key_types: unusedFallbackKeys } = answer;
  return {
    ...{ next: answer.next_batch, toDevice: answer.to_device?.events ?? [], state },
    ...{ changed: answer.device_lists?.changed ?? [] },
    ...(keyCounts && { keyCounts }),
    ...(Array.isArray(unusedFallbackKeys) && { unusedFallbackKeys }),
  };
}
