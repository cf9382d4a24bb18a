// Every correction: what RFC 9420 says, that the original ts-mls does otherwise, that ours does it.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import {
  createCommit,
  createGroup,
  encodeMlsMessage,
  type ExternalSender,
  joinGroup,
  joinGroupExternal,
  makePskIndex,
  processPublicMessage,
} from "ts-mls";
import type { Extension, MLSMessage, Proposal } from "ts-mls";
import { defaultClientConfig } from "ts-mls/clientConfig.js";
import { validateRatchetTree } from "ts-mls/clientState.js";
import { decodeRatchetTree } from "ts-mls/ratchetTree.js";
import { treeHashRoot } from "ts-mls/treeHash.js";
import { protectExternalProposalPublic } from "ts-mls/messageProtectionPublic.js";
import { decodeExternalSenders, encodeExternalSenders, externalSenders } from "../src/corrections/external-senders.js";
import { validateTree } from "../src/corrections/join.js";
import * as mls from "../src/mls.js";
import { device, NOW, TestGroup, utf8 } from "./group.js";
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
  test(`an unmerged leaf is listed "between the leaf node and the parent node", not above (suite ${suite})`, async () => {
    const group = await TestGroup.create("a", undefined, suite);
    await group.add("a", "b", "c", "d", "e", "f", "g", "h");
    await group.remove("a", "h");
    await group.commit("e"); // now the right half has a parent node of its own
    const { welcome, packages } = await group.add("a", "i"); // which lists i; the root, new with this Commit, does not
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
    await validateTree(tree, context, cs, defaultClientConfig);
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
  const message = mls.parse(info);
  assert.equal(message.wireformat, "mls_group_info");
  const own = await mls.newKeyPackage(await device("i"), NOW);
  const cs = await mls.cipherSuite(1);
  if (message.wireformat === "mls_group_info")
    await assert.rejects(
      joinGroupExternal(message.groupInfo, own.publicPackage, own.privatePackage, false, cs, state.ratchetTree),
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

test("a joiner refuses a tree that breaks the rules", async () => {
  const group = await TestGroup.create("a");
  await group.add("a", "b", "c", "d", "e", "f", "g", "h");
  await group.remove("a", "h");
  await group.commit("e");
  await group.add("a", "i");
  const { groupContext, ratchetTree, clientConfig } = group.state("i");
  const cs = await mls.cipherSuite(1);
  const listing = ratchetTree.findIndex((n) => n?.nodeType === "parent" && n.parent.unmergedLeaves.length > 0);
  const check = (change: (tree: any[]) => void) => {
    const tree = structuredClone(ratchetTree);
    change(tree);
    return validateTree(tree, groupContext, cs, clientConfig);
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
