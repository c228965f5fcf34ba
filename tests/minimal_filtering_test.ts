import assert from "node:assert/strict";
import {
  FILTER_KERNELS,
  filterMixtures,
  type RowKernel,
  type RowMixtures,
  UPSAMPLING_KERNELS,
  upsamplingMixtures,
} from "../src/models/infinity/minimal_filtering.ts";

const WIDTH = 5;
const BIAS = 0.7;
const kernel = Array.from({ length: 9 }, (_, i) => Math.sin(3.1 * i + 1));

/** Rows of a map with the ones above and below; zeros left and right of it. */
function paddedRows(rows: number): number[][] {
  return Array.from(
    { length: rows + 2 },
    (_, y) => Array.from({ length: WIDTH }, (_, x) => Math.sin(7.3 * y + 2.9 * x)),
  );
}

/** The 3x3 convolution by its definition, of all rows but the first and the last. */
function convolved(map: number[][]): number[][] {
  const width = map[0]!.length;
  return map.slice(2).map((_, y) =>
    Array.from(
      { length: width },
      (_, x) => kernel.reduce((sum, tap, i) => sum + tap * (map[y + Math.floor(i / 3)]![x + i % 3 - 1] ?? 0), BIAS),
    )
  );
}

/** Mixes rows, convolves each mixture with its kernel of one row from column x + `left` on, and mixes the results. */
function byMixtures(
  map: number[][],
  { mixed, into, outOf }: RowMixtures,
  kernels: readonly RowKernel[],
  left: number,
): number[][] {
  const each = mixed / kernels.length;
  const results = Array.from({ length: mixed }, (_, m) => {
    const { width, taps, bias } = kernels[Math.floor(m / each)]!;
    const row = map[0]!.map((_, x) => map.reduce((sum, row, y) => sum + into[m * map.length + y]! * row[x]!, 0));
    const small = Array.from(
      { length: width },
      (_, k) => kernel.reduce((sum, tap, i) => sum + tap * taps[i * width + k]!, 0),
    );
    return row.map((_, x) => small.reduce((sum, tap, k) => sum + tap * (row[x + k + left] ?? 0), bias * BIAS));
  });
  return Array.from(
    { length: outOf.length / mixed },
    (_, y) => map[0]!.map((_, x) => results.reduce((sum, row, m) => sum + outOf[y * mixed + m]! * row[x]!, 0)),
  );
}

function assertClose(found: number[][], wanted: number[][]): void {
  assert.equal(found.length, wanted.length);
  const largest = Math.max(...found.flatMap((row, y) => row.map((value, x) => Math.abs(value - wanted[y]![x]!))));
  assert(largest < 1e-13, `off by ${largest}`);
}

Deno.test("filterMixtures() and their kernels are a 3x3 convolution, cut-off tiles included", () => {
  for (let rows = 1; rows <= 9; rows++) {
    const map = paddedRows(rows);
    assertClose(byMixtures(map, filterMixtures(rows), FILTER_KERNELS, -1), convolved(map));
  }
});

Deno.test("upsamplingMixtures() and their kernels are nearest-neighbour upsampling and a 3x3 convolution", () => {
  for (let rows = 1; rows <= 4; rows++) {
    const map = paddedRows(rows);
    const doubled = map.flatMap((row) => [row, row].map((row) => row.flatMap((value) => [value, value])));
    const wanted = convolved(doubled.slice(1, -1)); // of what is doubled only the nearer half of the rows around
    const [left, right] = [-1, 0].map((first, dx) =>
      byMixtures(map, upsamplingMixtures(rows), UPSAMPLING_KERNELS[dx]!, first)
    );
    const found = left!.map((row, y) => row.flatMap((value, x) => [value, right![y]![x]!]));
    assertClose(found, wanted);
  }
});
