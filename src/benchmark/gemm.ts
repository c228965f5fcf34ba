/**
 * What a machine's matrix products reach: the yardstick that the phases of a picture are held against.
 *
 * @module
 */
import { Graph } from "../graph/graph.ts";
import { floatTensor, type Runtime } from "../runtime/runtime.ts";

/** Rows, columns and depth of the product: 1024 tokens in the first feed-forward layer of Infinity-2B. */
const [M, N, K] = [1024, 8192, 2048];
const CALLS = 5;

/**
 * GFLOP/s of a float32 product [1024, 2048] x [2048, 8192] with packed weights, the best of five calls.
 *
 * @example
 * ```ts
 * import { gemmRate } from "@stagevar/stagevar/benchmark/gemm.ts";
 * import { openNative } from "@stagevar/stagevar/runtime/native.ts";
 * import assert from "node:assert/strict";
 * using runtime = openNative();
 * assert(await gemmRate(runtime) > 0.1);
 * ```
 */
export async function gemmRate(runtime: Runtime): Promise<number> {
  const graph = new Graph("gemm");
  const values = (count: number): Float32Array => {
    const filled = new Float32Array(count);
    for (let i = 0; i < count; i++) filled[i] = (i % 17 - 8) / 8;
    return filled;
  };
  const weight = graph.floats(values(N * K), [N, K]);
  graph.output("y", graph.op("Gemm", [graph.input("x", "F32", ["M", K]), weight], { transB: 1 }), "F32", ["M", N]);
  using session = await runtime.createSession(graph);
  const x = floatTensor(values(M * K), [M, K]);
  const y = floatTensor(new Float32Array(M * N), [M, N]);
  let best = Infinity;
  for (let call = 0; call < CALLS; call++) {
    const started = performance.now();
    await session.run({ x }, { y });
    best = Math.min(best, performance.now() - started);
  }
  return 2 * M * N * K / best / 1e6;
}
