// What ts-mls 1.6.4 gets wrong in our way, put right from outside on its own inner modules. Bytes on the wire are those of RFC 9420.
//
// 1. external_senders is read as one ExternalSender, so createGroup and GroupContextExtensions throw on the real thing, and a
//    sender_index selects among extensions. RFC 9420, 12.1.8.1: "ExternalSender external_senders<V>;" and "The sender_index value
//    [...] the index into the external_senders extension".
// 2. A Commit with only GroupContextExtensions has no path. RFC 9420, 12.4: "The path value is populated if: [...] the Commit
//    covers at least one Proposal that requires an updated path", of which GroupContextExtensions is one (17.4).
// 3. A tree is refused when two nodes on one direct path list different unmerged leaves. RFC 9420, 12.4.3.1: "Verify that every
//    non-blank intermediate node between the leaf node and the parent node contains an entry for the leaf node in its own
//    unmerged_leaves." Nodes above the parent are no part of that, nor must they list the leaf.
import type { CiphersuiteImpl, ClientConfig, ClientState, ExternalSender, KeyPackage, MLSMessage } from "ts-mls";
import type { PrivateKeyPackage, Proposal, ProposalOrRef, PublicMessage, RatchetTree, Welcome } from "ts-mls";
import { createGroup as originalCreateGroup, makePskIndex, processPublicMessage } from "ts-mls";
import { addHistoricalReceiverData, applyProposals, nextEpochContext, processProposal } from "ts-mls/clientState.js";
import { validateLeafNodeUpdateOrCommit } from "ts-mls/clientState.js";
import { decodeVarLenType, varLenTypeEncoder } from "ts-mls/codec/variableLength.js";
import { encode } from "ts-mls/codec/tlsEncoder.js";
import { createGroupInfo } from "ts-mls/createCommit.js";
import { type Extension, extensionTypeToNumber } from "ts-mls/extension.js";
import { decodeExternalSender, externalSenderEncoder } from "ts-mls/externalSender.js";
import { createConfirmationTag, createContentCommitSignature } from "ts-mls/framedContent.js";
import { ratchetTreeFromExtension, verifyGroupInfoConfirmationTag, verifyGroupInfoSignature } from "ts-mls/groupInfo.js";
import { makeKeyPackageRef } from "ts-mls/keyPackage.js";
import { deriveKeySchedule, initializeEpoch } from "ts-mls/keySchedule.js";
import { verifyLeafNodeSignatureKeyPackage } from "ts-mls/leafNode.js";
import { protectPublicMessage, unprotectPublicMessage } from "ts-mls/messageProtectionPublic.js";
import { verifyParentHashes } from "ts-mls/parentHash.js";
import { getCommitSecret, pathToPathSecrets, pathToRoot } from "ts-mls/pathSecrets.js";
import { mergePrivateKeyPaths, toPrivateKeyPath, updateLeafKey } from "ts-mls/privateKeyPath.js";
import { encodeRatchetTree, findLeafIndex, getHpkePublicKey } from "ts-mls/ratchetTree.js";
import { createSecretTree } from "ts-mls/secretTree.js";
import { treeHashRoot } from "ts-mls/treeHash.js";
import { directPath, isLeaf, leafToNodeIndex, leafWidth, toLeafIndex, toNodeIndex } from "ts-mls/treemath.js";
import { createUpdatePath, firstCommonAncestor } from "ts-mls/updatePath.js";
import { decryptGroupInfo, decryptGroupSecrets, encryptGroupInfo, encryptGroupSecrets } from "ts-mls/welcome.js";
import { accumulatePskSecret } from "ts-mls/pskIndex.js";

/** Thrown for a message that breaks RFC 9420. */
export class MlsRuleError extends Error {
  override name = "MlsRuleError";
}

function must(ok: boolean, rule: string): asserts ok {
  if (!ok) throw new MlsRuleError(rule);
}

const equal = (a: Uint8Array, b: Uint8Array) => Buffer.compare(a, b) === 0;
const EXTERNAL_SENDERS = extensionTypeToNumber("external_senders");

/** The contents of an external_senders extension (RFC 9420, section 12.1.8.1). */
export const encodeExternalSenders = encode(varLenTypeEncoder(externalSenderEncoder));

