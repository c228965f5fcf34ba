/**
 * The numeric core: seeded randomness, projection, row sampling, resize, restoration, bits and codes, spectra.
 *
 * Every random number of the program comes from here. Arrays are plain, row-major and never changed; a call costs one copy
 * into the wasm memory and one out of it. Knows no model, plan or tensor name. A wrong length or size is a mistake of the
 * calling code, so it is a `RangeError` and not one of the errors of `errors.ts`.
 *
 * @module
 */

import * as wasm from "../core_rs/pkg/core.js";

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

/** How entries of a projection are drawn: N(0, 1/r), or Achlioptas' signs: +-sqrt(3/r) with probability 1/6 each, else 0. */
export type ProjectionKind = "gaussian" | "sign";

/** Adaptive average pooling, or torch's two-tap interpolation (align_corners=False, no antialias). */
export type ResizeKind = "area" | "linear";

/** Part of the identity of every published seed: never renumber. */
const PURPOSES: Record<Purpose, number> = { bits: 0, projection: 1, rows: 2, weights: 3 };

/** Most values in one array. A few such arrays fit the 4 GiB a wasm memory can address, so no call can exhaust it. */
const MAX_VALUES = 2 ** 27;

/** Longest side of a grid or map: bounds the rows between the two passes of a resize, which are held in float64. */
const MAX_SIDE = 8192;

/** Most rows to sample from: each costs 32 bytes beside its values. */
const MAX_SAMPLED_ROWS = 2 ** 22;

/** Words in a stream: four to a block, 2^32 blocks. */
const STREAM_LENGTH = 2 ** 34;

/** Widest side of a Gram matrix: three f64 copies of it must fit the wasm memory. */
const MAX_GRAM_SIDE = 8192;

function expectInteger(call: string, name: string, value: number, least: number, most: number): void {
  if (!Number.isInteger(value) || value < least || value > most) {
    throw new RangeError(`Cannot call ${call}(): "${name}" is ${value}, wanted an integer in ${least}..${most}`);
  }
}

function countValues(call: string, name: string, shape: number[]): number {
  shape.forEach((size, axis) => expectInteger(call, `${name}.shape[${axis}]`, size, 1, MAX_VALUES));
  const count = shape.reduce((product, size) => product * size, 1);
  if (count > MAX_VALUES) {
    throw new RangeError(`Cannot call ${call}(): "${name}" [${shape}] has more than ${MAX_VALUES} values`);
  }
  return count;
}

function expectShape(call: string, name: string, array: { length: number }, shape: number[]): void {
  const count = countValues(call, name, shape);
  if (array.length !== count) {
    throw new RangeError(`Cannot call ${call}(): "${name}" has ${array.length} values, wanted ${count} [${shape}]`);
  }
}

function expectSides(call: string, ...sides: number[]): void {
  for (const side of sides) expectInteger(call, "side", side, 1, MAX_SIDE);
}

function expectIndices(call: string, indices: Uint32Array, count: number): void {
  const i = indices.findIndex((index) => index >= count);
  if (i >= 0) {
    throw new RangeError(`Cannot call ${call}(): "indices[${i}]" is ${indices[i]}, wanted less than ${count}`);
  }
}

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

