// A client as a process: one JSON command per line of standard input, {id, cmd, ...arguments}, is answered by one line
// {id, ok: true, result} or {id, ok: false, error}; what happens meanwhile comes as lines {event, ...}. See README.md.
import { createInterface } from "node:readline";
import { setTimeout as pause } from "node:timers/promises";
import { Client } from "./client.js";
import { checkId, type ClientEvent, type Group, type Surroundings } from "./group.js";
import { login, Matrix, MatrixError, register, withToken } from "./matrix.js";
import * as mls from "./mls.js";
import { textOf, utf8 } from "./bytes.js";
import { Journal } from "./journal.js";
import { FileStore } from "./node.js";
import { MemoryStore } from "./store.js";
import { FetchTransport } from "./transport.js";
import { fromBase64 } from "./wire.js";

const DEFAULT_WAIT = 30_000;
const MAX_KEPT = 10_000;

type Arguments = Record<string, any>;

/** An event as a line: a message has its text. */
type Line = Exclude<ClientEvent, { event: "message" }> | ReturnType<typeof withText>;

/** The events that no wait_for has taken yet, and all received data. */
const events: Line[] = [];
const waiting = new Set<() => void>();
const plaintexts: Line[] = [];
let client: Client | undefined;
let world: Surroundings | undefined;

const write = (line: unknown) => process.stdout.write(`${JSON.stringify(line)}\n`);
const hex = (b: Uint8Array) => Buffer.from(b).toString("hex");

function emit(event: ClientEvent): void {
  if (event.event === "message" && event.own) return;
  const line = event.event === "message" ? withText(event) : event;
  write(line);
  keep(events, line);
  if (event.event === "message") keep(plaintexts, line);
  wake();
}

const withText = ({ content, own: _, ...rest }: ClientEvent & { event: "message" }) => ({
  ...{ ...rest, text: textOf(fromBase64(content)) },
});

/** Adds to a list that keeps only the last items. */
function keep<T>(list: T[], entry: T): void {
  list.push(entry);
  if (list.length > MAX_KEPT) list.shift();
}

/** Makes every wait_for check again. */
const wake = () => waiting.forEach((look) => look());

function current(): Client {
  if (client === undefined) throw new Error("log in first");
  return client;
}

const groupOf = ({ group }: Arguments): Group => current().group(group);

const member = ({ leaf, userId, deviceId, verified }: Awaited<ReturnType<Client["members"]>>[number]) => ({
  ...{ leaf, user: userId, device: deviceId, verified },
});

function state(g: Group) {
  const { groupContext, keySchedule, groupActiveState } = g.state;
  return {
    group: g.key,
    room: g.roomId,
    ds: g.ds,
    term: g.term,
    next_seq: g.next,
    epoch: Number(groupContext.epoch),
    cipher_suite: mls.suiteId(g.state),
    active: groupActiveState.kind === "active" && !g.closed,
    closed: g.closed === true,
    epoch_authenticator: hex(keySchedule.epochAuthenticator),
    tree_hash: hex(groupContext.treeHash),
    confirmed_transcript_hash: mls.transcript(g.state),
    members: mls.members(g.state).map((m) => member({ ...m, verified: g.checked.get(checkId(m)) ?? "unknown" })),
    pending_commit: g.pending !== undefined,
    pending_proposals: Object.keys(g.state.unappliedProposals).length,
    migration: g.migration?.id ?? null,
  };
}

/** Whether every wanted field is there: a number must be at least as large, any other value equal. */
const fits = (have: Arguments, wanted: Arguments) =>
  Object.entries(wanted).every(([k, v]) => (typeof v === "number" ? have[k] >= v : have[k] === v));

/**
 * Takes the first event of a kind with the wanted fields. For the kind "state", waits until the group's state has them.
 */
function waitFor({ kind, timeout = DEFAULT_WAIT, ...wanted }: Arguments): Promise<unknown> {
  const look = (): unknown => {
    if (kind === "state") return fits(state(groupOf(wanted)), wanted) ? state(groupOf(wanted)) : undefined;
    const i = events.findIndex((e) => e.event === kind && fits(e, wanted));
    return i < 0 ? undefined : events.splice(i, 1)[0];
  };
  return new Promise((resolve, reject) => {
    const done = () => {
      clearTimeout(timer);
      waiting.delete(again);
    };
    const again = () => {
      try {
        const found = look();
        if (found === undefined) return;
        done();
        resolve(found);
      } catch (e) {
        done();
        reject(e);
      }
    };
    const timer = setTimeout(() => {
      done();
      reject(new Error(`nothing like ${JSON.stringify({ kind, ...wanted })} within ${timeout} ms`));
    }, timeout);
    waiting.add(again);
    again();
  });
}

/** Takes all present events of some kinds. */
function takeAll(kinds: string[]): Line[] {
  const kept = events.splice(0);
  events.push(...kept.filter((e) => !kinds.includes(e.event)));
  return kept.filter((e) => kinds.includes(e.event));
}

/**
 * Begins a session and follows /sync from then on. With `store`, the client loads its state from that file and saves it
 * there.
 */
