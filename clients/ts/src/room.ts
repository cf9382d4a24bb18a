// A room's state as its members see it: the powers of users, and the servers in the room.
import { serverOf, type StateEvent } from "./matrix.js";

const ACL = "m.room.server_acl";
export const CREATE = "m.room.create";
const MEMBER = "m.room.member";
/** Says that another room replaces the room. */
export const TOMBSTONE = "m.room.tombstone";
export const POWER_LEVELS = "m.room.power_levels";

/** The level that a room requires for state events without a level of their own. */
const STATE_DEFAULT = 50;

/** Whether a redaction has removed all of an event's content. */
export const isRedacted = (content: any): boolean => Object.keys(content ?? {}).length === 0;

/** A room's state as its members see it now. */
export class RoomState {
  constructor(private readonly events: StateEvent[]) {}

  find(type: string): StateEvent | undefined {
    return this.events.find((e) => e.type === type && e.state_key === "");
  }

  /** Whether a user may send state events of all these types now. */
  maySend(userId: string, ...types: string[]): boolean {
    const levels = this.find(POWER_LEVELS)?.content;
    const rest = Number(levels?.state_default ?? (levels ? STATE_DEFAULT : 0));
    const needed = types.map((type) => Number(levels?.events?.[type] ?? rest));
    return this.power(userId) >= Math.max(...needed);
  }

  /** The power of a user. */
  power(userId: string): number {
    const levels = this.find(POWER_LEVELS)?.content;
    const create = this.find(CREATE);
    // In rooms of version 12 and later, creators have more power than any level.
    if (Number(create?.content?.room_version) >= 12 && creatorsOf(create!).includes(userId)) return Infinity;
    if (levels === undefined) return create?.sender === userId ? 100 : 0;
    return Number(levels.users?.[userId] ?? levels.users_default ?? 0);
  }

  /** Whether a server has a joined user, and the room's server ACL permits the server. */
  hasServer(server: string): boolean {
    const isThere = ({ type, state_key, content }: StateEvent) =>
      type === MEMBER && content?.membership === "join" && serverOf(state_key) === server;
    return this.events.some(isThere) && letsIn(this.find(ACL)?.content, server);
  }
}

/** The creators of a room, by its create event. */
function creatorsOf({ sender, content }: StateEvent): unknown[] {
  return [sender, ...(Array.isArray(content.additional_creators) ? content.additional_creators : [])];
}

/** Whether a server ACL permits a server. A redacted ACL is ignored, since its content is lost. */
function letsIn(acl: any, server: string): boolean {
  if (isRedacted(acl)) return true;
  const host = server.toLowerCase().replace(/:\d+$/, "");
  const isLiteral = host.startsWith("[") || (/^\d+(\.\d+){3}$/.test(host) && URL.canParse(`http://${host}`));
  const matches = (globs: unknown) =>
    Array.isArray(globs) && globs.some((g) => typeof g === "string" && fits(host, g.toLowerCase()));
  return !(isLiteral && acl.allow_ip_literals === false) && !matches(acl.deny) && matches(acl.allow);
}

/** Whether a name matches a pattern with `*` and `?`. A regular expression could take exponential time. */
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
