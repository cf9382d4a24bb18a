// The state of a device as records. Each group has its own, so that a change of one does not write the others.
import type { ClientState, RatchetTree } from "ts-mls";
import type { SecretTree } from "ts-mls/secretTree.js";
import type { KeyPair } from "./devices.js";
import type { Group, PendingCommit, Stored } from "./group.js";
import * as mls from "./mls.js";
import type { Value } from "./store.js";
import { fromBase64, toBase64, toBase64url } from "./wire.js";

/** The state of a new device. */
export const emptyState = (): Stored => ({
  identity: undefined,
  deviceKey: undefined,
  keyPackages: new Map(),
  lastResorts: [],
  groups: new Map(),
  invitations: [],
  since: undefined,
});

/**
 * The content of a record: a text, or objects that never change. The same objects are the same content, and are neither
 * encoded nor written again.
 */
export type Content = string | { of: readonly object[]; encode(): Value };

/** Records of a part of the state, by name. */
export type Records = Map<string, Content>;

export const encodeContent = (content: Content): Value => (typeof content === "string" ? content : content.encode());

export function isSame(a: Content | undefined, b: Content): boolean {
  if (typeof a !== "object" || typeof b !== "object") return a === b;
  return a.of.length === b.of.length && a.of.every((part, i) => part === b.of[i]);
}

const DEVICE = "device";
const KEY_PACKAGE = "key-package/";
const GROUP = "group/";

/** Whether a record belongs to a group: to the given one, or else to none. */
export function belongsTo(name: string, g: Group | undefined): boolean {
  if (g === undefined) return name === DEVICE || name.startsWith(KEY_PACKAGE);
  return name === GROUP + g.key || name.startsWith(`${GROUP}${g.key}/`);
}

/** The common part of the present epoch and a former one. */
type Epoch = Pick<ClientState, "groupContext" | "ratchetTree" | "secretTree">;

/** How many nodes of a secret tree are in one record, about 3 kB. A message changes one node. */
const NODES = 64;

/**
 * The records of an MLS state. The parts that have the size of the group have records of their own: the trees, which
 * have their hash as name, and the secret trees of this epoch and of former ones, in pieces.
 */
export function stateRecords(at: string, slot: string, state: ClientState): Records {
  const records: Records = new Map();
  const keep = (name: string, epoch: Epoch, encode: () => Uint8Array) => {
    const { ratchetTree, secretTree, groupContext } = epoch;
    records.set(`${at}/${name}`, { of: [epoch], encode });
    records.set(treeName(at, groupContext.treeHash), { of: [ratchetTree], encode: () => mls.encodeTree(ratchetTree) });
    for (let i = 0; i < secretTree.length; i += NODES) {
      const nodes = secretTree.slice(i, i + NODES);
      records.set(secretsName(at, name, i), { of: nodes, encode: () => mls.encodeSecrets(nodes) });
    }
  };
  keep(`state/${slot}`, state, () => mls.encodeState(state));
  for (const [n, epoch] of state.historicalReceiverData)
    keep(`epoch/${slot}/${n}`, epoch, () => mls.encodeEpoch(epoch));
  return records;
}

const treeName = (at: string, hash: Uint8Array) => `${at}/tree/${toBase64url(hash)}`;

/** The name of the record with the secrets of the state or epoch of a name, from a node on. */
const secretsName = (at: string, name: string, from: number) => `${at}/secrets/${name}/${from}`;

/** Reads the MLS states of a group. States with one tree share it. */
export function stateReader(at: string, records: ReadonlyMap<string, Value>): (slot: string) => ClientState {
  const trees = new Map<string, RatchetTree>();
  const treeOf = (hash: Uint8Array): RatchetTree => {
    const name = treeName(at, hash);
    const tree = trees.get(name) ?? mls.parseTree(records.get(name) as Uint8Array);
    trees.set(name, tree);
    return tree;
  };
  const secretsOf = (name: string): SecretTree => {
    const tree: SecretTree = [];
    const next = () => records.get(secretsName(at, name, tree.length));
    for (let piece = next(); piece !== undefined; piece = next()) tree.push(...mls.decodeSecrets(piece as Uint8Array));
    return tree;
  };
  const read = <T extends Pick<Epoch, "groupContext">>(name: string, decode: (saved: Uint8Array) => T) => {
    const epoch = decode(records.get(`${at}/${name}`) as Uint8Array);
    return { ...epoch, ratchetTree: treeOf(epoch.groupContext.treeHash), secretTree: secretsOf(name) };
  };
  return (slot) => {
    const name = `epoch/${slot}/`;
    const prefix = `${at}/${name}`;
    const epochs = [...records.keys()].flatMap((n) => (n.startsWith(prefix) ? [n.slice(prefix.length)] : []));
    const former = epochs.map((n) => [BigInt(n), read(name + n, mls.decodeEpoch)] as const);
    const state = { ...read(`state/${slot}`, mls.decodeState), historicalReceiverData: new Map(former) };
    return mls.keepingEpochs(state, true); // as long as the group then says
  };
}

