// A group of RFC 9420 as a Delivery Service sees it: cipher suite 1, and the proposals Add, Update, Remove and
// GroupContextExtensions. It does not check capabilities or the uniqueness of keys, as no vector violates these rules.
import { sha256, signContent, verify } from "./keys.js";
import {
  type Codec,
  type Of,
  Reader,
  bytes,
  concat,
  decode,
  equal,
  list,
  long,
  optional,
  require,
  select,
  struct,
  text,
  u16,
  u32,
  u8,
} from "./wire.js";

const none = struct({});
const Extensions = list(struct({ type: u16, data: bytes }));
const Credential = struct({ type: u16, identity: bytes });
const Capabilities = struct({
  versions: list(u16),
  cipher_suites: list(u16),
  extensions: list(u16),
  proposals: list(u16),
  credentials: list(u16),
});
const LeafNode = struct({
  encryption_key: bytes,
  signature_key: bytes,
  credential: Credential,
  capabilities: Capabilities,
  source: select("source", u8, {
    1: struct({ not_before: long, not_after: long }),
    2: none,
    3: struct({ parent_hash: bytes }),
  }),
  extensions: Extensions,
  signature: bytes,
});
type LeafNode = Of<typeof LeafNode>;
const ParentNode = struct({ encryption_key: bytes, parent_hash: bytes, unmerged_leaves: list(u32) });
type ParentNode = Of<typeof ParentNode>;
const RatchetTree = list(
  optional(select("type", u8, { 1: struct({ leaf: LeafNode }), 2: struct({ parent: ParentNode }) })),
);
const KeyPackage = struct({
  version: u16,
  cipher_suite: u16,
  init_key: bytes,
  leaf_node: LeafNode,
  extensions: Extensions,
  signature: bytes,
});
export const ExternalSender = struct({ signature_key: bytes, credential: Credential });
export const ExternalSenders = list(ExternalSender);
const GroupContext = struct({
  version: u16,
  cipher_suite: u16,
  group_id: bytes,
  epoch: long,
  tree_hash: bytes,
  confirmed_transcript_hash: bytes,
  extensions: Extensions,
});
type GroupContext = Of<typeof GroupContext>;
const GroupInfo = struct({
  group_context: GroupContext,
  extensions: Extensions,
  confirmation_tag: bytes,
  signer: u32,
  signature: bytes,
});
const Proposal = select(
  "type",
  u16,
  {
    1: struct({ key_package: KeyPackage }),
    2: struct({ leaf_node: LeafNode }),
    3: struct({ removed: u32 }),
    7: struct({ extensions: Extensions }),
  },
  "M_UNSUPPORTED",
);
const ProposalOrRef = select("kind", u8, { 1: struct({ proposal: Proposal }), 2: struct({ reference: bytes }) });
const Ciphertext = struct({ kem_output: bytes, ciphertext: bytes });
const UpdatePath = struct({
  leaf_node: LeafNode,
  nodes: list(struct({ encryption_key: bytes, encrypted_path_secret: list(Ciphertext) })),
});
type UpdatePath = Of<typeof UpdatePath>;
const Commit = struct({ proposals: list(ProposalOrRef), path: optional(UpdatePath) });
const index = struct({ index: u32 });
const FramedContent = struct({
  group_id: bytes,
  epoch: long,
  sender: select("type", u8, { 1: index, 2: index, 3: none, 4: none }),
  authenticated_data: bytes,
  content: select("type", u8, {
    1: struct({ application_data: bytes }),
    2: struct({ proposal: Proposal }),
    3: struct({ commit: Commit }),
  }),
});

/** A PublicMessage, with the inputs of its signature and its hashes. */
interface PublicMessage extends Of<typeof FramedContent> {
  signed: Uint8Array;
  signature: Uint8Array;
  transcript: Uint8Array; // as ConfirmedTranscriptHashInput
  tag: Uint8Array; // the confirmation_tag, empty for a proposal
}

