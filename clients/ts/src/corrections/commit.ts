// ts-mls 1.6.4 makes a Commit of GroupContextExtensions alone without a path, which section 17.4 of RFC 9420 requires
// for that type, and encrypts a path beside one for the old extensions. RFC 9420, section 12.4.1: "If the path field is
// required based on the proposals that are in the Commit (see above), then it MUST be populated. Otherwise, the sender
// MAY omit the path field at its discretion", and of the provisional GroupContext: "extensions: The new GroupContext
// extensions (possibly updated by a GroupContextExtensions proposal)". Every Commit made here has a path.
import type { CiphersuiteImpl, ClientState, GroupContext, KeyPackage, MLSMessage } from "ts-mls";
import type { ProposalOrRef, RatchetTree, Welcome } from "ts-mls";
import { addHistoricalReceiverData, nextEpochContext } from "ts-mls/clientState.js";
import type { Commit } from "ts-mls/commit.js";
import { createGroupInfo } from "ts-mls/createCommit.js";
import type { Extension } from "ts-mls/extension.js";
import { createConfirmationTag, createContentCommitSignature } from "ts-mls/framedContent.js";
import { makeKeyPackageRef } from "ts-mls/keyPackage.js";
import { type EpochSecrets, initializeEpoch } from "ts-mls/keySchedule.js";
import { protectPublicMessage } from "ts-mls/messageProtectionPublic.js";
import { getCommitSecret, pathToPathSecrets } from "ts-mls/pathSecrets.js";
import { mergePrivateKeyPaths, type PrivateKeyPath, toPrivateKeyPath, updateLeafKey } from "ts-mls/privateKeyPath.js";
import { encodeRatchetTree } from "ts-mls/ratchetTree.js";
import type { Sender } from "ts-mls/sender.js";
import { type LeafIndex, leafWidth, toLeafIndex, toNodeIndex } from "ts-mls/treemath.js";
import { firstCommonAncestor, type PathSecret } from "ts-mls/updatePath.js";
import { encryptGroupInfo, encryptGroupSecrets } from "ts-mls/welcome.js";
import type { Pace } from "../pace.js";
import { applyProposals } from "./proposals.js";
import { must } from "./rules.js";
import { createSecretTree } from "./secret-tree.js";
import { createUpdatePath } from "./update-path.js";

/** A Commit that the Delivery Service has not accepted yet, and the next state. */
export interface PendingCommit {
  commit: MLSMessage;
  welcome: Welcome | undefined;
  newState: ClientState;
}

/** The start of a Commit, and the effect of its proposals. */
export interface Basis {
  context: GroupContext;
  confirmationTag: Uint8Array;
  signKey: Uint8Array;
  sender: Sender;
  self: LeafIndex;
  /** The tree and the extensions with the proposals applied. */
  tree: RatchetTree;
  extensions: Extension[];
  /** The new leaves. The Welcome has their path secrets. */
  newLeaves: LeafIndex[];
  initSecret: Uint8Array;
  pskSecret: Uint8Array;
  /** None if the sender is no member. */
  membershipKey: Uint8Array;
  /** The private keys known so far. */
  keys: PrivateKeyPath;
}

export interface Concluded {
  commit: MLSMessage;
  secrets: PathSecret[];
  epoch: EpochSecrets;
  /** The part of the next state that follows from the Commit. */
  next: Pick<
    ClientState,
    "groupContext" | "ratchetTree" | "keySchedule" | "confirmationTag" | "secretTree" | "privatePath"
  >;
}

