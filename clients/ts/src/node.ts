// What a client on Node needs besides: a store in a file.
import { randomUUID } from "node:crypto";
import { type FileHandle, link, open, readFile, rename, rm, stat, writeFile } from "node:fs/promises";
import { dirname } from "node:path";
import { setTimeout as pause } from "node:timers/promises";
import { sha256, textOf, utf8 } from "./bytes.js";
import { MimiportError } from "./errors.js";
import { apply, type Store, type Value } from "./store.js";
import { fromBase64, toBase64 } from "./wire.js";

/** How often one who waits looks whether the store is free, in milliseconds. */
const LOOK = 100;
/** A file is written anew when this many bytes and more than half of it are out of date. */
const SLACK = 1 << 20;
/** Before each commit in the file: its length, 4 bytes, and the first bytes of its SHA-256. */
const LENGTH = 4;
const DIGEST = 8;

/**
 * A store in a file. Each commit is appended and flushed, so that a crash at any time leaves the commits before it. A
 * file beside it, named `<path>.lock`, says which process has the store. It counts as long as that process runs.
 */
export class FileStore implements Store {
  private records: Map<string, Value> | undefined;
  private file: FileHandle | undefined;
  private size = 0;
  /** How large the file was when it was written anew. */
  private least = 0;
  private lock: { ino: number } | undefined;
  private last: Promise<void> = Promise.resolve();

  constructor(private readonly path: string) {}

  private get lockPath(): string {
    return `${this.path}.lock`;
  }

  async exclusive(signal?: AbortSignal): Promise<() => Promise<void>> {
    while (!(await this.take())) await pause(LOOK, undefined, { signal });
    return () => this.leave();
  }

  /** Takes the lock if no running process has it. */
  private async take(): Promise<boolean> {
    const own = `${this.lockPath}.${randomUUID()}`;
    await writeFile(own, (await nameOf(process.pid)) ?? "", { mode: 0o600 });
    try {
      await link(own, this.lockPath); // fails if there is a lock
      this.lock = await stat(own);
      return true;
    } catch (e) {
      if (!isCode(e, "EEXIST")) throw e;
      await this.dropDead();
      return false;
    } finally {
      await rm(own, { force: true });
    }
  }

  /** Deletes the lock of a process that runs no more. */
  private async dropDead(): Promise<void> {
    const holder = await readFile(this.lockPath, "utf8").catch(() => undefined);
    if (holder === undefined || (await nameOf(Number(holder.split(" ")[0]))) === holder) return;
    const aside = `${this.lockPath}.${randomUUID()}`;
    await rename(this.lockPath, aside).catch(() => undefined);
    const moved = await readFile(aside, "utf8").catch(() => holder);
    if (moved !== holder) await link(aside, this.lockPath).catch(() => undefined); // another one was faster
    await rm(aside, { force: true });
  }

  private async leave(): Promise<void> {
    await this.last.catch(() => undefined);
    await this.file?.close();
    this.file = undefined;
    this.records = undefined;
    if (await this.isOwner()) await rm(this.lockPath, { force: true });
    this.lock = undefined;
  }

  private async isOwner(): Promise<boolean> {
    const there = await stat(this.lockPath).catch(() => undefined);
    return there !== undefined && there.ino === this.lock?.ino;
  }

  async load(): Promise<Map<string, Value>> {
    return new Map(await this.read());
  }

  /** The records. What follows the last whole commit was not committed. */
  private async read(): Promise<Map<string, Value>> {
    if (this.records !== undefined) return this.records;
    const bytes = await readFile(this.path).catch((e) => {
      if (!isCode(e, "ENOENT")) throw e;
      return new Uint8Array();
    });
    const records = new Map<string, Value>();
    let at = 0;
    for (let body = frameAt(bytes, at); body !== undefined; body = frameAt(bytes, at)) {
      apply(records, decodeChanges(body));
      at += LENGTH + DIGEST + body.length;
    }
    this.size = at;
    return (this.records = records);
  }

  commit(changes: ReadonlyMap<string, Value | undefined>): Promise<void> {
    const done = this.last.then(() => this.write(changes));
    this.last = done.catch(() => undefined);
    return done;
  }

  private async write(changes: ReadonlyMap<string, Value | undefined>): Promise<void> {
    if (!(await this.isOwner())) throw new MimiportError("STORE_TAKEN", `another process has taken ${this.path}`);
    const records = await this.read();
    apply(records, changes);
    if (this.size > 2 * this.least + SLACK) return this.writeAnew(records);
    const file = this.file ?? (await open(this.path, "a", 0o600));
    if (this.file === undefined) await file.truncate(this.size);
    this.file = file;
    const bytes = frame(changes);
    await file.writeFile(bytes);
    await file.datasync();
    this.size += bytes.length;
  }

  /** Writes the records alone to a new file, which takes the place of the old one. */
  private async writeAnew(records: Map<string, Value>): Promise<void> {
    const bytes = frame(records);
    const fresh = `${this.path}.new`;
    await writeFile(fresh, bytes, { mode: 0o600, flush: true });
    await rename(fresh, this.path);
    const directory = await open(dirname(this.path)).catch(() => undefined); // not every system opens one
    await directory?.sync().catch(() => undefined);
    await directory?.close();
    await this.file?.close();
    this.file = undefined;
    this.least = this.size = bytes.length;
  }
}

const isCode = (e: unknown, code: string) => e instanceof Error && "code" in e && e.code === code;

/** A process's id and, where Linux tells it, the time of its start: another process may get the same id. */
async function nameOf(pid: number): Promise<string | undefined> {
  try {
    process.kill(pid, 0);
  } catch (e) {
    if (!isCode(e, "EPERM")) return undefined;
  }
  const stat = await readFile(`/proc/${pid}/stat`, "utf8").catch(() => "");
  return `${pid} ${stat.slice(stat.lastIndexOf(")") + 2).split(" ")[19] ?? ""}`;
}

/** A commit as the file has it. */
function frame(changes: ReadonlyMap<string, Value | undefined>): Uint8Array {
  const entries = [...changes].map(([name, v]) => [name, v instanceof Uint8Array ? { bytes: toBase64(v) } : v]);
  const body = utf8(JSON.stringify(entries));
  const bytes = new Uint8Array(LENGTH + DIGEST + body.length);
  new DataView(bytes.buffer).setUint32(0, body.length);
  bytes.set(sha256(body).subarray(0, DIGEST), LENGTH);
  bytes.set(body, LENGTH + DIGEST);
  return bytes;
}

/** The whole commit that begins at an offset. */
function frameAt(bytes: Uint8Array, at: number): Uint8Array | undefined {
  if (bytes.length < at + LENGTH + DIGEST) return undefined;
  const length = new DataView(bytes.buffer, bytes.byteOffset).getUint32(at);
  const body = bytes.subarray(at + LENGTH + DIGEST, at + LENGTH + DIGEST + length);
  const digest = bytes.subarray(at + LENGTH, at + LENGTH + DIGEST);
  return body.length === length &&
    sha256(body)
      .subarray(0, DIGEST)
      .every((b, i) => b === digest[i])
    ? body
    : undefined;
}

function decodeChanges(body: Uint8Array): Map<string, Value | undefined> {
  const entries: [string, (string | { bytes: string } | null)?][] = JSON.parse(textOf(body));
  return new Map(
    entries.map(([name, v]) => [name, typeof v === "object" && v ? fromBase64(v.bytes) : (v ?? undefined)]),
  );
}