function readPublic(data: Uint8Array): PublicMessage {
  const r = new Reader(data);
  const content = FramedContent.read(r);
  const wireFormat = u16.write(1);
  const signed = concat(wireFormat, data.subarray(0, r.at));
  const signature = bytes.read(r);
  const transcript = concat(wireFormat, data.subarray(0, r.at));
  const tag = content.content.type === 3 ? bytes.read(r) : new Uint8Array();
  if (content.sender.type === 1) bytes.read(r); // the membership_tag
  require(r.empty, "M_BAD_MESSAGE", "bytes after the message");
  return { ...content, signed, signature, transcript, tag };
}

/** An MLSMessage: its wire format and the rest of its bytes. */
export function readMessage(data: Uint8Array): { format: number; body: Uint8Array } {
  const r = new Reader(data);
  require(u16.read(r) === 1, "M_UNSUPPORTED", "another version of MLS");
  return { format: u16.read(r), body: data.subarray(r.at) };
}

/** A handshake message, as a PublicMessage. */
export function readHandshake(data: Uint8Array): PublicMessage {
  const { format, body } = readMessage(data);
  require(format === 1, "M_INVALID", "not a handshake");
  return readPublic(body);
}

const signed = (key: Uint8Array, label: string, content: Uint8Array, signature: Uint8Array) =>
  verify(key, signContent(`MLS 1.0 ${label}`, content), signature);

function requireSigned(key: Uint8Array, label: string, content: Uint8Array, signature: Uint8Array, rule: string) {
  require(signed(key, label, content, signature), "M_BAD_SIGNATURE", "a signature does not verify", rule);
}

/** An encoding without the signature at its end. */
const unsigned = <T extends { signature: Uint8Array }>(codec: Codec<T>, v: T) => {
  const all = codec.write(v);
  return all.subarray(0, all.length - bytes.write(v.signature).length);
};

function requireLeaf(leaf: LeafNode, groupID: Uint8Array, at: number) {
  const place = leaf.source.source === 1 ? new Uint8Array() : concat(bytes.write(groupID), u32.write(at));
  const content = concat(unsigned(LeafNode, leaf), place);
  requireSigned(leaf.signature_key, "LeafNodeTBS", content, leaf.signature, "leaf-signature");
}

// The tree of RFC 9420, appendix C: leaves have even indices.
const level = (x: number) => Math.log2((~x & (x + 1)) >>> 0);
const left = (x: number) => x - 2 ** (level(x) - 1);
const right = (x: number) => x + 2 ** (level(x) - 1);

interface Node {
  leaf?: LeafNode;
  parent?: ParentNode;
}

class Tree {
  constructor(public nodes: (Node | null)[]) {}

  static read(data: Uint8Array): Tree {
    const nodes = decode(RatchetTree, data) as (Node | null)[];
    require(nodes.length > 0, "M_BAD_MESSAGE", "no ratchet tree");
    require(nodes.at(-1), "M_INVALID", "a blank at the end", "ValSem300");
    const fits = nodes.every((n, x) => !n || (x % 2 === 0) === (n.leaf !== undefined));
    require(fits, "M_BAD_MESSAGE", "a leaf in the place of a parent");
    const tree = new Tree(nodes);
    tree.grow((nodes.length >> 1) + 1);
    return tree;
  }

  get root(): number {
    return (this.nodes.length - 1) / 2;
  }
  grow(leaves: number) {
    let width = 1;
    while (width < leaves) width *= 2;
    while (this.nodes.length < 2 * width - 1) this.nodes.push(null);
  }
  leaf(at: number): LeafNode | undefined {
    return this.nodes[2 * at]?.leaf;
  }
  leaves(): [at: number, leaf: LeafNode][] {
    return this.nodes.flatMap((n, x) => (n?.leaf ? [[x / 2, n.leaf] as [number, LeafNode]] : []));
  }

  /** The path from the root to a leaf: each parent, with its child on the path and its other child. */
  way(at: number): { x: number; child: number; sibling: number }[] {
    const out = [];
    for (let x = this.root; x !== 2 * at; ) {
      const [child, sibling] = 2 * at < x ? [left(x), right(x)] : [right(x), left(x)];
      out.push({ x, child, sibling });
      x = child;
    }
    return out;
  }

