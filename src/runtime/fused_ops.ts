/**
 * Operators that do at once what lies between two products of a transformer, between two convolutions of the decoder, or between two
 * steps of the scale loop: their types. What computes them on a CUDA device is in cuda_computes.ts.
 *
 * Letters: R rows of the batch, L tokens, M = R L, C width, H heads of hd values, P tokens of the cache's past; of the decoder's maps
 * h x w pixels, channels last, C channels in G groups; of a text T tokens; of the scale loop B images, r rows of M, d_tok bits a token.
 *
 * @module
 */
import type { Attributes, Graph, Value } from "../graph/graph.ts";
import type { CustomOp, OpContext } from "./custom_ops.ts";

/** Domain of the operators in graphs. */
export const FUSED_DOMAIN = "stagevar";

/** Epsilon of the blocks' layer norms (infinity.md §3.2). */
export const LAYER_EPSILON = 1e-6;
/** Epsilon of the decoder's group norms (§6.2). */
export const GROUP_EPSILON = 1e-6;

/**
 * Types of the operators. `product` [M, C] is float16 and lacks its bias; `modulation` is [R, 6, C], its vectors named by number;
 * with `gate`, product and bias / headroom are multiplied by that vector, which is larger by headroom.
 */
export const FUSED_OPS = {
  /** x [R, L, C], modulation -> norm(x) scale + shift [M, C]. */
  ModulatedNorm: { inputs: ["F32", "F32"], outputs: ["F16"], attributes: ["scale", "shift"] },
  /** x, product, bias [C], modulation, weight [C], shift [C] -> sum [R, L, C], norm(sum) weight + shift [M, C]. */
  GatedAddNorm: {
    inputs: ["F32", "F16", "F32", "F32", "F32", "F32"],
    outputs: ["F32", "F16"],
    attributes: ["gate", "headroom"],
  },
  /** x, product, bias, modulation -> sum, norm(sum) scale + shift. */
  AddModulatedNorm: {
    inputs: ["F32", "F16", "F32", "F32"],
    outputs: ["F32", "F16"],
    attributes: ["scale", "shift"],
  },
  /** x, product, bias, modulation, the next block's modulation -> sum, norm(sum) scale + shift. */
  GatedAddModulatedNorm: {
    inputs: ["F32", "F16", "F32", "F32", "F32"],
    outputs: ["F32", "F16"],
    attributes: ["gate", "headroom", "scale", "shift"],
  },
  /** x, product, bias, modulation -> sum. */
  GatedAdd: { inputs: ["F32", "F16", "F32", "F32"], outputs: ["F32"], attributes: ["gate", "headroom"] },
  /**
   * product [M, 3 C], q bias [C], v bias [C], temperature [H], positions [R, L] or [1], cos, sin [N, hd / 2], past keys, past values
   * [R, H, P, hd] -> q [R, L, C], keys, values [R, H, P + L, hd]: q and k as directions (§3.3), rotated (§3.4).
   */
  EnterCache: {
    inputs: ["F16", "F32", "F32", "F32", "I64", "F32", "F32", "F16", "F16"],
    outputs: ["F16", "F16", "F16"],
  },
  /** x [M, C], bias [C] -> x + bias. */
  AddBias: { inputs: ["F16", "F32"], outputs: ["F16"] },
  /** x [M, F], bias [F] -> gelu(x + bias), by its hyperbolic tangent. */
  BiasGelu: { inputs: ["F16", "F32"], outputs: ["F16"] },
  /**
   * map [1, h, w, C] and its bias [C], weight [C] of the group norm -> mean and gain of every channel [2, C], and what blocks left
   * of their sums.
   */
  MapMoments: { inputs: ["F16", "F32", "F32"], outputs: ["F32", "F32"], attributes: ["groups"] },
  /** The same -> map + bias, moments, sums. */
  BiasMoments: { inputs: ["F16", "F32", "F32"], outputs: ["F32", "F32", "F32"], attributes: ["groups"] },
  /** map, bias, x [1, h, w, C], weight -> map + bias + x, moments, sums. */
  SumMoments: { inputs: ["F16", "F32", "F32", "F32"], outputs: ["F32", "F32", "F32"], attributes: ["groups"] },
  /** map, bias, another map, its bias, weight -> their sum, moments, sums. */
  MapsMoments: {
    inputs: ["F16", "F32", "F16", "F32", "F32"],
    outputs: ["F32", "F32", "F32"],
    attributes: ["groups"],
  },
  /** map, bias, moments, shift [C] -> SiLU of the norm. */
  MapNormSwish: { inputs: ["F16", "F32", "F32", "F32"], outputs: ["F16"] },
  /** x, moments, shift -> SiLU of the norm. */
  NormSwish: { inputs: ["F32", "F32", "F32"], outputs: ["F16"] },
  /**
   * map [1, h + 1, w + 1, 4 C] of a convolution of 2x2 for each of four kinds of pixels, its bias, weight -> [1, 2 h, 2 w, C], moments,
   * sums.
   */
  QuadMoments: { inputs: ["F16", "F32", "F32"], outputs: ["F32", "F32", "F32"], attributes: ["groups"] },
  /** map, bias, x -> their sum. */
  SumHalf: { inputs: ["F16", "F32", "F32"], outputs: ["F16"] },

  /** x [T, C], weight [C] -> x / root mean square weight, [T, C]. */
  RootNorm: { inputs: ["F32", "F32"], outputs: ["F16"], attributes: ["epsilon_float"] },
  /** x, product, weight -> sum, its norm. */
  AddRootNorm: { inputs: ["F32", "F16", "F32"], outputs: ["F32", "F16"], attributes: ["epsilon_float"] },
  /** x, product, peak [T], weight -> x + product peak, its norm. */
  ScaledAddRootNorm: { inputs: ["F32", "F16", "F32", "F32"], outputs: ["F32", "F16"], attributes: ["epsilon_float"] },
  /** x, product, peak -> x + product peak. */
  ScaledAdd: { inputs: ["F32", "F16", "F32"], outputs: ["F32"] },
  /** gate [T, F], value [T, F] -> gelu(gate) value / peak, and peak [T], the largest magnitude of each row. */
  GatedGelu: { inputs: ["F16", "F16"], outputs: ["F16", "F32"] },
  /** q, k, v [T, H hd], table [buckets, H], buckets [T, T] -> softmax(q K^T + table[bucket]) V, [T, H hd]. */
  BiasedAttention: { inputs: ["F16", "F16", "F16", "F32", "I64"], outputs: ["F16"] },
  /** product [T, 2 C], peak [T], v bias [C] -> keys and values of a text, [1, T, C]. */
  EnterText: { inputs: ["F16", "F32", "F32"], outputs: ["F16", "F16"] },
  /** shared [1, 6 C], own [6 C values] -> a block's modulation [1, 6, C], 1 added to its scales, its gammas times headroom. */
  Modulation: { inputs: ["F32", "F32"], outputs: ["F32"], attributes: ["headroom"] },

  /** x [B, M, C], chosen [B, r], streams [B, 5] -> Q^T [B, r, M]; x and chosen say how large. */
  Projection: { inputs: ["F32", "I64", "I32"], outputs: ["F32"], attributes: ["sign"] },
  /** x [B, M, C], streams -> log squared norm of each row plus Gumbel noise, [B, M]. */
  RowKeys: { inputs: ["F32", "I32"], outputs: ["F32"] },
  /**
   * z [B, h w, d_tok], streams, threshold [1] -> codes of the drawn bits, -1 / sqrt(d) and 1 / sqrt(d), [B, d, h cell, w cell]: a bit
   * is certain where |z| reaches the threshold.
   */
  Codes: { inputs: ["F32", "I32", "F32"], outputs: ["F32"], attributes: ["height", "width", "cell"] },
  /** The same; tokens outside chosen [B, r] are zero. */
  ChosenCodes: { inputs: ["F32", "I32", "F32", "I64"], outputs: ["F32"], attributes: ["height", "width", "cell"] },
  /** cached [B, h w, C] -> area averages [B, height width, C]. */
  UpsampleRows: { inputs: ["F32"], outputs: ["F32"], attributes: ["h", "w", "height", "width"] },
  /** cached, y [B, r, C], chosen [B, r] -> the same with y in the places chosen. */
  RestoreRows: { inputs: ["F32", "F32", "I64"], outputs: ["F32"], attributes: ["h", "w", "height", "width"] },
} as const satisfies Record<string, Omit<CustomOp, "name" | "compute">>;

