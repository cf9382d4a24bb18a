// The library in a real browser: its modules as they are, without a bundler, and a database of the page.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import type { Page } from "playwright-core";
import type * as client from "../src/index.js";
import type * as browserClient from "../src/browser.js";
import { utf8 } from "../src/bytes.js";
import { noChromium } from "./needs.js";
import { Pages } from "./pages.js";
import { authenticator, net, nextRoom, published, User } from "./party.js";
import { grown, numbers } from "./trees.js";

const options = { skip: noChromium || (net.stock && "pages of another origin reach no homeserver of a test directly") };

let pages: Pages;

before(async () => {
  if (!options.skip) pages = await Pages.open();
});
after(() => pages?.close());

/** What a page keeps of a device. */
interface Tab {
  mimiport: client.Mimiport;
  texts: string[];
  wake: () => void;
}

declare global {
  var tab: Tab;
}

/** Opens a user's device in a page. Returns the user's id when the page has the store. */
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
      const texts: string[] = [];
      globalThis.tab = { mimiport, texts, wake: () => {} };
      mimiport.on("message", ({ content, own }) => {
        if (!own) texts.push(new TextDecoder().decode(content));
        globalThis.tab.wake();
      });
      mimiport.start();
      return session.userId;
    },
    [homeserver, name] as const,
  );

/** Waits until a page has heard a number of messages. */
const heard = (page: Page, n: number) =>
  page.evaluate(
    (wanted) =>
      new Promise<string[]>((resolve) => {
        const look = () => globalThis.tab.texts.length >= wanted && resolve(globalThis.tab.texts);
        globalThis.tab.wake = look;
        look();
      }),
    n,
  );

test(
  "two tabs of one device: the second waits, goes on where the first was, and moves the group",
  options,
  async () => {
    const n = nextRoom();
    const [room, s, t] = [`!room${n}`, `s${n}.example`, `t${n}.example`];
    const bob = await published(`bob${n}`);
    const context = await pages.browser.newContext();
    const [first, second] = [await context.newPage(), await context.newPage()];
    for (const page of [first, second]) await page.goto(pages.address);
    await open(first, net.homeserver, `alice${n}`);
    let isOpen = false;
    const waiting = open(second, net.homeserver, `alice${n}`).then(() => (isOpen = true));
    await first.evaluate(
      async ([roomId, server, user]) => {
        const conversation = await globalThis.tab.mimiport.create(roomId!, { server: server! });
        await conversation.add(user!);
        await conversation.send(new TextEncoder().encode("from the first tab"));
      },
      [room, s, bob.id] as const,
    );
    await bob.sync();
    await bob.client.send(bob.group, utf8("hello"));
    assert.deepEqual([await heard(first, 1), isOpen], [["hello"], false]);

    await first.close(); // without a word, as a user closes a tab
    await waiting;
    const outcome = await second.evaluate(async (target) => {
      const [conversation] = globalThis.tab.mimiport.conversations.values();
      await conversation!.send(new TextEncoder().encode("from the second tab"));
      return conversation!.move(target).done;
    }, t);
    assert.deepEqual(outcome, { state: "moved", to: t, term: 1 });
    await bob.sync();
    assert.deepEqual(bob.texts(), ["from the first tab", "from the second tab"]);
    assert.deepEqual([bob.group.ds, bob.take("failed")], [t, []]);
    await context.close();
  },
);

for (const [page, path, workers] of [
  ["a page", "", 1],
  ["a page that forbids Workers", "strict", 0],
] as const) {
  test(`${page} joins a large group`, options, async () => {
    const n = nextRoom();
    const alice = await User.create(`alice${n}`);
    await alice.client.createGroup(`!room${n}`, `s${n}.example`);
    alice.group.state = await grown(alice.group.state, 200, false, numbers(1));
    const context = await pages.browser.newContext();
    const tab = await context.newPage();
    await countAnswers(tab);
    await tab.goto(pages.address + path);
    await alice.client.add(alice.group, await open(tab, net.homeserver, `bob${n}`));
    assert.equal(await joined(tab), authenticator(alice));
    assert.equal(await tab.evaluate("answers"), workers);
    await context.close();
  });
}

/** Counts the messages of a page's Workers. */
const countAnswers = (page: Page) =>
  page.addInitScript(() => {
    const Original = Worker;
    Object.assign(globalThis, { answers: 0 });
    globalThis.Worker = class extends Original {
      constructor(url: string | URL, options?: WorkerOptions) {
        super(url, options);
        this.addEventListener("message", () => (globalThis as any).answers++);
      }
    };
  });

/** Waits until a page has joined a group. Returns its epoch authenticator in hexadecimal. */
const joined = (page: Page) =>
  page.evaluate(async () => {
    const { mimiport } = globalThis.tab;
    if (mimiport.conversations.size === 0) await new Promise<void>((resolve) => mimiport.on("joined", () => resolve()));
    const [{ authenticator }] = mimiport.conversations.values() as unknown as [client.Conversation];
    return [...authenticator].map((b) => b.toString(16).padStart(2, "0")).join("");
  });
