/**
 * Chooses where graphs run, and says so.
 *
 * @module
 */
import { DeviceError } from "../errors.ts";
import { cudaInstalled, openCuda } from "./cuda.ts";
import type { DeviceName } from "../request.ts";
import { openNative } from "./native.ts";
import type { Runtime } from "./runtime.ts";
import { openWebGpu } from "./webgpu.ts";

/** An open device, and what a person should be told about the choice. */
export interface DeviceChoice {
  /** The device. */
  readonly runtime: Runtime;
  /** One line each; empty when the wish was met. */
  readonly notices: readonly string[];
}

/** Opens a device: the native library, or the portable one. Tests give their own. */
export interface DeviceOpeners {
  /** The native CPU runtime; throws DeviceError where it cannot load. */
  native(options: { threads?: number }): Runtime;
  /** The native library on a GPU; rejects with DeviceError where there is none. */
  webgpu(options: { threads?: number }): Promise<Runtime>;
  /** The native library on an NVIDIA GPU; rejects with DeviceError where there is none. */
  cuda(options: { threads?: number }): Promise<Runtime>;
  /** Whether the provider of CUDA is installed: `auto` does not load it to find that out. */
  cudaInstalled(): boolean;
  /** The WebAssembly runtime. */
  portable(): Promise<Runtime>;
}

const PLAIN_NOTICE =
  "This GPU's fused attention is wrong: it runs in steps, whose scores can take gigabytes of its memory";

const OPENERS: DeviceOpeners = {
  native: openNative,
  webgpu: openWebGpu,
  cuda: openCuda,
  cudaInstalled,
  portable: async () => await (await import("./web.ts")).openWeb(),
};

/**
 * Opens the wished device. `auto` is CUDA where its provider is installed, else the CPU's native library, else WebAssembly; what
 * should have been there and does not work is said in a notice. WebGPU is for those who ask for it: the library does not tell
 * a GPU from a program that imitates one, many times slower than the CPU itself.
 *
 * @param gpu whether `auto` may take one
 * @throws {DeviceError} when the wished device is not there
 * @example
 * ```ts
 * import { openDevice } from "@stagevar/stagevar/runtime/device.ts";
 * import assert from "node:assert/strict";
 * const { runtime, notices } = await openDevice("cpu");
 * assert.deepEqual([runtime.device, notices.length], ["cpu", 0]);
 * runtime[Symbol.dispose]();
 * ```
 */
export async function openDevice(
  device: DeviceName,
  threads?: number,
  openers: DeviceOpeners = OPENERS,
  { gpu = true }: { gpu?: boolean } = {},
): Promise<DeviceChoice> {
  const options = threads === undefined ? {} : { threads };
  const notices: string[] = [];
  switch (device) {
    case "cpu":
      return { runtime: openers.native(options), notices: [] };
    case "wasm":
      return { runtime: await openers.portable(), notices: [] };
    case "auto":
      if (gpu && openers.cudaInstalled()) {
        try {
          return { runtime: await openers.cuda(options), notices };
        } catch (error) {
          if (!(error instanceof DeviceError)) throw error;
          notices.push(`Running on the CPU although CUDA's provider is installed: ${error.message}`);
        }
      }
      try {
        return { runtime: openers.native(options), notices };
      } catch (error) {
        if (!(error instanceof DeviceError)) throw error;
        notices.push(`Running on WebAssembly, many times slower than native: ${error.message}`);
        return { runtime: await openers.portable(), notices };
      }
    case "webgpu": {
      const runtime = await openers.webgpu(options);
      return { runtime, notices: runtime.form.attention === "plain" ? [PLAIN_NOTICE] : [] };
    }
    case "cuda":
      return { runtime: await openers.cuda(options), notices };
  }
}
