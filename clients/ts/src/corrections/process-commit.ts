// processPublicMessage of ts-mls 1.6.4 for a Commit, on the corrected applyProposals (see proposals.ts).
import type { CiphersuiteImpl, ClientState, GroupContext, PublicMessage, RatchetTree, UpdatePath } from "ts-mls";
import { addHistoricalReceiverData, nextEpochContext, throwIfDefined } from "ts-mls/clientState.js";
import { validateLeafNodeCredentialAndKeyUniqueness, validateLeafNodeUpdateOrCommit } from "ts-mls/clientState.js";
import { applyUpdatePathSecret } from "ts-mls/createCommit.js";
import { deriveSecret } from "ts-mls/crypto/kdf.js";
import { verifyConfirmationTag } from "ts-mls/framedContent.js";
import { initializeEpoch } from "ts-mls/keySchedule.js";
import { unprotectPublicMessage } from "ts-mls/messageProtectionPublic.js";
import { pathToRoot } from "ts-mls/pathSecrets.js";
import { mergePrivateKeyPaths, type PrivateKeyPath, toPrivateKeyPath } from "ts-mls/privateKeyPath.js";
import { addLeafNode } from "ts-mls/ratchetTree.js";
import { type LeafIndex, leafToNodeIndex, leafWidth, root, toLeafIndex, toNodeIndex } from "ts-mls/treemath.js";
import type { Pace } from "../pace.js";
import { type Applied, applyProposals } from "./proposals.js";
import { must } from "./rules.js";
import { createSecretTree } from "./secret-tree.js";
import { treeHasher } from "./tree-hash.js";
import { applyUpdatePath } from "./update-path.js";

/** The next state after a received Commit (RFC 9420, section 12.4.2). Throws if the Commit is not valid. */
export async function processCommit(
  state: ClientState,
  message: PublicMessage,
  cs: CiphersuiteImpl,
  pace: Pace,
): Promise<ClientState> {
  const { groupContext, keySchedule, ratchetTree, clientConfig } = state;
  must(message.content.epoch === groupContext.epoch, "not the current epoch");
  const { membershipKey } = keySchedule;
  const { content, auth } = await unprotectPublicMessage(membershipKey, groupContext, ratchetTree, message, cs);
  must(content.contentType === "commit" && auth.contentType === "commit", "not a Commit");
  const { path, proposals } = content.commit;
  const sender = content.sender.senderType === "member" ? toLeafIndex(content.sender.leafIndex) : undefined;
  const applied = await applyProposals(state, proposals, sender, false, cs);
  const committer = sender ?? applied.joiner?.leaf;
  must(committer !== undefined, "a Commit of nobody");
  must(path !== undefined || !applied.pathRequired, "the Commit has no path");
  if (path !== undefined) {
    const { leafNode } = path;
    const { authService } = clientConfig;
    throwIfDefined(await validateLeafNodeUpdateOrCommit(leafNode, committer, groupContext, authService, cs.signature));
    throwIfDefined(await validateLeafNodeCredentialAndKeyUniqueness(applied.tree, leafNode, committer));
  }
  if (applied.removed) {
    const groupActiveState = { kind: "removedFromGroup" as const };
    return { ...state, ratchetTree: applied.tree, unappliedProposals: {}, groupActiveState };
  }
  const provisional = { ...groupContext, extensions: applied.extensions };
  const { tree, keys, commitSecret } =
    path === undefined
      ? { tree: applied.tree, keys: state.privatePath, commitSecret: new Uint8Array(cs.kdf.size) }
      : await applyPath(state, applied, provisional, committer, path, cs, pace);
  const context = await nextEpochContext(
    provisional,
    "mls_public_message",
    content,
    auth.signature,
    await treeHasher.root(tree, pace),
    state.confirmationTag,
    cs.hash,
  );
  const initSecret = applied.joiner?.initSecret ?? keySchedule.initSecret;
  const epoch = await initializeEpoch(initSecret, commitSecret, context, applied.pskSecret, cs.kdf);
  const { confirmationKey } = epoch.keySchedule;
  const { confirmationTag } = auth;
  const agreed = await verifyConfirmationTag(
    confirmationKey,
    confirmationTag,
    context.confirmedTranscriptHash,
    cs.hash,
  );
  must(agreed, "the confirmation tag does not verify");
  const [historicalReceiverData] = addHistoricalReceiverData(state);
  const { reinit } = applied;
  return {
    ...state,
    groupContext: context,
    ratchetTree: tree,
    keySchedule: epoch.keySchedule,
    confirmationTag,
    secretTree: await createSecretTree(leafWidth(tree.length), epoch.encryptionSecret, pace),
    privatePath: keys,
    unappliedProposals: {},
    historicalReceiverData,
    groupActiveState: reinit === undefined ? { kind: "active" } : { kind: "suspendedPendingReinit", reinit },
  };
}

/** Merges the path of a Commit, and derives the secrets from the part that is encrypted to the caller. */
async function applyPath(
  state: ClientState,
  { tree: before, added, joiner }: Applied,
  provisional: GroupContext,
  committer: LeafIndex,
  path: UpdatePath,
  cs: CiphersuiteImpl,
  pace: Pace,
): Promise<{ tree: RatchetTree; keys: PrivateKeyPath; commitSecret: Uint8Array }> {
  const isExternal = joiner !== undefined;
  const [withLeaf] = isExternal ? addLeafNode(before, path.leafNode) : [before];
  const tree = await applyUpdatePath(withLeaf, committer, path, isExternal, pace);
  const context = { ...provisional, epoch: provisional.epoch + 1n, treeHash: await treeHasher.root(tree, pace) };
  const newLeaves = (isExternal ? [joiner.leaf] : added.map(([leaf]) => leaf)).map(leafToNodeIndex);
  const { privatePath } = state;
  const found = await applyUpdatePathSecret(tree, privatePath, committer, context, path, newLeaves, cs);
  const secrets = await pathToRoot(tree, toNodeIndex(found.nodeIndex), found.pathSecret, cs.kdf);
  const rootSecret = secrets[root(leafWidth(tree.length))];
  must(rootSecret !== undefined, "the path does not reach the root");
  const known = await toPrivateKeyPath(secrets, privatePath.leafIndex, cs);
  const commitSecret = await deriveSecret(rootSecret, "path", cs.kdf);
  return { tree, keys: mergePrivateKeyPaths(privatePath, known), commitSecret };
}
