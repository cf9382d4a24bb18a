// Keeps what has changed, and gives the application the events of it afterwards.
import type { ClientEvent, Group, Stored } from "./group.js";
import { slices } from "./pace.js";
import { belongsTo, type Content, deviceRecords, encodeContent } from "./records.js";
import { groupRecords, isSame, loadState } from "./records.js";
import type { Store, Value } from "./store.js";

const EVENTS = "events/";

/** The name of the record with the events of one write. Names have the order of writes. */
const eventsName = (n: number) => EVENTS + String(n).padStart(16, "0");

/** Records by name: their new content, or undefined to delete one. */
type Changes = Map<string, Content | undefined>;

/** Takes an event. The event counts as taken when the promise is fulfilled or rejected. */
export type Listener = (event: ClientEvent) => unknown;

/** A device's state in a store, and its events. */
export class Journal {
  /** The content of each record as it was last written. */
  private readonly written = new Map<string, Content>();
  private queue: ClientEvent[] = [];
  /** Records of which the application has taken all events. The next write deletes them. */
  private taken: string[] = [];
  private writes = 0;
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
    journal.untold = [...records].filter(([name]) => name.startsWith(EVENTS)).sort();
    journal.writes = Number(journal.untold.at(-1)?.[0].slice(EVENTS.length) ?? -1) + 1;
    return journal;
  }

  /** Gives the application the events of an earlier run that it may not have taken. */
  repeat(): void {
    for (const [name, events] of this.untold.splice(0))
      this.last = this.last.then(() => this.tell(name, JSON.parse(events as string)));
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
    const changes: Changes = new Map(this.taken.splice(0).map((name) => [name, undefined]));
    for (const part of [undefined, ...groups]) for (const [name, c] of this.note(part)) changes.set(name, c);
    const due = (e: ClientEvent) => !("group" in e && this.stored.groups.has(e.group)) || keys.has(e.group);
    const events = this.queue.filter(due);
    this.queue = this.queue.filter((e) => !due(e));
    const name = eventsName(this.writes++);
    if (events.length > 0) changes.set(name, JSON.stringify(events));
    if (changes.size > 0)
      this.last = this.last.then(async () => {
        await this.store.commit(await encoded(changes));
        await this.tell(name, events);
      });
    this.last.catch(() => undefined); // each caller gets the failure
    return this.last;
  }

  /** The changes of a part of the state since it was last written: of a group, or of the device without one. */
  private note(g: Group | undefined): Changes {
    const records = g === undefined ? deviceRecords(this.stored) : groupRecords(g);
    const changes: Changes = new Map();
    for (const [name, content] of records) {
      if (isSame(this.written.get(name), content)) continue;
      this.written.set(name, content);
      changes.set(name, content);
    }
    for (const name of this.written.keys())
      if (belongsTo(name, g) && !records.has(name)) {
        this.written.delete(name);
        changes.set(name, undefined);
      }
    return changes;
  }

  /** Gives the application the events of a record, and does not wait until it has taken them. */
  private async tell(name: string, events: ClientEvent[]): Promise<void> {
    const pace = slices();
    const taken: Promise<unknown>[] = [];
    for (const event of events) {
      taken.push(new Promise((resolve) => resolve(this.listener(event))));
      await pace();
    }
    void Promise.allSettled(taken).then(() => events.length > 0 && this.taken.push(name));
  }
}

/** Encodes the changes of one write. Other work runs in between. */
async function encoded(changes: Changes): Promise<Map<string, Value | undefined>> {
  const pace = slices();
  const values = new Map<string, Value | undefined>();
  for (const [name, content] of changes) {
    values.set(name, content && encodeContent(content));
    await pace();
  }
  return values;
}
