// A homeserver with Delivery Services in memory, just enough of both to test a client or an application: one object
// plays all servers.
import { ed25519 } from "@noble/curves/ed25519.js";
import { randomBytes, same, sha256, utf8 } from "./bytes.js";
import type { KnownCommit, LogMessage, Migrated, MigrationStatus, MovedInfo, Signed } from "./ds.js";
import { encodeExternalSender, encodeMlsMessage, type ExternalSender } from "ts-mls";
import { protectExternalProposalPublic } from "ts-mls/messageProtectionPublic.js";
import { claimIn } from "./lineage.js";
import { BINDING, POINTER, type StateEvent, SUCCESSORS } from "./matrix.js";
import { claimHash } from "./pointer.js";
import { POWER_LEVELS } from "./room.js";
import { externalSenders } from "./corrections/external-senders.js";
import type { DeviceKeys, PublishedKeys } from "./devices.js";
import { decodeSelfRemove } from "./corrections/self-remove.js";
import * as mls from "./mls.js";
import * as wire from "./wire.js";
import { orAborted } from "./store.js";
import type { Transport } from "./transport.js";
import { fromBase64, fromBase64url, toBase64, toBase64url } from "./wire.js";

export { type CommitEvent, Probe } from "./probe.js";

const KEY_ID = "ed25519:1";
const FAN_OUT = "io.github.mimiport.message";

class Refusal extends Error {
  constructor(
    readonly status: number,
    readonly body: Record<string, unknown>,
  ) {
    super(String(body.errcode));
  }
}

export const refuse = (status: number, code: string, more = {}): never => {
  throw new Refusal(status, { errcode: `IO.GITHUB.MIMIPORT.${code}`, error: code, ...more });
};

/** A signing key as a server has it. */
export class SigningKey {
  private readonly secret = randomBytes(32);
  readonly public = toBase64(ed25519.getPublicKey(this.secret));

  constructor(readonly id = KEY_ID) {}

  sign<T>(codec: wire.SignedCodec<T>, message: T): { message: string; key_id: string } {
    const signature = ed25519.sign(wire.signedContent(codec, message), this.secret);
    return { message: toBase64(wire.encode(codec, { ...message, signature })), key_id: this.id };
  }
}

const commitHash = (message: string): Uint8Array => sha256(fromBase64(message));

const archived = ({ message, key_id }: { message: string; key_id: string }): wire.SignedMessage => ({
  message: fromBase64(message),
  keyId: key_id,
  keyObject: new Uint8Array(),
});

function kindOf(bytes: Uint8Array): "proposal" | "commit" | "application" {
  const message = decodeSelfRemove(bytes) === undefined ? mls.parse(bytes) : undefined;
  if (message === undefined) return "proposal";
  return message.wireformat === "mls_public_message" ? message.publicMessage.content.contentType : "application";
}

interface Migration {
  response: wire.MigrationResponse;
  signed: { message: string; key_id: string };
  status: MigrationStatus;
  submission?: { message: string; group_info: string };
  /** What came with the decision. */
  receipt?: Signed;
}

/** A group at one Delivery Service in one term. */
interface Hosted {
  id: string;
  room: string;
  term: number;
  epoch: number;
  log: LogMessage[];
  state: "active" | "frozen" | "staged" | "moved" | "stopped" | "closed";
  moved?: MovedInfo;
  groupInfo?: string;
  lineage: wire.Lineage;
  /** The data of the group's former terms that came here, by term. */
  former?: Map<number, { messages: LogMessage[]; moved: MovedInfo }>;
  /** The ratchet tree, base64, if a test sets it: this server does not maintain one. */
  tree?: string;
}

export class FakeDs {
  key = new SigningKey();
  readonly groups = new Map<string, Hosted>();
  readonly migrations = new Map<string, Migration>();
  /** The action of the source after an Init: decide at once, leave the group frozen, or give up. */
  outcome: "confirm" | "wait" | "abort" = "confirm";
  /** The Delivery Service's entry in external_senders, for tests that give it one. */
  sender: (ExternalSender & { signKey: Uint8Array }) | undefined;
  /** Whether Commits get receipts. Servers of an older version give none. */
  receipts = true;
  /** Users whom this server names wrongly. */
  misnames: Record<string, string> = {};
  /** No answers at all, as if the server were gone. */
  down = false;
  /** Whether nobody has a key of this server. */
  keyless = false;
  /** Whether it does not answer questions about its own keys. */
  mute = false;

  constructor(
    readonly name: string,
    private readonly net: FakeNetwork,
  ) {}

  /** The keys that it publishes. */
  get keys(): object | undefined {
    const verify_keys = { [this.key.id]: { key: this.key.public } };
    const published = { server_name: this.name, valid_until_ts: Date.now() + 1e9, verify_keys };
    return this.keyless ? undefined : published;
  }

