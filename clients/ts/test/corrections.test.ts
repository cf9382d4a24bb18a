// Each test shows, for one correction, the rule of RFC 9420, the error of the original ts-mls, and our correct result.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import {
  createCommit,
  createGroup,
  createGroupInfoWithExternalPub,
  createProposal,
  decodeMlsMessage,
  encodeMlsMessage,
  type ExternalSender,
  joinGroup,
  joinGroupExternal,
  makePskIndex,
  processPublicMessage,
} from "ts-mls";
import type { ClientState, Extension, MLSMessage, Proposal } from "ts-mls";
import { defaultClientConfig } from "ts-mls/clientConfig.js";
import { validateRatchetTree } from "ts-mls/clientState.js";
import { decodeRatchetTree } from "ts-mls/ratchetTree.js";
import type { LeafIndex } from "ts-mls/treemath.js";
import { treeHashRoot } from "ts-mls/treeHash.js";
import { protectExternalProposalPublic } from "ts-mls/messageProtectionPublic.js";
import { decodeExternalSenders, encodeExternalSenders, externalSenders } from "../src/corrections/external-senders.js";
import { externalPub } from "../src/corrections/external-pub.js";
import { validateTree } from "../src/corrections/tree.js";
import { applyProposals } from "../src/corrections/proposals.js";
import { decodeSelfRemove } from "../src/corrections/self-remove.js";
import * as mls from "../src/mls.js";
import { unpaced } from "../src/pace.js";
import { device, NOW, TestGroup, utf8 } from "./group.js";
import { reloaded } from "./files.js";
import { noVectors, vectors } from "./needs.js";

async function server(name: string): Promise<ExternalSender & { signKey: Uint8Array }> {
  const { signKey, publicKey } = await (await mls.cipherSuite(1)).signature.keygen();
  return { signKey, signaturePublicKey: publicKey, credential: { credentialType: "basic", identity: utf8(name) } };
}

const sendersExtension = (...senders: ExternalSender[]): Extension => ({
  extensionType: "external_senders",
  extensionData: encodeExternalSenders(senders),
});

const groupContextExtensions = (extensions: Extension[]): Proposal => ({
  proposalType: "group_context_extensions",
  groupContextExtensions: { extensions },
});

function publicMessage(bytes: Uint8Array) {
  const message = mls.parse(bytes);
  assert.equal(message.wireformat, "mls_public_message");
  return (message as MLSMessage & { wireformat: "mls_public_message" }).publicMessage;
}

test('"ExternalSender external_senders<V>;" in a new group', async () => {
  const entry = await server("s.example");
  const own = await mls.newKeyPackage(await device("alice"), NOW);
  const cs = await mls.cipherSuite(1);
  await assert.rejects(createGroup(utf8("id"), own.publicPackage, own.privatePackage, [sendersExtension(entry)], cs));

  const group = await TestGroup.create("alice", entry);
  await group.add("alice", "bob");
  assert.equal(group.authenticators().size, 1);
  assert.deepEqual(externalSenders(group.state("bob").groupContext.extensions)[0]?.credential, entry.credential);
});

test('"ExternalSender external_senders<V>;" in a Commit, made and received', async () => {
  const [s, t] = [await server("s.example"), await server("t.example")];
  const group = await TestGroup.create("alice", s);
  await group.add("alice", "bob");
  const cs = await mls.cipherSuite(1);
  const swap = groupContextExtensions([sendersExtension(t, s)]);
  const before = group.state("bob");
  await assert.rejects(
    createCommit(
      { state: group.state("alice"), cipherSuite: cs },
      { extraProposals: [swap], wireAsPublicMessage: true },
    ),
  );

  const { message } = await group.commit("alice", [swap]);
  await assert.rejects(processPublicMessage(before, publicMessage(message), makePskIndex(before, {}), cs));
  assert.equal(group.authenticators().size, 1);
  for (const state of group.states.values()) assert.equal(externalSenders(state.groupContext.extensions).length, 2);
});

