// Handles incoming data: fan-out, the log and room state. It decides which of it counts (profile, sections 6 and 7).
import type { ClientState } from "ts-mls";
import { same, sha256, toHex } from "./bytes.js";
import { MimiportError } from "./errors.js";
import { type Claimed, DeliveryService, type FanOut, IN_PROGRESS, type LogMessage } from "./ds.js";
import { type MessagesResponse, type Migrated, type MovedInfo, PEER_UNREACHABLE, refused } from "./ds.js";
import { type Signed, STOPPED, submission } from "./ds.js";
import { UNKNOWN_GROUP, WRONG_EPOCH } from "./ds.js";
import { type Verification, verify } from "./devices.js";
import { Evidence } from "./evidence.js";
import {
  checkId,
  epochOf,
  type Group,
  type Invitation,
  isOut,
  newGroup,
  ownIdentity,
  type PendingCommit,
  type Position,
  seconds,
  type Stored,
  type Surroundings,
} from "./group.js";
import { ServerKeys } from "./keys.js";
import type { Lanes } from "./lanes.js";
import { claimIn, goesOn, hostIn, isRecover, keyIdOfHost, moveIn } from "./lineage.js";
import { slices } from "./pace.js";
import { claimHash, type Pointer, pointerFor, pointerTo } from "./pointer.js";
import { isLost, news, receiptIn } from "./receipts.js";
import { BINDING, FAN_OUT, type Matrix, MatrixError, POINTER } from "./matrix.js";
import { SUCCESSORS, Unreachable } from "./matrix.js";
import { successorsIn, successorsNow } from "./successors.js";
import { TOMBSTONE } from "./room.js";
import type { Route } from "./route.js";
import type { MatrixEvent, News } from "./transport.js";
import * as mls from "./mls.js";
import { decode, encode, fromBase64, isServerName, type LeafIdentity, lineage } from "./wire.js";
import { type Lineage, migrationCommitAAD } from "./wire.js";
import { fromBase64url, toBase64, toBase64url, WireError } from "./wire.js";

/** How many Commits of other members may come first before an operation gives up. */
export const MAX_RACES = 10;
/** How many messages are kept from Delivery Services that are not the current one. */
const MAX_HELD = 256;
/** How many unfinished terms of a group are remembered. A client cannot decrypt messages of older ones. */
const MAX_FORMER = 4;
/** How many refused Commits of one epoch are kept. */
const MAX_REFUSED = 8;
/** How many steps of a group may wait. Above that, news about it make it read its log once. */
const MAX_WAITING = 8;
/** How many own messages are remembered after they were accepted. */
const MAX_ANSWERED = 64;
/** How many Welcomes are kept for which no room names the group, and for how long, in milliseconds. */
const MAX_INVITATIONS = 16;
const INVITED = 10 * 60_000;
/**
 * The time that a host has to yield after a client shows it a claim, in milliseconds. After it, the client follows the
 * room's pointer.
 */
const TO_YIELD = 10 * 60_000;
/** How long a host must be unreachable before a client follows a successor's claim by default, in milliseconds. */
const PATIENCE = 24 * 3600_000;
/** How often a client checks a host in that time. A gap between two checks is at most a quarter of it. */
const LOOKS = 24;
const GAPS = 4;
/** How long one log is read at a time, in milliseconds: one that has no end must not hold up the other groups. */
const TURN = 60_000;

/** The start of the user id of every Delivery Service's sender. The server name follows. */
export const RESERVED_USER = "@_mimiport:";

/** The fields of a log message that are needed to handle it. */
type Arrived = Pick<LogMessage, "seq" | "message"> & Partial<LogMessage>;

/**
 * The place to which a Welcome leads: the last message that it covers, and the Welcome itself unless it is only in the
 * log.
 */
interface Entry {
  server: string;
  term: number;
  seq: number;
  message: string | undefined;
}

const device = ({ userId, deviceId }: LeafIdentity) => ({ user: userId, device: deviceId });

/** A to-device event of a Delivery Service about a group of this device. */
interface FannedOut {
  key: string;
  server: string;
  fanOut: FanOut;
}

const isProcessed = (p: unknown): p is mls.Processed => typeof p === "object" && p !== null && "state" in p;

/** A log of which not all was read. */
class Endless extends Error {
  override name = "Endless";
}

/** Whether it is the own homeserver that could not be reached, by a Delivery Service which is there. */
const isOfHome = (e: unknown) => e instanceof MatrixError && e.body.rule === "homeserver";

const isCount = (n: unknown): n is number => Number.isSafeInteger(n) && (n as number) >= 0;

/** The hash by which this client recognizes its own message. */
export const messageHash = (message: Uint8Array): string => toHex(sha256(message));

/** The target in a Commit's authenticated_data if the Commit is a migration Commit (profile, section 5). */
function migrationTarget(authenticatedData: Uint8Array): string | undefined {
  try {
    const { targetDsDomain } = decode(migrationCommitAAD, authenticatedData);
    return isServerName(targetDsDomain) ? targetDsDomain : undefined;
  } catch {
    return undefined;
  }
}

/** The content of a fan-out event; undefined if it is not well-formed. */
function parseFanOut(content: any): { key: string; fanOut: FanOut } | undefined {
  const { group_id, room_id, term, seq } = content ?? {};
  if (typeof group_id !== "string" || typeof room_id !== "string" || !isCount(term) || !isCount(seq)) return undefined;
  try {
    fromBase64url(group_id);
    return { key: group_id, fanOut: content };
  } catch {
    return undefined;
  }
}

/**
 * Advances groups by incoming data. Callers run its methods in the lane of the group, except for synced, hostOf and
 * check.
 */
