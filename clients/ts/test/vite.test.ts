// The page of docs/first-page.md: its steps, from an empty folder to two browsers that talk and move.
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { type Browser, chromium, type Page } from "playwright-core";
import { examplesIn } from "./examples.js";
import { serveFolder } from "./folder.js";
import { chromiumPath, noChromium, noRegistry } from "./needs.js";
import { net, nextRoom } from "./party.js";

const run = promisify(execFile);
const root = fileURLToPath(new URL("../..", import.meta.url));
const options = { skip: net.stock ? "the page's homeserver has the module" : noChromium || (await noRegistry()) };

const firstPage = "../../docs/first-page.md";

/** Does the steps of the page in a new folder, and returns the folder with the built page. */
async function build(t: TestContext): Promise<string> {
  const dir = mkdtempSync(join(tmpdir(), "mimiport-"));
  t.after(() => rmSync(dir, { recursive: true }));
  const pack = ["pack", "--json", "--ignore-scripts", "--pack-destination", dir];
  const [{ filename }] = JSON.parse((await run("npm", pack, { cwd: root })).stdout);
  const env = { ...process.env, MIMIPORT: join(dir, filename) };
  const [project, built] = examplesIn(firstPage, "sh").map(({ code }) => code);
  await run("bash", ["-ec", project!], { cwd: dir, env });
  const chat = join(dir, "chat");
  writeFileSync(join(chat, "src/main.ts"), examplesIn(firstPage, "ts")[0]!.code);
  await run("bash", ["-ec", built!], { cwd: chat, env });
  return join(chat, "dist");
}

/** Fills a form of the page, and sends it. */
async function send(page: Page, form: string, fields: Record<string, string>): Promise<void> {
  for (const [name, value] of Object.entries(fields)) await page.fill(`#${form} [name=${name}]`, value);
  await page.click(`#${form} button`);
}

const says = (page: Page, line: string) => page.locator("li", { hasText: line }).first().waitFor();

async function open(browser: Browser, address: string, user: string): Promise<Page> {
  const page = await (await browser.newContext()).newPage();
  page.setDefaultTimeout(0);
  await page.goto(address);
  await send(page, "login", { homeserver: net.homeserver, user, password: "password" });
  await says(page, `logged in as @${user}:h.example`);
  return page;
}

test("the steps of the first page lead to two browsers that talk and move", options, async (t) => {
  const address = await serveFolder(t, await build(t));
  const browser = await chromium.launch({ executablePath: chromiumPath, args: ["--no-sandbox"] });
  t.after(() => browser.close());
  const n = nextRoom();
  const [alice, bob] = [await open(browser, address, `alice${n}`), await open(browser, address, `bob${n}`)];
  await send(alice, "create", { room: `!room${n}` });
  await says(alice, "created at h.example");
  await send(alice, "add", { other: `@bob${n}:h.example` });
  await says(bob, "joined");
  await send(bob, "send", { text: "hello" });
  for (const page of [alice, bob]) await says(page, `@bob${n}:h.example: hello`);
  await send(bob, "move", { server: `t${n}.example` });
  for (const page of [alice, bob]) await says(page, `moved from h.example to t${n}.example`);
  await alice.reload();
  await send(alice, "login", { homeserver: net.homeserver, user: `alice${n}`, password: "password" });
  await says(alice, "logged in");
  await send(alice, "send", { text: "hello again" });
  await says(bob, `@alice${n}:h.example: hello again`);
  assert.equal(await alice.locator("li", { hasText: "created" }).count(), 0);
});