test('"sender_index" is the index into external_senders', async () => {
  const [s, other] = [await server("s.example"), await server("other.example")];
  const group = await TestGroup.create("alice", other);
  await group.add("alice", "bob", "carol");
  await group.commit("alice", [groupContextExtensions([sendersExtension(other, s)])]);
  const cs = await mls.cipherSuite(1);
  const remove: Proposal = { proposalType: "remove", remove: { removed: group.state("carol").privatePath.leafIndex } };
  const propose = async (senderIndex: number) =>
    protectExternalProposalPublic(
      s.signKey,
      group.state("alice").groupContext,
      new Uint8Array(),
      remove,
      { senderType: "external", senderIndex },
      cs,
    );
  const { publicMessage } = await propose(1);
  const encoded = encodeMlsMessage({ version: "mls10", wireformat: "mls_public_message", publicMessage });
  const alice = group.state("alice");
  await assert.rejects(processPublicMessage(alice, publicMessage, makePskIndex(alice, {}), cs));

  for (const index of [0, 2]) {
    const wrong = encodeMlsMessage({ version: "mls10", wireformat: "mls_public_message", ...(await propose(index)) });
    await assert.rejects(mls.process(alice, wrong), `index ${index}`);
  }
  for (const [name, state] of group.states) group.states.set(name, (await mls.process(state, encoded)).state);
  assert.ok(mls.removalPending(group.state("carol")));
  await group.commit("alice");
  assert.equal(group.state("carol").groupActiveState.kind, "removedFromGroup");
  group.states.delete("carol");
  assert.equal(group.authenticators().size, 1);
  assert.equal(mls.members(group.state("bob")).length, 2);
});

test("an external_senders extension is read strictly", async () => {
  const good = encodeExternalSenders([await server("s.example")]);
  assert.deepEqual(encodeExternalSenders(decodeExternalSenders(good)), good);
  for (const bad of [
    good.subarray(0, -1),
    Uint8Array.of(...good, 0),
    Uint8Array.of(0x40, ...good),
    new Uint8Array(),
    good.subarray(1),
  ]) {
    assert.throws(() => decodeExternalSenders(bad));
  }
});

test('"If the path field is required [...] then it MUST be populated": GroupContextExtensions alone', async () => {
  const group = await TestGroup.create("alice");
  await group.add("alice", "bob");
  const state = group.state("alice");
  const capabilities: Extension = { extensionType: "required_capabilities", extensionData: new Uint8Array(3) };
  const proposal = groupContextExtensions([capabilities]);
  const original = await createCommit(
    { state, cipherSuite: await mls.cipherSuite(1) },
    { extraProposals: [proposal], wireAsPublicMessage: true },
  );
  const pathOf = (message: Uint8Array) => {
    const { content } = publicMessage(message);
    return content.contentType === "commit" ? content.commit.path : undefined;
  };
  assert.equal(pathOf(encodeMlsMessage(original.commit)), undefined);

  const { message } = await group.commit("alice", [proposal]);
  assert.notEqual(pathOf(message), undefined);
  assert.equal(group.authenticators().size, 1);
});

for (const suite of [1, 3]) {
  test(`nodes between an unmerged leaf and the parent list it, nodes above do not (suite ${suite})`, async () => {
    const group = await TestGroup.create("a", undefined, suite);
    await group.add("a", "b", "c", "d", "e", "f", "g", "h");
    await group.remove("a", "h");
    await group.commit("e"); // now the right half has a parent node of its own
    const { welcome, packages } = await group.add("a", "i"); // the parent lists i, the new root does not
    const cs = await mls.cipherSuite(suite);
    const { publicPackage, privatePackage } = packages[0]!;
    const message = mls.parse(welcome);
    assert.equal(message.wireformat, "mls_welcome");
    if (message.wireformat === "mls_welcome")
      await assert.rejects(
        joinGroup(message.welcome, publicPackage, privatePackage, makePskIndex(undefined, {}), cs),
        /unmerged_leaves/,
      );

    await group.commit("i");
    await group.commit("g");
    assert.equal(group.authenticators().size, 1);
    const { state, message: sent } = await mls.encrypt(group.state("i"), utf8("hello"));
    group.states.set("i", state);
    assert.deepEqual((await mls.process(group.state("b"), sent)).plaintext, utf8("hello"));
  });
}