/** Name of an operator. */
export type FusedOpName = keyof typeof FUSED_OPS;

/**
 * Adds one of the operators to a graph, whose form must allow them: its outputs.
 *
 * @example
 * ```ts
 * import { Graph } from "@stagevar/stagevar/graph/graph.ts";
 * import { fused } from "@stagevar/stagevar/runtime/fused_ops.ts";
 * import assert from "node:assert/strict";
 * const graph = new Graph("bias", { fused: true });
 * const inputs = [graph.input("x", "F16", ["M", 4]), graph.input("bias", "F32", [4])];
 * assert.equal(fused(graph, "AddBias", inputs).length, 1);
 * ```
 */
export function fused(
  graph: Graph,
  name: FusedOpName,
  inputs: readonly Value[],
  attributes: Attributes = {},
): Value[] {
  return graph.ops(name, inputs, FUSED_OPS[name].outputs.length, attributes, FUSED_DOMAIN);
}

/** What computes each operator. */
export type FusedComputes = Readonly<Record<FusedOpName, (context: OpContext) => void>>;

/**
 * The operators, to be registered under {@linkcode FUSED_DOMAIN}.
 *
 * @example
 * ```ts
 * import { FUSED_OPS, fusedOps } from "@stagevar/stagevar/runtime/fused_ops.ts";
 * import assert from "node:assert/strict";
 * const nothing = Object.fromEntries(Object.keys(FUSED_OPS).map((name) => [name, () => {}]));
 * assert.equal(fusedOps(nothing as never).length, Object.keys(FUSED_OPS).length);
 * ```
 */
export function fusedOps(computes: FusedComputes): CustomOp[] {
  return Object.entries(FUSED_OPS).map(([name, types]) => ({ name, ...types, compute: computes[name as FusedOpName] }));
}