/** Reads an external_senders extension; an MlsRuleError for anything that would not be encoded identically. */
export function decodeExternalSenders(data: Uint8Array): ExternalSender[] {
  const [senders] = decodeVarLenType(decodeExternalSender)(data, 0) ?? [];
  must(senders !== undefined && equal(encodeExternalSenders(senders), data), "malformed external_senders");
  return senders;
}

/** The external senders of a group, in the order of their indices. */
export function externalSenders(extensions: Extension[]): ExternalSender[] {
  const found = extensions.find((e) => e.extensionType === "external_senders");
  return found === undefined ? [] : decodeExternalSenders(found.extensionData);
}

// ts-mls does not look into an extension that it knows by number only, and encodes it the same.
const byNumber = (e: Extension): Extension =>
  e.extensionType === "external_senders" ? { ...e, extensionType: EXTERNAL_SENDERS } : e;
const byName = (e: Extension): Extension =>
  e.extensionType === EXTERNAL_SENDERS ? { ...e, extensionType: "external_senders" } : e;

function opaqueSenders(p: Proposal): Proposal {
  if (p.proposalType !== "group_context_extensions") return p;
  const { extensions } = p.groupContextExtensions;
  externalSenders(extensions); // refuses a malformed one
  return { ...p, groupContextExtensions: { extensions: extensions.map(byNumber) } };
}

const inCommit = (p: ProposalOrRef): ProposalOrRef =>
  p.proposalOrRefType === "proposal" ? { ...p, proposal: opaqueSenders(p.proposal) } : p;

function named(state: ClientState): ClientState {
  const { groupContext } = state;
  return { ...state, groupContext: { ...groupContext, extensions: groupContext.extensions.map(byName) } };
}

/** createGroup for any extensions: nothing that ts-mls derives for epoch 0 depends on them. */
export async function createGroup(id: Uint8Array, kp: KeyPackage, keys: PrivateKeyPackage, extensions: Extension[], cs: CiphersuiteImpl, config: ClientConfig): Promise<ClientState> {
  externalSenders(extensions);
  const state = await originalCreateGroup(id, kp, keys, [], cs, config);
  return { ...state, groupContext: { ...state.groupContext, extensions } };
}

/** processPublicMessage with external_senders as a vector: a received Commit or proposal gives the next state. */
export async function processHandshake(state: ClientState, message: PublicMessage, cs: CiphersuiteImpl): Promise<ClientState> {
  const { content } = message;
  if (content.contentType === "proposal") {
    const { sender } = content;
    const key = sender.senderType === "external"
      ? externalSenders(state.groupContext.extensions)[sender.senderIndex]?.signaturePublicKey
      : undefined;
    must(sender.senderType !== "external" || key !== undefined, "no such external sender");
    must(content.epoch === state.groupContext.epoch, "not the current epoch");
    const authentic = await unprotectPublicMessage(state.keySchedule.membershipKey, state.groupContext, state.ratchetTree, message, cs, key);
    return processProposal(state, authentic, opaqueSenders(content.proposal), cs.hash);
  }
  must(content.contentType === "commit", "application data in a PublicMessage");
  const commit = { ...content.commit, proposals: content.commit.proposals.map(inCommit) };
  const opaque = { ...message, content: { ...content, commit } } as PublicMessage;
  return named((await processPublicMessage(state, opaque, makePskIndex(state, {}), cs)).newState);
}

/** A Commit before the Delivery Service has accepted it, and the state that it leads to. */
export interface PendingCommit {
  commit: MLSMessage;
  welcome: Welcome | undefined;
  newState: ClientState;
}

