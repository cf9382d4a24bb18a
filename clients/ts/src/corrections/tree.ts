// ts-mls 1.6.4 refuses a tree in which two nodes of one direct path list different unmerged leaves. RFC 9420, section
// 12.4.3.1: "Verify that every non-blank intermediate node between the leaf node and the parent node also has an entry
// for the leaf node in its unmerged_leaves." The rule does not cover nodes above the parent. It also verifies one
// signature after another, and hashes a quadratic number of nodes (see tree-hash.ts).
import type { AuthenticationService, GroupContext, RatchetTree } from "ts-mls";
import { validateLeafNodeUpdateOrCommit } from "ts-mls/clientState.js";
import { decodeOptional } from "ts-mls/codec/optional.js";
import { decodeVarLenData } from "ts-mls/codec/variableLength.js";
import type { Signature } from "ts-mls/crypto/signature.js";
import { type LeafNode, verifyLeafNodeSignatureKeyPackage } from "ts-mls/leafNode.js";
import { decodeNode, extendRatchetTree, getHpkePublicKey } from "ts-mls/ratchetTree.js";
import { directPath, isLeaf, leafToNodeIndex, leafWidth, toLeafIndex, toNodeIndex } from "ts-mls/treemath.js";
import { toBufferSource } from "ts-mls/util/byteArray.js";
import { same, toHex } from "../bytes.js";
import { each, type Pace } from "../pace.js";
import { must } from "./rules.js";
import { rootOf, treeHasher } from "./tree-hash.js";

/**
 * The signatures of both cipher suites. ts-mls loads its own when it needs them, and a bundler cannot make one file of
 * that, as it must for a Worker.
 */
const ed25519 = {
  async verify(publicKey, message, signature) {
    const key = await crypto.subtle.importKey("raw", toBufferSource(publicKey), "Ed25519", false, ["verify"]);
    return crypto.subtle.verify("Ed25519", key, toBufferSource(signature), toBufferSource(message));
  },
} as Signature;

const decodeOptionalNode = decodeOptional(decodeNode);

/** Reads a tree (RFC 9420, section 12.4.3.3). Throws an MlsRuleError if it is malformed. */
export async function readTree(encoded: Uint8Array, pace: Pace): Promise<RatchetTree> {
  const nodes = wellFormed(() => decodeVarLenData(encoded, 0)?.[0]);
  const tree: RatchetTree = [];
  for (let at = 0; at < nodes.length; await pace()) {
    const [node, length] = wellFormed(() => decodeOptionalNode(nodes, at));
    tree.push(node);
    at += length;
  }
  return wellFormed(() => extendRatchetTree(tree));
}

function wellFormed<T>(decode: () => T | undefined): T {
  let value: T | undefined;
  try {
    value = decode();
  } catch {
    value = undefined;
  }
  must(value !== undefined, "malformed ratchet tree");
  return value;
}

/** Checks a received tree (RFC 9420, section 12.4.3.1), except lifetimes. An MlsRuleError says what is wrong. */
export async function validateTree(
  tree: RatchetTree,
  context: GroupContext,
  authService: AuthenticationService,
  pace: Pace,
): Promise<void> {
  const encryptionKeys = new Set<string>();
  const signatureKeys = new Set<string>();
  const unmerged = tree.map((n) => (n?.nodeType === "parent" ? new Set(n.parent.unmergedLeaves) : undefined));
  const unseen = (seen: Set<string>, key: Uint8Array) => seen.size < seen.add(toHex(key)).size;
  for (const [i, node] of tree.entries()) {
    await pace();
    if (node === undefined) continue;
    must(isLeaf(toNodeIndex(i)) === (node.nodeType === "leaf"), "a leaf and a parent node have changed places");
    must(unseen(encryptionKeys, getHpkePublicKey(node)), "an encryption key is used twice");
    if (node.nodeType === "leaf")
      must(unseen(signatureKeys, node.leaf.signaturePublicKey), "a signature key is used twice");
    for (const leaf of [...(unmerged[i] ?? [])].map(toLeafIndex)) {
      const below = directPath(leafToNodeIndex(leaf), leafWidth(tree.length));
      const at = below.indexOf(toNodeIndex(i));
      must(tree[2 * leaf] !== undefined && at >= 0, "an unmerged leaf is no descendant");
      const lists = (n: number) => unmerged[n]?.has(leaf) ?? true;
      must(below.slice(0, at).every(lists), "a node in between does not list an unmerged leaf");
    }
  }
  const leaves = tree.flatMap((node, i) => (node?.nodeType === "leaf" ? [{ leaf: node.leaf, index: i / 2 }] : []));
  await each(leaves, ({ leaf, index }) => validateLeaf(leaf, index, context, authService), pace);
  const hashes = await treeHasher.hashes(tree, pace);
  must(await treeHasher.parentHashesVerify(tree, hashes, pace), "a parent hash does not verify");
  must(same(context.treeHash, hashes[rootOf(tree)]!), "the tree is not the one of the GroupContext");
}

async function validateLeaf(
  leaf: LeafNode,
  index: number,
  context: GroupContext,
  authService: AuthenticationService,
): Promise<void> {
  must(
    await authService.validateCredential(leaf.credential, leaf.signaturePublicKey),
    "a credential is not acceptable",
  );
  const error =
    leaf.leafNodeSource === "key_package"
      ? !(await verifyLeafNodeSignatureKeyPackage(leaf, ed25519))
      : await validateLeafNodeUpdateOrCommit(leaf, index, context, authService, ed25519);
  must(!error, `a leaf does not verify: ${error}`);
}
