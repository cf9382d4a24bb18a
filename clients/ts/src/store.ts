// The place where a device keeps its state: records with names, in a file, in a browser's database or in memory.

/** The value of a record. */
export type Value = string | Uint8Array;

/**
 * The records of one device. They hold secrets: group states, signature and KeyPackage keys. Of two tabs or processes,
 * one has the store: two that encrypt from one state would break the device.
 */
export interface Store {
  /**
   * Waits until no other tab or process has the store, and takes it. Returns the function that gives it back. If the
   * signal ends the wait, it throws the signal's reason.
   */
  exclusive(signal?: AbortSignal): Promise<() => Promise<void>>;

  /** All records by their names. */
  load(): Promise<Map<string, Value>>;

  /**
   * Writes records, and deletes those that are undefined. After a crash all of the changes are there, or none. When it
   * returns, they are durable. It throws if another tab or process has taken the store.
   */
  commit(changes: ReadonlyMap<string, Value | undefined>): Promise<void>;
}

/** Applies changes to records. */
export function apply(records: Map<string, Value>, changes: ReadonlyMap<string, Value | undefined>): void {
  for (const [name, value] of changes) {
    if (value === undefined) records.delete(name);
    else records.set(name, value);
  }
}

/** A store that is gone with the page or the process. */
export class MemoryStore implements Store {
  private readonly records = new Map<string, Value>();
  private last: Promise<void> = Promise.resolve();

  /** Lets one at a time through, in the order in which they came. */
  async exclusive(signal?: AbortSignal): Promise<() => Promise<void>> {
    const before = this.last;
    let leave = () => {};
    const left = new Promise<void>((resolve) => (leave = resolve));
    this.last = before.then(() => left);
    try {
      await orAborted(before, signal);
    } catch (e) {
      leave();
      throw e;
    }
    return async () => leave();
  }

  async load(): Promise<Map<string, Value>> {
    return new Map(this.records);
  }

  async commit(changes: ReadonlyMap<string, Value | undefined>): Promise<void> {
    apply(this.records, changes);
  }
}

/** Waits for a promise, and throws the signal's reason if the signal comes first. */
export async function orAborted<T>(promise: Promise<T>, signal: AbortSignal | undefined): Promise<T> {
  if (signal === undefined) return promise;
  signal.throwIfAborted();
  let abort = () => {};
  const aborted = new Promise<never>((_, reject) => {
    abort = () => reject(signal.reason);
    signal.addEventListener("abort", abort, { once: true });
  });
  try {
    return await Promise.race([promise, aborted]);
  } finally {
    signal.removeEventListener("abort", abort);
  }
}