/** createCommit that always has a path, as a PublicMessage (RFC 9420, section 12.4.1). Its Welcome carries the ratchet tree. */
export async function createCommit(state: ClientState, given: ProposalOrRef[], authenticatedData: Uint8Array, cs: CiphersuiteImpl): Promise<PendingCommit> {
  const { groupContext, privatePath, signaturePrivateKey: signKey, keySchedule } = state;
  const self = toLeafIndex(privatePath.leafIndex);
  const proposals = given.map(inCommit);
  const applied = await applyProposals(state, proposals, self, makePskIndex(state, {}), true, cs);
  must(applied.additionalResult.kind === "memberCommit", "not an ordinary Commit");
  const { addedLeafNodes: added, extensions } = applied.additionalResult;
  const provisional = extensions.length > 0 ? { ...groupContext, extensions } : groupContext;

  const newLeaves = added.map(([leaf]) => leafToNodeIndex(leaf));
  const [tree, path, secrets, leafKey] = await createUpdatePath(applied.tree, self, provisional, signKey, cs, newLeaves);
  const last = secrets.at(-1);
  const commitSecret = last === undefined
    ? new Uint8Array(cs.kdf.size)
    : await getCommitSecret(tree, toNodeIndex(last.nodeIndex), last.secret, cs.kdf);
  const { framedContent, signature } = await createContentCommitSignature(groupContext, "mls_public_message", { proposals, path },
    { senderType: "member", leafIndex: self }, authenticatedData, signKey, cs.signature);
  const next = await nextEpochContext(provisional, "mls_public_message", framedContent, signature,
    await treeHashRoot(tree, cs.hash), state.confirmationTag, cs.hash);
  const epoch = await initializeEpoch(keySchedule.initSecret, commitSecret, next, applied.pskSecret, cs.kdf);
  const confirmationTag = await createConfirmationTag(epoch.keySchedule.confirmationKey, next.confirmedTranscriptHash, cs.hash);

  const publicMessage = await protectPublicMessage(keySchedule.membershipKey, groupContext, { wireformat: "mls_public_message",
    content: framedContent, auth: { contentType: "commit", signature, confirmationTag } }, cs);
  const ownKeys = updateLeafKey(privatePath, await cs.hpke.exportPrivateKey(leafKey));
  const newState = named({ ...state, groupContext: next, ratchetTree: tree, keySchedule: epoch.keySchedule, confirmationTag,
    secretTree: await createSecretTree(leafWidth(tree.length), epoch.encryptionSecret, cs.kdf),
    privatePath: mergePrivateKeyPaths(ownKeys, await toPrivateKeyPath(pathToPathSecrets(secrets), self, cs)),
    unappliedProposals: {}, historicalReceiverData: addHistoricalReceiverData(state)[0] });

  const treeExtension: Extension = { extensionType: "ratchet_tree", extensionData: encodeRatchetTree(tree) };
  const info = await createGroupInfo(next, confirmationTag, state, [treeExtension], cs);
  const encryptedGroupInfo = await encryptGroupInfo(info, epoch.welcomeSecret, cs);
  const invite = async ([leaf, kp]: (typeof added)[number]) => {
    const ancestor = firstCommonAncestor(tree, leaf, self);
    const pathSecret = secrets.find((s) => s.nodeIndex === ancestor)?.secret;
    const { enc, ct } = await encryptGroupSecrets(await cs.hpke.importPublicKey(kp.initKey), encryptedGroupInfo,
      { joinerSecret: epoch.joinerSecret, pathSecret, psks: applied.pskIds }, cs.hpke);
    return { newMember: await makeKeyPackageRef(kp, cs.hash), encryptedGroupSecrets: { kemOutput: enc, ciphertext: ct } };
  };
  const welcome = added.length === 0
    ? undefined
    : { cipherSuite: next.cipherSuite, secrets: await Promise.all(added.map(invite)), encryptedGroupInfo };
  return { commit: { version: "mls10", wireformat: "mls_public_message", publicMessage }, welcome, newState };
}

