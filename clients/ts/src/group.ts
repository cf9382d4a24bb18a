// A group as this client sees it, and what the client as a whole keeps.
import type { ClientState } from "ts-mls";
import type { DeviceKeys, KeyPair, Verification } from "./devices.js";
import type { FanOut, Migrated, Signed } from "./ds.js";
import type { KeyObject } from "./keys.js";
import type * as mls from "./mls.js";
import type { Named } from "./pointer.js";
import { toBase64url } from "./wire.js";

/** A Commit that has been sent, or is about to be, and the state it leads to. */
export interface PendingCommit extends mls.Commit {
  /** Whether it has been accepted; kept for whoever waits for it. */
  accepted?: boolean;
  /** Of a migration Commit: the server that it leads to. */
  target?: string;
}

/** A migration that this client has begun, until the target has its confirmation or it has ended otherwise. */
export interface OwnMigration {
  id: string;
  source: string;
  target: string;
  /** The target's MigrationResponse and the key it is signed with. */
  response: Uint8Array;
  keyId: string;
  /** The MigrationInit, base64. */
  init: string;
  /** The target's ExternalSenderOffer, base64. */
  senderOffer?: string;
  commit: PendingCommit;
  /** The Commit's epoch is over: it was accepted, or another one was. */
  over?: boolean;
}

/**
 * Application data that has not been answered, and the message that it is sent in: the same bytes until there is an
 * answer.
 */
export interface Outgoing {
  text: string;
  /** base64. Absent until it is encrypted, for an epoch. */
  message?: string | undefined;
}

/** A group and where it stands. */
export interface Group {
  id: Uint8Array;
  /** The id in base64url. */
  key: string;
  roomId: string;
  /** The Delivery Service held as current, and its term. */
  ds: string;
  term: number;
  /** The first log number of the term that is not yet handled. */
  next: number;
  state: ClientState;
  /** A Commit of this client that may have been accepted, until its epoch is over. */
  pending?: PendingCommit | undefined;
  migration?: OwnMigration | undefined;
  /** Commits of this client that were refused, until their epoch is over: a late copy of one may yet be accepted. */
  refused?: PendingCommit[] | undefined;
  /** Kept until the Delivery Service has accepted it, or refused it for good. */
  outgoing?: Outgoing | undefined;
  /** Hashes of own application messages that the log has not shown yet: nobody can decrypt their own. */
  sent: Set<string>;
  /** Fan-out of Delivery Services that may become the current one. */
  held: { server: string; fanOut: FanOut }[];
  /** The proof of the step to the current Delivery Service, for one that does not have it yet. */
  evidence?: Migrated | undefined;
  /** Logs of former Delivery Services whose end this client has not seen: it has gone on without them. */
  former?: { ds: string; term: number; next: number }[] | undefined;
  /**
   * What the devices of leaves publish, as far as their homeservers have been asked, by checkId. Not kept over a
   * restart.
   */
  checked: Map<string, Verification>;
  /** The log of the current Delivery Service has not been read to its end. */
  behind: boolean;
  /**
   * How the group came to a Delivery Service, as one told it last (base64): what a server needs that recovers the
   * group.
   */
  lineage?: string | undefined;
  /** The key object of the current Delivery Service, for a time when it cannot be asked any more. */
  hostKeys?: KeyObject | undefined;
  /** The latest verified receipt of a Delivery Service for a Commit, of this term or of one before. */
  receipt?: Signed | undefined;
  /** The proof that the current Delivery Service has accepted two Commits in one epoch: nothing is submitted to it. */
  fork?: { first: Signed; second: Signed } | undefined;
  /** A claim of a later term that the room's pointer names, and that the current Delivery Service was shown. */
  named?: Named | undefined;
  /** The last good list of successors that the room had. */
  successors?: string[] | undefined;
  /** The current Delivery Service could not be reached: when that was tried first and last, in ms since 1970. */
  silent?: { since: number; last: number } | undefined;
  /** The group was ended for good, by a ReInit or at its Delivery Service. */
  closed?: boolean | undefined;
  /**
   * The current Delivery Service has claimed the group, and may go on with another branch than that of the state here.
   */
  unproven?: boolean | undefined;
}

export interface Invitation {
  server: string;
  fanOut: FanOut;
  until: number;
}

