// The cost of a group of 1,000 members for a client, on Node and in a page. It fails where a goal is missed.
import assert from "node:assert/strict";
import { cpuUsage } from "node:process";
import { after, before, test } from "node:test";
import type { Page } from "playwright-core";
import type { ClientState, RatchetTree } from "ts-mls";
import { verifyLeafNodeSignature, verifyLeafNodeSignatureKeyPackage } from "ts-mls/leafNode.js";
import type * as browserClient from "../src/browser.js";
import { utf8 } from "../src/bytes.js";
import type * as client from "../src/index.js";
import * as mls from "../src/mls.js";
import { type Content, encodeContent, isSame, stateRecords } from "../src/records.js";
import { device, NOW, noTree } from "./group.js";
import { noChromium } from "./needs.js";
import { Pages } from "./pages.js";
import { net, nextRoom, User } from "./party.js";
import { grown, numbers } from "./trees.js";

const MEMBERS = 1000;
/** How often each figure is measured. The least counts. */
const RUNS = 5;
/** How much longer than its signatures a join may take. */
const TIMES = 3;
/**
 * The longest time for which a page may work without a turn for anything else, in milliseconds of its thread: the time
 * that other programs take of the processor is not the page's.
 */
const GAP = 100;

/** The least processor time of some runs, of all threads, in milliseconds: other programs take none of it. */
async function least(work: () => Promise<unknown>): Promise<number> {
  let least = Infinity;
  for (let i = 0; i < RUNS; i++) {
    const since = cpuUsage();
    await work();
    const { user, system } = cpuUsage(since);
    least = Math.min(least, (user + system) / 1000);
  }
  return least;
}

/** Verifies all signatures of a tree, as many at once as a join does. */
async function verifyAll(tree: RatchetTree, groupId: Uint8Array): Promise<void> {
  const { signature } = await mls.cipherSuite(1);
  const leaves = tree.flatMap((node, i) => (node?.nodeType === "leaf" ? [{ leaf: node.leaf, index: i / 2 }] : []));
  for (let i = 0; i < leaves.length; i += 32) {
    const verified = leaves.slice(i, i + 32).map(({ leaf, index }) => {
      if (leaf.leafNodeSource === "key_package") return verifyLeafNodeSignatureKeyPackage(leaf, signature);
      return verifyLeafNodeSignature(leaf, groupId, index, signature);
    });
    assert.ok((await Promise.all(verified)).every(Boolean));
  }
}

for (const haveCommitted of [false, true]) {
  const who = haveCommitted ? "all have committed" : "one has committed";
  test(`on Node, ${MEMBERS} members of whom ${who}`, async (t) => {
    const founder = await mls.newGroup(await device("founder"), utf8("a group"), undefined, NOW);
    const state = await grown(founder, MEMBERS - 1, haveCommitted, numbers(1));
    const own = await mls.newKeyPackage(await device("joiner"), NOW);
    const add = mls.byValue({ proposalType: "add", add: { keyPackage: own.publicPackage } });
    const { welcome, next } = await mls.commit(state, [add]);
    const signatures = await least(() => verifyAll(next.ratchetTree, next.groupContext.groupId));
    let joined: ClientState;
    const join = await least(async () => (joined = await mls.join(welcome!, own, noTree)));
    let commit: mls.Commit;
    const making = await least(async () => (commit = await mls.commit(joined, [])));
    const reading = await least(() => mls.process(next, commit.message));
    const send = await least(() => mls.encrypt(joined, utf8("hello")));
    const sent = (await mls.encrypt(joined!, utf8("hello"))).state;
    const [was, is] = [joined!, sent].map((state) => stateRecords("group", "present", state));
    const changed = [...is!].flatMap(([name, c]) => (isSame(was!.get(name), c) ? [] : [c]));
    const save = await least(async () => changed.map(encodeContent));
    const figures = { signatures, join, "Commit made": making, "Commit read": reading, send, save };
    for (const [name, ms] of Object.entries(figures)) t.diagnostic(`${name}: ${ms.toFixed(1)} ms`);
    const bytes = (some: Content[]) => some.reduce((sum, c) => sum + encodeContent(c).length, 0);
    t.diagnostic(`a message writes ${bytes(changed)} bytes of ${bytes([...is!.values()])}`);
    t.diagnostic(`a join takes ${(join / signatures).toFixed(1)} times as long as its signatures`);
    assert.ok(join <= TIMES * signatures);
  });
}