/** Checks a tree received with a Welcome (RFC 9420, section 12.4.3.1), save for lifetimes; an MlsRuleError says what is wrong. */
export async function validateTree(tree: RatchetTree, context: ClientState["groupContext"], cs: CiphersuiteImpl, config: ClientConfig): Promise<void> {
  const encryptionKeys = new Set<string>();
  const signatureKeys = new Set<string>();
  const unseen = (seen: Set<string>, key: Uint8Array) => seen.size < seen.add(Buffer.from(key).toString("hex")).size;
  for (const [i, node] of tree.entries()) {
    if (node === undefined) continue;
    must(isLeaf(toNodeIndex(i)) === (node.nodeType === "leaf"), "a leaf and a parent node have changed places");
    must(unseen(encryptionKeys, getHpkePublicKey(node)), "an encryption key is used twice");
    if (node.nodeType === "parent") {
      for (const leaf of node.parent.unmergedLeaves.map(toLeafIndex)) {
        const below = directPath(leafToNodeIndex(leaf), leafWidth(tree.length));
        const at = below.indexOf(toNodeIndex(i));
        must(tree[2 * leaf] !== undefined && at >= 0, "an unmerged leaf is no descendant");
        const lists = (n: number) => tree[n]?.nodeType !== "parent" || (tree[n] as any).parent.unmergedLeaves.includes(leaf);
        must(below.slice(0, at).every(lists), "a node in between does not list an unmerged leaf");
      }
      continue;
    }
    const { leaf } = node;
    must(unseen(signatureKeys, leaf.signaturePublicKey), "a signature key is used twice");
    must(await config.authService.validateCredential(leaf.credential, leaf.signaturePublicKey), "a credential is not acceptable");
    const error = leaf.leafNodeSource === "key_package"
      ? !(await verifyLeafNodeSignatureKeyPackage(leaf, cs.signature))
      : await validateLeafNodeUpdateOrCommit(leaf, i / 2, context, config.authService, cs.signature);
    must(!error, `a leaf does not verify: ${error}`);
  }
  must(await verifyParentHashes(tree, cs.hash), "a parent hash does not verify");
  must(equal(context.treeHash, await treeHashRoot(tree, cs.hash)), "the tree is not the one of the GroupContext");
}

/** joinGroup with the tree checked as above. The tree comes with the Welcome, or from the Delivery Service. */
export async function joinGroup(welcome: Welcome, kp: KeyPackage, keys: PrivateKeyPackage, cs: CiphersuiteImpl, config: ClientConfig, fetched?: RatchetTree): Promise<ClientState> {
  const initKey = await cs.hpke.importPrivateKey(keys.initPrivateKey);
  const secrets = await decryptGroupSecrets(initKey, await makeKeyPackageRef(kp, cs.hash), welcome, cs.hpke);
  must(secrets !== undefined, "malformed group secrets");
  const [psk] = await accumulatePskSecret(secrets.psks, makePskIndex(undefined, {}), cs, new Uint8Array(cs.kdf.size));
  const info = await decryptGroupInfo(welcome, secrets.joinerSecret, psk, cs);
  must(info !== undefined && info.groupContext.cipherSuite === kp.cipherSuite, "malformed GroupInfo");
  const tree = ratchetTreeFromExtension(info) ?? fetched;
  must(tree !== undefined, "no ratchet tree");
  const signer = tree[leafToNodeIndex(toLeafIndex(info.signer))];
  must(signer?.nodeType === "leaf", "the GroupInfo's signer is no member");
  must(await verifyGroupInfoSignature(info, signer.leaf.signaturePublicKey, cs.signature), "the GroupInfo's signature does not verify");
  must(await verifyGroupInfoConfirmationTag(info, secrets.joinerSecret, psk, cs), "the confirmation tag does not verify");
  await validateTree(tree, info.groupContext, cs, config);

  const self = findLeafIndex(tree, kp.leafNode);
  must(self !== undefined, "the Welcome is for another leaf");
  const own = { leafIndex: self, privateKeys: { [leafToNodeIndex(self)]: keys.hpkePrivateKey } };
  const path = secrets.pathSecret === undefined ? {} : await pathToRoot(tree, firstCommonAncestor(tree, self, toLeafIndex(info.signer)), secrets.pathSecret, cs.kdf);
  const [keySchedule, encryptionSecret] = await deriveKeySchedule(secrets.joinerSecret, psk, info.groupContext, cs.kdf);
  return { groupContext: info.groupContext, ratchetTree: tree, keySchedule, confirmationTag: info.confirmationTag,
    privatePath: mergePrivateKeyPaths(await toPrivateKeyPath(path, self, cs), own), signaturePrivateKey: keys.signaturePrivateKey,
    secretTree: await createSecretTree(leafWidth(tree.length), encryptionSecret, cs.kdf), unappliedProposals: {},
    historicalReceiverData: new Map(), groupActiveState: { kind: "active" }, clientConfig: config };
}
