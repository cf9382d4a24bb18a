// A device's view of MLS: identities, KeyPackages, Commits and the state of a group, on ts-mls.
import { ciphersuites, createApplicationMessage, createProposal, decodeMlsMessage } from "ts-mls";
import { encodeMlsMessage, generateKeyPackageWithKey } from "ts-mls";
import { getCiphersuiteFromName, getCiphersuiteImpl, makePskIndex, processPrivateMessage } from "ts-mls";
import type { CiphersuiteImpl, CiphersuiteName, ClientConfig, ClientState, ExternalSender } from "ts-mls";
import type { FramedContent, KeyPackage, MLSMessage, PrivateKeyPackage, PrivateMessage, Proposal } from "ts-mls";
import type { ProposalOrRef, ProposalWithSender, RatchetTree } from "ts-mls";
import { defaultClientConfig } from "ts-mls/clientConfig.js";
import { decodeGroupStateWithoutTree, encodeGroupStateWithoutTree } from "ts-mls/clientState.js";
import { mapDecoders } from "ts-mls/codec/tlsDecoder.js";
import { contramapBufferEncoders, encode as encoder } from "ts-mls/codec/tlsEncoder.js";
import { decodeVarLenData, varLenDataEncoder } from "ts-mls/codec/variableLength.js";
import { signWithLabel } from "ts-mls/crypto/signature.js";
import type { EpochReceiverData } from "ts-mls/epochReceiverData.js";
import type { Extension } from "ts-mls/extension.js";
import { decodeGroupContext, groupContextEncoder } from "ts-mls/groupContext.js";
import { makeKeyPackageRef } from "ts-mls/keyPackage.js";
import { decryptSenderData } from "ts-mls/privateMessage.js";
import { mlsExporter } from "ts-mls/keySchedule.js";
import { decodeRatchetTree, encodeRatchetTree } from "ts-mls/ratchetTree.js";
import { decodeSecretTree, type SecretTree, secretTreeEncoder } from "ts-mls/secretTree.js";
import { toLeafIndex } from "ts-mls/treemath.js";
import { base64ToBytes } from "ts-mls/util/byteArray.js";
import { validateBeside } from "./beside.js";
import { same, toHex, utf8 } from "./bytes.js";
import { authService, identityOf } from "./credentials.js";
import { MimiportError } from "./errors.js";
import { createCommit, type PendingCommit } from "./corrections/commit.js";
import { createExternalCommit } from "./corrections/external-commit.js";
import { createGroupInfoWithExternalPub } from "./corrections/external-pub.js";
import { createGroup, encodeExternalSenders, externalSenders } from "./corrections/external-senders.js";
import { processProposalMessage } from "./corrections/external-senders.js";
import { joinGroup, NO_TREE, type Work } from "./corrections/join.js";
import { processCommit } from "./corrections/process-commit.js";
import { applyProposals } from "./corrections/proposals.js";
import { MlsRuleError } from "./corrections/rules.js";
import { createSelfRemove, decodeSelfRemove, isSelfRemove } from "./corrections/self-remove.js";
import { processSelfRemove, SELF_REMOVE } from "./corrections/self-remove.js";
import { slices } from "./pace.js";
import { encode, fromBase64, leafIdentity, type LeafIdentity, toBase64 } from "./wire.js";

/** The cipher suites that ts-mls implements as in RFC 9420. */
const suiteNames: Record<number, CiphersuiteName> = {
  1: "MLS_128_DHKEMX25519_AES128GCM_SHA256_Ed25519",
  3: "MLS_128_DHKEMX25519_CHACHA20POLY1305_SHA256_Ed25519",
};

const KEY_PACKAGE_DAYS = 90n;
const DAY = 86_400n;

/** A device and the signature key of its leaves. */
export interface Identity extends LeafIdentity {
  suite: number;
  signKey: Uint8Array;
  publicKey: Uint8Array;
}

