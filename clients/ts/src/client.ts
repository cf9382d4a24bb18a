// The client: one device's groups, kept in step with their Delivery Services through fan-out, catch-up and migrations.
import { createHash } from "node:crypto";
import type { ClientState, ExternalSender, ProposalOrRef } from "ts-mls";
import { decodeExternalSender } from "ts-mls";
import { DeliveryService, type FanOut, IN_PROGRESS, type LogMessage, MOVED, type MigrationStatus, type MovedInfo } from "./ds.js";
import { refused, type Signed, type Submission, WRONG_EPOCH } from "./ds.js";
import { type Matrix, MatrixError, type MatrixEvent, POINTER, serverOf, type SyncResult } from "./matrix.js";
import * as mls from "./mls.js";
import * as wire from "./wire.js";
import { decode, encode, fromBase64, toBase64, toBase64url } from "./wire.js";

/** How many Commits of others may come first before an operation gives up. */
const MAX_RACES = 10;
/** How many messages of a Delivery Service that is not yet the current one are kept. */
const MAX_HELD = 256;
/** How often a request is repeated while a server fails, with doubling pauses from RETRY_PAUSE milliseconds. */
const MAX_RETRIES = 6;
const RETRY_PAUSE = 200;
/** How long an operation waits for a migration under way, in milliseconds: above the longest freeze of the profile, section 6. */
const MAX_FROZEN = 11 * 60_000;
const POLL_PAUSE = 500;
/** How long one /sync waits for news, in milliseconds. */
const SYNC_WAIT = 20_000;

const FAN_OUT = "io.github.mimiport.message";
/** The start of the user id from which a Delivery Service sends; its server name follows. */
const RESERVED_USER = "@_mimiport:";

/** A Commit that has been sent, or is about to be, and may have been accepted. */
export interface PendingCommit extends mls.Commit {
  accepted?: boolean;
}

/** A migration that this client has begun, until the target has its confirmation or it has ended otherwise. */
export interface OwnMigration {
  id: string;
  source: string;
  target: string;
  response: Uint8Array;
  keyId: string;
}

/** A group and where it stands: `next` is the first log number of (ds, term) not yet handled. */
export interface Group {
  id: Uint8Array;
  key: string;
  roomId: string;
  ds: string;
  term: number;
  next: number;
  state: ClientState;
  pending?: PendingCommit | undefined;
  migration?: OwnMigration | undefined;
  /** Hashes of own application messages that the log has not shown yet: nobody can decrypt their own. */
  sent: Set<string>;
  held: { server: string; fanOut: FanOut }[];
  /** The log could not be read to its end the last time. */
  behind?: boolean;
}

/** What a client keeps from one run to the next. */
export interface Stored {
  identity: mls.Identity | undefined;
  keyPackages: Map<string, mls.OwnKeyPackage>;
  groups: Map<string, Group>;
  /** Welcomes for groups that their rooms do not name yet. */
  invitations: { server: string; fanOut: FanOut }[];
  since: string | undefined;
}

/** What happened, for the application. */
export type ClientEvent =
  | { event: "message"; group: string; sender: string; epoch: number; text: string }
  | { event: "epoch"; group: string; epoch: number }
  | { event: "joined" | "removed"; group: string; epoch: number }
  | { event: "moved"; group: string; ds: string; term: number }
  | { event: "ignored"; group: string; from: string; reason: string }
  | { event: "failed"; group: string; reason: string };

/** What a client needs from its surroundings. */
export interface Surroundings {
  /** Milliseconds since 1970. */
  now(): number;
  pause(ms: number): Promise<void>;
  emit(event: ClientEvent): void;
  /** Makes what is stored durable; called before anything is sent that depends on it. */
  save(stored: Stored): void;
}

export type MigrationOutcome = { state: "moved"; ds: string; term: number } | { state: "aborted" | "overtaken"; reason: string };

