// A device and its chat: the library holds the group, and the page keeps the texts.
import { FetchTransport, Mimiport } from "mimiport-client";
import { IndexedDbStore } from "mimiport-client/browser";

const LONGEST = 200; // lines that a chat keeps

export class Chat {
  /** @param role the user, the device and the homeserver @param nameOf the short name of a user or a server */
  constructor(role, nameOf, changed) {
    Object.assign(this, { ...role, nameOf, changed, name: nameOf(role.user), waiting: [] });
    this.store = `${role.user} ${role.device}`;
    this.lines = JSON.parse(localStorage.getItem(this.store) ?? "[]");
    this.element = document.getElementById(this.name);
    this.element.append(document.getElementById("chat").content.cloneNode(true));
    this.$(".face").textContent = this.name[0];
    this.$("h2").textContent = this.name;
    new ResizeObserver(() => this.scroll()).observe(this.$(".log"));
    this.$(".log").ariaLabel = `${this.name}'s messages`;
    this.$("input").placeholder = this.$("input").ariaLabel = `Message from ${this.name}`;
    this.$("form").addEventListener("submit", (event) => {
      event.preventDefault();
      const { value } = this.$("input");
      this.$("form").reset();
      if (value.trim()) void this.say(value);
    });
    this.render();
  }

  $(selector) {
    return this.element.querySelector(selector);
  }

  /** Opens the device. Another tab that has it goes first. */
  async open() {
    const session = { homeserver: this.url, token: this.token, userId: this.user, deviceId: this.device };
    const transport = new FetchTransport(session);
    this.mimiport = await Mimiport.open({ transport, store: new IndexedDbStore(this.store) });
    this.listen();
    this.mimiport.start();
    this.render();
  }

  get conversation() {
    return [...(this.mimiport?.conversations.values() ?? [])][0];
  }

  get isIn() {
    return this.conversation !== undefined && !["left", "closed"].includes(this.conversation.state);
  }

  listen() {
    const { nameOf } = this;
    const names = (devices) => devices.map(({ user }) => nameOf(user)).join(", ");
    const on = (kind, note) =>
      this.mimiport.on(kind, (event) => {
        note(event);
        this.render();
      });
    on("message", ({ at, sender, own, content }) => {
      const text = new TextDecoder().decode(content);
      if (own) this.waiting = this.waiting.filter((waiting) => waiting !== text);
      this.add({ at: `${at.term}.${at.seq}`, from: nameOf(sender), text });
    });
    on("members", ({ at, by, added, removed }) => {
      const who = by ? nameOf(by.user) : "the server";
      const place = `${at.term}.${at.seq}`;
      if (added.length > 0) this.add({ at: `${place}+`, note: `${who} has added ${names(added)}` });
      if (removed.length > 0) this.add({ at: `${place}-`, note: `${who} has removed ${names(removed)}` });
    });
    on("joined", () => this.add({ note: `${this.name} has joined` }));
    on("left", () => this.add({ note: `${this.name} is no member any more` }));
    on("moved", ({ by, from, to, term }) => {
      const who = by ? nameOf(by.user) : "an operator";
      this.add({ at: `${term}.moved`, note: `${who} has moved the group from ${nameOf(from)} to ${nameOf(to)}` });
    });
    for (const kind of ["state", "move", "skipped", "failed"]) on(kind, () => {});
  }

  /** Adds a line. A line with a place comes once. */
  add(line) {
    if (line.at !== undefined && this.lines.some(({ at }) => at === line.at)) return;
    this.lines = [...this.lines, line].slice(-LONGEST);
    localStorage.setItem(this.store, JSON.stringify(this.lines));
    this.render();
  }

  async say(text) {
    this.waiting.push(text);
    this.render();
    try {
      await this.conversation.send(new TextEncoder().encode(text));
    } catch (e) {
      if (e.retryable) return; // the library sends it later
      this.waiting = this.waiting.filter((waiting) => waiting !== text);
      this.add({ note: `not sent: ${e.message}` });
    }
  }

  render() {
    const group = this.conversation;
    const place = group && `group at ${this.nameOf(group.host)} · epoch ${group.epoch}`;
    this.$(".where").textContent = place ?? "no group yet";
    this.$(".state").textContent = group?.state ?? (this.mimiport ? "ready" : "opening");
    this.$(".state").dataset.is = group?.state ?? "";
    for (const field of this.$("form").elements) field.disabled = !this.isIn;
    const log = this.$(".log");
    const waiting = this.waiting.map((text) => ({ from: this.name, text, waits: true }));
    log.replaceChildren(...[...this.lines, ...waiting].map((line) => this.item(line)));
    this.scroll();
    this.changed();
  }

  scroll() {
    this.$(".log").scrollTop = this.$(".log").scrollHeight;
  }

  item({ from, text, note, waits }) {
    const item = document.createElement("li");
    item.className = note ? "note" : from === this.name ? "own" : "other";
    item.textContent = note ?? text;
    if (!note) item.dataset.from = from;
    if (waits) item.append(Object.assign(document.createElement("small"), { textContent: "waits for an answer" }));
    return item;
  }
}
