// The operator's page in a browser, at the server whose address is the first argument.
import { createRequire } from "node:module";

const { chromium } = createRequire(new URL("../../clients/ts/package.json", import.meta.url))("playwright-core");

export const [address] = process.argv.slice(2);
export const browser = await chromium.launch({ executablePath: process.env.CHROMIUM, args: ["--no-sandbox"] });

const context = await browser.newContext({
  viewport: { width: 1200, height: 800 }, locale: "en-GB", timezoneId: "UTC", reducedMotion: "reduce",
});
context.setDefaultTimeout(0);
export const page = await context.newPage();

/** Fails with what the browser complains of. Answers with an error status are no complaint. */
export const complaint = new Promise((_, reject) => {
  page.on("pageerror", reject);
  page.on("console", (m) => {
    if (m.type() === "error" && !/Failed to load resource/.test(m.text())) reject(new Error(m.text()));
  });
});

export const heading = (name) => page.getByRole("heading", { level: 1, name, exact: true }).waitFor();
export const text = (what) => page.getByText(what).first().waitFor();
export const rows = () => page.locator("main > .scroll > table > tbody > tr").count();

/** Opens the page, and returns the answer with its document. */
export async function enter() {
  const answer = await page.goto(`${address}/_dendrite/admin/mimiport/ui/`);
  await heading("Sign in");
  return answer;
}

export async function signIn(typed) {
  await page.getByLabel("Access token of an administrator").fill(typed);
  await page.keyboard.press("Enter");
}

/** Opens a view, and waits until it has loaded. */
export async function open(view, name) {
  await page.evaluate((hash) => new Promise((done) => {
    if (location.hash === hash) done();
    addEventListener("hashchange", done, { once: true }); // the page's own listener comes first
    location.hash = hash;
  }), `#/${view}`);
  await heading(name);
  await page.locator("main:not([aria-busy]) .notice.wait").waitFor({ state: "detached" });
}

/** The groups of a drain by state, as the page shows them. */
export const counts = async () => Object.fromEntries(
  (await page.locator(".counts a").allInnerTexts()).map((line) => line.replaceAll("\u202f", ""))
    .map((line) => line.match(/([a-z]+)\s+(\d+)$/)).map(([, state, n]) => [state, Number(n)]));
