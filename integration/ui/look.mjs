// Prints as JSON what the operator's page shows of a server: node look.mjs ADDRESS TOKEN.
import assert from "node:assert/strict";
import { browser, complaint, counts, enter, heading, open, page, signIn, text } from "./browser.mjs";

const number = (text) => Number(text.replaceAll("\u202f", ""));

/** The number of items on all pages of the list that is shown. */
const total = async () => number((await page.locator(".pager span").innerText()).match(/of ([\d\u202f]+)$/)[1]);

/** A table with a state and a number in each row. */
async function byState(caption) {
  const table = page.locator("table", { has: page.getByText(caption, { exact: true }) });
  return Object.fromEntries(await table.locator("tbody tr").evaluateAll((rows) =>
    rows.map((row) => [row.querySelector(".state").lastChild.data, row.querySelector(".n").textContent])));
}

async function look() {
  const answer = await enter();
  assert.match(answer.headers()["content-security-policy"], /^default-src 'none'; script-src 'self'/);
  await signIn(process.argv[3]);
  await heading("Status");
  await text("Groups by state");
  const shown = { groups: {}, totals: {}, drain: null, without_reason: [] };
  for (const [state, n] of Object.entries(await byState("Groups by state"))) {
    shown.groups[state] = number(n);
    await open(`groups?state=${state}`, "Groups");
    shown.totals[state] = await total();
  }
  await open("drain", "Drain");
  if (await page.locator(".counts").count() > 0) shown.drain = await counts();
  for (let more = shown.drain !== null && "drain?state=stuck"; more;) {
    await open(more, "Drain");
    const stuck = page.locator("tbody tr", { has: page.locator(".state", { hasText: "stuck" }) });
    shown.stuck = (shown.stuck ?? 0) + await stuck.count();
    shown.without_reason.push(...await stuck.filter({ hasNot: page.locator(".reasons li small:not(:empty)") })
      .locator("td:first-child").allInnerTexts());
    const next = page.getByRole("link", { name: "Next page" });
    more = await next.count() > 0 && (await next.getAttribute("href")).slice(2);
  }
  for (const [view, name] of [["migrations", "Migrations"], ["policy", "Policy"], ["peers", "Peers"],
    ["evidence", "Evidence"], ["audit", "Audit log"]]) await open(view, name);
  return shown;
}

try {
  console.log(JSON.stringify(await Promise.race([look(), complaint])));
} catch (error) {
  console.error(`${error.stack}\n${await page.locator("body").innerText()}`);
  process.exitCode = 1;
}
await browser.close();