  /** A user whose confirmations do not arrive. */
  deaf: string | undefined;

  /** Answers one request of the client API. */
  answer(method: string, path: string[], query: URLSearchParams, body: any, user: string): unknown {
    const [kind, id = "", part] = path;
    if (kind === "groups" && method === "POST" && id === "") return this.reserve(body.room_id);
    if (kind === "groups" && part === undefined && method === "DELETE") this.group(id).state = "closed";
    if (kind === "groups" && part === undefined)
      return method === "PUT" ? this.bind(id, body) : this.describe(this.group(id));
    if (kind === "groups" && part === "host") return this.host(id);
    if (kind === "groups" && part === "lineage") return this.shown(id, body);
    if (kind === "groups" && part === "tree") return fromBase64(this.group(id).tree!);
    if (kind === "groups" && part === "messages")
      return method === "POST" ? this.submit(id, body, user) : this.read(id, query);
    if (kind === "migrations" && id === "") return this.offer(body);
    const migration = this.migrations.get(id) ?? refuse(404, "M_UNKNOWN_MIGRATION");
    if (part === "init") return this.init(migration, body, user);
    if (migration.status.role === "source" && migration.submission === undefined) refuse(404, "M_UNKNOWN_MIGRATION");
    if (part === "confirmation" && user === this.deaf) refuse(502, "M_PEER_UNREACHABLE");
    if (part === "confirmation") return this.activate(migration, body);
    if (method === "DELETE") this.decide(migration, "abort");
    return migration.status;
  }

  private group(id: string): Hosted {
    return this.groups.get(id) ?? refuse(404, "M_UNKNOWN_GROUP");
  }

  private host(id: string) {
    const { term, moved, lineage } = this.group(id);
    const encoded = toBase64(wire.encode(wire.lineage, lineage));
    return { delivery_service: moved?.delivery_service ?? this.name, term: moved?.term ?? term, lineage: encoded };
  }

  /** Stops the server for a claim to a group that it still hosts, if the room's pointer names the claim. */
  private shown(id: string, { lineage: encoded, receipt }: { lineage: string; receipt?: Signed }) {
    const g = this.group(id);
    if (receipt !== undefined) return this.shownReceipt(g, receipt);
    const claim = claimIn(wire.decode(wire.lineage, fromBase64(encoded)).steps[g.term]);
    const named = this.net.state.get(`${g.room} io.github.mimiport.delivery_service`)?.claim_hash;
    if (claim !== undefined && claimHash(claim) !== named) refuse(409, "M_CONFLICT", { rule: "contested" });
    if (claim !== undefined) Object.assign(g, { state: "moved", moved: claim });
    return this.host(id);
  }

  /** Stops the server for a receipt for a Commit that it does not have. */
  private shownReceipt(g: Hosted, receipt: Signed) {
    const { term, epoch, commitHash } = wire.decode(wire.commitReceipt, fromBase64(receipt.message));
    const forgotten = !this.has(g, { epoch: Number(epoch), commit_hash: toBase64(commitHash) });
    if (Number(term) === g.term && forgotten) g.state = "stopped";
    return this.host(g.id);
  }

  private has({ log }: Hosted, known: KnownCommit): boolean {
    const commit = log.find((m) => m.kind === "commit" && m.epoch + 1 === known.epoch);
    return commit !== undefined && toBase64(commitHash(commit.message!)) === known.commit_hash;
  }

  /** The receipt for a Commit that is about to be accepted. */
  private receipt(g: Hosted, seq: number, message: string): { receipt?: Signed } {
    const groupId = fromBase64url(g.id);
    const of = { term: BigInt(g.term), epoch: BigInt(g.epoch + 1), seq: BigInt(seq) };
    if (!this.receipts) return {};
    return { receipt: this.key.sign(wire.commitReceipt, { groupId, ...of, commitHash: commitHash(message) }) };
  }

  /** Continues a group from a member's export: 2 for a reclaim, 3 for a recover. */
  claim(kind: 2 | 3, held: { group_info: string; ratchet_tree: string; lineage: string }): void {
    const info = mls.parse(fromBase64(held.group_info));
    if (info.wireformat !== "mls_group_info") throw new Error("no GroupInfo");
    const { groupId, epoch } = info.groupInfo.groupContext;
    const lineage = wire.decode(wire.lineage, fromBase64(held.lineage));
    const term = lineage.steps.length + 1;
    const claim = { kind, domainName: this.name, groupId, term: BigInt(term), epoch };
    lineage.steps.push({ kind, lineageClaim: archived(this.key.sign(wire.lineageClaim, claim)) });
    const id = toBase64url(groupId);
    this.groups.set(id, {
      ...{ id, room: lineage.roomId, term, epoch: Number(epoch), log: [], state: "active", lineage },
      ...{ groupInfo: held.group_info, tree: held.ratchet_tree },
    });
  }

