// ts-mls 1.6.4 reads each proposal of a type that it does not know as one vector, and applies none. A SelfRemove is
// an empty struct (draft-ietf-mls-extensions, "SelfRemove"). The member that leaves sends it in a PublicMessage, and
// others commit it by reference. The state of ts-mls keeps it as a custom proposal with empty data.
import type { CiphersuiteImpl, ClientState, GroupContext, Proposal, RatchetTree } from "ts-mls";
import { decodeUint16, decodeUint64, uint16Encoder, uint64Encoder } from "ts-mls/codec/number.js";
import { mapDecoders, mapDecodersOption } from "ts-mls/codec/tlsDecoder.js";
import { composeBufferEncoders, contramapBufferEncoders, encode } from "ts-mls/codec/tlsEncoder.js";
import { decodeVarLenData, varLenDataEncoder } from "ts-mls/codec/variableLength.js";
import { contentTypeEncoder, decodeContentType } from "ts-mls/contentType.js";
import { refhash } from "ts-mls/crypto/hash.js";
import { signWithLabel, verifyWithLabel } from "ts-mls/crypto/signature.js";
import { groupContextEncoder } from "ts-mls/groupContext.js";
import { decodeProtocolVersion, protocolVersionEncoder } from "ts-mls/protocolVersion.js";
import { getSignaturePublicKeyFromLeafIndex } from "ts-mls/ratchetTree.js";
import { decodeSender, senderEncoder } from "ts-mls/sender.js";
import { toLeafIndex } from "ts-mls/treemath.js";
import { addUnappliedProposal } from "ts-mls/unappliedProposals.js";
import { decodeWireformat, wireformatEncoder } from "ts-mls/wireformat.js";
import { concat, same } from "../bytes.js";
import { must } from "./rules.js";

/** The proposal type that a leaf lists among its capabilities. */
export const SELF_REMOVE = 0x000a;

const proposal: Proposal = { proposalType: SELF_REMOVE, proposalData: new Uint8Array() };

export const isSelfRemove = (p: Proposal): boolean => p.proposalType === SELF_REMOVE;

/** A SelfRemove as a PublicMessage. */
export interface SelfRemove {
  groupId: Uint8Array;
  epoch: bigint;
  leaf: number;
  authenticatedData: Uint8Array;
  signature: Uint8Array;
  membershipTag: Uint8Array;
}

type Content = Pick<SelfRemove, "groupId" | "epoch" | "leaf" | "authenticatedData">;

/** FramedContent (RFC 9420, section 6). */
const contentEncoder = contramapBufferEncoders(
  [varLenDataEncoder, uint64Encoder, senderEncoder, varLenDataEncoder, contentTypeEncoder, uint16Encoder],
  ({ groupId, epoch, leaf, authenticatedData }: Content) =>
    [groupId, epoch, { senderType: "member", leafIndex: leaf }, authenticatedData, "proposal", SELF_REMOVE] as any,
);

const encodeMessage = encode(
  contramapBufferEncoders(
    [protocolVersionEncoder, wireformatEncoder, contentEncoder, varLenDataEncoder, varLenDataEncoder],
    (m: SelfRemove) => ["mls10", "mls_public_message", m, m.signature, m.membershipTag] as any,
  ),
);

const decodeHead = mapDecodersOption([decodeProtocolVersion, decodeWireformat], (_, wireformat) =>
  wireformat === "mls_public_message" ? true : undefined,
);

const decodeContent = mapDecodersOption(
  [decodeVarLenData, decodeUint64, decodeSender, decodeVarLenData, decodeContentType, decodeUint16],
  (groupId, epoch, sender, authenticatedData, contentType, type): Content | undefined =>
    sender.senderType === "member" && contentType === "proposal" && type === SELF_REMOVE
      ? { groupId, epoch, leaf: sender.leafIndex, authenticatedData }
      : undefined,
);

