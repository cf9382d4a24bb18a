// The client: the operations on groups, and the loop that follows them.
import type { ClientState, ExternalSender, ProposalOrRef } from "ts-mls";
import { decodeExternalSender } from "ts-mls";
import { Announcer, requireOwnId } from "./announce.js";
import { randomBytes, same } from "./bytes.js";
import { MimiportError } from "./errors.js";
import {
  CLOSED,
  DeliveryService,
  IN_PROGRESS,
  MOVED,
  type MigrationStatus,
  type MovedInfo,
  OFFER_EXPIRED,
} from "./ds.js";
import { PROTOCOL, refused, STOPPED, type Submission, submission, UNKNOWN_MIGRATION, WRONG_EPOCH } from "./ds.js";
import { Direct } from "./direct.js";
import {
  type DeviceKeys,
  isCrossSigned,
  joinable,
  KEY_PACKAGE,
  NOT_PUBLISHED,
  OddKeyPackage,
  oneTimeKey,
  signDeviceKeys,
  type Verification,
  verifyOneTimeKey,
  wasCrossSigned,
  withMlsKey,
} from "./devices.js";
import {
  checkId,
  epochOf,
  type Group,
  newGroup,
  type Outgoing,
  type OwnMigration,
  ownIdentity,
  reasonOf,
  type PendingCommit,
  type Position,
  seconds,
  stateOf,
  type Step,
  type Stored,
  type Surroundings,
} from "./group.js";
import { Inbox, MAX_RACES, messageHash } from "./inbox.js";
import { Lanes } from "./lanes.js";
import { orAborted } from "./store.js";
import { type Matrix, MatrixError, MOVE_REQUEST, serverOf, SUCCESSORS, Unreachable } from "./matrix.js";
import * as mls from "./mls.js";
import { isForgotten, known } from "./receipts.js";
import { type Host, MoveRequests } from "./requests.js";
import { successorsOf } from "./successors.js";
import { Chosen } from "./route.js";
import type { News } from "./transport.js";
import * as wire from "./wire.js";
import { decode, encode, fromBase64, fromBase64url, toBase64, toBase64url } from "./wire.js";

/** How often a request is repeated while a server fails. The pauses start at RETRY_PAUSE milliseconds and double. */
const MAX_RETRIES = 6;
const RETRY_PAUSE = 200;
/** How long a request waits for a migration under way, in milliseconds: longer than any freeze (profile, section 6). */
const MAX_FROZEN = 11 * 60_000;
const POLL_PAUSE = 500;
/** How many KeyPackages of last resort are kept: a Welcome for the former one may arrive late. */
const LAST_RESORTS = 2;
/** After how many seconds of its lifetime it is renewed in any case. */
const RENEW_AFTER = 7n * 24n * 3600n;
/** For how many devices one request may claim such KeyPackages. */
const MAX_CLAIMED = 128;
/** How long one /sync waits for news, in milliseconds. */
const SYNC_WAIT = 20_000;

/** How many messages of a group may wait to be sent. */
const MAX_OUTBOX = 256;

/** How to send: see Client.send. */
export interface SendOptions {
  txnId?: string;
  signal?: AbortSignal;
}

/** How a migration of this client ended; "overtaken" means by a Commit of another member in the same epoch. */
export type Outcome = { state: "moved"; to: string; term: number } | { state: "aborted" | "overtaken"; reason: string };

/** The state of a group without its secrets, for the operator of a server that is to recover it; base64. */
export interface RecoveryData {
  protocol: string;
  group_info: string;
  ratchet_tree: string;
  lineage: string;
}

/**
 * The Delivery Service has forgotten Commits that it accepted, as after a restore from a backup. Its operator must act.
 */
export class Behind extends MimiportError {
  override name = "Behind";

  constructor(message: string) {
    super("BEHIND", message);
  }
}

/** The Delivery Service has accepted two Commits in one epoch. Its operator must act. */
export class Forked extends MimiportError {
  override name = "Forked";

  constructor(message: string) {
    super("FORKED", message);
  }
}

/** The group is busy: nothing is wrong, and the same call may succeed later. */
const busy = () => new MimiportError("BUSY", "other members' Commits kept coming first", true);

/**
 * The longest time that a request waits when a server asks it to, in milliseconds. For a longer time, the application
 * must wait.
 */
const LONGEST_WAIT = 30_000;

/** A call of send: the message for which it waits, and why that was refused for good. */
interface Caller {
  readonly group: Group;
  readonly txnId: string;
  refusal?: MimiportError;
}

/** Whether a refusal names a time to try again that is short enough for a request to wait. */
const worthWaiting = (e: MatrixError) =>
  e.body.retry_after_ms !== undefined && Number(e.body.retry_after_ms) <= LONGEST_WAIT;

/**
 * A final refusal: not a fault of the server, and without a time soon to try again. To repeat the request is useless.
 */
const isFinal = (e: unknown): e is MatrixError | Behind | Forked =>
  e instanceof Behind ||
  e instanceof Forked ||
  (e instanceof MatrixError && e.status < 500 && !worthWaiting(e) && !refused(e, IN_PROGRESS));

/** Whether another program has yet to publish the device's keys. */
const isNotPublished = (e: unknown) => e instanceof MimiportError && e.code === NOT_PUBLISHED;

/** Passes over the refusal of a homeserver whose module is of an earlier version. */
const unlessLacking = (e: unknown) => {
  if (!(e instanceof MatrixError && e.status === 404)) throw e;
};

/** Passes over an error that may be gone later. */
export const unlessRetryable = (e: unknown) => {
  if (!(e instanceof MimiportError && e.retryable)) throw e;
};

/** The name of data that the application has not named. */
const newTxnId = () => toBase64url(randomBytes(16));

