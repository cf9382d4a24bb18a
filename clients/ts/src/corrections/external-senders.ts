// ts-mls 1.6.4 reads external_senders as one ExternalSender: createGroup and GroupContextExtensions throw on the real
// thing, and a sender_index selects among extensions instead of among senders. RFC 9420, section 12.1.8.1:
// "ExternalSender external_senders<V>;"
import type { CiphersuiteImpl, ClientConfig, ClientState, ExternalSender, KeyPackage } from "ts-mls";
import type { PrivateKeyPackage, Proposal, PublicMessage } from "ts-mls";
import { createGroup as originalCreateGroup } from "ts-mls";
import { processProposal } from "ts-mls/clientState.js";
import { encode } from "ts-mls/codec/tlsEncoder.js";
import { decodeVarLenType, varLenTypeEncoder } from "ts-mls/codec/variableLength.js";
import { type Extension, extensionTypeToNumber } from "ts-mls/extension.js";
import { decodeExternalSender, externalSenderEncoder } from "ts-mls/externalSender.js";
import { unprotectPublicMessage } from "ts-mls/messageProtectionPublic.js";
import { same } from "../bytes.js";
import { must } from "./rules.js";

const EXTERNAL_SENDERS = extensionTypeToNumber("external_senders");

/** The contents of an external_senders extension (RFC 9420, section 12.1.8.1). */
export const encodeExternalSenders = encode(varLenTypeEncoder(externalSenderEncoder));

/** Reads an external_senders extension. Throws an MlsRuleError if it is not exactly as it would be encoded again. */
export function decodeExternalSenders(data: Uint8Array): ExternalSender[] {
  const [senders] = decodeVarLenType(decodeExternalSender)(data, 0) ?? [];
  must(senders !== undefined && same(encodeExternalSenders(senders), data), "malformed external_senders");
  return senders;
}

/** The external senders of a group, in the order of their indices. */
export function externalSenders(extensions: Extension[]): ExternalSender[] {
  const found = extensions.find((e) => e.extensionType === "external_senders");
  return found === undefined ? [] : decodeExternalSenders(found.extensionData);
}

// ts-mls does not parse an extension that it knows only by number, and encodes it the same.
const byNumber = (e: Extension): Extension =>
  e.extensionType === "external_senders" ? { ...e, extensionType: EXTERNAL_SENDERS } : e;
export const byName = (e: Extension): Extension =>
  e.extensionType === EXTERNAL_SENDERS ? { ...e, extensionType: "external_senders" } : e;

/** A proposal whose external_senders have the type that ts-mls accepts. The bytes are the same. */
export function opaqueSenders(p: Proposal): Proposal {
  if (p.proposalType !== "group_context_extensions") return p;
  const { extensions } = p.groupContextExtensions;
  externalSenders(extensions); // refuses a malformed one
  return { ...p, groupContextExtensions: { extensions: extensions.map(byNumber) } };
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

/** processPublicMessage for a proposal, with external_senders as a vector. */
export async function processProposalMessage(
  state: ClientState,
  message: PublicMessage,
  cs: CiphersuiteImpl,
): Promise<ClientState> {
  const { content } = message;
  must(content.contentType === "proposal", "not a proposal");
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
