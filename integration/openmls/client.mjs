// A Matrix device that uses OpenMLS. It is in at most one group, follows the group by its log only, and keeps its state
// in memory. The TypeScript client's code sends its requests and verifies the servers' signatures.
import { joinable, oneTimeKey, signDeviceKeys } from "../../clients/ts/dist/src/devices.js";
import { verifyOneTimeKey, withMlsKey } from "../../clients/ts/dist/src/devices.js";
import { DeliveryService, submission } from "../../clients/ts/dist/src/ds.js";
import { Evidence } from "../../clients/ts/dist/src/evidence.js";
import { ServerKeys } from "../../clients/ts/dist/src/keys.js";
import { BINDING, FAN_OUT, Matrix, POINTER, serverOf, withToken } from "../../clients/ts/dist/src/matrix.js";
import { encodeKeyPackage, keyPackageRef, parseKeyPackage } from "../../clients/ts/dist/src/mls.js";
import { decode, encode, fromBase64, fromBase64url } from "../../clients/ts/dist/src/wire.js";
import { Forwarded } from "../../clients/ts/dist/src/route.js";
import { FetchTransport } from "../../clients/ts/dist/src/transport.js";
import { leafIdentity, toBase64, toBase64url } from "../../clients/ts/dist/src/wire.js";
import { Member, SUITE } from "./member.mjs";

const RESERVED_USER = "@_mimiport:";
/** How long a /sync waits, in milliseconds. */
const SYNC_WAIT = 1000;

const userOf = (identity) => decode(leafIdentity, identity).userId;

export class Client {
  #matrix;
  #session;
  #member;
  /** The device and its signature keys. */
  #own;
  #since;
  /** The state of the group. */
  #group;
  /** Application messages of other members. */
  #inbox = [];

  /** Takes a session over, makes the device's MLS key, and publishes it. */
  async login(homeserver, token) {
    this.#session = await withToken(homeserver, token);
    this.#matrix = new Matrix(new FetchTransport(this.#session));
    this.#member = await Member.withIdentity(encode(leafIdentity, this.#session));
    this.#own = { ...this.#session, suite: SUITE, ...(await this.#member.keys()) };
    await this.#matrix.uploadDeviceKeys(await signDeviceKeys(withMlsKey(this.#own), this.#own));
  }

  get #here() {
    if (this.#group === undefined) throw new Error("in no group");
    return this.#group;
  }

