// The program of a Worker: it validates one tree, and keeps nothing.
import type { Answer, Task } from "./beside.js";
import { readTree, validateTree } from "./corrections/tree.js";
import { authService } from "./credentials.js";
import { unpaced } from "./pace.js";

async function validate({ encoded, context }: Task): Promise<Answer> {
  try {
    await validateTree(await readTree(encoded, unpaced), context, authService, unpaced);
    return { broken: undefined };
  } catch (e) {
    return { broken: e instanceof Error ? e.message : String(e) };
  }
}

const page = globalThis as unknown as Pick<Worker, "postMessage" | "addEventListener">;
page.addEventListener("message", async ({ data }) => page.postMessage(await validate(data)));