  private reserve(room: string) {
    const made = { creatingServer: this.name, roomId: room, nonce: randomBytes(32) };
    const id = toBase64url(wire.groupIdOf(made));
    const lineage = { creatingServer: this.name, preimage: made, roomId: room, steps: [] };
    this.groups.set(id, { id, room, term: 0, epoch: 0, log: [], state: "active", lineage });
    const preimage = { creating_server: this.name, room_id: room, nonce: toBase64(made.nonce) };
    return { group_id: id, preimage, ...this.entry() };
  }

  private entry() {
    return this.sender && { external_sender: toBase64(encodeExternalSender(this.sender)) };
  }

  private entryOffer(response: wire.MigrationResponse) {
    if (this.sender === undefined) return {};
    const migrationId = fromBase64url(wire.migrationId(response));
    const offer = { migrationId, externalSender: encodeExternalSender(this.sender) };
    return { external_sender_offer: this.key.sign(wire.externalSenderOffer, offer).message };
  }

  /** Lets the Delivery Service propose things from now on. */
  async becomeSender(): Promise<void> {
    const { signKey, publicKey } = await (await mls.cipherSuite(1)).signature.keygen();
    const identity = new TextEncoder().encode(this.name);
    this.sender = { signKey, signaturePublicKey: publicKey, credential: { credentialType: "basic", identity } };
  }

  /** Proposes to remove a leaf, as after a kick. */
  async proposeRemove(id: string, removed: number): Promise<void> {
    const g = this.group(id);
    const info = mls.parse(fromBase64(g.groupInfo!));
    if (info.wireformat !== "mls_group_info") throw new Error("no GroupInfo");
    const { groupContext } = info.groupInfo;
    const senderIndex = externalSenders(groupContext.extensions).findIndex((s) =>
      s.signaturePublicKey.every((b, i) => b === this.sender!.signaturePublicKey[i]),
    );
    const { publicMessage } = await protectExternalProposalPublic(
      this.sender!.signKey,
      groupContext,
      new Uint8Array(),
      { proposalType: "remove", remove: { removed } },
      { senderType: "external", senderIndex },
      await mls.cipherSuite(1),
    );
    const message = toBase64(encodeMlsMessage({ version: "mls10", wireformat: "mls_public_message", publicMessage }));
    this.append(g, { seq: g.log.length + 1, epoch: g.epoch, kind: "proposal", sender: "", message });
  }

  private bind(id: string, { group_info, ratchet_tree }: any) {
    const g = this.group(id);
    mls.parse(fromBase64(group_info));
    g.groupInfo = group_info;
    g.tree = ratchet_tree;
    if (!this.net.stock) this.net.announce(g.room, id, this.name);
    return this.describe(g);
  }

  private describe(g: Hosted) {
    if (g.state === "moved") refuse(410, "M_GROUP_MOVED", { moved: g.moved });
    if (g.state === "stopped") refuse(409, "M_GROUP_STOPPED");
    const info = mls.parse(fromBase64(g.groupInfo!));
    const context = info.wireformat === "mls_group_info" ? info.groupInfo.groupContext : undefined;
    return {
      confirmed_transcript_hash: toBase64(context!.confirmedTranscriptHash),
      group_id: g.id,
      state: g.state,
      term: g.term,
      epoch: g.epoch,
      next_seq: g.log.length + 1,
      delivery_service: this.name,
      group_info: g.groupInfo,
      self_removes: g.log
        .filter((m) => m.kind === "proposal" && m.epoch === g.epoch && decodeSelfRemove(fromBase64(m.message!)))
        .map((m) => m.message!),
    };
  }

  private submit(id: string, body: any, user: string) {
    const g = this.group(id);
    const repeated = g.log.find((m) => m.message === body.message);
    if (repeated !== undefined) return { term: g.term, seq: repeated.seq, epoch: g.epoch };
    if (g.state === "stopped") refuse(409, "M_GROUP_STOPPED");
    if (g.state === "closed") refuse(410, "M_GROUP_CLOSED");
    if (body.known !== undefined && !this.has(g, body.known)) refuse(409, "M_WRONG_EPOCH", { epoch: g.epoch });
    if (g.state === "moved") refuse(410, "M_GROUP_MOVED", { moved: g.moved });
    const kind = kindOf(fromBase64(body.message));
    const handshake = kind !== "application";
    if (g.state === "staged" || (g.state === "frozen" && handshake))
      refuse(409, "M_MIGRATION_IN_PROGRESS", { retry_after_ms: 1 });
    if (mls.messageEpoch(fromBase64(body.message)) !== BigInt(g.epoch))
      refuse(409, "M_WRONG_EPOCH", { epoch: g.epoch });
    return this.accept(g, body, kind, user);
  }

