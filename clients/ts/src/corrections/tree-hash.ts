// ts-mls 1.6.4 hashes a whole subtree again for each node whose parent hash it checks, and for each Commit: a quadratic
// number of hashes for a joiner. Here a hash is kept with the node at the top of its subtree. Nodes never change: a
// Commit replaces them.
import type { RatchetTree } from "ts-mls";
import { encode } from "ts-mls/codec/tlsEncoder.js";
import { parentHashInputEncoder } from "ts-mls/parentHash.js";
import { findFirstNonBlankAncestor } from "ts-mls/ratchetTree.js";
import { leafNodeHashInputEncoder, parentNodeHashInputEncoder } from "ts-mls/treeHash.js";
import { directPath, isLeaf, type LeafIndex, leafToNodeIndex, leafWidth, left } from "ts-mls/treemath.js";
import { nodeToLeafIndex, right, root, toNodeIndex } from "ts-mls/treemath.js";
import { same, sha256 } from "../bytes.js";
import type { Pace } from "../pace.js";
import { must } from "./rules.js";

type Node = NonNullable<RatchetTree[number]>;
type Digest = (input: Uint8Array) => Uint8Array;

/** A subtree's hash, and that from which it follows: its place, and the hashes of the subtrees below. */
interface Known {
  index: number;
  below: Uint8Array[];
  hash: Uint8Array;
}

const encodeLeaf = encode(leafNodeHashInputEncoder);
const encodeParent = encode(parentNodeHashInputEncoder);
const encodeParentHash = encode(parentHashInputEncoder);

/** The top of a tree. */
export const rootOf = (tree: RatchetTree): number => root(leafWidth(tree.length));

/** The indices of a tree's nodes, children before their parents. */
function* upwards(tree: RatchetTree): Generator<number> {
  for (let width = 1; width <= tree.length; width *= 2)
    for (let i = width - 1; i < tree.length; i += 2 * width) yield i;
}

const childrenOf = (i: number): [number, number] => [left(toNodeIndex(i)), right(toNodeIndex(i))];

/** Hashes of trees (RFC 9420, sections 7.8 and 7.9) with one hash function. */
export class TreeHasher {
  /** By the node at the top, or by the hash of the left subtree if that is blank. */
  private readonly known = new WeakMap<object, Known>();

  constructor(private readonly digest: Digest) {}

  /** The hashes of all subtrees, by the indices of their tops. It needs a node of the right kind in each place. */
  async hashes(tree: RatchetTree, pace: Pace): Promise<Uint8Array[]> {
    const hashes: Uint8Array[] = new Array(tree.length);
    for (const i of upwards(tree)) {
      hashes[i] = this.hash(tree[i], i, isLeaf(toNodeIndex(i)) ? [] : childrenOf(i).map((child) => hashes[child]!));
      await pace();
    }
    return hashes;
  }

  /** The hash of a tree. */
  async root(tree: RatchetTree, pace: Pace): Promise<Uint8Array> {
    return (await this.hashes(tree, pace))[rootOf(tree)]!;
  }

  /**
   * Whether each parent node that is not blank has exactly one node below that proves it by its parent hash (RFC 9420,
   * section 7.9.2). hashes are those of the tree.
   */
  async parentHashesVerify(tree: RatchetTree, hashes: Uint8Array[], pace: Pace): Promise<boolean> {
    const proofs = new Map<number, number>();
    const expected = new Map<string, Uint8Array>(); // by the parent and the side below it
    for (const i of upwards(tree)) {
      await pace();
      const claimed = parentHashOf(tree[i]);
      if (claimed === undefined || i === rootOf(tree)) continue;
      const above = findFirstNonBlankAncestor(tree, toNodeIndex(i));
      if (tree[above] === undefined) continue;
      const side = `${above} ${i < above}`;
      const hash = expected.get(side) ?? this.parentHash(tree, hashes, i, above);
      expected.set(side, hash);
      if (same(claimed, hash)) proofs.set(above, (proofs.get(above) ?? 0) + 1);
    }
    return tree.every((node, i) => node?.nodeType !== "parent" || proofs.get(i) === 1);
  }

