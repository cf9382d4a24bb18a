// ts-mls 1.6.4 makes a Commit of GroupContextExtensions alone without a path, which section 17.4 of RFC 9420 requires for
// that type, and encrypts a path beside one for the old extensions. RFC 9420, section 12.4.1: "If the path field is required
// based on the proposals that are in the Commit (see above), then it MUST be populated. Otherwise, the sender MAY omit the
// path field at its discretion", and of the provisional GroupContext: "extensions: The new GroupContext extensions
// (possibly updated by a GroupContextExtensions proposal)". Every Commit made here has a path.
import {
  type CiphersuiteImpl,
  type ClientState,
  makePskIndex,
  type MLSMessage,
  type ProposalOrRef,
  type Welcome,
} from "ts-mls";
import { addHistoricalReceiverData, applyProposals, nextEpochContext } from "ts-mls/clientState.js";
import { createGroupInfo } from "ts-mls/createCommit.js";
import type { Extension } from "ts-mls/extension.js";
import { createConfirmationTag, createContentCommitSignature } from "ts-mls/framedContent.js";
import { makeKeyPackageRef } from "ts-mls/keyPackage.js";
import { initializeEpoch } from "ts-mls/keySchedule.js";
import { protectPublicMessage } from "ts-mls/messageProtectionPublic.js";
import { getCommitSecret, pathToPathSecrets } from "ts-mls/pathSecrets.js";
import { mergePrivateKeyPaths, toPrivateKeyPath, updateLeafKey } from "ts-mls/privateKeyPath.js";
import { encodeRatchetTree } from "ts-mls/ratchetTree.js";
import { createSecretTree } from "ts-mls/secretTree.js";
import { treeHashRoot } from "ts-mls/treeHash.js";
import { leafToNodeIndex, leafWidth, toLeafIndex, toNodeIndex } from "ts-mls/treemath.js";
import { createUpdatePath, firstCommonAncestor } from "ts-mls/updatePath.js";
import { encryptGroupInfo, encryptGroupSecrets } from "ts-mls/welcome.js";
import { inCommit, named } from "./external-senders.js";
import { must } from "./rules.js";

/** A Commit before the Delivery Service has accepted it, and the state that it leads to. */
export interface PendingCommit {
  commit: MLSMessage;
  welcome: Welcome | undefined;
  newState: ClientState;
}

/** createCommit with a path, as a PublicMessage (RFC 9420, section 12.4.1). The Welcome carries the ratchet tree. */
export async function createCommit(
  state: ClientState,
  given: ProposalOrRef[],
  authenticatedData: Uint8Array,
  cs: CiphersuiteImpl,
): Promise<PendingCommit> {
  const { groupContext, privatePath, signaturePrivateKey: signKey, keySchedule } = state;
  const self = toLeafIndex(privatePath.leafIndex);
  const proposals = given.map(inCommit);
  const applied = await applyProposals(state, proposals, self, makePskIndex(state, {}), true, cs);
  must(applied.additionalResult.kind === "memberCommit", "not an ordinary Commit");
  const { addedLeafNodes: added, extensions } = applied.additionalResult;
  const provisional = extensions.length > 0 ? { ...groupContext, extensions } : groupContext;

  const newLeaves = added.map(([leaf]) => leafToNodeIndex(leaf));
  const [tree, path, secrets, leafKey] = await createUpdatePath(
    applied.tree,
    self,
    provisional,
    signKey,
    cs,
    newLeaves,
  );
  const last = secrets.at(-1);
  const commitSecret =
    last === undefined
      ? new Uint8Array(cs.kdf.size)
      : await getCommitSecret(tree, toNodeIndex(last.nodeIndex), last.secret, cs.kdf);
  const { framedContent, signature } = await createContentCommitSignature(
    groupContext,
    "mls_public_message",
    { proposals, path },
    { senderType: "member", leafIndex: self },
    authenticatedData,
    signKey,
    cs.signature,
  );
  const next = await nextEpochContext(
    provisional,
    "mls_public_message",
    framedContent,
    signature,
    await treeHashRoot(tree, cs.hash),
    state.confirmationTag,
    cs.hash,
  );
  const epoch = await initializeEpoch(keySchedule.initSecret, commitSecret, next, applied.pskSecret, cs.kdf);
  const confirmationTag = await createConfirmationTag(
    epoch.keySchedule.confirmationKey,
    next.confirmedTranscriptHash,
    cs.hash,
  );

  const publicMessage = await protectPublicMessage(
    keySchedule.membershipKey,
    groupContext,
    {
      wireformat: "mls_public_message",
      content: framedContent,
      auth: { contentType: "commit", signature, confirmationTag },
    },
    cs,
  );
  const ownKeys = updateLeafKey(privatePath, await cs.hpke.exportPrivateKey(leafKey));
  const newState = named({
    ...state,
    groupContext: next,
    ratchetTree: tree,
    keySchedule: epoch.keySchedule,
    confirmationTag,
    secretTree: await createSecretTree(leafWidth(tree.length), epoch.encryptionSecret, cs.kdf),
    privatePath: mergePrivateKeyPaths(ownKeys, await toPrivateKeyPath(pathToPathSecrets(secrets), self, cs)),
    unappliedProposals: {},
    historicalReceiverData: addHistoricalReceiverData(state)[0],
  });

  const treeExtension: Extension = { extensionType: "ratchet_tree", extensionData: encodeRatchetTree(tree) };
  const info = await createGroupInfo(next, confirmationTag, state, [treeExtension], cs);
  const encryptedGroupInfo = await encryptGroupInfo(info, epoch.welcomeSecret, cs);
  const invite = async ([leaf, kp]: (typeof added)[number]) => {
    const ancestor = firstCommonAncestor(tree, leaf, self);
    const pathSecret = secrets.find((s) => s.nodeIndex === ancestor)?.secret;
    const { enc, ct } = await encryptGroupSecrets(
      await cs.hpke.importPublicKey(kp.initKey),
      encryptedGroupInfo,
      { joinerSecret: epoch.joinerSecret, pathSecret, psks: applied.pskIds },
      cs.hpke,
    );
    return {
      newMember: await makeKeyPackageRef(kp, cs.hash),
      encryptedGroupSecrets: { kemOutput: enc, ciphertext: ct },
    };
  };
  const welcome =
    added.length === 0
      ? undefined
      : { cipherSuite: next.cipherSuite, secrets: await Promise.all(added.map(invite)), encryptedGroupInfo };
  return { commit: { version: "mls10", wireformat: "mls_public_message", publicMessage }, welcome, newState };
}
