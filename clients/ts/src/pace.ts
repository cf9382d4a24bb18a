// Long work in slices, so that the page or process gets to its other work in between.

/** Called between the steps of long work. It waits while other work is due, and throws to end the work. */
export type Pace = () => Promise<void>;

/** For a thread that has no other work. */
export const unpaced: Pace = async () => undefined;

/** How much is begun at once: a browser and Node have threads for cryptography. */
const AT_ONCE = 32;

/** Does work for each item, for some at once. The results have the order of the items. */
export async function each<T, R>(items: readonly T[], work: (item: T) => Promise<R>, pace: Pace): Promise<R[]> {
  const results: R[] = [];
  for (let i = 0; i < items.length; i += AT_ONCE) {
    await pace();
    results.push(...(await Promise.all(items.slice(i, i + AT_ONCE).map(work))));
  }
  return results;
}

/** How long a slice takes, in milliseconds: one frame of a screen. */
const SLICE = 16;

/** Ends a slice when it has taken long enough. Throws the signal's reason once that is aborted. */
export function slices(signal?: AbortSignal, now: () => number = () => performance.now()): Pace {
  let since = now();
  return async () => {
    signal?.throwIfAborted();
    if (now() - since < SLICE) return;
    await turn();
    since = now();
  };
}

/** Waits until all that is due has run. Unlike a timer, a message is not held back in a page that nobody sees. */
function turn(): Promise<void> {
  const { port1, port2 } = new MessageChannel();
  return new Promise((resolve) => {
    port1.onmessage = () => {
      port1.close();
      resolve();
    };
    port2.postMessage(undefined);
  });
}
