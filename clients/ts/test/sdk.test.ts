// The way through matrix-js-sdk 43.0.0, which Node 20 lacks, in a browser's page. test/sdk pins the version, for this
// test alone.
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { cpSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { type Browser, chromium, type Page } from "playwright-core";
import { serveFolder } from "./folder.js";
import { chromiumPath, noChromium, noRegistry } from "./needs.js";
import { net, world } from "./party.js";

const run = promisify(execFile);
const at = (path: string) => fileURLToPath(new URL(path, import.meta.url));
const options = { skip: net.stock ? "the page's homeserver has the module" : noChromium || (await noRegistry()) };

/** Bundles the page's program, and returns the folder with the page. */
async function bundle(t: TestContext): Promise<string> {
  const dir = mkdtempSync(join(tmpdir(), "mimiport-"));
  t.after(() => rmSync(dir, { recursive: true }));
  cpSync(at("../../test/sdk"), dir, { recursive: true });
  await run("npm", ["ci", "--prefer-offline", "--no-audit", "--no-fund"], { cwd: dir });
  const env = { ...process.env, PROGRAM: at("sdk-page.js") };
  await run("npx", ["vite", "build"], { cwd: dir, env });
  return join(dir, "dist");
}

/** Opens the page, with the homeserver as functions. */
async function open(browser: Browser, address: string): Promise<Page> {
  const page = await browser.newPage();
  const { homeserver, stock, ...calls } = world;
  for (const [name, call] of Object.entries(calls)) await page.exposeFunction(name, call);
  await page.addInitScript(
    ([names, more]) => {
      const given = Object.fromEntries(names.map((name) => [name, (globalThis as any)[name]]));
      Object.assign(globalThis, { world: { ...more, ...given } });
    },
    [Object.keys(calls), { homeserver, stock }] as const,
  );
  await page.goto(address);
  await page.waitForFunction("globalThis.keep !== undefined", undefined, { timeout: 0 });
  return page;
}

test("matrix-js-sdk 43.0.0 in a page", options, async (t) => {
  const address = await serveFolder(t, await bundle(t));
  const browser = await chromium.launch({ executablePath: chromiumPath, args: ["--no-sandbox"] });
  t.after(() => browser.close());
  const page = await open(browser, address);
  const names = await page.evaluate(() => globalThis.names);
  assert.equal(names.length, 4);
  for (const name of names) await t.test(name, () => page.evaluate((name) => globalThis.keep(name), name));
});
