/**
 * Which tokens of a scale go through a link's graph together; knows no tensors.
 *
 * @module
 */

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
 * import { partsOf } from "@stagevar/stagevar/models/infinity/parts.ts";
 * import assert from "node:assert/strict";
 * assert.deepEqual(partsOf(2, 512, 1024), [{ rows: [0, 1], from: 0, to: 512 }]);
 * assert.deepEqual(partsOf(2, 1600, 1024).at(-1), { rows: [1], from: 800, to: 1600 });
 * ```
 */
export function partsOf(R: number, L: number, most: number): Part[] {
  let together = Math.min(R, Math.max(1, Math.floor(most / L)));
  while (R % together !== 0) together--; // or some parts would want graphs of their own
  const slices = Math.max(1, Math.ceil(L / most));
  const cut = (slice: number): number => Math.round(slice * L / slices);
  return Array.from({ length: R / together * slices }, (_, part) => {
    const [group, slice] = [Math.floor(part / slices), part % slices];
    const rows = Array.from({ length: together }, (_, row) => group * together + row);
    return { rows, from: cut(slice), to: cut(slice + 1) };
  });
}
