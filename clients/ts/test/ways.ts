// What every way to the homeserver promises, as tests for Node and for a browser's page.
import { textOf, utf8 } from "../src/bytes.js";
import { FetchTransport, login, MemoryStore, Mimiport, type News, type Session, type Transport } from "../src/index.js";
import { json, Matrix } from "../src/matrix.js";

/** A device's way, and what begins and ends it. */
export interface Way {
  transport: Transport;
  /** Begins to follow /sync, where another program does. */
  start(): Promise<void>;
  stop(): void;
}

/** The homeserver of the tests, which may be in another process. */
export interface World {
  homeserver: string;
  /** Whether the homeserver lacks the module. */
  stock: boolean;
  nextRoom(): number | Promise<number>;
  toDevice(user: string, sender: string, content: object): unknown;
  unread(user: string): number | Promise<number>;
  point(roomId: string, content: object): unknown;
  /** Lets the homeserver answer nothing, or again. */
  silence(isSilent: boolean): unknown;
}

/** Fails unless two values have the same JSON. */
export function requireSame(actual: unknown, expected: unknown): void {
  const [has, wants] = [JSON.stringify(actual), JSON.stringify(expected)];
  if (has !== wants) throw new Error(`${has} is not ${wants}`);
}

/** Fails unless an attempt fails with an error that has these fields. */
async function requireFailure(attempt: Promise<unknown>, fields: Record<string, unknown>): Promise<void> {
  const error: any = await attempt.then(
    () => ({ name: "nothing" }),
    (e) => e,
  );
  for (const [name, value] of Object.entries(fields)) requireSame([name, error[name]], [name, value]);
}

/** A promise of a way, which throws an error where it is broken. */
type Promised = (world: World, create: (session: Session) => Way) => Promise<void>;

const enter = (world: World, name: string) => login(world.homeserver, name, "password", undefined);

/** Another user, who has nothing to do with the way. */
async function other(world: World, name: string): Promise<Mimiport> {
  const mimiport = await Mimiport.open({
    transport: new FetchTransport(await enter(world, name)),
    store: new MemoryStore(),
  });
  mimiport.start();
  return mimiport;
}

/** The first text of somebody else that a device hears. */
const heard = (mimiport: Mimiport): Promise<string> =>
  new Promise((resolve) => mimiport.on("message", ({ content, own }) => own || resolve(textOf(content))));

async function requireNews(
  world: World,
  n: number,
  user: string,
  matrix: Matrix,
  start: () => Promise<void>,
  signal: AbortSignal,
): Promise<void> {
  let since: string | undefined;
  /** The first news that have something of a kind. */
  const news = async (part: "toDevice" | "state"): Promise<News> => {
    const got = await matrix.sync(since, 1000, signal);
    since = got.next ?? since;
    return got[part]?.length ? got : news(part);
  };
  let first = await matrix.sync(undefined, 0, signal);
  await start();
  while (first.next === undefined) first = await matrix.sync(undefined, 0, signal);
  since = first.next;
  await world.toDevice(user, "@_mimiport:s.example", { n });
  const [event] = (await news("toDevice")).toDevice!;
  requireSame([event!.sender, event!.content], ["@_mimiport:s.example", { n }]);
  requireSame(await world.unread(user), 1);
  await world.point(`!room${n}`, { via: "s.example" });
  await world.toDevice(user, "@_mimiport:s.example", { n: 0 });
  const { state } = await news("state");
  const { type, state_key, content } = state!.find((e) => e.roomId === `!room${n}`)!;
  requireSame([type, state_key, content], ["io.github.mimiport.delivery_service", "", { via: "s.example" }]);
  requireSame(await world.unread(user), 1);
}

export const promises: Record<string, Promised> = {
  "gives news, which the homeserver keeps until they are stored": async (world, create) => {
    const n = await world.nextRoom();
    const session = await enter(world, `alice${n}`);
    const { transport, start, stop } = create(session);
    const ended = new AbortController();
    try {
      await requireNews(world, n, session.userId, new Matrix(transport), start, ended.signal);
    } finally {
      ended.abort();
      stop();
    }
  },
  "returns an answer with any status and bytes, and ends a wait": async (world, create) => {
    const n = await world.nextRoom();
    const matrix = new Matrix(create(await enter(world, `alice${n}`)).transport);
    const base = `/_matrix/client/unstable/io.github.mimiport.v0/ds/s${n}.example`;
    const refused = await matrix.send("GET", `${base}/groups/none`);
    if (!world.stock) requireSame(refused.status, 404);
    requireSame(json(refused).errcode.includes("M_"), true);
    const state = `/_matrix/client/v3/rooms/!room${n}/state/x/`;
    await matrix.request("PUT", state, { é: [1, null] });
    requireSame(await matrix.request("GET", state), { é: [1, null] });
    const sync = "/_matrix/client/v3/sync?timeout=1000000";
    const wait = matrix.send("GET", sync, undefined, 1e6, AbortSignal.timeout(1));
    await requireFailure(wait, { name: "TimeoutError" });
    await world.silence(true);
    await requireFailure(matrix.send("GET", "/_matrix/client/versions"), { code: "UNREACHABLE", retryable: true });
    await world.silence(false);
  },
  "lets an application join, talk and move": async (world, create) => {
    const n = await world.nextRoom();
    const [alice, session] = [await other(world, `alice${n}`), await enter(world, `bob${n}`)];
    const { transport, start, stop } = create(session);
    const bob = await Mimiport.open({ transport, store: new MemoryStore(), keyPackages: 2 });
    const [his, hers] = [heard(bob), heard(alice)];
    const moved = new Promise((resolve) => bob.on("moved", ({ to }) => resolve(to)));
    const joined = new Promise((resolve) => bob.on("joined", resolve));
    bob.start();
    await start();
    const mine = await alice.create(`!room${n}`, { server: `s${n}.example` });
    await mine.add(session.userId);
    await joined;
    await mine.send(utf8("hello"));
    requireSame(await his, "hello");
    const [conversation] = bob.conversations.values();
    await conversation!.send(utf8("hello, alice"));
    requireSame(await hers, "hello, alice");
    await mine.move(`t${n}.example`).done;
    requireSame(await moved, `t${n}.example`);
    stop();
    await alice.close();
    await bob.close();
  },
};
