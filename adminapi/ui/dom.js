// Makes elements. Every value becomes a text node, so no value of the server can become markup.

/** Makes an element: attributes, listeners (onclick and the like), and children: elements, texts, numbers or lists. */
export function h(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === undefined || value === false) continue;
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...texts(children));
  return element;
}

const texts = (children) =>
  children.flat(Infinity).filter((child) => child !== undefined && child !== null && child !== false);

/** The signs of states. A state has its word and a sign, so no meaning hangs on colour. */
const signs = {
  good: ["✓", "active moved done yes healthy kept"],
  busy: ["◐", "frozen staged decided moving asked running waiting offered reserved ask pending awaited"],
  bad: ["!", "stopped stuck aborted overdue no lost away failed"],
  plain: ["–", ""],
};

/** A state as a word with a sign. */
export function state(word, label = word) {
  const [tone, [sign]] = Object.entries(signs).find(([, [, words]]) => words.split(" ").includes(word)) ??
    ["plain", signs.plain];
  return h("span", { class: `state ${tone}` }, h("span", { "aria-hidden": "true" }, sign), label);
}

const format = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });

/** A time in milliseconds since 1970. */
export const time = (at) =>
  at ? h("time", { datetime: new Date(at).toISOString() }, format.format(at)) : h("span", { class: "dim" }, "–");

/** A duration in milliseconds, in its largest unit. */
export function span(ms = 0) {
  const [size, unit] = [[86_400_000, "d"], [3_600_000, "h"], [60_000, "min"], [1000, "s"]].find(([n]) => ms >= n) ??
    [1, "ms"];
  return `${Math.floor(ms / size)} ${unit}`;
}

/** An id or a name. It may be long: it breaks anywhere. */
export const code = (text) => h("code", {}, text ?? "–");

/** A link to a view of this page. */
export const link = (view, query, ...children) => h("a", { href: href(view, query) }, children);

export function href(view, query = {}) {
  const search = new URLSearchParams();
  for (const [name, value] of Object.entries(query)) if (value !== "" && value !== undefined) search.set(name, value);
  return `#/${view}${search.size ? `?${search}` : ""}`;
}

export const number = (n) => (n ?? 0).toLocaleString("en").replaceAll(",", "\u202f");

/** A table. Each column has a title and a function from an item to a cell; "n" after a title is a number's column. */
export function table(caption, columns, items, empty = "There is nothing here.") {
  if (items.length === 0) return h("p", { class: "empty" }, empty);
  const titles = columns.map(([title]) => title);
  return h("div", { class: "scroll" }, h("table", {},
    h("caption", { class: "unseen" }, caption),
    h("thead", {}, h("tr", {}, columns.map(([title, , kind]) => h("th", { scope: "col", class: kind }, title)))),
    h("tbody", {}, items.map((item) => h("tr", {}, columns.map(([, cell, kind], i) =>
      h("td", { "data-label": titles[i], class: kind }, h("div", {}, cell(item)))))))));
}

/** A list of terms and values. */
export const terms = (pairs) =>
  h("dl", {}, pairs.filter((pair) => pair && pair[1] !== undefined).map(([term, ...values]) =>
    h("div", {}, h("dt", {}, term), h("dd", {}, values))));

/** A labelled control. */
export const field = (label, control, hint) =>
  h("label", {}, h("span", {}, label), control, hint && h("small", {}, hint));

export const choice = (name, values, chosen, all) =>
  h("select", { name }, all && h("option", { value: "" }, all), values.map((value) =>
    h("option", { value, selected: value === chosen }, value)));

/** A button, and a form whose submission calls a function with its values. */
export const button = (text, onclick, kind = "") => h("button", { type: "button", class: kind, onclick }, text);

export function form(attributes, submitted, ...children) {
  return h("form", {
    ...attributes,
    onsubmit: (event) => {
      event.preventDefault();
      submitted(Object.fromEntries(new FormData(event.currentTarget)));
    },
  }, children);
}

/** A form of filters: it opens the view with the values as its query. */
export const filters = (view, ...controls) =>
  form({ class: "filters", role: "search" }, (values) => (location.hash = href(view, values)),
    controls, h("button", { type: "submit" }, "Filter"));

/** The number of items on a page. */
export const pageSize = 25;

/** The query of a page: of its filters, and where it begins. */
export const paged = (query, ...names) => ({
  limit: pageSize, after: query.after ?? "", ...Object.fromEntries(names.map((name) => [name, query[name] ?? ""])),
});

/** Says which items a page has, and leads to the first and the next page. */
export function pager(view, query, page) {
  const from = query.after ? Number(query.from) || 1 : 1;
  const to = from + page.items.length - 1;
  const { after, from: _, ...kept } = query;
  return h("p", { class: "pager" },
    h("span", {}, page.items.length > 0 && `${number(from)}–${number(to)}`,
      page.total !== undefined && ` of ${number(page.total)}`),
    after && link(view, kept, "First page"),
    page.next && link(view, { ...kept, after: page.next, from: to + 1 }, "Next page"));
}

/** A message in a box: bad or plain. */
export const notice = (kind, title, ...content) =>
  h("div", { class: `notice ${kind}`, role: kind === "bad" ? "alert" : "status" },
    h("p", {}, h("strong", {}, title)), content);

/** Asks the operator before an act. */
export function confirm(question, explanation, act) {
  const dialog = document.getElementById("dialog");
  dialog.replaceChildren(
    h("h2", { id: "question" }, question), h("p", {}, explanation),
    h("p", { class: "buttons" },
      button(act, () => dialog.close("yes"), "primary"), button("Cancel", () => dialog.close("no"))),
  );
  dialog.returnValue = "no";
  dialog.showModal();
  return new Promise((resolve) =>
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true }));
}
