import assert from "node:assert/strict";
import { join } from "node:path";
import { Engine } from "../src/engine.ts";
import { DeviceError } from "../src/errors.ts";
import { openNative } from "../src/runtime/native.ts";
import { openWebGpu } from "../src/runtime/webgpu.ts";
import type { Runtime } from "../src/runtime/runtime.ts";
import { attend, distance } from "./attention.ts";
import { runCase } from "./golden.ts";
import { MODELS } from "./mini_models.ts";

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
    const wanted = await attend(cpu, cpu.form.attention, queries);
    const found = await attend(gpu, gpu.form.attention, queries);
    assert(distance(found, wanted) < 1e-6, `${queries} queries: ${distance(found, wanted)}`);
  }
});

for (const [name, dtype] of [["stagevar-512", "f32"], ["negative-2x3", "f16"]] as const) {
  Deno.test({ name: `golden case ${name} on WebGPU in ${dtype}`, ignore }, async () => {
    using runtime = await openWebGpu();
    const report = await runCase(join(import.meta.dirname!, "golden"), name, runtime, { dtype });
    assert(report.passed, JSON.stringify(report, null, 1));
  });
}

Deno.test({ name: "a batch of pictures on WebGPU is the CPU's", ignore }, async () => {
  const pictures: Uint8Array[][] = [];
  for (const device of ["cpu", "webgpu"] as const) {
    using engine = await Engine.open({ model: join(MODELS, "mini-2b"), device });
    const own: Uint8Array[] = [];
    for await (const event of engine.generate({ prompt: "a dog", seed: 3, batch: 2, pixels: "0.06M" })) {
      if (event.type === "image") own.push(event.image.data);
    }
    pictures.push(own);
  }
  for (const image of [0, 1]) {
    const [wanted, found] = [pictures[0]![image]!, pictures[1]![image]!];
    const off = found.reduce((count, value, i) => count + Number(Math.abs(value - wanted[i]!) > 1), 0);
    assert(off <= found.length / 1000, `${off} of ${found.length} values of image ${image} differ`);
  }
});
