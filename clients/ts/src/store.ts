// The state of a client between runs, as one JSON file. It holds secrets: group states, signature and KeyPackage keys.
import { existsSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import type { KeyPair } from "./devices.js";
import type { Group, PendingCommit, Stored } from "./group.js";
import * as mls from "./mls.js";
import { fromBase64, toBase64 } from "./wire.js";

/** The store of a new client. */
export const emptyStore = (): Stored => ({
  identity: undefined,
  deviceKey: undefined,
  keyPackages: new Map(),
  lastResorts: [],
  groups: new Map(),
  invitations: [],
  since: undefined,
});

const saveCommit = (c: PendingCommit | undefined) =>
  c && {
    accepted: c.accepted,
    target: c.target,
    message: toBase64(c.message),
    groupInfo: toBase64(c.groupInfo),
    welcome: c.welcome && toBase64(c.welcome),
    next: mls.saveState(c.next),
  };

const loadCommit = (c: any): PendingCommit | undefined =>
  c && {
    accepted: c.accepted,
    target: c.target,
    message: fromBase64(c.message),
    groupInfo: fromBase64(c.groupInfo),
    welcome: c.welcome && fromBase64(c.welcome),
    next: mls.loadState(c.next),
  };

const saveGroup = ({
  id,
  state,
  pending,
  migration,
  refused,
  sent,
  held: _,
  behind: __,
  checked: ___,
  ...plain
}: Group) => ({
  ...plain,
  id: toBase64(id),
  state: mls.saveState(state),
  sent: [...sent],
  pending: saveCommit(pending),
  refused: refused?.map(saveCommit),
  migration: migration && {
    ...migration,
    response: toBase64(migration.response),
    commit: saveCommit(migration.commit),
  },
});

const loadGroup = ({ id, state, pending, migration, refused, sent, ...plain }: any): Group => ({
  ...plain,
  id: fromBase64(id),
  state: mls.loadState(state),
  sent: new Set(sent),
  held: [],
  checked: new Map(),
  behind: true,
  pending: loadCommit(pending),
  refused: refused?.map(loadCommit),
  migration: migration && {
    ...migration,
    response: fromBase64(migration.response),
    commit: loadCommit(migration.commit),
  },
});

const saveKeys = <T extends KeyPair>(k: T | undefined) =>
  k && { ...k, signKey: toBase64(k.signKey), publicKey: toBase64(k.publicKey) };

const loadKeys = (k: any) => k && { ...k, signKey: fromBase64(k.signKey), publicKey: fromBase64(k.publicKey) };

/** Writes the store. After a crash the file has the old contents or the new. */
export function saveStore(
  path: string,
  { identity, deviceKey, keyPackages, lastResorts, groups, invitations, since }: Stored,
): void {
  const text = JSON.stringify({
    identity: saveKeys(identity),
    deviceKey: saveKeys(deviceKey),
    keyPackages: [...keyPackages].map(([ref, own]) => [ref, mls.saveKeyPackage(own)]),
    lastResorts,
    groups: [...groups.values()].map(saveGroup),
    invitations,
    since,
  });
  writeFileSync(`${path}.new`, text, { mode: 0o600, flush: true });
  renameSync(`${path}.new`, path);
}

/** Reads the store; a new one if there is no file. */
export function loadStore(path: string): Stored {
  if (!existsSync(path)) return emptyStore();
  const { identity, deviceKey, keyPackages, lastResorts, groups, invitations, since } = JSON.parse(
    readFileSync(path, "utf8"),
  );
  return {
    identity: loadKeys(identity),
    deviceKey: loadKeys(deviceKey),
    keyPackages: new Map(keyPackages.map(([ref, saved]: [string, string[]]) => [ref, mls.loadKeyPackage(saved)])),
    lastResorts,
    groups: new Map(groups.map(loadGroup).map((g: Group) => [g.key, g])),
    invitations,
    since,
  };
}