const hash = (b: Uint8Array) => createHash("sha256").update(b).digest("hex");
const same = (a: Uint8Array, b: Uint8Array) => Buffer.compare(a, b) === 0;
const epochOf = (g: Group) => Number(g.state.groupContext.epoch);
const isOut = (g: Group) => g.state.groupActiveState.kind !== "active";
/** A server's refusal that repeating the request will not change. */
const isFinal = (e: unknown): e is MatrixError =>
  e instanceof MatrixError && e.status < 500 && e.status !== 429 && !refused(e, IN_PROGRESS);

/** The target that a Commit's authenticated_data names, when it is that of a migration Commit (profile, section 5). */
function migrationTarget(authenticatedData: Uint8Array): string | undefined {
  try {
    const { targetDsDomain } = decode(wire.migrationCommitAAD, authenticatedData);
    return wire.isServerName(targetDsDomain) ? targetDsDomain : undefined;
  } catch {
    return undefined;
  }
}

function submission(commit: mls.Commit): Submission {
  const { message, groupInfo, welcome } = commit;
  return { message: toBase64(message), group_info: toBase64(groupInfo), ...(welcome && { welcome: toBase64(welcome) }) };
}

function externalSender(encoded: string | undefined): ExternalSender | undefined {
  return encoded === undefined ? undefined : decodeExternalSender(fromBase64(encoded), 0)?.[0];
}

export class Client {
  private turn: Promise<unknown> = Promise.resolve();

  constructor(
    readonly matrix: Matrix,
    readonly stored: Stored,
    private readonly world: Surroundings,
  ) {}

  private ds(server: string): DeliveryService {
    return new DeliveryService(this.matrix, server);
  }

  /** Runs one step at a time: what a step sees of a group stays true until it ends. */
  private exclusive<T>(step: () => Promise<T>): Promise<T> {
    const run = this.turn.then(step, step);
    this.turn = run.catch(() => undefined);
    return run;
  }

  private save(): void {
    this.world.save(this.stored);
  }

  /** Repeats a request while a migration is under way, and a few times while a server fails. */
  private async patiently<T>(request: () => Promise<T>): Promise<T> {
    const until = this.world.now() + MAX_FROZEN;
    for (let failures = 0; ; ) {
      try {
        return await request();
      } catch (e) {
        // fetch throws a TypeError when it gets no answer.
        if (isFinal(e) || !(e instanceof MatrixError || e instanceof TypeError)) throw e;
        if (refused(e, IN_PROGRESS) && this.world.now() < until) await this.world.pause(Number(e.body.retry_after_ms ?? POLL_PAUSE));
        else if (failures < MAX_RETRIES) await this.world.pause(RETRY_PAUSE * 2 ** failures++);
        else throw e;
      }
    }
  }

  private get identity(): mls.Identity {
    if (this.stored.identity === undefined) throw new Error("the device has no MLS identity yet");
    return this.stored.identity;
  }

  private seconds(): bigint {
    return BigInt(Math.floor(this.world.now() / 1000));
  }

  /** The name of the own homeserver. */
  get homeServer(): string {
    return serverOf(this.matrix.session.userId);
  }

  /** The group with this id in base64url; without one, the only group there is. */
  group(key?: string): Group {
    const { groups } = this.stored;
    const g = key === undefined ? (groups.size === 1 ? [...groups.values()][0] : undefined) : groups.get(key);
    if (g === undefined) throw new Error(key === undefined ? `${groups.size} groups: name one` : `no group ${key}`);
    return g;
  }

  /** The device's signature key for a cipher suite (1 or 3), made the first time. */
  async createIdentity(suite: number): Promise<mls.Identity> {
    if (this.stored.identity?.suite !== suite) {
      this.stored.identity = await mls.newIdentity(this.matrix.session, suite);
      this.save();
    }
    return this.stored.identity;
  }