  private accept(g: Hosted, body: any, kind: string, user: string, migration?: Migrated) {
    const seq = g.log.length + 1;
    const receipt = kind === "commit" ? this.receipt(g, seq, body.message) : {};
    this.append(g, {
      seq,
      epoch: g.epoch,
      kind: kind as "commit",
      sender: this.misnames[user] ?? user,
      message: body.message,
      ...(migration && { migration }),
      ...receipt,
    });
    if (kind === "commit") {
      const info = mls.parse(fromBase64(body.group_info));
      const isNext = info.wireformat === "mls_group_info" && info.groupInfo.groupContext.epoch === BigInt(g.epoch + 1);
      if (!isNext) throw new Error("the GroupInfo is not of the next epoch");
      g.epoch += 1;
      g.groupInfo = body.group_info;
    }
    if (body.welcome !== undefined)
      this.append(g, { seq: seq + 1, epoch: g.epoch, kind: "welcome", sender: user, message: body.welcome });
    return { term: g.term, seq, epoch: g.epoch, ...receipt };
  }

  private append(g: Hosted, m: LogMessage): void {
    g.log.push(m);
    const of = { group_id: g.id, room_id: g.room, protocol: "mls10", term: g.term };
    this.net.fanOut(`@_mimiport:${this.name}`, { ...of, ...m });
  }

  private read(id: string, query: URLSearchParams) {
    const g = this.group(id);
    const term = Number(query.get("term") ?? g.term);
    const former = g.former?.get(term);
    if (former !== undefined) return { term, ...former, next: former.messages.at(-1)!.seq + 1, end: true };
    if (term !== g.term) refuse(404, "M_UNKNOWN_GROUP");
    const messages = g.log.filter((m) => m.seq >= Number(query.get("from") ?? 1)).slice(0, 3);
    const next = (messages.at(-1)?.seq ?? g.log.length) + 1;
    const end = next > g.log.length;
    return { term: g.term, messages, next, end, ...(end && g.moved && { moved: g.moved }) };
  }

  private offer({ migration_request, room_id }: any) {
    const migrationRequest = wire.decode(wire.migrationRequest, fromBase64(migration_request));
    const unsigned = { migrationRequest, nonce: randomBytes(32) };
    const signed = this.key.sign(wire.migrationResponse, unsigned);
    const response = wire.decode(wire.migrationResponse, fromBase64(signed.message));
    const id = wire.migrationId(response);
    const { sourceDomainName: source, targetDomainName: target, groupId } = migrationRequest;
    const status = {
      migration_id: id,
      role: "target",
      state: "offered",
      source,
      target,
      term: 0,
      epoch: Number(migrationRequest.epoch),
    } as MigrationStatus;
    this.migrations.set(id, { response, signed, status });
    const key = toBase64url(groupId);
    const mine = this.net.ds(source);
    mine.migrations.set(id, { response, signed, status: { ...status, role: "source" } });
    const from = mine.group(key);
    const term = from.term + 1;
    const { epoch, lineage } = from;
    this.groups.set(key, { id: key, room: room_id, term, epoch: epoch + 1, log: [], state: "staged", lineage });
    const expires_at = Date.now() + 600_000;
    const entry = this.entryOffer(response);
    return { migration_id: id, migration_response: signed.message, key_id: this.key.id, expires_at, ...entry };
  }

  private init(m: Migration, body: any, user: string): MigrationStatus {
    const g = this.group(toBase64url(m.response.migrationRequest.groupId));
    wire.decode(wire.migrationInit, fromBase64(body.migration_init));
    if (m.submission !== undefined) return m.status;
    if (mls.messageEpoch(fromBase64(body.message)) !== BigInt(g.epoch))
      refuse(409, "M_WRONG_EPOCH", { epoch: g.epoch });
    m.submission = body;
    m.status.state = "frozen";
    g.state = "frozen";
    if (this.outcome !== "wait") this.decide(m, this.outcome, user);
    return m.status;
  }

  /** The source's decision. */
  decide(m: Migration, outcome: "confirm" | "abort", user = ""): void {
    const { groupId, targetDomainName: target } = m.response.migrationRequest;
    const g = this.group(toBase64url(groupId));
    if (outcome === "abort") {
      const migrationId = fromBase64url(m.status.migration_id);
      Object.assign(m.status, {
        state: "aborted",
        reason: "no",
        migration_abort: this.key.sign(wire.migrationAbort, { migrationId, sourceDomain: this.name }),
      });
      g.state = "active";
      return;
    }
    const confirmation = this.key.sign(wire.migrationConfirmation, {
      domainName: target,
      nonce: m.response.nonce,
      groupId,
    });
    const moved = {
      delivery_service: target,
      term: g.term + 1,
      migration_response: m.signed.message,
      migration_confirmation: confirmation.message,
      key_id: confirmation.key_id,
    };
    const { receipt } = this.accept(g, m.submission, "commit", user, moved);
    Object.assign(m.status, { state: "moved", migration_confirmation: confirmation, ...(receipt && { receipt }) });
    g.state = "moved";
    g.moved = moved;
    const step = {
      kind: 1 as const,
      migrationResponse: archived(m.signed),
      migrationConfirmation: archived(confirmation),
    };
    const lineage = { ...g.lineage, steps: [...g.lineage.steps, step] };
    const messages = g.log.filter((m) => m.kind !== "application");
    const former = new Map([...(g.former ?? []), [g.term, { messages, moved }]]);
    Object.assign(this.net.ds(target).group(g.id), { groupInfo: m.submission!.group_info, lineage, former });
  }

