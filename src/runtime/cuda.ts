/**
 * ONNX Runtime's native library on an NVIDIA GPU: its CUDA provider, which lies in a library of its own beside it.
 *
 * @module
 */
import { existsSync } from "node:fs";
import { dirname, join } from "node:path";
import { withFile } from "../checkpoint/random_access.ts";
import { Graph } from "../graph/graph.ts";
import { DeviceError, StageVarError } from "../errors.ts";
import { fusedAttentionError, RIGHT } from "./attention_probe.ts";
import { CudaKernels } from "./cuda_kernels.ts";
import { CudaMemory } from "./cuda_memory.ts";
import { readElf } from "./elf.ts";
import { fused } from "./fused_ops.ts";
import { libraryPath } from "./library_path.ts";
import { type NativeOptions, NativeRuntime } from "./native.ts";
import { floatTensor, type Runtime, type Tensor } from "./runtime.ts";

/**
 * Where the library looks for its CUDA provider: beside itself, and nowhere else.
 *
 * @throws {DeviceError} when there is no native library at all
 * @example
 * ```ts
 * import { cudaProvider } from "@stagevar/stagevar/runtime/cuda.ts";
 * import assert from "node:assert/strict";
 * assert.match(cudaProvider(), /providers_cuda/);
 * ```
 */
export function cudaProvider(): string {
  return join(dirname(libraryPath()), "libonnxruntime_providers_cuda.so");
}

/**
 * Whether the CUDA provider is there: nothing is loaded.
 *
 * @example
 * ```ts
 * import { cudaInstalled } from "@stagevar/stagevar/runtime/cuda.ts";
 * console.log(cudaInstalled()); // false in a fresh checkout
 * ```
 */
export function cudaInstalled(): boolean {
  try {
    return existsSync(cudaProvider());
  } catch {
    return false; // no library for this system, which openNative() will say
  }
}

/**
 * Opens the native runtime on the first CUDA device. Weights and kept tensors stay on it; a small attention, a convolution and
 * a kernel of our own prove that it computes.
 *
 * @throws {DeviceError} when the provider, a library that it links, the driver or the device is missing
 * @example
 * ```ts ignore
 * import { openCuda } from "@stagevar/stagevar/runtime/cuda.ts";
 * using runtime = await openCuda();
 * console.log(runtime.device, runtime.form.half); // cuda block
 * ```
 */
export async function openCuda(options: NativeOptions = {}): Promise<Runtime> {
  const refuse = (why: string, cause?: unknown): DeviceError =>
    new DeviceError(`No CUDA device: ${why}`, {
      cause,
      hint: 'Run "stagevar doctor" to see what is missing, or use --device cpu',
    });
  if (Deno.build.os !== "linux") throw refuse("ONNX Runtime's npm package has CUDA for Linux on x86_64 only");
  if (!cudaInstalled()) throw refuse("ONNX Runtime's CUDA provider is not installed");
  const provider = cudaProvider();
  let memory: CudaMemory | undefined;
  let kernels: CudaKernels | undefined;
  let runtime: Runtime | undefined; // which takes both over
  try {
    const { needed } = await withFile(provider, readElf);
    const library = needed.find((name) => name.startsWith("libcudart.so"));
    if (library === undefined) throw refuse(`"${provider}" links no CUDA runtime`);
    memory = new CudaMemory(library);
    const { default: ptx } = await import("../../core_cuda/kernels.ptx", { with: { type: "text" } });
    kernels = new CudaKernels(memory.stream, ptx);
    runtime = new NativeRuntime("cuda", options, { memory, kernels });
    const error = await fusedAttentionError(runtime);
    if (!(error < RIGHT)) throw refuse(`its attention is wrong, relative error ${error.toExponential(1)}`);
    if (!await convolves(runtime)) throw refuse("its convolutions are wrong");
    if (!await addsBias(runtime)) throw refuse("the program's own kernels are wrong on it");
    return runtime;
  } catch (cause) {
    if (runtime) runtime[Symbol.dispose]();
    else {
      kernels?.[Symbol.dispose]();
      memory?.[Symbol.dispose]();
    }
    if (!(cause instanceof StageVarError)) throw cause;
    if (cause instanceof DeviceError && cause.message.startsWith("No CUDA device")) throw cause;
    if (/cudnn is unavailable/i.test(cause.message)) throw refuse("the loader finds no libcudnn.so.9", cause);
    throw refuse(cause.message, cause);
  }
}

/** The provider loads cuDNN when an operator first wants it: convolutions do. */
async function convolves(runtime: Runtime): Promise<boolean> {
  const graph = new Graph("convolution");
  const weight = graph.floats([2], [1, 1, 1, 1]);
  const y = graph.op("Conv", [graph.input("x", "F32", [1, 1, "h", "w"]), weight], { kernel_shape: [1, 1] });
  graph.output("y", y, "F32", [1, 1, "h", "w"]);
  using session = await runtime.createSession(graph);
  const found = new Float32Array(4);
  const dims = [1, 1, 2, 2];
  await session.run({ x: floatTensor(Float32Array.of(1, 2, 3, 4), dims) }, { y: floatTensor(found, dims) });
  return found.every((value, i) => value === 2 * (i + 1));
}

/** One of the operators of our own. */
async function addsBias(runtime: Runtime): Promise<boolean> {
  const graph = new Graph("bias", { fused: true });
  const inputs = [graph.input("x", "F16", ["M", 4]), graph.input("bias", "F32", [4])];
  graph.output("y", fused(graph, "AddBias", inputs)[0]!, "F16", ["M", 4]);
  using session = await runtime.createDeviceSession!(graph);
  const half = (data: Float16Array): Tensor => ({ element: "F16", dims: [2, 4], data });
  const x = Float16Array.from({ length: 8 }, (_, i) => i), found = new Float16Array(8);
  const bias = floatTensor(Float32Array.of(10, 20, 30, 40), [4]);
  await session.runKeeping({ x: half(x), bias }, { y: half(found) }, {});
  return found.every((value, i) => value === i + 10 * (i % 4 + 1));
}
