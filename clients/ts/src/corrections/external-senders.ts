// ts-mls 1.6.4 reads external_senders as one ExternalSender: createGroup and GroupContextExtensions throw on the real
// thing, and a sender_index selects among extensions instead of among senders. RFC 9420, section 12.1.8.1:
// "ExternalSender external_senders<V>;"
import type { CiphersuiteImpl, ClientConfig, ClientState, ExternalSender, KeyPackage } from "ts-mls";
import type { PrivateKeyPackage, Proposal, ProposalOrRef, PublicMessage } from "ts-mls";
import { createGroup as originalCreateGroup, makePskIndex, processPublicMessage } from "ts-mls";
import { processProposal } from "ts-mls/clientState.js";
import { encode } from "ts-mls/codec/tlsEncoder.js";
import { decodeVarLenType, varLenTypeEncoder } from "ts-mls/codec/variableLength.js";
import { type Extension, extensionTypeToNumber } from "ts-mls/extension.js";
import { decodeExternalSender, externalSenderEncoder } from "ts-mls/externalSender.js";
import { unprotectPublicMessage } from "ts-mls/messageProtectionPublic.js";
import { equal, must } from "./rules.js";

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

/** A proposal of a Commit with its external_senders as ts-mls takes it: the bytes are the same. */
export const inCommit = (p: ProposalOrRef): ProposalOrRef =>
  p.proposalOrRefType === "proposal" ? { ...p, proposal: opaqueSenders(p.proposal) } : p;

/** A state of ts-mls with its external_senders as everybody has it. */
export function named(state: ClientState): ClientState {
  const { groupContext } = state;
  return { ...state, groupContext: { ...groupContext, extensions: groupContext.extensions.map(byName) } };
}

/** createGroup for any extensions: nothing that ts-mls derives for epoch 0 depends on them. */
export async function createGroup(
  id: Uint8Array,
  kp: KeyPackage,
  keys: PrivateKeyPackage,
  extensions: Extension[],
  cs: CiphersuiteImpl,
  config: ClientConfig,
): Promise<ClientState> {
  externalSenders(extensions);
  const state = await originalCreateGroup(id, kp, keys, [], cs, config);
  return { ...state, groupContext: { ...state.groupContext, extensions } };
}

/** processPublicMessage with external_senders as a vector: a received Commit or proposal gives the next state. */
export async function processHandshake(
  state: ClientState,
  message: PublicMessage,
  cs: CiphersuiteImpl,
): Promise<ClientState> {
  const { content } = message;
  if (content.contentType === "proposal") {
    const { sender } = content;
    const key =
      sender.senderType === "external"
        ? externalSenders(state.groupContext.extensions)[sender.senderIndex]?.signaturePublicKey
        : undefined;
    must(sender.senderType !== "external" || key !== undefined, "no such external sender");
    must(content.epoch === state.groupContext.epoch, "not the current epoch");
    const authentic = await unprotectPublicMessage(
      state.keySchedule.membershipKey,
      state.groupContext,
      state.ratchetTree,
      message,
      cs,
      key,
    );
    return processProposal(state, authentic, opaqueSenders(content.proposal), cs.hash);
  }
  must(content.contentType === "commit", "application data in a PublicMessage");
  const commit = { ...content.commit, proposals: content.commit.proposals.map(inCommit) };
  const opaque = { ...message, content: { ...content, commit } } as PublicMessage;
  return named((await processPublicMessage(state, opaque, makePskIndex(state, {}), cs)).newState);
}