const decodeMessage = mapDecoders(
  [decodeHead, decodeContent, decodeVarLenData, decodeVarLenData],
  (_, content, signature, membershipTag): SelfRemove => ({ ...content, signature, membershipTag }),
);

/** Decodes an MLSMessage with a SelfRemove; undefined for any other message, and for one that is not well-formed. */
export function decodeSelfRemove(bytes: Uint8Array): SelfRemove | undefined {
  try {
    const message = decodeMessage(bytes, 0)?.[0];
    return message && same(encodeMessage(message), bytes) ? message : undefined;
  } catch {
    return undefined;
  }
}

/** FramedContentTBS (RFC 9420, section 6.1), which the sender signs. */
const tbs = (groupContext: GroupContext, content: Content): Uint8Array =>
  encode(composeBufferEncoders([protocolVersionEncoder, wireformatEncoder, contentEncoder, groupContextEncoder]))([
    "mls10",
    "mls_public_message",
    content,
    groupContext,
  ]);

/** AuthenticatedContentTBM (RFC 9420, section 6.2), of which the membership tag is the MAC. */
const tbm = (groupContext: GroupContext, content: Content, signature: Uint8Array): Uint8Array =>
  concat(tbs(groupContext, content), encode(varLenDataEncoder)(signature));

/** Makes the MLSMessage by which the caller asks to leave. */
export async function createSelfRemove(state: ClientState, cs: CiphersuiteImpl): Promise<Uint8Array> {
  const { groupContext, signaturePrivateKey, keySchedule, privatePath } = state;
  const { groupId, epoch } = groupContext;
  const content = { groupId, epoch, leaf: privatePath.leafIndex, authenticatedData: new Uint8Array() };
  const signed = tbs(groupContext, content);
  const signature = await signWithLabel(signaturePrivateKey, "FramedContentTBS", signed, cs.signature);
  const membershipTag = await cs.hash.mac(keySchedule.membershipKey, tbm(groupContext, content, signature));
  return encodeMessage({ ...content, signature, membershipTag });
}

/**
 * The ProposalRef of a SelfRemove that a member of the tree signed (RFC 9420, section 5.2). Throws an MlsRuleError for
 * any other. It does not check the membership tag, since a joiner cannot.
 */
export async function selfRemoveRef(
  groupContext: GroupContext,
  tree: RatchetTree,
  message: SelfRemove,
  cs: CiphersuiteImpl,
): Promise<Uint8Array> {
  const { groupId, epoch, leaf, signature } = message;
  must(same(groupId, groupContext.groupId), "not a message of the group");
  must(epoch === groupContext.epoch, "not the current epoch");
  const key = getSignaturePublicKeyFromLeafIndex(tree, toLeafIndex(leaf));
  const content = tbs(groupContext, message);
  const isSigned = await verifyWithLabel(key, "FramedContentTBS", content, signature, cs.signature);
  must(isSigned, "the signature does not verify");
  const authenticated = encode(composeBufferEncoders([wireformatEncoder, contentEncoder, varLenDataEncoder]))([
    "mls_public_message",
    message,
    signature,
  ]);
  return refhash("MLS 1.0 Proposal Reference", authenticated, cs.hash);
}

/** The state with a received SelfRemove among its pending proposals; an MlsRuleError for one that is not valid. */
export async function processSelfRemove(
  state: ClientState,
  message: SelfRemove,
  cs: CiphersuiteImpl,
): Promise<ClientState> {
  const { groupContext, ratchetTree, keySchedule, unappliedProposals } = state;
  const authenticated = tbm(groupContext, message, message.signature);
  const isMember = await cs.hash.verifyMac(keySchedule.membershipKey, message.membershipTag, authenticated);
  const ref = await selfRemoveRef(groupContext, ratchetTree, message, cs);
  must(isMember, "the membership tag does not verify");
  return { ...state, unappliedProposals: addUnappliedProposal(ref, unappliedProposals, proposal, message.leaf) };
}
