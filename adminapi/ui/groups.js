// The groups of this server: who is in them, who may move them where and, if nobody, why.
import { choice, code, field, filters, h, link, number, paged, pager, state, table, terms, time } from "./dom.js";

const states = ["reserved", "active", "frozen", "stopped", "closed", "ended", "moved", "staged"];

export async function groups({ ask, query }) {
  const page = await ask("GET", "/groups", { query: paged(query, "state", "room", "server") });
  return [
    h("h1", {}, "Groups"),
    filters("groups",
      field("State", choice("state", states, query.state, "all")),
      field("Room", h("input", { name: "room", value: query.room ?? "", placeholder: "!room:example.org" })),
      field("Server", h("input", { name: "server", value: query.server ?? "", placeholder: "example.org" }))),
    table("Groups", [
      ["Group", (g) => link(`groups/${g.group_id}`, {}, code(g.group_id))],
      ["State", (g) => [state(g.state), g.moved_to && [" to ", g.moved_to.server]]],
      ["Members", (g) => (g.hosted ? number(g.hosted.members) : "–"), "n"],
      ["By server", (g) => g.hosted?.servers.map((s) =>
        h("div", { class: "pair" }, h("span", {}, s.server), h("b", {}, number(s.leaves)))) ?? "–"],
      ["Movable", mover],
      ["Last Commit", (g) => time(g.last_commit_at)],
    ], page.items, "No group fits."),
    pager("groups", query, page),
  ];
}

function mover(g) {
  if (g.fault) return [state("failed", "cannot be read"), h("small", {}, g.fault)];
  const moves = g.hosted?.moves;
  if (!moves) return "–";
  return [state(moves.movable), h("small", {}, moves.why[0]?.text ?? about(moves))];
}

/** Where a group can go, and whether the target decides. */
const about = ({ movable, targets, anywhere }) =>
  (targets.length > 0 ? `to ${targets.join(", ")}` : anywhere ? "to any server" : "") +
  (movable === "ask" ? ", if its operator permits it" : "");

export async function group({ ask, id }) {
  const g = await ask("GET", `/groups/${encodeURIComponent(id)}`);
  return [
    h("p", { class: "up" }, link("groups", {}, "Groups")),
    h("h1", {}, "Group"), h("p", { class: "subject" }, code(g.group_id)),
    terms([
      ["State", state(g.state), g.moved_to && ` to ${g.moved_to.server}, term ${g.moved_to.term}`],
      ["Room", code(g.room_id)], ["Creator", code(g.creator)], ["Server", g.server],
      ["Term and epoch", `${g.term} · ${g.epoch}`], ["Protocol", g.protocol],
      ["Created", time(g.created_at)], ["Last Commit", time(g.last_commit_at)],
      g.migration_id && ["Migration", link(`migrations/${g.migration_id}`, {}, code(g.migration_id))],
      g.fault && ["Fault", g.fault],
    ]),
    g.hosted && hosted(g.hosted),
    h("p", { class: "links" }, link("migrations", { group_id: g.group_id }, "Its migrations"),
      link("evidence", { group_id: g.group_id }, "Its evidence")),
  ].flat().filter(Boolean);
}

function hosted({ members, servers, moves, pending_removals: pending }) {
  return [
    h("h2", {}, `Members (${number(members)})`),
    table("Members by server", [
      ["Server", (s) => s.server], ["Users", (s) => number(s.users), "n"], ["Leaves", (s) => number(s.leaves), "n"],
    ], servers),
    h("h2", {}, "Who may move it"),
    terms([
      ["Movable", state(moves.movable)],
      ["Users", moves.users.length > 0 ? moves.users.map((user) => h("div", {}, code(user))) : "nobody",
        moves.total > moves.users.length && h("small", {}, `and ${number(moves.total - moves.users.length)} more`)],
      ["Targets", [...moves.targets, moves.anywhere && "any other server"].filter(Boolean).join(", ") || "none"],
    ]),
    moves.why.length > 0 && reasons(moves.why),
    pending.length > 0 && [
      h("h2", {}, "Leaves that the next Commit removes"),
      table("Pending removals", [
        ["Leaf", (p) => p.leaf, "n"], ["User", (p) => code(p.user_id)], ["Device", (p) => code(p.device_id)],
      ], pending),
    ],
  ].flat();
}

/** Why a move is not possible, and what helps. */
export const reasons = (list) =>
  h("ul", { class: "reasons" }, list.map((why) => h("li", {},
    why.target && [h("b", {}, why.target), ": "], why.text, h("small", {}, why.remedy))));
