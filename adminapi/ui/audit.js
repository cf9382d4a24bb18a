// The changes of operators, the latest first.
import { code, h, link, pager, paged, state, table, time } from "./dom.js";

export async function audit({ ask, query }) {
  const page = await ask("GET", "/audit", { query: paged(query) });
  return [
    h("h1", {}, "Audit log"),
    table("Audit log", [
      ["At", (e) => time(e.at)], ["Actor", (e) => code(e.actor)],
      ["Action", (e) => [h("b", {}, e.action), " ", ended(e)]],
      ["On", (e) => [
        e.group_id && h("div", {}, link(`groups/${e.group_id}`, {}, code(e.group_id))),
        e.migration_id && h("div", {}, link(`migrations/${e.migration_id}`, {}, code(e.migration_id))),
        !e.group_id && !e.migration_id && "this server",
      ]],
      ["Change", (e) => h("details", {}, h("summary", {}, e.after?.error ? "Why" : "Before and after"), changes(e))],
    ], page.items, "No operator has changed anything."),
    pager("audit", query, page),
  ];
}

const ended = (e) => (!e.after ? state("", "no known end") : e.after.error ? state("failed") : "");

/** The fields that differ before and after, or why the act failed. */
function changes({ before, after }) {
  if (after?.error) return h("small", {}, after.error);
  const names = [...new Set([...Object.keys(before ?? {}), ...Object.keys(after ?? {})])].sort();
  const text = (all, name) => (all?.[name] === undefined ? "–" : JSON.stringify(all[name]));
  return table("Before and after", [
    ["Field", (name) => name], ["Before", (name) => code(text(before, name))],
    ["After", (name) => code(text(after, name))],
  ], names.filter((name) => text(before, name) !== text(after, name)), "Nothing differs.");
}