/** The place of data that was accepted. */
const answerTo = ({ answered }: Group, txnId: string) => answered.find((a) => a.txnId === txnId)?.at;

/** The redirect in a refusal. */
const redirectOf = (e: MatrixError) => e.body.moved as MovedInfo | undefined;

const externalSender = (encoded: Uint8Array): ExternalSender | undefined => decodeExternalSender(encoded, 0)?.[0];

/** Fails if the group has two branches: a message to one of them could be lost. */
function requireOneBranch({ fork, ds }: Group): void {
  if (fork !== undefined) throw new Forked(`${ds} has signed for two Commits in one epoch`);
}

/**
 * Fails if a pending proposal removes this device. The proposal must be committed first (RFC 9420, section 12.4), and
 * this device cannot commit it.
 */
function requireStaying({ state }: Group): void {
  if (mls.removalPending(state)) throw new MimiportError("LEAVING", "this device is about to be removed");
}

export class Client {
  private readonly route: Chosen;
  private readonly announcer: Announcer;
  private readonly inbox: Inbox;
  private readonly requests: MoveRequests;
  private readonly lanes = new Lanes((key) => this.keep(key));
  /** The calls of send that wait. */
  private readonly callers = new Set<Caller>();
  /** The last send of each group, by its id. */
  private readonly sending = new Map<string, Promise<void>>();
  /** The state of each group that the application has been told, and the reason, by the group's id. */
  private readonly states = new Map<string, string>();
  /** The end of each group's latest migration of this client, by the group's id. */
  private readonly finishing = new Map<string, Promise<Outcome>>();

  /** How many KeyPackages the homeserver has, as far as is known. */
  private left = Infinity;

  /** The KeyPackage of last resort that the homeserver has not taken yet. */
  private lastResort: { ref: Uint8Array; value: unknown } | undefined;

  constructor(
    readonly matrix: Matrix,
    readonly stored: Stored,
    private readonly world: Surroundings,
  ) {
    const direct = new Direct(() => ownIdentity(stored), world.now);
    this.route = new Chosen(matrix, direct);
    this.announcer = new Announcer(matrix);
    this.inbox = new Inbox(matrix, this.route, stored, world, this.lanes);
    this.requests = new MoveRequests(matrix, this.inbox, world, {
      group: (key) => stored.groups.get(key),
      bringUpToDate: (g) => this.bringUpToDate(g),
      migrate: (g, target, from) => this.migrate(g, target, from),
    });
  }

  /** The name of the own homeserver. */
  get homeServer(): string {
    return serverOf(this.matrix.transport.userId);
  }

  /** The group with this id in base64url; without one, the only group there is. */
  group(key?: string): Group {
    const { groups } = this.stored;
    const only = groups.size === 1 ? [...groups.values()][0] : undefined;
    const g = key === undefined ? only : groups.get(key);
    if (g === undefined)
      throw new MimiportError("NO_GROUP", key === undefined ? `${groups.size} groups: name one` : `no group ${key}`);
    return g;
  }

  /** A Delivery Service, by the route that this device uses. */
  ds(server: string): DeliveryService {
    return new DeliveryService(this.route, server);
  }

  /** Runs one step of a group at a time, so that a step's view of the group stays true until the step ends. */
  private exclusive<T>({ key }: Pick<Group, "key">, step: () => Promise<T>): Promise<T> {
    return this.lanes.run(key, step);
  }

  /** Keeps what a step has changed. An event says if the group's state is another. */
  private async keep(key: string): Promise<void> {
    const g = this.stored.groups.get(key);
    const [state, reason] = g === undefined ? ["active" as const] : [stateOf(g), reasonOf(g)];
    const told = [state, reason].join(" ").trim();
    if (told !== (this.states.get(key) ?? "active"))
      this.world.emit({ event: "state", group: key, state, ...(reason && { reason }) });
    this.states.set(key, told);
    await (g === undefined ? this.world.save() : this.world.save(g));
  }

  /** Repeats a request while a migration is under way, and a few times while a server fails. */
  private async patiently<T>(request: () => Promise<T>): Promise<T> {
    const until = this.world.now() + MAX_FROZEN;
    for (let failures = 0; ; ) {
      try {
        return await request();
      } catch (e) {
        if (isFinal(e) || !(e instanceof MatrixError || e instanceof Unreachable || isNotPublished(e))) throw e;
        const frozen = refused(e, IN_PROGRESS);
        if (frozen ? this.world.now() > until : ++failures > MAX_RETRIES) throw e;
        const asked = e instanceof MatrixError ? Number(e.body.retry_after_ms) || 0 : 0;
        await this.world.pause(Math.max(Math.min(asked, LONGEST_WAIT), RETRY_PAUSE * 2 ** failures));
      }
    }
  }

  /** The device's signature key for a cipher suite, made the first time. The suites 1 and 3 share it. */
  async createIdentity(suite: number): Promise<mls.Identity> {
    const { identity } = this.stored;
    if (identity?.suite !== suite) {
      this.stored.identity = identity ? { ...identity, suite } : await mls.newIdentity(this.matrix.transport, suite);
      await this.world.save();
    }
    return ownIdentity(this.stored);
  }

  /** Publishes the device, once another program has published the keys that it has for the device. */
  private publishInTime(): Promise<void> {
    return this.patiently(() => this.publishDevice());
  }

  /** Publishes the device's signature key in its Matrix device keys, beside what is there (profile, section 12). */
  private async publishDevice(): Promise<void> {
    const identity = ownIdentity(this.stored);
    const { userId, deviceId } = identity;
    const published = await this.matrix.queryKeys([userId]);
    const keys = withMlsKey(identity, published.device_keys?.[userId]?.[deviceId]);
    if (keys !== undefined) await this.uploadDeviceKeys(keys);
    if (!wasCrossSigned(identity, published)) return;
    if (keys !== undefined || !(await isCrossSigned(identity, published)))
      await this.matrix.transport.crossSign?.().catch(() => undefined); // the next call tries again
  }