  private activate(m: Migration, { message, receipt }: any): MigrationStatus {
    const confirmation = wire.decode(wire.migrationConfirmation, fromBase64(message));
    if (!same(confirmation.nonce, m.response.nonce)) refuse(403, "M_BAD_SIGNATURE");
    this.group(toBase64url(confirmation.groupId)).state = "active";
    m.status.state = "active";
    m.receipt ??= receipt;
    return m.status;
  }
}

const NOTARY = "/_matrix/key/v2/query";
const VERSIONS = "/_matrix/client/versions";
const WELL_KNOWN = "/.well-known/matrix/client";

const features = (name: string, has: boolean) => {
  return { versions: ["v1.11"], unstable_features: has ? { [name]: true } : {} };
};

/** The header of a direct request. */
const DIRECT = new RegExp(
  `^MimiDevice ${["user", "device", "key", "time", "nonce", "sha256", "sig"].map((f) => `${f}="([^"]+)"`).join(",")}$`,
);

/** A request: its path with the query, and its body. */
export interface Asked {
  method: string;
  uri: string;
  authorization: string;
  text: string;
}

/** An answer, of which the body is bytes or JSON. */
export interface Answered {
  status: number;
  body: unknown;
}

const pathIn = (uri: string): [string[], URL] => {
  const url = new URL(uri, "http://fake");
  return [url.pathname.split("/").slice(1).map(decodeURIComponent), url];
};

/** What an answer is with its status; undefined for none. */
async function answered(answer: () => unknown): Promise<Answered | undefined> {
  try {
    const body = await answer();
    return body === undefined ? undefined : { status: 200, body };
  } catch (e) {
    if (e instanceof Refusal) return { status: e.status, body: e.body };
    return { status: 400, body: { errcode: "M_UNKNOWN", error: String(e) } };
  }
}

export const encodeBody = ({ body }: Answered): Uint8Array =>
  body instanceof Uint8Array ? body : utf8(JSON.stringify(body));

/** The algorithm of a one-time key, by its name. */
const algorithmOf = (name: string) => name.slice(0, name.indexOf(":"));

/** The only device of a user. */
const deviceOf = (user: string) => user.slice(1, user.indexOf(":")).toUpperCase();

interface ToDevice {
  type: string;
  sender: string;
  content: unknown;
}

/** All servers of a test, and the homeserver of all clients. */
export class FakeNetwork {
  readonly services = new Map<string, FakeDs>();
  readonly state = new Map<string, any>();
  /** The sender of each state event. */
  private readonly senders = new Map<string, string>();
  /** Users who are joined to a room, where a test says so. */
  readonly members = new Map<string, string[]>();
  private readonly inboxes = new Map<string, ToDevice[]>();
  /** Users who wait for news. */
  private readonly readers = new Map<string, () => void>();
  /** The number of forgotten events of each user. */
  private readonly received = new Map<string, number>();
  private readonly pointers: { roomId: string; content: unknown }[] = [];
  /** One-time keys by user and device. */
  readonly oneTimeKeys = new Map<string, Map<string, Record<string, unknown>>>();
  /** Whether the homeserver supports fallback keys. */
  hasFallback = false;
  /** The KeyPackages of last resort at the module of the users' homeserver; undefined for one without that route. */
  atModule: Map<string, unknown> | undefined;
  private readonly lastResorts = new Map<string, { key: [string, unknown]; used: boolean }>();
  readonly deviceKeys = new Map<string, Record<string, DeviceKeys>>();
  /** The users' cross-signing keys, in the form of /keys/query. */
  crossSigning: Pick<PublishedKeys, "master_keys" | "self_signing_keys"> = {};
  /** Users whom /sync lists with changed devices. */
  changed: string[] = [];
  /** Users whose homeserver says nothing about their devices. */
  readonly silent = new Set<string>();
  /** Whether the users' homeserver knows no server's keys. */
  ignorant = false;
  /** Whether the users' homeserver is out of reach. */
  answersNothing = false;
  /** Fan-out waits here while there is an array. */
  held: (() => void)[] | undefined;
  /** The address of the Delivery Services' homeservers, if they have one. Each is below its name. */
  address = "";
  private readonly nonces = new Set<string>();

