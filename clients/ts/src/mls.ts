// A device's view of MLS: identities, KeyPackages, Commits and the state of a group, on ts-mls.
import {
  ciphersuites,
  createApplicationMessage,
  createGroupInfoWithExternalPub,
  decodeGroupState,
  decodeMlsMessage,
} from "ts-mls";
import { encodeGroupState, encodeMlsMessage, generateKeyPackageWithKey } from "ts-mls";
import { getCiphersuiteFromName, getCiphersuiteImpl, makePskIndex, processPrivateMessage } from "ts-mls";
import type { CiphersuiteImpl, CiphersuiteName, ClientConfig, ClientState, Credential, ExternalSender } from "ts-mls";
import type { KeyPackage, MLSMessage, PrivateKeyPackage, Proposal, ProposalOrRef, RatchetTree } from "ts-mls";
import { defaultClientConfig } from "ts-mls/clientConfig.js";
import { signWithLabel } from "ts-mls/crypto/signature.js";
import type { Extension } from "ts-mls/extension.js";
import { makeKeyPackageRef } from "ts-mls/keyPackage.js";
import { decodeRatchetTree, encodeRatchetTree } from "ts-mls/ratchetTree.js";
import { toLeafIndex } from "ts-mls/treemath.js";
import { createCommit, type PendingCommit } from "./corrections/commit.js";
import { createExternalCommit } from "./corrections/external-commit.js";
import {
  createGroup,
  encodeExternalSenders,
  externalSenders,
  processHandshake,
} from "./corrections/external-senders.js";
import { joinGroup, NO_TREE } from "./corrections/join.js";
import { MlsRuleError } from "./corrections/rules.js";
import { decode, encode, fromBase64, leafIdentity, type LeafIdentity, toBase64 } from "./wire.js";

/** The cipher suites that ts-mls speaks as RFC 9420 has them. */
const suiteNames: Record<number, CiphersuiteName> = {
  1: "MLS_128_DHKEMX25519_AES128GCM_SHA256_Ed25519",
  3: "MLS_128_DHKEMX25519_CHACHA20POLY1305_SHA256_Ed25519",
};

const KEY_PACKAGE_DAYS = 90n;
const DAY = 86_400n;

/** A device and the key that signs for its leaves. */
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

/** A Commit as the Delivery Service takes it, and the state it leads to once accepted. Byte fields are MLSMessages. */
export interface Commit {
  message: Uint8Array;
  groupInfo: Uint8Array;
  welcome: Uint8Array | undefined;
  next: ClientState;
}

export interface Member extends LeafIdentity {
  leaf: number;
}

function identityOf(credential: Credential): LeafIdentity | undefined {
  try {
    return credential.credentialType === "basic" ? decode(leafIdentity, credential.identity) : undefined;
  } catch {
    return undefined;
  }
}

const config: ClientConfig = {
  ...defaultClientConfig,
  authService: { validateCredential: async (credential) => identityOf(credential) !== undefined },
};

/** The primitives of a suite, 1 or 3. */
export function cipherSuite(id: number): Promise<CiphersuiteImpl> {
  const name = suiteNames[id];
  if (name === undefined) throw new Error(`cipher suite ${id} is not supported`);
  return getCiphersuiteImpl(getCiphersuiteFromName(name));
}

/** The number of a group's suite (RFC 9420, section 17.1). */
export const suiteId = (state: ClientState): number => ciphersuites[state.groupContext.cipherSuite];

const suiteOf = (state: ClientState) => cipherSuite(suiteId(state));

export async function newIdentity(device: LeafIdentity, suite: number): Promise<Identity> {
  const { signature } = await cipherSuite(suite);
  return { ...device, suite, ...(await signature.keygen()) };
}