  private async uploadDeviceKeys(keys: DeviceKeys): Promise<void> {
    const { suite } = ownIdentity(this.stored);
    this.stored.deviceKey ??= await (await mls.cipherSuite(suite)).signature.keygen();
    await this.world.save();
    await this.matrix.uploadDeviceKeys(await signDeviceKeys(keys, this.stored.deviceKey, this.matrix.transport));
  }

  /**
   * Makes n KeyPackages and publishes them as Matrix one-time keys, with one more of last resort. It also publishes the
   * device so that others find it.
   */
  async publishKeyPackages(n: number): Promise<void> {
    await this.publishDevice();
    const published = [];
    for (let i = 0; i < n; i++) published.push(await this.newKeyPackage(false));
    await this.world.save();
    await this.matrix.uploadKeyPackages("one_time_keys", published);
    await this.publishLastResort();
  }

  /**
   * Publishes the KeyPackage that is given out when the others are used up. The one before it is kept, too. Until the
   * homeserver has taken one, the same is sent, and those before it are kept: it gives one of them out.
   */
  private async publishLastResort(): Promise<void> {
    const { lastResorts, keyPackages } = this.stored;
    if (this.lastResort === undefined) {
      this.lastResort = await this.newKeyPackage(true);
      lastResorts.push(toBase64url(this.lastResort.ref));
      await this.world.save();
    }
    const { value } = this.lastResort;
    await this.matrix.uploadKeyPackages("fallback_keys", [this.lastResort]);
    if (await this.route.forwards()) await this.ds(this.homeServer).putLastResort(value).catch(unlessLacking);
    this.lastResort = undefined;
    for (const ref of lastResorts.splice(0, lastResorts.length - LAST_RESORTS)) keyPackages.delete(ref);
    await this.world.save();
  }

  /** Whether the device published its KeyPackage of last resort so long ago that it renews it, used or not. */
  private lastResortIsOld(): boolean {
    const { lastResorts, keyPackages } = this.stored;
    const leaf = keyPackages.get(lastResorts.at(-1) ?? "")?.publicPackage.leafNode;
    return leaf?.leafNodeSource === "key_package" && seconds(this.world) - leaf.lifetime.notBefore > RENEW_AFTER;
  }

  /** Claims KeyPackages of last resort at the module of a user's homeserver. */
  private async lastResorts(userId: string, devices: string[]): Promise<{ deviceId: string; value: unknown }[]> {
    if (devices.length === 0) return [];
    const found = await this.ds(serverOf(userId))
      .claimLastResorts(userId, devices.slice(0, MAX_CLAIMED))
      .catch((e) => {
        if (!(e instanceof MatrixError || e instanceof Unreachable)) throw e;
        return {}; // many homeservers have no module
      });
    return Object.entries(found).map(([deviceId, value]) => ({ deviceId, value }));
  }

  /** A new KeyPackage of the device, in its published form. */
  private async newKeyPackage(fallback: boolean) {
    const identity = ownIdentity(this.stored);
    const own = await mls.newKeyPackage(identity, seconds(this.world));
    const ref = await mls.keyPackageRef(own.publicPackage);
    this.stored.keyPackages.set(toBase64url(ref), own);
    return { ref, value: await oneTimeKey(identity, mls.encodeKeyPackage(own.publicPackage), fallback) };
  }

  /**
   * Creates the group of a room at a Delivery Service: reserves an id, creates the group, binds it and announces it.
   */
  async createGroup(roomId: string, server: string): Promise<Group> {
    const identity = ownIdentity(this.stored);
    await this.publishInTime();
    await this.announcer.requireAnnouncer(roomId);
    const reserved = await this.ds(server).reserve(roomId, identity.suite);
    requireOwnId(reserved.group_id, reserved.preimage, server, roomId);
    const id = fromBase64url(reserved.group_id);
    const sender =
      reserved.external_sender === undefined ? undefined : externalSender(fromBase64(reserved.external_sender));
    const state = await mls.newGroup(identity, id, sender, seconds(this.world));
    const g = newGroup(roomId, server, { term: 0, seq: 0 }, state);
    const groupInfo = toBase64(await mls.groupInfo(state));
    const tree = toBase64(mls.ratchetTree(state));
    const { warnings = [] } = await this.patiently(() => this.ds(server).bind(g.key, groupInfo, tree));
    await this.patiently(() => this.announcer.announceGroup(g, reserved.preimage));
    this.stored.groups.set(g.key, g);
    for (const warning of warnings) this.world.emit({ event: "warning", group: g.key, warning });
    await this.world.save(g);
    return g;
  }

  /**
   * Enters a room's group by an external Commit (RFC 9420, section 12.4.3.2). The device is new, or has lost its state.
   * A signal ends this until the Commit is sent.
   */
  async rejoin(roomId: string, signal?: AbortSignal): Promise<Group> {
    await this.publishInTime();
    return this.patiently(async () => {
      const { key, server } = await this.inbox.hostOf(roomId);
      return this.exclusive({ key }, () => this.inbox.enterAnew(key, roomId, server, signal));
    });
  }

