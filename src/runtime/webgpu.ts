/**
 * ONNX Runtime's native library on a GPU through WebGPU, looked at before it is trusted.
 *
 * @module
 */
import { DeviceError } from "../errors.ts";
import { type NativeOptions, NativeRuntime } from "./native.ts";
import { fusedAttentionError, RIGHT } from "./attention_probe.ts";
import type { Runtime } from "./runtime.ts";

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