export class Inbox {
  private readonly keys: ServerKeys;
  readonly evidence: Evidence;
  /** The time of the last check of each group's host, in milliseconds since 1970. */
  private readonly looked = new Map<string, number>();
  /** The checks of leaves that run, by group. */
  private readonly checking = new Map<Group, Promise<void>>();

  constructor(
    private readonly matrix: Matrix,
    private readonly route: Route,
    private readonly stored: Stored,
    private readonly world: Surroundings,
    private readonly lanes: Lanes,
  ) {
    this.keys = new ServerKeys(matrix, route, world);
    this.evidence = new Evidence(this.keys);
  }

  private ds(server: string): DeliveryService {
    return new DeliveryService(this.route, server);
  }

  /**
   * Takes the news of one /sync, and saves the token. Welcomes are kept with it. All else is a hint at a log, and after
   * a restart every log is read. `done` is when the groups have handled the news: each in its lane, so that one whose
   * Delivery Service hangs holds up no other.
   */
  async synced({ next, toDevice = [], state = [], changed = [] }: News): Promise<{ done: Promise<void> }> {
    this.devicesChanged(changed);
    const news = new Map<string, FannedOut[]>();
    for (const event of toDevice) {
      const of = event.type === FAN_OUT ? this.fannedOut(event) : undefined;
      if (of !== undefined) news.set(of.key, [...(news.get(of.key) ?? []), of]);
    }
    if (next !== undefined) this.stored.since = next;
    await this.world.save();
    const groups = [...this.stored.groups.values()].map((g) => {
      // A group that is slow to handle its news reads its log once instead.
      const few = this.lanes.load(g.key) < MAX_WAITING;
      if (!few) g.behind = true;
      const fannedOut = few ? (news.get(g.key) ?? []) : [];
      const pointers = state.filter((e) => e.roomId === g.roomId && e.type === POINTER && e.state_key === "");
      if (!few && pointers.length === 0) return undefined;
      return this.lanes.run(g.key, () => this.handleNews(g, fannedOut, pointers));
    });
    const invited = this.stored.invitations.map((i) => this.lanes.run(i.fanOut.group_id, () => this.welcomed(i)));
    return { done: Promise.all([...groups, ...invited]).then(() => undefined) };
  }

  private async handleNews(g: Group, fannedOut: FannedOut[], pointers: NonNullable<News["state"]>): Promise<void> {
    for (const of of fannedOut) await this.fannedOutTo(g, of);
    for (const { roomId, content } of pointers) await this.pointedTo(g, roomId, content);
    await this.catchUpIfBehind(g);
    if (g.named !== undefined) await this.orFail(g.key, this.wait(g));
    await this.orFail(g.key, this.lookAfter(g));
  }

  /**
   * Asks the own homeserver about leaves without a check. The answer refuses nothing, since an accepted Commit counts.
   * If a user's homeserver does not answer, the leaf stays unchecked. This may run beside everything else.
   */
  async check(g: Group): Promise<void> {
    await this.checking.get(g);
    const begun = this.checking.get(g); // by another one who has waited
    if (begun !== undefined) return begun;
    const unknown = mls.members(g.state).filter((m) => !g.checked.has(checkId(m)));
    if (unknown.length === 0 || isOut(g)) return;
    const check = this.ask(g, unknown).finally(() => this.checking.delete(g));
    this.checking.set(g, check);
    await check;
  }

  private async ask(g: Group, unknown: mls.Member[]): Promise<void> {
    try {
      const published = await this.matrix.queryKeys([...new Set(unknown.map((m) => m.userId))]);
      const pace = slices();
      for (const m of unknown) {
        this.checked(g, m, await this.trust(m, await verify(m, published)));
        await pace();
      }
    } catch (e) {
      if (!(e instanceof MatrixError || e instanceof Unreachable)) throw e; // the next check asks again
    }
  }

  /** The application's trust in a leaf, if it decides about that. */
  private async trust(member: mls.Member, found: Verification): Promise<Verification> {
    const { verifyLeaf } = this.world;
    if (verifyLeaf === undefined || found === "unknown") return found;
    try {
      return await verifyLeaf({ ...device(member), key: member.signatureKey }, found);
    } catch {
      return "unknown"; // the next check asks again
    }
  }

  private checked(g: Group, member: mls.Member, verified: Verification): void {
    if (verified === "unknown") return;
    g.checked.set(checkId(member), verified);
    const { leaf, userId: user, deviceId: device } = member;
    if (verified === "unverified") this.world.emit({ event: "unverified", group: g.key, leaf, user, device });
  }

  /** Forgets the checks of users whose devices have changed. */
  private devicesChanged(users: string[]): void {
    for (const { checked } of this.stored.groups.values())
      for (const id of checked.keys()) if (users.includes(id.slice(0, id.indexOf(" ")))) checked.delete(id);
  }

  /** Reads the log of a group if it is not read to its end. */
  async catchUpIfBehind(g: Group): Promise<void> {
    if (g.behind && !isOut(g)) await this.orFail(g.key, this.catchUp(g));
  }

  /** Reads the log from this client's position, through every later term. moved is a given redirect. */
  async catchUp(g: Group, moved?: MovedInfo): Promise<void> {
    g.behind = true;
    g.trouble = undefined;
    await this.readAll(g, moved).catch((e) => {
      g.trouble = e instanceof MimiportError ? e.code : String(e);
      throw e;
    });
  }

  private async readAll(g: Group, moved?: MovedInfo): Promise<void> {
    let step = await this.nextStep(g, moved);
    while (step !== undefined && (await this.follow(g, step))) step = await this.nextStep(g);
    await this.prove(g);
    await this.keepKeys(g);
    g.behind = false;
    await this.release(g);
    await this.readFormer(g);
  }

