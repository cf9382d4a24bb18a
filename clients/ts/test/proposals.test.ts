// The proposals that a client commits, the way in which it leaves a group, and the author that it names for a message.
import assert from "node:assert/strict";
import { test } from "node:test";
import { createProposal, encodeMlsMessage, type ExternalSender, type Proposal } from "ts-mls";
import { encodeLeafNodeTBS } from "ts-mls/leafNode.js";
import { signWithLabel } from "ts-mls/crypto/signature.js";
import { protectExternalProposalPublic } from "ts-mls/messageProtectionPublic.js";
import * as mls from "../src/mls.js";
import { toBase64 } from "../src/wire.js";
import { refuse } from "./fake.js";
import { device, NOW, TestGroup, utf8 } from "./group.js";
import { net, party, together, User } from "./party.js";

type Server = ExternalSender & { signKey: Uint8Array };

async function server(): Promise<Server> {
  const { signKey, publicKey } = await (await mls.cipherSuite(1)).signature.keygen();
  return {
    signKey,
    signaturePublicKey: publicKey,
    credential: { credentialType: "basic", identity: utf8("s.example") },
  };
}

/** A proposal of a member, or of the Delivery Service, for every member. */
class Proposals {
  constructor(
    readonly group: TestGroup,
    private readonly service: Server,
  ) {}

  private async give(message: Parameters<typeof encodeMlsMessage>[0]): Promise<void> {
    const { states } = this.group;
    for (const [name, state] of states) states.set(name, (await mls.process(state, encodeMlsMessage(message))).state);
  }

  async by(name: string, proposal: Proposal): Promise<void> {
    await this.give((await createProposal(this.group.state(name), true, proposal, await mls.cipherSuite(1))).message);
  }

  async byService(removed: number): Promise<void> {
    const { groupContext } = this.group.state("alice");
    const remove: Proposal = { proposalType: "remove", remove: { removed } };
    const sender = { senderType: "external" as const, senderIndex: 0 };
    const cs = await mls.cipherSuite(1);
    const made = await protectExternalProposalPublic(
      this.service.signKey,
      groupContext,
      new Uint8Array(),
      remove,
      sender,
      cs,
    );
    await this.give({ version: "mls10", wireformat: "mls_public_message", publicMessage: made.publicMessage });
  }

  /** An Update with fresh keys. */
  async update(name: string): Promise<Proposal> {
    const { privatePath, signaturePrivateKey, groupContext } = this.group.state(name);
    const own = await mls.newKeyPackage(await device(name), NOW);
    const { lifetime: _, signature: __, ...leaf } = own.publicPackage.leafNode;
    const info = { ...leaf, leafNodeSource: "update" as const };
    const [groupId, leafIndex] = [groupContext.groupId, privatePath.leafIndex];
    const current = this.group.state("alice").ratchetTree[2 * leafIndex]!;
    const signaturePublicKey = current.nodeType === "leaf" ? current.leaf.signaturePublicKey : new Uint8Array();
    const tbs = encodeLeafNodeTBS({ ...info, signaturePublicKey, groupId, leafIndex });
    const { signature: scheme } = await mls.cipherSuite(1);
    const signature = await signWithLabel(signaturePrivateKey, "LeafNodeTBS", tbs, scheme);
    return { proposalType: "update", update: { leafNode: { ...info, signaturePublicKey, signature } } };
  }

  leaf(name: string): number {
    return this.group.state(name).privatePath.leafIndex;
  }
}

async function proposals(): Promise<Proposals> {
  const service = await server();
  const group = await TestGroup.create("alice", service);
  await group.add("alice", "bob", "carol", "dave");
  return new Proposals(group, service);
}

const reinit: Proposal = {
  proposalType: "reinit",
  reinit: {
    groupId: utf8("next"),
    version: "mls10",
    cipherSuite: "MLS_128_DHKEMX25519_AES128GCM_SHA256_Ed25519",
    extensions: [],
  },
};
const psk: Proposal = {
  proposalType: "psk",
  psk: { preSharedKeyId: { psktype: "external", pskId: utf8("unknown"), pskNonce: new Uint8Array(32) } },
};
const custom: Proposal = { proposalType: 0xf123, proposalData: new Uint8Array(3) };
const empty: Proposal = { proposalType: "group_context_extensions", groupContextExtensions: { extensions: [] } };

test("a Commit takes all pending proposals that can stand together", async () => {
  const p = await proposals();
  const { group } = p;
  await p.by("bob", await p.update("bob"));
  await p.by("carol", { proposalType: "remove", remove: { removed: p.leaf("dave") } });
  assert.equal((await mls.choose(group.state("alice"), [])).length, 2);
  group.states.delete("bob"); // this client does not install the key of an Update of its own
  await group.commit("alice");
  group.states.delete("dave");
  assert.equal(group.authenticators().size, 1);
});

