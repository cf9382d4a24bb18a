// What comes in: fan-out, the log and room state, and who is believed (profile, sections 6 and 7).
import { createHash } from "node:crypto";
import type { ClientState } from "ts-mls";
import { type Claimed, DeliveryService, type FanOut, IN_PROGRESS, type LogMessage, type MessagesResponse } from "./ds.js";
import { type Migrated, type MovedInfo, PEER_UNREACHABLE, refused, type Signed, STOPPED, submission } from "./ds.js";
import { type Submitted, UNKNOWN_GROUP, WRONG_EPOCH } from "./ds.js";
import { type Verification, verify } from "./devices.js";
import { Evidence } from "./evidence.js";
import {
  checkId,
  epochOf,
  type Group,
  isOut,
  newGroup,
  ownIdentity,
  type PendingCommit,
  same,
  seconds,
  type Stored,
  type Surroundings,
} from "./group.js";
import { ServerKeys } from "./keys.js";
import { claimIn, goesOn, hostIn, isRecover, moveIn } from "./lineage.js";
import { claimHash, type Pointer, pointerFor, pointerTo } from "./pointer.js";
import { isLost, news, receiptIn } from "./receipts.js";
import { BINDING, FAN_OUT, type Matrix, MatrixError, type MatrixEvent, POINTER, type SyncResult } from "./matrix.js";
import { SUCCESSORS, Unreachable } from "./matrix.js";
import { successorsIn, successorsNow } from "./successors.js";
import type { Transport } from "./transport.js";
import * as mls from "./mls.js";
import { decode, encode, fromBase64, isServerName, lineage, type Lineage, migrationCommitAAD } from "./wire.js";
import { fromBase64url, toBase64, toBase64url, WireError } from "./wire.js";

/** How many Commits of others may come first before an operation gives up. */
export const MAX_RACES = 10;
/** How many messages are kept of Delivery Services that are not the current one. */
const MAX_HELD = 256;
/**
 * How many terms of a group are remembered that this client left before it had seen all: no older message could be
 * decrypted.
 */
const MAX_FORMER = 4;
/** How many refused Commits of one epoch are kept. */
const MAX_REFUSED = 8;
/** How many Welcomes are kept that no room accounts for, and how long, in milliseconds. */
const MAX_INVITATIONS = 16;
const INVITED = 10 * 60_000;
/** How long a host that was shown a claim has to yield, in milliseconds, before a client follows the room's pointer. */
const TO_YIELD = 10 * 60_000;
/** How long a host must be out of reach, in milliseconds, before a client follows a successor's claim by default. */
const PATIENCE = 24 * 3600_000;
/** How often a host is looked after in that time. A gap between two looks is at most a quarter of it. */
const LOOKS = 24;
const GAPS = 4;
/** How long one log is read at a time, in milliseconds: one that has no end must not hold up the other groups. */
const TURN = 60_000;

/** The start of the user id from which a Delivery Service sends; its server name follows. */
const RESERVED_USER = "@_mimiport:";

/** As much of a message of the log as it takes to handle it. */
type Arrived = Pick<LogMessage, "seq" | "message"> & Partial<LogMessage>;

/**
 * Where a Welcome leads: the last message that is handled by it, and the Welcome itself unless it is in the log only.
 */
interface Entry {
  server: string;
  term: number;
  seq: number;
  message: string | undefined;
}

/** A log of which not all was read. */
class Endless extends Error {
  override name = "Endless";
}

/** Whether it is the own homeserver that could not be reached, by a Delivery Service which is there. */
const isOfHome = (e: unknown) => e instanceof MatrixError && e.body.rule === "homeserver";

const isCount = (n: unknown): n is number => Number.isSafeInteger(n) && (n as number) >= 0;

/** The hash by which an own message is known again. */
export const messageHash = (message: Uint8Array): string => createHash("sha256").update(message).digest("hex");