  /**
   * Adds all devices of a user that have published KeyPackages and are not members yet. It leaves a device out, with an
   * event, if the device did not sign its KeyPackage or the group cannot take it.
   */
  async add(g: Group, userId: string): Promise<void> {
    const published = await this.matrix.queryKeys([userId]);
    const joining = joinable(userId, published);
    const claimed = await this.matrix.claimKeyPackages(userId, joining);
    const without = joining.filter((id) => !claimed.some(({ deviceId }) => deviceId === id));
    claimed.push(...(await this.lastResorts(userId, without)));
    const missing = (state: ClientState, deviceId: string) =>
      !mls.members(state).some((m) => m.userId === userId && m.deviceId === deviceId);
    const devices: { deviceId: string; add: ProposalOrRef }[] = [];
    for (const { deviceId, value } of claimed) {
      try {
        const keyPackage = await verifyOneTimeKey({ userId, deviceId }, value, published, mls.suiteId(g.state));
        const add = mls.byValue({ proposalType: "add", add: { keyPackage } });
        if (missing(g.state, deviceId) && !(await mls.isCommittable(g.state, [add])))
          throw new OddKeyPackage("the group cannot take the KeyPackage");
        devices.push({ deviceId, add });
      } catch (e) {
        if (!(e instanceof OddKeyPackage)) throw e;
        this.world.emit({ event: "skipped", group: g.key, user: userId, device: deviceId, reason: e.message });
      }
    }
    if (devices.length === 0) throw new MimiportError("NO_KEY_PACKAGE", `${userId} has no usable KeyPackage`);
    await this.commit(g, (state) => devices.filter((d) => missing(state, d.deviceId)).map((d) => d.add));
  }

  /** The members of a group, by leaf, with the trust in each leaf: whether it belongs to the device that it names. */
  async members(g: Group): Promise<(mls.Member & { verified: Verification })[]> {
    await this.inbox.check(g);
    return mls.members(g.state).map((m) => ({ ...m, verified: g.checked.get(checkId(m)) ?? "unknown" }));
  }

  /** Removes all leaves of a user. */
  remove(g: Group, userId: string): Promise<void> {
    return this.commit(g, (state) => {
      const pending = new Set(mls.pendingRemovals(state, true));
      const leaves = mls.members(state).filter((m) => m.userId === userId && !pending.has(m.leaf));
      return leaves.map(({ leaf }) => mls.byValue({ proposalType: "remove", remove: { removed: leaf } }));
    });
  }

  /** Commits all pending proposals with a fresh path. */
  update(g: Group): Promise<void> {
    return this.commit(g, () => []);
  }

  /**
   * Asks to leave a group. The next Commit of another member removes this device. The request is a SelfRemove if all
   * members support it, else a Remove.
   */
  async leave(g: Group): Promise<void> {
    for (let races = 0; races < MAX_RACES; races++) {
      await this.exclusive(g, () => this.inbox.prove(g));
      if (mls.removalPending(g.state)) return;
      const message = toBase64(await mls.leave(g.state));
      if (await this.patiently(() => this.exclusive(g, () => this.submit(g, { message })))) return;
    }
    throw busy();
  }

  /**
   * Makes a Commit of the pending proposals and of the proposals that `propose` returns for the current state. It
   * returns when the Commit is accepted. If the Delivery Service refuses the Commit, the next one leaves out the
   * members' proposals, so that no member can block an epoch.
   */
  private async commit(g: Group, propose: (state: ClientState) => ProposalOrRef[]): Promise<void> {
    try {
      await this.commitAll(g, propose);
    } catch (e) {
      const [all, few] = [await mls.choose(g.state, []), await mls.choose(g.state, [], mls.isExternalRemove)];
      if (!(e instanceof MatrixError && isFinal(e)) || few.length === all.length) throw e;
      await this.commitAll(g, propose, mls.isExternalRemove);
    }
  }

  private async commitAll(
    g: Group,
    propose: (state: ClientState) => ProposalOrRef[],
    wanted?: Parameters<typeof mls.choose>[2],
  ): Promise<void> {
    for (let races = 0; races < MAX_RACES; races++) {
      let made = false;
      const commit = await this.exclusive(g, async () => {
        // A Commit without an answer comes first: it may have been accepted.
        if (g.pending !== undefined) return g.pending;
        await this.inbox.prove(g);
        g.pending = await mls.commit(g.state, await mls.choose(g.state, propose(g.state), wanted));
        this.inbox.made(g, g.pending);
        await this.world.save(g);
        made = true;
        return g.pending;
      });
      await this.patiently(() => this.exclusive(g, () => this.submitPending(g, commit)));
      if (made && commit.accepted) return;
    }
    throw busy();
  }

  /** Submits a pending Commit unless its epoch is over. After a final refusal the client does not send it again. */
  private async submitPending(g: Group, commit: PendingCommit): Promise<void> {
    if (g.pending !== commit) return;
    try {
      await this.submit(g, submission(commit));
    } catch (e) {
      if (isFinal(e)) this.inbox.refuse(g, commit);
      throw e; // without a final refusal it may have been accepted
    }
    if (g.pending === commit) this.inbox.endPending(g);
  }

  /**
   * Submits a message and handles the log up to it. Returns its place, undefined if the group is in another epoch or
   * has moved.
   */
  private async submit(g: Group, what: Submission): Promise<Position | undefined> {
    requireOneBranch(g);
    try {
      const { receipt, term, seq } = await this.ds(g.ds).submit(g.key, { ...what, ...known(g) });
      const onBranch = await this.inbox.accepted(g, { term, seq }, what.message, receipt);
      return onBranch ? { term, seq } : undefined;
    } catch (e) {
      if (refused(e, IN_PROGRESS)) await this.showEvidence(g);
      if (refused(e, CLOSED)) this.inbox.closed(g);
      if (refused(e, STOPPED)) g.stopped = true;
      if (refused(e, STOPPED)) this.inbox.lookSoon(g);
      if (!refused(e, WRONG_EPOCH) && !refused(e, MOVED)) throw e;
      await this.overtaken(g, e);
      return undefined;
    }
  }

