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

/** Side of the square products that a GPU is measured with, how many follow each other, and how often. */
const SIDE = 8192, PRODUCTS = 8;

/**
 * GFLOP/s of products on a device, [8192, 8192] each, the best of five calls; undefined where the runtime takes no tensors.
 *
 * @example
 * ```ts
 * import { deviceGemmRate } from "@stagevar/stagevar/benchmark/gemm.ts";
 * import { openNative } from "@stagevar/stagevar/runtime/native.ts";
 * import assert from "node:assert/strict";
 * using runtime = openNative();
 * assert.equal(await deviceGemmRate(runtime, "F16"), undefined);
 * ```
 */
export async function deviceGemmRate(runtime: Runtime, element: "F16" | "F32"): Promise<number | undefined> {
  const { upload, createDeviceSession } = runtime;
  if (!upload || !createDeviceSession) return undefined;
  const graph = new Graph("gemm");
  const weight = graph.input("w", element, [SIDE, SIDE]);
  let y = graph.input("x", element, [SIDE, SIDE]);
  for (let i = 0; i < PRODUCTS; i++) y = graph.op("Gemm", [y, weight], { transB: 1, alpha: { float: 1 / SIDE } });
  const corner = graph.op("Slice", [y, graph.ints([0, 0]), graph.ints([1, 1]), graph.ints([0, 1])]);
  graph.output("corner", graph.cast(corner, "F32"), "F32", [1, 1]); // to the host, which waits for it
  using session = await createDeviceSession(graph);
  const values = new Float32Array(SIDE * SIDE).map(() => Math.random() - 0.5); // zeros would run faster
  const dims = [SIDE, SIDE];
  const tensor = element === "F16" ? { element, dims, data: new Float16Array(values) } : floatTensor(values, dims);
  using w = upload(tensor), x = upload(tensor);
  const result = floatTensor(new Float32Array(1), [1, 1]);
  let best = Infinity;
  for (let call = 0; call < CALLS; call++) {
    const started = performance.now();
    await session.runKeeping({ x, w }, { corner: result }, {});
    best = Math.min(best, performance.now() - started);
  }
  return 2 * SIDE ** 3 * PRODUCTS / best / 1e6;
}