  /** Reads the current log to its end. Returns the next step: a redirect, or a claim of the same server. */
  private async nextStep(g: Group, moved?: MovedInfo): Promise<MovedInfo | undefined> {
    try {
      return (await this.readLog(g)) ?? moved ?? (await this.askHost(g));
    } catch (e) {
      const step = moved ?? (refused(e, UNKNOWN_GROUP) ? await this.askHost(g) : undefined);
      const followed = step !== undefined && (await this.follow(g, step));
      if (!followed && !(refused(e, PEER_UNREACHABLE) && (await this.followPointed(g)))) throw e;
      return this.nextStep(g);
    }
  }

  /**
   * Takes the next step without the current Delivery Service. It uses the lineage of the server to which the room
   * points, and that server's log of the present term (profile, section 6, "What members do").
   */
  private async followPointed(g: Group): Promise<boolean> {
    const pointer = pointerTo(await this.matrix.roomState(g.roomId, POINTER), g.roomId, g.key);
    if (pointer === undefined || pointer.term <= g.term || pointer.via === g.ds) return false;
    const told = await this.toldBy(g, pointer.via);
    const moved = moveIn(told?.steps[g.term], g.term + 1);
    return moved !== undefined && this.followMove(g, moved, pointer.via);
  }

  /**
   * Keeps the key object of the current Delivery Service: fetches it once, and again when the server signs with another
   * key.
   */
  private async keepKeys(g: Group, keyId?: string): Promise<void> {
    const { hostKeys: kept } = g;
    if (kept?.server_name === g.ds && (keyId === undefined || keyId in kept.verify_keys)) return;
    const wanted = keyId ?? keyIdOfHost(g);
    const object = wanted && (await this.keys.object(g.ds, g.ds, wanted).catch(() => undefined));
    if (object) g.hostKeys = object; // else the client tries again the next time
  }

  /**
   * Keeps the lineage that the current Delivery Service tells. Returns that server's claim to the next term if there is
   * one, as after a restore from a backup. Without an answer, the client asks again the next time.
   */
  private async askHost(g: Group): Promise<Claimed | undefined> {
    const told = await this.toldBy(g, g.ds).catch(() => undefined);
    if (told === undefined) return undefined;
    if (told.steps.length === g.term) g.lineage = toBase64(encode(lineage, told));
    return claimIn(told.steps[g.term]);
  }

  /** The lineage that a server tells; undefined if it does not continue the known one. */
  private async toldBy(g: Group, server: string): Promise<Lineage | undefined> {
    const host = await this.ds(server).host(g.key);
    const told = host.lineage === undefined ? undefined : decode(lineage, fromBase64(host.lineage));
    return told && goesOn(g, told) ? told : undefined;
  }

  /**
   * Reads the rest of former Delivery Services' logs, from before they handed the group over. If one is unreachable,
   * the client tries again later.
   */
  private async readFormer(g: Group): Promise<void> {
    for (const f of [...(g.former ?? [])]) {
      try {
        for await (const page of this.pages(f.ds, g.key, f.term, f.next)) {
          // Handshakes have come by the way that the group took; those on a branch that was lost must not count.
          for (const m of page.messages)
            if (mls.isPrivate(fromBase64(m.message ?? "")))
              await this.process(g, m, f.term, () => (f.next = m.seq + 1));
          f.next = page.next;
          await this.world.save(g);
          if (page.end && page.moved === undefined) await this.tell(g, f.ds);
        }
        g.former = g.former?.filter((other) => other !== f);
      } catch (e) {
        const forgotten = e instanceof MatrixError && e.status < 500 && e.body.retry_after_ms === undefined;
        if (forgotten || e instanceof Endless) g.former = g.former?.filter((other) => other !== f);
      }
    }
    this.keepEpochs(g);
    await this.world.save(g);
  }

  /**
   * Shows a former Delivery Service how the group continued. If it does not know that, it must stop (profile, section
   * 3).
   */
  private async tell(g: Group, server: string): Promise<void> {
    if (g.lineage === undefined || server === g.ds) return;
    await this.ds(server)
      .showLineage(g.key, g.lineage)
      .catch(() => undefined); // its operator's policy may refuse this
  }

  /** Reads the current Delivery Service's log to its end. Returns the redirect at the end. */
  private async readLog(g: Group): Promise<MovedInfo | undefined> {
    const { term } = g;
    for await (const page of this.pages(g.ds, g.key, term, g.next)) {
      for (const m of page.messages) if (g.term === term) await this.handle(g, m);
      if (g.term === term) g.next = Math.max(g.next, page.next);
      await this.world.save(g);
      if (g.term !== term) return this.readLog(g);
      if (page.end) return page.moved;
    }
    return undefined;
  }

  /** The pieces of a log from a number on. Endless if there are more when the turn is over, or if it does not go on. */
  private async *pages(server: string, key: string, term: number, from: number): AsyncGenerator<MessagesResponse> {
    for (const began = this.world.now(); ; ) {
      const page = await this.ds(server).messages(key, term, from);
      yield page;
      if (page.end) return;
      if (!(page.next > from)) throw new Endless(`the log of ${server} does not go on`);
      if (this.world.now() - began > TURN) throw new Endless(`the log of ${server} has more than can be read at once`);
      from = page.next;
    }
  }

  /**
   * Takes the step to the next term that a redirect proves. False if the redirect proves nothing for this group now.
   */
  private async follow(g: Group, moved: MovedInfo): Promise<boolean> {
    if (moved.term !== g.term + 1) return false;
    if (!("lineage_claim" in moved)) return this.followMove(g, moved);
    if (!(await this.evidence.provesClaim(g, moved))) return false;
    if (isLost(g, moved)) {
      this.leavesOut(g, moved);
      return false;
    }
    await this.goTo(g, moved);
    return true;
  }

