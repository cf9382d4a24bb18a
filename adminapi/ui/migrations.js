// Migrations, and one of them as its seven messages.
import { choice, code, field, filters, h, link, paged, pager, state, table, terms, time } from "./dom.js";

const states = ["frozen", "decided", "moved", "aborted", "offered", "staged", "active", "dropped"];

export async function migrations({ ask, query }) {
  const page = await ask("GET", "/migrations", { query: paged(query, "state", "role", "group_id", "user") });
  return [
    h("h1", {}, "Migrations"),
    filters("migrations",
      field("State", choice("state", states, query.state, "all")),
      field("Role", choice("role", ["source", "target"], query.role, "either")),
      field("Group", h("input", { name: "group_id", value: query.group_id ?? "" })),
      field("User", h("input", { name: "user", value: query.user ?? "", placeholder: "@user:example.org" }))),
    table("Migrations", [
      ["Migration", (m) => link(`migrations/${m.migration_id}`, {}, code(m.migration_id))],
      ["Role", (m) => m.role], ["State", (m) => state(m.state)],
      ["Source", (m) => m.source], ["Target", (m) => m.target], ["User", (m) => code(m.user)],
      ["Changed", (m) => time(m.updated_at ?? m.created_at)],
    ], page.items, "No migration fits."),
    pager("migrations", query, page),
  ];
}

export async function migration({ ask, id }) {
  const { migration: m, peer, messages } = await ask("GET", `/migrations/${encodeURIComponent(id)}/messages`);
  const sides = { [m.role]: here(m), [m.role === "source" ? "target" : "source"]: there(peer) };
  return [
    h("p", { class: "up" }, link("migrations", {}, "Migrations")),
    h("h1", {}, "Migration"), h("p", { class: "subject" }, code(m.migration_id)),
    h("div", { class: "sides" }, ["source", "target"].map((role) =>
      h("section", {}, h("h2", {}, role === "source" ? "Source" : "Target"), h("p", { class: "name" }, m[role]),
        sides[role]))),
    terms([
      ["Group", link(`groups/${m.group_id}`, {}, code(m.group_id))], ["Room", code(m.room_id)],
      ["User", code(m.user)], ["Term that begins", m.term], ["Epoch that ends", m.epoch],
      ["Begun", time(m.created_at)], m.expires_at && ["Offer expires", time(m.expires_at)],
      m.decide_by && ["Decision due", time(m.decide_by)], m.reason && ["Reason", m.reason],
    ]),
    h("h2", {}, "The seven messages"),
    h("ol", { class: "timeline" }, messages.map(message)),
  ];
}

const here = (m) => [
  h("p", {}, state(m.state), " ", h("small", {}, "this server")),
  h("small", {}, time(m.updated_at)),
];

const there = (peer) => [
  h("p", {}, peer.state ? state(peer.state) : peer.error ? state("away", "no answer") : state("", "knows nothing")),
  h("small", {}, peer.error ?? (peer.updated_at ? time(peer.updated_at) : "")),
];

/** The meaning of the progress of a message. */
const progress = { done: "done", awaited: "awaited", never: "not made" };

const message = (m) =>
  h("li", { class: m.progress }, h("h3", {}, m.name, " ", state(m.progress, progress[m.progress])),
    h("p", { class: "route" }, m.from, " → ", m.to), m.note && h("p", {}, h("small", {}, m.note)),
    m.fields && h("details", {}, h("summary", {}, "Decoded"),
      terms(Object.entries(m.fields).map(([name, value]) => [name, code(value)]))));
