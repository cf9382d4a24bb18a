// Devices in one group without any server, for tests of MLS alone.
import type { ClientState, ExternalSender, Proposal } from "ts-mls";
import * as mls from "../src/mls.js";

/** ts-mls looks at the clock when it checks the lifetime of a KeyPackage that it adds. */
export const NOW = BigInt(Math.floor(Date.now() / 1000));
export const utf8 = (s: string) => new TextEncoder().encode(s);

export const device = (name: string, suite = 1) =>
  mls.newIdentity({ userId: `@${name}:one.example`, deviceId: name.toUpperCase() }, suite);

/** The members' states by name, all in the same epoch. */
export class TestGroup {
  readonly states = new Map<string, ClientState>();

  static async create(founder: string, sender?: ExternalSender, suite = 1): Promise<TestGroup> {
    const group = new TestGroup();
    group.states.set(founder, await mls.newGroup(await device(founder, suite), utf8("a group"), sender, NOW));
    return group;
  }

  state(name: string): ClientState {
    return this.states.get(name)!;
  }

  /** A Commit by `by`, handled by every member. */
  async commit(by: string, proposals: Proposal[] = [], authenticatedData?: Uint8Array): Promise<mls.Commit> {
    const before = this.state(by);
    const made = await mls.commit(before, await mls.choose(before, proposals.map(mls.byValue)), authenticatedData);
    for (const [name, state] of this.states) {
      this.states.set(name, name === by ? made.next : (await mls.process(state, made.message)).state);
    }
    return made;
  }

  /** Adds members by one Commit, and gives the Welcome and their KeyPackages. */
  async add(by: string, ...names: string[]) {
    const packages = await Promise.all(
      names.map(async (name) => mls.newKeyPackage(await device(name, mls.suiteId(this.state(by))), NOW)),
    );
    const adds = packages.map((p): Proposal => ({ proposalType: "add", add: { keyPackage: p.publicPackage } }));
    const { welcome } = await this.commit(by, adds);
    for (const [i, name] of names.entries()) this.states.set(name, await mls.join(welcome!, packages[i]!, noTree));
    return { welcome: welcome!, packages };
  }

  async remove(by: string, name: string): Promise<void> {
    const removed = this.state(name).privatePath.leafIndex;
    this.states.delete(name);
    await this.commit(by, [{ proposalType: "remove", remove: { removed } }]);
  }

  /** Every member's epoch authenticator: one element when they agree. */
  authenticators(): Set<string> {
    return new Set([...this.states.values()].map((s) => Buffer.from(s.keySchedule.epochAuthenticator).toString("hex")));
  }
}

export async function noTree(): Promise<Uint8Array> {
  throw new Error("no tree to fetch");
}