  /**
   * Follows the source's confirmation to the target. Reads the end of the old term there or at a later host (profile,
   * section 6, "What members do"). False if that server cannot help either.
   */
  private async followMove(g: Group, moved: Migrated, server = moved.delivery_service): Promise<boolean> {
    const { term, migration } = g;
    if (!(await this.evidence.provesMove(g, moved))) return false;
    const own = migration !== undefined && same(migration.response, fromBase64(moved.migration_response));
    if (own && !migration.over) this.merge(g, migration.commit, undefined, moved);
    else await this.readOldTerm(g, server);
    // A client on a branch that was lost before this move cannot read on. It joins again at the end.
    if (g.term === term && g.unproven) this.moveTo(g, moved.delivery_service, moved.term, moved);
    if (g.term === term) return false;
    g.evidence = moved;
    return true;
  }

  /**
   * Follows a server that has claimed the group. With this call the user says that the host is lost (profile, section
   * 3).
   */
  async followClaim(g: Group, server: string): Promise<void> {
    const { claim } = await this.claimBy(g, server, (c, last) => last && c.delivery_service === server);
    await this.goTo(g, claim);
    await this.catchUp(g);
  }

  /** The wanted claim in a server's lineage, after verification, with the lineage. */
  private async claimBy(g: Group, server: string, isMeant: (claim: Claimed, last: boolean) => boolean) {
    const told = await this.toldBy(g, server);
    for (const [i, step] of told?.steps.entries() ?? []) {
      const claim = claimIn(step);
      const fits = claim?.term === i + 1 && claim.term > g.term && isMeant(claim, i + 1 === told!.steps.length);
      if (fits && (await this.evidence.provesClaim(g, claim))) return { claim, told: told! };
    }
    throw new MimiportError(
      "NOT_GENUINE",
      `${server} shows no claim to the group that goes on from what this device knows`,
    );
  }

  /** Shows the host the claim that the room's pointer names. Follows the claim if the host yields. */
  private async showNamed(g: Group): Promise<Claimed> {
    const { server, hash } = g.named!;
    const { claim, told } = await this.claimBy(g, server, (c) => claimHash(c) === hash);
    const refusal = () => undefined; // it refuses or is unreachable: the pointer decides in the end
    await this.ds(g.ds)
      .showLineage(g.key, toBase64(encode(lineage, told)))
      .catch(refusal);
    await this.catchUp(g).catch(refusal);
    return claim;
  }

  /** Follows a claim if the room's pointer still names it after the host's time to yield (profile, section 3). */
  private async wait(g: Group): Promise<void> {
    const { hash, until } = g.named!;
    if (this.world.now() < until) return;
    const pointer = pointerTo(await this.matrix.roomState(g.roomId, POINTER), g.roomId, g.key);
    const claim = pointer?.claim_hash === hash ? await this.showNamed(g) : undefined;
    const yielded = g.named === undefined;
    g.named = undefined;
    if (yielded || claim === undefined) return;
    if (isLost(g, claim)) return this.leavesOut(g, claim);
    await this.goTo(g, claim);
    await this.catchUp(g);
  }

  /** The time for which a group's host may be unreachable. */
  private get patience(): number {
    return this.world.patience ?? PATIENCE;
  }

  /** The longest wait until the next check of the groups' hosts, in whole milliseconds as /sync and timers want it. */
  get lookEvery(): number {
    return Math.ceil(this.patience / LOOKS);
  }

  /** Makes the next check of a group's host due soon. */
  lookSoon(g: Group): void {
    this.looked.delete(g.key);
  }

  /** Checks regularly whether a group's host is lost. If so, follows a successor that has taken the group on. */
  private async lookAfter(g: Group): Promise<void> {
    const { key, roomId } = g;
    const since = this.world.now() - (this.looked.get(key) ?? -Infinity);
    if (isOut(g) || g.named !== undefined || (since >= 0 && since < this.lookEvery)) return;
    this.looked.set(key, this.world.now());
    const list = successorsIn(await this.matrix.roomState(roomId, SUCCESSORS), roomId, key);
    if (list !== undefined) g.successors = list; // after a redaction, the last good list stays
    if (!g.successors?.some((s) => s !== g.ds) || !(await this.isLostHost(g))) return;
    const listed = successorsNow(await this.matrix.allRoomState(roomId), roomId, key, g.successors);
    for (const server of listed) if (server !== g.ds && (await this.followSuccessor(g, server))) return;
  }

  /** Whether the group's host has stopped, or was unreachable for long enough. */
  private async isLostHost(g: Group): Promise<boolean> {
    const refusal = await this.ds(g.ds)
      .group(g.key)
      .then(() => undefined)
      .catch((e: unknown) => e);
    if (refusal instanceof Unreachable) return false; // the own homeserver is unreachable
    if (!refused(refusal, PEER_UNREACHABLE) || isOfHome(refusal)) {
      g.silent = undefined;
      return refused(refusal, STOPPED);
    }
    const now = this.world.now();
    const { since, last } = g.silent ?? { since: now, last: now };
    // After a gap, the client cannot know whether the host was reachable meanwhile. After the clock went back, it
    // cannot either.
    const unbroken = now >= last && now - last <= this.patience / GAPS;
    g.silent = { since: unbroken ? since : now, last: now };
    await this.world.save(g);
    return now - g.silent.since >= this.patience;
  }

  /**
   * Follows the recover of a successor into the next term. False if the successor shows none, or if the recover leaves
   * out a known Commit.
   */
  private async followSuccessor(g: Group, server: string): Promise<boolean> {
    const isMeant = (c: Claimed) => c.term === g.term + 1 && c.delivery_service === server && isRecover(c);
    const shown = await this.claimBy(g, server, isMeant).catch(() => undefined); // it may be unreachable too
    if (shown === undefined) return false;
    if (isLost(g, shown.claim)) {
      this.leavesOut(g, shown.claim);
      return false;
    }
    await this.goTo(g, shown.claim);
    await this.catchUp(g);
    return true;
  }