test("the working group's valid trees, of which the original refuses some", { skip: noVectors }, async () => {
  const { lifetimeConfig, authService } = defaultClientConfig;
  let refused = 0;
  for (const v of JSON.parse(readFileSync(join(vectors, "tree-validation.json"), "utf8"))) {
    if (v.cipher_suite !== 1 && v.cipher_suite !== 3) continue;
    const cs = await mls.cipherSuite(v.cipher_suite);
    const tree = decodeRatchetTree(Buffer.from(v.tree, "hex"), 0)![0];
    const treeHash = await treeHashRoot(tree, cs.hash);
    const { groupContext } = (await TestGroup.create("a", undefined, v.cipher_suite)).state("a");
    const context = { ...groupContext, groupId: new Uint8Array(Buffer.from(v.group_id, "hex")), treeHash };
    await validateTree(tree, context, authService, unpaced);
    if (await validateRatchetTree(tree, context, lifetimeConfig, authService, treeHash, cs)) refused++;
  }
  assert.ok(refused > 0);
});

test("an external Commit into such a tree, in place of a former leaf", async () => {
  const group = await TestGroup.create("a");
  await group.add("a", "b", "c", "d", "e", "f", "g", "h");
  await group.remove("a", "h");
  await group.commit("e");
  await group.add("a", "i");
  const state = group.state("a");
  const info = await mls.groupInfo(state);
  const own = await mls.newKeyPackage(await device("i"), NOW);
  const cs = await mls.cipherSuite(1);
  const original = await createGroupInfoWithExternalPub(state, [], cs);
  await assert.rejects(
    joinGroupExternal(original, own.publicPackage, own.privatePackage, false, cs, state.ratchetTree),
    /unmerged_leaves/,
  );

  const commit = await mls.externalCommit(await device("i"), info, mls.ratchetTree(state), NOW);
  group.states.delete("i");
  for (const [name, s] of group.states) group.states.set(name, (await mls.process(s, commit.message)).state);
  group.states.set("i", commit.next);
  assert.equal(group.authenticators().size, 1);
  assert.equal(mls.members(group.state("b")).length, 8);
  await group.commit("b");
  assert.equal(group.authenticators().size, 1);
});

test('"opaque HPKEPublicKey<V>;" in external_pub', async () => {
  const group = await TestGroup.create("alice");
  await group.add("alice", "bob");
  const state = group.state("alice");
  const cs = await mls.cipherSuite(1);
  const external = (m: { extensions: Extension[] }) =>
    m.extensions.find((e) => e.extensionType === "external_pub")!.extensionData;
  const message = mls.parse(await mls.groupInfo(state));
  assert.equal(message.wireformat, "mls_group_info");
  if (message.wireformat !== "mls_group_info") return;
  const { groupInfo } = message;
  const original = await createGroupInfoWithExternalPub(state, [], cs);
  assert.deepEqual(external(groupInfo), Uint8Array.of(32, ...external(original)));

  const own = await mls.newKeyPackage(await device("carol"), NOW);
  const { publicPackage, privatePackage } = own;
  await assert.rejects(joinGroupExternal(groupInfo, publicPackage, privatePackage, false, cs, state.ratchetTree));
  assert.throws(() => externalPub(original), /malformed external_pub/);
  const commit = await mls.externalCommit(
    await device("carol"),
    await mls.groupInfo(state),
    mls.ratchetTree(state),
    NOW,
  );
  for (const [name, s] of group.states) group.states.set(name, (await mls.process(s, commit.message)).state);
  group.states.set("carol", commit.next);
  assert.equal(group.authenticators().size, 1);
});

test('"This is a wholesale replacement, not a merge": an empty list of extensions', async () => {
  const group = await TestGroup.create("alice", await server("s.example"));
  await group.add("alice", "bob", "carol");
  const cs = await mls.cipherSuite(1);
  const before = group.state("bob");
  const { message } = await group.commit("alice", [groupContextExtensions([])]);
  assert.equal(group.authenticators().size, 1);
  for (const state of group.states.values()) assert.deepEqual(state.groupContext.extensions, []);
  await assert.rejects(processPublicMessage(before, publicMessage(message), makePskIndex(before, {}), cs));

  const proposal = groupContextExtensions([sendersExtension(await server("t.example"))]);
  const state = group.state("carol");
  await propose(group, encodeMlsMessage((await createProposal(state, true, proposal, cs)).message));
  // As after a restart.
  for (const [name, s] of group.states) group.states.set(name, reloaded(s));
  await group.commit("bob");
  for (const s of group.states.values()) assert.equal(externalSenders(s.groupContext.extensions).length, 1);
  assert.equal(group.authenticators().size, 1);
});

