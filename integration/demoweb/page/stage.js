// The servers, the line between them, and the seven messages, as the demo's server sees them.

/** The draft's messages in their order, and the purpose of each. */
const MESSAGES = {
  MigrationRequest: "a member asks the target to take the group",
  MigrationResponse: "the target's signed offer",
  MigrationInit: "the member's order to the source, signed with the leaf key",
  MigrationCommitAAD: "inside the Commit: MLS binds the group to the target",
  MigrationContent: "the source hands the group's public state over",
  TargetMigrationComplete: "the target has checked it, and votes for it",
  MigrationConfirmation: "the source's decision: the target has the group",
};

const make = (tag, properties, ...children) => {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
};

/** A button's request to the demo's server. It throws the reason of a refusal. */
export async function act(what, server = "") {
  const answer = await fetch(`/act/${what}?server=${server}`, { method: "POST" });
  if (!answer.ok) throw new Error(await answer.text());
}

export class Stage {
  /** @param report shows a text, or the error of a button */
  constructor(roles, report) {
    this.servers = new Map(roles.map((role) => [role.label, new Server(role, report)]));
    this.seen = 0;
    this.report = report;
    this.rungs = Object.entries(MESSAGES).map(([name, purpose], i) => rung(i + 1, name, purpose));
    document.querySelector(".messages").append(...this.rungs);
    this.button = document.getElementById("cut");
    this.button.addEventListener("click", () => act(this.isCut ? "mend" : "cut").catch(report));
    new EventSource("/pictures").onmessage = ({ data }) => this.show(JSON.parse(data));
  }

  show({ servers, cut, messages }) {
    this.isCut = cut;
    this.button.textContent = cut ? "Mend the network" : "Cut the network";
    document.querySelector(".line").dataset.is = cut ? "cut" : "whole";
    for (const [label, condition] of Object.entries(servers)) this.servers.get(label).show(condition);
    const sent = messages ?? [];
    const byName = new Map(sent.map((message) => [message.name, message]));
    for (const element of this.rungs) fill(element, byName.get(element.dataset.name));
    for (const message of sent.slice(this.seen)) fly(message);
    this.seen = sent.length;
  }
}

function rung(number, name, purpose) {
  const mark = make("span", { className: "mark", textContent: number, ariaHidden: "true" });
  const title = make("span", { className: "title" }, make("b", { textContent: name }), make("small", {}, purpose));
  const summary = make("summary", {}, mark, title, make("span", { className: "way" }));
  const item = make("li", {}, make("details", {}, summary, make("pre", { tabIndex: 0 })));
  Object.assign(item.dataset, { name, number });
  return item;
}

/** Ticks a message off, or takes the tick away. */
function fill(item, message) {
  const isDone = message !== undefined;
  const text = isDone ? JSON.stringify(message.value, null, 2) : "not sent yet";
  item.toggleAttribute("data-done", isDone);
  item.querySelector(".mark").textContent = isDone ? "✓" : item.dataset.number;
  item.querySelector(".way").replaceChildren(
    isDone ? make("b", { textContent: `${message.from} → ${message.to}` }) : "",
    isDone ? make("small", { textContent: `${message.bytes} B · ${message.at} ms` }) : "",
  );
  const pre = item.querySelector("pre");
  if (pre.textContent !== text) pre.textContent = text; // an open one stays as it is
}

/** Lets a message fly over the line between the servers. */
function fly({ name, from, to }) {
  if (from.length > 1 || to.length > 1) return; // to or from a client
  const packet = document.querySelector(".packet");
  packet.textContent = name;
  packet.getAnimations().forEach((animation) => animation.cancel());
  const ways = { A: "0%", B: "100%" };
  packet.animate(
    [
      { left: ways[from], opacity: 1 },
      { left: ways[to], opacity: 1, offset: 0.85 },
      { left: ways[to], opacity: 0 },
    ],
    { duration: matchMedia("(prefers-reduced-motion: reduce)").matches ? 0 : 900, easing: "ease-in-out" },
  );
}

/** A server's card. */
class Server {
  constructor({ label, server }, report) {
    this.label = label;
    this.element = document.querySelector(`.server[data-server=${label}]`);
    this.element.append(document.getElementById("server").content.cloneNode(true));
    this.$("h2").textContent = label;
    this.$(".name").textContent = server;
    const [pause, kill] = [this.$(".pause"), this.$(".kill")];
    pause.addEventListener("click", () => act(this.condition === "paused" ? "resume" : "pause", label).catch(report));
    kill.addEventListener("click", () => act(this.condition === "stopped" ? "start" : "kill", label).catch(report));
  }

  $(selector) {
    return this.element.querySelector(selector);
  }

  show(condition) {
    this.condition = condition;
    this.element.dataset.is = condition;
    const [pause, kill] = [this.$(".pause"), this.$(".kill")];
    pause.textContent = condition === "paused" ? "Resume" : "Pause";
    kill.textContent = condition === "stopped" ? "Start" : "Kill";
    pause.disabled = condition === "stopped";
    kill.disabled = condition === "paused";
    for (const button of [pause, kill]) button.ariaLabel = `${button.textContent} server ${this.label}`;
    this.light(this.hosts, this.everybody);
  }

  /** Lights the server for those members who hold it as the group's host. */
  light(names = [], everybody = false) {
    this.hosts = names;
    this.everybody = everybody;
    this.element.toggleAttribute("data-lit", names.length > 0);
    const isDown = { paused: "paused", stopped: "killed" }[this.condition];
    const role = everybody ? "hosts the group" : names.length > 0 ? `hosts it for ${names.join(", ")}` : "homeserver";
    this.$(".role").textContent = isDown ? `${role}, but is ${isDown}` : role;
  }

  /** Shows the server's signed redirect, if the group has left it. */
  async redirect(group) {
    const answer = await fetch(`/redirect?server=${this.label}&group=${group}`);
    const moved = answer.ok ? await answer.json() : undefined;
    const element = this.$(".redirect");
    element.hidden = !moved;
    if (!moved) return;
    const said = `the group is at ${moved.to}, term ${moved.term}`;
    this.$(".redirect summary").textContent = `signed by ${this.label}: ${said}`;
    const text = { key_id: moved.key_id, ...moved.confirmation };
    this.$(".redirect pre").textContent = JSON.stringify(text, null, 2);
  }
}