  /** Makes n KeyPackages and publishes them as Matrix one-time keys. */
  publishKeyPackages(n: number): Promise<void> {
    return this.exclusive(async () => {
      const made = await Promise.all(Array.from({ length: n }, () => mls.newKeyPackage(this.identity, this.seconds())));
      const published = await Promise.all(made.map(async (own) => {
        const ref = await mls.keyPackageRef(own.publicPackage);
        this.stored.keyPackages.set(toBase64url(ref), own);
        return { ref, message: mls.encodeOwn(own.publicPackage) };
      }));
      this.save();
      await this.matrix.uploadKeyPackages(published);
    });
  }

  /** Creates the group of a room at a Delivery Service: reserve an id, create the group under it, bind. */
  createGroup(roomId: string, server: string): Promise<Group> {
    return this.exclusive(async () => {
      const reserved = await this.ds(server).reserve(roomId);
      const id = fromBase64(reserved.group_id);
      const state = await mls.newGroup(this.identity, id, externalSender(reserved.external_sender), this.seconds());
      const g: Group = { id, key: toBase64url(id), roomId, ds: server, term: 0, next: 1, state, sent: new Set(), held: [] };
      this.stored.groups.set(g.key, g);
      this.save();
      const bound = await this.patiently(async () =>
        this.ds(server).bind(g.key, toBase64(await mls.groupInfo(state)), toBase64(mls.ratchetTree(state))));
      g.next = bound.next_seq;
      this.save();
      return g;
    });
  }

  /** Adds all devices of a user that have published KeyPackages and are not members yet. */
  async add(g: Group, userId: string): Promise<void> {
    const claimed = await this.matrix.claimKeyPackages(userId);
    const devices = claimed.flatMap(({ deviceId, message }) => {
      const { keyPackage, device } = mls.parseKeyPackage(message);
      const genuine = device.userId === userId && device.deviceId === deviceId;
      return genuine ? [{ deviceId, keyPackage }] : [];
    });
    if (devices.length === 0) throw new Error(`${userId} has no usable KeyPackage`);
    await this.commit(g, (state) => {
      const present = new Set(mls.members(state).filter((m) => m.userId === userId).map((m) => m.deviceId));
      const missing = devices.filter((d) => !present.has(d.deviceId));
      return missing.map(({ keyPackage }) => mls.byValue({ proposalType: "add", add: { keyPackage } }));
    });
  }

  /** Removes all leaves of a user. */
  async remove(g: Group, userId: string): Promise<void> {
    await this.commit(g, (state) => {
      const pending = new Set(mls.pendingRemovals(state));
      const leaves = mls.members(state).filter((m) => m.userId === userId && !pending.has(m.leaf));
      return leaves.map(({ leaf }) => mls.byValue({ proposalType: "remove", remove: { removed: leaf } }));
    });
  }

  /** Commits all pending proposals with a fresh path. */
  update(g: Group): Promise<void> {
    return this.commit(g, () => []);
  }

  /** Sends application data. Pending proposals are committed first (RFC 9420, section 12.4). */
  async send(g: Group, text: string): Promise<void> {
    const attempt = async (): Promise<"sent" | "lost" | "proposals"> => {
      if (mls.pendingProposals(g.state).length > 0) return "proposals";
      const { state, message } = await mls.encrypt(g.state, Buffer.from(text));
      g.state = state;
      g.sent.add(hash(message));
      this.save();
      return (await this.submit(g, { message: toBase64(message) })) ? "sent" : "lost";
    };
    for (let races = 0; races < MAX_RACES; races++) {
      const outcome = await this.patiently(() => this.exclusive(attempt));
      if (outcome === "sent") return;
      if (outcome === "proposals") await this.update(g);
    }
    throw new Error("the group's epoch kept changing");
  }

  /** Makes a Commit of the pending proposals and those that `propose` gives for the current state, and gets it accepted. */
  private async commit(g: Group, propose: (state: ClientState) => ProposalOrRef[]): Promise<void> {
    for (let races = 0; races < MAX_RACES; races++) {
      if (g.migration !== undefined) throw new Error("a migration of this client is under way");
      const pending = await this.exclusive(async () => {
        if (g.pending === undefined) {
          const proposals = [...mls.pendingProposals(g.state), ...propose(g.state)];
          g.pending = await mls.commit(g.state, proposals);
          this.save();
        }
        return g.pending;
      });
      await this.patiently(() => this.exclusive(() => this.submitPending(g, pending)));
      if (pending.accepted) return;
    }
    throw new Error("other members' Commits kept coming first");
  }