/** The target that a Commit's authenticated_data names, when it is that of a migration Commit (profile, section 5). */
function migrationTarget(authenticatedData: Uint8Array): string | undefined {
  try {
    const { targetDsDomain } = decode(migrationCommitAAD, authenticatedData);
    return isServerName(targetDsDomain) ? targetDsDomain : undefined;
  } catch {
    return undefined;
  }
}

/** The content of a fan-out event, or undefined when it is not well-formed. */
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

/** Brings groups forward by what arrives. Its methods must not run two at a time. */
export class Inbox {
  private readonly keys: ServerKeys;
  readonly evidence: Evidence;
  /** When each group's host was looked after last, in milliseconds since 1970. */
  private readonly looked = new Map<string, number>();
  /** The groups whose leaves are being checked. */
  private readonly checking = new Set<Group>();

  constructor(
    private readonly matrix: Matrix,
    private readonly transport: Transport,
    private readonly stored: Stored,
    private readonly world: Surroundings,
  ) {
    this.keys = new ServerKeys(matrix, transport, world);
    this.evidence = new Evidence(this.keys);
  }

  private ds(server: string): DeliveryService {
    return new DeliveryService(this.transport, server);
  }

  /** Handles what one /sync brought. Its token is kept only after that, so a crash in between loses nothing. */
  async synced(result: SyncResult): Promise<void> {
    this.devicesChanged(result.changed);
    const invitations = this.stored.invitations.splice(0);
    for (const { server, fanOut, until } of invitations) await this.welcomed(server, fanOut, until);
    for (const event of result.toDevice) if (event.type === FAN_OUT) await this.fannedOut(event);
    for (const { roomId, content } of result.pointers) await this.pointedTo(roomId, content);
    await this.catchUpAll();
    for (const g of this.stored.groups.values()) if (g.named !== undefined) await this.orFail(g.key, this.wait(g));
    for (const g of this.stored.groups.values()) await this.orFail(g.key, this.lookAfter(g));
    this.stored.since = result.next;
    this.world.save();
  }

  /**
   * Asks the own homeserver about leaves that have not been checked. Nothing is refused for the answer: an accepted
   * Commit counts. Leaves whose user's homeserver does not answer stay unknown. May run beside everything else.
   */
  async check(g: Group): Promise<void> {
    const unknown = mls.members(g.state).filter((m) => !g.checked.has(checkId(m)));
    if (unknown.length === 0 || isOut(g) || this.checking.has(g)) return;
    this.checking.add(g);
    try {
      const published = await this.matrix.queryKeys([...new Set(unknown.map((m) => m.userId))]);
      for (const m of unknown) this.checked(g, m, await verify(m, published));
    } catch (e) {
      if (!(e instanceof MatrixError || e instanceof Unreachable)) throw e; // asked again later
    } finally {
      this.checking.delete(g);
    }
  }

  private checked(g: Group, member: mls.Member, verified: Verification): void {
    if (verified === "unknown") return;
    g.checked.set(checkId(member), verified);
    const { leaf, userId: user, deviceId: device } = member;
    if (verified === "unverified") this.world.emit({ event: "unverified", group: g.key, leaf, user, device });
  }

  /** Forgets what users' devices have published: they have changed it. */
  private devicesChanged(users: string[]): void {
    for (const { checked } of this.stored.groups.values())
      for (const id of checked.keys()) if (users.includes(id.slice(0, id.indexOf(" ")))) checked.delete(id);
  }

  /** Reads the log of every group whose log was not read to its end. */
  async catchUpAll(): Promise<void> {
    for (const g of this.stored.groups.values()) if (g.behind && !isOut(g)) await this.orFail(g.key, this.catchUp(g));
  }

  /**
   * Reads the log from where this client stands, over every step to the next term. moved is a redirect that was given.
   */
  async catchUp(g: Group, moved?: MovedInfo): Promise<void> {
    g.behind = true;
    let step = await this.nextStep(g, moved);
    while (step !== undefined && (await this.follow(g, step))) step = await this.nextStep(g);
    await this.prove(g);
    await this.keepKeys(g);
    g.behind = false;
    await this.release(g);
    await this.readFormer(g);
  }