  private leavesOut(g: Group, { delivery_service }: Claimed): void {
    this.ignored(g.key, delivery_service, "its claim leaves out a Commit for which there is a receipt");
  }

  /** Continues at the server of a verified claim. The new term lacks messages that only the host had. */
  private async goTo(g: Group, claim: Claimed): Promise<void> {
    this.endMigrationCommit(g);
    g.migration = undefined;
    if (g.pending !== undefined && mls.refersToProposals(g.pending.message)) this.endPending(g);
    g.state = mls.withoutProposals(g.state);
    g.evidence = undefined;
    g.receipt = undefined;
    g.unproven = true;
    this.moveTo(g, claim.delivery_service, claim.term, claim);
    await this.world.save(g);
    await this.point(g, claim).catch(() => undefined); // not every member may
  }

  /**
   * Points the room to a claim, since no homeserver does so. Hosts yield because of the pointer, and new members find
   * the group by it.
   */
  private async point({ roomId, key }: Group, claim: Claimed): Promise<void> {
    const pointer = pointerTo(await this.matrix.roomState(roomId, POINTER), roomId, key);
    if (pointer !== undefined && pointer.term >= claim.term) return;
    await this.matrix.setRoomState(roomId, POINTER, pointerFor(claim, roomId, key));
  }

  /**
   * After a claim: continues with the own state if the Delivery Service has it, and joins again if the own branch was
   * lost.
   */
  async prove(g: Group): Promise<void> {
    if (!g.unproven || isOut(g)) return;
    const there = await this.ds(g.ds).group(g.key);
    if (there.epoch > epochOf(g)) await this.readLog(g); // perhaps only now
    if (!g.unproven) return;
    const { confirmedTranscriptHash } = g.state.groupContext;
    if (there.epoch !== epochOf(g) || there.confirmed_transcript_hash !== toBase64(confirmedTranscriptHash)) {
      await this.enterAnew(g.key, g.roomId, g.ds);
      return;
    }
    this.proved(g);
    await this.world.save(g);
  }

  /** The current Delivery Service goes on with the branch of this device. */
  private proved(g: Group): void {
    g.unproven = undefined;
    for (const { message, at } of g.outbox) if (message !== undefined && at !== undefined) this.shown(g, message, at);
  }

  /** Reads the rest of the current term at another server. */
  private async readOldTerm(g: Group, server: string): Promise<void> {
    const { term } = g;
    for await (const m of this.termAt(server, g.key, term)) {
      await this.process(g, m, term);
      if (g.term !== term) return;
    }
  }

  /**
   * Records that an own message was accepted under a number. All messages before it are then handled too. False if that
   * number shows that the own branch was lost, so that nobody can read the message.
   */
  async accepted(g: Group, { term, seq }: Position, message: string, receipt: Signed | undefined): Promise<boolean> {
    const { sent } = g;
    if (term === g.term && seq === g.next) await this.handle(g, { seq, message, ...(receipt && { receipt }) });
    else await this.catchUp(g);
    g.stopped = undefined;
    await this.world.save(g);
    return g.sent === sent; // after joining again, nothing is sent yet
  }

  /** Handles a message of the current Delivery Service, in the order of its log. */
  private async handle(g: Group, m: Arrived): Promise<void> {
    if (m.receipt !== undefined) await this.attested(g, m, m.receipt);
    if (m.seq < g.next) return;
    const { term } = g;
    await this.process(g, m, term, () => (g.next = m.seq + 1));
    if (g.term !== term) g.former?.pop(); // its log ends with this message
  }

  /**
   * Keeps a message's receipt if it is the latest. A second receipt for one epoch proves a fork; then the first one
   * stays.
   */
  private async attested(g: Group, m: Arrived, signed: Signed): Promise<void> {
    if (g.fork !== undefined) return;
    try {
      const receipt = receiptIn(signed);
      const told = news(g, receipt, m);
      if (told === undefined || !(await this.evidence.attests(g, receipt, signed.key_id))) return;
      await this.keepKeys(g, signed.key_id);
      if (told === "later") g.receipt = signed;
      else this.forked(g, { first: g.receipt!, second: signed });
    } catch (e) {
      if (!(e instanceof WireError)) throw e; // not a receipt
    }
  }

  private forked(g: Group, fork: { first: Signed; second: Signed }): void {
    g.fork = fork;
    this.world.emit({ event: "fork", group: g.key, epoch: Number(receiptIn(fork.first).epoch), ...fork });
  }

  /**
   * Handles a message of a term. advance is called together with the change of the state, so that what is kept at any
   * moment fits.
   */
  private async process(g: Group, m: Arrived, of: number, advance: () => void = () => {}): Promise<void> {
    const { kind, message: encoded, migration } = m;
    if (kind === "welcome" || encoded === undefined || isOut(g)) return advance();
    const { term } = g;
    const at = { term: of, seq: m.seq };
    const message = fromBase64(encoded);
    const own = [g.pending, g.migration?.commit, ...(g.refused ?? [])].find(
      (c) => c !== undefined && same(c.message, message),
    );
    if (own !== undefined && !own.accepted) {
      advance();
      this.merge(g, own, at, migration);
    } else if (g.sent.delete(messageHash(message))) {
      advance();
      this.shown(g, encoded, at);
    } else await this.received(g, m, message, at, advance);
    if (g.term !== term) g.evidence = migration;
  }

  /** Ends the sending of an own message that has a place in the log. */
  shown(g: Group, message: string, at: Position): void {
    const item = g.outbox.find((o) => o.message === message);
    if (item === undefined) return;
    if (g.unproven) return void (item.at = at); // on a branch that was lost nobody can read it
    g.outbox = g.outbox.filter((o) => o !== item);
    g.answered = [...g.answered, { txnId: item.txnId, at }].slice(-MAX_ANSWERED);
    this.arrivedMessage(g, at, ownIdentity(this.stored), item.content, true);
  }

