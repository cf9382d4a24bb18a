// The state of a device in one file, for tests of what a restart keeps.
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import type { ClientState } from "ts-mls";
import type { Stored } from "../src/group.js";
import {
  deviceRecords,
  encodeContent,
  emptyState,
  groupRecords,
  loadState,
  stateReader,
  stateRecords,
} from "../src/records.js";
import type { Value } from "../src/store.js";
import { fromBase64, toBase64 } from "../src/wire.js";

/** An MLS state as it is after a restart. */
export function reloaded(state: ClientState): ClientState {
  const values = [...stateRecords("group", "present", state)].map(([name, c]) => [name, encodeContent(c)] as const);
  return stateReader("group", new Map(values))("present");
}

export function saveStore(path: string, stored: Stored): void {
  const records = [deviceRecords(stored), ...[...stored.groups.values()].map(groupRecords)].flatMap((r) => [...r]);
  const values = records.map(([name, content]) => [name, encodeContent(content)] as const);
  writeFileSync(path, JSON.stringify(values.map(([name, v]) => [name, typeof v === "string" ? v : [toBase64(v)]])));
}

export function loadStore(path: string): Stored {
  if (!existsSync(path)) return emptyState();
  const values: [string, string | [string]][] = JSON.parse(readFileSync(path, "utf8"));
  return loadState(
    new Map(values.map(([name, v]): [string, Value] => [name, typeof v === "string" ? v : fromBase64(v[0])])),
  );
}