/** What a client keeps from one run to the next. */
export interface Stored {
  /** The key is one for the device's life. */
  identity: mls.Identity | undefined;
  /** The device's own key, which signs its device keys unless another program has keys for the device. */
  deviceKey: KeyPair | undefined;
  /** By KeyPackageRef in base64url. */
  keyPackages: Map<string, mls.OwnKeyPackage>;
  /** The KeyPackages among them that are given out when the others are used up: those are kept. The newest is last. */
  lastResorts: string[];
  groups: Map<string, Group>;
  /** Welcomes for groups that their rooms do not name yet; until when they are kept, in milliseconds since 1970. */
  invitations: Invitation[];
  /** Where /sync goes on. */
  since: string | undefined;
}

/** What happened, for the application. */
export type ClientEvent =
  // The sender is the author that MLS authenticates.
  | { event: "message"; group: string; sender: string; device: string; epoch: number; text: string }
  // The Delivery Service names another user as the sender of a message than MLS authenticates.
  // A leaf whose device does not publish the leaf's key.
  | { event: "unverified"; group: string; leaf: number; user: string; device: string }
  // A device that was not added: its KeyPackage is odd.
  | { event: "skipped"; group: string; user: string; device: string; reason: string }
  | { event: "misattributed"; group: string; named: string; author: string }
  | { event: "epoch" | "joined" | "removed"; group: string; epoch: number }
  | { event: "moved"; group: string; ds: string; term: number }
  // The group was ended for good: the room may begin its next one.
  | { event: "closed"; group: string }
  // A Commit of this client between two epochs, which their confirmed transcript hashes name: before it is sent, and
  // when it is known for good whether it was accepted.
  | { event: "commit"; group: string; from: string; to: string }
  | { event: "commit_ended"; group: string; to: string; accepted: boolean }
  // The Delivery Service has signed for two Commits that lead to one epoch.
  | { event: "fork"; group: string; epoch: number; first: Signed; second: Signed }
  // What the Delivery Service warns of as the group is bound: `movers-on-one-server`.
  | { event: "warning"; group: string; warning: string }
  // The keys of a server are by the word of a group's Delivery Service alone.
  | { event: "vouched"; server: string; by: string }
  | { event: "ignored"; group: string; from: string; reason: string }
  | { event: "failed"; group: string; reason: string };

/** What a client needs from its surroundings. */
export interface Surroundings {
  /** Milliseconds since 1970. */
  now(): number;
  /** How long a Delivery Service is out of reach before a successor's claim is followed, in ms; a day by default. */
  patience?: number;
  pause(ms: number): Promise<void>;
  emit(event: ClientEvent): void;
  /**
   * Signs device keys with the device's Ed25519 key, in unpadded base64, where another program holds that key: the
   * Canonical JSON of what is given (Matrix specification, "Signing JSON").
   */
  signDeviceKeys?(keys: DeviceKeys): Promise<string>;
  /** Makes what is stored durable; called before anything is sent that depends on it. */
  save(): void;
}

/**
 * A group whose log is handled up to a number. Every field is there: it also takes the place of what was known before.
 */
export function newGroup(
  roomId: string,
  ds: string,
  { term, seq }: { term: number; seq: number },
  state: ClientState,
): Group {
  const id = state.groupContext.groupId;
  const forgotten = {
    pending: undefined,
    migration: undefined,
    refused: undefined,
    evidence: undefined,
    former: undefined,
    lineage: undefined,
    hostKeys: undefined,
    receipt: undefined,
    fork: undefined,
    named: undefined,
    successors: undefined,
    silent: undefined,
    closed: undefined,
    unproven: undefined,
  };
  const key = toBase64url(id);
  return {
    ...forgotten,
    id,
    key,
    roomId,
    ds,
    term,
    next: seq + 1,
    state,
    sent: new Set(),
    held: [],
    checked: new Map(),
    behind: true,
  };
}

/** Under which name it is kept whether a leaf is its device's. */
export const checkId = ({ userId, deviceId, signatureKey }: mls.Member): string =>
  [userId, deviceId, toBase64url(signatureKey)].join(" ");

/** The time in seconds since 1970, as MLS counts it. */
export const seconds = ({ now }: Surroundings): bigint => BigInt(Math.floor(now() / 1000));

export function ownIdentity({ identity }: Stored): mls.Identity {
  if (identity === undefined) throw new Error("the device has no MLS identity yet");
  return identity;
}

export const epochOf = (g: Group): number => Number(g.state.groupContext.epoch);

/** Whether this device has been removed from the group. */
export const isOut = (g: Group): boolean => g.state.groupActiveState.kind !== "active";

export const same = (a: Uint8Array, b: Uint8Array): boolean => Buffer.compare(a, b) === 0;
