// A client as a process: one JSON command per line of standard input, {id, cmd, ...arguments}, is answered by one line
// {id, ok: true, result} or {id, ok: false, error}; what happens meanwhile comes as lines {event, ...}. See README.md.
import { createInterface } from "node:readline";
import { textOf, utf8 } from "./bytes.js";
import { type Conversation, FetchTransport, login, MatrixError, MemoryStore, Mimiport } from "./index.js";
import { register, type Store, withToken } from "./index.js";
import { FileStore } from "./node.js";
import { Probe } from "./testing.js";

const DEFAULT_WAIT = 30_000;
const MAX_KEPT = 10_000;

type Arguments = Record<string, any>;

/** The device, its way to its homeserver, and what tests alone see of it. */
interface Device {
  mimiport: Mimiport;
  transport: FetchTransport;
  probe: Probe;
}

/** An event, as a line of output has it. */
type Line = { event: string; group: string } & Arguments;

/** The events of a conversation that become lines, besides messages. */
const KINDS = [
  ...(["joined", "epoch", "members", "moved", "move", "moveRequested", "state"] as const),
  ...(["unverified", "skipped", "misattributed", "fork", "warning", "failed"] as const),
];

/** The events that no wait_for has taken yet, and all received data. */
const events: Line[] = [];
const waiting = new Set<() => void>();
const plaintexts: Line[] = [];
let device: Device | undefined;

const write = (line: unknown) => process.stdout.write(`${JSON.stringify(line)}\n`);
const hex = (b: Uint8Array) => Buffer.from(b).toString("hex");

function emit(line: Line): void {
  write(line);
  keep(events, line);
  if (line.event === "message") keep(plaintexts, line);
  wake();
}

/** Makes lines of the device's events. */
function listen({ mimiport, probe }: Device): void {
  for (const event of KINDS) mimiport.on(event, (told, { id: group }) => emit({ event, group, ...told }));
  mimiport.on("left", (told, { id: group }) => emit({ event: "removed", group, ...told }));
  mimiport.on("message", ({ content, own, ...told }, { id: group }) => {
    if (!own) emit({ event: "message", group, ...told, text: textOf(content) });
  });
  probe.onCommit(emit);
}

/** Adds to a list that keeps only the last items. */
function keep<T>(list: T[], entry: T): void {
  list.push(entry);
  if (list.length > MAX_KEPT) list.shift();
}

/** Makes every wait_for check again. */
const wake = () => waiting.forEach((look) => look());

function current(): Device {
  if (device === undefined) throw new Error("log in first");
  return device;
}

/** The conversation that a command names; without a name, the only one there is. */
function conversationOf({ group }: Arguments): Conversation {
  const { conversations } = current().mimiport;
  const only = conversations.size === 1 ? [...conversations.values()][0] : undefined;
  const found = group === undefined ? only : conversations.get(group);
  if (found === undefined) throw new Error(group ? `no group ${group}` : `${conversations.size} groups: name one`);
  return found;
}

function state(conversation: Conversation) {
  const inside = current().probe.state(conversation);
  return {
    group: conversation.id,
    room: conversation.roomId,
    ds: conversation.host,
    term: conversation.term,
    next_seq: inside.nextSeq,
    epoch: conversation.epoch,
    cipher_suite: inside.cipherSuite,
    active: inside.active,
    closed: inside.closed,
    epoch_authenticator: hex(conversation.authenticator),
    tree_hash: hex(inside.treeHash),
    confirmed_transcript_hash: inside.transcript,
    members: inside.members,
    pending_commit: inside.pendingCommit,
    pending_proposals: inside.pendingProposals,
    migration: inside.migration?.id ?? null,
  };
}

/** Whether every wanted field is there: a number must be at least as large, any other value equal. */
const fits = (have: Arguments, wanted: Arguments) =>
  Object.entries(wanted).every(([k, v]) => (typeof v === "number" ? have[k] >= v : have[k] === v));

/** A conversation's state, if it has the wanted fields. */
function stateWith(wanted: Arguments): Arguments | undefined {
  const now = state(conversationOf(wanted));
  return fits(now, wanted) ? now : undefined;
}

/**
 * Takes the first event of a kind with the wanted fields. For the kind "state", waits until the group's state has them.
 */
