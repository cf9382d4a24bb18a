// What a client in a browser needs besides: a store in IndexedDB.
import { MimiportError } from "./errors.js";
import type { Store, Value } from "./store.js";

const RECORDS = "records";

/** What a browser gives a page. */
export interface Browser {
  indexedDB: IDBFactory;
  navigator: { locks: Pick<LockManager, "request"> };
}

/** A store in a database of the page's origin. A Web Lock lets one tab have it. The browser frees it with the tab. */
export class IndexedDbStore implements Store {
  private database: Promise<IDBDatabase> | undefined;
  private isOwner = false;

  constructor(
    private readonly name: string,
    private readonly browser: Browser = globalThis,
  ) {}

  async exclusive(signal?: AbortSignal): Promise<() => Promise<void>> {
    return new Promise((resolve, reject) => {
      const hold = () =>
        new Promise<void>((leave) => {
          this.isOwner = true;
          resolve(async () => {
            this.isOwner = false;
            (await this.database)?.close();
            this.database = undefined;
            leave();
          });
        });
      const { locks } = this.browser.navigator;
      locks.request(`mimiport ${this.name}`, signal === undefined ? {} : { signal }, hold).catch(reject);
    });
  }

  async load(): Promise<Map<string, Value>> {
    const transaction = (await this.open()).transaction(RECORDS);
    const [names, values] = [transaction.objectStore(RECORDS).getAllKeys(), transaction.objectStore(RECORDS).getAll()];
    await finished(transaction);
    return new Map(names.result.map((name, i) => [String(name), values.result[i]]));
  }

  async commit(changes: ReadonlyMap<string, Value | undefined>): Promise<void> {
    if (!this.isOwner) throw new MimiportError("STORE_TAKEN", `another tab has taken ${this.name}`);
    const transaction = (await this.open()).transaction(RECORDS, "readwrite", { durability: "strict" });
    const records = transaction.objectStore(RECORDS);
    for (const [name, value] of changes) {
      if (value === undefined) records.delete(name);
      else records.put(value, name);
    }
    await finished(transaction);
  }

  private open(): Promise<IDBDatabase> {
    this.database ??= new Promise((resolve, reject) => {
      const request = this.browser.indexedDB.open(this.name);
      request.onupgradeneeded = () => request.result.createObjectStore(RECORDS);
      request.onsuccess = () => resolve(request.result);
      request.onerror = () => reject(request.error);
    });
    return this.database;
  }
}

/** Waits until all of a transaction is durable. */
function finished(transaction: IDBTransaction): Promise<void> {
  return new Promise((resolve, reject) => {
    transaction.oncomplete = () => resolve();
    transaction.onabort = () => reject(transaction.error);
  });
}
