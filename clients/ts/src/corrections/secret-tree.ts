// createSecretTree of ts-mls 1.6.4 derives ratchets for parent nodes too, which nobody uses: RFC 9420, section 9, has
// them at leaves alone. It awaits each hash, and lets nothing else run in between.
import { expand } from "@noble/hashes/hkdf.js";
import { sha256 } from "@noble/hashes/sha2.js";
import { uint16Encoder } from "ts-mls/codec/number.js";
import { composeBufferEncoders, encode } from "ts-mls/codec/tlsEncoder.js";
import { varLenDataEncoder } from "ts-mls/codec/variableLength.js";
import type { GenerationSecret, SecretTree } from "ts-mls/secretTree.js";
import { isLeaf, left, nodeWidth, right, root, toNodeIndex } from "ts-mls/treemath.js";
import { utf8 } from "../bytes.js";
import type { Pace } from "../pace.js";

/** The size of a secret in both cipher suites, in bytes. */
const SIZE = 32;

const encodeLabel = encode(composeBufferEncoders([uint16Encoder, varLenDataEncoder, varLenDataEncoder]));

/** KDFLabel (RFC 9420, section 8) for a secret of that size. */
const kdfLabel = (label: string, context = "") => encodeLabel([SIZE, utf8(`MLS 1.0 ${label}`), utf8(context)]);

const [LEFT, RIGHT] = [kdfLabel("tree", "left"), kdfLabel("tree", "right")];
const [HANDSHAKE, APPLICATION] = [kdfLabel("handshake"), kdfLabel("application")];

const ratchet = (secret: Uint8Array): GenerationSecret => ({ secret, generation: 0, unusedGenerations: {} });

const unused = ratchet(new Uint8Array());

/** The ratchets of an epoch's members (RFC 9420, section 9). A parent node has empty ones. */
export async function createSecretTree(leaves: number, encryptionSecret: Uint8Array, pace: Pace): Promise<SecretTree> {
  const tree: SecretTree = new Array(nodeWidth(leaves)).fill({ handshake: unused, application: unused });
  const open: [number, Uint8Array][] = [[root(leaves), encryptionSecret]];
  for (let next = open.pop(); next !== undefined; next = open.pop()) {
    const i = toNodeIndex(next[0]);
    const derive = (label: Uint8Array) => expand(sha256, next![1], label, SIZE);
    if (isLeaf(i)) tree[i] = { handshake: ratchet(derive(HANDSHAKE)), application: ratchet(derive(APPLICATION)) };
    else open.push([left(i), derive(LEFT)], [right(i), derive(RIGHT)]);
    await pace();
  }
  return tree;
}
