// Finds a server's client API (Matrix specification, client-server API, "Server discovery").
import { call, json } from "./matrix.js";

/** The largest answer, in bytes, and the longest wait for it, in milliseconds. */
const MAX_ANSWER = 64 << 10;
const PATIENCE = 10_000;

/** Fetches JSON from an untrusted address; undefined without a usable answer. */
export async function fetchJson(url: string): Promise<any> {
  try {
    const answer = await call(url, {}, PATIENCE, MAX_ANSWER);
    return answer.status === 200 ? json(answer) : undefined;
  } catch {
    return undefined;
  }
}

/** A base URL without its last slash; undefined unless it is https, or http on this machine. */
function baseUrl(text: unknown): string | undefined {
  if (typeof text !== "string" || !URL.canParse(text)) return undefined;
  const { protocol, hostname, origin, pathname } = new URL(text);
  const isHere = protocol === "http:" && ["localhost", "127.0.0.1", "[::1]"].includes(hostname);
  return protocol === "https:" || isHere ? origin + pathname.replace(/\/$/, "") : undefined;
}

/** The possible base URLs of a server's client API: the one in its host's /.well-known, then its name. */
export async function clientAddresses(server: string): Promise<string[]> {
  const host = server.replace(/:\d+$/, "");
  const told = await fetchJson(`https://${host}/.well-known/matrix/client`);
  const base = baseUrl(told?.["m.homeserver"]?.base_url);
  return base === undefined ? [`https://${server}`] : [base, `https://${server}`];
}
