// Announces a group in its room, where no homeserver does it for its user (profile, sections 7 and 12).
import { same } from "./bytes.js";
import { MimiportError } from "./errors.js";
import { type Preimage, PROTOCOL, type Signed } from "./ds.js";
import type { Group, OwnMigration } from "./group.js";
import { BINDING, type Matrix, POINTER, SUCCESSORS } from "./matrix.js";
import { suiteId } from "./mls.js";
import { type Pointer, pointerTo } from "./pointer.js";
import { CREATE, POWER_LEVELS, RoomState, TOMBSTONE } from "./room.js";
import { decode, fromBase64, fromBase64url, groupIdOf, migrationResponse, toBase64 } from "./wire.js";

/** The power level for the events that name a group and its place. */
const RESERVED_LEVEL = 100;

/** Announces in rooms what a user does with their groups. It does not repeat what a homeserver has announced. */
export class Announcer {
  constructor(private readonly matrix: Matrix) {}

  /**
   * Fails unless the own user can name a group in a room and, the first time, reserve the events for it. If a room does
   * not name its group, the group is lost.
   */
  async requireAnnouncer(roomId: string): Promise<void> {
    const { userId } = this.matrix.transport;
    const state = new RoomState(await this.matrix.allRoomState(roomId));
    const may = state.maySend(userId, POINTER, BINDING);
    const mayReserve = state.maySend(userId, POWER_LEVELS) && state.power(userId) >= RESERVED_LEVEL;
    if (!may || (reservingLevels(state.find(POWER_LEVELS)?.content) !== undefined && !mayReserve))
      throw new MimiportError("FORBIDDEN", `${userId} has not the power to announce a group in ${roomId}`);
  }

  /** Makes the room of a new group name it. It sends the binding last: where there is a binding, the rest was sent. */
  async announceGroup(g: Group, preimage: Preimage): Promise<void> {
    const { roomId: room_id, key: group_id, ds } = g;
    const bound = await this.matrix.roomState(room_id, BINDING);
    const named = bound?.room_id === room_id && bound.group_id === group_id;
    const levels = reservingLevels(await this.matrix.roomState(room_id, POWER_LEVELS));
    if (levels !== undefined) await this.matrix.setRoomState(room_id, POWER_LEVELS, levels);
    const of = { room_id, group_id };
    if (!named || (await this.matrix.roomState(room_id, POINTER)) === undefined)
      await this.matrix.setRoomState(room_id, POINTER, { ...of, via: ds, term: 0, epoch: 0 });
    if (named) return;
    const how = { protocol: PROTOCOL, cipher_suite: suiteId(g.state), preimage, creating_server: ds };
    const former = bound?.room_id === room_id ? { group_id: bound.group_id } : await this.formerOf(room_id);
    await this.matrix.setRoomState(room_id, BINDING, { ...of, ...how, ...(former && { former }) });
  }

  /** The group of the room that a room replaces, if that room says so too: anybody can name any predecessor. */
  private async formerOf(roomId: string): Promise<{ group_id: string; room_id: string } | undefined> {
    const room_id = (await this.matrix.roomState(roomId, CREATE))?.predecessor?.room_id;
    if (typeof room_id !== "string") return undefined;
    const events = await this.matrix.allRoomState(room_id).catch(() => []); // the user may never have been there
    const state = new RoomState(events);
    const bound = state.find(BINDING)?.content;
    const replaced = state.find(TOMBSTONE)?.content?.replacement_room === roomId && bound?.room_id === room_id;
    return replaced ? { group_id: bound.group_id, room_id } : undefined;
  }

  /** Points a room to the Delivery Service to which an own migration led, as its source decided. */
  async announceMove(g: Group, m: OwnMigration, confirmation: Signed): Promise<void> {
    const { roomId: room_id, key: group_id, ds: via, term } = g;
    const present = pointerTo(await this.matrix.roomState(room_id, POINTER), room_id, group_id);
    if (via !== m.target || (present !== undefined && present.term >= term)) return;
    const { epoch } = decode(migrationResponse, m.response).migrationRequest;
    // A host that was lost, and comes back after this move, still yields to the claim.
    const claim_hash = present?.claim_hash;
    const pointer: Pointer = {
      ...{ room_id, group_id, via, term, epoch: Number(epoch) + 1, migration_id: m.id },
      ...(claim_hash !== undefined && { claim_hash }),
      evidence: {
        migration_response: toBase64(m.response),
        response_key_id: m.keyId,
        migration_confirmation: confirmation.message,
        confirmation_key_id: confirmation.key_id,
      },
    };
    await this.matrix.setRoomState(room_id, POINTER, pointer);
  }
}

/**
 * A room's power levels with a level for each of the events that name a group and its place; undefined where binding
 * and pointer have one. Otherwise anybody who may send any state could move the room's group.
 */
function reservingLevels(levels: any): object | undefined {
  if (levels === undefined) throw new MimiportError("FORBIDDEN", "the room has no power levels");
  if (BINDING in (levels.events ?? {}) && POINTER in levels.events) return undefined;
  const own = { [BINDING]: RESERVED_LEVEL, [POINTER]: RESERVED_LEVEL, [SUCCESSORS]: RESERVED_LEVEL };
  return { ...levels, events: { ...own, ...levels.events } };
}

/** Fails unless the Delivery Service made the id for a group in the room. Otherwise it could choose any name. */
export function requireOwnId(id: string, preimage: Preimage | undefined, server: string, roomId: string): void {
  const made = groupIdOf({ creatingServer: server, roomId, nonce: fromBase64(preimage?.nonce ?? "") });
  if (preimage?.creating_server !== server || preimage.room_id !== roomId || !same(made, fromBase64url(id)))
    throw new MimiportError("NOT_GENUINE", `${server} did not make this id for the room`);
}