  /** Submits a pending Commit unless its fate is known by now. A final refusal drops it. */
  private async submitPending(g: Group, pending: PendingCommit): Promise<void> {
    if (g.pending !== pending) return;
    try {
      if (await this.submit(g, submission(pending))) return;
    } catch (e) {
      if (!isFinal(e)) throw e;
      this.dropPending(g, pending);
      throw e;
    }
    this.dropPending(g, pending);
  }

  /** Submits a message and handles the log up to it. False when the group is in another epoch, or elsewhere. */
  private async submit(g: Group, what: Submission): Promise<boolean> {
    try {
      const { seq } = await this.ds(g.ds).submit(g.key, what);
      if (seq === g.next) await this.handle(g, { seq, epoch: epochOf(g), kind: "commit", sender: "", message: what.message });
      else await this.catchUp(g);
      return true;
    } catch (e) {
      if (!refused(e, WRONG_EPOCH) && !refused(e, MOVED)) throw e;
      await this.catchUp(g, e.body.moved as MovedInfo | undefined);
      return false;
    }
  }

  /** Forgets a pending Commit that cannot be accepted any more. */
  private dropPending(g: Group, pending: PendingCommit): void {
    if (g.pending !== pending) return;
    g.pending = undefined;
    this.save();
  }

  /** Reads the log from where this client stands, over a migration if there is one. */
  private async catchUp(g: Group, moved?: MovedInfo): Promise<void> {
    g.behind = true;
    await this.readLog(g, moved);
    g.behind = false;
  }

  private async readLog(g: Group, moved: MovedInfo | undefined): Promise<void> {
    for (;;) {
      const { ds, term } = g;
      let page;
      try {
        page = await this.ds(ds).messages(g.key, term, g.next);
      } catch (e) {
        if (moved === undefined || !(await this.followEvidence(g, moved))) throw e;
        moved = undefined;
        continue;
      }
      for (const m of page.messages ?? []) if (g.term === term) await this.handle(g, m);
      if (g.term !== term) continue;
      g.next = Math.max(g.next, page.next);
      if (!page.end) continue;
      moved ??= page.moved;
      if (moved === undefined || !(await this.followEvidence(g, moved))) return;
      moved = undefined;
    }
  }

  /** Handles one message of the log or of fan-out, in the order of the log. */
  private async handle(g: Group, m: LogMessage): Promise<void> {
    if (m.seq < g.next) return;
    g.next = m.seq + 1;
    if (m.kind === "welcome" || m.message === undefined) return;
    await this.process(g, fromBase64(m.message), m.sender);
    this.save();
  }

  private async process(g: Group, message: Uint8Array, sender: string): Promise<void> {
    const own = g.sent.delete(hash(message));
    if (own) return;
    const epoch = epochOf(g);
    const { pending } = g;
    if (pending !== undefined && same(pending.message, message)) {
      this.merge(g, pending);
      return;
    }
    try {
      const result = await mls.process(g.state, message);
      g.state = result.state;
      if (result.plaintext !== undefined) this.received(g, sender, result.plaintext);
      if (result.committed === undefined) return;
      g.pending = undefined;
      this.entered(g, migrationTarget(result.committed));
    } catch (e) {
      if (mls.messageEpoch(message) === BigInt(epoch)) this.world.emit({ event: "failed", group: g.key, reason: String(e) });
    }
  }

  private received(g: Group, sender: string, plaintext: Uint8Array): void {
    const text = Buffer.from(plaintext).toString();
    this.world.emit({ event: "message", group: g.key, sender, epoch: epochOf(g), text });
  }