  /** stock says whether the users' homeserver lacks the module. */
  constructor(readonly stock = false) {}

  /** A new login of a user, in place of one that the user has, and its way to the homeserver. */
  transport(name: string): Transport {
    const { user_id: userId, device_id: deviceId } = this.login(name);
    return { userId, deviceId, fetch: (path, init) => this.fetch(path, init, userId) };
  }

  private async fetch(uri: string, { method = "GET", body, signal }: RequestInit, token: string): Promise<Response> {
    const asked = { method, uri, authorization: `Bearer ${token}`, text: String(body ?? "") };
    const answer = await orAborted(this.answer(asked), signal ?? undefined);
    if (answer === undefined) throw new TypeError("the homeserver is out of reach");
    return new Response(encodeBody(answer) as Uint8Array<ArrayBuffer>, { status: answer.status });
  }

  /** The answer of the users' homeserver; undefined for none. */
  answer(asked: Asked): Promise<Answered | undefined> {
    return answered(() => this.asked(asked));
  }

  /** The answer of a Delivery Service's own homeserver, whose name the path begins with. */
  answerDirectly(asked: Asked): Promise<Answered | undefined> {
    return answered(() => this.askedDirectly(asked));
  }

  ds(name: string): FakeDs {
    const known = this.services.get(name) ?? new FakeDs(name, this);
    this.services.set(name, known);
    return known;
  }

  fanOut(sender: string, content: unknown): void {
    const deliver = () => [...this.inboxes.keys()].forEach((user) => this.toDevice(user, sender, content));
    if (this.held === undefined) deliver();
    else this.held.push(deliver);
  }

  toDevice(user: string, sender: string, content: unknown, type = FAN_OUT): void {
    this.inboxes.get(user)!.push({ type, sender, content });
    this.readers.get(user)?.();
  }

  /** Forgets the fan-out that a user has not read yet, as an unreliable network may. */
  lose(user: string): void {
    this.acknowledge(user, Infinity);
  }

  point(roomId: string, content: unknown): void {
    this.state.set(`${roomId} io.github.mimiport.delivery_service`, content);
    this.pointers.push({ roomId, content });
  }

  /** Answers a request to the users' homeserver. */
  private asked({ method, uri, authorization, text }: Asked): unknown {
    const user = authorization.replace("Bearer ", "");
    const body = text === "" ? undefined : JSON.parse(text);
    const [path, url] = pathIn(uri);
    if (this.answersNothing) return undefined;
    if (url.pathname === NOTARY) return this.ignorant ? { server_keys: [] } : this.notary(body);
    if (url.pathname === VERSIONS) return features("io.github.mimiport.v0", !this.stock);
    const [, , , operation, ...rest] = path;
    if (operation === "login") return this.login(body.identifier.user);
    if (operation === "account") return { user_id: user, device_id: deviceOf(user) };
    if (["pushrules", "user", "voip"].includes(operation!)) return { global: {}, filter_id: "0" }; // what an SDK asks
    const query = url.searchParams;
    if (operation === "sync") return this.sync(user, query.get("since"), Number(query.get("timeout")));
    if (operation === "room_keys") throw new Refusal(404, { errcode: "M_NOT_FOUND" });
    if (operation === "rooms" && method === "PUT") return this.setState(rest[0]!, rest[2]!, body, user);
    if (operation === "rooms" && rest.length === 2) return this.allState(rest[0]!);
    if (operation === "keys") return this.keys(rest[0]!, body, user, deviceOf(user));
    if (operation === "rooms") return this.stateOf(rest[0]!, rest[2]!) ?? refuse(404, "M_NOT_FOUND");
    const [, name, ...call] = rest;
    if (this.stock) throw new Refusal(404, { errcode: "M_UNRECOGNIZED" });
    if (call[0] === "keys" && this.ignorant) refuse(502, "M_PEER_UNREACHABLE");
    if (call[0] === "keys") return this.services.get(call[1]!)?.keys ?? refuse(502, "M_PEER_UNREACHABLE");
    if (call[0] === "last_resort") return this.lastResort(method, name!, body, user, deviceOf(user));
    const ds = this.ds(name!);
    if (ds.down) throw new Refusal(502, { errcode: "IO.GITHUB.MIMIPORT.M_PEER_UNREACHABLE" });
    return ds.answer(method, call, url.searchParams, body, user);
  }