/** A KeyPackage and its private keys, kept until a Welcome uses them. */
export interface OwnKeyPackage {
  publicPackage: KeyPackage;
  privatePackage: PrivateKeyPackage;
}

/** A Commit in the form for the Delivery Service, and the state after it is accepted. Byte fields are MLSMessages. */
export interface Commit {
  message: Uint8Array;
  groupInfo: Uint8Array;
  welcome: Uint8Array | undefined;
  next: ClientState;
}

export interface Member extends LeafIdentity {
  leaf: number;
  signatureKey: Uint8Array;
}

const config: ClientConfig = { ...defaultClientConfig, authService };

/** While messages of former terms are unread: keeps the keys of so many past epochs that these still decrypt. */
const patient: ClientConfig = {
  ...config,
  keyRetentionConfig: { ...config.keyRetentionConfig, retainKeysForEpochs: 64 },
};

/** A state that keeps the keys of many past epochs if messages of former terms are unread, else those of a few. */
export const keepingEpochs = (state: Omit<ClientState, "clientConfig">, unread: boolean): ClientState => ({
  ...state,
  clientConfig: unread ? patient : config,
});

/** The primitives of a suite, 1 or 3. */
export function cipherSuite(id: number): Promise<CiphersuiteImpl> {
  const name = suiteNames[id];
  if (name === undefined) throw new MimiportError("UNSUPPORTED", `cipher suite ${id} is not supported`);
  return getCiphersuiteImpl(getCiphersuiteFromName(name));
}

/** The number of a group's suite (RFC 9420, section 17.1). */
export const suiteId = (state: ClientState): number => ciphersuites[state.groupContext.cipherSuite];

const suiteOf = (state: ClientState) => cipherSuite(suiteId(state));

export async function newIdentity({ userId, deviceId }: LeafIdentity, suite: number): Promise<Identity> {
  const { signature } = await cipherSuite(suite);
  return { userId, deviceId, suite, ...(await signature.keygen()) };
}

/** A fresh KeyPackage, valid from a day before now (seconds since 1970), for clocks that are behind. */
export async function newKeyPackage(identity: Identity, now: bigint): Promise<OwnKeyPackage> {
  const capabilities = {
    versions: ["mls10" as const],
    ciphersuites: [suiteNames[identity.suite]!],
    extensions: [],
    proposals: [SELF_REMOVE],
    credentials: ["basic" as const],
  };
  return generateKeyPackageWithKey(
    { credentialType: "basic", identity: encode(leafIdentity, identity) },
    capabilities,
    { notBefore: now - DAY, notAfter: now + KEY_PACKAGE_DAYS * DAY },
    [],
    identity,
    await cipherSuite(identity.suite),
  );
}

/** KeyPackageRef: a Welcome names its KeyPackage by it. */
export async function keyPackageRef(kp: KeyPackage): Promise<Uint8Array> {
  return makeKeyPackageRef(kp, (await cipherSuite(suiteOfKeyPackage(kp))).hash);
}

/** Decodes one MLSMessage. Throws an MlsRuleError for bytes that would not be encoded identically. */
export function parse(bytes: Uint8Array): MLSMessage {
  let message: MLSMessage | undefined;
  try {
    message = decodeMlsMessage(bytes, 0)?.[0];
  } catch (e) {
    throw new MlsRuleError(`malformed MLSMessage: ${e}`);
  }
  if (message === undefined || !same(encodeMlsMessage(message), bytes)) throw new MlsRuleError("malformed MLSMessage");
  return message;
}

/** The KeyPackage in an MLSMessage, and the device that it names. */
export function parseKeyPackage(bytes: Uint8Array): { keyPackage: KeyPackage; device: LeafIdentity } {
  const message = parse(bytes);
  const device =
    message.wireformat === "mls_key_package" ? identityOf(message.keyPackage.leafNode.credential) : undefined;
  if (message.wireformat !== "mls_key_package" || device === undefined)
    throw new MlsRuleError("not a KeyPackage of a device");
  return { keyPackage: message.keyPackage, device };
}

