// The admin API. The token lives in this module's memory alone: it ends with the page.

const base = new URL("..", import.meta.url);

/** The longest wait for an answer in milliseconds. */
const patience = 120_000;

let token = "";

export const signIn = (typed) => (token = typed.trim());
export const signOut = () => (token = "");
export const signedIn = () => token !== "";

/** A request that failed: the HTTP status, or 0 when no answer came, and a text for people. */
export class Failure extends Error {
  constructor(status, text) {
    super(text);
    this.status = status;
  }
}

/** Asks the admin API and returns its answer. It throws a Failure, or the reason with which the signal was aborted. */
export async function ask(method, path, { query = {}, body, signal } = {}) {
  const url = new URL(path.replace(/^\//, ""), base);
  for (const [name, value] of Object.entries(query)) {
    for (const one of [value].flat()) if (one !== "" && one !== undefined) url.searchParams.append(name, one);
  }
  const headers = { Authorization: `Bearer ${token}` };
  if (body !== undefined) headers["Content-Type"] = "application/json";
  const limit = AbortSignal.timeout(patience);
  let response, answer;
  try {
    response = await fetch(url, {
      method, headers, body: body === undefined ? undefined : JSON.stringify(body),
      signal: signal ? AbortSignal.any([signal, limit]) : limit,
      credentials: "omit", cache: "no-store", redirect: "error", referrerPolicy: "no-referrer",
    });
    answer = await response.text();
  } catch (error) {
    signal?.throwIfAborted();
    if (limit.aborted) throw new Failure(0, `No answer came within ${patience / 1000} seconds.`);
    throw new Failure(0, "The server does not answer.");
  }
  const parsed = parse(answer);
  if (response.ok && parsed !== undefined) return parsed;
  throw new Failure(response.status, parsed?.error ?? parsed?.reason ?? response.statusText);
}

/** Parses JSON, or returns undefined: what stands before the server may answer in HTML. */
function parse(text) {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