/** Hands every member a proposal. */
async function propose(group: TestGroup, message: Uint8Array): Promise<void> {
  for (const [name, state] of group.states) group.states.set(name, (await mls.process(state, message)).state);
}

/** A SelfRemove of bob as an engine written in Go makes it, in a group of alice and bob at epoch 0. */
const fromGo = Buffer.from(
  "AAEAAQVncm91cAAAAAAAAAAAAQAAAAEAAgAKQEAR+m1eCofISS9o5BXyYFUGQlM31uPI0I/1kwsfl7kMCTaDokE+Bd+aCUGE8lAJ" +
    "SSBucvxeijjajBHDEub0FIwAIIzYRk0xps1N/JKKyIErZa83Y927wGc5LnfRAAkw+O7N",
  "base64",
);

test("a SelfRemove is an empty struct", async () => {
  const bytes = new Uint8Array(fromGo);
  assert.ok(!decodesAlike(bytes), "the original reads it");
  const read = decodeSelfRemove(bytes)!;
  assert.deepEqual([read.epoch, read.leaf, Buffer.from(read.groupId).toString()], [0n, 1, "group"]);
  assert.equal(mls.messageEpoch(bytes), 0n);
  for (let n = 0; n < bytes.length; n++) assert.equal(decodeSelfRemove(bytes.subarray(0, n)), undefined);
  assert.equal(decodeSelfRemove(Uint8Array.of(...bytes, 0)), undefined);
});

function decodesAlike(bytes: Uint8Array): boolean {
  try {
    return Buffer.compare(encodeMlsMessage(decodeMlsMessage(bytes, 0)![0]), bytes) === 0;
  } catch {
    return false;
  }
}

const out = (s: ClientState) => s.groupActiveState.kind === "removedFromGroup";

test("a member leaves by a SelfRemove, which another commits by reference", async () => {
  const group = await TestGroup.create("alice");
  await group.add("alice", "bob", "carol", "dave");
  const message = await mls.leave(group.state("bob"));
  assert.ok(decodeSelfRemove(message));
  await propose(group, message);
  assert.ok(mls.removalPending(group.state("bob")));
  assert.deepEqual(await mls.choose(group.state("bob"), []), []);
  const alice = group.state("alice");
  const { message: commit } = await group.commit("alice");
  assert.ok(out(group.state("bob")));
  group.states.delete("bob");
  assert.equal(group.authenticators().size, 1);
  assert.deepEqual(
    mls.members(group.state("carol")).map((m) => m.deviceId),
    ["ALICE", "CAROL", "DAVE"],
  );

  const cs = await mls.cipherSuite(1);
  const { commit: original } = await createCommit({ state: alice, cipherSuite: cs }, { wireAsPublicMessage: true });
  assert.ok(original.wireformat === "mls_public_message" && original.publicMessage.content.contentType === "commit");
  const theirs = await processPublicMessage(alice, publicMessage(commit), makePskIndex(alice, {}), cs).catch(
    () => undefined,
  );
  assert.ok(theirs === undefined || mls.members(theirs.newState).length === 4, "the original takes out nobody");
});

test("a SelfRemove goes into an external Commit too", async () => {
  const group = await TestGroup.create("alice");
  await group.add("alice", "bob", "carol", "dave");
  const leaving = await mls.leave(group.state("dave"));
  await propose(group, leaving);
  const state = group.state("alice");
  const [info, tree] = [await mls.groupInfo(state), mls.ratchetTree(state)];
  const commit = await mls.externalCommit(await device("carol"), info, tree, NOW, [leaving]);
  const former = group.state("carol");
  assert.ok(out((await mls.process(former, commit.message)).state), "the former leaf of carol is removed");
  for (const [name, s] of group.states) group.states.set(name, (await mls.process(s, commit.message)).state);
  assert.ok(out(group.state("dave")));
  group.states.delete("dave");
  group.states.set("carol", commit.next);
  assert.equal(group.authenticators().size, 1);
  assert.equal(mls.members(group.state("bob")).length, 3);
});

