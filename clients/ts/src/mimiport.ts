// The interface for applications: one device, its conversations, and what happens in them.
import { Client, type Outcome, type RecoveryData, type SendOptions, unlessRetryable } from "./client.js";
import type { Verification } from "./devices.js";
import {
  type ClientEvent,
  type Device,
  type Group,
  type Position,
  reasonOf,
  type State,
  stateOf,
  type Surroundings,
  type VerifyLeaf,
} from "./group.js";
import { Journal } from "./journal.js";
import { Matrix } from "./matrix.js";
import * as mls from "./mls.js";
import type { Store } from "./store.js";
import type { News, Transport } from "./transport.js";
import { fromBase64 } from "./wire.js";

/** How many KeyPackages the homeserver has of a device, unless the application says another number. */
const STOCK = 20;

/** How to open a device. */
export interface Options {
  /** The device's way to its homeserver. */
  transport: Transport;
  /** Where the device keeps its state. It must be for this device alone. */
  store: Store;
  /** How many KeyPackages the homeserver should have: each lets one user add this device once. 0 publishes none. */
  keyPackages?: number;
  /** The cipher suite of the groups that this device creates, and of its KeyPackages (RFC 9420): 1, or 3. */
  cipherSuite?: 1 | 3;
  /** Decides how far a leaf is trusted, in place of the library. */
  verifyLeaf?: VerifyLeaf;
  /**
   * Whether the user permits to move a room's group to a server when the group's Delivery Service asks for it; by
   * default to each server that has joined users in the room.
   */
  mayMove?(roomId: string, target: string): boolean;
  /** Ends the wait for another tab or process that has the store. */
  signal?: AbortSignal;
}

/** A leaf of a group, and what is known of it. */
export interface Member extends Device {
  leaf: number;
  verified: Verification;
}

/** What happens in a conversation. */
type Happening<K extends ClientEvent["event"]> = Omit<Extract<ClientEvent, { event: K }>, "event" | "group">;

/** The events of conversations. Each comes after it is durable. After a crash the last ones may come once more. */
export interface Events {
  /** A message, also an own one. No two messages of a conversation have the same place `at`. */
  message: Omit<Happening<"message">, "content"> & { content: Uint8Array };
  members: Happening<"members">;
  moved: Happening<"moved">;
  move: Happening<"move">;
  /** The Delivery Service asks this device to move the group, which then goes to the first permitted target. */
  moveRequested: Happening<"moveRequested">;
  state: Happening<"state">;
  joined: Happening<"joined">;
  /** The group is in another epoch, with other secrets. */
  epoch: Happening<"epoch">;
  left: Happening<"removed">;
  /** A leaf whose device does not publish its key. */
  unverified: Happening<"unverified">;
  /** A device that could not be added. */
  skipped: Happening<"skipped">;
  /** The Delivery Service names another sender of a message than MLS authenticates. */
  misattributed: Happening<"misattributed">;
  /** The Delivery Service has signed for two Commits in one epoch: its operator must act. */
  fork: Happening<"fork">;
  /** A warning of the Delivery Service when the group is created, such as `movers-on-one-server`. */
  warning: Happening<"warning">;
  /** Something that the application need not act on. */
  failed: Happening<"failed">;
}

type Listener<K extends keyof Events> = (event: Events[K], conversation: Conversation) => unknown;

/** The names of events that differ from those inside. */
const PUBLIC: Partial<Record<ClientEvent["event"], keyof Events>> = { removed: "left" };

/** The inside of a device, for tests of the protocol alone. */
export interface Inside {
  client: Client;
  world: Surroundings;
  /** As Mimiport.on, for events that no application needs. */
  on(kind: ClientEvent["event"], listener: (event: any, conversation: Conversation) => unknown): void;
}

const insides = new WeakMap<Mimiport, Inside>();

export function insideOf(mimiport: Mimiport): Inside {
  return insides.get(mimiport)!;
}

/** A device that holds MLS groups in Matrix rooms. */
export class Mimiport {
  private readonly listeners = new Map<string, Set<Listener<any>>>();
  private readonly conversationsById = new Map<string, Conversation>();
  private readonly ending = new AbortController();
  private client!: Client;
  private journal!: Journal;

  private constructor(private readonly release: () => Promise<void>) {}