  private arrivedMessage(g: Group, at: Position, by: LeafIdentity, content: string, own: boolean): void {
    const { userId: sender, deviceId: device } = by;
    this.world.emit({ event: "message", group: g.key, at, sender, device, own, epoch: epochOf(g), content });
  }

  /**
   * Handles a message of another member. A message that is not valid changes nothing. The application gets an event
   * unless the message is only old.
   */
  private async received(
    g: Group,
    { sender = "", migration }: Arrived,
    message: Uint8Array,
    at: Position,
    advance: () => void,
  ): Promise<void> {
    const processed = await mls.process(g.state, message).catch((e: unknown) => e);
    advance();
    if (!isProcessed(processed)) {
      if (!mls.isOlder(g.state, message)) this.failed(g.key, processed);
      return;
    }
    const { state, author, plaintext, committed } = processed;
    const before = g.state;
    g.state = state;
    if (author !== undefined && sender !== "" && sender !== author.userId)
      this.world.emit({ event: "misattributed", group: g.key, named: sender, author: author.userId });
    if (plaintext !== undefined) this.arrivedMessage(g, at, author!, toBase64(plaintext), false);
    if (committed === undefined) return;
    this.membersChanged(g, before, author, at);
    this.entered(g, migrationTarget(committed), author, migration);
  }

  private membersChanged(g: Group, before: ClientState, by: LeafIdentity | undefined, at: Position): void {
    const [was, is] = [mls.members(before), mls.members(g.state)];
    const without = (some: mls.Member[], others: mls.Member[]) => {
      const keys = new Set(others.map(checkId));
      return some.filter((m) => !keys.has(checkId(m))).map(device);
    };
    const [added, removed] = [without(is, was), without(was, is)];
    if (added.length + removed.length === 0) return;
    this.world.emit({ event: "members", group: g.key, at, ...(by && { by: device(by) }), added, removed });
  }

  /** Emits an event for a Commit of this client, before it is kept and sent. */
  made(g: Group, commit: PendingCommit): void {
    this.world.emit({ event: "commit", group: g.key, from: mls.transcript(g.state), to: mls.transcript(commit.next) });
  }

  private ended(g: Group, { next, accepted = false }: PendingCommit): void {
    this.world.emit({ event: "commit_ended", group: g.key, to: mls.transcript(next), accepted });
  }

  /** Drops the pending Commit, with its outcome: accepted, or never accepted. */
  endPending(g: Group): void {
    if (g.pending !== undefined) this.ended(g, g.pending);
    g.pending = undefined;
  }

  private endRefused(g: Group): void {
    for (const commit of g.refused ?? []) this.ended(g, commit);
    g.refused = undefined;
  }

  /** Records the outcome of this client's migration Commit: accepted, or never accepted. */
  endMigrationCommit(g: Group): void {
    if (g.migration === undefined || g.migration.over) return;
    this.ended(g, g.migration.commit);
    g.migration.over = true;
  }

  /**
   * Records a final refusal of a Commit of this client. The client does not send it again, but a late copy may still be
   * accepted.
   */
  refuse(g: Group, commit: PendingCommit): void {
    const open = [g.pending, g.migration?.over ? undefined : g.migration?.commit].includes(commit);
    if (g.pending === commit) g.pending = undefined;
    if (g.migration?.commit === commit) g.migration = undefined;
    if (open) g.refused = [...(g.refused ?? []), commit]; // else the epoch ended before the refusal
    for (const c of g.refused?.splice(0, g.refused.length - MAX_REFUSED) ?? []) this.ended(g, c);
  }

  /**
   * Handles an own Commit that was accepted. Its place is not known if only the source's decision shows that. proof is
   * what shows that it moved the group.
   */
  merge(g: Group, commit: PendingCommit, at: Position = { term: g.term, seq: g.next }, proof?: MovedInfo): void {
    const before = g.state;
    g.state = commit.next;
    commit.accepted = true;
    this.membersChanged(g, before, ownIdentity(this.stored), at);
    this.entered(g, commit.target, ownIdentity(this.stored), proof);
  }

  /** Enters the group's next epoch, at the target if a migration Commit led there. */
  private entered(g: Group, target: string | undefined, by: LeafIdentity | undefined, proof?: MovedInfo): void {
    this.endPending(g);
    this.endMigrationCommit(g);
    this.endRefused(g);
    this.proved(g); // the next epoch follows the own state
    if (g.state.groupActiveState.kind === "removedFromGroup") {
      this.world.emit({ event: "removed", group: g.key, epoch: epochOf(g) });
      return;
    }
    if (isOut(g)) this.closed(g); // by a ReInit
    this.world.emit({ event: "epoch", group: g.key, epoch: epochOf(g) });
    if (target !== undefined && target !== g.ds) this.moveTo(g, target, g.term + 1, proof, by);
    this.keepEpochs(g);
  }

  /** Keeps the keys of past epochs as long as messages of former terms are unread. */
  private keepEpochs(g: Group): void {
    g.state = mls.keepingEpochs(g.state, (g.former ?? []).length > 0);
  }

  /** Closes a group that was ended for good. */
  closed(g: Group): void {
    if (g.closed) return;
    g.closed = true;
    this.world.emit({ event: "closed", group: g.key });
  }

