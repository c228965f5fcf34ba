/**
 * What blocks of all families are made of: parameter-free norms, directions of heads, rotations, attention row by row.
 *
 * Letters: R rows of the batch, L tokens of a scale, T tokens of a cache or a text, C width, H heads.
 *
 * @module
 */
import { DTYPE_BYTES } from "../checkpoint/tensor.ts";
import type { TensorRef } from "../checkpoint/source.ts";
import { type Graph, MICROSOFT, type Value } from "../graph/graph.ts";

/** Attributes of every layer norm (infinity.md §3.2, star.md §6). */
export const LAYER_NORM = { axis: -1, epsilon: { float: 1e-6 } };

/** Keys and values to attend to, one of each a batch row, [1, T, C]. */
export interface RowCaches {
  /** Keys. */
  readonly keys: readonly Value[];
  /** Values. */
  readonly values: readonly Value[];
}

/** Where tokens sit: positions [R, L] into the tables cos, sin [M, hd/2] of a scale (infinity.md §3.4, star.md §7). */
export interface Rope {
  /** Row of the tables for every token, or for the first one alone, [1], which the others follow. */
  readonly positions: Value;
  /** Cosines. */
  readonly cos: Value;
  /** Sines. */
  readonly sin: Value;
}

/** Width and heads of a model. */
export interface HeadDims {
  /** Model width C. */
  readonly width: number;
  /** Attention heads H. */
  readonly heads: number;
}

/** Declares keys and values of every row as inputs `keys.r` and `values.r`, [1, T, C]. */
export function cacheInputs(
  graph: Graph,
  { rows, width }: { readonly rows: number; readonly width: number },
  keys: string,
  values: string,
): RowCaches {
  const inputs = (name: string): Value[] =>
    Array.from({ length: rows }, (_, r) => graph.input(`${name}.${r}`, "F32", [1, `T${r}${keys}`, width]));
  return { keys: inputs(keys), values: inputs(values) };
}

/** Each batch row of q [R, L, C] attends to keys and values of its own, which differ in length or lie in buffers of their own. */
export function attendRowwise(
  graph: Graph,
  q: Value,
  { keys, values }: RowCaches,
  { width, heads }: HeadDims,
  scale?: number,
): Value {
  const rows = keys.length;
  const queries = rows === 1 ? [q] : graph.split(q, rows, 0);
  const attended = queries.map((query, r) => graph.attention(query, keys[r]!, values[r]!, { heads, width, scale }));
  return rows === 1 ? attended[0]! : graph.op("Concat", attended, { axis: 0 });
}

/**
 * x / ||x|| over each head, times the head's temperature (infinity.md §3.3, star.md §6.1): a root-mean-square norm scaled by
 * 1/sqrt(hd), whose kernel makes one pass where norm, clamp and division make three. x [M, C] -> [M, H, hd].
 */
export function unit(graph: Graph, x: Value, { width: C, heads }: HeadDims, temperature?: Float32Array): Value {
  const hd = C / heads;
  const scale = graph.floats(new Float32Array(hd).fill(1 / Math.sqrt(hd)));
  const tiny = { axis: -1, epsilon: { float: 1e-24 / hd } }; // max(||x||, 1e-12) of the definition, squared and averaged
  const direction = graph.op("SimplifiedLayerNormalization", [graph.reshape(x, [-1, heads, hd]), scale], tiny);
  return temperature ? graph.op("Mul", [direction, graph.floats(temperature, [heads, 1])]) : direction;
}

/** Rotation of adjacent pairs, x [R, L, C]. */
export function rotate(graph: Graph, x: Value, { positions, cos, sin }: Rope, heads: number): Value {
  const inputs = [x, positions, cos, sin];
  return graph.op("RotaryEmbedding", inputs, { interleaved: 1, num_heads: heads }, MICROSOFT);
}

/** LN(x) without gain and shift. */
export function plainNorm(graph: Graph, x: Value, C: number): Value {
  return graph.op("LayerNormalization", [x, graph.floats(new Float32Array(C).fill(1))], LAYER_NORM);
}

/** GELU by its tanh form. */
export function gelu(graph: Graph, x: Value): Value {
  return graph.op("FastGelu", [x], {}, MICROSOFT);
}

/**
 * Consecutive output rows of a fused [out, in] weight, as their own tensor: no copy, an offset.
 *
 * @example
 * ```ts
 * import { outputRows } from "@stagevar/stagevar/models/block_parts.ts";
 * import assert from "node:assert/strict";
 * const kv = { name: "kv", dtype: "F16", shape: [4, 3], strides: [3, 1], file: "/w", offset: 10 } as const;
 * assert.deepEqual(outputRows(kv, 2, 4), { ...kv, shape: [2, 3], offset: 10 + 2 * 3 * 2 });
 * ```
 */
export function outputRows(ref: TensorRef, from: number, to: number): TensorRef {
  const bytes = DTYPE_BYTES[ref.dtype];
  return { ...ref, shape: [to - from, ...ref.shape.slice(1)], offset: ref.offset + from * ref.strides[0]! * bytes };
}