  /**
   * The group is in another epoch, or has moved. Throws the refusal again if this device cannot follow. Throws a Behind
   * if the Delivery Service has lost messages that it accepted.
   */
  private async overtaken(g: Group, e: MatrixError): Promise<void> {
    const { term } = g;
    const [there, here] = [Number(e.body.epoch), epochOf(g)];
    const forgotten = isForgotten(g, there);
    await this.inbox.catchUp(g, redirectOf(e));
    if (g.term !== term) return;
    if (refused(e, MOVED)) throw e;
    if (forgotten) await this.showReceipt(g);
    if (there < here)
      throw new Behind(`the Delivery Service is behind: it is in epoch ${there}, this device in ${here}`);
  }

  /**
   * Shows a receipt to the Delivery Service, which stops if it has forgotten what it signed. Its answer to the next
   * submission then says so.
   */
  private async showReceipt(g: Group): Promise<void> {
    await this.ds(g.ds)
      .showReceipt(g.key, g.receipt!)
      .catch(() => undefined);
  }

  /** A target that has voted and has no decision may get the decision from any member (profile, section 6). */
  private async showEvidence(g: Group): Promise<void> {
    if (g.evidence === undefined) return;
    const { migration_response, migration_confirmation: message, key_id } = g.evidence;
    const id = wire.migrationId(decode(wire.migrationResponse, fromBase64(migration_response)));
    const { receipt } = g; // the one for the migration Commit, if that has one: the target passes over any other
    g.evidence = undefined;
    await this.ds(g.ds)
      .confirmMigration(id, { message, key_id, ...(receipt && { receipt }) })
      .catch(() => undefined); // the refusal says to try again
  }

  /**
   * Sends application data after all earlier data, and returns its place in the log. The client commits pending
   * proposals first (RFC 9420, section 12.4). It encrypts the data once for an epoch, keeps it, and sends the same
   * bytes until there is an answer, also after a restart.
   *
   * A txnId names the data: a second call with it sends nothing anew. After an error that is retryable, the data waits
   * in the group's outbox and is sent later. After any other error it is dropped. If the signal ends the wait, data
   * that is not encrypted yet is dropped.
   */
  async send(g: Group, content: Uint8Array, { txnId = newTxnId(), signal }: SendOptions = {}): Promise<Position> {
    const caller: Caller = { group: g, txnId };
    this.callers.add(caller);
    try {
      await this.enqueue(g, txnId, content);
      await orAborted(
        this.inTurn(g, () => this.empty(g, txnId)),
        signal,
      );
    } catch (e) {
      if (signal?.aborted) await this.dropUnsent(g, txnId);
      throw e;
    } finally {
      this.callers.delete(caller);
    }
    const at = answerTo(g, txnId);
    if (at !== undefined) return at;
    throw caller.refusal ?? new MimiportError("DROPPED", "another call with this txnId was ended by its signal");
  }

  /** Puts data into the outbox unless it waits there or is accepted. */
  private async enqueue(g: Group, txnId: string, content: Uint8Array): Promise<void> {
    if (answerTo(g, txnId) !== undefined || g.outbox.some((o) => o.txnId === txnId)) return;
    if (g.outbox.length >= MAX_OUTBOX) throw new MimiportError("QUEUE_FULL", "too many messages wait", true);
    g.outbox.push({ txnId, content: toBase64(content) });
    await this.world.save(g);
  }

  private async dropUnsent(g: Group, txnId: string): Promise<void> {
    g.outbox = g.outbox.filter((o) => o.txnId !== txnId || o.message !== undefined);
    await this.world.save(g);
  }

  /** Runs the sends of a group one after another. */
  private inTurn(g: Group, step: () => Promise<void>): Promise<void> {
    const run = (this.sending.get(g.key) ?? Promise.resolve()).then(step);
    const last = run
      .catch(() => undefined)
      .then(() => void (this.sending.get(g.key) === last && this.sending.delete(g.key)));
    this.sending.set(g.key, last);
    return run;
  }

  /**
   * Sends what is in the outbox, up to one message if that is named. The callers who wait for a message get its final
   * refusal. An event tells the refusal of a message for which no caller waits.
   */
  private async empty(g: Group, until?: string): Promise<void> {
    for (let [next] = g.outbox; next !== undefined; [next] = g.outbox) {
      if (until !== undefined && answerTo(g, until) !== undefined) return;
      const { txnId } = next;
      try {
        await this.sendOne(g, txnId);
      } catch (e) {
        if (!(e instanceof MimiportError) || e.retryable) throw e;
        g.outbox = g.outbox.filter((o) => o.txnId !== txnId);
        const callers = [...this.callers].filter((c) => c.group === g && c.txnId === txnId);
        for (const c of callers) c.refusal = e;
        if (callers.length === 0) this.world.emit({ event: "failed", group: g.key, reason: String(e) });
        await this.world.save(g);
        if (txnId === until) return;
      }
    }
  }

  /** Sends one message until it is accepted. */
  private async sendOne(g: Group, txnId: string): Promise<void> {
    for (let races = 0; ; races++) {
      const item = g.outbox.find((o) => o.txnId === txnId);
      if (item === undefined) return;
      if (races === MAX_RACES) throw busy();
      if (item.message === undefined && (await mls.choose(g.state, [])).length > 0) await this.update(g);
      await this.patiently(() => this.exclusive(g, () => this.encryptAndSubmit(g, item)));
    }
  }

  /**
   * Submits a message. The client encrypts it once for each epoch. It learns the outcome from the answer, or from the
   * log.
   */
  private async encryptAndSubmit(g: Group, item: Outgoing): Promise<void> {
    await this.inbox.prove(g);
    const waits = () => g.outbox.includes(item); // joining again replaces the items, and the log ends them
    if (waits()) await this.encrypt(g, item);
    const { message } = item;
    if (!waits() || message === undefined) return;
    const at = await this.submit(g, { message });
    if (at !== undefined) this.inbox.shown(g, message, at);
    if (!waits()) return;
    g.sent.delete(messageHash(fromBase64(message))); // it was not accepted
    item.message = undefined;
  }