  /**
   * Begins a new term. The client reads the new Delivery Service soon, even without news, since that one knows the
   * lineage.
   */
  private moveTo(g: Group, ds: string, term: number, proof?: MovedInfo, by?: LeafIdentity): void {
    const from = g.ds;
    g.former = [...(g.former ?? []), { ds: g.ds, term: g.term, next: g.next }].slice(-MAX_FORMER);
    g.ds = ds;
    g.term = term;
    g.next = 1;
    g.fork = undefined;
    g.named = undefined;
    g.silent = undefined;
    g.stopped = undefined;
    g.behind = true;
    const known = { ...(by && { by: device(by) }), ...(proof && { proof }) };
    this.world.emit({ event: "moved", group: g.key, ...known, from, to: ds, term });
  }

  private failed(group: string, e: unknown): void {
    this.world.emit({ event: "failed", group, reason: String(e) });
  }

  private orFail(group: string, step: Promise<void>): Promise<void> {
    return step.catch((e) => (refused(e, IN_PROGRESS) ? undefined : this.failed(group, e)));
  }

  private ignored(group: string, from: string, reason: string): void {
    this.world.emit({ event: "ignored", group, from, reason });
  }

  /**
   * Takes one to-device event. Only the reserved user of a Delivery Service counts. Keeps a Welcome, and returns the
   * event for any group of this device.
   */
  private fannedOut({ sender, content }: MatrixEvent): FannedOut | undefined {
    const parsed = parseFanOut(content);
    if (parsed === undefined) return void this.ignored("", sender, "malformed");
    const { key, fanOut } = parsed;
    if (!sender.startsWith(RESERVED_USER)) return void this.ignored(key, sender, "not a Delivery Service");
    const server = sender.slice(RESERVED_USER.length);
    const g = this.stored.groups.get(key);
    const isIn = g !== undefined && !isOut(g);
    // The Commit that removes this device may come before the Welcome, in the same /sync.
    if (fanOut.kind === "welcome") this.stored.invitations.push({ server, fanOut, until: this.world.now() + INVITED });
    else if (!isIn) this.ignored(key, sender, "no such group");
    return isIn ? { key, server, fanOut } : undefined;
  }

  /** Handles fan-out for a group. Only the current Delivery Service counts. */
  private async fannedOutTo(g: Group, { key, server, fanOut }: FannedOut): Promise<void> {
    const sender = RESERVED_USER + server;
    if (isOut(g)) return;
    if (server === g.ds && fanOut.term === g.term) return this.orFail(key, this.arrived(g, fanOut));
    if (g.former?.some((f) => f.ds === server && f.term === fanOut.term)) return this.readFormer(g);
    if (fanOut.term <= g.term || g.held.length >= MAX_HELD)
      return this.ignored(key, sender, "not the current Delivery Service");
    g.held.push({ server, fanOut });
    this.ignored(key, sender, "not yet the current Delivery Service");
    await this.orFail(key, this.catchUp(g)); // the migration Commit may be only late
  }

  private async arrived(g: Group, fanOut: FanOut): Promise<void> {
    if (fanOut.seq > g.next || fanOut.message === undefined) await this.catchUp(g);
    else await this.handle(g, fanOut);
    await this.world.save(g);
    await this.release(g);
  }

  /** Handles the kept messages of the Delivery Service that is now the current one. */
  private async release(g: Group): Promise<void> {
    const due = g.held.filter(({ server, fanOut }) => server === g.ds && fanOut.term === g.term);
    g.held = g.held.filter(({ fanOut }) => fanOut.term > g.term);
    due.sort((a, b) => a.fanOut.seq - b.fanOut.seq);
    for (const { fanOut } of due) if (fanOut.seq >= g.next) await this.arrived(g, fanOut);
  }

  /** Handles the room's pointer, which is a hint. Its evidence must verify, and only the group's next step counts. */
  private async pointedTo(g: Group, roomId: string, content: any): Promise<void> {
    const pointer = isOut(g) ? undefined : pointerTo(content, roomId, g.key);
    if (pointer !== undefined) await this.orFail(g.key, this.pointed(g, pointer));
  }

  private async pointed(g: Group, { via, term, evidence, claim_hash: hash }: Pointer): Promise<void> {
    if (typeof hash === "string" && term > g.term && g.named?.hash !== hash) {
      g.named = { server: via, hash, until: this.world.now() + TO_YIELD };
      await this.world.save(g);
      await this.showNamed(g);
    }
    if (typeof evidence !== "object" || evidence === null || term !== g.term + 1) return;
    const { migration_response, migration_confirmation, confirmation_key_id: key_id } = evidence;
    await this.catchUp(g, { delivery_service: via, term, migration_response, migration_confirmation, key_id });
  }

  /**
   * Handles a Welcome. The client keeps it for later if the room does not name the group yet, since room state may
   * arrive later.
   */
  private async welcomed(invitation: Invitation): Promise<void> {
    const { server, fanOut, until } = invitation;
    if (!this.stored.invitations.includes(invitation)) return; // an earlier /sync has come to an end with it
    const key = fanOut.group_id;
    const known = this.stored.groups.get(key);
    const isIn = known !== undefined && !isOut(known);
    const host = isIn ? undefined : await this.hostOf(fanOut.room_id).catch(() => undefined);
    const at = host?.key === key ? await this.entryOf(server, fanOut, host.server).catch(() => undefined) : undefined;
    if (at !== undefined) await this.orFail(key, this.join(host!.server, at, fanOut));
    const kept = this.stored.invitations.filter((i) => i !== invitation && i.early).length;
    const early = at === undefined && !isIn && this.world.now() < until && kept < MAX_INVITATIONS;
    if (early) invitation.early = true;
    else this.stored.invitations = this.stored.invitations.filter((i) => i !== invitation);
  }

