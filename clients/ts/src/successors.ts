// Successors: the servers that a room permits to take its group on when the host is lost (profile, sections 3 and 12).
import { POINTER, type StateEvent, SUCCESSORS } from "./matrix.js";
import { MimiportError } from "./errors.js";
import { isRedacted, RoomState } from "./room.js";
import { isServerName } from "./wire.js";

/** The largest number of successors of a room. */
const MAX_SUCCESSORS = 16;

/** A list of successors has at most 16 valid server names, each once. */
const isList = (servers: unknown): servers is string[] =>
  Array.isArray(servers) &&
  servers.length <= MAX_SUCCESSORS &&
  new Set(servers).size === servers.length &&
  servers.every((s) => typeof s === "string" && isServerName(s));

/** The list in the content of the event; undefined if it is not valid for the room and group. */
export function successorsIn(content: any, roomId: string, groupId: string): string[] | undefined {
  const { room_id, group_id, servers } = content ?? {};
  return room_id === roomId && group_id === groupId && isList(servers) ? servers : undefined;
}

/**
 * The successors that a room's state supports now, in order. The sender of the list must have the power to send the
 * pointer. Each server must have a joined user, and the ACL must permit it. known is the last good list, which replaces
 * a redacted one.
 */
export function successorsNow(events: StateEvent[], roomId: string, groupId: string, known: string[]): string[] {
  const state = new RoomState(events);
  const event = state.find(SUCCESSORS);
  if (event === undefined || !state.maySend(event.sender, POINTER, SUCCESSORS)) return [];
  const list = isRedacted(event.content) ? known : successorsIn(event.content, roomId, groupId);
  return (list ?? []).filter((server) => state.hasServer(server));
}

/** The content of the event that names successors. Fails for a list that no server would accept. */
export function successorsOf(events: StateEvent[], userId: string, roomId: string, groupId: string, servers: string[]) {
  const state = new RoomState(events);
  if (!isList(servers))
    throw new MimiportError("INVALID", `successors are at most ${MAX_SUCCESSORS} server names, each once`);
  if (!state.maySend(userId, POINTER, SUCCESSORS))
    throw new MimiportError("FORBIDDEN", `${userId} may not name successors`);
  const missing = servers.find((s) => !state.hasServer(s));
  if (missing === undefined) return { room_id: roomId, group_id: groupId, servers };
  throw new MimiportError("INVALID", `${missing} has no user in the room, or the room's server ACL denies it`);
}
