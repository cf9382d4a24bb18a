// Signatures that another server should not have given, and the reports of members.
import { choice, code, field, filters, h, link, number, paged, pager, table, time } from "./dom.js";

/** The meaning of each kind of evidence. */
const kinds = {
  "second-content": "a server signed two contents for one offer",
  "both-outcomes": "a server signed a confirmation and an abort of one migration",
  "own-forgotten": "this server signed what it no longer knows",
  "higher-term": "the group is elsewhere in a later term",
  contested: "another server claims a group that is here",
  displaced: "a claim took the place of another",
  "later-epoch": "a member claims a later epoch than this server has",
  fork: "this server also signed for another Commit",
  report: "a member cannot process a Commit",
};

export async function evidence({ ask, query }) {
  const page = await ask("GET", "/evidence", { query: paged(query, "kind", "group_id") });
  return [
    h("h1", {}, "Evidence"),
    h("p", { class: "lead" }, "What servers have signed against the rules, and what members report. A report is a ",
      "signal, and no vote."),
    filters("evidence",
      field("Kind", choice("kind", Object.keys(kinds), query.kind, "all")),
      field("Group", h("input", { name: "group_id", value: query.group_id ?? "" }))),
    table("Evidence", [
      ["Kind", (e) => [h("b", {}, e.kind), h("small", {}, kinds[e.kind])]],
      ["Group", (e) => link(`groups/${e.group_id}`, {}, code(e.group_id))],
      ["Migration", (e) => (e.migration_id ? link(`migrations/${e.migration_id}`, {}, code(e.migration_id)) : "–")],
      ["At", (e) => time(e.at)],
      ["Content", content],
    ], page.items, "There is no evidence."),
    pager("evidence", query, page),
  ];
}

/** The bytes as the tool mimictl decode reads them, or what a member reports. */
function content(e) {
  if (e.report) {
    const { user_id: user, term, epoch, reason } = e.report;
    return [code(user), h("small", {}, `term ${term}, epoch ${epoch}`), reason && h("small", {}, reason)];
  }
  return h("details", {}, h("summary", {}, `${number(Math.floor((e.data.length * 3) / 4))} bytes`), code(e.data),
    e.key_id && h("small", {}, "key ", e.key_id));
}