  /** The pending Commit has been accepted. */
  private merge(g: Group, pending: PendingCommit): void {
    g.state = pending.next;
    g.pending = undefined;
    pending.accepted = true;
    this.entered(g, g.migration?.target);
  }

  /** The group is in its next epoch, and at the target if a migration Commit led there. */
  private entered(g: Group, target: string | undefined): void {
    if (g.state.groupActiveState.kind === "removedFromGroup") {
      this.world.emit({ event: "removed", group: g.key, epoch: epochOf(g) });
      return;
    }
    this.world.emit({ event: "epoch", group: g.key, epoch: epochOf(g) });
    if (target === undefined || target === g.ds) return;
    g.ds = target;
    g.term += 1;
    g.next = 1;
    this.world.emit({ event: "moved", group: g.key, ds: target, term: g.term });
  }

  /**
   * Goes to the target by the source's confirmation, reading the last of the old term there (profile, section 6, "What members
   * do"). False when it is no evidence for this group's next step or the target cannot help.
   */
  private async followEvidence(g: Group, moved: MovedInfo): Promise<boolean> {
    const { term, pending } = g;
    const evidence = await this.confirmationOf(g, moved);
    if (evidence === undefined) return false;
    if (pending !== undefined && g.migration !== undefined && same(evidence.response, g.migration.response)) {
      this.merge(g, pending);
      this.save();
      return true;
    }
    const target = this.ds(moved.delivery_service);
    for (let from = 1, end = false; !end && g.term === term; ) {
      const page = await target.messages(g.key, term, from);
      for (const m of page.messages ?? []) {
        if (g.term === term && m.message !== undefined && m.kind !== "welcome") await this.process(g, fromBase64(m.message), m.sender);
      }
      ({ next: from, end } = page);
    }
    this.save();
    return g.term !== term;
  }

  /** The evidence for a step from the current Delivery Service, when it verifies. */
  private async confirmationOf(g: Group, moved: MovedInfo): Promise<{ response: Uint8Array } | undefined> {
    if (moved.term !== g.term + 1) return undefined;
    const response = fromBase64(moved.migration_response);
    const target = moved.delivery_service;
    const genuine = await this.confirms(response, { message: moved.migration_confirmation, key_id: moved.key_id }, g, g.ds, target);
    return genuine ? { response } : undefined;
  }

  /** Whether a MigrationConfirmation is the source's, for the offer in a MigrationResponse, of this group and target. */
  private async confirms(response: Uint8Array, signed: Signed, g: Group, source: string, target: string): Promise<boolean> {
    const { migrationRequest: request, nonce } = decode(wire.migrationResponse, response);
    const confirmation = decode(wire.migrationConfirmation, fromBase64(signed.message));
    const matches = request.sourceDomainName === source && request.targetDomainName === target && confirmation.domainName === target &&
      same(request.groupId, g.id) && same(confirmation.groupId, g.id) && same(confirmation.nonce, nonce);
    return matches && this.signedBy(source, signed.key_id, wire.migrationConfirmation, confirmation);
  }

  private signedBy<T>(server: string, keyId: string, codec: wire.SignedCodec<T>, message: T & wire.Signature): Promise<boolean> {
    return this.matrix.verifyServer(server, keyId, wire.serverSigned(codec, message), message.signature, this.world.now());
  }

  /** Moves the group to another Delivery Service (profile, section 6). */
  async migrate(g: Group, target: string): Promise<MigrationOutcome> {
    for (let races = 0; races < MAX_RACES; races++) {
      const begun = await this.exclusive(() => this.beginMigration(g, target));
      try {
        await this.patiently(() => this.ds(begun.source).initMigration(begun.id, begun.init, begun.keyId, begun.submission));
      } catch (e) {
        // Without an answer the Init may have been taken: only signed words or the log end the attempt.
        if (isFinal(e)) await this.exclusive(() => this.abandonMigration(g, e));
        if (refused(e, WRONG_EPOCH)) continue;
        if (isFinal(e)) throw e;
      }
      return this.finishMigration(g);
    }
    throw new Error("other members' Commits kept coming first");
  }

