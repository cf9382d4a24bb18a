// Drives the operator's page in a browser: node drive.mjs ADDRESS. With SCREENSHOTS it writes pictures into that
// folder.
import assert from "node:assert/strict";
import { address, browser, complaint, counts, enter, heading, open, page, rows, signIn, text } from "./browser.mjs";

const token = "token-of-admin";

const fault = (mode) => fetch(`${address}/fault/${mode}`, { method: "POST" });

/** Changes the world of the server, and returns the time there in milliseconds. */
async function world(act, n) {
  const response = await fetch(`${address}/world/${act}?n=${n}`, { method: "POST" });
  const answer = await response.text();
  assert.ok(response.ok, answer);
  return Number(answer);
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
    await page.clock.install({ time: await world("pass", 0) });
    await enter();
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
    const withB = page.locator("main tbody tr", { has: page.locator(".pair", { hasText: "b.example" }) });
    const first = await withB.first().locator("code").first().textContent();
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
    await world("pass", 1);
    await page.getByRole("textbox", { name: "deny_servers" }).fill("spam.example\n*.bad.example");
    await denied.getByRole("button", { name: "Save" }).click();
    await denied.getByText("administrator").waitFor();
    await denied.getByText("*.bad.example", { exact: true }).waitFor();
    await page.getByRole("textbox").waitFor({ state: "detached" });
    await page.evaluate(() => scrollTo(0, 0));
    await shot("policy");
    await world("pass", 1); // so the next change is the latest one
    await page.getByRole("button", { name: "Return to the configuration file" }).click();
    await page.getByRole("dialog").getByRole("button", { name: "Return" }).click();
    await row.getByText("default").waitFor();
  },

  async "drain: dry run, start, progress, and stop"() {
    await open("drain", "Drain");
    await text("There has been no drain.");
    await page.getByLabel("Targets").fill("b.example, c.example");
    await page.getByRole("button", { name: "Dry run" }).click();
    await heading("Dry run");
    await text("1–25 of 31");
    await page.getByRole("row", { name: "to b.example by @bob:b.example" }).first().waitFor();
    await page.getByRole("row", { name: "by nobody b.example: b.example takes groups" }).first().waitFor();
    await text("or ask the operator of b.example for accept_drain");
    await page.getByRole("link", { name: "Next page" }).click();
    await text("26–31 of 31");
    assert.equal(await page.getByRole("row", { name: "c.example: c.example does not answer" }).count(), 6);

    await open("drain", "Drain");
    await page.getByLabel("Targets").fill("b.example");
    await page.getByLabel("Groups a minute").fill("600");
    await page.getByLabel("Deadline in days").fill("30");
    await page.getByRole("button", { name: "Start" }).click();
    await page.getByRole("dialog").getByRole("button", { name: "Start" }).click();
    await text("0 of 31");
    assert.deepEqual(await counts(), { stuck: 0, asked: 0, moving: 1, waiting: 30, moved: 0, gone: 0 });

    await page.getByLabel("Targets").fill("b.example, c.example");
    await page.getByRole("button", { name: "Change" }).click();
    await page.getByRole("dialog").getByRole("button", { name: "Change" }).click();
    await text("b.example, c.example");
    assert.equal(await page.getByLabel("Deadline in days").inputValue(), "30");
    await world("pass", 10);
    await page.clock.fastForward(5000); // the page looks again by itself
    await page.getByRole("row", { name: "@bob:b.example until" }).first().waitFor();
    assert.deepEqual(await counts(), { stuck: 6, asked: 16, moving: 1, waiting: 8, moved: 0, gone: 0 });
    await page.getByText("send: the intake from a.example to c.example was lost", { exact: true }).waitFor();
    await world("answer", 5);
    await world("close", 1);
    await page.clock.fastForward(5000);
    await text("6 of 31");
    assert.deepEqual(await counts(), { stuck: 6, asked: 11, moving: 1, waiting: 7, moved: 5, gone: 1 });
    await page.mouse.move(0, 0);
    await page.evaluate(() => scrollTo(0, 0));
    await shot("drain", 1100);

    await page.locator(".counts").getByText("stuck").click();
    await text("1–6 of 6");
    assert.equal(await page.getByText("Invite a user of b.example into the group").count(), 6);
    await page.getByLabel("State").selectOption("moved");
    await page.getByRole("button", { name: "Filter" }).click();
    await text("1–5 of 5");
    assert.equal(await page.getByRole("cell", { name: "moved to b.example" }).count(), 5);
    // An order counts that the operator gives while the page looks again.
    await fault("slow");
    await page.evaluate(() => document.activeElement.blur());
    await page.clock.fastForward(5000);
    await page.locator("main[aria-busy]").waitFor();
    await page.getByRole("button", { name: "Stop the drain" }).click();
    await page.getByRole("dialog").getByRole("button", { name: "Stop" }).click();
    await fault("good");
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
    assert.equal(await rows(), 7);
    await page.getByText("Why").press("Enter");
    await text("https://spam.example");
    const returned = page.locator("main tbody > tr", { has: page.getByText("policy", { exact: true }) }).first();
    await returned.locator("summary").press("Enter");
    await returned.getByRole("cell", { name: "quotas.members" }).waitFor();
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
