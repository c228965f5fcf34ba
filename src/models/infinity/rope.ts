/**
 * Two-dimensional rotary positions of one scale (infinity.md §3.4, mode 2, the one every released model uses).
 *
 * @module
 */
import type { Grid } from "../../schedule.ts";
import type { RopeTable } from "../rope_table.ts";

/**
 * Cosines and sines of every token of a grid: the first half of the pairs turn with y, the second with x, at positions
 * stretched to the last grid of the 1M schedule and rounded half to even.
 *
 * @param grid tokens of this scale
 * @param last1M last grid of the 1M schedule of this aspect ratio, whatever size is drawn
 * @param headDim dimensions of a head, a multiple of 4
 * @example
 * ```ts
 * import { ropeTable } from "@stagevar/stagevar/models/infinity/rope.ts";
 * import assert from "node:assert/strict";
 * const { cos, sin } = ropeTable({ h: 2, w: 2 }, { h: 64, w: 64 }, 8);
 * assert.deepEqual([...cos.subarray(0, 4)], [1, 1, 1, 1]); // position (0, 0)
 * assert.equal(sin[4 + 2], Math.fround(Math.sin(32))); // position (0, 32): x turns the third pair
 * ```
 */
export function ropeTable(grid: Grid, last1M: Grid, headDim: number): RopeTable {
  const quarter = headDim / 4;
  const inverse = Float64Array.from({ length: quarter }, (_, j) => 10000 ** (-2 * j / (headDim / 2)));
  const ys = positions(grid.h, last1M.h);
  const xs = positions(grid.w, last1M.w);
  const rows = grid.h * grid.w;
  const pairs = headDim / 2;
  const cos = new Float32Array(rows * pairs);
  const sin = new Float32Array(rows * pairs);
  for (let row = 0; row < rows; row++) {
    const y = ys[Math.floor(row / grid.w)]!;
    const x = xs[row % grid.w]!;
    for (let j = 0; j < quarter; j++) {
      const at = row * pairs + j;
      cos[at] = Math.cos(y * inverse[j]!);
      sin[at] = Math.sin(y * inverse[j]!);
      cos[at + quarter] = Math.cos(x * inverse[j]!);
      sin[at + quarter] = Math.sin(x * inverse[j]!);
    }
  }
  return { rows, pairs, cos, sin };
}

/** round_half_even(i * extent / count) on the exact rational: a float product rounds other ratios differently (§3.4). */
function positions(count: number, extent: number): number[] {
  return Array.from({ length: count }, (_, i) => {
    const twice = 2 * ((i * extent) % count);
    const floor = Math.floor(i * extent / count);
    return twice > count || (twice === count && floor % 2 === 1) ? floor + 1 : floor;
  });
}
