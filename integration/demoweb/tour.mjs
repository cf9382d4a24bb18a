// Goes through the demo's page in Chromium as a user does: node tour.mjs ADDRESS [FOLDER FOR PICTURES]. It waits
// without time limits: its caller has one.
import assert from "node:assert/strict";
import { mkdirSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";

const { chromium } = createRequire(new URL("../../clients/ts/package.json", import.meta.url))("playwright-core");
const [address, folder] = process.argv.slice(2);
const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM || "/usr/bin/chromium",
  args: ["--no-sandbox"],
  handleSIGTERM: false,
});
const page = await browser.newPage({ viewport: { width: 1280, height: 800 }, colorScheme: "light" });
page.setDefaultTimeout(0);
let step = "the page opens";
process.on("SIGTERM", async () => {
  console.error(`the tour stays where ${step}; the page says:\n${await page.locator("body").innerText()}`);
  process.exit(1);
});
page.on("pageerror", (e) => {
  console.error(`where ${step}: ${e.stack}`);
  process.exit(1);
});

let frames = 0;
/** Takes a picture. */
const shoot = async (name, animations = "disabled") => {
  if (!folder) return;
  mkdirSync(folder, { recursive: true });
  await page.locator("h1").click(); // away from the input
  await page.screenshot({ path: join(folder, `${name}.png`), animations });
};
/** Takes the next picture of the film. */
const frame = async () => {
  await shoot(`frame-${String(frames++).padStart(2, "0")}`, "allow");
};

/** Says something in a chat, and waits until the other side has it. */
async function say(from, to, text) {
  await page.getByLabel(`Message from ${from}`).fill(text);
  await page.keyboard.press("Enter");
  await page.locator(`#${to} .other`, { hasText: text }).waitFor();
  await page.locator(`#${from} .own:not(:has(small))`, { hasText: text }).waitFor();
}

const button = (name) => page.getByRole("button", { name, exact: true });
const ticks = (n) => page.waitForFunction((n) => document.querySelectorAll("[data-done]").length >= n, n);
const hostedBy = (label) =>
  page.locator(`.server[data-server=${label}] .role`, { hasText: /^hosts the group/ }).waitFor();
const sent = (name, way) => page.locator(`[data-name=${name}] .way`, { hasText: way }).waitFor();
const agreed = () => page.locator(".agreement[data-is=equal]").waitFor();

await page.goto(address);
await page.getByText("ready: write something").waitFor();
await hostedBy("A");
await agreed();
await say("alice", "bob", "hello bob, this group lives at A");
await say("bob", "alice", "and I read it at B");
await frame();

step = "the group moves to B";
await button("Move the group to B").click();
for (let n = 1; n <= 7; n++) {
  await ticks(n);
  await frame();
}
await page.getByText("moved: B hosts the group").waitFor();
await hostedBy("B");
await agreed();
await page.getByText("signed by A: the group is at B, term 1").waitFor();
assert.deepEqual(
  await page.locator("[data-done]").evaluateAll((all) => all.map((item) => item.dataset.name)),
  [
    "MigrationRequest",
    "MigrationResponse",
    "MigrationInit",
    "MigrationCommitAAD",
    "MigrationContent",
    "TargetMigrationComplete",
    "MigrationConfirmation",
  ],
);
await page.locator("[data-name=MigrationCommitAAD] summary").click();
const aad = JSON.parse(await page.locator("[data-name=MigrationCommitAAD] pre").textContent());
assert.equal(aad.target_ds_domain, await page.locator(".server[data-server=B] .name").textContent());
await page.locator("[data-name=MigrationCommitAAD] summary").click();
await say("alice", "bob", "we are at B now");
await say("bob", "alice", "same keys, same words");
await frame();
await shoot("light");
await page.emulateMedia({ colorScheme: "dark" });
await shoot("dark");
await page.emulateMedia({ colorScheme: "light" });

step = "the page is reloaded";
await button("Reload the page").click();
await page.getByText("ready: write something").waitFor();
await hostedBy("B");
await agreed();
await say("alice", "bob", "still here after a reload");

step = "bob is kicked";
await button("Kick bob").click();
await page.locator("#bob .state", { hasText: "left" }).waitFor();
step = "bob comes in again";
await button("Let bob in again").click();
await agreed();
step = "the group moves to A";
await button("Move the group to A").click();
await page.getByText("moved: A hosts the group").waitFor();
await hostedBy("A");
await agreed();
await say("bob", "alice", "home again");

step = "the source is paused in the middle of a move";
await button("Move the group to B").click();
await sent("MigrationRequest", "bob → B");
await button("Pause server A").click();
await page.locator(".server[data-server=A][data-is=paused]").waitFor();
await button("Resume server A").click();
await page.getByText("moved: B hosts the group").waitFor();

step = "the network is cut in the middle of a move";
await button("Move the group to A").click();
await sent("MigrationCommitAAD", "A → B");
await button("Cut the network").click();
await page.locator(".line[data-is=cut]").waitFor();
await button("Mend the network").click();
await page.getByText("moved: A hosts the group").waitFor();
await agreed();

step = "a server is killed and starts again";
await button("Kill server B").click();
await page.getByText("homeserver, but is killed").waitFor();
await button("Start server B").click();
await say("alice", "bob", "B is back");

await page.emulateMedia({ colorScheme: "dark" });
await page.setViewportSize({ width: 390, height: 844 });
await shoot("narrow");
const isWide = await page.evaluate(() => document.documentElement.scrollWidth > innerWidth);
assert.equal(isWide, false, "a narrow screen scrolls sideways");
await browser.close();
