// The library in a real browser: its modules as they are, without a bundler, and a database of the page.
import assert from "node:assert/strict";
import { createReadStream } from "node:fs";
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { join, normalize } from "node:path";
import { after, before, test } from "node:test";
import { fileURLToPath } from "node:url";
import { type Browser, chromium, type Page } from "playwright-core";
import type * as client from "../src/index.js";
import type * as browserClient from "../src/browser.js";
import { utf8 } from "../src/bytes.js";
import { chromiumPath, noChromium } from "./needs.js";
import { net, nextRoom, published } from "./party.js";

const root = fileURLToPath(new URL("../..", import.meta.url));
const hpke = (name: string) => [`@hpke/${name}`, `/node_modules/@hpke/${name}/esm/mod.js`];

/** Where a page finds modules. */
const imports = {
  "mimiport-client": "/dist/src/index.js",
  "mimiport-client/browser": "/dist/src/browser.js",
  "ts-mls": "/node_modules/ts-mls/dist/src/index.js",
  "ts-mls/": "/node_modules/ts-mls/dist/src/",
  "@noble/": "/node_modules/@noble/",
  ...Object.fromEntries(["core", "common", "chacha20poly1305"].map(hpke)),
};

let server: Server;
let browser: Browser;
let address: string;

const options = { skip: noChromium || (net.stock && "pages of another origin reach no homeserver of a test directly") };

before(async () => {
  if (options.skip) return;
  server = createServer((req, res) => {
    const { pathname } = new URL(req.url!, "http://page");
    if (pathname === "/") {
      res.writeHead(200, { "content-type": "text/html" });
      const map = JSON.stringify({ imports });
      return res.end(`<!doctype html><link rel="icon" href="data:,"><script type="importmap">${map}</script>`);
    }
    res.writeHead(200, { "content-type": "text/javascript" });
    return createReadStream(join(root, normalize(pathname))).pipe(res);
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  address = `http://127.0.0.1:${(server.address() as AddressInfo).port}/`;
  browser = await chromium.launch({ executablePath: chromiumPath, args: ["--no-sandbox"] });
});
after(async () => {
  await browser?.close();
  server?.close();
  server?.closeAllConnections();
});

/** What a page keeps of a device. */
interface Tab {
  mimiport: client.Mimiport;
  texts: string[];
  wake: () => void;
}

declare global {
  var tab: Tab;
}

/** Opens a user's device in a page. It returns when the page has the store. */
const open = (page: Page, homeserver: string, name: string) =>
  page.evaluate(
    async ([at, user]) => {
      const [core, stores] = ["mimiport-client", "mimiport-client/browser"];
      const { login, Mimiport }: typeof client = await import(core!);
      const { IndexedDbStore }: typeof browserClient = await import(stores!);
      const session = await login(at!, user!, "password", undefined);
      const mimiport = await Mimiport.open({ session, store: new IndexedDbStore(user!) });
      const texts: string[] = [];
      globalThis.tab = { mimiport, texts, wake: () => {} };
      mimiport.on("message", ({ content, own }) => {
        if (!own) texts.push(new TextDecoder().decode(content));
        globalThis.tab.wake();
      });
      mimiport.start();
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
    const context = await browser.newContext();
    const pages = [await context.newPage(), await context.newPage()] as const;
    for (const page of pages) await page.goto(address);
    const [first, second] = pages;
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
    assert.deepEqual(outcome, { state: "moved", ds: t, term: 1 });
    await bob.sync();
    assert.deepEqual(bob.texts(), ["from the first tab", "from the second tab"]);
    assert.deepEqual([bob.group.ds, bob.take("failed")], [t, []]);
    await context.close();
  },
);
