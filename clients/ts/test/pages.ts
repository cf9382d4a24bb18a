// Pages in a real browser, with the client's modules as they are, without a bundler.
import { readFile } from "node:fs/promises";
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { join, normalize } from "node:path";
import { fileURLToPath } from "node:url";
import { type Browser, chromium } from "playwright-core";
import { chromiumPath } from "./needs.js";

const root = fileURLToPath(new URL("../..", import.meta.url));
const hpke = (name: string) => [`@hpke/${name}`, `/node_modules/@hpke/${name}/esm/mod.js`];

/** Where modules are, by their names or by the start of their names. */
const places: Record<string, string> = {
  "mimiport-client": "/dist/src/index.js",
  "mimiport-client/browser": "/dist/src/browser.js",
  "ts-mls": "/node_modules/ts-mls/dist/src/index.js",
  "ts-mls/": "/node_modules/ts-mls/dist/src/",
  "@noble/": "/node_modules/@noble/",
  ...Object.fromEntries(["core", "common", "chacha20poly1305"].map(hpke)),
};

/** A module with the paths of others instead of their names, since a Worker has no import map. */
const withPaths = (source: string): string =>
  source.replaceAll(/^((?:import|export)\b[^;]*? from )"([^."/][^"]*)"/gm, (whole, start, name) => {
    const [known, place] =
      Object.entries(places).find(([k]) => k === name || (k.endsWith("/") && name.startsWith(k))) ?? [];
    return known === undefined ? whole : `${start}"${place}${name.slice(known.length)}"`;
  });

const html = `<!doctype html><link rel="icon" href="data:,">
<script type="importmap">${JSON.stringify({ imports: places })}</script>`;

/** A browser, and a server of empty pages. That at `strict` forbids Workers. */
export class Pages {
  private constructor(
    readonly browser: Browser,
    readonly address: string,
    private readonly server: Server,
  ) {}

  static async open(): Promise<Pages> {
    const server = createServer(async (req, res) => {
      const { pathname } = new URL(req.url!, "http://page");
      if (!pathname.endsWith(".js")) {
        const policy = pathname === "/strict" ? { "content-security-policy": "worker-src 'none'" } : {};
        res.writeHead(200, { "content-type": "text/html", ...policy });
        return res.end(html);
      }
      const source = await readFile(join(root, normalize(pathname)), "utf8").catch(() => undefined);
      res.writeHead(source === undefined ? 404 : 200, { "content-type": "text/javascript" });
      return res.end(source && withPaths(source));
    });
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    const address = `http://127.0.0.1:${(server.address() as AddressInfo).port}/`;
    return new Pages(await chromium.launch({ executablePath: chromiumPath, args: ["--no-sandbox"] }), address, server);
  }

  async close(): Promise<void> {
    await this.browser.close();
    this.server.close();
    this.server.closeAllConnections();
  }
}
