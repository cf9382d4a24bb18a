// The package as an application gets it.
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { mkdtempSync, readFileSync, realpathSync, rmSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";

const run = promisify(execFile);
const root = fileURLToPath(new URL("../..", import.meta.url));
const tool = (name: string) => join(root, "node_modules/.bin", name);

let dir: string;
let tarball: string;
let packed: string[];

before(async () => {
  dir = mkdtempSync(join(tmpdir(), "mimiport-"));
  const { stdout } = await run("npm", ["pack", "--json", "--ignore-scripts", "--pack-destination", dir], { cwd: root });
  const [{ filename, files }] = JSON.parse(stdout);
  tarball = join(dir, filename);
  packed = files.map(({ path }: { path: string }) => path);
});
after(() => rmSync(dir, { recursive: true }));

test("the package has what an application needs, with types and source maps, and nothing else", () => {
  const modules = packed.filter((path) => path.endsWith(".js"));
  assert.ok(modules.includes("dist/src/index.js"));
  const expected = modules.flatMap((path) => [path, `${path}.map`, path.replace(/js$/, "d.ts")]);
  assert.deepEqual([...packed].sort(), ["README.md", "package.json", ...expected].sort());
});

/** The modules that a module needs, itself among them. */
function needed(path: string, found = new Set<string>()): Set<string> {
  if (found.has(path)) return found;
  found.add(path);
  const { resolve } = createRequire(path);
  for (const [, name] of readFileSync(path, "utf8").matchAll(/^(?:import|export)\b[^;]*? from "(.*)";/gm))
    needed(resolve(name!), found);
  return found;
}

test("a bundler can make one file of the Worker's program: no module loads another while it runs", () => {
  const modules = [...needed(join(root, "dist/src/worker.js"))];
  assert.ok(modules.includes(realpathSync(join(root, "node_modules/ts-mls/dist/src/leafNode.js"))));
  assert.deepEqual(
    modules.filter((path) => /\bimport\(/.test(readFileSync(path, "utf8"))),
    [],
  );
});

test("publint and attw have nothing to say about the package", async () => {
  await run(tool("publint"), [tarball, "--strict"]);
  await run(tool("attw"), [tarball, "--profile", "esm-only"]);
});

test("a fresh project imports the package and compiles against its types", async () => {
  writeFileSync(join(dir, "package.json"), JSON.stringify({ type: "module", private: true }));
  await run("npm", ["install", "--prefer-offline", "--no-audit", "--no-fund", tarball], { cwd: dir });
  writeFileSync(
    join(dir, "app.ts"),
    `import { MemoryStore, Mimiport, type Conversation } from "mimiport-client";
     import { FileStore } from "mimiport-client/node";
     import { IndexedDbStore } from "mimiport-client/browser";
     import { SdkTransport } from "mimiport-client/matrix-js-sdk";
     import { FakeNetwork } from "mimiport-client/testing";
     const say = (c: Conversation) => c.send(new Uint8Array([1]), { txnId: "1" }).then(({ term, seq }) => term + seq);
     const all = [MemoryStore, Mimiport.open, FileStore, IndexedDbStore, SdkTransport, FakeNetwork, say];
     console.log(all.map((x) => typeof x).join());`,
  );
  const options = ["--target", "es2022", "--module", "nodenext", "--strict", "--skipLibCheck"];
  await run(tool("tsc"), [...options, "--typeRoots", join(root, "node_modules/@types"), "app.ts"], { cwd: dir });
  const { stdout } = await run(process.execPath, ["app.js"], { cwd: dir });
  assert.equal(stdout.trim(), Array(7).fill("function").join());
});
