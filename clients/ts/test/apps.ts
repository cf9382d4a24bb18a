// Applications of the library, against Delivery Services in memory.
import { textOf } from "../src/bytes.js";
import { type Conversation, type Events, FetchTransport, login, MemoryStore } from "../src/index.js";
import { Mimiport, type Options, type Store } from "../src/index.js";
import { net, nextRoom } from "./party.js";

/** What an application has heard, in order. */
interface Heard {
  kind: keyof Events;
  event: any;
  conversation: Conversation;
}

/** Waits for the first event that fits. */
type Until = (kind: keyof Events, fits?: (event: any) => boolean) => Promise<Heard>;

export interface App {
  mimiport: Mimiport;
  heard: Heard[];
  until: Until;
  user: string;
}

const KINDS: (keyof Events)[] = [
  ...(["message", "members", "moved", "move", "state", "joined", "epoch", "left", "failed"] as const),
  ...(["misattributed", "fork", "warning"] as const),
];

/** Lets an application hear what happens. */
export function hearing(mimiport: Mimiport, user: string): App {
  const heard: Heard[] = [];
  const waiting = new Set<() => void>();
  for (const kind of KINDS)
    mimiport.on(kind, (event, conversation) => {
      heard.push({ kind, event, conversation });
      waiting.forEach((look) => look());
    });
  const until: Until = (kind, fits = () => true) =>
    new Promise((resolve) => {
      const look = () => {
        const found = heard.find((h) => h.kind === kind && fits(h.event));
        if (found === undefined) return;
        waiting.delete(look);
        resolve(found);
      };
      waiting.add(look);
      look();
    });
  return { mimiport, heard, until, user };
}

/** A device's way with fetch, and its user. */
export async function enter(name: string): Promise<FetchTransport> {
  return new FetchTransport(await login(net.homeserver, name, "password", undefined));
}

export async function start(
  name: string,
  store: Store = new MemoryStore(),
  options: Partial<Options> = {},
): Promise<App> {
  const transport = await enter(name);
  const mimiport = await Mimiport.open({ transport, store, keyPackages: 4, ...options });
  const app = hearing(mimiport, transport.userId);
  mimiport.start();
  return app;
}

export const isText = (text: string) => (e: Events["message"]) => textOf(e.content) === text;

/** Alice and bob in the conversation of a room. */
export async function pair(store?: Store) {
  const n = nextRoom();
  const [alice, bob] = [await start(`alice${n}`, store), await start(`bob${n}`)];
  const mine = await alice.mimiport.create(`!room${n}`, { server: `s${n}.example` });
  await mine.add(bob.user);
  const { conversation: his } = await bob.until("joined");
  return { alice, bob, mine, his, n, room: `!room${n}`, s: `s${n}.example`, t: `t${n}.example` };
}

export async function close(...apps: App[]): Promise<void> {
  for (const { mimiport } of apps) await mimiport.close();
}
