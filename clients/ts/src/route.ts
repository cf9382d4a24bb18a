// Routes to a Delivery Service: through the device's own homeserver, or direct (profile, sections 7 and 11).
import type { Answer, Matrix } from "./matrix.js";

/** A way to Delivery Services. */
export interface Route {
  /** Sends a request for a path of a Delivery Service, such as "/groups". Returns the answer with any status. */
  send(server: string, method: string, path: string, body?: string): Promise<Answer>;

  /** Whether the own homeserver has the module: it sends the requests. */
  forwards(): Promise<boolean>;
}

/**
 * The unstable features of a homeserver: one says that it forwards its users' requests, the other that it takes direct
 * requests.
 */
const FORWARDS = "io.github.mimiport.v0";
export const TAKES_DIRECT = "io.github.mimiport.v0.direct_requests";

/** The path of a Delivery Service's routes at a homeserver. */
export const pathOf = (server: string, path: string): string =>
  `/_matrix/client/unstable/io.github.mimiport.v0/ds/${encodeURIComponent(server)}${path}`;

/** The route through a homeserver that has the module. */
export class Forwarded implements Route {
  constructor(private readonly matrix: Matrix) {}

  send(server: string, method: string, path: string, body?: string): Promise<Answer> {
    return this.matrix.send(method, pathOf(server, path), body);
  }

  async forwards(): Promise<boolean> {
    return true;
  }
}

/**
 * The route through the own homeserver if that has the module, else the direct route. The homeserver's first answer
 * decides.
 */
export class Chosen implements Route {
  private choice: Promise<Route> | undefined;

  constructor(
    private readonly matrix: Matrix,
    private readonly direct: Route,
  ) {}

  async send(...request: Parameters<Route["send"]>): Promise<Answer> {
    return (await this.chosen()).send(...request);
  }

  async forwards(): Promise<boolean> {
    return (await this.chosen()).forwards();
  }

  private chosen(): Promise<Route> {
    this.choice ??= this.choose();
    this.choice.catch(() => (this.choice = undefined)); // ask again the next time
    return this.choice;
  }

  private async choose(): Promise<Route> {
    const { unstable_features: features } = await this.matrix.request("GET", "/_matrix/client/versions");
    return features?.[FORWARDS] === true ? new Forwarded(this.matrix) : this.direct;
  }
}
