// Where a server's client API is (Matrix specification, client-server API, "Server discovery").
import { call, json } from "./matrix.js";

/** How much of an answer is read, in bytes, and how long it is waited for, in milliseconds. */
const MAX_ANSWER = 64 << 10;
const PATIENCE = 10_000;

/** Fetches JSON from where anybody may have put anything; undefined for no answer, or none of use. */
export async function fetchJson(url: string, fetch: typeof globalThis.fetch): Promise<any> {
  try {
    const answer = await call(url, { signal: AbortSignal.timeout(PATIENCE) }, MAX_ANSWER, fetch);
    return answer.status === 200 ? json(answer) : undefined;
  } catch {
    return undefined;
  }
}

/** A base URL without its last slash; undefined for what is no URL of a web server that can prove its name. */
function baseUrl(text: unknown): string | undefined {
  if (typeof text !== "string" || !URL.canParse(text)) return undefined;
  const { protocol, origin, pathname } = new URL(text);
  return protocol === "https:" ? origin + pathname.replace(/\/$/, "") : undefined;
}

/** Where a server's client API may be: where the host of its name says in /.well-known, then at its name. */
export async function clientAddresses(server: string, fetch: typeof globalThis.fetch): Promise<string[]> {
  const host = server.replace(/:\d+$/, "");
  const told = await fetchJson(`https://${host}/.well-known/matrix/client`, fetch);
  const base = baseUrl(told?.["m.homeserver"]?.base_url);
  return base === undefined ? [`https://${server}`] : [base, `https://${server}`];
}
