// Presses the buttons of the demo's page that make faults, and gives moves up: node faults.mjs ADDRESS.
import { agreed, begin, button, end, hostedBy, open, page, say, sent } from "./visit.mjs";

await open(process.argv[2]);

begin("the source is paused in the middle of a move");
await button("Move the group to B").click();
await sent("MigrationRequest", "bob → B");
await button("Pause server A").click();
await page.locator(".server[data-server=A][data-is=paused]").waitFor();
await button("Resume server A").click();
await page.getByText("moved: B hosts the group").waitFor();

begin("the network is cut in the middle of a move");
await button("Move the group to A").click();
await sent("MigrationCommitAAD", "A → B");
await button("Cut the network").click();
await page.locator(".line[data-is=cut]").waitFor();
await button("Mend the network").click();
await page.getByText("moved: A hosts the group").waitFor();
await agreed();

begin("the source is paused before a move, which is given up, and then is not");
await button("Pause server A").click();
await page.locator(".server[data-server=A][data-is=paused]").waitFor();
await button("Move the group to B").click();
await button("Give up").click();
await page.getByText("aborted: it was given up before it began").waitFor();
await button("Move the group to B").click();
await button("Resume server A").click();
await page.getByText("moved: B hosts the group").waitFor();
await agreed();
await say("alice", "bob", "after the pause");

begin("the target is killed in the middle of a move, and starts again");
await button("Move the group to A").click();
await sent("MigrationContent", "B → A");
await button("Kill server A").click();
await page.locator(".server[data-server=A][data-is=stopped]").waitFor();
await button("Start server A").click();
await page.locator("#status", { hasText: /^(moved|aborted): / }).waitFor();
await agreed();
await say("bob", "alice", "after the target was killed");

begin("a move is given up in the middle");
for (let isInTime = false; !isInTime; ) {
  const [target] = (await page.locator("#move").textContent()).slice(-1);
  const source = target === "A" ? "B" : "A";
  await button(`Move the group to ${target}`).click();
  await sent("MigrationInit", `${target} → ${source}`);
  await page.locator("#abort").dispatchEvent("click"); // it is hidden if the move has ended
  await page.locator("#status", { hasText: /^(moved|aborted): / }).waitFor();
  isInTime = (await page.locator("#status").textContent()).startsWith("aborted: ");
  await hostedBy(isInTime ? source : target);
  await agreed();
}
await say("alice", "bob", "we stay here");

begin("a server is killed and starts again");
await button("Kill server B").click();
await page.locator(".server[data-server=B][data-is=stopped]").waitFor();
await button("Start server B").click();
await say("alice", "bob", "B is back");

await end();
