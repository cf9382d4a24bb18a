// The state of a group in this client, and the state of the whole client.
import type { ClientState } from "ts-mls";
import type { KeyPair, Verification } from "./devices.js";
import { CLOSED, type FanOut, type Migrated, type MovedInfo, type Signed, STOPPED } from "./ds.js";
import { MimiportError } from "./errors.js";
import type { KeyObject } from "./keys.js";
import type * as mls from "./mls.js";
import type { Named } from "./pointer.js";
import { toBase64url } from "./wire.js";

/** A Commit that is sent or will be, and its next state. */
export interface PendingCommit extends mls.Commit {
  /** Whether the Commit was accepted. It is kept for callers that wait for it. */
  accepted?: boolean;
  /** Of a migration Commit: the target. */
  target?: string;
}

/**
 * A migration that this client has begun. It is kept until the target has its confirmation, or it ends in another way.
 */
export interface OwnMigration {
  id: string;
  source: string;
  target: string;
  /** The target's MigrationResponse and the id of its signing key. */
  response: Uint8Array;
  keyId: string;
  /** The MigrationInit, base64. */
  init: string;
  /** The target's ExternalSenderOffer, base64. */
  senderOffer?: string;
  commit: PendingCommit;
  /** The source has decided for it. */
  decided?: boolean;
  /** The user has given it up. The source may decide for it all the same. */
  givenUp?: boolean;
  /** The Commit's epoch is over: this Commit or another one was accepted. */
  over?: boolean;
}

/** The place of a message in a group's log. */
export interface Position {
  term: number;
  seq: number;
}

/** Application data without an answer, and the message with it. Repeated requests have the same bytes. */
export interface Outgoing {
  /** The application's name for the data. */
  txnId: string;
  /** base64. */
  content: string;
  /** base64. Absent until the data is encrypted for an epoch. */
  message?: string | undefined;
  /** The place of the message in a log that may be of another branch. */
  at?: Position;
}

/** A group and its place. */
export interface Group {
  id: Uint8Array;
  /** The id in base64url. */
  key: string;
  roomId: string;
  /** The Delivery Service that this client holds as current, and its term. */
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
  /** Data to send, in order. Each is kept until the Delivery Service accepts it or refuses it for good. */
  outbox: Outgoing[];
  /** The latest own messages that were accepted. */
  answered: { txnId: string; at: Position }[];
  /** Hashes of own application messages that are not in the log yet: a sender cannot decrypt its own messages. */
  sent: Set<string>;
  /** Fan-out from Delivery Services that may become the current one. */
  held: { server: string; fanOut: FanOut }[];
  /** The proof of the step to the current Delivery Service, if that one does not have it yet. */
  evidence?: Migrated | undefined;
  /** The logs of former Delivery Services of which this client has not seen the end. */
  former?: { ds: string; term: number; next: number }[] | undefined;
  /** The trust in leaves, by checkId, as far as homeservers have answered. A restart forgets it. */
  checked: Map<string, Verification>;
  /** This client has not read the log of the current Delivery Service to its end. */
  behind: boolean;
  /** The code of the error that has kept it from that the last time. A restart forgets it. */
  trouble?: string | undefined;
  /** The latest lineage that a Delivery Service told (base64). A server needs it to recover the group. */
  lineage?: string | undefined;
  /** The key object of the current Delivery Service, for a time when that one is unreachable. */
  hostKeys?: KeyObject | undefined;
  /** The latest verified receipt of a Delivery Service for a Commit, of this term or of one before. */
  receipt?: Signed | undefined;
  /**
   * The proof that the current Delivery Service accepted two Commits in one epoch. This client submits nothing to it.
   */
  fork?: { first: Signed; second: Signed } | undefined;
  /**
   * A claim of a later term. The room's pointer names it, and this client has shown it to the current Delivery Service.
   */
  named?: Named | undefined;
  /** The last good list of successors that the room had. */
  successors?: string[] | undefined;
  /** The first and the last time at which the current Delivery Service was unreachable, in ms since 1970. */
  silent?: { since: number; last: number } | undefined;
  /** The group was ended for good, by a ReInit or at its Delivery Service. */
  closed?: boolean | undefined;
  /** The current Delivery Service has refused a message because it has stopped. */
  stopped?: boolean | undefined;
  /** The current Delivery Service has claimed the group. It may continue another branch than that of this state. */
  unproven?: boolean | undefined;
}

