// The HTTP API of a Delivery Service. Ids are base64url, other binary fields are unpadded standard base64.
import { granted, json, MatrixError } from "./matrix.js";
import type { Commit } from "./mls.js";
import type { Route } from "./route.js";
import { toBase64 } from "./wire.js";

export interface Signed {
  message: string;
  key_id: string;
}

interface Redirect {
  delivery_service: string;
  term: number;
  key_id: string;
}

/** A redirect after a migration, signed by the source. */
export interface Migrated extends Redirect {
  migration_response: string;
  migration_confirmation: string;
}

/** A redirect after a reclaim or recover, signed by the server that has taken the group. */
export interface Claimed extends Redirect {
  lineage_claim: string;
}

/** A redirect of any kind. */
export type MovedInfo = Migrated | Claimed;

/** The preimage of a group's id. */
export interface Preimage {
  creating_server: string;
  room_id: string;
  nonce: string;
}

/** The id of a future group, and the Delivery Service's entry for external_senders. */
export interface Reserved {
  group_id: string;
  preimage: Preimage;
  external_sender?: string;
}

export interface GroupResponse {
  group_id: string;
  room_id: string;
  protocol: string;
  cipher_suite: number;
  preimage?: Preimage;
  creating_server: string;
  delivery_service: string;
  state: "active" | "frozen" | "closed";
  term: number;
  epoch: number;
  next_seq: number;
  group_info: string;
  /** The pending SelfRemoves: an external Commit may cover these alone. */
  self_removes?: string[];
  tree_hash: string;
  confirmed_transcript_hash: string;
  members: number;
  /** Of a bind: `movers-on-one-server` if all users who may move the group are on one server. */
  warnings?: string[];
}

export interface LogMessage {
  seq: number;
  epoch: number;
  kind: "proposal" | "commit" | "application" | "welcome";
  sender: string;
  message?: string;
  migration?: Migrated;
  /** With a Commit: the Delivery Service's CommitReceipt. */
  receipt?: Signed;
}

/** The content of the to-device events by which messages reach members. */
export interface FanOut extends LogMessage {
  group_id: string;
  room_id: string;
  protocol: string;
  term: number;
}

export interface MessagesResponse {
  term: number;
  messages: LogMessage[];
  next: number;
  end: boolean;
  moved?: MovedInfo;
}

/** The fields of a client's latest receipt of the present term. */
export interface KnownCommit {
  epoch: number;
  commit_hash: string;
}

export interface Submission {
  message: string;
  group_info?: string;
  welcome?: string;
  known?: KnownCommit;
}

/** A Commit in the form of a submission. */
export function submission({ message, groupInfo, welcome }: Commit): Submission {
  const body = { message: toBase64(message), group_info: toBase64(groupInfo) };
  return welcome === undefined ? body : { ...body, welcome: toBase64(welcome) };
}

export interface Submitted {
  term: number;
  seq: number;
  epoch: number;
  receipt?: Signed;
}

export interface MigrationOffer {
  migration_id: string;
  migration_response: string;
  key_id: string;
  expires_at: number;
  external_sender_offer?: string;
}

export interface MigrationStatus {
  migration_id: string;
  role: "source" | "target";
  state: string;
  source: string;
  target: string;
  term: number;
  epoch: number;
  migration_response?: Signed;
  migration_confirmation?: Signed;
  migration_abort?: Signed;
  /** At the source: its CommitReceipt of the migration Commit. */
  receipt?: Signed;
  reason?: string;
}

export interface MigrationInitRequest extends Submission {
  migration_init: string;
  key_id: string;
  external_sender_offer?: string;
}

/** The place of a group, and its encoded lineage up to the asked server. */
export interface HostResponse {
  delivery_service: string;
  term: number;
  moved?: MovedInfo;
  lineage?: string;
}

/** The protocol of the groups of this client: RFC 9420. */
export const PROTOCOL = "mls10";

/** The errors that a client acts on. */
export const OFFER_EXPIRED = "M_OFFER_EXPIRED";
export const UNKNOWN_GROUP = "M_UNKNOWN_GROUP";
export const UNKNOWN_MIGRATION = "M_UNKNOWN_MIGRATION";
export const WRONG_EPOCH = "M_WRONG_EPOCH";
export const IN_PROGRESS = "M_MIGRATION_IN_PROGRESS";
export const MOVED = "M_GROUP_MOVED";
export const CLOSED = "M_GROUP_CLOSED";
export const STOPPED = "M_GROUP_STOPPED";
export const PEER_UNREACHABLE = "M_PEER_UNREACHABLE";
export const BAD_SIGNATURE = "M_BAD_SIGNATURE";

