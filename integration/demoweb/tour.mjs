// Shows what the demo's page is for: node tour.mjs ADDRESS [FOLDER FOR PICTURES].
import assert from "node:assert/strict";
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { agreed, begin, button, end, hostedBy, open, page, say } from "./visit.mjs";

const [address, folder] = process.argv.slice(2);
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

const ticks = (n) => page.waitForFunction((n) => document.querySelectorAll("[data-done]").length >= n, n);

await open(address);
await say("alice", "bob", "hello bob, this group lives at A");
await say("bob", "alice", "and I read it at B");
await frame();

begin("the group moves to B");
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

begin("the page is reloaded");
await button("Reload the page").click();
await page.getByText("ready: write something").waitFor();
await hostedBy("B");
await agreed();
await say("alice", "bob", "still here after a reload");

begin("bob is kicked");
await button("Kick bob").click();
await page.locator("#bob .state", { hasText: "left" }).waitFor();
begin("bob comes in again");
await button("Let bob in again").click();
await agreed();
begin("the group moves to A");
await button("Move the group to A").click();
await page.getByText("moved: A hosts the group").waitFor();
await hostedBy("A");
await agreed();
await say("bob", "alice", "home again");

await page.emulateMedia({ colorScheme: "dark" });
await page.setViewportSize({ width: 390, height: 844 });
await shoot("narrow");
const isWide = await page.evaluate(() => document.documentElement.scrollWidth > innerWidth);
assert.equal(isWide, false, "a narrow screen scrolls sideways");
await end();
