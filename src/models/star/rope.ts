/**
 * Normalised two-dimensional rotary positions of one scale (star.md §7).
 *
 * @module
 */
import type { RopeTable } from "../rope_table.ts";

/** Coordinate of the far corner, whatever the side. */
const SPAN = 64;

/**
 * Cosines and sines of every token of a square: the first half of the pairs turn with the column x, the second with the row
 * y, both from 0 to 64 from corner to corner at every scale.
 *
 * @param side tokens along a side
 * @param headDim dimensions of a head, a multiple of 4
 * @example
 * ```ts
 * import { starRopeTable } from "@stagevar/stagevar/models/star/rope.ts";
 * import assert from "node:assert/strict";
 * const { cos, sin } = starRopeTable(2, 8);
 * assert.deepEqual([...cos.subarray(0, 4)], [1, 1, 1, 1]); // column 0, row 0
 * assert.equal(sin[4], Math.fround(Math.sin(64))); // column 1 of 2 turns the first pair
 * ```
 */
export function starRopeTable(side: number, headDim: number): RopeTable {
  const quarter = headDim / 4;
  const inverse = Float64Array.from({ length: quarter }, (_, j) => 10000 ** (-4 * j / headDim));
  const at = (index: number): number => side > 1 ? SPAN * index / (side - 1) : 0;
  const rows = side * side;
  const pairs = headDim / 2;
  const cos = new Float32Array(rows * pairs);
  const sin = new Float32Array(rows * pairs);
  for (let row = 0; row < rows; row++) {
    const [x, y] = [at(row % side), at(Math.floor(row / side))];
    for (let j = 0; j < quarter; j++) {
      const first = row * pairs + j;
      cos[first] = Math.cos(x * inverse[j]!);
      sin[first] = Math.sin(x * inverse[j]!);
      cos[first + quarter] = Math.cos(y * inverse[j]!);
      sin[first + quarter] = Math.sin(y * inverse[j]!);
    }
  }
  return { rows, pairs, cos, sin };
}
