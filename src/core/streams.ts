/**
 * Seeded random numbers, by name: every one of the program's is of a stream.
 *
 * @module
 */
import * as wasm from "../../core_rs/pkg/core.js";
import { expectInteger, MAX_VALUES } from "./checks.ts";

/** What a stream is for: two purposes never share numbers. */
export type Purpose = "bits" | "projection" | "rows" | "weights";

/**
 * Names an independent random sequence; a field left out is 0.
 *
 * Position i of a stream is a pure function of these fields and i (Philox4x32-10): drawing in another order, from another
 * offset or on another machine gives the same numbers.
 */
export interface Stream {
  /** Integer in 0..2^53-1. */
  seed: number;
  /** What the numbers are for. */
  purpose: Purpose;
  /** Integer in 0..65535. */
  scale?: number;
  /** Integer in 0..65535. */
  chunk?: number;
  /** Integer in 0..2^32-1. */
  image?: number;
}

/** Part of the identity of every published seed: never renumber. */
const PURPOSES: Record<Purpose, number> = { bits: 0, projection: 1, rows: 2, weights: 3 };

/** Words in a stream: four to a block, 2^32 blocks. */
const STREAM_LENGTH = 2 ** 34;

/**
 * The five words that a stream is, as the generator takes them (core_rs/src/random.rs): for devices that draw for themselves.
 *
 * @example
 * ```ts
 * import { streamWords } from "@stagevar/stagevar/core.ts";
 * import assert from "node:assert/strict";
 * assert.deepEqual([...streamWords({ seed: 7, purpose: "rows", scale: 1, chunk: 2 })], [7, 0, 0, 65538, 2]);
 * ```
 *
 * @throws {RangeError} If a field of the stream is out of range.
 */
export function streamWords(stream: Stream): Uint32Array {
  return pack("streamWords", stream);
}

/** {@linkcode streamWords} on behalf of another call, which errors name. */
export function pack(call: string, stream: Stream): Uint32Array {
  const { seed, purpose, scale = 0, chunk = 0, image = 0 } = stream;
  expectInteger(call, "seed", seed, 0, Number.MAX_SAFE_INTEGER);
  expectInteger(call, "scale", scale, 0, 0xffff);
  expectInteger(call, "chunk", chunk, 0, 0xffff);
  expectInteger(call, "image", image, 0, 0xffffffff);
  return Uint32Array.of(seed, Math.floor(seed / 2 ** 32), image, scale * 2 ** 16 + chunk, PURPOSES[purpose]);
}

function expectSpan(call: string, count: number, offset: number): void {
  expectInteger(call, "count", count, 0, MAX_VALUES);
  expectInteger(call, "offset", offset, 0, STREAM_LENGTH - count);
}

/**
 * Uniform numbers in [0, 1), multiples of 2^-24, at positions `offset`.. of a stream.
 *
 * @example
 * ```ts
 * import { uniforms } from "@stagevar/stagevar/core.ts";
 * import assert from "node:assert/strict";
 * const stream = { seed: 7, purpose: "weights" } as const;
 * assert.deepEqual(uniforms(stream, 2, 3), uniforms(stream, 5).subarray(3));
 * ```
 *
 * @throws {RangeError} If a field of the stream, `count` or `offset` is out of range.
 */
export function uniforms(stream: Stream, count: number, offset = 0): Float32Array {
  expectSpan("uniforms", count, offset);
  return wasm.uniforms(pack("uniforms", stream), count, offset);
}

/**
 * Standard normal numbers at positions `offset`.. of a stream (Box-Muller).
 *
 * @example
 * ```ts
 * import { gaussians } from "@stagevar/stagevar/core.ts";
 * import assert from "node:assert/strict";
 * const stream = { seed: 7, purpose: "weights" } as const;
 * assert.deepEqual(gaussians(stream, 3), gaussians(stream, 100).subarray(0, 3));
 * ```
 *
 * @throws {RangeError} If a field of the stream, `count` or `offset` is out of range.
 */
export function gaussians(stream: Stream, count: number, offset = 0): Float32Array {
  expectSpan("gaussians", count, offset);
  return wasm.gaussians(pack("gaussians", stream), count, offset);
}

/**
 * Standard Gumbel numbers at positions `offset`.. of a stream: the noise that `sampleRows()` adds to log squared norms.
 *
 * @example
 * ```ts
 * import { gumbels } from "@stagevar/stagevar/core.ts";
 * import assert from "node:assert/strict";
 * const noise = gumbels({ seed: 7, purpose: "rows" }, 10_000);
 * const mean = noise.reduce((sum, value) => sum + value) / noise.length;
 * assert(Math.abs(mean - 0.5772) < 0.05); // Euler's constant
 * ```
 *
 * @throws {RangeError} If a field of the stream, `count` or `offset` is out of range.
 */
export function gumbels(stream: Stream, count: number, offset = 0): Float32Array {
  expectSpan("gumbels", count, offset);
  return wasm.gumbels(pack("gumbels", stream), count, offset);
}
