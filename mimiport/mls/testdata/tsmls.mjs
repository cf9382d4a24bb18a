// Several ts-mls clients of one group in one process, for the differential test. The process reads one JSON command per
// line and answers each with one line. Byte strings are in hexadecimal.
import { createInterface } from "node:readline";

const client = new URL("../../../clients/ts/", import.meta.url);
const load = (path) => import(new URL(path, client));
const mls = await load("dist/src/mls.js");
const ts = (name) => load(`node_modules/ts-mls/dist/src/${name}.js`);
const { createProposal, decodeMlsMessage, encodeMlsMessage } = await ts("index");
const { encodeGroupContext } = await ts("groupContext");
const { protectPublicMessage } = await ts("messageProtectionPublic");
const { addLeafNode, removeLeafNode } = await ts("ratchetTree");
const { nodeToLeafIndex, toLeafIndex } = await ts("treemath");
const { conclude } = await load("dist/src/corrections/commit.js");
const { unpaced } = await load("dist/src/pace.js");

const NOW = BigInt(Math.floor(Date.now() / 1000));
const bytes = (hex) => new Uint8Array(Buffer.from(hex ?? "", "hex"));
const hex = (data) => (data === undefined ? undefined : Buffer.from(data).toString("hex"));
const decode = (message) => decodeMlsMessage(bytes(message), 0)[0];

const clients = new Map(); // name: identity, own key package, state, pending Commit

const view = (state) => ({ context: hex(encodeGroupContext(state.groupContext)), tree: hex(mls.ratchetTree(state)) });
const offer = (commit) => ({
  message: hex(commit.message),
  groupInfo: hex(commit.groupInfo),
  welcome: hex(commit.welcome),
});

async function byName(name, suite) {
  if (!clients.has(name)) {
    const identity = await mls.newIdentity({ userId: `@${name}:ts.example`, deviceId: "TS" }, suite);
    clients.set(name, { identity, suite });
  }
  return clients.get(name);
}

function proposal({ add, remove, init }) {
  if (add !== undefined) return { proposalType: "add", add: { keyPackage: decode(add).keyPackage } };
  if (init !== undefined) return { proposalType: "external_init", externalInit: { kemOutput: bytes(init) } };
  return { proposalType: "remove", remove: { removed: remove } };
}

const commands = {
  async create({ name, group, suite, sender }) {
    const c = await byName(name, suite);
    const entry = sender && {
      signaturePublicKey: bytes(sender.key),
      credential: { credentialType: "basic", identity: bytes(sender.identity) },
    };
    c.state = await mls.newGroup(c.identity, bytes(group), entry, NOW);
    return { ...view(c.state), groupInfo: hex(await mls.groupInfo(c.state)) };
  },
  async keyPackage({ name, suite }) {
    const c = await byName(name, suite);
    c.own = await mls.newKeyPackage(c.identity, NOW);
    return { keyPackage: hex(mls.encodeKeyPackage(c.own.publicPackage)) };
  },
  // Makes a Commit of all pending proposals that fit together, and of some by value. The client does not accept it
  // yet.
  async commit({ name, proposals, aad }) {
    const c = clients.get(name);
    const list = await mls.choose(c.state, proposals.map((p) => mls.byValue(proposal(p))));
    c.pending = await mls.commit(c.state, list, bytes(aad));
    return offer(c.pending);
  },
  // Makes a Commit of any list of proposals without checking it. Signature and tags are those of a valid Commit.
  async forge({ name, proposals, reference }) {
    const { state, suite } = clients.get(name);
    const cs = await mls.cipherSuite(suite);
    let tree = state.ratchetTree;
    const newLeaves = [];
    for (const { remove } of proposals) {
      if (remove !== undefined && remove !== state.privatePath.leafIndex && tree[2 * remove] !== undefined)
        tree = removeLeafNode(tree, toLeafIndex(remove));
    }
    for (const { add } of proposals) {
      if (add === undefined) continue;
      const [grown, node] = addLeafNode(tree, decode(add).keyPackage.leafNode);
      tree = grown;
      newLeaves.push(nodeToLeafIndex(node));
    }
    const self = toLeafIndex(state.privatePath.leafIndex);
    const basis = {
      context: state.groupContext,
      confirmationTag: state.confirmationTag,
      signKey: state.signaturePrivateKey,
      sender: { senderType: "member", leafIndex: self },
      self,
      tree,
      extensions: state.groupContext.extensions,
      newLeaves,
      initSecret: state.keySchedule.initSecret,
      pskSecret: new Uint8Array(cs.kdf.size),
      membershipKey: state.keySchedule.membershipKey,
      keys: state.privatePath,
    };
    const list = proposals.map((p) => mls.byValue(proposal(p)));
    if (reference) list.push({ proposalOrRefType: "reference", reference: bytes(reference) });
    const { commit, next } = await conclude(basis, list, bytes(), cs, unpaced);
    return { message: hex(encodeMlsMessage(commit)), groupInfo: hex(await mls.groupInfo({ ...state, ...next })) };
  },
  async external({ name, suite, groupInfo, tree }) {
    const c = await byName(name, suite);
    c.pending = await mls.externalCommit(c.identity, bytes(groupInfo), bytes(tree), NOW);
    return offer(c.pending);
  },
  async accept({ name }) {
    const c = clients.get(name);
    c.state = c.pending.next;
    return view(c.state);
  },
  // Makes a proposal. The client does not accept it yet.
  async propose({ name, ...p }) {
    const c = clients.get(name);
    const { newState, message } = await createProposal(c.state, true, proposal(p), await mls.cipherSuite(c.suite));
    c.pending = { next: newState };
    return { message: hex(encodeMlsMessage(message)) };
  },
  // Sets the membership tag of a message: synthetic members have no secrets to compute it.
  async tag({ name, message }) {
    const { state, suite } = clients.get(name);
    const { wireformat, publicMessage: m } = decode(message);
    const publicMessage = await protectPublicMessage(
      state.keySchedule.membershipKey,
      state.groupContext,
      { wireformat, content: m.content, auth: m.auth },
      await mls.cipherSuite(suite),
    );
    return { message: hex(encodeMlsMessage({ version: "mls10", wireformat, publicMessage })) };
  },
  async process({ name, message }) {
    const c = clients.get(name);
    c.state = (await mls.process(c.state, bytes(message))).state;
    return view(c.state);
  },
  // Fails if a client would refuse a message. The client's state does not change.
  async judge({ name, message }) {
    await mls.process(clients.get(name).state, bytes(message));
    return {};
  },
  async join({ name, welcome }) {
    const c = clients.get(name);
    c.state = await mls.join(bytes(welcome), c.own, async () => bytes());
    return view(c.state);
  },
};

for await (const line of createInterface({ input: process.stdin })) {
  const { command, ...args } = JSON.parse(line);
  let answer;
  try {
    answer = await commands[command](args);
  } catch (e) {
    answer = { error: `${e}` };
  }
  process.stdout.write(`${JSON.stringify(answer)}\n`);
}