  /** Gets the target's offer and makes the migration Commit and the MigrationInit for it. */
  private async beginMigration(g: Group, target: string) {
    if (g.migration !== undefined) throw new Error("a migration of this client is under way");
    await this.catchUp(g);
    if (g.pending !== undefined) await this.submitPending(g, g.pending);
    if (mls.removalPending(g.state)) throw new Error("this device is about to be removed: it cannot migrate");
    const { ds: source, state } = g;
    const request = { sourceDomainName: source, targetDomainName: target, groupId: g.id, epoch: state.groupContext.epoch };
    const offer = await this.ds(target).requestMigration(toBase64(encode(wire.migrationRequest, request)), g.roomId);
    const encoded = fromBase64(offer.migration_response);
    const response = decode(wire.migrationResponse, encoded);
    const asked = same(encode(wire.migrationRequest, response.migrationRequest), encode(wire.migrationRequest, request));
    if (!asked || !(await this.signedBy(target, offer.key_id, wire.migrationResponse, response)))
      throw new Error("the offer is not the target's, or not for this request");

    const swap = mls.swapExternalSender(state, source, target, externalSender(offer.external_sender));
    const proposals = [...mls.pendingProposals(state, mls.isExternalRemove), ...(swap === undefined ? [] : [mls.byValue(swap)])];
    const pending = await mls.commit(state, proposals, encode(wire.migrationCommitAAD, { targetDsDomain: target }));
    const signature = await mls.sign(state, "MigrationInitTBS", encode(wire.migrationInit.unsigned, { migrationResponse: response }));
    const init = toBase64(encode(wire.migrationInit, { migrationResponse: response, signature }));
    g.pending = pending;
    g.migration = { id: wire.migrationId(response), source, target, response: encoded, keyId: offer.key_id };
    this.save();
    return { ...g.migration, init, submission: submission(pending) };
  }

  /** The Init was refused: neither the Commit nor the offer is used up (profile, section 5). */
  private async abandonMigration(g: Group, e: MatrixError): Promise<void> {
    g.migration = undefined;
    g.pending = undefined;
    this.save();
    if (refused(e, WRONG_EPOCH) || refused(e, MOVED)) await this.catchUp(g, e.body.moved as MovedInfo | undefined);
  }

  /** Waits for the end of this client's migration; also after a restart. */
  async finishMigration(g: Group): Promise<MigrationOutcome> {
    for (;;) {
      const outcome = await this.patiently(() => this.exclusive(() => this.settleMigration(g)));
      if (outcome !== undefined) return outcome;
      await this.world.pause(POLL_PAUSE);
    }
  }

  /** Asks how the migration stands and does what follows from signed answers alone. Undefined while it is undecided. */
  private async settleMigration(g: Group): Promise<MigrationOutcome | undefined> {
    const { migration } = g;
    if (migration === undefined) throw new Error("no migration of this client is under way");
    const status = await this.migrationStatus(migration);
    const decided = await this.confirmed(g, migration, status);
    if (g.pending !== undefined && decided === undefined) {
      if (!(await this.aborted(migration, status))) return undefined;
      this.endMigration(g);
      return { state: "aborted", reason: status.reason ?? "" };
    }
    if (g.pending !== undefined) await this.catchUp(g).catch(() => undefined); // the source may be gone by now
    if (g.pending !== undefined) this.merge(g, g.pending);
    if (g.ds !== migration.target) {
      this.endMigration(g);
      return { state: "overtaken", reason: "another Commit came first" };
    }
    if (decided === undefined) return undefined;
    await this.ds(migration.target).confirmMigration(migration.id, decided);
    this.endMigration(g);
    await this.catchUp(g);
    return { state: "moved", ds: g.ds, term: g.term };
  }

  private endMigration(g: Group): void {
    if (g.migration !== undefined && g.ds === g.migration.source) g.pending = undefined;
    g.migration = undefined;
    this.save();
  }