const coded = (code: string) => `IO.GITHUB.MIMIPORT.${code}`;

/** Whether e is a Delivery Service's refusal with the given code. The code is without its prefix. */
export function refused(e: unknown, code: string): e is MatrixError {
  return e instanceof MatrixError && e.body.errcode === coded(code);
}

/** A refusal with the given code. */
export const refusal = (status: number, code: string, error: string) =>
  new MatrixError(status, { errcode: coded(code), error });

/** One Delivery Service, by its server name. Group and migration ids are base64url. Refusals are MatrixErrors. */
export class DeliveryService {
  constructor(
    private readonly route: Route,
    readonly server: string,
  ) {}

  private async ask(method: string, path: string, body?: unknown): Promise<any> {
    const text = body === undefined ? undefined : JSON.stringify(body);
    return json(granted(await this.route.send(this.server, method, path, text)));
  }

  reserve(roomId: string, suite: number): Promise<Reserved> {
    return this.ask("POST", "/groups", { room_id: roomId, protocol: PROTOCOL, cipher_suite: suite });
  }

  bind(group: string, groupInfo: string, ratchetTree: string): Promise<GroupResponse> {
    const body = { protocol: PROTOCOL, group_info: groupInfo, ratchet_tree: ratchetTree };
    return this.ask("PUT", `/groups/${group}`, body);
  }

  group(group: string): Promise<GroupResponse> {
    return this.ask("GET", `/groups/${group}`);
  }

  /** Ends the group for good. Only users who may move the group can do this. */
  close(group: string): Promise<GroupResponse> {
    return this.ask("DELETE", `/groups/${group}`);
  }

  host(group: string): Promise<HostResponse> {
    return this.ask("GET", `/groups/${group}/host`);
  }

  showLineage(group: string, lineage: string): Promise<HostResponse> {
    return this.ask("PUT", `/groups/${group}/lineage`, { lineage });
  }

  /** Shows the Delivery Service one of its own receipts. It stops if it has forgotten the receipt. */
  showReceipt(group: string, receipt: Signed): Promise<HostResponse> {
    return this.ask("PUT", `/groups/${group}/lineage`, { receipt });
  }

  async tree(group: string, epoch: number): Promise<Uint8Array> {
    return granted(await this.route.send(this.server, "GET", `/groups/${group}/tree?epoch=${epoch}`)).body;
  }

  submit(group: string, submission: Submission): Promise<Submitted> {
    return this.ask("POST", `/groups/${group}/messages`, submission);
  }

  messages(group: string, term: number, from: number): Promise<MessagesResponse> {
    return this.ask("GET", `/groups/${group}/messages?term=${term}&from=${from}`);
  }

  /**
   * The signed key object with which another server publishes a current key. The own homeserver vouches for it, or the
   * Delivery Service that is asked directly.
   */
  serverKey(server: string, keyId: string): Promise<unknown> {
    return this.ask("GET", `/keys/${encodeURIComponent(server)}/${encodeURIComponent(keyId)}`);
  }

  /** Publishes this device's KeyPackage of last resort, at the own homeserver. */
  async putLastResort(value: unknown): Promise<void> {
    await this.ask("PUT", "/last_resort", value);
  }

  /** The KeyPackages of last resort of devices of one of the server's users, by device. */
  async claimLastResorts(userId: string, devices: string[]): Promise<Record<string, unknown>> {
    const { key_packages } = await this.ask("POST", "/last_resort/claim", { devices: { [userId]: devices } });
    return key_packages?.[userId] ?? {};
  }

  requestMigration(request: string, roomId: string, suite: number): Promise<MigrationOffer> {
    const body = { migration_request: request, room_id: roomId, protocol: PROTOCOL, cipher_suite: suite };
    return this.ask("POST", "/migrations", body);
  }

  initMigration(id: string, init: MigrationInitRequest): Promise<MigrationStatus> {
    return this.ask("PUT", `/migrations/${id}/init`, init);
  }

  migration(id: string): Promise<MigrationStatus> {
    return this.ask("GET", `/migrations/${id}`);
  }

  abortMigration(id: string): Promise<MigrationStatus> {
    return this.ask("DELETE", `/migrations/${id}`);
  }

  /** Includes the source's receipt for the migration Commit if this client has it. */
  confirmMigration(id: string, confirmation: Signed & { receipt?: Signed }): Promise<MigrationStatus> {
    return this.ask("PUT", `/migrations/${id}/confirmation`, confirmation);
  }
}
