// A device as a test of the protocol sees it: what no application needs.
import type { DeliveryService } from "./ds.js";
import { type ClientEvent, epochOf, isOut } from "./group.js";
import { type Conversation, insideOf, type Mimiport } from "./mimiport.js";
import * as mls from "./mls.js";

/** An event about a Commit of this device: before it is sent, and when its outcome is known. */
export type CommitEvent = Extract<ClientEvent, { event: "commit" | "commit_ended" }>;

/** Looks into a device. */
export class Probe {
  constructor(private readonly mimiport: Mimiport) {}

  private get client() {
    return insideOf(this.mimiport).client;
  }

  /** What MLS and the protocol know of a conversation's group. */
  state({ id }: Conversation) {
    const g = this.client.group(id);
    const { groupContext, unappliedProposals } = g.state;
    return {
      nextSeq: g.next,
      epoch: epochOf(g),
      cipherSuite: mls.suiteId(g.state),
      active: !isOut(g) && !g.closed,
      closed: g.closed === true,
      treeHash: groupContext.treeHash,
      /** In hexadecimal. */
      transcript: mls.transcript(g.state),
      members: mls.members(g.state).map(({ leaf, userId, deviceId }) => ({ leaf, user: userId, device: deviceId })),
      pendingCommit: g.pending !== undefined,
      pendingProposals: Object.keys(unappliedProposals).length,
      migration: g.migration && { id: g.migration.id, source: g.migration.source },
    };
  }

  /** A Delivery Service, by the device's way to it. */
  ds(server: string): DeliveryService {
    return this.client.ds(server);
  }

  /** Publishes a number of KeyPackages, for a device that is opened with `keyPackages: 0`. */
  publishKeyPackages(n: number): Promise<void> {
    return this.client.publishKeyPackages(n);
  }

  /** How long a Delivery Service must be out of reach before the device follows a successor, in milliseconds. */
  set patience(ms: number) {
    insideOf(this.mimiport).world.patience = ms;
  }

  /** Calls a listener at each event about a Commit of this device. */
  onCommit(listener: (event: CommitEvent, conversation: Conversation) => void): void {
    const { on } = insideOf(this.mimiport);
    for (const event of ["commit", "commit_ended"] as const)
      on(event, (told, conversation) => listener({ event, ...told }, conversation));
  }
}
