// Where a server's client API is (Matrix specification, client-server API, "Server discovery").
import { call, json } from "./matrix.js";

/** How much of an answer is read, in bytes, and how long it is waited for, in milliseconds. */
const MAX_ANSWER = 64 << 10;
const PATIENCE = 10_000;

/** Fetches JSON from where anybody may have put anything; undefined for no answer, or none of use. */
export async function fetchJson(url: string): Promise<any> {
  try {
    const answer = await call(url, { signal: AbortSignal.timeout(PATIENCE) }, MAX_ANSWER);
    return answer.status === 200 ? json(answer) : undefined;
  } catch {
    return undefined;
  }
}

/** A base URL without its last slash; undefined for what is no URL of a server that can prove its name, or is here. */
function baseUrl(text: unknown): string | undefined {
  if (typeof text !== "string" || !URL.canParse(text)) return undefined;
  const { protocol, hostname, origin, pathname } = new URL(text);
  const isHere = protocol === "http:" && ["localhost", "127.0.0.1", "[::1]"].includes(hostname);
  return protocol === "https:" || isHere ? origin + pathname.replace(/\/$/, "") : undefined;
}

/** Where a server's client API may be: where the host of its name says in /.well-known, then at its name. */
export async function clientAddresses(server: string): Promise<string[]> {
  const host = server.replace(/:\d+$/, "");
  const told = await fetchJson(`https://${host}/.well-known/matrix/client`);
  const base = baseUrl(told?.["m.homeserver"]?.base_url);
  return base === undefined ? [`https://${server}`] : [base, `https://${server}`];
}
