import assert from "node:assert/strict";
import { Blocks } from "../src/runtime/blocks.ts";

const BLOCK = 1 << 12;

/** Blocks far from each other, or side by side. */
function blocks(gap = 1 << 20): { blocks: Blocks; fetched: number[] } {
  const fetched: number[] = [];
  let next = 1 << 16;
  return {
    fetched,
    blocks: new Blocks(BLOCK, (bytes) => {
      const at = next;
      fetched.push(bytes);
      next += bytes + gap;
      return at;
    }),
  };
}

Deno.test("Blocks hands out parts that neither overlap nor leave their block, whatever the order", () => {
  for (const gap of [0, 1 << 20]) {
    const { blocks: memory, fetched } = blocks(gap);
    const taken = new Map<number, number>();
    let seed = 7;
    const random = (n: number): number => (seed = Math.imul(seed, 1103515245) + 12345 >>> 0) % n;
    for (let step = 0; step < 4000; step++) {
      if (taken.size > 0 && random(5) < 2) {
        const at = [...taken.keys()][random(taken.size)]!;
        memory.free(at);
        taken.delete(at);
      } else {
        const bytes = random(3 * BLOCK) + (step % 3 === 0 ? 1 : 0);
        const at = memory.allocate(bytes);
        assert.equal(at % 256, 0);
        for (const [other, size] of taken) assert(at + bytes <= other || other + size <= at, `step ${step} overlaps`);
        taken.set(at, Math.max(1, bytes));
      }
    }
    const all = fetched.reduce((sum, bytes) => sum + bytes, 0);
    assert(memory.used <= all);
    for (const at of taken.keys()) memory.free(at);
    assert.equal(memory.used, 0);
    const before = fetched.length;
    memory.allocate(Math.max(...fetched)); // all parts have become whole blocks again
    assert.equal(fetched.length, before);
  }
});

Deno.test("Blocks gives the same addresses to the same requests", () => {
  const { blocks: memory } = blocks();
  const picture = (): number[] => {
    const a = memory.allocate(300), b = memory.allocate(5000), c = memory.allocate(10);
    memory.free(b);
    const d = memory.allocate(2000), e = memory.allocate(1);
    for (const at of [a, c, d, e]) memory.free(at);
    return [a, b, c, d, e];
  };
  picture(); // fetches
  assert.deepEqual(picture(), picture());
});

Deno.test("Blocks passes on that there is no more, and refuses to free what it did not give", () => {
  const memory = new Blocks(BLOCK, () => {
    throw new RangeError("no more");
  });
  assert.throws(() => memory.allocate(1), /no more/);
  assert.throws(() => blocks().blocks.free(0), RangeError);
  const { blocks: other } = blocks();
  const at = other.allocate(1);
  other.free(at);
  assert.throws(() => other.free(at), RangeError);
});