/** The number of a KeyPackage's suite. */
export const suiteOfKeyPackage = (kp: KeyPackage): number => ciphersuites[kp.cipherSuite];

/** A KeyPackage as an MLSMessage. */
export function encodeKeyPackage(keyPackage: KeyPackage): Uint8Array {
  return encodeMlsMessage({ version: "mls10", wireformat: "mls_key_package", keyPackage });
}

/** A new group with one member, at epoch 0. sender is the Delivery Service's entry in external_senders. */
export async function newGroup(
  identity: Identity,
  groupId: Uint8Array,
  sender: ExternalSender | undefined,
  now: bigint,
): Promise<ClientState> {
  const own = await newKeyPackage(identity, now);
  const extensions: Extension[] =
    sender === undefined ? [] : [{ extensionType: "external_senders", extensionData: encodeExternalSenders([sender]) }];
  return createGroup(
    groupId,
    own.publicPackage,
    own.privatePackage,
    extensions,
    await cipherSuite(identity.suite),
    config,
  );
}

/** GroupInfo of the state's epoch with external_pub and without a ratchet tree, as an MLSMessage. */
export async function groupInfo(state: ClientState): Promise<Uint8Array> {
  const info = await createGroupInfoWithExternalPub(state, await suiteOf(state));
  return encodeMlsMessage({ version: "mls10", wireformat: "mls_group_info", groupInfo: info });
}

/** Identifies an epoch on any branch of a group: the confirmed transcript hash, in hexadecimal. */
export const transcript = (state: ClientState): string => toHex(state.groupContext.confirmedTranscriptHash);

export const ratchetTree = (state: ClientState): Uint8Array => encodeRatchetTree(state.ratchetTree);

/**
 * Makes a Commit of proposals by reference and by value. The group stays in the given state until the Commit is
 * accepted.
 */
export async function commit(
  state: ClientState,
  proposals: ProposalOrRef[],
  authenticatedData: Uint8Array = new Uint8Array(),
): Promise<Commit> {
  return encodeCommit(await createCommit(state, proposals, authenticatedData, await suiteOf(state), slices()));
}

/**
 * Makes an external Commit with which a device joins a group. It removes the device's former leaf if there is one.
 * pending are messages with proposals of the GroupInfo's epoch. The Commit includes the SelfRemoves among them; an
 * external Commit may include no others. A signal ends the work.
 */
export async function externalCommit(
  identity: Identity,
  info: Uint8Array,
  tree: Uint8Array,
  now: bigint,
  pending: Uint8Array[] = [],
  signal?: AbortSignal,
): Promise<Commit> {
  const message = parse(info);
  if (message.wireformat !== "mls_group_info") throw new MlsRuleError("not a GroupInfo");
  const { groupInfo } = message;
  const formerLeaf = (members: RatchetTree) => {
    const own = membersOf(members).find((m) => m.userId === identity.userId && m.deviceId === identity.deviceId);
    return own && toLeafIndex(own.leaf);
  };
  const { publicPackage, privatePackage } = await newKeyPackage(identity, now);
  const cs = await cipherSuite(identity.suite);
  const leaving = pending.flatMap((m) => decodeSelfRemove(m) ?? []);
  const work = joinersWork(signal);
  return encodeCommit(
    await createExternalCommit(groupInfo, tree, formerLeaf, leaving, publicPackage, privatePackage, cs, config, work),
  );
}

/** The way a joiner does the long part of its work, until a signal ends it. */
function joinersWork(signal?: AbortSignal): Work {
  const pace = slices(signal);
  return { pace, validate: (encoded, tree, context) => validateBeside(encoded, tree, context, pace, signal) };
}