  /** Answers a request to a Delivery Service's own homeserver. */
  private async askedDirectly({ method, uri: asked, authorization, text }: Asked): Promise<unknown> {
    const [[name, ...path], url] = pathIn(asked);
    const ds = this.ds(name!);
    if (ds.down) return undefined;
    const uri = asked.slice(name!.length + 1);
    if (uri === VERSIONS) return features("io.github.mimiport.v0.direct_requests", true);
    if (uri === WELL_KNOWN) return { "m.homeserver": { base_url: `${this.address}/${name}` } };
    if (path[4] !== "ds") throw new Refusal(404, { errcode: "M_UNRECOGNIZED" });
    const body = text === "" ? undefined : JSON.parse(text);
    const user = await this.sender(path[5]!, method, uri, text, authorization);
    if (path[6] === "keys") return this.keysAt(ds, path[7]!) ?? refuse(502, "M_PEER_UNREACHABLE");
    return ds.answer(method, path.slice(6), url.searchParams, body, user);
  }

  /** The device that signed a direct request. */
  private async sender(service: string, method: string, uri: string, body: string, header: string): Promise<string> {
    const [, user, device, key, time, nonce, hash, sig] = DIRECT.exec(header) ?? refuse(400, "M_BAD_MESSAGE");
    const server_time = Date.now();
    if (Math.abs(server_time - Number(time)) > 300_000) refuse(403, "M_BAD_SIGNATURE", { rule: "time", server_time });
    const bodyHash = sha256(utf8(body));
    const request = { service, method, uri, bodyHash, userId: user!, deviceId: device!, time: BigInt(time!) };
    const content = wire.signedContent(wire.directRequest, { ...request, nonce: fromBase64(nonce!) });
    const published = this.deviceKeys.get(user!)?.[device!]?.keys[key!] ?? refuse(403, "M_BAD_SIGNATURE");
    const { signature } = await mls.cipherSuite(1);
    const signed = await signature.verify(fromBase64(published), content, fromBase64(sig!));
    if (!signed || hash !== toBase64(bodyHash)) refuse(403, "M_BAD_SIGNATURE");
    if (this.nonces.has(nonce!)) refuse(403, "M_BAD_SIGNATURE", { rule: "nonce" });
    this.nonces.add(nonce!);
    return user!;
  }

  /** A room's state event: power levels by which all may do all, where a test sets none. */
  private stateOf(roomId: string, type: string): any {
    return this.state.get(`${roomId} ${type}`) ?? (type === POWER_LEVELS ? { users_default: 100 } : undefined);
  }

  /** Makes a room name a group, as its user's homeserver does. */
  announce(room_id: string, group_id: string, server: string): void {
    const of = { room_id, group_id };
    const levels = { [BINDING]: 100, [POINTER]: 100, [SUCCESSORS]: 100 };
    const before = this.stateOf(room_id, POWER_LEVELS);
    this.state.set(`${room_id} ${POWER_LEVELS}`, { ...before, events: { ...levels, ...before.events } });
    this.state.set(`${room_id} ${POINTER}`, { ...of, via: server, term: 0, epoch: 0 });
    const bound = this.stateOf(room_id, BINDING);
    const former = bound && { former: { group_id: bound.group_id } };
    this.state.set(`${room_id} ${BINDING}`, { ...of, creating_server: server, ...former });
  }

  /** Sets a room's state as a user. */
  setState(roomId: string, type: string, content: unknown, sender: string): object {
    this.state.set(`${roomId} ${type}`, content);
    this.senders.set(`${roomId} ${type}`, sender);
    return {};
  }

  private allState(roomId: string): StateEvent[] {
    const levels = this.stateOf(roomId, POWER_LEVELS);
    const own = [...new Map([...this.state, [`${roomId} ${POWER_LEVELS}`, levels]])].flatMap(([key, content]) => {
      const [room, type] = key.split(" ") as [string, string];
      return room === roomId ? [{ type, state_key: "", sender: this.senders.get(key) ?? "", content }] : [];
    });
    const content = { membership: "join" };
    const join = (user: string) => ({ type: "m.room.member", state_key: user, sender: user, content });
    return [...own, ...(this.members.get(roomId) ?? []).map(join)];
  }

  private login(name: string) {
    const user = `@${name}:h.example`;
    this.acknowledge(user, Infinity);
    return { access_token: user, user_id: user, device_id: deviceOf(user) };
  }

  /** Forgets the first events of a user: what comes with a token counts as received only when the token comes back. */
  private acknowledge(user: string, upTo: number): void {
    const events = this.inboxes.get(user) ?? [];
    const before = this.received.get(user) ?? 0;
    this.received.set(user, before + events.splice(0, Math.max(0, upTo - before)).length);
    this.inboxes.set(user, events);
  }

