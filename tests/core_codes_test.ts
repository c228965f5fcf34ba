import assert from "node:assert/strict";
import { openCheckpoint } from "../src/checkpoint/open.ts";
import { readTensor } from "../src/checkpoint/source.ts";
import { gaussians, sampleCodes, type Stream } from "../src/core.ts";
import * as oracle from "./core_oracles.ts";

const CASES = `${import.meta.dirname}/golden-star/cases`;
const stream: Stream = { seed: 21, purpose: "bits", scale: 4 };
const noise = (count: number, size = 1) => gaussians({ seed: 1, purpose: "weights" }, count).map((v) => size * v);

/** Filters: off, each alone, both, at their ends. */
const filters = [[0, 0], [0, 1], [50, 0], [300, 0.5], [0, 0.8], [20, 0.8], [1, 0.8], [5, 0.01], [299, 0.999]] as const;

/** The same logits in every row. */
function repeated(row: Float32Array, count: number): Float32Array {
  return Float32Array.from({ length: row.length * count }, (_, i) => row[i % row.length]!);
}

/** Pearson's statistic of ids against probabilities, in deviations from its mean: ids expected less than 10 times are one. */
function chiSquare(ids: Uint32Array, p: Float64Array): number {
  const counts = new Float64Array(p.length);
  for (const id of ids) counts[id]!++;
  let [sum, bins, rareCount, rareWanted] = [0, 0, 0, 0];
  p.forEach((share, id) => {
    const wanted = share * ids.length;
    if (wanted >= 10) [sum, bins] = [sum + (counts[id]! - wanted) ** 2 / wanted, bins + 1];
    else [rareCount, rareWanted] = [rareCount + counts[id]!, rareWanted + wanted];
  });
  if (rareWanted >= 10) [sum, bins] = [sum + (rareCount - rareWanted) ** 2 / rareWanted, bins + 1];
  return (sum - (bins - 1)) / Math.sqrt(2 * (bins - 1));
}

Deno.test("sampleCodes() equals the oracle for every filter", () => {
  const V = 300;
  for (const size of [0.5, 3, 12]) {
    const logits = noise(40 * V, size);
    for (const [topK, topP] of filters) {
      assert.deepEqual(
        [...sampleCodes(stream, logits, V, topK, topP)],
        oracle.sampleCodes(stream, logits, V, topK, topP),
      );
    }
  }
});

Deno.test("sampleCodes() draws by the softmax of what the filters leave", () => {
  const [V, count] = [60, 20_000];
  const row = noise(V, 3);
  for (const [topK, topP] of [[0, 0], [20, 0], [0, 0.8], [20, 0.8], [10, 0.95]] as const) {
    const { allowed } = oracle.allowedCodes(row, topK, topP);
    const ids = sampleCodes(stream, repeated(row, count), V, topK, topP);
    assert(ids.every((id) => allowed[id] === 1));
    const distance = chiSquare(ids, oracle.softmax(row, allowed));
    assert(Math.abs(distance) < 4, `top-k ${topK}, top-p ${topP}: ${distance} deviations`);
    // The statistic sees a temperature of 1.5.
    assert(chiSquare(ids, oracle.softmax(row.map((logit) => logit / 1.5), allowed)) > 10);
  }
});

Deno.test("sampleCodes() draws row i by position i, whatever the other rows hold", () => {
  const [V, L] = [64, 50];
  const logits = noise(L * V, 2);
  const ids = sampleCodes(stream, logits, V, 30, 0.9);
  assert.deepEqual(sampleCodes(stream, logits.subarray(0, 7 * V), V, 30, 0.9), ids.subarray(0, 7));
  const changed = logits.slice().fill(0, 0, 20 * V);
  assert.deepEqual(sampleCodes(stream, changed, V, 30, 0.9).subarray(20), ids.subarray(20));
  assert.notDeepEqual(sampleCodes({ ...stream, scale: 5 }, logits, V, 30, 0.9), ids);
});

Deno.test("sampleCodes() is greedy with top-k 1 or a tiny top-p, and leaves its argument as it was", () => {
  const [V, L] = [500, 30];
  const logits = noise(L * V);
  const before = logits.slice();
  const rows = Array.from({ length: L }, (_, i) => logits.subarray(i * V, (i + 1) * V));
  const greedy = Uint32Array.from(rows, (row) => row.indexOf(Math.max(...row)));
  for (const [topK, topP] of [[1, 0], [1, 0.8], [0, 1e-9], [40, 1e-300]] as const) {
    assert.deepEqual(sampleCodes(stream, logits, V, topK, topP), greedy);
  }
  assert.deepEqual(logits, before);
});

Deno.test("sampleCodes() filters nothing with 0, with the whole vocabulary and with a top-p of 1", () => {
  const logits = noise(40 * 64);
  const ids = sampleCodes(stream, logits, 64, 0, 0);
  for (const [topK, topP] of [[64, 0], [1000, 0], [0, 1], [64, 1]] as const) {
    assert.deepEqual(sampleCodes(stream, logits, 64, topK, topP), ids);
  }
  assert.notDeepEqual(sampleCodes(stream, logits, 64, 63, 0.5), ids);
  assert.deepEqual(sampleCodes(stream, noise(5), 1, 1, 0.5), new Uint32Array(5));
});

