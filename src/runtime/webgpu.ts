/**
 * ONNX Runtime's native library on a GPU through WebGPU, looked at before it is trusted.
 *
 * @module
 */
import { DeviceError } from "../errors.ts";
import { Graph } from "../graph/graph.ts";
import { type NativeOptions, NativeRuntime } from "./native.ts";
import { floatTensor, type Runtime } from "./runtime.ts";

/** Sizes at which attention takes its flash kernel, with a tile that is not full at either end. */
const PROBE = { queries: 40, keys: 70, heads: 2, headDim: 64 };

/** Relative error up to which a GPU's attention is taken as right: float32 with a fast exponential. */
const RIGHT = 1e-4;

/**
 * Opens the native runtime on the best GPU that WebGPU finds. Weights stay on the GPU, and so do the tensors that a run is
 * told to keep there.
 *
 * A small attention proves the adapter, which the library looks for only when it loads a graph, and the kernel: it is a
 * percent off on software adapters (bench/LOG.md), and such a runtime has the plain form.
 *
 * @throws {DeviceError} when the library cannot be loaded, has no WebGPU, or finds no adapter
 * @example
 * ```ts ignore
 * import { openWebGpu } from "@stagevar/stagevar/runtime/webgpu.ts";
 * using runtime = await openWebGpu();
 * console.log(runtime.device, runtime.form.attention); // webgpu fused
 * ```
 */
export async function openWebGpu(options: NativeOptions = {}): Promise<Runtime> {
  const runtime = new NativeRuntime("webgpu", options);
  try {
    if (await fusedAttentionError(runtime) < RIGHT) runtime.form = { ...runtime.form, attention: "fused" };
    return runtime;
  } catch (cause) {
    runtime[Symbol.dispose]();
    const { message } = cause as Error; // the library's own ends with what a person can use
    throw new DeviceError(`No WebGPU device: ${/Failed to get .*/.exec(message)?.[0] ?? message}`, {
      cause,
      hint: 'Run "stagevar doctor" to see what is missing, or use --device cpu',
    });
  }
}

/**
 * How far a runtime's fused attention is from attention, norm of the difference over norm of the result.
 *
 * @example
 * ```ts
 * import { openNative } from "@stagevar/stagevar/runtime/native.ts";
 * import { fusedAttentionError } from "@stagevar/stagevar/runtime/webgpu.ts";
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
