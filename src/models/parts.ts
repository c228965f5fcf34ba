/**
 * Which tokens of a scale go through a link's graph together; knows no tensors.
 *
 * @module
 */

/**
 * Rows that go through mapped weights together. A product of 8192 rows, which has no room in the second-level cache for what it
 * adds to, was measured to take about 1.5 times as long as its parts (bench/LOG.md).
 */
export const ROWS_AT_ONCE = 1024;

/** Batch rows, and a range of their tokens, that go through a link's graph together. */
export interface Part {
  /** Batch rows, one after the other. */
  readonly rows: readonly number[];
  /** First token. */
  readonly from: number;
  /** The token after the last one. */
  readonly to: number;
}

/**
 * Parts of R batch rows of L tokens with no more than `most` of them each: as many whole batch rows as fit, as many in each
 * part, or slices of one, of about the same size. Within a link tokens meet in the cached keys and values alone, which the
 * link before has left: they need not go through it together.
 *
 * @example
 * ```ts
 * import { partsOf } from "@stagevar/stagevar/models/parts.ts";
 * import assert from "node:assert/strict";
 * assert.deepEqual(partsOf(2, 512, 1024), [{ rows: [0, 1], from: 0, to: 512 }]);
 * assert.deepEqual(partsOf(2, 1600, 1024).at(-1), { rows: [1], from: 800, to: 1600 });
 * ```
 */
export function partsOf(R: number, L: number, most: number): Part[] {
  let together = Math.min(R, Math.max(1, Math.floor(most / L)));
  while (R % together !== 0) together--; // or some parts would want graphs of their own
  const slices = slicesOf(L, most);
  return Array.from({ length: R / together }, (_, group) => {
    const rows = Array.from({ length: together }, (_, row) => group * together + row);
    return slices.map((slice) => ({ rows, ...slice }));
  }).flat();
}

/** A range of tokens. */
export type Slice = Pick<Part, "from" | "to">;

/**
 * L tokens in slices of at most `most`, of about the same size.
 *
 * @example
 * ```ts
 * import { slicesOf } from "@stagevar/stagevar/models/parts.ts";
 * import assert from "node:assert/strict";
 * assert.deepEqual(slicesOf(9, 5), [{ from: 0, to: 5 }, { from: 5, to: 9 }]);
 * assert.deepEqual(slicesOf(9, Infinity), [{ from: 0, to: 9 }]);
 * ```
 */
export function slicesOf(L: number, most: number): Slice[] {
  const count = Math.max(1, Math.ceil(L / most));
  const cut = (slice: number): number => Math.round(slice * L / count);
  return Array.from({ length: count }, (_, slice) => ({ from: cut(slice), to: cut(slice + 1) }));
}