Deno.test("sampleCodes() keeps ties with the k-th largest, and top-p removes the lower id of a tie first", () => {
  const drawn = (row: Float32Array, topK: number, topP: number) =>
    [...new Set(sampleCodes(stream, repeated(row, 500), row.length, topK, topP))].sort();
  assert.deepEqual(drawn(Float32Array.of(1, 2, 0, 2, 2), 2, 0), [1, 3, 4]);
  assert.deepEqual(drawn(Float32Array.of(-0, 0, -1, 0), 1, 0), [0, 1, 3]); // both zeros are one value
  assert.deepEqual(drawn(new Float32Array(4), 0, 0.5), [2, 3]); // sums 1/4 and 1/2 are at most 1/2
  assert.deepEqual(drawn(new Float32Array(4), 0, 0.51), [1, 2, 3]);
});

Deno.test("sampleCodes() never draws minus infinity, and takes the largest numbers there are", () => {
  const row = Float32Array.of(-Infinity, 1, -Infinity, 0, -Infinity);
  for (const [topK, topP] of [[0, 0], [4, 0], [4, 0.99], [0, 1]] as const) {
    const ids = sampleCodes(stream, repeated(row, 2000), 5, topK, topP);
    assert.deepEqual([...new Set(ids)].sort(), [1, 3]);
  }
  const limits = Float32Array.of(-3.4e38, 3.4e38, 0);
  for (const topP of [0, 0.9]) assert.deepEqual(sampleCodes(stream, limits, 3, 0, topP), Uint32Array.of(1));
});

Deno.test("sampleCodes() allows what the golden cases allow", async () => {
  for (const name of ["star-vanilla", "star-skip", "star-stagevar", "star-cond"]) {
    const { top_k: topK, top_p: topP } = JSON.parse(await Deno.readTextFile(`${CASES}/${name}.json`));
    const source = await openCheckpoint(`${CASES}/${name}.safetensors`);
    let [compared, filtered] = [0, 0];
    for (const scale of [0, 1, 2, 3, 4, 5]) {
      if (!source.has(`scale.${scale}.logits`)) continue; // a skipped one
      const ref = source.get(`scale.${scale}.logits`);
      const logits = await readTensor(ref);
      const golden = await readTensor(source.get(`scale.${scale}.allowed`));
      const V = ref.shape[1]!;
      const draws = [0, 1, 2, 3].map((image) => sampleCodes({ ...stream, scale, image }, logits, V, topK, topP));
      for (let row = 0; row < logits.length / V; row++) {
        const [start, end] = [row * V, (row + 1) * V];
        const { allowed, margin } = oracle.allowedCodes(logits.subarray(start, end), topK, topP);
        if (margin <= 1e-6) continue; // the logits were rounded to float32 after the golden filter
        assert.deepEqual(allowed, Uint8Array.from(golden.subarray(start, end)));
        for (const ids of draws) assert.equal(golden[start + ids[row]!], 1);
        compared++;
        if (allowed.includes(0)) filtered++;
      }
    }
    assert(compared > 50 && filtered === compared, `${name}: ${compared} rows, ${filtered} filtered`);
  }
});

Deno.test("sampleCodes() reaches every code that a golden row allows", async () => {
  const source = await openCheckpoint(`${CASES}/star-vanilla.safetensors`);
  const row = (await readTensor(source.get("scale.0.logits"))).subarray(0, 256);
  const allowed = await readTensor(source.get("scale.0.allowed"));
  const wanted = [...allowed.keys()].filter((id) => allowed[id] === 1);
  const ids = new Set(sampleCodes(stream, repeated(row, 20_000), 256, 100, 0.8)); // the case's filters
  assert.deepEqual([...ids].sort((a, b) => a - b), wanted);
});

Deno.test("sampleCodes() throws a RangeError that names the value", () => {
  const wrong = (pattern: RegExp, logits: Float32Array, V = 2, topK = 0, topP = 0) =>
    assert.throws(() => sampleCodes(stream, logits, V, topK, topP), { name: "RangeError", message: pattern });
  wrong(/"logits\[1\]" is NaN/, Float32Array.of(0, NaN));
  wrong(/"logits\[2\]" is Infinity/, Float32Array.of(0, -Infinity, Infinity, 0));
  wrong(/row 1 of "logits" is all -Infinity/, Float32Array.of(0, -Infinity, -Infinity, -Infinity));
  wrong(/"logits" has 3 values, wanted 4 \[2,2\]/, new Float32Array(3));
  wrong(/"logits.shape\[1\]" is 1.5/, new Float32Array(3), 1.5);
  for (const V of [0, -2, NaN]) wrong(/"logits.shape/, new Float32Array(2), V);
  for (const topK of [-1, 0.5, NaN]) wrong(/"topK" is/, new Float32Array(2), 2, topK);
  for (const topP of [-0.1, 1.1, NaN]) wrong(/"topP" is/, new Float32Array(2), 2, 0, topP);
});
