// The state of the server, and the servers to which it cannot deliver.
import { code, h, href, link, notice, number, span, state, table, terms, time } from "./dom.js";

export async function status({ ask }) {
  const [s, health] = await Promise.all([ask("GET", "/status"), ask("GET", "/health")]);
  const waiting = s.outbox.reduce((sum, line) => sum + line.rows, 0);
  return [
    h("h1", {}, "Status"),
    h("div", { class: "figures" },
      figure("Groups here", (s.groups.active ?? 0) + (s.groups.frozen ?? 0), "groups"),
      figure("Members", s.members, "groups"),
      figure("Groups moved", s.groups.moved, "groups", { state: "moved" }),
      figure("Rows that wait", waiting, "peers"),
      figure("Peers that fail", s.peers.length, "peers"),
      figure("Evidence", Object.values(s.evidence).reduce((a, b) => a + b, 0), "evidence")),
    terms([
      ["Server", s.server], ["Health", state(health.healthy ? "healthy" : "failed", health.reason ?? "healthy")],
      ["Module", s.module], ["Homeserver", s.host], ["Database", `${s.database}, schema ${s.schema}`],
    ]),
    h("h2", {}, "Groups by state"),
    h("div", { class: "small" }, table("Groups by state", [
      ["State", ([name]) => link("groups", { state: name }, state(name))], ["Groups", ([, n]) => number(n), "n"],
    ], Object.entries(s.groups))),
    h("h2", {}, "Migrations by state"),
    h("div", { class: "small" }, table("Migrations by state", [
      ["Role", ([role]) => role],
      ["State", ([role, name]) => link("migrations", { role, state: name }, state(name))],
      ["Migrations", ([, , n]) => number(n), "n"],
    ], byState(s.migrations),
    "There has been no migration.")),
  ];
}

const byState = (all) =>
  Object.entries(all).flatMap(([role, states]) => Object.entries(states).map((row) => [role, ...row]));

const figure = (title, n, view, query) =>
  h("a", { class: "figure", href: href(view, query) }, h("b", {}, number(n)), h("span", {}, title));

export async function peers({ ask }) {
  const s = await ask("GET", "/status");
  return [
    h("h1", {}, "Peers"),
    h("h2", {}, "Servers that fail"),
    s.peers.length === 0
      ? notice("good", "Every server takes what this one sends.")
      : table("Servers that fail", [
        ["Server", (p) => [state("failed", p.server)]], ["Since", (p) => time(p.since)],
        ["Attempts", (p) => number(p.attempts), "n"], ["Last", (p) => time(p.last_at)],
        ["Error", (p) => [code(p.error), p.remedy && h("small", {}, "Remedy: ", p.remedy)]],
      ], s.peers),
    h("h2", {}, "What waits"),
    table("What waits", [
      ["Destination", (b) => b.destination], ["Rows", (b) => number(b.rows), "n"], ["Oldest", (b) => time(b.oldest_at)],
      ["Age", (b) => span(b.age_ms), "n"], ["Attempts", (b) => number(b.attempts), "n"],
    ], s.outbox, "Nothing waits."),
  ];
}