export interface Invitation {
  server: string;
  fanOut: FanOut;
  until: number;
  /** The room did not name the group yet. */
  early?: boolean;
}

/** The state that a client keeps from one run to the next. */
export interface Stored {
  /** The device has this key for its whole life. */
  identity: mls.Identity | undefined;
  /** The device's own key. It signs the device keys unless another program has keys for the device. */
  deviceKey: KeyPair | undefined;
  /** By KeyPackageRef in base64url. */
  keyPackages: Map<string, mls.OwnKeyPackage>;
  /** The KeyPackages of last resort among them, which a Welcome does not use up. The newest is last. */
  lastResorts: string[];
  groups: Map<string, Group>;
  /** Welcomes for groups that their rooms do not name yet, and until when they are kept, in milliseconds since 1970. */
  invitations: Invitation[];
  /** The token for the next /sync. */
  since: string | undefined;
}

/**
 * How far a migration of this client has come: the target has made an offer, the source has the Commit, the source has
 * decided for it, the group is at the target; or the source has given up, or another Commit came first.
 */
export type Step = "offered" | "sent" | "decided" | "moved" | "aborted" | "overtaken";

/**
 * How a group is. `moving`: this client moves it. `behind`: its log cannot be read, or it is not certain that the
 * Delivery Service goes on with the branch of this device. `stopped`: its Delivery Service accepts nothing until an
 * operator has acted. `broken`: its Delivery Service has accepted two Commits in one epoch. `left`: this device is no
 * member any more. `closed`: the group was ended for good.
 */
export type State = "active" | "moving" | "behind" | "stopped" | "broken" | "left" | "closed";

/** A device in an event. */
export interface Device {
  user: string;
  device: string;
}

/** A leaf: its device, and the MLS signature key. */
export interface Leaf extends Device {
  key: Uint8Array;
}

/**
 * An application's own trust in a leaf. It gets the library's result, by the keys that the user's homeserver publishes,
 * and is asked again when the user's devices change. Nothing is refused because of its answer.
 */
export type VerifyLeaf = (leaf: Leaf, found: Verification) => Verification | Promise<Verification>;

/** An event for the application. */
export type ClientEvent =
  // The sender is the author that MLS authenticates. The content is in base64. A place never has two messages.
  | {
      event: "message";
      group: string;
      at: Position;
      sender: string;
      device: string;
      own: boolean;
      epoch: number;
      content: string;
    }
  // Devices that a Commit has added and removed. `by` is its sender, absent if that is no member.
  | { event: "members"; group: string; at: Position; by?: Device; added: Device[]; removed: Device[] }
  // The Delivery Service names another sender of a message than MLS authenticates.
  | { event: "unverified"; group: string; leaf: number; user: string; device: string }
  // A device that was not added: its KeyPackage is odd.
  | { event: "skipped"; group: string; user: string; device: string; reason: string }
  | { event: "misattributed"; group: string; named: string; author: string }
  | { event: "epoch" | "joined" | "removed"; group: string; epoch: number }
  // The group has another Delivery Service. `by` is the member whose Commit led there, absent after a claim.
  // `proof` is the redirect that a server has signed, as this device was shown it.
  | { event: "moved"; group: string; by?: Device; from: string; to: string; term: number; proof?: MovedInfo }
  // A step of a migration of this client: see Step.
  | { event: "move"; group: string; migration: string; target: string; step: Step }
  // The Delivery Service asks this device to move the group, which then goes to the first of the permitted targets.
  | { event: "moveRequested"; group: string; from: string; targets: string[]; permitted: string[] }
  | { event: "state"; group: string; state: State; reason?: string }
  // The group was ended for good: the room may begin its next one.
  | { event: "closed"; group: string }
  // A Commit of this client between two epochs, which are named by their confirmed transcript hashes. There is one
  // event before the Commit is sent, and one when the outcome is known.
  | { event: "commit"; group: string; from: string; to: string }
  | { event: "commit_ended"; group: string; to: string; accepted: boolean }
  // The Delivery Service has signed for two Commits that lead to one epoch.
  | { event: "fork"; group: string; epoch: number; first: Signed; second: Signed }
  // A warning of the Delivery Service when the group is bound: `movers-on-one-server`.
  | { event: "warning"; group: string; warning: string }
  // Only a group's Delivery Service vouches for the keys of a server.
  | { event: "vouched"; server: string; by: string }
  | { event: "ignored"; group: string; from: string; reason: string }
  | { event: "failed"; group: string; reason: string };