test("a Commit leaves out what conflicts with the service's Remove, and what this client cannot apply", async () => {
  const p = await proposals();
  const { group } = p;
  const remove: Proposal = { proposalType: "remove", remove: { removed: p.leaf("bob") } };
  await p.by("bob", await p.update("bob"));
  await p.by("carol", remove);
  for (const poison of [reinit, psk, custom, empty, empty]) await p.by("bob", poison);
  await p.by("dave", await p.update("dave"));
  await p.byService(p.leaf("bob"));
  const state = group.state("alice");
  const chosen = (await mls.choose(state, [])).map((c) =>
    c.proposalOrRefType === "reference"
      ? state.unappliedProposals[Buffer.from(c.reference).toString("base64")]!
      : undefined,
  );
  assert.deepEqual(
    chosen.map((c) => [c?.proposal.proposalType, c?.senderLeafIndex]),
    [
      ["remove", undefined],
      ["group_context_extensions", p.leaf("bob")],
      ["update", p.leaf("dave")],
    ],
  );
  group.states.delete("dave");
  await group.commit("alice");
  assert.equal(group.state("bob").groupActiveState.kind, "removedFromGroup");
  group.states.delete("bob");
  assert.equal(group.authenticators().size, 1);
});

test("an own proposal goes before those of members, and a member never commits an own Update", async () => {
  const p = await proposals();
  const { group } = p;
  await p.by("bob", { proposalType: "remove", remove: { removed: p.leaf("dave") } });
  await p.by("alice", await p.update("alice"));
  const own = mls.byValue({ proposalType: "remove", remove: { removed: p.leaf("dave") } });
  assert.deepEqual(await mls.choose(group.state("alice"), [own]), [own]);
});

test("what nobody can commit keeps nobody from sending", async () => {
  const p = await proposals();
  await p.by("bob", custom);
  const { state, message } = await mls.encrypt(p.group.state("alice"), utf8("hello"));
  assert.equal(Object.keys(state.unappliedProposals).length, 1);
  assert.deepEqual((await mls.process(p.group.state("carol"), message)).plaintext, utf8("hello"));
});

/** Puts a member's proposal into the log, against the rules of a real Delivery Service. */
async function propose({ client, group }: User, proposal: Proposal): Promise<void> {
  const { message } = await createProposal(group.state, true, proposal, await mls.cipherSuite(1));
  await client.ds(group.ds).submit(group.key, { message: toBase64(encodeMlsMessage(message)) });
}

test("a refused Commit is made again without what members have proposed", async () => {
  const { users, s } = await party("alice", "bob", "carol");
  const [alice, bob, carol] = users as [User, User, User];
  await propose(bob, { proposalType: "remove", remove: { removed: carol.group.state.privatePath.leafIndex } });
  await alice.sync();
  const ds = net.ds(s);
  const honest = ds.answer.bind(ds);
  let refused = 0;
  ds.answer = (method, path, query, body, user) => {
    const isCommit = path[2] === "messages" && method === "POST" && body.group_info !== undefined;
    if (isCommit && mls.refersToProposals(new Uint8Array(Buffer.from(body.message, "base64"))) && ++refused)
      refuse(403, "M_FORBIDDEN");
    return honest(method, path, query, body, user);
  };
  await alice.say("hello");
  assert.equal(refused, 1);
  for (const u of [bob, carol]) await u.sync();
  together(alice, bob, carol);
  assert.deepEqual(carol.texts(), ["hello"]);
});

test("a user leaves, and the next Commit takes the device out", async () => {
  const { users } = await party("alice", "bob", "carol");
  const [alice, bob, carol] = users as [User, User, User];
  await bob.client.update(bob.group); // alice and carol have not heard of it
  await carol.client.leave(carol.group);
  await carol.client.leave(carol.group); // once is enough
  await assert.rejects(carol.say("still here"), /about to be removed/);
  await alice.say("without carol");
  for (const u of [bob, carol]) await u.sync();
  together(alice, bob);
  assert.deepEqual([bob.texts(), carol.texts()], [["without carol"], []]);
  assert.equal(carol.take("removed").length, 1);
  assert.deepEqual([...alice.take("failed"), ...bob.take("failed")], []);
});

test("a device that enters by an external Commit takes out who has asked to go", async () => {
  const { users, s, room } = await party("alice", "bob", "carol");
  const [alice, bob, carol] = users as [User, User, User];
  await carol.client.leave(carol.group);
  net.ds(s).groups.get(alice.group.key)!.tree = toBase64(mls.ratchetTree(alice.group.state));
  await bob.client.rejoin(room);
  for (const u of [alice, carol]) await u.sync();
  together(alice, bob);
  assert.equal(mls.members(alice.group.state).length, 2);
  assert.equal(carol.take("removed").length, 1);
});

test("the author is who MLS says, and a Delivery Service that names another is reported", async () => {
  const { users, s } = await party("alice", "bob", "carol");
  const [alice, bob, carol] = users as [User, User, User];
  net.ds(s).misnames = { [bob.id]: alice.id };
  await bob.say("bob's words");
  await carol.sync();
  assert.deepEqual(
    carol.take("message").map((e) => e.event === "message" && [e.sender, e.device, e.own]),
    [[bob.id, bob.client.matrix.transport.deviceId, false]],
  );
  const report = { event: "misattributed", group: carol.group.key, named: alice.id, author: bob.id };
  assert.deepEqual(carol.take("misattributed"), [report]);
  await bob.client.update(bob.group);
  await carol.sync();
  assert.deepEqual(carol.take("misattributed"), [report, report]);
  await alice.say("alice's words");
  await carol.sync();
  assert.equal(carol.take("misattributed").length, 2);
});

test("the author of a message of an epoch before is found there", async () => {
  const group = await TestGroup.create("alice");
  await group.add("alice", "bob", "carol");
  const { message } = await mls.encrypt(group.state("bob"), utf8("late"));
  await group.remove("alice", "bob");
  assert.equal((await mls.process(group.state("carol"), message)).author?.deviceId, "BOB");
});