/** A fresh KeyPackage, valid from a day before now (seconds since 1970), for clocks that are behind. */
export async function newKeyPackage(identity: Identity, now: bigint): Promise<OwnKeyPackage> {
  const capabilities = {
    versions: ["mls10" as const],
    ciphersuites: [suiteNames[identity.suite]!],
    extensions: [],
    proposals: [],
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

/** KeyPackageRef, by which a Welcome names the KeyPackage it is for. */
export async function keyPackageRef(kp: KeyPackage): Promise<Uint8Array> {
  return makeKeyPackageRef(kp, (await cipherSuite(ciphersuites[kp.cipherSuite])).hash);
}

/** Decodes one MLSMessage; an MlsRuleError for anything that would not be encoded identically. */
export function parse(bytes: Uint8Array): MLSMessage {
  let message: MLSMessage | undefined;
  try {
    message = decodeMlsMessage(bytes, 0)?.[0];
  } catch (e) {
    throw new MlsRuleError(`malformed MLSMessage: ${e}`);
  }
  if (message === undefined || Buffer.compare(encodeMlsMessage(message), bytes) !== 0)
    throw new MlsRuleError("malformed MLSMessage");
  return message;
}

/** The KeyPackage in an MLSMessage, and the device it says it is for. */
export function parseKeyPackage(bytes: Uint8Array): { keyPackage: KeyPackage; device: LeafIdentity } {
  const message = parse(bytes);
  const device =
    message.wireformat === "mls_key_package" ? identityOf(message.keyPackage.leafNode.credential) : undefined;
  if (message.wireformat !== "mls_key_package" || device === undefined)
    throw new MlsRuleError("not a KeyPackage of a device");
  return { keyPackage: message.keyPackage, device };
}

/** A KeyPackage as an MLSMessage. */
export function encodeKeyPackage(keyPackage: KeyPackage): Uint8Array {
  return encodeMlsMessage({ version: "mls10", wireformat: "mls_key_package", keyPackage });
}

/** A new group of one, at epoch 0. sender is the Delivery Service's entry in external_senders. */
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
  const info = await createGroupInfoWithExternalPub(state, [], await suiteOf(state));
  return encodeMlsMessage({ version: "mls10", wireformat: "mls_group_info", groupInfo: info });
}

/** What names a group's epoch among all that it could have come to: the confirmed transcript hash, in hexadecimal. */
export const transcript = (state: ClientState): string =>
  Buffer.from(state.groupContext.confirmedTranscriptHash).toString("hex");

export const ratchetTree = (state: ClientState): Uint8Array => encodeRatchetTree(state.ratchetTree);

/** Makes a Commit of by-reference and by-value proposals. The given state stays the group's until it is accepted. */
export async function commit(
  state: ClientState,
  proposals: ProposalOrRef[],
  authenticatedData: Uint8Array = new Uint8Array(),
): Promise<Commit> {
  return encodeCommit(await createCommit(state, proposals, authenticatedData, await suiteOf(state)));
}

/** Makes an external Commit by which a device enters a group, in place of its former leaf if it has one there. */
export async function externalCommit(
  identity: Identity,
  info: Uint8Array,
  encodedTree: Uint8Array,
  now: bigint,
): Promise<Commit> {
  const message = parse(info);
  if (message.wireformat !== "mls_group_info") throw new MlsRuleError("not a GroupInfo");
  const tree = parseTree(encodedTree);
  const former = membersOf(tree).find((m) => m.userId === identity.userId && m.deviceId === identity.deviceId);
  const own = await newKeyPackage(identity, now);
  const cs = await cipherSuite(identity.suite);
  const { publicPackage, privatePackage } = own;
  const leaf = former && toLeafIndex(former.leaf);
  return encodeCommit(
    await createExternalCommit(message.groupInfo, tree, leaf, publicPackage, privatePackage, cs, config),
  );
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

/** References to the wanted pending proposals that the caller may commit: no own Updates, Removes of itself or conflicts. */
export function pendingProposals(
  state: ClientState,
  wanted: (p: Proposal, sender: number | undefined) => boolean = () => true,
): ProposalOrRef[] {
  const self = state.privatePath.leafIndex;
  const touched = new Set([self]);
  const rank = (p: Proposal) => (p.proposalType === "remove" ? 0 : 1); // RFC 9420, 12.4.1: prefer a Remove to an Update
  return Object.entries(state.unappliedProposals)
    .sort(([, a], [, b]) => rank(a.proposal) - rank(b.proposal))
    .filter(([, { proposal, senderLeafIndex: sender }]) => {
      if (!wanted(proposal, sender)) return false;
      const leaf =
        proposal.proposalType === "remove"
          ? proposal.remove.removed
          : proposal.proposalType === "update"
            ? sender
            : undefined;
      if (leaf === undefined) return true;
      return touched.size < touched.add(leaf).size;
    })
    .map(([ref]) => ({ proposalOrRefType: "reference", reference: new Uint8Array(Buffer.from(ref, "base64")) }));
}

/** The leaves that pending proposals remove. */
export function pendingRemovals(state: ClientState): number[] {
  return Object.values(state.unappliedProposals).flatMap(({ proposal: p }) =>
    p.proposalType === "remove" ? [p.remove.removed] : [],
  );
}

/** Whether a pending Remove, by anybody, is for the caller's own leaf. */
export const removalPending = (state: ClientState): boolean =>
  pendingRemovals(state).includes(state.privatePath.leafIndex);

/** A proposal is the Delivery Service's own Remove when an external sender sent it. */
export const isExternalRemove = (p: Proposal, sender: number | undefined) =>
  p.proposalType === "remove" && sender === undefined;

const isServer = (s: ExternalSender, name: string) =>
  s.credential.credentialType === "basic" && Buffer.compare(s.credential.identity, Buffer.from(name)) === 0;

/**
 * The GroupContextExtensions proposal that a migration Commit needs: the target's entry takes the place of the source's
 * first one, further entries of both go, the rest stays byte for byte (profile, section 5). Undefined without such an entry.
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
  own: OwnKeyPackage,
  fetchTree: () => Promise<Uint8Array>,
): Promise<ClientState> {
  const message = parse(welcome);
  if (message.wireformat !== "mls_welcome") throw new MlsRuleError("not a Welcome");
  const cs = await cipherSuite(ciphersuites[message.welcome.cipherSuite]);
  try {
    return await joinGroup(message.welcome, own.publicPackage, own.privatePackage, cs, config);
  } catch (e) {
    if (!(e instanceof MlsRuleError) || e.message !== NO_TREE) throw e;
  }
  const tree = parseTree(await fetchTree());
  return joinGroup(message.welcome, own.publicPackage, own.privatePackage, cs, config, tree);
}

function parseTree(encoded: Uint8Array): RatchetTree {
  const tree = decodeRatchetTree(encoded, 0)?.[0];
  if (tree === undefined) throw new MlsRuleError("malformed ratchet tree");
  return tree;
}

/** Which KeyPackages a Welcome is for. */
export function welcomeRefs(welcome: Uint8Array): Uint8Array[] {
  const message = parse(welcome);
  return message.wireformat === "mls_welcome" ? message.welcome.secrets.map((s) => s.newMember) : [];
}

/** The epoch that a message of a group was sent in; undefined for what is no such message. */
export function messageEpoch(bytes: Uint8Array): bigint | undefined {
  const message = parse(bytes);
  if (message.wireformat === "mls_public_message") return message.publicMessage.content.epoch;
  return message.wireformat === "mls_private_message" ? message.privateMessage.epoch : undefined;
}

/** Whether a message is encrypted, and so no handshake. */
export function isPrivate(bytes: Uint8Array): boolean {
  try {
    return parse(bytes).wireformat === "mls_private_message";
  } catch {
    return false;
  }
}

/** Whether a message is a Commit that refers to proposals sent before it. */
export function refersToProposals(bytes: Uint8Array): boolean {
  const message = parse(bytes);
  if (message.wireformat !== "mls_public_message") return false;
  const { content } = message.publicMessage;
  return content.contentType === "commit" && content.commit.proposals.some((p) => p.proposalOrRefType === "reference");
}

/** The state without the proposals of its epoch. */
export const withoutProposals = (state: ClientState): ClientState => ({ ...state, unappliedProposals: {} });

/** Whether a message is of an epoch before the state's; false for what is no message of a group. */
export function isOlder(state: ClientState, bytes: Uint8Array): boolean {
  try {
    return (messageEpoch(bytes) ?? state.groupContext.epoch) < state.groupContext.epoch;
  } catch {
    return false;
  }
}

/** What a received message did. */
export interface Processed {
  state: ClientState;
  plaintext?: Uint8Array;
  /** The authenticated_data of a Commit. */
  committed?: Uint8Array;
}

/** Processes a received PublicMessage or PrivateMessage of the group; throws and changes nothing when it is not valid. */
export async function process(state: ClientState, bytes: Uint8Array): Promise<Processed> {
  const message = parse(bytes);
  const cs = await suiteOf(state);
  if (message.wireformat === "mls_public_message") {
    const { content } = message.publicMessage;
    const next = await processHandshake(state, message.publicMessage, cs);
    return content.contentType === "commit" ? { state: next, committed: content.authenticatedData } : { state: next };
  }
  if (message.wireformat !== "mls_private_message") throw new MlsRuleError("not a message of the group");
  const result = await processPrivateMessage(state, message.privateMessage, makePskIndex(state, {}), cs);
  if (result.kind !== "applicationMessage") throw new MlsRuleError("an encrypted handshake");
  return { state: result.newState, plaintext: result.message };
}

/** Encrypts application data (a PrivateMessage, as an MLSMessage). The new state must be kept before the message is sent. */
export async function encrypt(
  state: ClientState,
  plaintext: Uint8Array,
): Promise<{ state: ClientState; message: Uint8Array }> {
  const { newState, privateMessage } = await createApplicationMessage(state, plaintext, await suiteOf(state));
  return {
    state: newState,
    message: encodeMlsMessage({ version: "mls10", wireformat: "mls_private_message", privateMessage }),
  };
}

/** Signs by the group's scheme with the caller's leaf key (RFC 9420, section 5.1.2: SignWithLabel). */
export async function sign(state: ClientState, label: string, content: Uint8Array): Promise<Uint8Array> {
  return signWithLabel(state.signaturePrivateKey, label, content, (await suiteOf(state)).signature);
}

export const members = (state: ClientState): Member[] => membersOf(state.ratchetTree);

function membersOf(tree: RatchetTree): Member[] {
  return tree.flatMap((node, i) => {
    const identity = node?.nodeType === "leaf" ? identityOf(node.leaf.credential) : undefined;
    return identity === undefined ? [] : [{ leaf: i / 2, ...identity }];
  });
}

/** A group's state as text, secrets included. */
export const saveState = (state: ClientState): string => toBase64(encodeGroupState(state));

export function loadState(saved: string): ClientState {
  const state = decodeGroupState(fromBase64(saved), 0)?.[0];
  if (state === undefined) throw new MlsRuleError("malformed saved state");
  return { ...state, clientConfig: config };
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