  /**
   * Opens a device: waits until no other tab or process has the store, publishes the device's MLS key beside the keys
   * that it has, and KeyPackages. Nothing happens yet: register listeners, then start.
   */
  static async open(options: Options): Promise<Mimiport> {
    const { transport, store, keyPackages = STOCK, cipherSuite = 1, verifyLeaf, mayMove, signal } = options;
    const mimiport = new Mimiport(await store.exclusive(signal));
    try {
      const journal = await Journal.open(store, (event) => mimiport.tell(event));
      const world: Surroundings = {
        now: Date.now,
        pause: (ms: number) => new Promise<void>((resolve) => setTimeout(resolve, ms)),
        stock: keyPackages,
        ...(verifyLeaf && { verifyLeaf }),
        emit: (event: ClientEvent) => journal.emit(event),
        save: (...groups: Group[]) => journal.save(...groups),
        ...(mayMove && { mayMove }),
      };
      mimiport.journal = journal;
      mimiport.client = new Client(new Matrix(transport), journal.stored, world);
      const on: Inside["on"] = (kind, listener) => void mimiport.listen(kind, listener);
      insides.set(mimiport, { client: mimiport.client, world, on });
      await mimiport.client.createIdentity(cipherSuite);
      await mimiport.client.keepStock().catch(unlessRetryable); // start goes on with it
      return mimiport;
    } catch (e) {
      await mimiport.release();
      throw e;
    }
  }

  /** All conversations of the device, by the ids of their groups. */
  get conversations(): ReadonlyMap<string, Conversation> {
    for (const g of this.journal.stored.groups.values()) this.conversation(g);
    return this.conversationsById;
  }

  private conversation(g: Group): Conversation {
    const known =
      this.conversationsById.get(g.key) ?? new Conversation(this.client, g, (next) => this.conversation(next));
    this.conversationsById.set(g.key, known);
    return known;
  }

  /** Calls a listener at each event of a kind. Returns the function that ends this. */
  on<K extends keyof Events>(kind: K, listener: Listener<K>): () => void {
    return this.listen(kind, listener);
  }

  private listen(kind: string, listener: Listener<any>): () => void {
    const listeners = this.listeners.get(kind) ?? new Set();
    this.listeners.set(kind, listeners.add(listener));
    return () => void listeners.delete(listener);
  }

  private async tell({ event: kind, ...event }: ClientEvent): Promise<void> {
    const g = "group" in event ? this.journal.stored.groups.get(event.group) : undefined;
    if (g === undefined) return;
    const told = "content" in event ? { ...event, content: fromBase64(event.content) } : event;
    const listeners = this.listeners.get(PUBLIC[kind] ?? kind) ?? [];
    await Promise.allSettled([...listeners].map(async (listen) => listen(told, this.conversation(g))));
  }

  /**
   * Goes on with what an earlier run has begun, and follows /sync. With `sync: false` another program follows /sync and
   * calls receive.
   */
  start({ sync = true }: { sync?: boolean } = {}): void {
    this.journal.repeat();
    if (!sync) return this.client.resume();
    this.client.run(this.ending.signal).catch((e) => this.stop(e));
  }

  /** The own homeserver refuses /sync for good, for example because the device was logged out. */
  private stop(e: unknown): void {
    for (const g of this.journal.stored.groups.values())
      void this.tell({ event: "failed", group: g.key, reason: `this device follows nothing any more: ${e}` });
  }

  /** Takes news that another program has from /sync. When it returns, the homeserver may forget them. */
  async receive(news: News): Promise<void> {
    await this.client.synced(news);
  }

  /** Creates the group of a room, at the own homeserver or at another Delivery Service. */
  async create(roomId: string, { server = this.client.homeServer } = {}): Promise<Conversation> {
    return this.conversation(await this.client.createGroup(roomId, server));
  }

  /**
   * Enters the group of a room: as a new device, or in place of a leaf of which the state is lost. A signal ends this
   * until the Commit is sent, also in the middle of a large tree, and the call throws the signal's reason.
   */
  async rejoin(roomId: string, { signal }: { signal?: AbortSignal } = {}): Promise<Conversation> {
    return this.conversation(await this.client.rejoin(roomId, signal));
  }

  /** Ends all, and gives the store back. */
  async close(): Promise<void> {
    this.ending.abort();
    await this.journal.save();
    await this.release();
  }
}

/** A migration of this device: its steps come as events `move`. */
export interface Move {
  done: Promise<Outcome>;
  /**
   * Gives the migration up: sends nothing that was not sent yet, and asks the source until that one answers. `done`
   * tells the outcome, which may be another.
   */
  abort(): Promise<void>;
}

/** An MLS group in a Matrix room. */
export class Conversation {
  /** Applications get conversations from Mimiport. */
  constructor(
    private readonly client: Client,
    private readonly g: Group,
    private readonly conversationOf: (g: Group) => Conversation,
  ) {}

