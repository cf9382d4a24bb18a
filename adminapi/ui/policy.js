// The policy in force: each value with its origin, and a way to change it.
import { button, choice, code, confirm, form, h, notice, table } from "./dom.js";

/** The fields with few values. */
const values = {
  source: ["power_level", "any_member", "server_admin", "nobody"],
  target: ["local_users", "joined_servers", "any_creator", "nobody"],
  device_keys: ["required", "published"],
};

const origins = { default: "default", section: "configuration file", administrator: "administrator" };

export async function policy({ ask, reload }) {
  const { policy: fields } = await ask("GET", "/status");
  const said = h("div");
  const put = async (patch) => {
    await ask("PUT", "/policy", { body: patch });
    await reload();
  };
  const toFile = async () => {
    const explanation = "Every value that an administrator has set goes. The file and the defaults count at once.";
    const yes = await confirm("Return to the configuration file?", explanation, "Return");
    if (!yes) return;
    try {
      await put({ preset: "section" });
    } catch (error) {
      said.replaceChildren(notice("bad", "The policy stays as it was.", h("p", {}, error.message)));
    }
  };
  const changed = Object.values(fields).some(({ origin }) => origin === "administrator");
  return [
    h("h1", {}, "Policy"),
    h("p", { class: "lead" }, "Which groups may come and go. A change counts at once, and goes into the audit log."),
    changed && h("p", {}, button("Return to the configuration file", toFile)), said,
    table("Policy", [
      ["Field", ([path]) => code(path)],
      ["Value", ([path, { value }]) => editor(path, value ?? [], put)], // a list without entries may be null
      ["Origin", ([, { origin }]) => h("span", { class: origin === "default" ? "dim" : "" }, origins[origin])],
    ], Object.entries(fields).sort(([a], [b]) => a.includes(".") - b.includes(".") || (a < b ? -1 : 1))),
  ].filter(Boolean);
}

/** A value, and a button that opens a form in its place. */
function editor(path, value, put) {
  const cell = h("div", { class: "editor", onkeydown: (event) => event.key === "Escape" && view(true) });
  const view = (focus) => {
    const edit = button("Edit", open, "quiet");
    edit.setAttribute("aria-label", `Edit ${path}`);
    cell.replaceChildren(shown(path, value), edit);
    if (focus) edit.focus();
  };
  const open = () => {
    const said = h("div");
    const control = input(path, value);
    control.setAttribute("aria-label", path);
    cell.replaceChildren(form({ class: "edit" }, async (values) => {
      try {
        await put(nested(path, read(value, values.value)));
      } catch (error) {
        said.replaceChildren(notice("bad", "The value stays as it was.", h("p", {}, error.message)));
        control.focus();
      }
    }, control, h("span", { class: "buttons" }, h("button", { type: "submit", class: "primary" }, "Save"),
      button("Cancel", () => view(true))), said));
    control.focus();
  };
  view(false);
  return cell;
}

function shown(path, value) {
  if (Array.isArray(value)) return h("span", {}, value.length > 0 ? value.map((one) => h("div", {}, one)) : "none");
  if (path.startsWith("quotas.") && value === 0) return h("span", {}, "no quota");
  return h("span", {}, String(value));
}

function input(path, value) {
  const one = { name: "value" };
  if (values[path]) return choice("value", values[path], value);
  if (typeof value === "boolean") return choice("value", ["true", "false"], String(value));
  if (typeof value === "number") return h("input", { ...one, type: "number", min: 0, step: 1, required: true, value });
  if (Array.isArray(value)) {
    const rows = Math.min(value.length + 1, 8);
    return h("textarea", { ...one, rows, placeholder: "one on each line" }, value.join("\n"));
  }
  return h("input", { ...one, value });
}

/** Reads what was typed, as the type that the value had. */
function read(before, typed) {
  if (typeof before === "boolean") return typed === "true";
  if (typeof before === "number") return Number(typed);
  if (Array.isArray(before)) return typed.split("\n").map((line) => line.trim()).filter(Boolean);
  return typed;
}

/** The patch of one field: quotas.members becomes {quotas: {members: …}}. */
const nested = (path, value) => path.split(".").reduceRight((inner, name) => ({ [name]: inner }), value);
