/**
 * Chooses where graphs run, and says so.
 *
 * @module
 */
import { DeviceError } from "../errors.ts";
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
  /** The WebAssembly runtime. */
  portable(): Promise<Runtime>;
}

const PLAIN_NOTICE =
  "This GPU's fused attention is wrong: it runs in steps, whose scores can take gigabytes of its memory";

const OPENERS: DeviceOpeners = {
  native: openNative,
  webgpu: openWebGpu,
  portable: async () => await (await import("./web.ts")).openWeb(),
};

/**
 * Opens the wished device. `auto` is the CPU's native library, or WebAssembly, with a notice, where that cannot load.
 *
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
): Promise<DeviceChoice> {
  const options = threads === undefined ? {} : { threads };
  switch (device) {
    case "cpu":
      return { runtime: openers.native(options), notices: [] };
    case "wasm":
      return { runtime: await openers.portable(), notices: [] };
    case "auto":
      try {
        return { runtime: openers.native(options), notices: [] };
      } catch (error) {
        if (!(error instanceof DeviceError)) throw error;
        const notice = `Running on WebAssembly, many times slower than native: ${error.message}`;
        return { runtime: await openers.portable(), notices: [notice] };
      }
    case "webgpu": {
      const runtime = await openers.webgpu(options);
      return { runtime, notices: runtime.attention === "plain" ? [PLAIN_NOTICE] : [] };
    }
    case "cuda":
      throw new DeviceError(`Device "${device}" is not supported yet`, {
        hint: "Use --device auto, cpu, webgpu or wasm",
      });
  }
}
