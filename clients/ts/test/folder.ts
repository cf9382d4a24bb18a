// A folder of a page, at an address of this machine.
import { createReadStream } from "node:fs";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { extname, join, normalize } from "node:path";
import type { TestContext } from "node:test";

const types: Record<string, string> = {
  ...{ ".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".wasm": "application/wasm" },
};

/** Serves a folder until the test ends, and returns its address. */
export async function serveFolder(t: TestContext, folder: string): Promise<string> {
  const server = createServer((req, res) => {
    const path = normalize(new URL(req.url!, "http://page").pathname).replace(/\/$/, "/index.html");
    res.writeHead(200, { "content-type": types[extname(path)] ?? "application/octet-stream" });
    createReadStream(join(folder, path))
      .on("error", () => res.destroy())
      .pipe(res);
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  t.after(() => {
    server.close();
    server.closeAllConnections();
  });
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}/`;
}