async function encodeCommit({ commit, welcome, newState }: PendingCommit): Promise<Commit> {
  return {
    message: encodeMlsMessage(commit),
    groupInfo: await groupInfo(newState),
    welcome: welcome && encodeMlsMessage({ version: "mls10", wireformat: "mls_welcome", welcome }),
    next: newState,
  };
}

export const byValue = (proposal: Proposal): ProposalOrRef => ({ proposalOrRefType: "proposal", proposal });

/**
 * The rank of a proposal in a Commit: the Delivery Service's Removes, the caller's own proposals, other removals of
 * leaves, the rest. RFC 9420, section 12.4.1, prefers a Remove to an Update.
 */
const RANKS = { service: 0, own: 1, removal: 2, other: 3 };

const rankOf = ({ proposal, senderLeafIndex }: ProposalWithSender): number => {
  if (isExternalRemove(proposal, senderLeafIndex)) return RANKS.service;
  return proposal.proposalType === "remove" || isSelfRemove(proposal) ? RANKS.removal : RANKS.other;
};

/** Whether the caller may make a Commit of these proposals. */
export async function isCommittable(state: ClientState, proposals: ProposalOrRef[]): Promise<boolean> {
  try {
    const self = toLeafIndex(state.privatePath.leafIndex);
    return (await applyProposals(state, proposals, self, true, await suiteOf(state))).reinit === undefined;
  } catch {
    return false;
  }
}

/**
 * The proposals for a Commit of the caller: its own, and all wanted pending ones. If they cannot be in one Commit, or
 * this client cannot apply one, the function leaves out some, in the order of their ranks.
 */
export async function choose(
  state: ClientState,
  own: ProposalOrRef[],
  wanted: (p: Proposal, sender: number | undefined) => boolean = () => true,
): Promise<ProposalOrRef[]> {
  const usable: { rank: number; proposal: ProposalOrRef }[] = own.map((proposal) => ({ rank: RANKS.own, proposal }));
  for (const [ref, pending] of Object.entries(state.unappliedProposals)) {
    const { proposal: p, senderLeafIndex } = pending;
    const known = typeof p.proposalType === "string" || isSelfRemove(p);
    const reference = base64ToBytes(ref);
    const proposal: ProposalOrRef = { proposalOrRefType: "reference", reference };
    // Each alone first: ts-mls abandons a promise when it refuses two Adds at once.
    if (known && wanted(p, senderLeafIndex) && (await isCommittable(state, [proposal])))
      usable.push({ rank: rankOf(pending), proposal });
  }
  const all = usable.sort((a, b) => a.rank - b.rank).map(({ proposal }) => proposal);
  if (await isCommittable(state, all)) return all;
  const chosen: ProposalOrRef[] = [];
  for (const p of all) if (own.includes(p) || (await isCommittable(state, [...chosen, p]))) chosen.push(p);
  return chosen;
}

/** The leaves that pending proposals remove; on request, only those of the Delivery Service's proposals. */
export function pendingRemovals(state: ClientState, byServer = false): number[] {
  return Object.values(state.unappliedProposals).flatMap(({ proposal: p, senderLeafIndex: sender }) => {
    if (byServer && !isExternalRemove(p, sender)) return [];
    if (isSelfRemove(p)) return [sender!];
    return p.proposalType === "remove" ? [p.remove.removed] : [];
  });
}

/** Whether a pending proposal of any sender removes the caller's own leaf. */
export const removalPending = (state: ClientState): boolean =>
  pendingRemovals(state).includes(state.privatePath.leafIndex);

/** Makes the message with which the caller asks to leave: a SelfRemove if all members support it, else a Remove. */
export async function leave(state: ClientState): Promise<Uint8Array> {
  const cs = await suiteOf(state);
  const known = state.ratchetTree.every(
    (n) => n?.nodeType !== "leaf" || n.leaf.capabilities.proposals.includes(SELF_REMOVE),
  );
  if (known) return createSelfRemove(state, cs);
  const remove: Proposal = { proposalType: "remove", remove: { removed: state.privatePath.leafIndex } };
  return encodeMlsMessage((await createProposal(state, true, remove, cs)).message);
}