const commitFields = (c: PendingCommit | undefined) =>
  c && {
    accepted: c.accepted,
    target: c.target,
    message: toBase64(c.message),
    groupInfo: toBase64(c.groupInfo),
    welcome: c.welcome && toBase64(c.welcome),
  };

const loadCommit = (c: any, next: ClientState): PendingCommit => ({
  accepted: c.accepted,
  target: c.target,
  message: fromBase64(c.message),
  groupInfo: fromBase64(c.groupInfo),
  welcome: c.welcome && fromBase64(c.welcome),
  next,
});

/** The records of a group. */
export function groupRecords(g: Group): Records {
  const {
    id,
    state,
    pending,
    migration,
    refused = [],
    sent,
    held: _,
    behind: __,
    checked: ___,
    trouble: ____,
    ...plain
  } = g;
  const at = GROUP + g.key;
  const records = stateRecords(at, "present", state);
  const keep = (slot: string, commit: PendingCommit | undefined) => {
    if (commit !== undefined) stateRecords(at, slot, commit.next).forEach((c, name) => records.set(name, c));
    return commitFields(commit);
  };
  const fields = {
    ...plain,
    id: toBase64(id),
    sent: [...sent],
    pending: keep("pending", pending),
    refused: refused.map((c, i) => keep(`refused-${i}`, c)),
    migration: migration && {
      ...migration,
      response: toBase64(migration.response),
      commit: keep("migration", migration.commit),
    },
  };
  return records.set(at, JSON.stringify(fields));
}

function loadGroup(at: string, records: ReadonlyMap<string, Value>): Group {
  const { id, pending, migration, refused, sent, ...plain } = JSON.parse(records.get(at) as string);
  const own = new Map([...records].filter(([name]) => name.startsWith(`${at}/`)));
  const state = stateReader(at, own);
  return {
    ...plain,
    id: fromBase64(id),
    state: state("present"),
    sent: new Set(sent),
    held: [],
    checked: new Map(),
    behind: true,
    pending: pending && loadCommit(pending, state("pending")),
    refused: refused.map((c: any, i: number) => loadCommit(c, state(`refused-${i}`))),
    migration: migration && {
      ...migration,
      response: fromBase64(migration.response),
      commit: loadCommit(migration.commit, state("migration")),
    },
  };
}

const keysFields = <T extends KeyPair>(k: T | undefined) =>
  k && { ...k, signKey: toBase64(k.signKey), publicKey: toBase64(k.publicKey) };

const loadKeys = (k: any) => k && { ...k, signKey: fromBase64(k.signKey), publicKey: fromBase64(k.publicKey) };

/** The records of the device: all but those of groups. */
export function deviceRecords({ identity, deviceKey, keyPackages, lastResorts, invitations, since }: Stored): Records {
  const fields = { identity: keysFields(identity), deviceKey: keysFields(deviceKey), lastResorts, invitations, since };
  const records: Records = new Map([[DEVICE, JSON.stringify(fields)]]);
  for (const [ref, own] of keyPackages)
    records.set(KEY_PACKAGE + ref, { of: [own], encode: () => JSON.stringify(mls.saveKeyPackage(own)) });
  return records;
}

/** The state in records; a new one without any. */
export function loadState(records: ReadonlyMap<string, Value>): Stored {
  const stored = emptyState();
  const device = records.get(DEVICE);
  if (device !== undefined) {
    const { identity, deviceKey, lastResorts, invitations, since } = JSON.parse(device as string);
    Object.assign(stored, { identity: loadKeys(identity), deviceKey: loadKeys(deviceKey) });
    Object.assign(stored, { lastResorts, invitations, since });
  }
  for (const [name, value] of records) {
    const [kind, id, ...rest] = name.split("/");
    if (`${kind}/` === KEY_PACKAGE) stored.keyPackages.set(id!, mls.loadKeyPackage(JSON.parse(value as string)));
    if (`${kind}/` === GROUP && rest.length === 0) stored.groups.set(id!, loadGroup(name, records));
  }
  return stored;
}
