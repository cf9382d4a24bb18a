// Users of a homeserver with Delivery Services in memory, and groups of them.
import assert from "node:assert/strict";
import { after, before } from "node:test";
import { Client } from "../src/client.js";
import type { ClientEvent, Group, Position, Surroundings } from "../src/group.js";
import { login, Matrix } from "../src/matrix.js";
import { textOf, utf8 } from "../src/bytes.js";
import { FetchTransport, type Transport } from "../src/transport.js";
import { emptyState } from "../src/records.js";
import { fromBase64 } from "../src/wire.js";
import { ServedNetwork } from "./fake.js";
import { reach } from "./reach.js";
import type { World } from "./ways.js";

export const net = new ServedNetwork();
let homeserver: string;

before(async () => {
  homeserver = await net.listen();
  reach(net.address);
});
after(() => net.close());

/** The number of rooms. The names of Delivery Services and users contain the number of their room. */
export let rooms = 0;
export const nextRoom = (): number => ++rooms;

/** The homeserver, for tests that may run in a page. */
export const world: World = {
  get homeserver() {
    return net.homeserver;
  },
  stock: net.stock,
  nextRoom,
  toDevice: (user, sender, content) => net.toDevice(user, sender, content),
  unread: (user) => net.unread(user),
  point: (roomId, content) => net.point(roomId, content),
  silence: (isSilent) => void (net.answersNothing = isSilent),
};

/** How far the clocks of all users are ahead, in milliseconds. */
export const clock = { ahead: 0 };

export class User {
  readonly events: ClientEvent[] = [];

  private constructor(readonly client: Client) {}

  static async create(
    name: string,
    stored = emptyState(),
    save: () => unknown = () => undefined,
    {
      signDeviceKeys,
      ...more
    }: Partial<Pick<Surroundings, "pause" | "mayMove">> & Pick<Transport, "signDeviceKeys"> = {},
  ): Promise<User> {
    const session = await login(homeserver, name, "password", undefined);
    const transport = Object.assign(new FetchTransport(session), signDeviceKeys && { signDeviceKeys });
    const emit = (e: ClientEvent) => void user.events.push(e);
    const now = () => Date.now() + clock.ahead;
    const user: User = new User(
      new Client(new Matrix(transport), stored, {
        now,
        pause: async () => undefined,
        emit,
        save: async () => void save(),
        ...more,
      }),
    );
    if (stored.identity === undefined) await user.client.createIdentity(1);
    return user;
  }

  get id(): string {
    return this.client.matrix.transport.userId;
  }

  get group(): Group {
    return this.client.group();
  }

  /** Handles the arrived events, as the sync loop does. */
  async sync(): Promise<void> {
    await (
      await this.client.synced(await this.client.matrix.sync(undefined, 0))
    ).done;
  }

  /** Sends a text. */
  say(text: string): Promise<Position> {
    return this.client.send(this.group, utf8(text));
  }

  /** The texts of other members. */
  texts(): string[] {
    return this.events.flatMap((e) => (e.event === "message" && !e.own ? [textOf(fromBase64(e.content))] : []));
  }

  take(kind: string): ClientEvent[] {
    return this.events.filter((e) => e.event === kind);
  }
}

/** A user who can be added. */
export async function published(name: string): Promise<User> {
  const user = await User.create(name);
  await user.client.publishKeyPackages(1);
  return user;
}

export const authenticator = (u: User) => Buffer.from(u.group.state.keySchedule.epochAuthenticator).toString("hex");

export function together(...users: User[]): void {
  for (const u of users) {
    const { ds, term, state } = u.group;
    const expected = users[0]!.group;
    assert.deepEqual(
      [ds, term, state.groupContext.epoch],
      [expected.ds, expected.term, expected.state.groupContext.epoch],
      u.id,
    );
    assert.equal(authenticator(u), authenticator(users[0]!), u.id);
  }
}

/** A room's group at s<n>.example with some members, none of which has anything to read. */
export async function party(...names: string[]): Promise<{ users: User[]; s: string; t: string; room: string }> {
  const n = nextRoom();
  const [room, s, t] = [`!room${n}`, `s${n}.example`, `t${n}.example`];
  const users: User[] = [];
  for (const name of names) users.push(await User.create(`${name}${n}`));
  const [founder, ...others] = users;
  await founder!.client.createGroup(room, s);
  for (const user of others) {
    await user.client.publishKeyPackages(2);
    await founder!.client.add(founder!.group, user.id);
    for (const u of users.slice(0, users.indexOf(user) + 1)) await u.sync();
  }
  together(...users);
  return { users, s, t, room };
}
