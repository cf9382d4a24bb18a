// How requests reach a Delivery Service: through the device's own homeserver, or directly (profile, sections 7 and 11).
import type { Answer, Matrix } from "./matrix.js";

export interface Transport {
  /** Sends a request for a route of a Delivery Service, such as "/groups", and gives the answer whatever its status. */
  send(server: string, method: string, route: string, body?: string): Promise<Answer>;

  /** The base URL at which a server is to be asked; undefined where the own homeserver asks it. */
  addressOf(server: string): Promise<string | undefined>;
}

/** The unstable features of a homeserver that forwards its users' requests, and of one that takes direct requests. */
const FORWARDS = "io.github.mimiport.v0";
export const TAKES_DIRECT = "io.github.mimiport.v0.direct_requests";

/** Where a homeserver has the routes of a Delivery Service. */
export const pathOf = (server: string, route: string): string =>
  `/_matrix/client/unstable/io.github.mimiport.v0/ds/${encodeURIComponent(server)}${route}`;

/** The way through a homeserver that has the module. */
class Forwarded implements Transport {
  constructor(private readonly matrix: Matrix) {}

  send(server: string, method: string, route: string, body?: string): Promise<Answer> {
    return this.matrix.send(method, pathOf(server, route), body);
  }

  async addressOf(): Promise<undefined> {}
}

/** The way through the own homeserver if that has the module, else the direct way: as the homeserver says at first. */
export class Chosen implements Transport {
  private choice: Promise<Transport> | undefined;

  constructor(
    private readonly matrix: Matrix,
    private readonly direct: Transport,
  ) {}

  async send(...request: Parameters<Transport["send"]>): Promise<Answer> {
    return (await this.chosen()).send(...request);
  }

  async addressOf(server: string): Promise<string | undefined> {
    return (await this.chosen()).addressOf(server);
  }

  private chosen(): Promise<Transport> {
    this.choice ??= this.choose();
    this.choice.catch(() => (this.choice = undefined)); // asked again the next time
    return this.choice;
  }

  private async choose(): Promise<Transport> {
    const { unstable_features: features } = await this.matrix.request("GET", "/_matrix/client/versions");
    return features?.[FORWARDS] === true ? new Forwarded(this.matrix) : this.direct;
  }
}