/** The environment of a client. */
export interface Surroundings {
  /** Milliseconds since 1970. */
  now(): number;
  /**
   * How long a Delivery Service must be unreachable before the client follows a successor's claim, in ms; a day by
   * default.
   */
  patience?: number;
  /**
   * Whether the user permits to move a room's group to a server when the group's Delivery Service asks for it; by
   * default to each server that has joined users in the room.
   */
  mayMove?(roomId: string, target: string): boolean;
  pause(ms: number): Promise<void>;
  /** How many KeyPackages the homeserver should have of this device; without it, the application publishes them. */
  stock?: number;
  emit(event: ClientEvent): void;
  verifyLeaf?: VerifyLeaf;
  /**
   * Writes the state durably: of the device and of the given groups. The client waits for it before it sends anything
   * that depends on the state.
   */
  save(...groups: Group[]): Promise<void>;
}

/** A group with a log that is handled up to a number. It has every field, so that it can overwrite a known group. */
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
    trouble: undefined,
    closed: undefined,
    stopped: undefined,
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
    outbox: [],
    answered: [],
    sent: new Set(),
    held: [],
    checked: new Map(),
    behind: true,
  };
}

/** The key under which the trust in a leaf is kept. */
export const checkId = ({ userId, deviceId, signatureKey }: mls.Member): string =>
  [userId, deviceId, toBase64url(signatureKey)].join(" ");

/** The time in seconds since 1970, as MLS uses it. */
export const seconds = ({ now }: Surroundings): bigint => BigInt(Math.floor(now() / 1000));

export function ownIdentity({ identity }: Stored): mls.Identity {
  if (identity === undefined) throw new MimiportError("NO_IDENTITY", "the device has no MLS identity yet");
  return identity;
}

export const epochOf = (g: Group): number => Number(g.state.groupContext.epoch);

export function stateOf(g: Group): State {
  if (g.closed) return "closed";
  if (isOut(g)) return "left";
  if (g.fork !== undefined) return "broken";
  if (g.stopped) return "stopped";
  if (g.migration !== undefined) return "moving";
  return g.behind || g.unproven ? "behind" : "active";
}

/** Why a group is in its state, as the code of a MimiportError; undefined for one that is active or moving. */
export function reasonOf(g: Group): string | undefined {
  const reasons: Record<State, string | undefined> = {
    active: undefined,
    moving: undefined,
    behind: g.unproven ? "UNPROVEN" : (g.trouble ?? "UNREAD"),
    stopped: STOPPED,
    broken: "FORKED",
    left: "REMOVED",
    closed: CLOSED,
  };
  return reasons[stateOf(g)];
}

/** Whether this device has been removed from the group. */
export const isOut = (g: Group): boolean => g.state.groupActiveState.kind !== "active";
