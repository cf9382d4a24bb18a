// The page: sign in, the views, and what stands there while the server is slow, down or refuses.
import { ask, Failure, signedIn, signIn, signOut } from "./api.js";
import { button, field, form, h, link, notice } from "./dom.js";
import { audit } from "./audit.js";
import { drain, drainPlan } from "./drain.js";
import { evidence } from "./evidence.js";
import { group, groups } from "./groups.js";
import { migration, migrations } from "./migrations.js";
import { peers, status } from "./status.js";
import { policy } from "./policy.js";

/** The wait after which the page says that the server is slow, in milliseconds. */
const slow = 2000;

/** The views of the navigation: title and function. */
const views = {
  status: ["Status", status], groups: ["Groups", groups], migrations: ["Migrations", migrations],
  drain: ["Drain", drain], policy: ["Policy", policy], peers: ["Peers", peers], evidence: ["Evidence", evidence],
  audit: ["Audit log", audit],
};

/** The views of one thing, by the view above. They take an id. */
const details = { groups: group, migrations: migration, drain: drainPlan };

const [main, nav, server] = ["main", "nav", "server"].map((id) => document.getElementById(id));
const out = document.getElementById("sign-out");

/** Ends with the view: requests, and the repeated look at something that changes. */
let shown = new AbortController();

function parse(hash) {
  const [path, search] = hash.replace(/^#\/?/, "").split("?", 2);
  const [name, id] = path.split("/");
  const view = Object.hasOwn(views, name) ? name : "status";
  return { view, id: (Object.hasOwn(details, view) && id) || "", query: new URLSearchParams(search) };
}

/** Whether the operator is in the middle of something that new content would destroy. */
const busy = () => document.activeElement?.closest("main *, dialog") != null;

/**
 * Shows the view that the address names. focus moves to the content, as after a click on a link. A glance shows nothing
 * if the operator is busy when the answers are there.
 */
async function show({ focus = true, glance = false } = {}) {
  shown.abort();
  const controller = (shown = new AbortController());
  const { signal } = controller;
  document.getElementById("dialog").close();
  out.hidden = nav.hidden = !signedIn();
  if (!signedIn()) return askToken();

  const { view, id, query } = parse(location.hash);
  const [title, make] = views[view];
  nav.replaceChildren(...Object.entries(views).map(([name, [text]]) => {
    const a = link(name, {}, text);
    if (name === view) a.setAttribute("aria-current", "page");
    return a;
  }));
  document.title = `${title} · MIMI Portability`;
  const wait = notice("wait", "Loading…");
  const late = setTimeout(() => wait.replaceChildren(
    h("p", {}, h("strong", {}, "The server is slow.")), h("p", {}, "The page still waits for its answer."),
    button("Stop waiting", () => fail(new Failure(0, "You have stopped waiting.")))), slow);
  const reload = () => show({ focus: false });
  const look = () => busy() || document.hidden || show({ focus: false, glance: true });
  const fail = (error) => {
    if (signal.aborted) return;
    controller.abort();
    clearTimeout(late);
    main.replaceChildren(h("h1", {}, title), failure(error, reload));
    if (error.status === 401) askToken("The server does not know this token, or no longer. Sign in again.");
  };
  if (focus) {
    main.replaceChildren(h("h1", {}, title), wait);
    main.focus({ preventScroll: true });
    scrollTo(0, 0);
  } else main.setAttribute("aria-busy", "true");
  try {
    const context = {
      id, query: Object.fromEntries(query), signal, reload, look,
      // The end of a view ends its questions. An order goes on.
      ask: (method, path, more) => ask(method, path, { ...more, signal: method === "GET" ? signal : undefined }),
    };
    const content = await (id ? details[view] : make)(context);
    if (signal.aborted || (glance && busy())) return;
    main.replaceChildren(...[content].flat());
  } catch (error) {
    fail(error);
  } finally {
    clearTimeout(late);
    if (!signal.aborted) main.removeAttribute("aria-busy");
  }
}

/** Says what failed and what to do. */
function failure(error, again) {
  const [title, remedy] = {
    0: ["No answer", "See whether the homeserver runs, and whether this computer reaches it."],
    401: ["Signed out", ""],
    403: ["Refused", "This account is no administrator of the homeserver. Sign in with another token."],
    404: ["Not found", "Perhaps it is gone, or the homeserver runs another version of the module."],
    429: ["Too many requests", "Wait a moment."],
    503: ["Unable to work now", "The homeserver runs, but not its database. See the log."],
  }[error.status] ?? ["The server failed", "See the log of the homeserver."];
  if (!(error instanceof Failure)) console.error(error);
  return notice("bad", title, h("p", {}, error.message), remedy && h("p", {}, remedy), button("Try again", again));
}

/** Asks for the token. why says why, if the page had one. */
function askToken(why) {
  signOut();
  shown.abort();
  const { signal } = (shown = new AbortController());
  out.hidden = nav.hidden = true;
  server.textContent = "";
  document.title = "Sign in · MIMI Portability";
  const said = h("div");
  if (why) said.append(notice("bad", why));
  const input = h("input", { type: "password", autocomplete: "off", spellcheck: "false", required: true, id: "token" });
  main.replaceChildren(form({ class: "sign-in" }, async () => {
    signIn(input.value);
    said.replaceChildren(notice("wait", "Signing in…"));
    try {
      const { server: name } = await ask("GET", "/status", { signal });
      server.textContent = name;
      await show();
    } catch (error) {
      if (signal.aborted) return;
      signOut();
      if (error.status === 401) error.message = "The server does not know this token.";
      said.replaceChildren(failure(error, () => input.form.requestSubmit()));
      input.focus();
    }
  }, h("h1", {}, "Sign in"),
  field("Access token of an administrator", input,
    "The page keeps the token in memory alone, and forgets it when you close or reload the page."),
  h("button", { type: "submit", class: "primary" }, "Sign in"), said));
  input.focus();
}

document.getElementById("skip").addEventListener("click", () => main.focus());
out.addEventListener("click", () => {
  signOut();
  show();
});
addEventListener("hashchange", () => show());
show();
