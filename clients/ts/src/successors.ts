// The servers that a room has agreed on to take its group on when the host is lost (profile, sections 3 and 12).
import { POINTER, type StateEvent, SUCCESSORS } from "./matrix.js";
import { isRedacted, RoomState } from "./room.js";
import { isServerName } from "./wire.js";

/** How many successors a room names at most. */
const MAX_SUCCESSORS = 16;

/** A list of successors is at most 16 valid server names, none of them twice. */
const isList = (servers: unknown): servers is string[] =>
  Array.isArray(servers) &&
  servers.length <= MAX_SUCCESSORS &&
  new Set(servers).size === servers.length &&
  servers.every((s) => typeof s === "string" && isServerName(s));

/** The list in the content of the event; undefined where it is void for the room and group, or none at all. */
export function successorsIn(content: any, roomId: string, groupId: string): string[] | undefined {
  const { room_id, group_id, servers } = content ?? {};
  return room_id === roomId && group_id === groupId && isList(servers) ? servers : undefined;
}

/**
 * The successors that a room's state supports now, the first before the others: the sender of the list must have the
 * power for the pointer, each server a joined user, and the ACL let it in. known is the last good list, in place of one
 * that was redacted.
 */
export function successorsNow(events: StateEvent[], roomId: string, groupId: string, known: string[]): string[] {
  const state = new RoomState(events);
  const event = state.find(SUCCESSORS);
  if (event === undefined || !state.maySend(event.sender, POINTER, SUCCESSORS)) return [];
  const list = isRedacted(event.content) ? known : successorsIn(event.content, roomId, groupId);
  return (list ?? []).filter((server) => state.hasServer(server));
}

/** The content of the event that names successors. Fails for a list that no server would take. */
export function successorsOf(events: StateEvent[], userId: string, roomId: string, groupId: string, servers: string[]) {
  const state = new RoomState(events);
  if (!isList(servers)) throw new Error(`successors are at most ${MAX_SUCCESSORS} server names, each once`);
  if (!state.maySend(userId, POINTER, SUCCESSORS)) throw new Error(`${userId} may not name successors`);
  const missing = servers.find((s) => !state.hasServer(s));
  if (missing !== undefined) throw new Error(`${missing} has no user in the room, or the room's server ACL denies it`);
  return { room_id: roomId, group_id: groupId, servers };
}