  /**
   * Reads the current log to its end, and gives what leads on from there: a redirect, or a claim of the same server.
   */
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
   * Takes the next step without the current Delivery Service: by the lineage that the server shows to which the room
   * points, and by what that server knows of the present term (profile, section 6, "What members do").
   */
  private async followPointed(g: Group): Promise<boolean> {
    const pointer = pointerTo(await this.matrix.roomState(g.roomId, POINTER), g.roomId, g.key);
    if (pointer === undefined || pointer.term <= g.term || pointer.via === g.ds) return false;
    const told = await this.toldBy(g, pointer.via);
    const moved = moveIn(told?.steps[g.term], g.term + 1);
    return moved !== undefined && this.followMove(g, moved, pointer.via);
  }

  /** Keeps the keys of the current Delivery Service, once for each, and anew when it has signed with another one. */
  private async keepKeys(g: Group, keyId?: string): Promise<void> {
    const { hostKeys: kept } = g;
    if (kept?.server_name === g.ds && (keyId === undefined || keyId in kept.verify_keys)) return;
    const [object] = await this.keys.objects(g.ds, g.ds, keyId).catch(() => []);
    if (object !== undefined) g.hostKeys = object; // else the next time
  }

  /**
   * Keeps what the current Delivery Service says of how the group came there, and gives its claim to the next term if
   * there is one: a server that was restored from a backup goes on so. Without an answer it is asked the next time.
   */
  private async askHost(g: Group): Promise<Claimed | undefined> {
    const told = await this.toldBy(g, g.ds).catch(() => undefined);
    if (told === undefined) return undefined;
    if (told.steps.length === g.term) g.lineage = toBase64(encode(lineage, told));
    return claimIn(told.steps[g.term]);
  }

  /** What a server says of how the group came there; undefined if it does not go on from what this client knows. */
  private async toldBy(g: Group, server: string): Promise<Lineage | undefined> {
    const host = await this.ds(server).host(g.key);
    const told = host.lineage === undefined ? undefined : decode(lineage, fromBase64(host.lineage));
    return told && goesOn(g, told) ? told : undefined;
  }

  /**
   * Reads what former Delivery Services had accepted before they handed the group over. One that is away keeps it for
   * later.
   */
  private async readFormer(g: Group): Promise<void> {
    const former = g.former?.splice(0) ?? [];
    for (const f of former) {
      try {
        for await (const page of this.pages(f.ds, g.key, f.term, f.next)) {
          // Handshakes have come by the way that the group took; those on a branch that was lost must not count.
          for (const m of page.messages) if (mls.isPrivate(fromBase64(m.message ?? ""))) await this.process(g, m);
          f.next = page.next;
          if (page.end && page.moved === undefined) await this.tell(g, f.ds);
        }
      } catch (e) {
        const forgotten = e instanceof MatrixError && e.status < 500 && e.body.retry_after_ms === undefined;
        if (!forgotten && !(e instanceof Endless)) g.former!.push(f);
      }
    }
    this.world.save();
  }

  /** Shows a former Delivery Service that does not know it how the group went on: it must stop (profile, section 3). */
  private async tell(g: Group, server: string): Promise<void> {
    if (g.lineage === undefined || server === g.ds) return;
    await this.ds(server)
      .showLineage(g.key, g.lineage)
      .catch(() => undefined); // its operator's policy may not let it
  }

