/**
 * ONNX Runtime's native library on an NVIDIA GPU: its CUDA provider, which lies in a library of its own beside it.
 *
 * @module
 */
import { existsSync } from "node:fs";
import { dirname, join } from "node:path";
import { withFile } from "../checkpoint/random_access.ts";
import { DeviceError, StageVarError } from "../errors.ts";
import { CudaMemory } from "./cuda_memory.ts";
import { readElf } from "./elf.ts";
import { libraryPath } from "./library_path.ts";
import { type NativeOptions, NativeRuntime } from "./native.ts";
import type { Runtime } from "./runtime.ts";
import { fusedAttentionError } from "./webgpu.ts";

/** Relative error up to which attention is taken as right, in float32. */
const RIGHT = 1e-4;

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
 * Opens the native runtime on the first CUDA device. Weights and kept tensors stay on it, and a small attention proves that it
 * computes.
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
  let runtime: Runtime | undefined;
  try {
    const { needed } = await withFile(provider, readElf);
    const library = needed.find((name) => name.startsWith("libcudart.so"));
    if (library === undefined) throw refuse(`"${provider}" links no CUDA runtime`);
    runtime = new NativeRuntime("cuda", options, new CudaMemory(library));
    const error = await fusedAttentionError(runtime);
    if (!(error < RIGHT)) throw refuse(`its attention is wrong, relative error ${error.toExponential(1)}`);
    return runtime;
  } catch (cause) {
    runtime?.[Symbol.dispose]();
    if (!(cause instanceof StageVarError)) throw cause;
    if (cause instanceof DeviceError && cause.message.startsWith("No CUDA device")) throw cause;
    throw refuse(cause.message, cause);
  }
}
