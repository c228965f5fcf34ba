import assert from "node:assert/strict";
import { Recordings } from "../src/runtime/recordings.ts";

Deno.test("Recordings records what comes again and again, each under a number of its own", () => {
  const recordings = new Recordings<object>();
  const ids = (places: string, times: number) => Array.from({ length: times }, () => recordings.of(places)?.id);
  const seven = new Array(7).fill(undefined);
  assert.deepEqual(ids("a", 7), seven);
  assert.deepEqual(ids("b", 10), [...seven, "0", "0", "0"]);
  assert.deepEqual(ids("a", 3), ["1", "1", "1"], "other runs in between do not matter");
  assert.deepEqual(ids("b", 1), ["0"]);
});

Deno.test("Recordings takes no more of a device than it may, and goes on with what it has", () => {
  const recordings = new Recordings<object>();
  const found: (string | undefined)[] = [];
  for (let i = 0; i < 300; i++) {
    let id: string | undefined;
    for (let run = 0; run < 9; run++) id = recordings.of(`${i}`)?.id;
    found.push(id);
  }
  assert.deepEqual(found.slice(0, 256), Array.from({ length: 256 }, (_, i) => `${i}`));
  assert(found.slice(256).every((id) => id === undefined));
  for (let i = 300; i < 5000; i++) assert.equal(recordings.of(`${i}`), undefined);
  assert.equal(recordings.of("7")?.id, "7");
});

Deno.test("Recordings keeps what was bound for a recording, to give it back", () => {
  const recordings = new Recordings<number>();
  for (const places of ["a", "b", "c"]) for (let run = 0; run < 8; run++) recordings.of(places);
  recordings.of("a")!.bound = 1;
  recordings.of("c")!.bound = 3; // b's recording failed
  assert.equal(recordings.of("a")!.bound, 1);
  assert.deepEqual(recordings.bound(), [1, 3]);
});
