// ts-mls 1.6.4 writes and reads external_pub without its length. RFC 9420, section 12.4.3.2: "HPKEPublicKey
// external_pub;", and section 5.1.1: "opaque HPKEPublicKey<V>;".
import type { CiphersuiteImpl, ClientState, GroupInfo } from "ts-mls";
import { encode } from "ts-mls/codec/tlsEncoder.js";
import { decodeVarLenData, varLenDataEncoder } from "ts-mls/codec/variableLength.js";
import { createGroupInfo } from "ts-mls/createCommit.js";
import type { Extension } from "ts-mls/extension.js";
import { same } from "../bytes.js";
import { must } from "./rules.js";

const encodeExternalPub = encode(varLenDataEncoder);

/** GroupInfo of the state's epoch, with the key to which an external Commit encrypts. */
export async function createGroupInfoWithExternalPub(state: ClientState, cs: CiphersuiteImpl): Promise<GroupInfo> {
  const { publicKey } = await cs.hpke.deriveKeyPair(state.keySchedule.externalSecret);
  const extensionData = encodeExternalPub(await cs.hpke.exportPublicKey(publicKey));
  const extension: Extension = { extensionType: "external_pub", extensionData };
  return createGroupInfo(state.groupContext, state.confirmationTag, state, [extension], cs);
}

/** The key to which an external Commit encrypts; an MlsRuleError where the GroupInfo has none that is well-formed. */
export function externalPub(info: GroupInfo): Uint8Array {
  const found = info.extensions.find((e) => e.extensionType === "external_pub");
  must(found !== undefined, "the GroupInfo has no external_pub");
  let key: Uint8Array | undefined;
  try {
    key = decodeVarLenData(found.extensionData, 0)?.[0];
  } catch {
    key = undefined;
  }
  must(key !== undefined && same(encodeExternalPub(key), found.extensionData), "malformed external_pub");
  return key;
}