  /**
   * Where in the group a Welcome of a server leads; undefined for one that does not count. One of a server from which
   * the group has moved since counts if the present host says that this server was the host in the Welcome's term, and
   * has the Welcome, too.
   */
  private async entryOf(server: string, fanOut: FanOut, host: string): Promise<Entry | undefined> {
    const { group_id, term, seq, epoch } = fanOut;
    if (server === host) return { server, term, seq, message: fanOut.message };
    const { lineage: told } = await this.ds(host).host(group_id);
    const hosts = decode(lineage, fromBase64(told ?? ""));
    if (term >= hosts.steps.length || hostIn(hosts, term) !== server) return undefined;
    let [message, leads]: [string?, boolean?] = [];
    for await (const m of this.termAt(host, group_id, term)) {
      if (m.kind === "commit" && m.epoch === epoch - 1) leads = m.migration !== undefined;
      if (m.kind === "welcome" && m.epoch === epoch && m.message === (fanOut.message ?? m.message)) message = m.message;
    }
    if (message === undefined) return undefined;
    if (!leads) return { server, term, seq, message };
    return { server: hostIn(hosts, term + 1), term: term + 1, seq: 0, message };
  }

  /** Reads a term of a group from its beginning, at a server. */
  private async *termAt(server: string, key: string, term: number): AsyncGenerator<LogMessage> {
    for await (const page of this.pages(server, key, term, 1)) yield* page.messages;
  }

  /** The group that a room names, and its place: the pointer's Delivery Service, or the one to which that redirects. */
  async hostOf(roomId: string): Promise<{ key: string; server: string }> {
    const binding = await this.matrix.roomState(roomId, BINDING);
    if (binding?.room_id !== roomId) throw new MimiportError("NO_GROUP", "the room names no group");
    const pointer = pointerTo(await this.matrix.roomState(roomId, POINTER), roomId, binding.group_id);
    const key = toBase64url(fromBase64url(binding.group_id));
    const { delivery_service } = await this.ds(pointer?.via ?? binding.creating_server).host(key);
    return { key, server: delivery_service };
  }

  /**
   * The group in which a group goes on: the room's binding, or that of the room that replaces it, names the group as
   * the former one (profile, section 9, "Resetting"). Undefined if there is none, or if the user is not in its room.
   */
  async nextOf(g: Group): Promise<{ roomId: string; id: string } | undefined> {
    const replacement = (await this.matrix.roomState(g.roomId, TOMBSTONE))?.replacement_room;
    for (const roomId of [g.roomId, replacement]) {
      if (typeof roomId !== "string") continue;
      const binding = await this.matrix.roomState(roomId, BINDING).catch((e) => {
        if (!(e instanceof MatrixError && e.status === 403)) throw e; // the user is not in the room
      });
      const { group_id, room_id = roomId } = binding?.former ?? {};
      if (binding?.room_id === roomId && group_id === g.key && room_id === g.roomId)
        return { roomId, id: toBase64url(fromBase64url(binding.group_id)) };
    }
    return undefined;
  }

  private async join(host: string, { message, ...at }: Entry, f: FanOut): Promise<void> {
    const key = f.group_id;
    const ds = this.ds(host);
    const logged = async () => (await ds.messages(key, f.term, f.seq)).messages.find((m) => m.seq === f.seq)?.message;
    const welcome = fromBase64(message ?? (await logged()) ?? "");
    const refs = mls.welcomeRefs(welcome).map(toBase64url);
    const ref = refs.find((r) => this.stored.keyPackages.has(r));
    if (ref === undefined) return this.ignored(key, at.server, "the Welcome is for no KeyPackage of this device");
    const state = await mls.join(welcome, this.stored.keyPackages.get(ref)!, () => ds.tree(key, f.epoch));
    if (!this.stored.lastResorts.includes(ref)) this.stored.keyPackages.delete(ref);
    await this.enter(key, f.room_id, at.server, at, state);
  }

  /**
   * Joins a group by an external Commit, which removes the own former leaf (RFC 9420, section 12.4.3.2). A signal ends
   * this until the Commit is sent.
   */
  async enterAnew(key: string, roomId: string, server: string, signal?: AbortSignal): Promise<Group> {
    const ds = this.ds(server);
    for (let races = 0; ; races++) {
      const { group_info, self_removes, epoch } = await ds.group(key);
      const tree = await ds.tree(key, epoch);
      const leaving = (self_removes ?? []).map(fromBase64);
      const identity = ownIdentity(this.stored);
      const info = fromBase64(group_info);
      const commit = await mls.externalCommit(identity, info, tree, seconds(this.world), leaving, signal);
      signal?.throwIfAborted();
      try {
        const what = submission(commit);
        const { receipt, ...at } = await ds.submit(key, what);
        const g = await this.enter(key, roomId, server, at, commit.next);
        if (receipt !== undefined) await this.attested(g, { seq: at.seq, message: what.message }, receipt);
        return g;
      } catch (e) {
        if (!refused(e, WRONG_EPOCH) || races === MAX_RACES) throw e;
      }
    }
  }

  /** Records that the device is in a group from a log message on. Earlier knowledge of the group is dropped. */
  private async enter(
    key: string,
    roomId: string,
    ds: string,
    at: { term: number; seq: number },
    state: ClientState,
  ): Promise<Group> {
    const fresh = newGroup(roomId, ds, at, state);
    if (fresh.key !== key) throw new MimiportError("NOT_GENUINE", "the Welcome or GroupInfo is for another group");
    const known = this.stored.groups.get(key);
    if (known !== undefined) this.endMigrationCommit(known);
    if (known !== undefined) this.endPending(known);
    if (known !== undefined) this.endRefused(known);
    const outbox = known?.outbox.map(({ txnId, content }) => ({ txnId, content })) ?? []; // for the new leaf
    const g: Group = Object.assign(known ?? {}, fresh, { outbox, answered: known?.answered ?? [] }); // others hold it
    this.stored.groups.set(key, g);
    this.world.emit({ event: "joined", group: key, epoch: epochOf(g) });
    await this.world.save(g);
    await this.catchUp(g);
    return g;
  }
}