  private async encrypt(g: Group, item: Outgoing): Promise<void> {
    if (item.message !== undefined) return;
    requireStaying(g);
    const { state, message } = await mls.encrypt(g.state, fromBase64(item.content));
    g.state = state;
    g.sent.add(messageHash(message));
    item.message = toBase64(message);
    await this.world.save(g);
  }

  /**
   * Moves the group to another Delivery Service (profile, section 6), or continues a migration that has begun. With
   * `from` it begins no migration from anywhere else. After the signal it begins none.
   */
  async migrate(g: Group, target: string, from?: Host, signal?: AbortSignal): Promise<Outcome> {
    let last: unknown;
    for (let races = 0; races < MAX_RACES; races++) {
      if (g.migration === undefined && !(await this.hasBegun(g, target, from, signal)))
        return { state: "aborted", reason: "it was given up before it began" };
      const { id, target: to } = g.migration!;
      try {
        const outcome = await this.finishMigration(g);
        if (to !== target) continue; // an earlier call's, which has ended
        if (outcome.state !== "overtaken") return outcome;
        last = busy();
      } catch (e) {
        if (!refused(e, WRONG_EPOCH) && !refused(e, OFFER_EXPIRED)) throw e;
        const dropped = refused(e, OFFER_EXPIRED) && (await this.droppedBy(target, id));
        if (dropped) return { state: "aborted", reason: dropped };
        last = e;
      }
    }
    throw last;
  }

  /** Begins a migration. Returns false if the signal comes first. */
  private async hasBegun(g: Group, target: string, from?: Host, signal?: AbortSignal): Promise<boolean> {
    const begun = this.patiently(() => this.exclusive(g, () => this.beginMigration(g, target, from, signal)));
    begun.catch(() => undefined); // it may fail after the signal
    try {
      await orAborted(begun, signal);
      return true;
    } catch (e) {
      if (!signal?.aborted) throw e;
      return false;
    }
  }

  /** The reason for which a target has dropped an offer, if a new offer would not help; else undefined. */
  private async droppedBy(target: string, id: string): Promise<string | undefined> {
    const there = await this.ds(target)
      .migration(id)
      .catch(() => undefined);
    return there?.state === "dropped" ? there.reason || "the target has dropped it" : undefined;
  }

  /** Makes the migration Commit and the MigrationInit for an offer of the target. */
  private async beginMigration(g: Group, target: string, from?: Host, signal?: AbortSignal): Promise<void> {
    signal?.throwIfAborted();
    await this.inbox.catchUp(g);
    if (from !== undefined && (g.ds !== from.ds || g.term !== from.term))
      throw new MimiportError("ELSEWHERE", "the group has moved meanwhile");
    requireStaying(g);
    const { ds: source, state } = g;
    const { response, migrationResponse, keyId, sender, senderOffer } = await this.offer(g, target);
    const swap = mls.swapExternalSender(state, source, target, sender);
    const own = swap === undefined ? [] : [mls.byValue(swap)];
    const proposals = await mls.choose(state, own, mls.isExternalRemove);
    const made = await mls.commit(state, proposals, encode(wire.migrationCommitAAD, { targetDsDomain: target }));
    const commit = { ...made, target };
    const tbs = encode(wire.migrationInit.unsigned, { migrationResponse });
    const signature = await mls.sign(state, "MigrationInitTBS", tbs);
    const init = toBase64(encode(wire.migrationInit, { migrationResponse, signature }));
    const id = wire.migrationId(migrationResponse);
    signal?.throwIfAborted();
    g.migration = { id, source, target, response, keyId, init, commit, ...(senderOffer && { senderOffer }) };
    this.finishing.delete(g.key);
    this.inbox.made(g, commit);
    this.stepped(g, "offered");
    await this.world.save(g);
  }

  private stepped({ key, migration }: Group, step: Step): void {
    const { id, target } = migration!;
    this.world.emit({ event: "move", group: key, migration: id, target, step });
  }

  /** Gets an offer, and checks that the target made it for the present state of the group. */
  private async offer(g: Group, target: string) {
    const { epoch } = g.state.groupContext;
    const migrationRequest = { sourceDomainName: g.ds, targetDomainName: target, groupId: g.id, epoch };
    const request = encode(wire.migrationRequest, migrationRequest);
    const offer = await this.ds(target).requestMigration(toBase64(request), g.roomId, mls.suiteId(g.state));
    const response = fromBase64(offer.migration_response);
    const migrationResponse = decode(wire.migrationResponse, response);
    const genuine =
      same(encode(wire.migrationRequest, migrationResponse.migrationRequest), request) &&
      (await this.inbox.evidence.signedBy(g, target, offer.key_id, wire.migrationResponse, migrationResponse));
    if (!genuine) throw new MimiportError("NOT_GENUINE", "the offer is not the target's, or not for this request");
    const senderOffer = offer.external_sender_offer;
    const sender = senderOffer && (await this.offeredSender(g, target, offer.key_id, migrationResponse, senderOffer));
    return { response, migrationResponse, keyId: offer.key_id, sender: sender || undefined, senderOffer };
  }

  /** The target's entry for external_senders, which the target signed for this migration. */
  private async offeredSender(
    g: Group,
    target: string,
    keyId: string,
    response: wire.MigrationResponse,
    encoded: string,
  ) {
    const offer = decode(wire.externalSenderOffer, fromBase64(encoded));
    const genuine =
      toBase64url(offer.migrationId) === wire.migrationId(response) &&
      (await this.inbox.evidence.signedBy(g, target, keyId, wire.externalSenderOffer, offer));
    if (!genuine)
      throw new MimiportError("NOT_GENUINE", "the external sender is not the target's, or not for this migration");
    return externalSender(offer.externalSender);
  }