  /** What the source says, or the target when the source is silent. */
  migrationStatus(m: OwnMigration): Promise<MigrationStatus> {
    return this.ds(m.source).migration(m.id).catch(() => this.ds(m.target).migration(m.id));
  }

  private async confirmed(g: Group, m: OwnMigration, { migration_confirmation: signed }: MigrationStatus): Promise<Signed | undefined> {
    return signed !== undefined && (await this.confirms(m.response, signed, g, m.source, m.target)) ? signed : undefined;
  }

  private async aborted(m: OwnMigration, { migration_abort: signed }: MigrationStatus): Promise<boolean> {
    if (signed === undefined) return false;
    const abort = decode(wire.migrationAbort, fromBase64(signed.message));
    const matches = toBase64url(abort.migrationId) === m.id && abort.sourceDomain === m.source;
    return matches && this.signedBy(m.source, signed.key_id, wire.migrationAbort, abort);
  }

  /** Asks the source to give up this client's migration; how it ended is for finishMigration to tell. */
  abortMigration(g: Group): Promise<MigrationStatus> {
    if (g.migration === undefined) throw new Error("no migration of this client is under way");
    return this.ds(g.migration.source).abortMigration(g.migration.id);
  }

  /** Follows /sync until the signal ends it. After a start every group is brought up to date from its log. */
  async run(signal: AbortSignal): Promise<void> {
    for (const g of this.stored.groups.values()) g.behind = true;
    await this.exclusive(() => this.catchUpAll());
    while (!signal.aborted) {
      try {
        const result = await this.matrix.sync(this.stored.since, SYNC_WAIT, signal);
        await this.exclusive(() => this.synced(result));
      } catch (e) {
        if (signal.aborted) return;
        if (e instanceof MatrixError && isFinal(e)) throw e;
        await this.world.pause(POLL_PAUSE);
      }
    }
  }

  /** Reads a group's log to its end. */
  bringUpToDate(g: Group): Promise<void> {
    return this.exclusive(() => this.catchUp(g));
  }

  private async catchUpAll(): Promise<void> {
    for (const g of this.stored.groups.values()) {
      if (g.behind) await this.catchUp(g).catch((e) => this.failed(g.key, e));
    }
  }

  /** Handles what one /sync brought. The token is kept only after that, so nothing is lost by a crash in between. */
  async synced(result: SyncResult): Promise<void> {
    const invitations = this.stored.invitations.splice(0);
    for (const { server, fanOut } of invitations) await this.welcomed(server, fanOut);
    for (const event of result.toDevice) {
      if (event.type === FAN_OUT) await this.fannedOut(event).catch((e) => this.failed(String(event.content?.group_id), e));
    }
    for (const { roomId, content } of result.pointers) await this.pointedTo(roomId, content);
    await this.catchUpAll();
    this.stored.since = result.next;
    this.save();
  }

  private failed(group: string, e: unknown): void {
    this.world.emit({ event: "failed", group, reason: String(e) });
  }

  private ignored(group: string, from: string, reason: string): void {
    this.world.emit({ event: "ignored", group, from, reason });
  }

  /** One to-device event. Only the reserved user of the current Delivery Service is heard (profile, section 7). */
  private async fannedOut({ sender, content }: MatrixEvent): Promise<void> {
    const fanOut = content as FanOut;
    const key = toBase64url(fromBase64(fanOut.group_id));
    const g = this.stored.groups.get(key);
    const server = sender.startsWith(RESERVED_USER) ? sender.slice(RESERVED_USER.length) : undefined;
    const ignore = (reason: string) => this.ignored(key, sender, reason);
    if (server === undefined) return ignore("not from a Delivery Service");
    if (fanOut.kind === "welcome" && (g === undefined || isOut(g))) return this.welcomed(server, fanOut);
    if (g === undefined) return ignore("no such group");
    if (server === g.ds && fanOut.term === g.term) return this.arrived(g, fanOut);
    if (fanOut.term <= g.term || g.held.length >= MAX_HELD) return ignore("not from the current Delivery Service");
    g.held.push({ server, fanOut });
    ignore("not yet the current Delivery Service");
    await this.catchUp(g); // perhaps the migration Commit is only late
    await this.released(g);
  }