  /** The resolution of a node (RFC 9420, section 4.1.1). */
  resolution(x: number): number[] {
    const node = this.nodes[x];
    if (node?.leaf) return [x];
    if (node?.parent) return [x, ...node.parent.unmerged_leaves.map((l) => 2 * l)];
    return level(x) === 0 ? [] : [...this.resolution(left(x)), ...this.resolution(right(x))];
  }

  /** The tree hash without some leaves (RFC 9420, section 7.8). */
  hash(x: number, without: number[] = []): Uint8Array {
    if (level(x) === 0) {
      const leaf = without.includes(x / 2) ? null : (this.nodes[x]?.leaf ?? null);
      return sha256(concat(u8.write(1), u32.write(x / 2), optional(LeafNode).write(leaf)));
    }
    const parent = this.nodes[x]?.parent;
    const kept = parent && {
      ...parent,
      unmerged_leaves: parent.unmerged_leaves.filter((l) => !without.includes(l)),
    };
    const children = [left(x), right(x)].map((c) => bytes.write(this.hash(c, without)));
    return sha256(concat(u8.write(2), optional(ParentNode).write(kept ?? null), ...children));
  }

  /** The parent hash of a parent, for its child on one side (RFC 9420, section 7.9). */
  parentHash(x: number, sibling: number): Uint8Array {
    const { encryption_key, parent_hash, unmerged_leaves } = this.nodes[x]!.parent!;
    const original = this.hash(sibling, unmerged_leaves);
    return sha256(concat(...[encryption_key, parent_hash, original].map(bytes.write)));
  }

  /** Whether a node below a parent carries its parent hash (RFC 9420, section 7.9.2). */
  parentHashHolds(x: number): boolean {
    const unmerged = this.nodes[x]!.parent!.unmerged_leaves.map((l) => 2 * l);
    return [left(x), right(x)].some((child) => {
      const hash = this.parentHash(x, child === left(x) ? right(x) : left(x));
      const below = this.resolution(child);
      const bearers = below.filter((d) => !unmerged.includes(d));
      const node = this.nodes[bearers[0] ?? -1];
      const carried = node?.parent?.parent_hash ?? (node?.leaf?.source as any)?.parent_hash;
      return bearers.length === 1 && carried !== undefined && equal(carried, hash);
    });
  }

  blankAbove(at: number) {
    for (const { x } of this.way(at)) this.nodes[x] = null;
  }

  add(leaf: LeafNode): number {
    let at = 0;
    while (this.leaf(at)) at++;
    this.grow(at + 1);
    for (const { x } of this.way(at)) this.nodes[x]?.parent?.unmerged_leaves.push(at);
    this.nodes[2 * at] = { leaf };
    return at;
  }
}

interface Pending {
  sender: { type: number; index: number };
  proposal: Of<typeof Proposal>;
}

/** A proposal that a Commit covers. */
export interface Covered extends Pending {
  byValue: boolean;
}

/** Group is one epoch of a group. */
export class Group {
  readonly pending = new Map<string, Pending>();

  private constructor(
    readonly context: GroupContext,
    readonly tree: Tree,
    readonly tag: Uint8Array,
  ) {}

  /** Opens a group. It makes all checks that need no secrets. */
  static open(groupInfo: Uint8Array, ratchetTree: Uint8Array): Group {
    const info = readInfo(groupInfo);
    const { group_context: context } = info;
    require(context.version === 1 && context.cipher_suite === 1, "M_UNSUPPORTED", "another cipher suite");
    const group = new Group(context, Tree.read(ratchetTree), info.confirmation_tag);
    const { tree } = group;
    require(equal(tree.hash(tree.root), context.tree_hash), "M_INVALID", "another tree hash", "tree-hash");
    group.requireInfo(info);
    tree.nodes.forEach((node, x) => {
      require(!node?.parent || tree.parentHashHolds(x), "M_INVALID", `node ${x}`, "parent-hash");
    });
    for (const [at, leaf] of tree.leaves()) requireLeaf(leaf, context.group_id, at);
    return group;
  }

