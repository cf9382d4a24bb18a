// The homeserver and the Delivery Services in memory, at addresses of this machine.
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { type Answered, type Asked, encodeBody, FakeNetwork } from "../src/testing.js";

export { type FakeDs, refuse, SigningKey } from "../src/testing.js";

/** As Matrix wants it of servers. */
const CORS = {
  "access-control-allow-origin": "*",
  "access-control-allow-methods": "GET, POST, PUT, DELETE, OPTIONS",
  "access-control-allow-headers": "content-type, authorization",
};

type Answer = (asked: Asked) => Promise<Answered | undefined>;

async function serve(req: IncomingMessage, res: ServerResponse, answer: Answer): Promise<void> {
  if (req.method === "OPTIONS") return void res.writeHead(200, CORS).end();
  let text = "";
  for await (const chunk of req) text += chunk;
  const { method = "", url: uri = "", headers } = req;
  const answered = await answer({ method, uri, authorization: headers.authorization ?? "", text });
  if (answered === undefined) return void res.destroy();
  res.writeHead(answered.status, CORS).end(encodeBody(answered));
}

export class ServedNetwork extends FakeNetwork {
  /** The address of the users' homeserver. */
  homeserver = "";
  private readonly servers: Server[] = [];

  /** With MIMI_DIRECT in the environment the users' homeserver lacks the module. */
  constructor() {
    super(!!process.env.MIMI_DIRECT);
  }

  /** Serves the users' homeserver, whose address it returns, and those of the Delivery Services. */
  async listen(): Promise<string> {
    this.address = await this.start((asked) => this.answerDirectly(asked));
    return (this.homeserver = await this.start((asked) => this.answer(asked)));
  }

  private async start(answer: Answer): Promise<string> {
    const server = createServer((req, res) => void serve(req, res, answer).catch(() => res.destroy()));
    this.servers.push(server);
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    return `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  }

  close(): void {
    for (const server of this.servers) {
      server.close();
      server.closeAllConnections();
    }
  }
}
