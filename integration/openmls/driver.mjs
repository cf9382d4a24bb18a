// A client for tests that uses OpenMLS, as a process. It takes commands of the TypeScript client's driver, one after
// the other. It cannot move a group, as core-crypto cannot make a migration Commit.
import { createInterface } from "node:readline";
import { MatrixError } from "../../clients/ts/dist/src/matrix.js";
import { Client } from "./client.mjs";

/** How long a wait_for waits, in milliseconds. */
const PATIENCE = 30_000;

const client = new Client();

async function waitFor({ kind, text, ...wanted }) {
  const until = Date.now() + PATIENCE;
  for (;;) {
    const found = kind === "message" ? client.message(text) : await stateWith(wanted);
    if (found !== undefined) return found;
    if (Date.now() > until) throw new Error(`nothing like ${JSON.stringify({ kind, text, ...wanted })}`);
    await client.sync();
  }
}

/** The state, if it has all wanted fields: numbers at least as large, other values equal. */
async function stateWith(wanted) {
  const state = await client.state();
  const fits = ([k, v]) => (typeof v === "number" ? state[k] >= v : state[k] === v);
  return Object.entries(wanted).every(fits) ? state : undefined;
}

/** The state after an action. */
const after = (done) => done.then(() => client.state());

const commands = {
  login: ({ homeserver, token }) => client.login(homeserver, token),
  publish_key_packages: ({ n = 1 }) => client.publishKeyPackages(n),
  create_group: ({ room }) => after(client.create(room)),
  join: () => after(client.join()),
  rejoin: ({ room }) => after(client.rejoin(room)),
  add: ({ user }) => after(client.add(user)),
  remove: ({ user }) => after(client.remove(user)),
  update: () => after(client.update()),
  send: ({ text }) => client.send(text),
  wait_for: waitFor,
  state: () => client.state(),
  ds_info: ({ ds }) => client.info(ds),
  export_secret: ({ label, length }) => client.exportSecret(label, length),
};

async function answer(line) {
  const { id, cmd, ...args } = JSON.parse(line);
  try {
    if (!Object.hasOwn(commands, cmd)) throw new Error(`no command ${cmd}`);
    return { id, ok: true, result: (await commands[cmd](args)) ?? null };
  } catch (e) {
    const refusal = e instanceof MatrixError ? { status: e.status, body: e.body } : {};
    return { id, ok: false, error: String(e), ...refusal };
  }
}

for await (const line of createInterface({ input: process.stdin })) {
  process.stdout.write(`${JSON.stringify(await answer(line))}\n`);
}
process.exit(0);
