/**
 * How kernels are cut into blocks.
 *
 * @module
 */
import type { Launch } from "./cuda_kernels.ts";

/** Address of a tensor that is not there. */
export const NONE = 0;

/** Number of values. */
export function size(dims: readonly number[]): number {
  return dims.reduce((product, dim) => product * dim, 1);
}

/** A row of C values a block, eight of them a thread. */
export function rowwise(rows: number, C: number): Launch {
  return { blocks: rows, threads: 32 * Math.ceil(C / 8 / 32) };
}

/** A thread a value, up to what keeps a large device busy: kernels go on from there. */
export function spread(count: number): Launch {
  return { blocks: Math.max(1, Math.min(Math.ceil(count / 256), 1 << 16)), threads: 256 };
}
