// Drives the operator's page in a browser: node drive.mjs ADDRESS. With SCREENSHOTS it writes pictures into that
// folder.
import assert from "node:assert/strict";
import { createRequire } from "node:module";

const { chromium } = createRequire(new URL("../../clients/ts/package.json", import.meta.url))("playwright-core");
const [address] = process.argv.slice(2);
const page_at = `${address}/_dendrite/admin/mimiport/ui/`;
const token = "token-of-admin";

const browser = await chromium.launch({ executablePath: process.env.CHROMIUM, args: ["--no-sandbox"] });
const context = await browser.newContext({
  viewport: { width: 1200, height: 800 }, locale: "en-GB", timezoneId: "UTC", reducedMotion: "reduce",
});
context.setDefaultTimeout(0);
const page = await context.newPage();

/** Fails with what the browser complains of. Answers with an error status are no complaint. */
const complaint = new Promise((_, reject) => {
  page.on("pageerror", reject);
  page.on("console", (m) => {
    if (m.type() === "error" && !/Failed to load resource/.test(m.text())) reject(new Error(m.text()));
  });
});

const heading = (name) => page.getByRole("heading", { level: 1, name, exact: true }).waitFor();
const text = (what) => page.getByText(what).first().waitFor();
const fault = (mode) => fetch(`${address}/fault/${mode}`, { method: "POST" });
const rows = () => page.locator("main > .scroll > table > tbody > tr").count();

async function open(view, name) {
  await page.evaluate((hash) => (location.hash = hash), `#/${view}`);
  await heading(name);
  await page.locator("main:not([aria-busy]) .notice.wait").waitFor({ state: "detached" });
}

async function signIn(typed) {
  await page.getByLabel("Access token of an administrator").fill(typed);
  await page.keyboard.press("Enter");
}

async function shot(name, height = 800) {
  if (!process.env.SCREENSHOTS) return;
  const { width } = page.viewportSize();
  await page.setViewportSize({ width, height });
  await page.screenshot({ path: `${process.env.SCREENSHOTS}/${name}.png` });
}

/** The ratio of contrast between each text and its background must be 4.5 (WCAG 2.2, 1.4.3). */
const pale = () => page.evaluate(() => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const known = new Map();
  const rgba = (colour) => {
    if (!known.has(colour)) known.set(colour, paint(colour));
    return known.get(colour);
  };
  const paint = (colour) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    return canvas.getImageData(0, 0, 1, 1).data;
  };
  const light = ([r, g, b]) => [r, g, b].map((v) => v / 255)
    .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (e) => {
    for (; e; e = e.parentElement) if (rgba(getComputedStyle(e).backgroundColor)[3] === 255) break;
    return light(rgba(getComputedStyle(e ?? document.body).backgroundColor));
  };
  return [...document.querySelectorAll("body *")]
    .filter((e) => e.checkVisibility() && [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim()))
    .filter((e) => {
      const [a, b] = [light(rgba(getComputedStyle(e).color)), behind(e)];
      return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05) < 4.5;
    }).map((e) => e.outerHTML.slice(0, 200));
});

const wide = () => page.evaluate(() => document.documentElement.scrollWidth > innerWidth);

