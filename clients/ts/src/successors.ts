// The servers that a room has agreed on to take its group on when the host is lost (profile, sections 3 and 12).
import { isIP } from "node:net";
import { POINTER, serverOf, type StateEvent, SUCCESSORS } from "./matrix.js";
import { isServerName } from "./wire.js";

/** How many successors a room names at most. */
const MAX_SUCCESSORS = 16;

const ACL = "m.room.server_acl";
const CREATE = "m.room.create";
const MEMBER = "m.room.member";
const POWER_LEVELS = "m.room.power_levels";

/** The level that a room asks for state events without one of their own. */
const STATE_DEFAULT = 50;

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

/** Whether a redaction has left nothing of an event's content. */
const isRedacted = (content: any): boolean => Object.keys(content ?? {}).length === 0;

/** A room's state as its members see it now. */
class RoomState {
  constructor(private readonly events: StateEvent[]) {}

  find(type: string): StateEvent | undefined {
    return this.events.find((e) => e.type === type && e.state_key === "");
  }

  /** Whether a user may send state events of all these types now. */
  maySend(userId: string, ...types: string[]): boolean {
    const levels = this.find(POWER_LEVELS)?.content;
    const rest = Number(levels?.state_default ?? (levels ? STATE_DEFAULT : 0));
    const needed = types.map((type) => Number(levels?.events?.[type] ?? rest));
    return this.power(userId, levels) >= Math.max(...needed);
  }

  private power(userId: string, levels: any): number {
    const create = this.find(CREATE);
    const creators = [create?.sender, ...(create?.content?.additional_creators ?? [])];
    // From version 12 on a room's creators have more power than any level.
    if (Number(create?.content?.room_version) >= 12 && creators.includes(userId)) return Infinity;
    if (levels === undefined) return create?.sender === userId ? 100 : 0;
    return Number(levels.users?.[userId] ?? levels.users_default ?? 0);
  }

  /** Whether a server has a joined user, and the room's server ACL lets it in. */
  hasServer(server: string): boolean {
    const isThere = ({ type, state_key, content }: StateEvent) =>
      type === MEMBER && content?.membership === "join" && serverOf(state_key) === server;
    return this.events.some(isThere) && letsIn(this.find(ACL)?.content, server);
  }
}

/** Whether a server ACL lets a server in. One that was redacted is passed over: its content is not to be had. */
function letsIn(acl: any, server: string): boolean {
  if (isRedacted(acl)) return true;
  const host = server.toLowerCase().replace(/:\d+$/, "");
  const isLiteral = isIP(host.replace(/^\[|\]$/g, "")) > 0;
  const matches = (globs: unknown) =>
    Array.isArray(globs) && globs.some((g) => typeof g === "string" && fits(host, g.toLowerCase()));
  return !(isLiteral && acl.allow_ip_literals === false) && !matches(acl.deny) && matches(acl.allow);
}

/** Whether a name is what a pattern with `*` and `?` says. A regular expression could take for ever. */
function fits(name: string, pattern: string): boolean {
  let [n, p, star, from] = [0, 0, -1, 0];
  while (n < name.length) {
    if (pattern[p] === "*") [star, from, p] = [p, n, p + 1];
    else if (pattern[p] === "?" || pattern[p] === name[n]) [n, p] = [n + 1, p + 1];
    else if (star >= 0) [n, from, p] = [from + 1, from + 1, star + 1];
    else return false;
  }
  return /^\**$/.test(pattern.slice(p));
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
