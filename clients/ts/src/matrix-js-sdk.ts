// A device that an application has with matrix-js-sdk: the SDK logs in, follows /sync and has the device's Olm keys.
import type { MatrixClient } from "matrix-js-sdk";
import { canonicalJson, type DeviceKeys, NOT_PUBLISHED } from "./devices.js";
import { MimiportError } from "./errors.js";
import { type News, newsOf, type Transport } from "./transport.js";

/** The part of the SDK's Rust crypto that signs, which its types do not show. */
interface Signer {
  olmMachine: { sign(message: string): Promise<{ asJSON(): string }> };
}

type CryptoApi = NonNullable<ReturnType<MatrixClient["getCrypto"]>>;

const REFUSED = 401;

/**
 * The way through a client of matrix-js-sdk, which alone follows /sync. Call initRustCrypto before, if the application
 * uses it, and startClient after Mimiport.start: earlier news would be lost. The client must use the classic /sync.
 */
export class SdkTransport implements Transport {
  readonly userId: string;
  readonly deviceId: string;
  readonly signDeviceKeys?: (keys: DeviceKeys) => Promise<string>;
  readonly crossSign?: () => Promise<void>;
  /** News that nobody has asked for. The SDK asks for no more until they are stored. */
  private waiting: { news: News; stored: () => void } | undefined;
  /** Says that the latest news are stored. */
  private stored = () => {};
  private arrived = () => {};
  private follows = false;

  constructor(private readonly client: MatrixClient) {
    const deviceId = client.getDeviceId();
    if (deviceId === null) throw new MimiportError("NO_DEVICE", "the SDK's client has no device");
    this.userId = client.getSafeUserId();
    this.deviceId = deviceId;
    const crypto = client.getCrypto();
    if (crypto === undefined) return;
    this.signDeviceKeys = (keys) => this.sign(crypto as unknown as Signer, keys);
    this.crossSign = () => this.signAnew(crypto);
  }

  /** The SDK renews its token when a request of its own is refused. Then the request is made once more. */
  async fetch(path: string, init: RequestInit): Promise<Response> {
    const answer = await this.fetchOnce(path, init);
    if (answer.status !== REFUSED) return answer;
    await this.client.whoami().catch(() => undefined); // the second answer tells
    return this.fetchOnce(path, init);
  }

  private fetchOnce(path: string, init: RequestInit): Promise<Response> {
    const headers = new Headers(init.headers);
    headers.set("authorization", `Bearer ${this.client.getAccessToken()}`);
    return this.client.http.fetch(this.client.getHomeserverUrl().replace(/\/$/, "") + path, { ...init, headers });
  }

  async sync(wait: number, signal?: AbortSignal): Promise<News> {
    if (!this.follows) this.follow(signal);
    this.stored();
    if (this.waiting === undefined && !signal?.aborted) await this.arrival(wait);
    const { news, stored } = this.waiting ?? { news: {}, stored: () => {} };
    this.waiting = undefined;
    this.stored = stored;
    return news;
  }

  /** Takes each answer of /sync before the SDK asks for the next one, until the signal ends it. */
  private follow(signal?: AbortSignal): void {
    if (this.client.clientRunning)
      throw new MimiportError("INVALID", "start the SDK's client after Mimiport: it has got news already");
    this.follows = true;
    const { store } = this.client;
    const keep = store.setSyncData.bind(store);
    store.setSyncData = async (answer) => {
      if (!signal?.aborted) await this.handOver(newsOf(answer));
      await keep(answer);
    };
    signal?.addEventListener("abort", () => {
      this.stored();
      this.waiting?.stored();
      this.arrived();
    });
  }

  private handOver(news: News): Promise<void> {
    return new Promise((stored) => {
      this.waiting = { news, stored };
      this.arrived();
    });
  }

  /** Waits for news, for a time in milliseconds. */
  private arrival(wait: number): Promise<void> {
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, wait);
      this.arrived = () => {
        clearTimeout(timer);
        resolve();
      };
    });
  }

  private async sign({ olmMachine }: Signer, { signatures: _, unsigned: __, ...keys }: DeviceKeys): Promise<string> {
    const id = `ed25519:${this.deviceId}`;
    const own = await this.client.getCrypto()!.getOwnDeviceKeys();
    if (keys.keys[id] !== own.ed25519)
      throw new MimiportError(NOT_PUBLISHED, "the SDK has not published the device's keys", true);
    const signed = await olmMachine.sign(canonicalJson(keys));
    return JSON.parse(signed.asJSON())[this.userId][id];
  }

  /** Only a device that has the user's self-signing key can do this. */
  private async signAnew(crypto: CryptoApi): Promise<void> {
    const { privateKeysCachedLocally } = await crypto.getCrossSigningStatus();
    if (!privateKeysCachedLocally.selfSigningKey) return;
    await crypto.userHasCrossSigningKeys(); // the SDK then has the device's keys as they are published
    await crypto.crossSignDevice(this.deviceId);
  }
}