  externalSenders(): Of<typeof ExternalSenders> {
    const found = this.context.extensions.find((e) => e.type === 5);
    return found ? decode(ExternalSenders, found.data) : [];
  }

  private requireInfo(info: Of<typeof GroupInfo>) {
    const signer = this.tree.leaf(info.signer);
    require(signer, "M_INVALID", "the signer's leaf is blank", "group-info-signer");
    const content = unsigned(GroupInfo, info);
    requireSigned(signer.signature_key, "GroupInfoTBS", content, info.signature, "group-info-signature");
  }

  /** Checks the framing and the signature of a handshake message of this epoch. */
  private requireSender(m: PublicMessage) {
    require(equal(m.group_id, this.context.group_id), "M_UNKNOWN_GROUP", "another group", "ValSem002");
    require(m.epoch === this.context.epoch, "M_WRONG_EPOCH", "another epoch", "ValSem003");
    const { type, index } = m.sender as unknown as Pending["sender"];
    const key = type === 1 ? this.tree.leaf(index)?.signature_key : this.externalSenders()[index]?.signature_key;
    require(type <= 2 && key, "M_INVALID", "no such sender", "ValSem004");
    const context = type === 1 ? GroupContext.write(this.context) : new Uint8Array();
    requireSigned(key, "FramedContentTBS", concat(u16.write(1), m.signed, context), m.signature, "ValSem010");
    return { type, index };
  }

  /** Adds a proposal of this epoch to the pending ones. */
  propose(data: Uint8Array) {
    const { format, body } = readMessage(data);
    const m = readPublic(body);
    require(format === 1 && m.content.type === 2, "M_BAD_MESSAGE", "not a proposal");
    const proposal = { sender: this.requireSender(m), proposal: m.content["proposal"] };
    this.requireProposal(proposal);
    const framed = concat(u16.write(format), body.subarray(0, m.transcript.length - 2)); // without the membership_tag
    const reference = sha256(concat(text.write("MLS 1.0 Proposal Reference"), bytes.write(framed)));
    this.pending.set(Buffer.from(reference).toString("hex"), proposal);
  }

  private requireProposal({ sender, proposal: p }: Pending) {
    if (p.type === 1) {
      const added: Of<typeof KeyPackage> = p["key_package"];
      const content = unsigned(KeyPackage, added);
      requireSigned(added.leaf_node.signature_key, "KeyPackageTBS", content, added.signature, "key-package-signature");
      requireLeaf(added.leaf_node, this.context.group_id, 0);
    }
    if (p.type === 2) requireLeaf(p["leaf_node"], this.context.group_id, sender.index);
    require(p.type !== 3 || this.tree.leaf(p["removed"]), "M_INVALID", "nobody is removed", "ValSem108");
  }

  /** Applies a Commit, and compares the result with the GroupInfo of the next epoch. */
  commit(data: Uint8Array, groupInfo: Uint8Array) {
    const m = readHandshake(data);
    require(m.content.type === 3, "M_BAD_MESSAGE", "not a Commit");
    const committer = this.requireSender(m);
    const { proposals, path }: Of<typeof Commit> = m.content["commit"];
    const covered = proposals.map((p) => this.resolve(p, committer));
    const tree = new Tree(structuredClone(this.tree.nodes));
    const extensions = covered.find((c) => c.proposal.type === 7)?.proposal["extensions"] ?? this.context.extensions;
    const added = applyAll(tree, covered);
    const needsPath = covered.length === 0 || covered.some((c) => [2, 3, 7].includes(c.proposal.type));
    require(path || !needsPath, "M_INVALID", "a path is needed", "ValSem201");
    const before = this.tree.leaf(committer.index)!;
    if (path) this.applyPath(tree, path, committer.index, added);
    const context: GroupContext = {
      ...this.context,
      epoch: this.context.epoch + 1n,
      tree_hash: tree.hash(tree.root),
      confirmed_transcript_hash: sha256(concat(this.interim(), m.transcript)),
      extensions,
    };
    const next = new Group(context, tree, m.tag);
    const info = readInfo(groupInfo);
    const computed = equal(GroupContext.write(info.group_context), GroupContext.write(context));
    require(computed, "M_INVALID", "another group context", "group-info-context");
    const sameTag = equal(info.confirmation_tag, m.tag);
    require(sameTag, "M_INVALID", "another confirmation tag", "group-info-confirmation-tag");
    next.requireInfo(info);
    return { next, committer, covered, hasPath: path !== null, before, aad: m.authenticated_data };
  }