  /** Ends the group for good, if the user may move it. After that, the room may begin its next group. */
  async close(g: Group): Promise<void> {
    await this.patiently(() => this.ds(g.ds).close(g.key));
    await this.exclusive(g, async () => this.inbox.closed(g));
  }

  /**
   * Begins the next group of a room whose group is closed, and adds that group's users. An event names the users that
   * it cannot add.
   */
  async reset(g: Group, server = g.ds): Promise<Group> {
    if (!g.closed) throw new MimiportError("INVALID", "the group is not closed");
    const { userId, deviceId } = this.matrix.transport;
    const next = await this.createGroup(g.roomId, server);
    const others = mls.members(g.state).filter((m) => m.userId !== userId || m.deviceId !== deviceId);
    for (const user of new Set(others.map((m) => m.userId)))
      await this.add(next, user).catch((e) =>
        this.world.emit({ event: "failed", group: next.key, reason: `${user} was not added: ${e}` }),
      );
    return next;
  }

  /** The group in which a group goes on; undefined if no room names one. */
  nextOf(g: Group): Promise<{ roomId: string; id: string } | undefined> {
    return this.patiently(() => this.inbox.nextOf(g));
  }

  /**
   * Brings this client's migration to its end from any state, also after a restart. All calls for one migration have
   * one outcome.
   */
  finishMigration(g: Group): Promise<Outcome> {
    const known = this.finishing.get(g.key);
    if (known !== undefined) return known;
    const outcome = this.finish(g);
    this.finishing.set(g.key, outcome);
    outcome.catch(() => this.finishing.delete(g.key)); // the next call tries again
    return outcome;
  }

  private async finish(g: Group): Promise<Outcome> {
    const { migration } = g;
    if (migration === undefined) throw new MimiportError("NO_MIGRATION", "no migration of this client is under way");
    if (migration.givenUp) void this.askToAbort(g, migration).catch(() => undefined); // in an earlier run
    while (!migration.over || migration.commit.accepted) {
      const status = await this.patiently(() => this.initOrStatus(g, migration));
      if (status === undefined) return this.exclusive(g, async () => this.abandon(g, migration));
      const outcome = await this.patiently(() => this.exclusive(g, () => this.settle(g, migration, status)));
      if (outcome !== undefined) return outcome;
      await this.world.pause(POLL_PAUSE);
    }
    return this.exclusive(g, async () => this.end(g, { state: "overtaken", reason: "another Commit came first" }));
  }

  /**
   * The status of a migration. The source gets the Init if it does not know the migration. If it does not answer, the
   * client asks the target. Undefined if the source does not know a migration that the user has given up.
   */
  private async initOrStatus(g: Group, m: OwnMigration): Promise<MigrationStatus | undefined> {
    try {
      return await this.ds(m.source).migration(m.id);
    } catch (e) {
      if (!refused(e, UNKNOWN_MIGRATION) || m.over) return this.ds(m.target).migration(m.id);
    }
    if (m.givenUp) return undefined;
    try {
      requireOneBranch(g);
      const status = await this.ds(m.source).initMigration(m.id, {
        migration_init: m.init,
        key_id: m.keyId,
        ...(m.senderOffer && { external_sender_offer: m.senderOffer }),
        ...submission(m.commit),
        ...known(g),
      });
      if (g.migration === m) this.stepped(g, "sent");
      return status;
    } catch (e) {
      if (isFinal(e)) await this.exclusive(g, () => this.initRefused(g, m, e));
      throw e;
    }
  }

  /** Ends the attempt. A refused Init uses up neither the epoch nor the offer (profile, section 5). */
  private async initRefused(g: Group, m: OwnMigration, e: Error): Promise<void> {
    this.inbox.refuse(g, m.commit);
    if (refused(e, WRONG_EPOCH) || refused(e, MOVED)) await this.overtaken(g, e);
  }

  /** Acts on a status, of which only the signed parts count. Undefined while the migration is undecided. */
  private async settle(g: Group, m: OwnMigration, status: MigrationStatus): Promise<Outcome | undefined> {
    const { migration_confirmation: confirmation, migration_abort: abort, reason = "" } = status;
    const decided = confirmation !== undefined && (await this.inbox.evidence.confirms(g, m, confirmation));
    if (!decided) {
      const aborted = !m.over && abort !== undefined && (await this.inbox.evidence.aborts(g, m, abort));
      return aborted ? this.end(g, { state: "aborted", reason }) : undefined;
    }
    if (!m.over) await this.inbox.catchUp(g).catch(() => undefined); // for earlier messages; the source may be gone
    if (g.migration === m && !m.decided) this.stepped(g, "decided");
    m.decided = true;
    const proof: MovedInfo = {
      ...{ delivery_service: m.target, term: g.term + 1, migration_response: toBase64(m.response) },
      ...{ migration_confirmation: confirmation.message, key_id: confirmation.key_id },
    };
    if (!m.over) this.inbox.merge(g, m.commit, undefined, proof);
    if (!m.commit.accepted) return undefined; // the source also accepted another Commit
    const { receipt } = status;
    await this.ds(m.target).confirmMigration(m.id, { ...confirmation, ...(receipt && { receipt }) });
    await this.announcer.announceMove(g, m, confirmation).catch(() => undefined); // some members may not do this
    await this.inbox.catchUp(g);
    return this.end(g, { state: "moved", to: m.target, term: g.term });
  }

