/**
 * Rows of features: random projection, representative rows, restoration, and how many of them a scale is worth.
 *
 * @module
 */
import * as wasm from "../../core_rs/pkg/core.js";
import { countValues, expectIndices, expectInteger, expectShape, expectSides, notFinite } from "./checks.ts";
import { pack, type Stream } from "./streams.ts";

/** How entries of a projection are drawn: N(0, 1/r), or Achlioptas' signs: +-sqrt(3/r) with probability 1/6 each, else 0. */
export type ProjectionKind = "gaussian" | "sign";

/** Most rows to sample from: each costs 32 bytes beside its values. */
const MAX_SAMPLED_ROWS = 2 ** 22;

/** Widest side of a Gram matrix: three f64 copies of it must fit the wasm memory. */
const MAX_GRAM_SIDE = 8192;

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
