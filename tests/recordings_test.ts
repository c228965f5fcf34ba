import assert from "node:assert/strict";
import { NOT_RECORDED, Recordings } from "../src/runtime/recordings.ts";

Deno.test("Recordings records what comes again and again, each under a number of its own", () => {
  const recordings = new Recordings();
  const ids = (places: string, times: number): string[] => Array.from({ length: times }, () => recordings.idOf(places));
  const seven = new Array(7).fill(NOT_RECORDED);
  assert.deepEqual(ids("a", 7), seven);
  assert.deepEqual(ids("b", 10), [...seven, "0", "0", "0"]);
  assert.deepEqual(ids("a", 3), ["1", "1", "1"], "other runs in between do not matter");
  assert.deepEqual(ids("b", 1), ["0"]);
});

Deno.test("Recordings takes no more of a device than it may, and goes on with what it has", () => {
  const recordings = new Recordings();
  const found: string[] = [];
  for (let i = 0; i < 300; i++) {
    let id = "";
    for (let run = 0; run < 9; run++) id = recordings.idOf(`${i}`);
    found.push(id);
  }
  assert.deepEqual(found.slice(0, 256), Array.from({ length: 256 }, (_, i) => `${i}`));
  assert(found.slice(256).every((id) => id === NOT_RECORDED));
  for (let i = 300; i < 5000; i++) assert.equal(recordings.idOf(`${i}`), NOT_RECORDED);
  assert.equal(recordings.idOf("7"), "7");
});