  #ds(server = this.#here.ds) {
    return new DeliveryService(new Forwarded(this.#matrix), server);
  }

  async publishKeyPackages(n) {
    const published = [];
    for (let i = 0; i < n; i++) {
      const message = await this.#member.keyPackage();
      const ref = await keyPackageRef(parseKeyPackage(message).keyPackage);
      published.push({ ref, value: await oneTimeKey(this.#own, message) });
    }
    await this.#matrix.uploadKeyPackages("one_time_keys", published);
  }

  /** Creates the group of a room at the user's homeserver. Its first GroupInfo includes the tree. */
  async create(room) {
    const ds = serverOf(this.#session.userId);
    const { group_id, external_sender } = await this.#ds(ds).reserve(room, SUITE);
    const id = fromBase64url(group_id);
    const entry = fromBase64(external_sender);
    const key = entry.subarray(1, 1 + entry[0]); // opaque signature_key<V>, Credential credential
    await this.#member.create(id, key, ({ groupInfo }) => this.#ds(ds).bind(group_id, toBase64(groupInfo)));
    this.#enter(room, ds, { term: 0, seq: 0 });
  }

  /** Waits for a Welcome and joins its group. */
  async join() {
    while (this.#group === undefined) await this.sync();
  }

  /** Enters the group of a room by an external Commit. */
  async rejoin(room) {
    const { group_id, creating_server } = await this.#matrix.roomState(room, BINDING);
    const key = toBase64url(fromBase64url(group_id));
    const pointer = await this.#matrix.roomState(room, POINTER);
    const { delivery_service } = await this.#ds(pointer?.via ?? creating_server).host(key);
    const ds = this.#ds(delivery_service);
    const { group_info } = await ds.group(key);
    let at;
    await this.#member.enter(fromBase64(group_info), async (commit) => {
      at = await ds.submit(key, submission(commit));
    });
    this.#enter(room, delivery_service, at);
    await this.catchUp();
  }

  /** Starts to follow a group after message seq of its log. */
  #enter(room, ds, { term, seq }) {
    const id = this.#member.groupId;
    const sent = new Set(); // own messages to skip in the log
    this.#group = { id, key: toBase64url(id), room, ds, term, next: seq + 1, proposals: 0, active: true, sent };
  }

  async add(user) {
    const published = await this.#matrix.queryKeys([user]);
    const keyPackages = [];
    for (const { deviceId, value } of await this.#matrix.claimKeyPackages(user, joinable(user, published))) {
      const keyPackage = await verifyOneTimeKey({ userId: user, deviceId }, value, published, SUITE);
      keyPackages.push(encodeKeyPackage(keyPackage));
    }
    await this.#commit((submit) => this.#member.add(keyPackages, submit));
  }

  async remove(user) {
    const leaves = (await this.#member.identities()).filter((identity) => userOf(identity) === user);
    await this.#commit((submit) => this.#member.remove(leaves, submit));
  }

  /** Commits all pending proposals. */
  update() {
    return this.#commit((submit) => this.#member.update(submit));
  }

  /** Makes a Commit in the present epoch, and submits it to the Delivery Service. */
  async #commit(make) {
    await this.catchUp();
    await make((commit) => this.#submit(submission(commit)));
    this.#here.proposals = 0;
    await this.catchUp();
  }

  /** Sends an application message. It commits pending proposals first (RFC 9420, section 12.4). */
  async send(text) {
    await this.catchUp();
    if (this.#here.proposals > 0) await this.update();
    await this.#submit({ message: toBase64(await this.#member.encrypt(Buffer.from(text))) });
    await this.catchUp();
  }

  async #submit(what) {
    const { key, sent } = this.#here;
    sent.add(what.message);
    await this.#ds().submit(key, what);
  }

  /** Handles new to-device events. It waits at most SYNC_WAIT for one. */
  async sync() {
    const { next, toDevice } = await this.#matrix.sync(this.#since, SYNC_WAIT);
    this.#since = next;
    for (const { type, sender, content } of toDevice) if (type === FAN_OUT) await this.#heard(sender, content);
  }

  /** Reads the log after a fan-out event of the group. */
  async #heard(sender, { kind, message, room_id: room, term, seq }) {
    if (this.#group !== undefined) return this.catchUp();
    if (kind !== "welcome") return;
    await this.#member.join(fromBase64(message));
    this.#enter(room, sender.slice(RESERVED_USER.length), { term, seq });
    await this.catchUp();
  }

  /** Reads the log to its end, and follows every move. */
  async catchUp() {
    const g = this.#here;
    for (let end = false; !end && g.active; ) {
      const page = await this.#ds().messages(g.key, g.term, g.next);
      for (const message of page.messages) await this.#take(message);
      g.next = Math.max(g.next, page.next);
      end = page.end && !(await this.#follow(page.moved));
    }
  }

  async #take({ seq, epoch, kind, message }) {
    const g = this.#here;
    g.next = seq + 1;
    if (kind === "welcome" || g.sent.delete(message) || epoch < (await this.#member.epoch())) return;
    const { plaintext, author, isActive } = await this.#member.process(fromBase64(message));
    g.active = isActive;
    if (kind === "commit") g.proposals = 0;
    if (kind === "proposal") g.proposals++;
    if (plaintext !== undefined) this.#inbox.push({ sender: userOf(author), text: Buffer.from(plaintext).toString() });
  }

  /** Follows a redirect to the next host: core-crypto does not show the authenticated_data of the migration Commit. */
  async #follow(moved) {
    if (moved === undefined) return false;
    const g = this.#here;
    const keys = new ServerKeys(this.#matrix, new Forwarded(this.#matrix), { now: Date.now, emit() {} });
    const proven = moved.term === g.term + 1 && (await new Evidence(keys).provesMove(g, moved));
    if (!proven) throw new Error("a redirect without proof");
    Object.assign(g, { ds: moved.delivery_service, term: moved.term, next: 1 });
    return true;
  }

  /** The group's state, as far as core-crypto shows it. */
  async state() {
    const { key: group, room, ds, term, active, proposals } = this.#here;
    const members = (await this.#member.identities()).map((identity) => ({ user: userOf(identity) }));
    const epoch = await this.#member.epoch();
    return { group, room, ds, term, epoch, active, members, pending_proposals: proposals };
  }

  /** Finds a message of another member by its text. */
  message(text) {
    return this.#inbox.find((m) => m.text === text);
  }

  async exportSecret(label, length) {
    if (label !== "exporter") throw new Error("core-crypto exports by one label only");
    return Buffer.from(await this.#member.exportSecret(length)).toString("hex");
  }

  info(ds) {
    return this.#ds(ds).group(this.#here.key);
  }
}