/** Whether a proposal is the Delivery Service's own Remove: then an external sender sent it. */
export const isExternalRemove = (p: Proposal, sender: number | undefined) =>
  p.proposalType === "remove" && sender === undefined;

const isServer = (s: ExternalSender, name: string) =>
  s.credential.credentialType === "basic" && same(s.credential.identity, utf8(name));

/**
 * The GroupContextExtensions proposal that a migration Commit needs. The target's entry replaces the source's first
 * one. Further entries of both are dropped, and the rest stays byte for byte (profile, section 5). Undefined without
 * such an entry.
 */
export function swapExternalSender(
  state: ClientState,
  source: string,
  target: string,
  entry: ExternalSender | undefined,
): Proposal | undefined {
  const { extensions } = state.groupContext;
  const senders = externalSenders(extensions);
  const first = senders.findIndex((s) => isServer(s, source));
  if (first < 0) return undefined;
  if (entry === undefined || !isServer(entry, target))
    throw new MlsRuleError("the target gave no external sender of its own");
  const swapped = senders.flatMap((s, i) =>
    i === first ? [entry] : isServer(s, source) || isServer(s, target) ? [] : [s],
  );
  const extensionData = encodeExternalSenders(swapped);
  return {
    proposalType: "group_context_extensions",
    groupContextExtensions: {
      extensions: extensions.map((e) => (e.extensionType === "external_senders" ? { ...e, extensionData } : e)),
    },
  };
}

/** Joins by a Welcome (an MLSMessage) with one of the caller's KeyPackages. */
export async function join(
  welcome: Uint8Array,
  { publicPackage, privatePackage }: OwnKeyPackage,
  fetchTree: () => Promise<Uint8Array>,
): Promise<ClientState> {
  const message = parse(welcome);
  if (message.wireformat !== "mls_welcome") throw new MlsRuleError("not a Welcome");
  const cs = await cipherSuite(ciphersuites[message.welcome.cipherSuite]);
  const by = (tree?: Uint8Array) =>
    joinGroup(message.welcome, publicPackage, privatePackage, cs, config, joinersWork(), tree);
  try {
    return await by();
  } catch (e) {
    if (!(e instanceof MlsRuleError) || e.message !== NO_TREE) throw e;
  }
  return by(await fetchTree());
}

export function parseTree(encoded: Uint8Array): RatchetTree {
  const tree = decodeRatchetTree(encoded, 0)?.[0];
  if (tree === undefined) throw new MlsRuleError("malformed ratchet tree");
  return tree;
}

/** The KeyPackages for which a Welcome is. */
export function welcomeRefs(welcome: Uint8Array): Uint8Array[] {
  const message = parse(welcome);
  return message.wireformat === "mls_welcome" ? message.welcome.secrets.map((s) => s.newMember) : [];
}

/** The epoch in which a message of a group was sent; undefined for anything else. */
export function messageEpoch(bytes: Uint8Array): bigint | undefined {
  const leaving = decodeSelfRemove(bytes);
  if (leaving !== undefined) return leaving.epoch;
  const message = parse(bytes);
  if (message.wireformat === "mls_public_message") return message.publicMessage.content.epoch;
  return message.wireformat === "mls_private_message" ? message.privateMessage.epoch : undefined;
}

/** Whether a message is encrypted, so not a handshake. */
export function isPrivate(bytes: Uint8Array): boolean {
  try {
    return parse(bytes).wireformat === "mls_private_message";
  } catch {
    return false;
  }
}

/** Whether a message is a Commit that refers to earlier proposals. */
export function refersToProposals(bytes: Uint8Array): boolean {
  const message = parse(bytes);
  if (message.wireformat !== "mls_public_message") return false;
  const { content } = message.publicMessage;
  return content.contentType === "commit" && content.commit.proposals.some((p) => p.proposalOrRefType === "reference");
}

