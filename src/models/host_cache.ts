/**
 * Keys and values in host memory: one buffer of each a block and batch row, allocated once for all tokens of a picture.
 *
 * @module
 */
import { DeviceError } from "../errors.ts";
import { availableMemory } from "../runtime/available_memory.ts";

/** Keys and values of one batch row. */
export interface CacheRow {
  /** Of every block, [capacity, C]. */
  readonly keys: readonly Float32Array[];
  /** Of every block, [capacity, C]. */
  readonly values: readonly Float32Array[];
}

/** What a cache is to hold. */
export interface CacheSize {
  /** Batch rows. */
  readonly rows: number;
  /** Blocks. */
  readonly depth: number;
  /** Model width C. */
  readonly width: number;
  /** Tokens each chunk will execute over all scales, [chunks]. */
  readonly capacity: readonly number[];
}

/**
 * Allocates a cache.
 *
 * @throws {DeviceError} when it does not fit in memory
 * @example
 * ```ts
 * import { allocateCache } from "@stagevar/stagevar/models/host_cache.ts";
 * import assert from "node:assert/strict";
 * const [row] = allocateCache({ rows: 1, depth: 4, width: 2, capacity: [3, 5] }); // two chunks of two blocks
 * assert.deepEqual(row!.keys.map(({ length }) => length), [6, 6, 10, 10]);
 * ```
 */
export function allocateCache({ rows, depth, width, capacity }: CacheSize): CacheRow[] {
  const chunks = capacity.length;
  const bytes = capacity.reduce((sum, tokens) => sum + tokens, 0) * (depth / chunks) * width * 2 * rows * 4;
  const refuse = (why: string, cause?: unknown): DeviceError =>
    new DeviceError(`Cannot allocate ${gibibytes(bytes)} for keys and values${why}`, {
      cause,
      hint: "Take a smaller --pixels or --batch, or --method stagevar, which keeps fewer; or raise the memory limit",
    });
  // Fresh memory is only promised until it is written: without this look the system would kill the process minutes later.
  const available = availableMemory();
  if (bytes > available) throw refuse(`: ${gibibytes(available)} of memory are available`);
  try {
    return Array.from({ length: rows }, () => {
      const buffers = (): Float32Array[] =>
        Array.from({ length: depth }, (_, l) => new Float32Array(capacity[Math.floor(l * chunks / depth)]! * width));
      return { keys: buffers(), values: buffers() };
    });
  } catch (cause) {
    throw refuse("", cause);
  }
}

/** Gives the memory of rows back at once, which can be gigabytes: detaching an ArrayBuffer does not wait for the collector. */
export function releaseCache(rows: readonly CacheRow[]): void {
  for (const { keys, values } of rows) {
    for (const { buffer } of [...keys, ...values]) (buffer as ArrayBuffer).transfer(0);
  }
}

function gibibytes(bytes: number): string {
  return `${(bytes / 2 ** 30).toFixed(1)} GiB`;
}

/** Arrays one after the other, as one. */
export function concatenate(parts: readonly Float32Array[]): Float32Array {
  const all = new Float32Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    all.set(part, at);
    at += part.length;
  }
  return all;
}
