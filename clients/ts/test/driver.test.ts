// The driver as other tests use it: processes that get commands line by line.
import assert from "node:assert/strict";
import { type ChildProcessWithoutNullStreams, spawn } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { test, type TestContext } from "node:test";
import { fileURLToPath } from "node:url";
import { ServedNetwork } from "./fake.js";

class Driver {
  private readonly process: ChildProcessWithoutNullStreams;
  private readonly answers = new Map<number, (line: any) => void>();
  private last = 0;

  /** services is the address at which Delivery Services take direct requests. */
  constructor(services: string) {
    const [reach, driver] = ["./reach.js", "../src/driver.js"].map((file) => new URL(file, import.meta.url));
    const env = { ...process.env, MIMI_SERVICES: services };
    this.process = spawn(process.execPath, ["--import", reach!.href, fileURLToPath(driver!)], { env });
    this.process.stderr.pipe(process.stderr);
    createInterface({ input: this.process.stdout }).on("line", (text) => {
      const line = JSON.parse(text);
      this.answers.get(line.id)?.(line);
    });
  }

  kill(): Promise<unknown> {
    const gone = this.process.exitCode ?? this.process.signalCode;
    if (gone !== null) return Promise.resolve();
    const exit = new Promise((resolve) => this.process.once("exit", resolve));
    this.process.kill("SIGKILL");
    return exit;
  }

  /** Sends a line as it is and gives the answer with this id. */
  line(id: number, text: string): Promise<any> {
    this.process.stdin.write(`${text}\n`);
    return new Promise((resolve) => this.answers.set(id, resolve));
  }

  async ask(cmd: string, given: Record<string, unknown> = {}): Promise<any> {
    const id = ++this.last;
    const answer = await this.line(id, JSON.stringify({ id, cmd, ...given }));
    assert.ok(answer.ok, `${cmd}: ${answer.error}`);
    return answer.result;
  }
}

/** A homeserver, a directory and drivers, all gone after the test. */
async function world(t: TestContext) {
  const net = new ServedNetwork();
  const dir = mkdtempSync(join(tmpdir(), "mimiport-"));
  const drivers: Driver[] = [];
  t.after(async () => {
    await Promise.all(drivers.map((d) => d.kill()));
    net.close();
    rmSync(dir, { recursive: true });
  });
  const start = () => {
    drivers.push(new Driver(net.address));
    return drivers.at(-1)!;
  };
  return { homeserver: await net.listen(), dir, start, stock: net.stock };
}

test("two drivers, a group, a migration and a restart", async (t) => {
  const { homeserver, dir, start } = await world(t);
  const [alice, bob] = [start(), start()];
  await alice.ask("login", { homeserver, user: "alice", password: "x" });
  const session = await bob.ask("login", { homeserver, user: "bob", password: "x", store: join(dir, "bob") });
  await bob.ask("publish_key_packages", { n: 3 });
  const created = await alice.ask("create_group", { room: "!r", ds: "s.example" });
  assert.deepEqual([created.epoch, created.term, created.ds], [0, 0, "s.example"]);
  await alice.ask("add", { user: session.user });
  assert.equal((await bob.ask("join", { group: created.group })).epoch, 1);
  const own = await alice.ask("take", { kinds: ["commit", "commit_ended"] });
  assert.deepEqual(
    own.map((e: any) => [e.event, e.to, e.accepted]),
    [
      ["commit", own[0].to, undefined],
      ["commit_ended", own[0].to, true],
    ],
  );
  assert.deepEqual(await alice.ask("take", { kinds: ["commit", "commit_ended"] }), []);
  assert.equal((await alice.ask("state")).confirmed_transcript_hash, own[0].to);
  await alice.ask("send", { text: "hello" });
  assert.equal((await bob.ask("wait_for", { kind: "message", text: "hello" })).sender, "@alice:h.example");

  assert.deepEqual(await alice.ask("migrate", { target: "t.example" }), { state: "moved", to: "t.example", term: 1 });
  const there = await bob.ask("wait_for", { kind: "state", ds: "t.example", epoch: 2 });
  const { epoch_authenticator } = await alice.ask("state");
  assert.equal(there.epoch_authenticator, epoch_authenticator);

  await bob.kill();
  const again = start();
  assert.deepEqual(
    (await again.ask("login", { homeserver, user: "bob", password: "x", store: join(dir, "bob") })).groups,
    [created.group],
  );
  await alice.ask("send", { text: "welcome back" });
  await again.ask("wait_for", { kind: "message", text: "welcome back" });
  assert.deepEqual(
    (await again.ask("messages")).map((m: any) => m.text),
    ["welcome back"],
  );
});

test("a bad command is answered, and changes nothing", async (t) => {
  const { homeserver, start, stock } = await world(t);
  const alice = start();
  const refusal = (text: string, id: number) => alice.line(id, text);
  assert.match((await refusal('{"id":1,"cmd":"send","text":"x"}', 1)).error, /log in first/);
  assert.match((await refusal('{"id":2,"cmd":"toString"}', 2)).error, /no command/);
  await alice.ask("login", { homeserver, user: "alice", password: "x" });
  const raw = await alice.ask("raw", {
    method: "GET",
    path: "/_matrix/client/unstable/io.github.mimiport.v0/ds/s.example/groups/none",
  });
  const code = stock ? "M_UNRECOGNIZED" : "IO.GITHUB.MIMIPORT.M_UNKNOWN_GROUP";
  assert.deepEqual([raw.status, raw.body.errcode], [404, code]);
  assert.match((await refusal('{"id":9,"cmd":"wait_for","kind":"joined","timeout":1}', 9)).error, /within 1 ms/);
});
