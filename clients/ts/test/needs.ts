// Finds the programs and files that tests need besides Node. internal/needs does the same for the tests in Go.
import { execFile } from "node:child_process";
import { existsSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";

/** The reason to skip a test, or false. With MIMI_REQUIRE_ALL in the environment the test runs, and fails. */
const skipWithout = (present: boolean, missing: string): string | false =>
  present || process.env.MIMI_REQUIRE_ALL ? false : `NOT TESTED: ${missing}`;

/** The folder of the MLS working group's test vectors: MLS_TEST_VECTORS, or else one beside the repository. */
export const vectors =
  process.env.MLS_TEST_VECTORS || fileURLToPath(new URL("../../../../../shared/vectors/mls", import.meta.url));

/** The value of skip for a test that reads the vectors. */
export const noVectors = skipWithout(
  existsSync(vectors),
  `there are no MLS test vectors at ${vectors}: set MLS_TEST_VECTORS`,
);

/** The browser that tests drive: CHROMIUM, or else Debian's. */
export const chromiumPath = process.env.CHROMIUM || "/usr/bin/chromium";

/** The value of skip for a test that drives a browser. */
export const noChromium = skipWithout(existsSync(chromiumPath), `there is no ${chromiumPath}: set CHROMIUM`);

/** The value of skip for a test that installs packages which only the npm registry has. */
export async function noRegistry(): Promise<string | false> {
  const ping = await promisify(execFile)("npm", ["ping"]).catch(() => undefined);
  return skipWithout(ping !== undefined, "npm has no registry");
}
