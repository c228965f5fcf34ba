import assert from "node:assert/strict";
import { gaussians, type ResizeKind, resizeMap, resizeTokens, restore, sampleRows, selectRows } from "../src/core.ts";
import { GoldenCase } from "./core_golden.ts";
import * as oracle from "./core_oracles.ts";

const kinds: ResizeKind[] = ["area", "linear", "cubic"];

// h, w -> h, w: Infinity's odd grids, both directions, sides of 1, and an axis that grows while the other shrinks.
const grids = [
  [5, 4, 10, 8],
  [27, 18, 33, 22],
  [32, 32, 40, 40],
  [64, 64, 40, 40],
  [40, 40, 64, 64],
  [1, 1, 7, 5],
  [7, 5, 1, 1],
  [3, 2, 6, 4],
  [20, 3, 9, 27],
  [13, 13, 13, 13],
  [2, 1, 64, 64],
] as const;

const noise = (count: number) => gaussians({ seed: 1, purpose: "weights" }, count);

Deno.test("resizeMap() equals the matrix form for every kind and grid", () => {
  for (const kind of kinds) {
    for (const [h, w, outH, outW] of grids) {
      const x = noise(3 * h * w);
      const wanted = oracle.resizeMap(x, 3, h, w, outH, outW, kind);
      oracle.assertClose(resizeMap(x, 3, h, w, outH, outW, kind), wanted, 6e-8);
    }
  }
});

Deno.test("resizeTokens() equals the matrix form for every kind and grid", () => {
  for (const kind of kinds) {
    for (const [h, w, outH, outW] of grids) {
      const C = h * w > 1000 ? 3 : 11;
      const x = noise(h * w * C);
      const wanted = oracle.resizeTokens(x, h, w, outH, outW, C, kind);
      oracle.assertClose(resizeTokens(x, h, w, outH, outW, C, kind), wanted, 6e-8);
    }
  }
});

Deno.test("resizeMap() is the identity between equal sizes, next to infinities too", () => {
  const x = noise(2 * 5 * 4);
  [x[3], x[17]] = [Infinity, -Infinity];
  for (const kind of kinds) {
    assert.deepEqual(resizeMap(x, 2, 5, 4, 5, 4, kind), x);
    assert.deepEqual(resizeTokens(x, 5, 4, 5, 4, 2, kind), x);
  }
});

Deno.test("resizeMap() samples two taps when it shrinks and does not average", () => {
  const x = Float32Array.of(0, 0, 1, 0, 0, 0, 0, 8); // 8 -> 2: sources 1.5 and 5.5
  assert.deepEqual(resizeMap(x, 1, 1, 8, 1, 2, "linear"), Float32Array.of(0.5, 0));
  assert.deepEqual(resizeMap(x, 1, 1, 8, 1, 2, "area"), Float32Array.of(0.25, 2));
});

Deno.test("resizeMap() samples four taps for the cubic kind, clamped at the edges", () => {
  // torch.nn.functional.interpolate(x, size, mode="bicubic") in float64, of the row below.
  const x = Float32Array.of(1, 0, 0, 4, -2);
  const torch: Record<number, number[]> = {
    2: [0.2265625, 3.0625],
    3: [0.685185185185, 0.0, 0.111111111111],
    8: [
      1.092834472656,
      0.570190429688,
      -0.052185058594,
      -0.493469238281,
      1.471557617188,
      4.048461914062,
      0.90185546875,
      -2.557006835938,
    ],
  };
  for (const [out, wanted] of Object.entries(torch)) {
    oracle.assertClose(resizeMap(x, 1, 1, 5, 1, Number(out), "cubic"), wanted, 6e-8);
    oracle.assertClose(resizeTokens(x, 5, 1, Number(out), 1, 1, "cubic"), wanted, 6e-8);
  }
});

Deno.test("resizeMap() keeps a constant for every kind and grid", () => {
  for (const kind of kinds) {
    for (const [h, w, outH, outW] of grids) {
      const found = resizeMap(new Float32Array(h * w).fill(0.7), 1, h, w, outH, outW, kind);
      oracle.assertClose(found, new Float32Array(outH * outW).fill(0.7), 6e-8);
    }
  }
});

Deno.test("restore() equals upsample then scatter", () => {
  for (const [h, w, outH, outW] of [[5, 4, 10, 8], [27, 18, 33, 22], [4, 4, 4, 4], [8, 8, 5, 7]] as const) {
    const C = 5;
    const indices = sampleRows({ seed: 2, purpose: "rows" }, noise(outH * outW), outH * outW, 1, 12);
    const [cached, y] = [noise(h * w * C), noise(12 * C)];
    const wanted = oracle.restore(cached, h, w, outH, outW, C, y, indices);
    oracle.assertClose(restore(cached, h, w, outH, outW, C, y, indices), wanted, 6e-8);
  }
});

Deno.test("restore() gives X back when every row was selected, in any order", () => {
  const [h, w, C] = [6, 7, 9];
  const x = noise(h * w * C);
  const indices = sampleRows({ seed: 3, purpose: "rows" }, x, h * w, C, h * w);
  assert.deepEqual(restore(new Float32Array(12 * C), 3, 4, h, w, C, selectRows(x, C, indices), indices), x);
});

Deno.test("restore() reproduces every chunk of the second reduced scale of the golden case", () => {
  const golden = new GoldenCase("stagevar-512");
  const [from, to] = [golden.request.grids[7]!, golden.request.grids[8]!];
  for (let chunk = 0; chunk < 8; chunk++) {
    const cached = golden.f32(`scale.7.chunk.${chunk}`);
    const [y, indices] = [golden.f32(`scale.8.reduced.${chunk}`), golden.indices(`scale.8.indices.${chunk}`)];
    const found = restore(cached, ...from, ...to, 32, y, indices);
    oracle.assertClose(found, golden.f32(`scale.8.chunk.${chunk}`), 2e-7);
  }
});

Deno.test("restore() and the resizes throw a RangeError when sizes do not fit", () => {
  const x = new Float32Array(12);
  assert.throws(() => restore(x, 2, 2, 3, 3, 3, new Float32Array(3), Uint32Array.of(9)), /"indices\[0\]" is 9/);
  assert.throws(() => restore(x, 2, 2, 3, 3, 3, new Float32Array(4), Uint32Array.of(1)), RangeError);
  assert.throws(() => resizeTokens(x, 2, 2, 3, 3, 4, "area"), RangeError);
  assert.throws(() => resizeTokens(x, 2, 2, 0, 3, 3, "area"), RangeError);
  assert.throws(() => resizeMap(x, 1, 12, 1, 8193, 1, "linear"), RangeError);
  assert.throws(() => resizeMap(x, 12, 1, 1, 8192, 8192, "linear"), RangeError);
});
