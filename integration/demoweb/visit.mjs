// The demo's page in Chromium, as a user has it. It waits without time limits: its caller has one.
import { createRequire } from "node:module";

const { chromium } = createRequire(new URL("../../clients/ts/package.json", import.meta.url))("playwright-core");
const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM || "/usr/bin/chromium",
  args: ["--no-sandbox"],
  handleSIGTERM: false,
});
export const page = await browser.newPage({ viewport: { width: 1280, height: 800 }, colorScheme: "light" });
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

/** Begins a step, which a failure names. */
export const begin = (name) => void (step = name);
export const end = () => browser.close();

/** Opens the page, until the group is ready. */
export async function open(address) {
  await page.goto(address);
  await page.getByText("ready: write something").waitFor();
  await hostedBy("A");
  await agreed();
}

/** Says something in a chat, and waits until the other side has it. */
export async function say(from, to, text) {
  await page.getByLabel(`Message from ${from}`).fill(text);
  await page.keyboard.press("Enter");
  await page.locator(`#${to} .other`, { hasText: text }).waitFor();
  await page.locator(`#${from} .own:not(:has(small))`, { hasText: text }).waitFor();
}

export const button = (name) => page.getByRole("button", { name, exact: true });
export const hostedBy = (label) =>
  page.locator(`.server[data-server=${label}] .role`, { hasText: /^hosts the group/ }).waitFor();
export const sent = (name, way) => page.locator(`[data-name=${name}] .way`, { hasText: way }).waitFor();
export const agreed = () => page.locator(".agreement[data-is=equal]").waitFor();