  /** Without a token, what is returned is forgotten at once. */
  private async sync(user: string, since: string | null, wait: number) {
    if (since !== null) this.acknowledge(user, Number(since));
    if (wait > 0 && this.inboxes.get(user)!.length === 0)
      await new Promise<void>((arrival) => this.readers.set(user, arrival));
    const events = [...this.inboxes.get(user)!];
    const next_batch = String(this.received.get(user)! + events.length);
    if (since === null) this.acknowledge(user, Infinity);
    const join = Object.fromEntries(
      this.pointers.map(({ roomId, content }) => [
        roomId,
        { state: { events: [] }, timeline: { events: [this.pointerEvent(content)] } },
      ]),
    );
    const unused = [...this.lastResorts].filter(([of, { used }]) => of.startsWith(`${user} `) && !used);
    const device_unused_fallback_key_types = unused.map(([, { key }]) => algorithmOf(key[0]));
    return {
      ...{ next_batch, to_device: { events }, rooms: { join }, device_lists: { changed: this.changed } },
      ...(this.hasFallback && { device_unused_fallback_key_types }),
    };
  }

  private pointed = 0;

  private pointerEvent(content: unknown): object {
    return { event_id: `$${++this.pointed}`, origin_server_ts: 0, type: POINTER, state_key: "", sender: "", content };
  }

  /** How many events a user has not said to have. */
  unread(user: string): number {
    return this.inboxes.get(user)!.length;
  }

  /**
   * The keys of devices: a user's homeserver takes what the user's devices upload, and gives each one-time key out
   * once.
   */
  private keys(operation: string, body: any, user: string, device: string) {
    if (operation === "upload") {
      const had = this.oneTimeKeys.get(user) ?? new Map<string, Record<string, unknown>>();
      this.oneTimeKeys.set(user, had.set(device, { ...had.get(device), ...body.one_time_keys }));
      const [last] = Object.entries<any>((this.hasFallback && body.fallback_keys) || {});
      if (last !== undefined) this.lastResorts.set(`${user} ${device}`, { key: last, used: false });
      if (body.device_keys !== undefined) this.publish(body.device_keys);
      return { one_time_key_counts: this.keyCounts(user, device) };
    }
    if (operation === "query") {
      const asked = Object.keys(body.device_keys).filter((u) => !this.silent.has(u));
      const failures = this.silent.size > 0 ? { "h.example": {} } : {};
      const device_keys = Object.fromEntries(asked.map((u) => [u, this.deviceKeys.get(u) ?? {}]));
      return { ...this.crossSigning, device_keys, failures };
    }
    const [wanted, devices] = Object.entries<any>(body.one_time_keys)[0]!;
    const claimed = Object.entries<string>(devices).map(([id, algorithm]) => {
      const keys = this.oneTimeKeys.get(wanted)?.get(id) ?? {};
      const [name, key] = Object.entries(keys).find(([name]) => algorithmOf(name) === algorithm) ?? [];
      const last = this.lastResorts.get(`${wanted} ${id}`);
      if (name === undefined && last !== undefined) {
        last.used = true;
        return [id, Object.fromEntries([last.key])];
      }
      if (name === undefined) return [id, {}];
      delete keys[name];
      return [id, { [name]: key }];
    });
    return { one_time_keys: { [wanted]: Object.fromEntries(claimed) } };
  }

  /** The number of a device's one-time keys of each algorithm. */
  private keyCounts(user: string, device: string): Record<string, number> {
    const counts: Record<string, number> = {};
    for (const name of Object.keys(this.oneTimeKeys.get(user)?.get(device) ?? {}))
      counts[algorithmOf(name)] = (counts[algorithmOf(name)] ?? 0) + 1;
    return counts;
  }

  /** The module at the users' homeserver keeps a KeyPackage of last resort for each device, where a test says so. */
  private lastResort(method: string, server: string, body: any, user: string, device: string) {
    if (server !== "h.example" || this.atModule === undefined) throw new Refusal(404, { errcode: "M_UNRECOGNIZED" });
    if (method === "PUT") {
      this.atModule.set(`${user} ${device}`, body);
      return {};
    }
    const [of, devices] = Object.entries<string[]>(body.devices)[0]!;
    const kept = devices.map((id) => [id, this.atModule!.get(`${of} ${id}`)] as const);
    return { key_packages: { [of]: Object.fromEntries(kept.filter(([, value]) => value !== undefined)) } };
  }

  /** Takes a device's keys in place of those that it had. */
  publish(keys: DeviceKeys): void {
    this.deviceKeys.set(keys.user_id, { ...this.deviceKeys.get(keys.user_id), [keys.device_id]: keys });
  }

  /** The keys of a server that a Delivery Service tells when a device asks it directly. */
  private keysAt(ds: FakeDs, server: string): object | undefined {
    return server === ds.name && ds.mute ? undefined : this.services.get(server)?.keys;
  }

  /** The keys of a server that a homeserver knows; none if it cannot reach the server. */
  private notary({ server_keys }: any) {
    const keys = this.services.get(Object.keys(server_keys)[0]!)?.keys;
    return { server_keys: keys === undefined ? [] : [keys] };
  }
}