function pack(call: string, stream: Stream): Uint32Array {
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

function projection(call: string, stream: Stream, kind: ProjectionKind, M: number, r: number): Float32Array {
  countValues(call, "Q", [M, r]);
  return wasm.projection(pack(call, stream), kind === "sign", M, r);
}

/**
 * Random projection Q [M, r] with entries N(0, 1/r) (stagevar.md §3.3).
 *
 * @example
 * ```ts
 * import { gaussianProjection } from "@stagevar/stagevar/core.ts";
 * import assert from "node:assert/strict";
 * assert.equal(gaussianProjection({ seed: 1, purpose: "projection" }, 6, 2).length, 12);
 * ```
 *
 * @throws {RangeError} If a size or a field of the stream is out of range.
 */
export function gaussianProjection(stream: Stream, M: number, r: number): Float32Array {
  return projection("gaussianProjection", stream, "gaussian", M, r);
}

/**
 * Random projection Q [M, r] with entries +sqrt(3/r) and -sqrt(3/r), probability 1/6 each, else 0 (Achlioptas 2003).
 *
 * @example
 * ```ts
 * import { signProjection } from "@stagevar/stagevar/core.ts";
 * import assert from "node:assert/strict";
 * const entries = new Set(signProjection({ seed: 1, purpose: "projection" }, 100, 3));
 * assert.deepEqual([...entries].sort(), [-1, 0, 1]);
 * ```
 *
 * @throws {RangeError} If a size or a field of the stream is out of range.
 */
export function signProjection(stream: Stream, M: number, r: number): Float32Array {
  return projection("signProjection", stream, "sign", M, r);
}

/**
 * Q^T X [r, C] of q [M, r] and x [M, C] (stagevar.md §3.3).
 *
 * @example
 * ```ts
 * import { project } from "@stagevar/stagevar/core.ts";
 * import assert from "node:assert/strict";
 * const q = Float32Array.of(1, 2), x = Float32Array.of(10, 20, 30, 40);
 * assert.deepEqual(project(q, x, 2, 1, 2), Float32Array.of(70, 100));
 * ```
 *
 * @throws {RangeError} If an array does not hold its shape.
 */
export function project(q: Float32Array, x: Float32Array, M: number, r: number, C: number): Float32Array {
  expectShape("project", "q", q, [M, r]);
  expectShape("project", "x", x, [M, C]);
  countValues("project", "result", [r, C]);
  return wasm.project(q, x, r, C);
}

/**
 * `project()` with the `gaussianProjection()` or `signProjection()` of the stream, bit for bit, without holding Q.
 *
 * @example
 * ```ts
 * import { gaussianProjection, project, projectStream } from "@stagevar/stagevar/core.ts";
 * import assert from "node:assert/strict";
 * const stream = { seed: 1, purpose: "projection", scale: 10, chunk: 3 } as const;
 * const x = Float32Array.of(10, 20, 30, 40);
 * assert.deepEqual(projectStream(stream, "gaussian", x, 2, 1, 2), project(gaussianProjection(stream, 2, 1), x, 2, 1, 2));
 * ```
 *
 * @throws {RangeError} If `x` does not hold its shape, or a field of the stream is out of range.
 */
export function projectStream(
  stream: Stream,
  kind: ProjectionKind,
  x: Float32Array,
  M: number,
  r: number,
  C: number,
): Float32Array {
  expectShape("projectStream", "x", x, [M, C]);
  countValues("projectStream", "Q", [M, r]);
  countValues("projectStream", "result", [r, C]);
  return wasm.project_stream(pack("projectStream", stream), kind === "sign", x, r, C);
}

/**
 * Indices of r distinct rows of x [M, C], drawn without replacement with probability proportional to their squared norms.
 *
 * They are the r largest of log||x_i||^2 + Gumbel noise, largest first, which is the order of the draw (stagevar.md §3.2).
 * Rows of zeros come after all others.
 *
 * @example
 * ```ts
 * import { sampleRows } from "@stagevar/stagevar/core.ts";
 * import assert from "node:assert/strict";
 * const x = Float32Array.of(0, 0, 3, 4, 0, 0); // only row 1 has energy
 * assert.equal(sampleRows({ seed: 1, purpose: "rows" }, x, 3, 2, 2)[0], 1);
 * ```
 *
 * @throws {RangeError} If `x` does not hold its shape, r is not in 1..M, or a value of `x` is not finite.
 */
export function sampleRows(stream: Stream, x: Float32Array, M: number, C: number, r: number): Uint32Array {
  expectShape("sampleRows", "x", x, [M, C]);
  expectInteger("sampleRows", "M", M, 1, MAX_SAMPLED_ROWS);
  expectInteger("sampleRows", "r", r, 1, M);
  const indices = wasm.sample_rows(pack("sampleRows", stream), x, C, r);
  if (indices === undefined) throw notFinite("sampleRows", "x", x);
  return indices;
}

function notFinite(call: string, name: string, array: Float32Array): RangeError {
  const i = array.findIndex((value) => !Number.isFinite(value));
  return new RangeError(`Cannot call ${call}(): "${name}[${i}]" is ${array[i]}, wanted a finite number`);
}

/**
 * Rows [r, C] of x [M, C] at `indices` [r], in their order.
 *
 * @example
 * ```ts
 * import { selectRows } from "@stagevar/stagevar/core.ts";
 * import assert from "node:assert/strict";
 * const x = Float32Array.of(1, 2, 3, 4, 5, 6);
 * assert.deepEqual(selectRows(x, 2, Uint32Array.of(2, 0)), Float32Array.of(5, 6, 1, 2));
 * ```
 *
 * @throws {RangeError} If `x` is not whole rows or an index is out of range.
 */
export function selectRows(x: Float32Array, C: number, indices: Uint32Array): Float32Array {
  expectShape("selectRows", "x", x, [Math.ceil(x.length / C), C]);
  expectIndices("selectRows", indices, x.length / C);
  // Memory moves only: going through wasm would add two copies.
  const rows = new Float32Array(indices.length * C);
  indices.forEach((index, i) => rows.set(x.subarray(index * C, (index + 1) * C), i * C));
  return rows;
}

/**
 * Token grid x [h*w, C] resized to [outH*outW, C].
 *
 * @example
 * ```ts
 * import { resizeTokens } from "@stagevar/stagevar/core.ts";
 * import assert from "node:assert/strict";
 * const x = Float32Array.of(0, 4); // 1 x 2 tokens of width 1
 * assert.deepEqual(resizeTokens(x, 1, 2, 1, 4, 1, "area"), Float32Array.of(0, 0, 4, 4));
 * assert.deepEqual(resizeTokens(x, 1, 2, 1, 4, 1, "linear"), Float32Array.of(0, 1, 3, 4));
 * ```
 *
 * @throws {RangeError} If `x` does not hold its shape or a size is out of range.
 */
export function resizeTokens(
  x: Float32Array,
  h: number,
  w: number,
  outH: number,
  outW: number,
  C: number,
  kind: ResizeKind,
): Float32Array {
  expectSides("resizeTokens", h, w, outH, outW);
  expectShape("resizeTokens", "x", x, [h, w, C]);
  countValues("resizeTokens", "result", [outH, outW, C]);
  return wasm.resize_tokens(x, h, w, outH, outW, kind === "linear");
}

/**
 * Map x [d, h, w] resized to [d, outH, outW], computed in float64 and rounded once.
 *
 * @example
 * ```ts
 * import { resizeMap } from "@stagevar/stagevar/core.ts";
 * import assert from "node:assert/strict";
 * assert.deepEqual(resizeMap(Float32Array.of(1, 2, 3, 6), 1, 2, 2, 1, 1, "area"), Float32Array.of(3));
 * ```
 *
 * @throws {RangeError} If `x` does not hold its shape or a size is out of range.
 */
export function resizeMap(
  x: Float32Array,
  d: number,
  h: number,
  w: number,
  outH: number,
  outW: number,
  kind: ResizeKind,
): Float32Array {
  expectSides("resizeMap", h, w, outH, outW);
  expectShape("resizeMap", "x", x, [d, h, w]);
  countValues("resizeMap", "result", [d, outH, outW]);
  return wasm.resize_map(x, h, w, outH, outW, kind === "linear");
}

/**
 * Restored tokens Z [outH*outW, C]: y [r, C] at `indices` [r], the area resize of `cached` [h*w, C] elsewhere
 * (stagevar.md §3.5).
 *
 * @example
 * ```ts
 * import { restore } from "@stagevar/stagevar/core.ts";
 * import assert from "node:assert/strict";
 * const cached = Float32Array.of(1, 2), y = Float32Array.of(9);
 * assert.deepEqual(restore(cached, 1, 2, 1, 4, 1, y, Uint32Array.of(2)), Float32Array.of(1, 1, 9, 2));
 * ```
 *
 * @throws {RangeError} If an array does not hold its shape or an index is out of range.
 */
export function restore(
  cached: Float32Array,
  h: number,
  w: number,
  outH: number,
  outW: number,
  C: number,
  y: Float32Array,
  indices: Uint32Array,
): Float32Array {
  expectSides("restore", h, w, outH, outW);
  expectShape("restore", "cached", cached, [h, w, C]);
  expectShape("restore", "y", y, [indices.length, C]);
  countValues("restore", "result", [outH, outW, C]);
  expectIndices("restore", indices, outH * outW);
  return wasm.restore(cached, h, w, outH, outW, y, indices);
}

/**
 * Guided, tempered logits (g * cond + (1 - g) * null) / tau, element by element (infinity.md §4.2).
 *
 * @example
 * ```ts
 * import { guide } from "@stagevar/stagevar/core.ts";
 * import assert from "node:assert/strict";
 * assert.deepEqual(guide(Float32Array.of(2), Float32Array.of(1), 3, 0.5), Float32Array.of(8));
 * ```
 *
 * @throws {RangeError} If the lengths differ or `tau` is not positive.
 */
export function guide(cond: Float32Array, nul: Float32Array, guidance: number, tau: number): Float32Array {
  expectShape("guide", "nul", nul, [cond.length]);
  if (!(tau > 0)) throw new RangeError(`Cannot call guide(): "tau" is ${tau}, wanted a positive number`);
  // One pass over memory: in wasm the copies would cost more than the arithmetic.
  return cond.map((logit, i) => (guidance * logit + (1 - guidance) * nul[i]!) / tau);
}

/**
 * Bits [n] from logit differences z [n] (1 over 0), with top-p on two classes in closed form (infinity.md §4.3).
 *
 * Where |z| >= ln(p / (1 - p)) the bit is the sign; elsewhere it is 1 with probability sigmoid(z), decided by position i of
 * the stream. `topP` 0 filters nothing, as in the official code; any value in (0, 0.5] is greedy.
 *
 * @example
 * ```ts
 * import { sampleBits } from "@stagevar/stagevar/core.ts";
 * import assert from "node:assert/strict";
 * const z = Float32Array.of(-4, 4); // both beyond ln(0.97 / 0.03) = 3.476
 * assert.deepEqual(sampleBits({ seed: 1, purpose: "bits" }, z, 0.97), Uint8Array.of(0, 1));
 * ```
 *
 * @throws {RangeError} If a logit is NaN, `topP` is not in 0..1, or a field of the stream is out of range.
 */
export function sampleBits(stream: Stream, z: Float32Array, topP: number): Uint8Array {
  expectShape("sampleBits", "z", z, [z.length]);
  if (!(topP >= 0 && topP <= 1)) {
    throw new RangeError(`Cannot call sampleBits(): "topP" is ${topP}, wanted a number in 0..1`);
  }
  const bits = wasm.sample_bits(pack("sampleBits", stream), z, topP);
  if (bits === undefined) throw new RangeError(`Cannot call sampleBits(): "z[${z.findIndex(Number.isNaN)}]" is NaN`);
  return bits;
}

/** Latent cells along a side of a token. */
function cellsPerToken(patchify: boolean): number {
  return patchify ? 2 : 1;
}

/**
 * The running latent [d, H, W] plus the codes of one scale, two-tap resized to it (infinity.md §5.2-5.4).
 *
 * `bits` [h*w, d_tok] are the scale's, 0 or 1; code = (2*bit - 1) / sqrt(d). With `patchify` a token covers 2 x 2 latent cells
 * and d_tok = 4*d in pixel-shuffle order, else d_tok = d. A token whose `mask` [h*w] is 0 adds no code. Returns a new array.
 *
 * @example
 * ```ts
 * import { addCodes } from "@stagevar/stagevar/core.ts";
 * import assert from "node:assert/strict";
 * const latent = addCodes(new Float32Array(4), Uint8Array.of(1), 1, 1, 2, 2, 1, false);
 * assert.deepEqual(latent, Float32Array.of(1, 1, 1, 1));
 * ```
 *
 * @throws {RangeError} If an array does not hold its shape.
 */
export function addCodes(
  latent: Float32Array,
  bits: Uint8Array,
  h: number,
  w: number,
  H: number,
  W: number,
  d: number,
  patchify: boolean,
  mask?: Uint8Array,
): Float32Array {
  expectSides("addCodes", h, w, H, W);
  expectShape("addCodes", "latent", latent, [d, H, W]);
  expectShape("addCodes", "bits", bits, [h, w, d * cellsPerToken(patchify) ** 2]);
  if (mask !== undefined) expectShape("addCodes", "mask", mask, [h, w]);
  return wasm.add_codes(latent, bits, mask, h, w, H, W, patchify);
}

/**
 * Input tokens [h*w, d_tok] of the scale with token grid h x w: the latent [d, H, W], two-tap resized to its cells
 * (infinity.md §5.4; d_tok and `patchify` as in `addCodes()`).
 *
 * @example
 * ```ts
 * import { nextInput } from "@stagevar/stagevar/core.ts";
 * import assert from "node:assert/strict";
 * const latent = Float32Array.of(1, 2, 3, 4); // d = 1, 2 x 2 cells: one token when patchified
 * assert.deepEqual(nextInput(latent, 1, 2, 2, 1, 1, true), latent);
 * assert.deepEqual(nextInput(latent, 1, 2, 2, 1, 1, false), Float32Array.of(2.5));
 * ```
 *
 * @throws {RangeError} If the latent does not hold its shape or a size is out of range.
 */
export function nextInput(
  latent: Float32Array,
  d: number,
  H: number,
  W: number,
  h: number,
  w: number,
  patchify: boolean,
): Float32Array {
  expectSides("nextInput", H, W, h, w);
  expectShape("nextInput", "latent", latent, [d, H, W]);
  countValues("nextInput", "result", [h, w, d * cellsPerToken(patchify) ** 2]);
  return wasm.next_input(latent, H, W, h, w, patchify);
}

/**
 * Pixels [H, W, 3] of rgb [3, H, W]: clamped to [-1, 1], mapped to 0..255 and truncated (infinity.md §6.3); NaN becomes 0.
 *
 * @example
 * ```ts
 * import { toUint8 } from "@stagevar/stagevar/core.ts";
 * import assert from "node:assert/strict";
 * assert.deepEqual(toUint8(Float32Array.of(-1, 0, 7), 1, 1), Uint8Array.of(0, 127, 255));
 * ```
 *
 * @throws {RangeError} If `rgb` does not hold its shape.
 */
export function toUint8(rgb: Float32Array, H: number, W: number): Uint8Array {
  expectShape("toUint8", "rgb", rgb, [3, H, W]);
  const pixels = new Uint8Array(3 * H * W);
  for (let channel = 0, from = 0; channel < 3; channel++) {
    for (let to = channel; to < pixels.length; to += 3) {
      pixels[to] = (Math.min(Math.max(rgb[from++]!, -1), 1) + 1) * 127.5;
    }
  }
  return pixels;
}

/**
 * For each alpha the smallest r whose r largest squared singular values of x [M, C] sum to at least alpha of their total
 * (stagevar.md §5): 0 for alpha 0 or a matrix of zeros.
 *
 * The squares are eigenvalues, in float64, of the Gram matrix of the smaller side: shares below about 1e-15 are noise.
 *
 * @example
 * ```ts
 * import { singularEnergyRanks } from "@stagevar/stagevar/core.ts";
 * import assert from "node:assert/strict";
 * const x = Float32Array.of(3, 0, 0, 1); // energies 9 and 1
 * assert.deepEqual(singularEnergyRanks(x, 2, 2, [0.5, 0.95]), [1, 2]);
 * ```
 *
 * @throws {RangeError} If `x` does not hold its shape, its smaller side exceeds 8192, a value is not finite, or an alpha is
 * not in 0..1.
 */
export function singularEnergyRanks(x: Float32Array, M: number, C: number, alphas: number[]): number[] {
  expectShape("singularEnergyRanks", "x", x, [M, C]);
  expectInteger("singularEnergyRanks", "min(M, C)", Math.min(M, C), 1, MAX_GRAM_SIDE);
  const wrong = alphas.find((alpha) => !(alpha >= 0 && alpha <= 1));
  if (wrong !== undefined) {
    throw new RangeError(`Cannot call singularEnergyRanks(): alpha is ${wrong}, wanted a number in 0..1`);
  }
  const ranks = wasm.energy_ranks(x, M, C, Float64Array.from(alphas));
  if (ranks === undefined) throw notFinite("singularEnergyRanks", "x", x);
  return [...ranks];
}
