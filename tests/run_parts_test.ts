/**
 * Rows that go through the blocks in parts: nothing is left out or done twice, and the parts give what the whole gives.
 *
 * @module
 */
import assert from "node:assert/strict";
import { join } from "node:path";
import { openInfinity } from "../src/models/infinity/model.ts";
import { partsOf } from "../src/models/parts.ts";
import { InfinityRun } from "../src/models/infinity/run.ts";
import { InfinityTransformer } from "../src/models/infinity/transformer.ts";
import { openNative } from "../src/runtime/native.ts";
import type { Residency } from "../src/runtime/runtime.ts";
import { MODELS } from "./mini_models.ts";

Deno.test("parts hold every token of every batch row once, and no more than they may", () => {
  for (const R of [1, 2, 3, 4, 6, 7, 32]) {
    for (const L of [1, 5, 16, 100, 1023, 1024, 1025, 4096]) {
      for (const most of [1, 7, 64, 1024, Infinity]) {
        const parts = partsOf(R, L, most);
        const seen = parts.flatMap(({ rows, from, to }) =>
          rows.flatMap((row) => Array.from({ length: to - from }, (_, i) => row * L + from + i))
        );
        assert.deepEqual(
          seen.toSorted((a, b) => a - b),
          Array.from({ length: R * L }, (_, i) => i),
          `${R} ${L} ${most}`,
        );
        assert(parts.every(({ rows, from, to }) => rows.length * (to - from) <= most), `${R} ${L} ${most}`);
        assert.equal(new Set(parts.map(({ rows }) => rows.length)).size, 1, "one graph does for all parts");
      }
    }
  }
});

Deno.test("a part is as many whole batch rows as fit, or else a slice that is no crumb", () => {
  assert.deepEqual(partsOf(32, 64, 1024).length, 2);
  assert.deepEqual(partsOf(6, 250, 1024).map(({ rows }) => rows), [[0, 1, 2], [3, 4, 5]]);
  assert.deepEqual(partsOf(1, 1025, 1024).map(({ from, to }) => to - from), [513, 512]);
});

Deno.test("weights that are mapped are gone through in parts by default, packed ones at once", async () => {
  const model = await openInfinity(join(MODELS, "mini-2b"));
  using runtime = openNative();
  const rows = async (residency: Residency): Promise<number> => {
    using transformer = await InfinityTransformer.open(model.transformer, runtime, { residency });
    return transformer.rowsAtOnce;
  };
  assert.deepEqual([await rows("mapped"), await rows("packed")], [1024, Infinity]);
});

Deno.test("blocks give the same in parts as at once: whole scales, chosen tokens, and the cache that both leave", async () => {
  const model = await openInfinity(join(MODELS, "mini-2b"));
  const { dims } = model;
  using runtime = openNative();
  const wave = (length: number, from: number): Float32Array =>
    Float32Array.from({ length }, (_, i) => Math.sin(from + i * 0.37));
  const grids = [{ h: 3, w: 4 }, { h: 6, w: 8 }] as const;
  const results: Float32Array[][] = [];
  for (const rowsAtOnce of [Infinity, 12, 5]) {
    using transformer = await InfinityTransformer.open(model.transformer, runtime, { rowsAtOnce });
    const texts = [
      await transformer.encodeText(wave(3 * model.transformer.dims.textDim, 1)),
      await transformer.encodeText(wave(2 * model.transformer.dims.textDim, 2)),
    ];
    const capacity = new Array(dims.chunks).fill(12 + 48 + 7);
    const last = grids[1];
    using run = new InfinityRun(transformer, texts, { dims, images: 1, last, last1M: last, capacity });
    const x = (tokens: number): Float32Array => wave(2 * tokens * dims.width, tokens);
    const chosen = [Uint32Array.of(40, 3, 17, 9, 21, 33, 0), Uint32Array.of(5, 4, 47, 30, 2, 11, 12)];
    results.push([
      await run.chunk(0, x(12), grids[0]),
      await run.chunk(0, x(48), grids[1]),
      await run.chunk(0, x(7), grids[1], chosen), // attends to all that the ones before have left
    ]);
  }
  const [whole, ...parted] = results;
  for (const parts of parted) {
    for (const [step, values] of parts.entries()) {
      const error = Math.hypot(...values.map((value, i) => value - whole![step]![i]!)) / Math.hypot(...whole![step]!);
      assert(error < 1e-6, `step ${step}: relative error ${error}`);
    }
  }
});