const steps = {
  async "a wrong token and a user's token are refused"() {
    await page.goto(page_at);
    await heading("Sign in");
    await signIn("wrong");
    await text("The server does not know this token.");
    await signIn("token-of-user");
    await text("This account is no administrator");
    await signIn(token);
    await heading("Status");
    assert.equal(await page.locator("#server").textContent(), "a.example");
  },

  async "the token is in the page's memory alone"() {
    const kept = await page.evaluate(async () => [
      localStorage.length, sessionStorage.length, document.cookie, (await indexedDB.databases()).length,
      (await caches.keys()).length, document.documentElement.outerHTML, location.href,
    ]);
    assert.deepEqual(kept.slice(0, 5), [0, 0, "", 0, 0]);
    assert.ok(!kept.join().includes(token));
    await shot("status");
  },

  async "groups: paging, filter, members by server, and who may move them"() {
    await open("groups", "Groups");
    await text("1–25 of 32");
    assert.equal(await rows(), 25);
    const first = await page.locator("main tbody code").first().textContent();
    await shot("groups");
    await page.getByRole("link", { name: "Next page" }).press("Enter");
    await text("26–32 of 32");
    assert.equal(await rows(), 7);
    await page.getByLabel("State").selectOption("moved");
    await page.getByRole("button", { name: "Filter" }).click();
    await text("1–1 of 1");
    await page.getByRole("cell", { name: "moved to b.example" }).waitFor();
    await open(`groups/${first}`, "Group");
    await text("Who may move it");
    await page.getByRole("row", { name: "b.example 1 1" }).waitFor();
  },

  async "migrations: seven messages, with the state on both sides"() {
    await open("migrations?state=moved", "Migrations");
    await page.locator("main tbody a").first().click();
    await heading("Migration");
    assert.equal(await page.locator(".timeline li.done").count(), 7);
    assert.deepEqual(await page.locator(".sides .state").allTextContents(), ["✓moved", "✓active"]);
    await page.getByText("Decoded").nth(1).press("Enter");
    await text("nonce");
    await shot("migration", 1100);
    await open("migrations?state=frozen", "Migrations");
    await page.locator("main tbody a").first().click();
    await heading("Migration");
    assert.deepEqual(await page.locator(".sides .state").allTextContents(), ["◐frozen", "◐offered"]);
    assert.deepEqual(
      await page.locator(".timeline li.awaited h3").allTextContents(),
      ["TargetMigrationComplete ◐awaited", "MigrationConfirmation ◐awaited"],
    );
  },

  async "policy: origins, editing with the keyboard, and the way back"() {
    await page.setViewportSize({ width: 1200, height: 800 });
    await open("policy", "Policy");
    const row = page.getByRole("row", { name: "quotas.members" });
    await row.getByText("default").waitFor();
    await row.getByRole("button").press("Enter");
    await page.keyboard.type("5");
    await page.keyboard.press("Escape");
    await row.getByRole("button").press("Enter");
    await page.keyboard.press("Control+A");
    await page.keyboard.type("500");
    await page.keyboard.press("Enter");
    await row.getByText("administrator").waitFor();
    await row.getByText("500").waitFor();
    const denied = page.getByRole("row", { name: "deny_servers" });
    await denied.getByRole("button").click();
    await page.getByRole("textbox", { name: "deny_servers" }).fill("https://spam.example");
    await denied.getByRole("button", { name: "Save" }).click();
    await text("The value stays as it was.");
    await page.getByRole("textbox", { name: "deny_servers" }).fill("spam.example\n*.bad.example");
    await denied.getByRole("button", { name: "Save" }).click();
    await denied.getByText("administrator").waitFor();
    await denied.getByText("*.bad.example", { exact: true }).waitFor();
    await page.getByRole("textbox").waitFor({ state: "detached" });
    await page.evaluate(() => scrollTo(0, 0));
    await shot("policy");
    await page.getByRole("button", { name: "Return to the configuration file" }).click();
    await page.getByRole("dialog").getByRole("button", { name: "Return" }).click();
    await row.getByText("default").waitFor();
  },

  async "drain: dry run, start, progress, and stop"() {
    await open("drain", "Drain");
    await text("There has been no drain.");
    await page.getByLabel("Targets").fill("b.example, c.example");
    await page.getByRole("button", { name: "Try it dry" }).click();
    await heading("Dry run");
    await text("Ask a member to come back.");
    await open("drain", "Drain");
    await page.getByLabel("Targets").fill("b.example, c.example");
    await page.getByRole("button", { name: "Start" }).click();
    await page.getByRole("dialog").getByRole("button", { name: "Start" }).click();
    await text("81 of 130");
    await text("Invite one.");
    await page.mouse.move(0, 0);
    await shot("drain", 1100);
    await page.getByRole("button", { name: "Stop the drain" }).click();
    await page.getByRole("dialog").getByRole("button", { name: "Stop" }).click();
    await text("An operator has stopped the drain.");
  },

  async "peers, evidence and the audit log; a value of the server is never markup"() {
    await page.setViewportSize({ width: 1200, height: 800 });
    await open("peers", "Peers");
    await text("add 192.0.2.0/24 to federation.allow_networks");
    await open("evidence", "Evidence");
    await text("<img src=x onerror=alert(1)>");
    assert.equal(await page.locator("main img").count(), 0);
    await open("audit", "Audit log");
    assert.equal(await rows(), 4);
    await page.getByText("Why").press("Enter");
    await text("https://spam.example");
    await page.getByText("Before and after").first().press("Enter");
    await text("quotas.members");
  },

  async "slow: the page says so, waits, and lets the operator stop"() {
    await fault("slow");
    await page.getByRole("link", { name: "Groups" }).click();
    await text("The server is slow.");
    await shot("slow");
    await page.getByRole("button", { name: "Stop waiting" }).click();
    await text("You have stopped waiting.");
    await page.getByRole("button", { name: "Try again" }).click();
    await fault("good");
    await text("1–25 of 32");
  },

  async "down and refusing: the page says which, and goes on afterwards"() {
    for (const [mode, title, why] of [
      ["down", "No answer", "The server does not answer."],
      ["busy", "Unable to work now", "the database is away"],
      ["proxy", "The server failed", "Bad Gateway"],
      ["demoted", "Refused", "This account is no administrator of the homeserver."],
    ]) {
      await fault(mode);
      await open("peers", "Peers");
      await page.getByRole("alert").getByText(title, { exact: true }).waitFor();
      await text(why);
      if (mode === "busy") await shot("busy");
      await fault("good");
      await page.getByRole("button", { name: "Try again" }).click();
      await text("Servers that fail");
      await open("status", "Status");
    }
  },

  async "narrow screens, dark and light"() {
    for (const colorScheme of ["light", "dark"]) {
      await page.emulateMedia({ colorScheme });
      for (const [view, name] of Object.entries({
        status: "Status", groups: "Groups", migrations: "Migrations", drain: "Drain", policy: "Policy", peers: "Peers",
        evidence: "Evidence", audit: "Audit log",
      })) {
        await page.setViewportSize({ width: 1200, height: 800 });
        await open(view, name);
        assert.deepEqual(await pale(), [], `pale texts of ${view}, ${colorScheme}`);
        if (colorScheme === "dark" && view === "groups") await shot("groups-dark");
        await page.setViewportSize({ width: 360, height: 800 });
        assert.ok(!(await wide()), `${view} is wider than a narrow screen`);
        if (colorScheme === "light" && view === "groups") await shot("groups-narrow");
      }
    }
    await page.setViewportSize({ width: 1200, height: 800 });
  },

  async "the keyboard alone: skip link, navigation, focus"() {
    await page.emulateMedia({ colorScheme: "light" });
    await page.getByRole("button", { name: "Sign out" }).focus();
    await page.keyboard.press("Shift+Tab");
    assert.equal(await page.evaluate(() => document.activeElement.id), "skip");
    await page.keyboard.press("Enter");
    assert.equal(await page.evaluate(() => document.activeElement.id), "main");
    await page.getByRole("link", { name: "Peers" }).press("Enter");
    await heading("Peers");
    assert.equal(await page.evaluate(() => document.activeElement.id), "main");
    assert.equal(await page.locator("nav [aria-current]").textContent(), "Peers");
  },

  async "a token that ends, and a sign-out, forget it"() {
    await fault("revoked");
    await open("groups", "Sign in");
    await text("The server does not know this token, or no longer.");
    await fault("good");
    await signIn(token);
    await heading("Groups");
    await page.getByRole("button", { name: "Sign out" }).click();
    await heading("Sign in");
    await signIn(token);
    await heading("Groups");
    await page.reload();
    await heading("Sign in");
  },
};

for (const [name, step] of Object.entries(steps)) {
  try {
    await Promise.race([step(), complaint]);
  } catch (error) {
    console.error(`${name}: ${error.stack}\n${await page.locator("body").innerText()}`);
    process.exitCode = 1;
    break;
  }
}
await browser.close();