/** The state without the proposals of its epoch. */
export const withoutProposals = (state: ClientState): ClientState => ({ ...state, unappliedProposals: {} });

/** Whether a message is of an epoch before the state's; false for anything but a message of a group. */
export function isOlder(state: ClientState, bytes: Uint8Array): boolean {
  try {
    return (messageEpoch(bytes) ?? state.groupContext.epoch) < state.groupContext.epoch;
  } catch {
    return false;
  }
}

/** The effect of a received message. */
export interface Processed {
  state: ClientState;
  /** The device that MLS authenticates as the sender; undefined if the sender is no member. */
  author: LeafIdentity | undefined;
  plaintext?: Uint8Array;
  /** The authenticated_data of a Commit. */
  committed?: Uint8Array;
}

/** Processes a received PublicMessage or PrivateMessage of the group. Throws and changes nothing if it is not valid. */
export async function process(state: ClientState, bytes: Uint8Array): Promise<Processed> {
  const cs = await suiteOf(state);
  const leaving = decodeSelfRemove(bytes);
  if (leaving !== undefined)
    return { state: await processSelfRemove(state, leaving, cs), author: deviceAt(state.ratchetTree, leaving.leaf) };
  const message = parse(bytes);
  if (message.wireformat === "mls_public_message") {
    const { publicMessage } = message;
    const { content } = publicMessage;
    const author = authorOf(state, content);
    if (content.contentType !== "commit")
      return { state: await processProposalMessage(state, publicMessage, cs), author };
    const next = await processCommit(state, publicMessage, cs, slices());
    return { state: next, author, committed: content.authenticatedData };
  }
  if (message.wireformat !== "mls_private_message") throw new MlsRuleError("not a message of the group");
  const { privateMessage } = message;
  const result = await processPrivateMessage(state, privateMessage, makePskIndex(state, {}), cs);
  if (result.kind !== "applicationMessage") throw new MlsRuleError("an encrypted handshake");
  return { state: result.newState, author: await encryptedBy(state, privateMessage, cs), plaintext: result.message };
}

/** The sender of a PublicMessage. It is certain only once the message is processed. */
function authorOf(state: ClientState, content: FramedContent): LeafIdentity | undefined {
  const { sender } = content;
  if (sender.senderType === "member") return deviceAt(state.ratchetTree, sender.leafIndex);
  const joined = content.contentType === "commit" ? content.commit.path?.leafNode : undefined;
  return joined && identityOf(joined.credential);
}

/** The sender of a PrivateMessage, also from a former epoch. It is certain only once the message is processed. */
async function encryptedBy(state: ClientState, message: PrivateMessage, cs: CiphersuiteImpl) {
  const former = message.epoch < state.groupContext.epoch ? state.historicalReceiverData.get(message.epoch) : undefined;
  const { senderDataSecret } = former ?? state.keySchedule;
  const sender = await decryptSenderData(message, senderDataSecret, cs);
  return sender && deviceAt((former ?? state).ratchetTree, sender.leafIndex);
}

function deviceAt(tree: RatchetTree, leaf: number): LeafIdentity | undefined {
  const node = tree[2 * leaf];
  return node?.nodeType === "leaf" ? identityOf(node.leaf.credential) : undefined;
}

/**
 * Encrypts application data (a PrivateMessage, as an MLSMessage). The caller must keep the new state before it sends
 * the message. The caller has committed the pending proposals first (RFC 9420, section 12.4), except those that nobody
 * can commit.
 */
export async function encrypt(
  state: ClientState,
  plaintext: Uint8Array,
): Promise<{ state: ClientState; message: Uint8Array }> {
  const cs = await suiteOf(state);
  const { newState, privateMessage } = await createApplicationMessage(withoutProposals(state), plaintext, cs);
  return {
    state: { ...newState, unappliedProposals: state.unappliedProposals },
    message: encodeMlsMessage({ version: "mls10", wireformat: "mls_private_message", privateMessage }),
  };
}