  /** Reads to the end of the current Delivery Service's log, and gives the redirect that stands there. */
  private async readLog(g: Group): Promise<MovedInfo | undefined> {
    const { term } = g;
    for await (const page of this.pages(g.ds, g.key, term, g.next)) {
      for (const m of page.messages) if (g.term === term) await this.handle(g, m);
      if (g.term !== term) return this.readLog(g);
      g.next = Math.max(g.next, page.next);
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

  /** Takes the step to the next term that a redirect proves. False when it proves nothing for this group now. */
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
   * Goes to the target by the source's confirmation, and reads the end of the old term there, or at a later host
   * (profile, section 6, "What members do"). False when that server cannot help, too.
   */
  private async followMove(g: Group, moved: Migrated, server = moved.delivery_service): Promise<boolean> {
    const { term, migration } = g;
    if (!(await this.evidence.provesMove(g, moved))) return false;
    const own = migration !== undefined && same(migration.response, fromBase64(moved.migration_response));
    if (own && !migration.over) this.merge(g, migration.commit);
    else await this.readOldTerm(g, server);
    // Who is on a branch that was lost before this move cannot read the way there, and enters anew at its end.
    if (g.term === term && g.unproven) this.moveTo(g, moved.delivery_service, moved.term);
    if (g.term === term) return false;
    g.evidence = moved;
    return true;
  }

  /** Goes to a server that has claimed the group, because the user says that the host is lost (profile, section 3). */
  async followClaim(g: Group, server: string): Promise<void> {
    const { claim } = await this.claimBy(g, server, (c, last) => last && c.delivery_service === server);
    await this.goTo(g, claim);
    await this.catchUp(g);
  }

  /** The verified claim that a server's lineage holds and that is meant, and the lineage. */
  private async claimBy(g: Group, server: string, isMeant: (claim: Claimed, last: boolean) => boolean) {
    const told = await this.toldBy(g, server);
    for (const [i, step] of told?.steps.entries() ?? []) {
      const claim = claimIn(step);
      const fits = claim?.term === i + 1 && claim.term > g.term && isMeant(claim, i + 1 === told!.steps.length);
      if (fits && (await this.evidence.provesClaim(g, claim))) return { claim, told: told! };
    }
    throw new Error(`${server} shows no claim to the group that goes on from what this device knows`);
  }

  /** Shows the host the claim that the room's pointer names, and follows if the host yields. */
  private async showNamed(g: Group): Promise<Claimed> {
    const { server, hash } = g.named!;
    const { claim, told } = await this.claimBy(g, server, (c) => claimHash(c) === hash);
    const refusal = () => undefined; // it goes on, or is away: the pointer decides in the end
    await this.ds(g.ds)
      .showLineage(g.key, toBase64(encode(lineage, told)))
      .catch(refusal);
    await this.catchUp(g).catch(refusal);
    return claim;
  }

  /**
   * Follows a claim that the room's pointer still names, when the host has had its time to yield (profile, section 3).
   */
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

  /** How long the host of a group may be out of reach. */
  private get patience(): number {
    return this.world.patience ?? PATIENCE;
  }

  /** How long a client may wait before it looks after the hosts of its groups. */
  get lookEvery(): number {
    return this.patience / LOOKS;
  }

  /** Has the host of a group looked after soon. */
  lookSoon(g: Group): void {
    this.looked.delete(g.key);
  }

  /** Looks now and then whether the host of a group is lost, and goes to a successor that has taken the group on. */
  private async lookAfter(g: Group): Promise<void> {
    const { key, roomId } = g;
    const since = this.world.now() - (this.looked.get(key) ?? -Infinity);
    if (isOut(g) || g.named !== undefined || (since >= 0 && since < this.lookEvery)) return;
    this.looked.set(key, this.world.now());
    const list = successorsIn(await this.matrix.roomState(roomId, SUCCESSORS), roomId, key);
    if (list !== undefined) g.successors = list; // a redacted one leaves the last good one
    if (!g.successors?.some((s) => s !== g.ds) || !(await this.isLostHost(g))) return;
    const listed = successorsNow(await this.matrix.allRoomState(roomId), roomId, key, g.successors);
    for (const server of listed) if (server !== g.ds && (await this.followSuccessor(g, server))) return;
  }

  /** Whether the host of a group has stopped, or could not be reached for as long as it takes. */
  private async isLostHost(g: Group): Promise<boolean> {
    const refusal = await this.ds(g.ds)
      .group(g.key)
      .then(() => undefined)
      .catch((e: unknown) => e);
    if (refusal instanceof Unreachable) return false; // the own homeserver is away
    if (!refused(refusal, PEER_UNREACHABLE) || isOfHome(refusal)) {
      g.silent = undefined;
      return refused(refusal, STOPPED);
    }
    const now = this.world.now();
    const { since, last } = g.silent ?? { since: now, last: now };
    // After a gap it is not known whether the host was there meanwhile. A clock that has gone back tells nothing.
    const unbroken = now >= last && now - last <= this.patience / GAPS;
    g.silent = { since: unbroken ? since : now, last: now };
    this.world.save();
    return now - g.silent.since >= this.patience;
  }

  /** Follows the recover of a successor into the next term. False if it shows none, or one that leaves out a Commit. */
  private async followSuccessor(g: Group, server: string): Promise<boolean> {
    const isMeant = (c: Claimed) => c.term === g.term + 1 && c.delivery_service === server && isRecover(c);
    const shown = await this.claimBy(g, server, isMeant).catch(() => undefined); // it may be away, too
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

  /** Goes on at the server of a verified claim. What had only reached the host before is not in the new term. */
  private async goTo(g: Group, claim: Claimed): Promise<void> {
    this.endMigrationCommit(g);
    g.migration = undefined;
    if (g.pending !== undefined && mls.refersToProposals(g.pending.message)) this.endPending(g);
    g.state = mls.withoutProposals(g.state);
    g.evidence = undefined;
    g.receipt = undefined;
    g.unproven = true;
    this.moveTo(g, claim.delivery_service, claim.term);
    this.world.save();
    await this.point(g, claim).catch(() => undefined); // not every member may
  }

  /** Points the room to a claim, which no homeserver does: hosts yield by it, and who joins later looks there. */
  private async point({ roomId, key }: Group, claim: Claimed): Promise<void> {
    const pointer = pointerTo(await this.matrix.roomState(roomId, POINTER), roomId, key);
    if (pointer !== undefined && pointer.term >= claim.term) return;
    await this.matrix.setRoomState(roomId, POINTER, pointerFor(claim, roomId, key));
  }

  /** After a claim: goes on with the own state if the Delivery Service has it, enters anew if its branch was lost. */
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
    g.unproven = undefined;
    this.world.save();
  }

  /** Reads at another server what the current term still brings. */
  private async readOldTerm(g: Group, server: string): Promise<void> {
    const { term } = g;
    for await (const m of this.termAt(server, g.key, term)) {
      await this.process(g, m);
      if (g.term !== term) return;
    }
  }

  /**
   * An own message has been accepted under a number: it and all before it are handled. False when that showed that it
   * was of a branch that was lost, so that nobody can read it.
   */
  async accepted(g: Group, { term, seq, receipt }: Submitted, message: string): Promise<boolean> {
    const { sent } = g;
    if (term === g.term && seq === g.next) await this.handle(g, { seq, message, ...(receipt && { receipt }) });
    else await this.catchUp(g);
    return g.sent === sent; // who enters anew has sent nothing yet
  }

  /** Handles a message of the current Delivery Service, in the order of its log. */
  private async handle(g: Group, m: Arrived): Promise<void> {
    if (m.receipt !== undefined) await this.attested(g, m, m.receipt);
    if (m.seq < g.next) return;
    g.next = m.seq + 1;
    const { term } = g;
    await this.process(g, m);
    if (g.term !== term) g.former?.pop(); // its log ends with this message
  }

  /** Keeps the receipt of a message if it is the latest. A second one for one epoch proves a fork: the first stays. */
  private async attested(g: Group, m: Arrived, signed: Signed): Promise<void> {
    if (g.fork !== undefined) return;
    try {
      const receipt = receiptIn(signed);
      const told = news(g, receipt, m);
      if (told === undefined || !(await this.evidence.attests(g, receipt, signed.key_id))) return;
      await this.keepKeys(g, signed.key_id);
      if (told === "later") g.receipt = signed;
      else this.forked(g, { first: g.receipt!, second: signed });
      this.world.save();
    } catch (e) {
      if (!(e instanceof WireError)) throw e; // no receipt at all
    }
  }

  private forked(g: Group, fork: { first: Signed; second: Signed }): void {
    g.fork = fork;
    this.world.emit({ event: "fork", group: g.key, epoch: Number(receiptIn(fork.first).epoch), ...fork });
  }

  private async process(g: Group, { kind, sender = "", message: encoded, migration }: Arrived): Promise<void> {
    if (kind === "welcome" || encoded === undefined || isOut(g)) return;
    const { term } = g;
    const message = fromBase64(encoded);
    const own = [g.pending, g.migration?.commit, ...(g.refused ?? [])].find(
      (c) => c !== undefined && same(c.message, message),
    );
    if (own !== undefined && !own.accepted) this.merge(g, own);
    else if (!g.sent.delete(messageHash(message))) await this.received(g, sender, message);
    if (g.term !== term) g.evidence = migration;
    this.world.save();
  }

  /**
   * A message of another member. One that is not valid changes nothing; the application is told unless it is only old.
   */
  private async received(g: Group, sender: string, message: Uint8Array): Promise<void> {
    try {
      const { state, author, plaintext, committed } = await mls.process(g.state, message);
      g.state = state;
      if (author !== undefined && sender !== "" && sender !== author.userId)
        this.world.emit({ event: "misattributed", group: g.key, named: sender, author: author.userId });
      if (plaintext !== undefined) {
        const text = Buffer.from(plaintext).toString();
        const { userId, deviceId } = author!;
        this.world.emit({ event: "message", group: g.key, sender: userId, device: deviceId, epoch: epochOf(g), text });
      }
      if (committed !== undefined) this.entered(g, migrationTarget(committed));
    } catch (e) {
      if (!mls.isOlder(g.state, message)) this.failed(g.key, e);
    }
  }

  /** A Commit of this client is about to be kept, and then sent. */
  made(g: Group, commit: PendingCommit): void {
    this.world.emit({ event: "commit", group: g.key, from: mls.transcript(g.state), to: mls.transcript(commit.next) });
  }

  private ended(g: Group, { next, accepted = false }: PendingCommit): void {
    this.world.emit({ event: "commit_ended", group: g.key, to: mls.transcript(next), accepted });
  }

  /** The pending Commit, if there is one, was accepted or will not be. */
  endPending(g: Group): void {
    if (g.pending !== undefined) this.ended(g, g.pending);
    g.pending = undefined;
  }

  private endRefused(g: Group): void {
    for (const commit of g.refused ?? []) this.ended(g, commit);
    g.refused = undefined;
  }

  /** The migration Commit of this client, if there is one, was accepted or will not be. */
  endMigrationCommit(g: Group): void {
    if (g.migration === undefined || g.migration.over) return;
    this.ended(g, g.migration.commit);
    g.migration.over = true;
  }

  /**
   * A Commit of this client was refused for good: it is not sent again, but a copy that is late may yet be accepted.
   */
  refuse(g: Group, commit: PendingCommit): void {
    const open = [g.pending, g.migration?.over ? undefined : g.migration?.commit].includes(commit);
    if (g.pending === commit) g.pending = undefined;
    if (g.migration?.commit === commit) g.migration = undefined;
    if (open) g.refused = [...(g.refused ?? []), commit]; // else its epoch was over before the refusal
    for (const c of g.refused?.splice(0, g.refused.length - MAX_REFUSED) ?? []) this.ended(g, c);
    this.world.save();
  }

  /** A Commit of this client has been accepted. */
  merge(g: Group, commit: PendingCommit): void {
    g.state = commit.next;
    commit.accepted = true;
    this.entered(g, commit.target);
    this.world.save();
  }

  /** The group is in its next epoch, and at the target if a migration Commit led there. */
  private entered(g: Group, target: string | undefined): void {
    this.endPending(g);
    this.endMigrationCommit(g);
    this.endRefused(g);
    g.unproven = undefined; // the next epoch follows on from the own state
    if (g.state.groupActiveState.kind === "removedFromGroup") {
      this.world.emit({ event: "removed", group: g.key, epoch: epochOf(g) });
      return;
    }
    if (isOut(g)) this.closed(g); // by a ReInit
    this.world.emit({ event: "epoch", group: g.key, epoch: epochOf(g) });
    if (target !== undefined && target !== g.ds) this.moveTo(g, target, g.term + 1);
  }

  /** The group was ended for good. */
  closed(g: Group): void {
    if (g.closed) return;
    g.closed = true;
    this.world.save();
    this.world.emit({ event: "closed", group: g.key });
  }

  /** A new term begins. Its Delivery Service is read soon also when it has nothing to say: it knows the lineage. */
  private moveTo(g: Group, ds: string, term: number): void {
    g.former = [...(g.former ?? []), { ds: g.ds, term: g.term, next: g.next }].slice(-MAX_FORMER);
    g.ds = ds;
    g.term = term;
    g.next = 1;
    g.fork = undefined;
    g.named = undefined;
    g.silent = undefined;
    g.behind = true;
    this.world.emit({ event: "moved", group: g.key, ds, term });
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

  /** One to-device event. Only the reserved user of the current Delivery Service is heard. */
  private async fannedOut({ sender, content }: MatrixEvent): Promise<void> {
    const parsed = parseFanOut(content);
    if (parsed === undefined) return this.ignored("", sender, "malformed");
    const { key, fanOut } = parsed;
    if (!sender.startsWith(RESERVED_USER)) return this.ignored(key, sender, "not a Delivery Service");
    const server = sender.slice(RESERVED_USER.length);
    const g = this.stored.groups.get(key);
    if (fanOut.kind === "welcome" && (g === undefined || isOut(g))) return this.welcomed(server, fanOut);
    if (g === undefined || isOut(g)) return this.ignored(key, sender, "no such group");
    if (server === g.ds && fanOut.term === g.term) return this.orFail(key, this.arrived(g, fanOut));
    if (g.former?.some((f) => f.ds === server && f.term === fanOut.term)) return this.readFormer(g);
    if (fanOut.term <= g.term || g.held.length >= MAX_HELD)
      return this.ignored(key, sender, "not the current Delivery Service");
    g.held.push({ server, fanOut });
    this.ignored(key, sender, "not yet the current Delivery Service");
    await this.orFail(key, this.catchUp(g)); // perhaps the migration Commit is only late
  }

  private async arrived(g: Group, fanOut: FanOut): Promise<void> {
    if (fanOut.seq > g.next || fanOut.message === undefined) await this.catchUp(g);
    else await this.handle(g, fanOut);
    await this.release(g);
  }

  /** Handles what was held back from the Delivery Service that is now the current one. */
  private async release(g: Group): Promise<void> {
    const due = g.held.filter(({ server, fanOut }) => server === g.ds && fanOut.term === g.term);
    g.held = g.held.filter(({ fanOut }) => fanOut.term > g.term);
    due.sort((a, b) => a.fanOut.seq - b.fanOut.seq);
    for (const { fanOut } of due) if (fanOut.seq >= g.next) await this.arrived(g, fanOut);
  }

  /** The room's pointer is a hint: its evidence must verify, and only the group's next step counts. */
  private async pointedTo(roomId: string, content: any): Promise<void> {
    for (const g of this.stored.groups.values()) {
      const pointer = isOut(g) ? undefined : pointerTo(content, roomId, g.key);
      if (pointer !== undefined && g.roomId === roomId) await this.orFail(g.key, this.pointed(g, pointer));
    }
  }

  private async pointed(g: Group, { via, term, evidence, claim_hash: hash }: Pointer): Promise<void> {
    if (typeof hash === "string" && term > g.term && g.named?.hash !== hash) {
      g.named = { server: via, hash, until: this.world.now() + TO_YIELD };
      this.world.save();
      await this.showNamed(g);
    }
    if (typeof evidence !== "object" || evidence === null || term !== g.term + 1) return;
    const { migration_response, migration_confirmation, confirmation_key_id: key_id } = evidence;
    await this.catchUp(g, { delivery_service: via, term, migration_response, migration_confirmation, key_id });
  }

  /** A Welcome. It is kept for later when the room does not name the group yet: state may travel slower. */
  private async welcomed(server: string, fanOut: FanOut, until = this.world.now() + INVITED): Promise<void> {
    const key = fanOut.group_id;
    const host = await this.hostOf(fanOut.room_id).catch(() => undefined);
    const at = host?.key === key ? await this.entryOf(server, fanOut, host.server).catch(() => undefined) : undefined;
    if (at !== undefined) await this.orFail(key, this.join(host!.server, at, fanOut));
    else if (this.stored.invitations.length < MAX_INVITATIONS && this.world.now() < until)
      this.stored.invitations.push({ server, fanOut, until });
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

  /** Reads a term of a group as a server has it, from its beginning. */
  private async *termAt(server: string, key: string, term: number): AsyncGenerator<LogMessage> {
    for await (const page of this.pages(server, key, term, 1)) yield* page.messages;
  }

  /** The group that a room names and where it is: the pointer's Delivery Service, or where that one redirects to. */
  async hostOf(roomId: string): Promise<{ key: string; server: string }> {
    const binding = await this.matrix.roomState(roomId, BINDING);
    if (binding?.room_id !== roomId) throw new Error("the room names no group");
    const pointer = pointerTo(await this.matrix.roomState(roomId, POINTER), roomId, binding.group_id);
    const key = toBase64url(fromBase64url(binding.group_id));
    const { delivery_service } = await this.ds(pointer?.via ?? binding.creating_server).host(key);
    return { key, server: delivery_service };
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

  /** Enters a group by an external Commit, which removes the own former leaf (RFC 9420, section 12.4.3.2). */
  async enterAnew(key: string, roomId: string, server: string): Promise<Group> {
    const ds = this.ds(server);
    for (let races = 0; ; races++) {
      const { group_info, self_removes, epoch } = await ds.group(key);
      const tree = await ds.tree(key, epoch);
      const leaving = (self_removes ?? []).map(fromBase64);
      const identity = ownIdentity(this.stored);
      const commit = await mls.externalCommit(identity, fromBase64(group_info), tree, seconds(this.world), leaving);
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

  /** The device is in a group from a message of its log on. What it knew of the group before is over. */
  private async enter(
    key: string,
    roomId: string,
    ds: string,
    at: { term: number; seq: number },
    state: ClientState,
  ): Promise<Group> {
    const fresh = newGroup(roomId, ds, at, state);
    if (fresh.key !== key) throw new Error("the Welcome or GroupInfo is for another group");
    const known = this.stored.groups.get(key);
    if (known !== undefined) this.endMigrationCommit(known);
    if (known !== undefined) this.endPending(known);
    if (known !== undefined) this.endRefused(known);
    const g: Group = Object.assign(known ?? {}, fresh); // whoever waits for the group holds this object
    if (g.outgoing !== undefined) g.outgoing.message = undefined; // it was for the former leaf
    this.stored.groups.set(key, g);
    this.world.save();
    this.world.emit({ event: "joined", group: key, epoch: epochOf(g) });
    await this.catchUp(g);
    return g;
  }
}