function waitFor({ kind, timeout = DEFAULT_WAIT, ...wanted }: Arguments): Promise<unknown> {
  const look = (): unknown => {
    if (kind === "state") return stateWith(wanted);
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

/** A store after each commit of which every wait_for checks again. */
function watched(store: Store): Store {
  const commit = store.commit.bind(store);
  store.commit = (changes) => commit(changes).then(wake);
  return store;
}

/**
 * Begins a session, opens the device and follows /sync from then on. With `store`, the client loads its state from that
 * file and saves it there. It publishes KeyPackages only when it is told to.
 */
async function begin(given: Arguments, enter: typeof login) {
  const { homeserver, user, password, device: known, token, store, suite: cipherSuite = 1 } = given;
  const session =
    token === undefined ? await enter(homeserver, user, password, known) : await withToken(homeserver, token);
  const transport = new FetchTransport(session);
  const records = watched(store === undefined ? new MemoryStore() : new FileStore(store));
  const mimiport = await Mimiport.open({ transport, store: records, keyPackages: 0, cipherSuite });
  device = { mimiport, transport, probe: new Probe(mimiport) };
  listen(device);
  mimiport.start();
  const groups = [...mimiport.conversations.keys()];
  return { user: session.userId, device: session.deviceId, token: session.token, groups };
}

/** What happens to a conversation, and its state after that. */
const after = (act: (conversation: Conversation, a: Arguments) => Promise<unknown>) => async (a: Arguments) => {
  const conversation = conversationOf(a);
  await act(conversation, a);
  return state(conversation);
};

/** The move of this device, which has to be under way. */
function moveOf(a: Arguments) {
  const move = conversationOf(a).currentMove();
  if (move === undefined) throw new Error("no migration of this client is under way");
  return move;
}

/** A Delivery Service: the one that a command names, else a conversation's host. */
const dsOf = (a: Arguments) => current().probe.ds(a.ds ?? conversationOf(a).host);

/** Makes a request in the device's name, with a body of any kind. */
async function raw({ method, path, body }: Arguments) {
  const content = typeof body === "string" ? body : JSON.stringify(body);
  const init = { method, headers: { "content-type": "application/json" }, body: content };
  const answer = await current().transport.fetch(path, body === undefined ? { method } : init);
  const text = await answer.text();
  try {
    return { status: answer.status, body: JSON.parse(text) };
  } catch {
    return { status: answer.status, body: text };
  }
}

const commands: Record<string, (a: Arguments) => Promise<unknown>> = {
  login: (a) => begin(a, login),
  register: (a) => begin(a, register),
  publish_key_packages: async ({ n = 1 }) => current().probe.publishKeyPackages(n),
  create_group: async ({ room, ds }) => state(await current().mimiport.create(room, ds && { server: ds })),
  rejoin: async ({ room }) => state(await current().mimiport.rejoin(room)),
  join: async (a) => {
    await waitFor({ ...a, kind: "joined" });
    return state(conversationOf(a));
  },
  add: after((c, { user }) => c.add(user)),
  remove: after((c, { user }) => c.remove(user)),
  close: async (a) => conversationOf(a).end(),
  reset: async ({ ds, ...a }) => state(await conversationOf(a).beginNext(ds && { server: ds })),
  leave: async (a) => conversationOf(a).leave(),
  members: async (a) => conversationOf(a).members(),
  update: after((c) => c.update()),
  send: async ({ text, ...a }) => {
    await conversationOf(a).send(utf8(text));
  },
  sync: after((c) => c.catchUp()),
  wait_for: waitFor,
  state: async (a) => state(conversationOf(a)),
  messages: async () => plaintexts,
  take: async ({ kinds }) => takeAll(kinds),
  migrate: async ({ target, ...a }) => conversationOf(a).move(target).done,
  migration_finish: async (a) => moveOf(a).done,
  migration_status: async ({ migration, ds, ...a }) => {
    const { probe } = current();
    const own = probe.state(conversationOf(a)).migration;
    const id = migration ?? own?.id;
    return id === undefined ? null : probe.ds(ds ?? own?.source).migration(id);
  },
  abort: async (a) => moveOf(a).abort(),
  ds_info: async (a) => dsOf(a).group(conversationOf(a).id),
  host: async (a) => dsOf(a).host(conversationOf(a).id),
  follow: after((c, { ds }) => c.follow(ds)),
  patience: async ({ ms }) => {
    current().probe.patience = ms;
  },
  successors: async ({ servers, ...a }) => conversationOf(a).setSuccessors(servers),
  export: async (a) => conversationOf(a).recoveryData(),
  export_secret: async ({ label, length, ...a }) =>
    hex(await conversationOf(a).exportSecret(label, new Uint8Array(), length)),
  raw,
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
