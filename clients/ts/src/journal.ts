// Keeps what has changed, and gives the application the events of it afterwards.
import type { ClientEvent, Group, Stored } from "./group.js";
import { belongsTo, type Content, deviceRecords, encodeContent } from "./records.js";
import { groupRecords, isSame, loadState } from "./records.js";
import type { Store, Value } from "./store.js";

const EVENT = "event/";

/** The name of the record of an event. Names have the order of events. */
const eventName = (n: number) => EVENT + String(n).padStart(16, "0");

/** Takes an event. The event counts as taken when the promise is fulfilled or rejected. */
export type Listener = (event: ClientEvent) => unknown;

/** A device's state in a store, and its events. */
export class Journal {
  /** The content of each record as it was last written. */
  private readonly written = new Map<string, Content>();
  private queue: ClientEvent[] = [];
  /** Records of events that the application has taken. The next write deletes them. */
  private taken: string[] = [];
  private events = 0;
  private untold: [string, Value][] = [];
  private last: Promise<void> = Promise.resolve();

  private constructor(
    private readonly store: Store,
    readonly stored: Stored,
    private readonly listener: Listener,
  ) {}

  /** Reads a store. */
  static async open(store: Store, listener: Listener): Promise<Journal> {
    const records = await store.load();
    const journal = new Journal(store, loadState(records), listener);
    journal.note(undefined);
    for (const g of journal.stored.groups.values()) journal.note(g);
    journal.untold = [...records].filter(([name]) => name.startsWith(EVENT)).sort();
    journal.events = Number(journal.untold.at(-1)?.[0].slice(EVENT.length) ?? -1) + 1;
    return journal;
  }

  /** Gives the application the events of an earlier run that it may not have taken. */
  repeat(): void {
    for (const [name, event] of this.untold.splice(0)) this.tell(name, JSON.parse(event as string));
  }

  /** Gives an event to the application when the next write is durable. */
  emit(event: ClientEvent): void {
    this.queue.push(event);
  }

  /**
   * Writes the device's state and that of the given groups as they are now, with all events of these groups since the
   * last write. It returns when they are durable. After a failure all later calls fail: the store has less than this
   * program knows.
   */
  save(...groups: Group[]): Promise<void> {
    const keys = new Set(groups.map((g) => g.key));
    const changes = new Map<string, Value | undefined>(this.taken.splice(0).map((name) => [name, undefined]));
    for (const part of [undefined, ...groups]) for (const [name, value] of this.note(part)) changes.set(name, value);
    const due = (e: ClientEvent) => !("group" in e && this.stored.groups.has(e.group)) || keys.has(e.group);
    const events = this.queue.filter(due).map((event) => [eventName(this.events++), event] as const);
    this.queue = this.queue.filter((e) => !due(e));
    for (const [name, event] of events) changes.set(name, JSON.stringify(event));
    if (changes.size > 0)
      this.last = this.last.then(async () => {
        await this.store.commit(changes);
        for (const [name, event] of events) this.tell(name, event);
      });
    this.last.catch(() => undefined); // each caller gets the failure
    return this.last;
  }

  /** The changes of a part of the state since it was last written: of a group, or of the device without one. */
  private note(g: Group | undefined): Map<string, Value | undefined> {
    const records = g === undefined ? deviceRecords(this.stored) : groupRecords(g);
    const changes = new Map<string, Value | undefined>();
    for (const [name, content] of records) {
      if (isSame(this.written.get(name), content)) continue;
      this.written.set(name, content);
      changes.set(name, encodeContent(content));
    }
    for (const name of this.written.keys())
      if (belongsTo(name, g) && !records.has(name)) {
        this.written.delete(name);
        changes.set(name, undefined);
      }
    return changes;
  }

  private tell(name: string, event: ClientEvent): void {
    const done = () => void this.taken.push(name);
    new Promise((resolve) => resolve(this.listener(event))).then(done, done);
  }
}