/** Signs with the group's scheme and the caller's leaf key (RFC 9420, section 5.1.2: SignWithLabel). */
export async function sign(state: ClientState, label: string, content: Uint8Array): Promise<Uint8Array> {
  return signWithLabel(state.signaturePrivateKey, label, content, (await suiteOf(state)).signature);
}

/** MLS-Exporter of the state's epoch (RFC 9420, section 8.5). length is in bytes. */
export async function exportSecret(
  state: ClientState,
  label: string,
  context: Uint8Array,
  length: number,
): Promise<Uint8Array> {
  return mlsExporter(state.keySchedule.exporterSecret, label, context, length, await suiteOf(state));
}

export const members = (state: ClientState): Member[] => membersOf(state.ratchetTree);

function membersOf(tree: RatchetTree): Member[] {
  return tree.flatMap((node, i) => {
    if (node?.nodeType !== "leaf") return [];
    const identity = identityOf(node.leaf.credential);
    return identity === undefined ? [] : [{ leaf: i / 2, ...identity, signatureKey: node.leaf.signaturePublicKey }];
  });
}

/** The state of an epoch, keys included, without its trees and without former epochs. */
export const encodeState = (state: ClientState): Uint8Array =>
  encodeGroupStateWithoutTree({ ...state, secretTree: [], historicalReceiverData: new Map() });

/** The state that encodeState has encoded. */
export const decodeState = (saved: Uint8Array) => whole(decodeGroupStateWithoutTree([])(saved, 0));

export const encodeTree: (tree: RatchetTree) => Uint8Array = encodeRatchetTree;

/** A piece of a secret tree. */
export const encodeSecrets: (nodes: SecretTree) => Uint8Array = encoder(secretTreeEncoder);

export const decodeSecrets = (saved: Uint8Array): SecretTree => whole(decodeSecretTree(saved, 0));

/** The keys of a former epoch without its trees. */
export const encodeEpoch: (epoch: EpochReceiverData) => Uint8Array = encoder(
  contramapBufferEncoders(
    [varLenDataEncoder, varLenDataEncoder, groupContextEncoder],
    ({ resumptionPsk, senderDataSecret, groupContext }: EpochReceiverData) =>
      [resumptionPsk, senderDataSecret, groupContext] as const,
  ),
);

const epochDecoder = mapDecoders(
  [decodeVarLenData, decodeVarLenData, decodeGroupContext],
  (resumptionPsk, senderDataSecret, groupContext) => ({ resumptionPsk, senderDataSecret, groupContext }),
);

export const decodeEpoch = (saved: Uint8Array) => whole(epochDecoder(saved, 0));

/** The value that a decoder has found in a record. */
function whole<T>(found: [T, number] | undefined): T {
  if (found === undefined) throw new MlsRuleError("a malformed record");
  return found[0];
}

/** A KeyPackage with its private keys as text. */
export const saveKeyPackage = (own: OwnKeyPackage): string[] =>
  [
    encodeKeyPackage(own.publicPackage),
    own.privatePackage.initPrivateKey,
    own.privatePackage.hpkePrivateKey,
    own.privatePackage.signaturePrivateKey,
  ].map(toBase64);

export function loadKeyPackage(saved: string[]): OwnKeyPackage {
  const [message, initPrivateKey, hpkePrivateKey, signaturePrivateKey] = saved.map(fromBase64);
  const { keyPackage: publicPackage } = parseKeyPackage(message!);
  return {
    publicPackage,
    privatePackage: {
      initPrivateKey: initPrivateKey!,
      hpkePrivateKey: hpkePrivateKey!,
      signaturePrivateKey: signaturePrivateKey!,
    },
  };
}