/** Gives the sender a new path, signs, enters the next epoch and frames the Commit, for members and joiners. */
export async function conclude(
  b: Basis,
  proposals: ProposalOrRef[],
  aad: Uint8Array,
  cs: CiphersuiteImpl,
  pace: Pace,
): Promise<Concluded> {
  const provisional = { ...b.context, extensions: b.extensions };
  const made = await createUpdatePath(b.tree, b.self, provisional, b.signKey, cs, b.newLeaves, pace);
  const { tree, treeHash, path, secrets, leafKey } = made;
  const commit: Commit = { proposals, path };
  const { framedContent: content, signature } = await createContentCommitSignature(
    b.context,
    "mls_public_message",
    commit,
    b.sender,
    aad,
    b.signKey,
    cs.signature,
  );
  const { confirmationTag: tag } = b;
  const context = await nextEpochContext(provisional, "mls_public_message", content, signature, treeHash, tag, cs.hash);
  const commitSecret = await commitSecretOf(tree, secrets, cs);
  const epoch = await initializeEpoch(b.initSecret, commitSecret, context, b.pskSecret, cs.kdf);
  const { keySchedule, encryptionSecret } = epoch;
  const transcript = context.confirmedTranscriptHash;
  const confirmationTag = await createConfirmationTag(keySchedule.confirmationKey, transcript, cs.hash);
  const auth = { contentType: "commit" as const, signature, confirmationTag };
  const framed = { wireformat: "mls_public_message" as const, content, auth };
  const publicMessage = await protectPublicMessage(b.membershipKey, b.context, framed, cs);
  const ownKeys = updateLeafKey(b.keys, await cs.hpke.exportPrivateKey(leafKey));
  return {
    commit: { version: "mls10", wireformat: "mls_public_message", publicMessage },
    secrets,
    epoch,
    next: {
      groupContext: context,
      ratchetTree: tree,
      keySchedule,
      confirmationTag,
      secretTree: await createSecretTree(leafWidth(tree.length), encryptionSecret, pace),
      privatePath: mergePrivateKeyPaths(ownKeys, await toPrivateKeyPath(pathToPathSecrets(secrets), b.self, cs)),
    },
  };
}

async function commitSecretOf(tree: RatchetTree, secrets: PathSecret[], cs: CiphersuiteImpl): Promise<Uint8Array> {
  const last = secrets.at(-1);
  if (last === undefined) return new Uint8Array(cs.kdf.size);
  return getCommitSecret(tree, toNodeIndex(last.nodeIndex), last.secret, cs.kdf);
}

/** createCommit with a path, as a PublicMessage (RFC 9420, section 12.4.1). The Welcome carries the ratchet tree. */
export async function createCommit(
  state: ClientState,
  proposals: ProposalOrRef[],
  authenticatedData: Uint8Array,
  cs: CiphersuiteImpl,
  pace: Pace,
): Promise<PendingCommit> {
  const self = toLeafIndex(state.privatePath.leafIndex);
  const { tree, extensions, added, pskSecret, joiner, reinit } = await applyProposals(state, proposals, self, true, cs);
  must(joiner === undefined && reinit === undefined, "not an ordinary Commit");
  const basis: Basis = {
    context: state.groupContext,
    confirmationTag: state.confirmationTag,
    signKey: state.signaturePrivateKey,
    sender: { senderType: "member", leafIndex: self },
    self,
    tree,
    extensions,
    newLeaves: added.map(([leaf]) => leaf),
    initSecret: state.keySchedule.initSecret,
    pskSecret,
    membershipKey: state.keySchedule.membershipKey,
    keys: state.privatePath,
  };
  const concluded = await conclude(basis, proposals, authenticatedData, cs, pace);
  const [historicalReceiverData] = addHistoricalReceiverData(state);
  const newState = { ...state, ...concluded.next, unappliedProposals: {}, historicalReceiverData };
  const welcome = added.length === 0 ? undefined : await createWelcome(newState, concluded, added, cs);
  return { commit: concluded.commit, welcome, newState };
}

/** The Welcome for the leaves that a Commit without PSKs adds (RFC 9420, section 12.4.3.1). */
async function createWelcome(
  state: ClientState,
  { epoch, secrets }: Concluded,
  added: [LeafIndex, KeyPackage][],
  cs: CiphersuiteImpl,
): Promise<Welcome> {
  const { groupContext, confirmationTag, ratchetTree: tree } = state;
  const treeExtension: Extension = { extensionType: "ratchet_tree", extensionData: encodeRatchetTree(tree) };
  const info = await createGroupInfo(groupContext, confirmationTag, state, [treeExtension], cs);
  const encryptedGroupInfo = await encryptGroupInfo(info, epoch.welcomeSecret, cs);
  const invite = async ([leaf, kp]: [LeafIndex, KeyPackage]) => {
    const ancestor = firstCommonAncestor(tree, leaf, toLeafIndex(state.privatePath.leafIndex));
    const pathSecret = secrets.find((s) => s.nodeIndex === ancestor)?.secret;
    const initKey = await cs.hpke.importPublicKey(kp.initKey);
    const groupSecrets = { joinerSecret: epoch.joinerSecret, pathSecret, psks: [] };
    const { enc, ct } = await encryptGroupSecrets(initKey, encryptedGroupInfo, groupSecrets, cs.hpke);
    const newMember = await makeKeyPackageRef(kp, cs.hash);
    return { newMember, encryptedGroupSecrets: { kemOutput: enc, ciphertext: ct } };
  };
  return { cipherSuite: groupContext.cipherSuite, secrets: await Promise.all(added.map(invite)), encryptedGroupInfo };
}