test("a SelfRemove that breaks a rule counts nowhere", async () => {
  const group = await TestGroup.create("alice");
  await group.add("alice", "bob", "carol");
  const bob = group.state("bob");
  const message = await mls.leave(bob);
  for (let i = 0; i < message.length; i += 7) {
    const forged = Uint8Array.from(message);
    forged[i]! ^= 1;
    await assert.rejects(mls.process(group.state("alice"), forged), `byte ${i}`);
  }
  await group.commit("carol");
  await assert.rejects(mls.process(group.state("alice"), message), /current epoch/);
  await propose(group, await mls.leave(group.state("bob")));
  const removed = bob.privatePath.leafIndex;
  const cs = await mls.cipherSuite(1);
  const apply = (name: string, more: Proposal[]) => {
    const state = group.state(name);
    const refs = Object.keys(state.unappliedProposals).map((ref) => ({
      proposalOrRefType: "reference" as const,
      reference: new Uint8Array(Buffer.from(ref, "base64")),
    }));
    const self = state.privatePath.leafIndex as LeafIndex;
    return applyProposals(state, [...refs, ...more.map(mls.byValue)], self, true, cs);
  };
  assert.ok((await apply("alice", [])).pathRequired);
  await assert.rejects(apply("bob", []), /the committer leaves/);
  await assert.rejects(apply("alice", [{ proposalType: "remove", remove: { removed } }]), /two proposals for one leaf/);
  const byValue: Proposal = { proposalType: 0x000a, proposalData: new Uint8Array() };
  await assert.rejects(apply("alice", [byValue]), /by value/);
});

test("who asks to leave a group in which somebody does not know SelfRemove sends a Remove", async () => {
  const group = await TestGroup.create("alice");
  await group.add("alice", "bob", "carol");
  const state = structuredClone({ ...group.state("bob"), clientConfig: undefined }) as unknown as ClientState;
  const first = state.ratchetTree[0]!;
  if (first.nodeType === "leaf") first.leaf.capabilities.proposals = [];
  const message = await mls.leave({ ...state, clientConfig: group.state("bob").clientConfig });
  assert.equal(decodeSelfRemove(message), undefined);
  await propose(group, message);
  await group.commit("alice");
  assert.ok(out(group.state("bob")));
});

test("a joiner refuses a tree that breaks the rules", async () => {
  const group = await TestGroup.create("a");
  await group.add("a", "b", "c", "d", "e", "f", "g", "h");
  await group.remove("a", "h");
  await group.commit("e");
  await group.add("a", "i");
  const { groupContext, ratchetTree, clientConfig } = group.state("i");
  const listing = ratchetTree.findIndex((n) => n?.nodeType === "parent" && n.parent.unmergedLeaves.length > 0);
  const check = (change: (tree: any[]) => void) => {
    const tree = structuredClone(ratchetTree);
    change(tree);
    return validateTree(tree, groupContext, clientConfig.authService, unpaced);
  };
  await check(() => undefined);
  await assert.rejects(
    check((t) => (t[listing].parent.unmergedLeaves = [])),
    /parent hash|GroupContext/,
  );
  await assert.rejects(
    check((t) => (t[listing].parent.unmergedLeaves = [0])),
    /no descendant/,
  );
  await assert.rejects(
    check((t) => (t[listing].parent.unmergedLeaves = [2 ** 31])),
    /no descendant/,
  );
  await assert.rejects(
    check((t) => (t[2].leaf.hpkePublicKey = t[0].leaf.hpkePublicKey)),
    /used twice/,
  );
  await assert.rejects(
    check((t) => (t[0].leaf.signature[0] ^= 1)),
    /does not verify/,
  );
  await assert.rejects(
    check((t) => (t[0] = t[1])),
    /changed places/,
  );
  await assert.rejects(
    check((t) => (t[0] = undefined)),
    /parent hash|GroupContext/,
  );
});