  /** Ends a migration that the source does not know. A late copy of its Commit may still be accepted. */
  private abandon(g: Group, { commit }: OwnMigration): Outcome {
    if (g.migration?.commit === commit) this.stepped(g, "aborted");
    this.inbox.refuse(g, commit);
    return { state: "aborted", reason: "it was given up before the source had it" };
  }

  private end(g: Group, outcome: Outcome): Outcome {
    if (g.migration !== undefined) this.stepped(g, outcome.state);
    this.forget(g);
    return outcome;
  }

  private forget(g: Group): void {
    this.inbox.endMigrationCommit(g);
    g.migration = undefined;
  }

  /**
   * Gives this client's migration up, if one is under way. It asks the source until that one answers. finishMigration
   * returns the outcome, which may be another.
   */
  async abortMigration(g: Group): Promise<void> {
    const { migration } = g;
    if (migration === undefined) return;
    migration.givenUp = true;
    await this.world.save(g);
    await this.askToAbort(g, migration);
  }

  /** Asks the source to abort a migration until that one answers. The Init may still be on its way. */
  private async askToAbort(g: Group, m: OwnMigration): Promise<void> {
    while (g.migration === m && !m.decided) {
      try {
        return void (await this.ds(m.source).abortMigration(m.id));
      } catch (e) {
        if (!refused(e, UNKNOWN_MIGRATION)) unlessRetryable(e);
      }
      await this.world.pause(RETRY_PAUSE);
    }
  }

  /**
   * Follows a server that has reclaimed or recovered the group. With this call the user says that the Delivery Service
   * is lost.
   */
  follow(g: Group, server: string): Promise<void> {
    return this.patiently(() => this.exclusive(g, () => this.inbox.followClaim(g, server)));
  }

  /** Names, in the room, the servers that may take the group on when its host is lost, in order of preference. */
  async setSuccessors(g: Group, servers: string[]): Promise<void> {
    const { userId } = this.matrix.transport;
    const state = await this.matrix.allRoomState(g.roomId);
    const content = successorsOf(state, userId, g.roomId, g.key, servers);
    await this.matrix.setRoomState(g.roomId, SUCCESSORS, content);
  }

  /**
   * The data with which an operator can recover the group in the state of this device (profile, section 6). It has no
   * secrets.
   */
  async export(g: Group): Promise<RecoveryData> {
    const { state, lineage, term } = g;
    if (lineage === undefined || decode(wire.lineage, fromBase64(lineage)).steps.length !== term || g.unproven)
      throw new MimiportError("BEHIND", "this device has not been told how the group came to its Delivery Service");
    const group_info = toBase64(await mls.groupInfo(state));
    return { protocol: PROTOCOL, group_info, ratchet_tree: toBase64(mls.ratchetTree(state)), lineage };
  }

  /** Reads a group's log to its end. */
  bringUpToDate(g: Group): Promise<void> {
    return this.exclusive(g, () => this.inbox.catchUp(g));
  }

  /**
   * Takes the news of one /sync. When it returns, the homeserver may forget them. `done` is when the groups have
   * handled them, which may be long after.
   */
  async synced(news: News): Promise<{ done: Promise<void> }> {
    const handling = await this.inbox.synced(news);
    handling.done.catch(() => undefined); // who waits for it gets the error
    const { keyCounts, toDevice = [], unusedFallbackKeys: unused } = news;
    for (const event of toDevice) if (event.type === MOVE_REQUEST) void this.requests.followRequest(event);
    const used = unused !== undefined && !unused.includes(KEY_PACKAGE);
    if (this.stored.lastResorts.length > 0 && (used || this.lastResortIsOld())) await this.publishLastResort();
    if (keyCounts !== undefined) this.left = keyCounts[KEY_PACKAGE] ?? 0;
    await this.keepStock();
    return handling;
  }

  /** Publishes KeyPackages when fewer than half of the stock are left, and the first time. */
  async keepStock(): Promise<void> {
    const { stock = 0 } = this.world;
    if (this.stored.keyPackages.size === 0) this.left = 0;
    if (this.left >= stock / 2) return;
    await this.publishKeyPackages(stock - this.left);
    this.left = stock;
  }

  /** Goes on with what an earlier run has begun: reads every group's log, sends what waits, ends migrations. */
  resume(): void {
    for (const g of this.stored.groups.values()) {
      const failed = (e: unknown) => this.world.emit({ event: "failed", group: g.key, reason: String(e) });
      void this.exclusive(g, () => this.inbox.catchUpIfBehind(g)).catch(failed);
      if (g.migration !== undefined) void this.finishMigration(g).catch(failed);
    }
    this.sendWaiting();
  }

  /** Sends what waits in groups where nothing is being sent. */
  private sendWaiting(): void {
    for (const g of this.stored.groups.values()) {
      if (g.outbox.length === 0 || this.sending.has(g.key)) continue;
      void this.inTurn(g, () => this.empty(g)).catch((e) =>
        this.world.emit({ event: "failed", group: g.key, reason: String(e) }),
      );
    }
  }

  /** Follows /sync until the signal ends it. */
  async run(signal: AbortSignal): Promise<void> {
    this.resume();
    for (let failed = false; !signal.aborted; ) {
      try {
        const wait = failed ? 0 : Math.min(SYNC_WAIT, this.inbox.lookEvery);
        failed = false;
        const { done } = await this.synced(await this.matrix.sync(this.stored.since, wait, signal));
        done.catch((e) => this.world.emit({ event: "failed", group: "", reason: String(e) }));
        this.sendWaiting();
        for (const g of this.stored.groups.values()) void this.inbox.check(g);
      } catch (e) {
        if (signal.aborted) return;
        if (isFinal(e)) throw e;
        failed = true;
        await this.world.pause(POLL_PAUSE);
      }
    }
  }
}
