// A server that empties itself: where its groups go, how far it is, and what keeps a group here.
import { reasons } from "./groups.js";
import {
  button, choice, code, confirm, field, filters, form, h, href, link, notice, number, paged, pager, state, table, terms,
  time,
} from "./dom.js";

/** How often the page looks at a drain that runs, in milliseconds. */
const often = 5000;

/** The meaning of the state of a drain. */
const states = {
  none: "There has been no drain.",
  running: "This server takes nothing new, and asks members to move its groups.",
  done: "No group is left. This server takes nothing new until the drain is stopped.",
  overdue: "The deadline is over: this server asks nobody any more, and takes nothing new.",
  stopped: "An operator has stopped the drain.",
};

const groupStates = ["stuck", "asked", "moving", "waiting", "moved", "gone"];

export async function drain({ ask, query, signal, reload, look }) {
  const d = await ask("GET", "/drain");
  const began = d.state !== "none";
  const page = began && await ask("GET", "/drain/groups", { query: paged(query, "state") });
  const runs = d.state === "running" || d.state === "done" || d.state === "overdue";
  if (d.state === "running") again(signal, look);
  return [
    h("h1", {}, "Drain"),
    h("p", { class: "lead" }, state(d.state), " ", states[d.state]),
    began && progress(d),
    d.away.length > 0 && [h("h2", {}, "Servers that do not answer"), table("Servers that do not answer", [
      ["Server", (a) => state("away", a.server)], ["Asked again", (a) => time(a.until)],
      ["Error", (a) => code(a.error)],
    ], d.away)],
    began && groups(query, page),
    h("h2", {}, runs ? "Change or stop it" : "Start a drain"),
    start(d, runs, ask, reload),
  ].flat().filter(Boolean);
}

/** Looks again and again, until the view ends. */
function again(signal, look) {
  const timer = setInterval(look, often);
  signal.addEventListener("abort", () => clearInterval(timer), { once: true });
}

function progress(d) {
  const done = d.total - d.left;
  return [
    h("label", { class: "progress" },
      h("span", {}, h("b", {}, `${number(done)} of ${number(d.total)}`),
        ` groups are no longer here, ${number(d.left)} are left`),
      h("progress", { max: Math.max(d.total, 1), value: done })),
    h("p", { class: "counts" }, groupStates.map((name) =>
      link("drain", { state: name }, state(name), " ", h("b", {}, number(d.groups[name]))))),
    terms([
      ["Targets", d.targets.join(", ")], ["Rate", `${number(d.rate_per_minute)} groups a minute`],
      ["Started", time(d.started_at)], d.deadline_at && ["Deadline", time(d.deadline_at)],
      d.stopped_at && ["Stopped", time(d.stopped_at)],
    ]),
  ];
}

const groups = (query, page) => [
  h("h2", {}, "What became of each group"),
  filters("drain", field("State", choice("state", groupStates, query.state, "all"))),
  table("Groups of the drain", [
    ["Group", (g) => link(`groups/${g.group_id}`, {}, code(g.group_id))],
    ["State", (g) => [state(g.state), g.moved_to && [" to ", g.moved_to.server]]],
    ["Asked", (g) => (g.asked ? [code(g.asked.user_id), asked(g)] : "–")],
    ["Obstacles", (g) => (g.why.length > 0 ? reasons(g.why) : "–")],
  ], page.items, "No group fits."),
  pager("drain", query, page),
];

const asked = ({ state: now, asked: { until, tried } }) => [
  now === "asked" && h("small", {}, "until ", time(until)), tried > 1 && h("small", {}, `${number(tried)} tried`),
];

/** The form that starts, changes or stops a drain. */
function start(d, runs, ask, reload) {
  const said = h("div");
  const act = async (method, body) => {
    try {
      await ask(method, "/drain", { body });
      await reload();
    } catch (error) {
      said.replaceChildren(notice("bad", "The drain stays as it was.", h("p", {}, error.message)));
    }
  };
  const stop = async () => {
    if (await confirm("Stop the drain?", "The server takes groups again, as its policy says.", "Stop")) act("DELETE");
  };
  const targets = h("input", { name: "targets", required: true, value: d.targets.join(", "),
    placeholder: "b.example, c.example" });
  const body = (typed) => ({
    targets: list(typed.targets), rate_per_minute: Number(typed.rate),
    ...(typed.days && { deadline_ms: Math.round(Number(typed.days) * 86_400_000) }),
  });
  return form({ class: "drain" }, async (typed) => {
    const question = runs ? "Change the drain?" : "Start the drain?";
    const explanation = `This server takes nothing new, and asks members to move its groups to ${typed.targets}.`;
    if (await confirm(question, explanation, runs ? "Change" : "Start")) act("PUT", body(typed));
  },
  field("Targets", targets, "Server names, the first choice first."),
  field("Groups a minute", h("input", { name: "rate", type: "number", min: 1, max: 6000, required: true,
    value: d.rate_per_minute || 60 })),
  field("Deadline in days", h("input", { name: "days", type: "number", min: 0, step: "any", placeholder: "none",
    value: runs && days(d.deadline_at) })),
  h("span", { class: "buttons" },
    h("button", { type: "submit", class: "primary" }, runs ? "Change" : "Start"),
    button("Dry run", () => targets.reportValidity() &&
      (location.hash = href("drain/plan", { targets: list(targets.value).join(",") }))),
    runs && button("Stop the drain", stop)), said);
}

/** The days until a time, if there are any: a change without a deadline would have none. */
const days = (at) => at > Date.now() && Math.ceil((at - Date.now()) / 86_400) / 1000;

const list = (typed) => typed.split(/[\s,]+/).filter(Boolean);

/** The dry run: who can move which group where. It asks the targets, and no member. */
export async function drainPlan({ ask, query }) {
  const page = await ask("GET", "/drain/plan", { query: { ...paged(query), target: list(query.targets ?? "") } });
  return [
    h("p", { class: "up" }, link("drain", {}, "Drain")),
    h("h1", {}, "Dry run"),
    h("p", { class: "lead" }, "Who can move each group where. Nobody has been asked."),
    table("Dry run", [
      ["Group", (g) => link(`groups/${g.group_id}`, {}, code(g.group_id))],
      ["Members", (g) => number(g.members), "n"],
      ["Can be moved", (g) => (g.moves.length > 0 ? g.moves.map((m) =>
        h("div", {}, state("yes", `to ${m.target}`), h("small", {}, "by ", m.users[0],
          m.total > 1 && ` or ${number(m.total - 1)} more`))) : state("no", "by nobody"))],
      ["Obstacles", (g) => (g.why.length > 0 ? reasons(g.why) : "–")],
    ], page.items, "There is no group to move."),
    pager("drain/plan", query, page),
  ];
}
