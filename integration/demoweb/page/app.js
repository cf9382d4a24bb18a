// The page: two devices, the stage between them, and the buttons.
import { Chat } from "./chat.js";
import { act, Stage } from "./stage.js";

const $ = (selector) => document.querySelector(selector);
const report = (what) => void ($("#status").textContent = what.message ?? what);

const { room, roles } = await (await fetch("/cast")).json();

/** The short name of a user or a server. */
const nameOf = (id) => roles.find(({ server }) => server === id)?.label ?? id.slice(1).split(":")[0];

const stage = new Stage(roles, report);
const chats = [];
for (const role of roles) chats.push(new Chat(role, nameOf, update));
const [alice, bob] = chats;

let move; // this device's migration, while it lasts
let admitting = false; // bob is on his way in or out
let shown; // the place for which redirects are shown

/** Shows what the two devices hold of their group. */
function update() {
  if (chats.length < 2) return;
  const inside = chats.filter(({ isIn }) => isIn);
  for (const [label, server] of stage.servers) {
    const here = inside.filter(({ conversation }) => nameOf(conversation.host) === label);
    server.light(
      here.map(({ name }) => name),
      here.length === inside.length && here.length > 0,
    );
  }
  compare();
  $("#kick").textContent = bob.isIn ? "Kick bob" : "Let bob in again";
  $("#kick").disabled = admitting || !alice.isIn || bob.conversation === undefined;
  const target = other(alice.conversation?.host);
  $("#move").textContent = move ? "Moving …" : target ? `Move the group to ${target.label}` : "Move the group";
  $("#move").disabled = move !== undefined || !mover()?.isIn || inside.some((c) => c.conversation.state === "moving");
  $("#abort").hidden = move === undefined;
  redirects();
}

/** The server that does not have the group. */
const other = (host) => host && roles.find(({ server }) => server !== host);

/** A server takes groups from its own users alone, by default. */
const mover = () => chats.find(({ server }) => server === other(alice.conversation?.host)?.server);

function compare() {
  for (const chat of chats) {
    const bytes = chat.isIn ? [...chat.conversation.authenticator] : [];
    const hex = bytes.map((byte) => byte.toString(16).padStart(2, "0")).join("");
    $(`[data-of=${chat.name}]`).textContent = hex.slice(0, 16).replace(/.{8}/, "$& ");
    $(`[data-of=${chat.name}]`).title = hex;
  }
  const [a, b] = chats.map(({ name }) => $(`[data-of=${name}]`).title);
  const isEqual = a === b && a !== "";
  $(".agreement").dataset.is = isEqual ? "equal" : "different";
  $(".verdict").textContent = isEqual ? `= epoch ${alice.conversation.epoch}` : "≠";
}

function redirects() {
  const place = chats.map(({ conversation }) => `${conversation?.host} ${conversation?.term}`).join();
  if (!alice.isIn || place === shown) return;
  shown = place;
  for (const server of stage.servers.values()) void server.redirect(alice.conversation.id);
}

$("#move").addEventListener("click", () => {
  const [who, target] = [mover(), other(alice.conversation.host)];
  report(`${who.name} moves the group to ${target.label}: that server takes groups from its own users`);
  void show(who, who.conversation.move(target.server));
});

/** Shows how a member's move ends. */
async function show(who, begun) {
  for (move = begun; move; ) {
    update();
    try {
      const outcome = await move.done;
      move = undefined;
      const moved = () => `moved: ${nameOf(outcome.to)} hosts the group in term ${outcome.term}`;
      report(outcome.state === "moved" ? moved() : `${outcome.state}: ${outcome.reason}`);
    } catch (e) {
      report(e);
      move = e.retryable ? who.conversation.currentMove() : undefined; // a server was out of reach for long
    }
  }
  update();
}

$("#abort").addEventListener("click", () => {
  if (move === undefined) return;
  report("the move is given up, unless the source decides for it first");
  move.abort().catch(report);
});
$("#reload").addEventListener("click", () => location.reload());

$("#kick").addEventListener("click", async () => {
  admitting = true;
  const step = bob.isIn ? expel : admit;
  update();
  try {
    await step();
  } catch (e) {
    report(e);
  }
  admitting = false;
  update();
});

/** First the group, then the room: a host whose last user is out of the room takes no more Commits. */
async function expel() {
  await alice.conversation.remove(bob.user);
  await act("kick");
  report("bob is out of the group and of the room");
}

async function admit() {
  await act("admit");
  await alice.conversation.add(bob.user);
  report("bob is in again");
}

await Promise.all(chats.map((chat) => chat.open()));
if (alice.conversation === undefined) await alice.mimiport.create(room);
if (alice.conversation.epoch === 0) await alice.conversation.add(bob.user);
report("ready: write something, then move the group");
update();
const moving = chats.find(({ conversation }) => conversation?.currentMove());
if (moving) void show(moving, moving.conversation.currentMove());
