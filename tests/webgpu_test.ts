import assert from "node:assert/strict";
import { join } from "node:path";
import { DeviceError } from "../src/errors.ts";
import { openNative, openWebGpu } from "../src/runtime/native.ts";
import type { Runtime } from "../src/runtime/runtime.ts";
import { attend, distance } from "./attention.ts";
import { runCase } from "./golden.ts";

// Runs on any GPU or software Vulkan (Mesa 25 or newer); elsewhere it skips itself and says why. A software adapter compiles
// shaders for a minute: keep MESA_SHADER_CACHE_DIR between runs.

async function adapter(): Promise<{ runtime: Runtime } | { reason: string }> {
  try {
    return { runtime: await openWebGpu() };
  } catch (error) {
    assert(error instanceof DeviceError && error.exitCode === 5, `${error}`);
    assert(!error.message.includes("\n"), "one line says it");
    return { reason: error.message };
  }
}

const found = await adapter();
const ignore = "reason" in found;
if (ignore) console.log(`WebGPU tests are skipped. ${found.reason}`);
else found.runtime[Symbol.dispose]();

Deno.test({ name: "attention on WebGPU is what it is on the CPU, from few queries to many", ignore }, async () => {
  using cpu = openNative();
  using gpu = await openWebGpu();
  for (const queries of [1, 40]) {
    const wanted = await attend(cpu, cpu.attention, queries);
    const found = await attend(gpu, gpu.attention, queries);
    assert(distance(found, wanted) < 1e-6, `${queries} queries: ${distance(found, wanted)}`);
  }
});

Deno.test({ name: "golden case negative-2x3 on WebGPU", ignore }, async () => {
  using runtime = await openWebGpu();
  const report = await runCase(join(import.meta.dirname!, "golden"), "negative-2x3", runtime);
  assert(report.passed, JSON.stringify(report, null, 1));
});
