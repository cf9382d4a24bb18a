import assert from "node:assert/strict";
import { test } from "node:test";
import { Lanes } from "../src/lanes.js";

test("a lane is empty after a step of which the changes could not be kept, and goes on", async () => {
  let fails = true;
  const lanes = new Lanes(async () => {
    if (fails) throw new Error("the store is full");
  });
  await assert.rejects(
    lanes.run("g", async () => 1),
    /the store is full/,
  );
  assert.equal(lanes.load("g"), 0);
  fails = false;
  assert.equal(await lanes.run("g", async () => 2), 2);
  assert.equal(lanes.load("g"), 0);
});
