// The long part of a join beside the page: in a Worker where there is one, else in slices of the page's own time.
import type { GroupContext, RatchetTree } from "ts-mls";
import { MlsRuleError } from "./corrections/rules.js";
import { validateTree } from "./corrections/tree.js";
import { authService } from "./credentials.js";
import type { Pace } from "./pace.js";
import { orAborted } from "./store.js";

/** From which size on a tree is worth a Worker, in bytes: about 150 leaves. */
const LARGE = 32 * 1024;

/** A Worker's task: a tree and the public context of its group. No secret is in them. */
export interface Task {
  encoded: Uint8Array;
  context: GroupContext;
}

/** A Worker's answer: the rule that the tree breaks, or none. */
export interface Answer {
  broken: string | undefined;
}

/** Validates a tree as validateTree does. encoded has its bytes. Throws the signal's reason if the signal ends this. */
export async function validateBeside(
  encoded: Uint8Array,
  tree: RatchetTree,
  context: GroupContext,
  pace: Pace,
  signal?: AbortSignal,
): Promise<void> {
  const answer = encoded.length < LARGE ? undefined : await askWorker({ encoded, context }, signal);
  if (answer === undefined) return validateTree(tree, context, authService, pace);
  if (answer.broken !== undefined) throw new MlsRuleError(answer.broken);
}

/** The answer of a new Worker; undefined if none can be made or loaded. The Worker ends with its task. */
async function askWorker(task: Task, signal: AbortSignal | undefined): Promise<Answer | undefined> {
  const worker = newWorker();
  if (worker === undefined) return undefined;
  const answer = new Promise<Answer | undefined>((resolve) => {
    worker.onmessage = ({ data }) => resolve(data);
    worker.onerror = (event) => {
      event.preventDefault();
      resolve(undefined);
    };
    worker.postMessage(task);
  });
  try {
    return await orAborted(answer, signal);
  } finally {
    worker.terminate();
  }
}

function newWorker(): Worker | undefined {
  try {
    return new Worker(new URL("./worker.js", import.meta.url), { type: "module" }); // bundlers look for these words
  } catch {
    return undefined; // there are none here, or the page forbids it
  }
}