  /** The parent hash of a node for the nearest node above that is not blank (RFC 9420, section 7.9). */
  parentHash(tree: RatchetTree, hashes: Uint8Array[], below: number, above: number): Uint8Array {
    const node = tree[above];
    must(node?.nodeType === "parent", "no parent node");
    const { hpkePublicKey: encryptionKey, parentHash, unmergedLeaves } = node.parent;
    const [l, r] = childrenOf(above);
    const sibling = below < above ? r : l;
    const unmerged = unmergedLeaves.filter((leaf) => 2 * leaf < above === sibling < above);
    const originalSiblingTreeHash = this.without(tree, hashes, sibling, unmerged);
    return this.digest(encodeParentHash({ encryptionKey, parentHash, originalSiblingTreeHash }));
  }

  /**
   * A copy of the tree in which the nodes above a leaf have new keys, upwards, and all others of its direct path are
   * blank. The leaf's own parent hash is for the caller to put in (RFC 9420, sections 7.5 and 7.9).
   */
  async withPath(
    tree: RatchetTree,
    leaf: LeafIndex,
    above: number[],
    keys: Uint8Array[],
    pace: Pace,
  ): Promise<{ tree: RatchetTree; parentHash: Uint8Array }> {
    const self = leafToNodeIndex(leaf);
    const next = tree.slice();
    for (const i of directPath(self, leafWidth(tree.length))) next[i] = undefined;
    const hashes = await this.hashes(next, pace); // those beside the path stay as they are
    let parentHash: Uint8Array = new Uint8Array();
    for (const [n, i] of [...above.entries()].reverse()) {
      next[i] = { nodeType: "parent", parent: { hpkePublicKey: keys[n]!, parentHash, unmergedLeaves: [] } };
      parentHash = this.parentHash(next, hashes, above[n - 1] ?? self, i);
    }
    return { tree: next, parentHash };
  }

  /** The hash of a subtree as it was before the given leaves of it came. */
  private without(tree: RatchetTree, hashes: Uint8Array[], i: number, leaves: number[]): Uint8Array {
    if (leaves.length === 0) return hashes[i]!;
    if (isLeaf(toNodeIndex(i))) return this.hash(undefined, i, []);
    const [l, r] = childrenOf(i);
    const below = [
      this.without(
        tree,
        hashes,
        l,
        leaves.filter((leaf) => 2 * leaf < i),
      ),
      this.without(
        tree,
        hashes,
        r,
        leaves.filter((leaf) => 2 * leaf > i),
      ),
    ];
    return this.hash(withoutUnmerged(tree[i], new Set(leaves)), i, below);
  }

  private hash(node: Node | undefined, index: number, below: Uint8Array[]): Uint8Array {
    const key = node ?? below[0];
    const known = key && this.known.get(key);
    if (known?.index === index && known.below.every((hash, i) => same(hash, below[i]!))) return known.hash;
    const hash = this.digest(encodeNode(node, index, below));
    if (key !== undefined) this.known.set(key, { index, below, hash });
    return hash;
  }
}

/** TreeHashInput (RFC 9420, section 7.8). */
function encodeNode(node: Node | undefined, index: number, below: Uint8Array[]): Uint8Array {
  const [leftHash, rightHash] = below;
  if (leftHash === undefined || rightHash === undefined) {
    must(node?.nodeType !== "parent", "a parent node in the place of a leaf");
    const leafIndex = nodeToLeafIndex(toNodeIndex(index));
    return encodeLeaf({ nodeType: "leaf", leafIndex, leafNode: node?.leaf });
  }
  must(node?.nodeType !== "leaf", "a leaf in the place of a parent node");
  return encodeParent({ nodeType: "parent", parentNode: node?.parent, leftHash, rightHash });
}

/** The parent hash in a node; undefined if it has none. */
function parentHashOf(node: Node | undefined): Uint8Array | undefined {
  if (node?.nodeType === "parent") return node.parent.parentHash;
  return node?.leaf.leafNodeSource === "commit" ? node.leaf.parentHash : undefined;
}

function withoutUnmerged(node: Node | undefined, leaves: ReadonlySet<number>): Node | undefined {
  if (node?.nodeType !== "parent") return node;
  const unmergedLeaves = node.parent.unmergedLeaves.filter((leaf) => !leaves.has(leaf));
  return { ...node, parent: { ...node.parent, unmergedLeaves } };
}

/** The hashes in groups of both cipher suites. */
export const treeHasher = new TreeHasher(sha256);