  private async arrived(g: Group, fanOut: FanOut): Promise<void> {
    if (fanOut.seq < g.next) return;
    if (fanOut.seq > g.next || fanOut.message === undefined) await this.catchUp(g);
    else await this.handle(g, fanOut);
    await this.released(g);
  }

  /** Handles what was held back from the Delivery Service that is now the current one. */
  private async released(g: Group): Promise<void> {
    const held = g.held.filter(({ server, fanOut }) => server === g.ds && fanOut.term === g.term);
    g.held = g.held.filter(({ fanOut }) => fanOut.term > g.term);
    for (const { fanOut } of held.sort((a, b) => a.fanOut.seq - b.fanOut.seq)) await this.arrived(g, fanOut);
  }

  /** The room's pointer is a hint: its evidence must verify, and only the next step counts. */
  private async pointedTo(roomId: string, content: any): Promise<void> {
    const { evidence } = content ?? {};
    if (typeof evidence !== "object" || evidence === null) return;
    const moved: MovedInfo = { delivery_service: content.via, term: content.term, key_id: evidence.confirmation_key_id,
      migration_response: evidence.migration_response, migration_confirmation: evidence.migration_confirmation };
    for (const g of this.stored.groups.values()) {
      if (g.roomId !== roomId || moved.term !== g.term + 1 || isOut(g)) continue;
      await this.catchUp(g, moved).then(() => this.released(g)).catch((e) => this.failed(g.key, e));
    }
  }

  /** A Welcome. It is kept for later when the room does not name the group yet: state may travel slower. */
  private async welcomed(server: string, fanOut: FanOut): Promise<void> {
    const key = toBase64url(fromBase64(fanOut.group_id));
    try {
      if (await this.isHostOf(server, fanOut)) await this.join(server, key, fanOut);
      else if (this.stored.invitations.length < MAX_HELD) this.stored.invitations.push({ server, fanOut });
    } catch (e) {
      this.failed(key, e);
    }
  }

  /** Whether the room names the group, and the server as its Delivery Service (profile, section 7). */
  private async isHostOf(server: string, f: FanOut): Promise<boolean> {
    const binding = await this.matrix.roomState(f.room_id, "io.github.mimiport.group");
    if (binding?.room_id !== f.room_id || binding.group_id !== f.group_id) return false;
    const pointer = await this.matrix.roomState(f.room_id, POINTER);
    const named = pointer?.via ?? binding.creating_server;
    if (named === server) return true;
    const host = await this.ds(named).host(toBase64url(fromBase64(f.group_id)));
    return host.delivery_service === server;
  }

  private async join(server: string, key: string, f: FanOut): Promise<void> {
    const message = f.message ?? (await this.ds(server).messages(key, f.term, f.seq)).messages?.find((m) => m.seq === f.seq)?.message;
    const welcome = fromBase64(message ?? "");
    const ref = mls.welcomeRefs(welcome).map(toBase64url).find((r) => this.stored.keyPackages.has(r));
    if (ref === undefined) return this.ignored(key, server, "the Welcome is for no KeyPackage of this device");
    const state = await mls.join(welcome, this.stored.keyPackages.get(ref)!, () => this.ds(server).tree(key, BigInt(f.epoch)));
    if (toBase64url(state.groupContext.groupId) !== key) return this.failed(key, "the Welcome is for another group");
    const g: Group = { id: state.groupContext.groupId, key, roomId: f.room_id, ds: server, term: f.term, next: f.seq + 1, state, sent: new Set(), held: [] };
    this.stored.groups.set(key, g);
    this.stored.keyPackages.delete(ref);
    this.save();
    this.world.emit({ event: "joined", group: key, epoch: epochOf(g) });
    await this.catchUp(g);
  }
}
