/**
 * Convolutions with fewer products along the rows of a map: mix the input's rows, convolve each mixture with a kernel of one
 * row, mix the results (Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", 2016, section 4.1). The mixtures
 * are constant, one small matrix product for all rows of a strip; columns stay as they are.
 *
 * - Winograd's F(4, 3): four output rows of a 3x3 kernel from six input rows by six 1x3 kernels, half the products.
 * - Three taps on rows doubled by nearest-neighbour upsampling: both output rows of an input row by three kernels of one row
 *   in place of four.
 *
 * In two dimensions F(4, 3) takes a quarter of the products, but moving columns about costs what is gained (bench/LOG.md).
 *
 * @module
 */

/** One of the kernels of one row that stand for a 3x3 kernel. */
export interface RowKernel {
  /** Taps a row: k. */
  readonly width: number;
  /** [9, k]: the 3x3 kernel, flat, times this is the kernel. */
  readonly taps: readonly number[];
  /** Share of the bias, so that every output row gets all of it. */
  readonly bias: number;
}

/** Output rows of a tile of F(4, 3). */
const TILE_ROWS = 4;
/**
 * Points of F(4, 3), one a line: a row of B^T, of G and a column of A, all scaled to integers. At 0, 3/2, -3/2, 2/3, -2/3 and
 * infinity errors are a quarter larger than without it; at the usual 0, 1, -1, 2, -2 and infinity they are nearly twice as large.
 */
const POINTS = [
  { into: [36, 0, -97, 0, 36, 0], taps: [1 / 36, 0, 0], outOf: [1, 0, 0, 0], bias: 5 / 9 },
  { into: [0, -12, -8, 27, 18, 0], taps: [4 / 4680, 6 / 4680, 9 / 4680], outOf: [8, 12, 18, 27], bias: 5 / 72 },
  { into: [0, 12, -8, -27, 18, 0], taps: [4 / 4680, -6 / 4680, 9 / 4680], outOf: [8, -12, 18, -27], bias: -1 / 72 },
  { into: [0, 18, 27, -8, -12, 0], taps: [9 / 4680, 6 / 4680, 4 / 4680], outOf: [27, 18, 12, 8], bias: 0 },
  { into: [0, -18, 27, 8, -12, 0], taps: [9 / 4680, -6 / 4680, 4 / 4680], outOf: [27, -18, 12, -8], bias: 0 },
  { into: [0, 36, 0, -97, 0, 36], taps: [0, 0, 1 / 36], outOf: [0, 0, 0, 1], bias: -5 / 4 },
] as const;

/** The kernels for {@linkcode filterMixtures}: six of 1x3. */
export const FILTER_KERNELS: readonly RowKernel[] = POINTS.map(({ taps, bias }) => ({
  width: 3,
  taps: taps.flatMap((tap) => [tap, 0, 0, 0, tap, 0, 0, 0, tap]),
  bias,
}));

/**
 * The kernels for {@linkcode upsamplingMixtures}: three of 1x2 for the left column of a cell, which reach the small map's
 * column before, and three for the right one, which reach the column after.
 */
export const UPSAMPLING_KERNELS: readonly [left: readonly RowKernel[], right: readonly RowKernel[]] = [
  upsamplingKernels([[1, 0], [0, 1], [0, 1]]),
  upsamplingKernels([[1, 0], [1, 0], [0, 1]]),
];

/** Three kernels, given which taps of the small row each column of taps falls on. */
function upsamplingKernels(columns: readonly (readonly number[])[]): RowKernel[] {
  return [[1, 0, 0], [1, 1, 1], [0, 0, 1]].map((rows, i) => ({
    width: 2,
    taps: rows.flatMap((row) => columns.flatMap((column) => column.map((tap) => row * tap))),
    bias: Number(i === 1),
  }));
}

/** Mixtures of a strip's rows before and after the convolutions. */
export interface RowMixtures {
  /** Mixed rows m, those of the first kernel first; the same number for each kernel. */
  readonly mixed: number;
  /** [m, rows + 2]. */
  readonly into: Float32Array;
  /** [output rows, m]. */
  readonly outOf: Float32Array;
}

/**
 * Mixtures for 3x3 kernels: `rows` rows from themselves, the one above and the one below. Six kernels.
 *
 * @example
 * ```ts
 * import { filterMixtures } from "@stagevar/stagevar/models/infinity/minimal_filtering.ts";
 * import assert from "node:assert/strict";
 * const { mixed, into, outOf } = filterMixtures(5); // two tiles
 * assert.deepEqual([mixed, into.length, outOf.length], [12, 12 * 7, 5 * 12]);
 * ```
 */
export function filterMixtures(rows: number): RowMixtures {
  const tiles = Math.ceil(rows / TILE_ROWS);
  const mixed = POINTS.length * tiles;
  const into = new Float32Array(mixed * (rows + 2));
  const outOf = new Float32Array(rows * mixed);
  for (const [p, point] of POINTS.entries()) {
    for (let tile = 0; tile < tiles; tile++) {
      const row = p * tiles + tile;
      const begin = tile * TILE_ROWS;
      // the last tile may be cut off: what is missing would only have gone into rows that are missing
      point.into.slice(0, rows + 2 - begin).forEach((factor, i) => into[row * (rows + 2) + begin + i] = factor);
      point.outOf.slice(0, rows - begin).forEach((factor, i) => outOf[(begin + i) * mixed + row] = factor);
    }
  }
  return { mixed, into, outOf };
}

/**
 * Mixtures for 3x3 kernels after nearest-neighbour upsampling: twice as many rows from `rows` rows of the small map, the one
 * above and the one below. Three kernels.
 *
 * With taps a, b, c the two rows of x are a (above) + (b + c) x and (a + b) x + c (below): a (above - x) and c (below - x),
 * each added to (a + b + c) x.
 *
 * @example
 * ```ts
 * import { upsamplingMixtures } from "@stagevar/stagevar/models/infinity/minimal_filtering.ts";
 * import assert from "node:assert/strict";
 * const { mixed, into, outOf } = upsamplingMixtures(1);
 * assert.equal(mixed, 3);
 * assert.deepEqual([...into], [1, -1, 0, 0, 1, 0, 0, -1, 1]);
 * assert.deepEqual([...outOf], [1, 1, 0, 0, 1, 1]);
 * ```
 */
export function upsamplingMixtures(rows: number): RowMixtures {
  const mixed = 3 * rows;
  const into = new Float32Array(mixed * (rows + 2));
  const outOf = new Float32Array(2 * rows * mixed);
  for (let row = 0; row < rows; row++) {
    const [above, own, below] = [row, rows + row, 2 * rows + row];
    into.set([1, -1], above * (rows + 2) + row);
    into.set([1], own * (rows + 2) + row + 1);
    into.set([-1, 1], below * (rows + 2) + row + 1);
    for (const [half, neighbour] of [above, below].entries()) {
      const at = (2 * row + half) * mixed;
      outOf[at + own] = outOf[at + neighbour] = 1;
    }
  }
  return { mixed, into, outOf };
}
