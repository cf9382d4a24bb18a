// Follows the requests of hosts to move a group (profile, section 8, "A server that empties itself").
import type { Outcome } from "./client.js";
import type { Group, Surroundings } from "./group.js";
import { type Inbox, RESERVED_USER } from "./inbox.js";
import type { Matrix } from "./matrix.js";
import { RoomState } from "./room.js";
import type { MatrixEvent } from "./transport.js";
import { decode, fromBase64, isServerName, type MoveRequest, moveRequest, toBase64url } from "./wire.js";

/** The longest time for which a request counts, with some for a clock that is wrong, in milliseconds. */
const LONGEST = 24 * 3600_000 + 10 * 60_000;

/** Where a group is. A move that a host asks for begins there and nowhere else. */
export type Host = Pick<Group, "ds" | "term">;

/** What a client does for a request. */
export interface Mover {
  group(key: string): Group | undefined;
  bringUpToDate(g: Group): Promise<void>;
  migrate(g: Group, target: string, from: Host): Promise<Outcome>;
}

/** The content of a request event; undefined if it is not well-formed. */
function parse({ content }: MatrixEvent): { request: MoveRequest; keyId: string } | undefined {
  const { message, key_id } = content ?? ({} as any);
  if (typeof message !== "string" || typeof key_id !== "string") return undefined;
  try {
    return { request: decode(moveRequest, fromBase64(message)), keyId: key_id };
  } catch {
    return undefined;
  }
}

/** Moves groups when their hosts ask for it. */
export class MoveRequests {
  /** The groups for which a genuine request is being followed, by their ids. */
  private readonly following = new Set<string>();

  constructor(
    private readonly matrix: Matrix,
    private readonly inbox: Inbox,
    private readonly world: Surroundings,
    private readonly mover: Mover,
  ) {}

  /** Follows a request. It never fails: the host asks another member when this one does nothing. */
  async followRequest(event: MatrixEvent): Promise<void> {
    const parsed = parse(event);
    const key = parsed === undefined ? "" : toBase64url(parsed.request.groupId);
    const g = this.mover.group(key);
    if (parsed === undefined || g === undefined) return;
    try {
      const { request, keyId } = parsed;
      await this.mover.bringUpToDate(g);
      const reason = this.unfit(g, event.sender, request);
      if (reason !== undefined || !(await this.inbox.evidence.signedBy(g, g.ds, keyId, moveRequest, request))) {
        const from = event.sender;
        return this.world.emit({ event: "ignored", group: key, from, reason: reason ?? "a forged request to move" });
      }
      await this.moveOnce(g, request);
    } catch (e) {
      this.world.emit({ event: "failed", group: key, reason: String(e) });
    }
  }

  /** Why a request does not count; undefined if only its signature is to be checked. */
  private unfit(g: Group, sender: string, r: MoveRequest): string | undefined {
    const left = Number(r.expiresAt) - this.world.now();
    if (r.sourceDomain !== g.ds || sender !== RESERVED_USER + g.ds) return "a request to move from another server";
    if (Number(r.term) !== g.term || r.roomId !== g.roomId) return "a request to move of another term or room";
    if (r.userId !== this.matrix.transport.userId) return "a request to move for another user";
    if (left <= 0) return "a request to move that has expired";
    if (left > LONGEST) return "a request to move without an end";
    return undefined;
  }

  /** Moves a group for a genuine request, unless another genuine one is being followed. */
  private async moveOnce(g: Group, request: MoveRequest): Promise<void> {
    if (this.following.has(g.key)) return;
    this.following.add(g.key);
    try {
      await this.move(g, request);
    } finally {
      this.following.delete(g.key);
    }
  }

  /** Moves a group from where the request says to the first of the targets that the user permits and that takes it. */
  private async move(g: Group, { sourceDomain: ds, term, targets }: MoveRequest): Promise<void> {
    const from = { ds, term: Number(term) };
    const permitted = await this.permitted(g, targets);
    this.world.emit({ event: "moveRequested", group: g.key, from: ds, targets, permitted });
    let failure: unknown;
    for (const target of permitted) {
      try {
        const outcome = await this.mover.migrate(g, target, from);
        if (outcome.state === "moved") return;
        failure = new Error(outcome.reason);
      } catch (e) {
        failure = e;
      }
    }
    if (failure !== undefined) throw failure;
  }

  /** The targets that the user's settings permit. By default these are the servers with joined users in the room. */
  private async permitted(g: Group, targets: string[]): Promise<string[]> {
    const others = targets.filter((target) => isServerName(target) && target !== g.ds);
    const { mayMove } = this.world;
    if (mayMove !== undefined) return others.filter((target) => mayMove(g.roomId, target));
    const room = new RoomState(await this.matrix.allRoomState(g.roomId));
    return others.filter((target) => room.hasServer(target));
  }
}