let pages: Pages;
before(async () => {
  if (!noChromium) pages = await Pages.open();
});
after(() => pages?.close());

/** A page's device, and the longest time that the page waited for its turn. */
interface Watched {
  mimiport: client.Mimiport;
  joined: Promise<void>;
  /** How many leaves of unknown devices the page has been told of. */
  warnings: number;
  wake: () => void;
  gap: number;
}

/**
 * The longest task of a page's thread in a trace, in milliseconds of that thread. Its clock has now and then more than
 * passed by the wall's, which no thread can have worked.
 */
function longestTask(
  events: { ph: string; name: string; tid: number; dur?: number; tdur?: number; args: { name?: string } }[],
): number {
  const threads = events.filter((e) => e.name === "thread_name" && e.args.name === "CrRendererMain").map((e) => e.tid);
  const tasks = events.filter((e) => e.ph === "X" && threads.includes(e.tid));
  return tasks.reduce((longest, { dur = 0, tdur = 0 }) => Math.max(longest, Math.min(dur, tdur) / 1000), 0);
}

/** Opens a user's device in a page. Returns the user's id. From then on the page takes all the turns that it gets. */
const open = (page: Page, homeserver: string, name: string) =>
  page.evaluate(
    async ([at, user]) => {
      const [core, stores] = ["mimiport-client", "mimiport-client/browser"];
      const { FetchTransport, login, Mimiport }: typeof client = await import(core!);
      const { IndexedDbStore }: typeof browserClient = await import(stores!);
      const session = await login(at!, user!, "password", undefined);
      const mimiport = await Mimiport.open({
        transport: new FetchTransport(session),
        store: new IndexedDbStore(user!),
      });
      const joined = new Promise<void>((resolve) => mimiport.on("joined", () => resolve()));
      const watched: Watched = { mimiport, joined, warnings: 0, wake: () => {}, gap: 0 };
      mimiport.on("unverified", () => {
        watched.warnings++;
        watched.wake();
      });
      Object.assign(globalThis, { watched });
      const { port1, port2 } = new MessageChannel();
      let last = performance.now();
      port1.onmessage = () => {
        const now = performance.now();
        watched.gap = Math.max(watched.gap, now - last);
        last = now;
        port2.postMessage(0);
      };
      port2.postMessage(0);
      mimiport.start();
      return session.userId;
    },
    [homeserver, name] as const,
  );

for (const [where, path] of [
  ["in a page", ""],
  ["in a page that forbids Workers", "strict"],
] as const)
  for (const haveCommitted of [false, true]) {
    const who = haveCommitted ? "all have committed" : "one has committed";
    test(`${where}, ${MEMBERS} members of whom ${who}`, { skip: noChromium }, async (t) => {
      const n = nextRoom();
      const alice = await User.create(`alice${n}`);
      await alice.client.createGroup(`!room${n}`, `s${n}.example`);
      alice.group.state = await grown(alice.group.state, MEMBERS - 1, haveCommitted, numbers(1));
      const page = await (await pages.browser.newContext()).newPage();
      await page.goto(pages.address + path);
      const bob = await open(page, net.homeserver, `bob${n}`);
      await page.evaluate(() => ((globalThis as any).watched.gap = 0));
      await pages.browser.startTracing(page, { categories: ["toplevel"] });
      await alice.client.add(alice.group, bob);
      const gap = await page.evaluate(async () => {
        const { watched } = globalThis as unknown as { watched: Watched };
        await watched.joined;
        const [conversation] = watched.mimiport.conversations.values();
        const unverified = (await conversation!.members()).filter((m) => m.verified === "unverified").length;
        const warned = new Promise<void>((resolve) => {
          watched.wake = () => watched.warnings >= unverified && resolve();
          watched.wake();
        });
        await watched.mimiport.receive({});
        await warned;
        return watched.gap;
      });
      const work = longestTask(JSON.parse((await pages.browser.stopTracing()).toString()).traceEvents);
      t.diagnostic(`the longest time without a turn: ${work.toFixed(0)} ms of work, ${gap.toFixed(0)} ms by the clock`);
      assert.ok(work > 0 && work <= GAP);
      await page.context().close();
    });
  }