  /** The id of the group, base64url. */
  get id(): string {
    return this.g.key;
  }

  get roomId(): string {
    return this.g.roomId;
  }

  /** The server name of the Delivery Service that this device holds as current. */
  get host(): string {
    return this.g.ds;
  }

  /** How often the group has had another Delivery Service. */
  get term(): number {
    return this.g.term;
  }

  get epoch(): number {
    return Number(this.g.state.groupContext.epoch);
  }

  /** The same for all members of an epoch, and for nobody else (RFC 9420, section 8.7). */
  get authenticator(): Uint8Array {
    return this.g.state.keySchedule.epochAuthenticator;
  }

  get state(): State {
    return stateOf(this.g);
  }

  /** Why the conversation is in its state, as the code of a MimiportError; undefined while it is active or moving. */
  get reason(): string | undefined {
    return reasonOf(this.g);
  }

  /** Names of messages that wait to be sent, in order. */
  get outbox(): string[] {
    return this.g.outbox.map(({ txnId }) => txnId);
  }

  /** The members by leaf, once the homeserver has been asked whether each leaf belongs to its device. */
  async members(): Promise<Member[]> {
    const members = await this.client.members(this.g);
    return members.map(({ leaf, userId, deviceId, verified }) => ({ leaf, user: userId, device: deviceId, verified }));
  }

  /**
   * Sends a message after all earlier ones. It returns the message's place when the Delivery Service has accepted it.
   * If it throws an error that is retryable, the message stays in the outbox, and a call with the same txnId waits for
   * it.
   */
  send(content: Uint8Array, options: SendOptions = {}): Promise<Position> {
    return this.client.send(this.g, content, options);
  }

  /** Adds all devices of a user. */
  add(user: string): Promise<void> {
    return this.client.add(this.g, user);
  }

  /** Removes all devices of a user. */
  remove(user: string): Promise<void> {
    return this.client.remove(this.g, user);
  }

  /** Asks to leave. The next Commit of another member removes this device. */
  leave(): Promise<void> {
    return this.client.leave(this.g);
  }

  /** Renews this device's keys, and commits what others have proposed. */
  update(): Promise<void> {
    return this.client.update(this.g);
  }

  /** Reads the group's log to its end. */
  catchUp(): Promise<void> {
    return this.client.bringUpToDate(this.g);
  }

  /** Moves the group to another Delivery Service. */
  move(target: string): Move {
    const begins = new AbortController();
    return this.moveOf(this.client.migrate(this.g, target, undefined, begins.signal), begins);
  }

  /** This device's move of the group, if one is under way: also one that began before a restart. */
  currentMove(): Move | undefined {
    return this.g.migration && this.moveOf(this.client.finishMigration(this.g));
  }

  private moveOf(done: Promise<Outcome>, begins?: AbortController): Move {
    done.catch(() => undefined); // who waits for it gets the error
    const abort = () => {
      begins?.abort();
      return this.client.abortMigration(this.g);
    };
    return { done, abort };
  }

  /** Follows a server that has taken the group on. With this call the user says that the Delivery Service is lost. */
  follow(server: string): Promise<void> {
    return this.client.follow(this.g, server);
  }

  /** Names, in the room, the servers that may take the group on when its host is lost, in order of preference. */
  setSuccessors(servers: string[]): Promise<void> {
    return this.client.setSuccessors(this.g, servers);
  }

  /**
   * The data with which an operator can recover the group at another server when its host is lost, as the body of the
   * request. It has no secrets.
   */
  recoveryData(): Promise<RecoveryData> {
    return this.client.export(this.g);
  }

  /** A secret of the epoch for the application's own use, of a length in bytes (RFC 9420, section 8.5). */
  exportSecret(label: string, context: Uint8Array, length: number): Promise<Uint8Array> {
    return mls.exportSecret(this.g.state, label, context, length);
  }

  /** Ends the group for good. The room may begin its next one. */
  end(): Promise<void> {
    return this.client.close(this.g);
  }

  /**
   * The group in which this one goes on, once its room, or the room that replaces it, names one. A member who was not
   * added to that group enters it with rejoin.
   */
  next(): Promise<{ roomId: string; id: string } | undefined> {
    return this.client.nextOf(this.g);
  }

  /**
   * Begins the room's next group once this one has ended, and adds this one's users. An event `failed` of the next one
   * names the users that it cannot add.
   */
  async beginNext({ server = this.host } = {}): Promise<Conversation> {
    return this.conversationOf(await this.client.reset(this.g, server));
  }
}