  /** RFC 9420, section 8.2. */
  private interim(): Uint8Array {
    return sha256(concat(this.context.confirmed_transcript_hash, bytes.write(this.tag)));
  }

  private resolve(p: Of<typeof ProposalOrRef>, committer: Pending["sender"]): Covered {
    if (p.kind === 1) {
      const own = { sender: committer, proposal: p["proposal"], byValue: true };
      this.requireProposal(own);
      return own;
    }
    const found = this.pending.get(Buffer.from(p["reference"]).toString("hex"));
    require(found, "M_INVALID", "a reference to no proposal", "proposal-reference");
    return { ...found, byValue: false };
  }

  /** RFC 9420, sections 7.5 and 7.9. */
  private applyPath(tree: Tree, path: UpdatePath, at: number, added: number[]) {
    const leaf = path.leaf_node;
    const same = equal(Credential.write(leaf.credential), Credential.write(this.tree.leaf(at)!.credential));
    require(same, "M_INVALID", "the path changes the credential", "successor");
    require(leaf.source.source === 3, "M_INVALID", "not the leaf of a Commit", "leaf-source");
    requireLeaf(leaf, this.context.group_id, at);
    const filtered = tree.way(at).filter(({ sibling }) => tree.resolution(sibling).length > 0);
    const fits = filtered.toReversed().every(({ sibling }, i) => {
      const to = tree.resolution(sibling).filter((x) => !added.includes(x / 2));
      return path.nodes[i]?.encrypted_path_secret.length === to.length;
    });
    require(fits && path.nodes.length === filtered.length, "M_INVALID", "another length", "ValSem202");
    tree.blankAbove(at);
    let hash: Uint8Array = new Uint8Array();
    filtered.forEach(({ x, sibling }, i) => {
      const { encryption_key } = path.nodes[filtered.length - 1 - i]!;
      tree.nodes[x] = { parent: { encryption_key, parent_hash: hash, unmerged_leaves: [] } };
      hash = tree.parentHash(x, sibling);
    });
    require(equal((leaf.source as any).parent_hash, hash), "M_INVALID", "another hash", "path-parent-hash");
    tree.nodes[2 * at] = { leaf };
  }
}

/** Applies proposals in the order of RFC 9420, section 12.3, and returns the new leaves. */
function applyAll(tree: Tree, covered: Covered[]): number[] {
  for (const { sender, proposal: p } of covered) {
    const at = p.type === 2 ? sender.index : p["removed"];
    if (p.type !== 2 && p.type !== 3) continue;
    tree.blankAbove(at);
    tree.nodes[2 * at] = p.type === 2 ? { leaf: p["leaf_node"] } : null;
  }
  while (tree.root > 0 && tree.nodes.slice(tree.root + 1).every((n) => !n?.leaf)) {
    tree.nodes = tree.nodes.slice(0, tree.root);
  }
  return covered.filter((c) => c.proposal.type === 1).map((c) => tree.add(c.proposal["key_package"].leaf_node));
}

function readInfo(data: Uint8Array): Of<typeof GroupInfo> {
  const { format, body } = readMessage(data);
  require(format === 4, "M_BAD_MESSAGE", "not a GroupInfo");
  return decode(GroupInfo, body);
}
