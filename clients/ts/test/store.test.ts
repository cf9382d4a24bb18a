// What every store promises, for each of them.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { appendFileSync, mkdtempSync, rmSync, truncateSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { once } from "node:events";
import { describe, test, type TestContext } from "node:test";
import { IDBFactory } from "fake-indexeddb";
import { type Browser, IndexedDbStore } from "../src/browser.js";
import { FileStore } from "../src/node.js";
import { MemoryStore, type Store, type Value } from "../src/store.js";

/** Web Locks as a browser has them, as far as the store uses them. */
class FakeLocks {
  private last: Promise<unknown> = Promise.resolve();

  async request(_: string, { signal }: { signal?: AbortSignal }, hold: () => Promise<unknown>): Promise<any> {
    let given = false;
    const run = this.last.then(() => (signal?.aborted ? undefined : ((given = true), hold())));
    this.last = run.catch(() => undefined);
    const aborted = new Promise<never>((_, reject) =>
      signal?.addEventListener("abort", () => given || reject(signal.reason)),
    );
    return Promise.race([run, aborted]);
  }
}

function directory(t: TestContext): string {
  const dir = mkdtempSync(join(tmpdir(), "mimiport-"));
  t.after(() => rmSync(dir, { recursive: true }));
  return dir;
}

/** How a tab or process opens the same store: once for each call of the result. */
const kinds: Record<string, (t: TestContext) => () => Store> = {
  memory: () => {
    const store = new MemoryStore();
    return () => store;
  },
  file: (t) => {
    const path = join(directory(t), "store");
    return () => new FileStore(path);
  },
  IndexedDB: () => {
    const browser = { indexedDB: new IDBFactory(), navigator: { locks: new FakeLocks() } } as unknown as Browser;
    return () => new IndexedDbStore("store", browser);
  },
};

const changes = (c: Record<string, Value | undefined>) => new Map(Object.entries(c));

for (const [kind, create] of Object.entries(kinds))
  describe(`a store: ${kind}`, () => {
    test("has what was committed when it is opened again", async (t) => {
      const open = create(t);
      const [store, bytes] = [open(), new Uint8Array([0, 255, 128])];
      const leave = await store.exclusive();
      assert.deepEqual(await store.load(), new Map());
      await store.commit(changes({ a: "1", "b/c": bytes, gone: "x", empty: "" }));
      await store.commit(changes({ a: "2", gone: undefined }));
      await leave();
      const again = open();
      await again.exclusive();
      const records = await again.load();
      assert.deepEqual([records.get("a"), records.get("empty"), records.size], ["2", "", 3]);
      assert.deepEqual(new Uint8Array(records.get("b/c") as Uint8Array), bytes);
    });

    test("a second one waits until the first has left, and its wait can be ended", async (t) => {
      const open = create(t);
      const leave = await open().exclusive();
      const second = open();
      const order: string[] = [];
      const waiting = second.exclusive().then((left) => (order.push("second"), left));
      const third = new AbortController();
      const ended = assert.rejects(open().exclusive(third.signal));
      third.abort();
      await ended;
      order.push("first leaves");
      await leave();
      await (
        await waiting
      )();
      assert.deepEqual(order, ["first leaves", "second"]);
    });
  });

for (const kind of ["file", "IndexedDB"])
  test(`who does not have the store cannot write: ${kind}`, async (t) => {
    const open = kinds[kind]!(t);
    const [first, second] = [open(), open()];
    await first.exclusive();
    await assert.rejects(second.commit(changes({ a: "stolen" })), { code: "STORE_TAKEN" });
    assert.deepEqual(await first.load(), new Map());
  });

describe("a file", () => {
  test("that ends within a commit has the commits before it", async (t) => {
    const path = join(directory(t), "store");
    const store = new FileStore(path);
    const leave = await store.exclusive();
    await store.commit(changes({ a: "1" }));
    await store.commit(changes({ a: "2", b: "2" }));
    await leave();
    const whole = statSync(path).size;
    truncateSync(path, whole - 1);
    for (const [torn, want] of [
      ["", "1"],
      ["more that is no commit", "3"],
    ] as const) {
      appendFileSync(path, torn);
      const again = new FileStore(path);
      const left = await again.exclusive();
      assert.equal((await again.load()).get("a"), want);
      await again.commit(changes({ a: "3" }));
      await left();
    }
  });

  test("stays small, however often a record changes", async (t) => {
    const path = join(directory(t), "store");
    const store = new FileStore(path);
    const leave = await store.exclusive();
    for (let i = 0; i < 40; i++) await store.commit(changes({ a: String(i).repeat(100_000), b: "kept" }));
    await leave();
    assert.ok(statSync(path).size < 3 << 20);
    const again = new FileStore(path);
    await again.exclusive();
    assert.deepEqual((await again.load()).get("b"), "kept");
  });

  test("is free when its process was killed", async (t) => {
    const path = join(directory(t), "store");
    const script = `
      const { FileStore } = await import(${JSON.stringify(new URL("../src/node.js", import.meta.url).href)});
      const store = new FileStore(process.argv[1]);
      await store.exclusive();
      await store.commit(new Map([["a", "durable"]]));
      console.log("has it");
      setInterval(() => {}, 1000);`;
    const holder = spawn(process.execPath, ["--input-type=module", "-e", script, path]);
    holder.stderr.pipe(process.stderr);
    await once(holder.stdout, "data");
    const store = new FileStore(path);
    await assert.rejects(store.commit(changes({ a: "stolen" })), { code: "STORE_TAKEN" });
    const taken = store.exclusive();
    holder.kill("SIGKILL");
    await taken;
    assert.equal((await store.load()).get("a"), "durable");
  });

  test("is free when its lock names a process that another one has the id of", async (t) => {
    const path = join(directory(t), "store");
    writeFileSync(`${path}.lock`, `${process.pid} 1`);
    await new FileStore(path).exclusive();
  });
});
