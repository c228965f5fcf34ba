/**
 * Whether a device computes attention right: some do not (bench/LOG.md).
 *
 * @module
 */
import { Graph } from "../graph/graph.ts";
import { floatTensor, type Runtime } from "./runtime.ts";

/** Sizes at which attention takes its flash kernel, with a tile that is not full at either end. */
const PROBE = { queries: 40, keys: 70, heads: 2, headDim: 64 };

/** Relative error up to which a GPU's attention is taken as right: float32 with a fast exponential. */
export const RIGHT = 1e-4;

/**
 * How far a runtime's fused attention is from attention, norm of the difference over norm of the result.
 *
 * @example
 * ```ts
 * import { openNative } from "@stagevar/stagevar/runtime/native.ts";
 * import { fusedAttentionError } from "@stagevar/stagevar/runtime/attention_probe.ts";
 * import assert from "node:assert/strict";
 * using runtime = openNative();
 * assert(await fusedAttentionError(runtime) < 1e-6);
 * ```
 */
export async function fusedAttentionError(runtime: Runtime): Promise<number> {
  const { queries, keys, heads, headDim } = PROBE;
  const width = heads * headDim;
  const values = (count: number, seed: number): Float32Array =>
    Float32Array.from({ length: count }, (_, i) => 0.5 * Math.sin((i + seed) * 12.9898) + 0.5 * Math.cos(i * seed));
  const [q, k, v] = [values(queries * width, 1), values(keys * width, 2), values(keys * width, 3)] as const;
  const graph = new Graph("attention", { attention: "fused" });
  const input = (name: string) => graph.input(name, "F32", [1, name, width]);
  graph.output("y", graph.attention(input("q"), input("k"), input("v"), { heads, width }), "F32", [1, "q", width]);
  using session = await runtime.createSession(graph);
  const found = new Float32Array(queries * width);
  await session.run({
    q: floatTensor(q, [1, queries, width]),
    k: floatTensor(k, [1, keys, width]),
    v: floatTensor(v, [1, keys, width]),
  }, { y: floatTensor(found, [1, queries, width]) });

  let difference = 0, size = 0;
  for (let row = 0; row < queries * heads; row++) {
    const at = Math.floor(row / heads) * width + (row % heads) * headDim;
    const own = (table: Float32Array, token: number, i: number): number =>
      table[token * width + (row % heads) * headDim + i]!;
    const scores = Array.from({ length: keys }, (_, token) => {
      let score = 0;
      for (let i = 0; i < headDim; i++) score += q[at + i]! * own(k, token, i);
      return Math.exp(score / Math.sqrt(headDim));
    });
    const total = scores.reduce((sum, score) => sum + score);
    for (let i = 0; i < headDim; i++) {
      const wanted = scores.reduce((sum, score, token) => sum + score * own(v, token, i), 0) / total;
      difference += (found[at + i]! - wanted) ** 2;
      size += wanted ** 2;
    }
  }
  return Math.sqrt(difference / size);
}