async function begin({ homeserver, user, password, device, token, store }: Arguments, enter: typeof login) {
  const session =
    token === undefined ? await enter(homeserver, user, password, device) : await withToken(homeserver, token);
  const records = store === undefined ? new MemoryStore() : new FileStore(store);
  await records.exclusive();
  const journal = await Journal.open(records, emit);
  const { stored } = journal;
  const save = (...groups: Group[]) => journal.save(...groups).then(wake);
  world = { now: Date.now, pause: (ms) => pause(ms), emit: (e) => journal.emit(e), save };
  client = new Client(new Matrix(new FetchTransport(session)), stored, world);
  journal.repeat();
  client.run(new AbortController().signal).catch((e) => write({ event: "stopped", reason: String(e) }));
  return { user: session.userId, device: session.deviceId, token: session.token, groups: [...stored.groups.keys()] };
}

const commands: Record<string, (a: Arguments) => Promise<unknown>> = {
  login: (a) => begin(a, login),
  register: (a) => begin(a, register),
  identity: async ({ suite = 1 }) => {
    const { userId, deviceId, publicKey } = await current().createIdentity(suite);
    return { user: userId, device: deviceId, suite, signature_key: hex(publicKey) };
  },
  publish_key_packages: async ({ n = 1 }) => current().publishKeyPackages(n),
  create_group: async ({ room, ds = current().homeServer }) => state(await current().createGroup(room, ds)),
  rejoin: async ({ room }) => state(await current().rejoin(room)),
  join: async (a) => {
    await waitFor({ ...a, kind: "joined" });
    return state(groupOf(a));
  },
  add: async ({ user, ...a }) =>
    current()
      .add(groupOf(a), user)
      .then(() => state(groupOf(a))),
  remove: async ({ user, ...a }) =>
    current()
      .remove(groupOf(a), user)
      .then(() => state(groupOf(a))),
  close: async (a) => current().close(groupOf(a)),
  reset: async ({ ds, ...a }) => state(await current().reset(groupOf(a), ds)),
  leave: async (a) => current().leave(groupOf(a)),
  members: async (a) => (await current().members(groupOf(a))).map(member),
  update: async (a) =>
    current()
      .update(groupOf(a))
      .then(() => state(groupOf(a))),
  send: async ({ text, ...a }) => {
    await current().send(groupOf(a), utf8(text));
  },
  sync: async (a) =>
    current()
      .bringUpToDate(groupOf(a))
      .then(() => state(groupOf(a))),
  wait_for: waitFor,
  state: async (a) => state(groupOf(a)),
  messages: async () => plaintexts,
  take: async ({ kinds }) => takeAll(kinds),
  migrate: async ({ target, ...a }) => current().migrate(groupOf(a), target),
  migration_finish: async (a) => current().finishMigration(groupOf(a)),
  migration_status: async ({ migration, ds, ...a }) => {
    const own = groupOf(a).migration;
    const [id, server] = [migration ?? own?.id, ds ?? own?.source];
    return id === undefined ? null : current().ds(server).migration(id);
  },
  abort: async (a) => current().abortMigration(groupOf(a)),
  ds_info: async ({ ds, ...a }) => {
    const g = groupOf(a);
    return current()
      .ds(ds ?? g.ds)
      .group(g.key);
  },
  host: async ({ ds, ...a }) => {
    const g = groupOf(a);
    return current()
      .ds(ds ?? g.ds)
      .host(g.key);
  },
  follow: async ({ ds, ...a }) =>
    current()
      .follow(groupOf(a), ds)
      .then(() => state(groupOf(a))),
  patience: async ({ ms }) => {
    world!.patience = ms;
  },
  successors: async ({ servers, ...a }) => current().setSuccessors(groupOf(a), servers),
  export: async (a) => current().export(groupOf(a)),
  export_secret: async ({ label, length, ...a }) => hex(await mls.exportSecret(groupOf(a).state, label, length)),
  raw: async ({ method, path, body }) => current().matrix.raw(method, path, body),
};

function failure(e: unknown) {
  const error = e instanceof Error ? e.message : String(e);
  return e instanceof MatrixError ? { error, status: e.status, body: e.body } : { error };
}

async function run(line: string): Promise<void> {
  let id: unknown;
  try {
    const { id: given, cmd, ...args } = JSON.parse(line);
    id = given;
    const command = Object.hasOwn(commands, cmd) ? commands[cmd] : undefined;
    if (command === undefined) throw new Error(`no command ${cmd}`);
    const result = await command(args);
    wake();
    write({ id, ok: true, result: result ?? null });
  } catch (e) {
    write({ id, ok: false, ...failure(e) });
  }
}

// ts-mls abandons the promise of one bad Add when a Commit has two; the Commit itself is refused all the same.
process.on("unhandledRejection", (e) => write({ event: "failed", reason: String(e) }));

// Commands may overlap: abort can be given while migrate waits. The end of standard input ends the process.
createInterface({ input: process.stdin })
  .on("line", (line) => void run(line))
  .on("close", () => process.exit(0));
