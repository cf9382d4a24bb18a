// The program of a page that keeps the promises of the way through matrix-js-sdk. A test bundles it, and gives the page
// the homeserver as functions.
import { requireSigned, sdkWay } from "./sdk.js";
import { promises, type World } from "./ways.js";

declare global {
  var world: World;
  var keep: (name: string) => Promise<void>;
  var names: string[];
}

const all: Record<string, () => Promise<void>> = { "signs the device's keys": () => requireSigned(globalThis.world) };
for (const [name, keep] of Object.entries(promises)) all[name] = () => keep(globalThis.world, sdkWay);
globalThis.names = Object.keys(all);
globalThis.keep = (name) => all[name]!();
