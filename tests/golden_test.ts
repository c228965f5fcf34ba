import assert from "node:assert/strict";
import { join } from "node:path";
import { openNative } from "../src/runtime/native.ts";
import { REFERENCE } from "./fused_reference.ts";
import { caseNames, runCase } from "./golden.ts";

const GOLDEN = join(import.meta.dirname!, "golden");

for (const name of await caseNames(GOLDEN)) {
  Deno.test(`golden case ${name}`, async () => {
    using runtime = openNative();
    const report = await runCase(GOLDEN, name, runtime);
    assert(report.passed, JSON.stringify(report, null, 1));
    assert(report.compared >= 16, `only ${report.compared} tensors were compared`);
  });
}

for (const resident of ["webgpu", "cuda"] as const) {
  for (const name of await caseNames(GOLDEN)) {
    Deno.test(`golden case ${name} with the graphs of ${resident}, on tensors that stay on their device`, async () => {
      using runtime = openNative({ resident });
      const report = await runCase(GOLDEN, name, runtime);
      assert(report.passed, JSON.stringify(report, null, 1));
      const half = await runCase(GOLDEN, name, runtime, { dtype: "f16" });
      assert(half.passed, JSON.stringify(half, null, 1));
      assert(half.errors.logits! > 1e-5, `logits within ${half.errors.logits} were not made in half precision`);
    });
  }
}

for (const name of await caseNames(GOLDEN)) {
  Deno.test(`golden case ${name} with CUDA's fused operators, by their definitions`, async () => {
    using runtime = openNative({ resident: "cuda", fused: REFERENCE });
    const report = await runCase(GOLDEN, name, runtime, { dtype: "f16" });
    assert(report.passed, JSON.stringify(report, null, 1));
    assert(report.errors.logits! > 1e-5, `logits within ${report.errors.logits} were not made in half precision`);
  });
}

for (const options of [{ mapped: true }, { dtype: "u16" }, { dtype: "u8" }, { dtype: "u8", mapped: true }] as const) {
  Deno.test(`golden case stagevar-512 ${JSON.stringify(options)}`, async () => {
    using runtime = openNative();
    const report = await runCase(GOLDEN, "stagevar-512", runtime, options);
    assert(report.passed, JSON.stringify(report, null, 1));
    // the integers must have been used: float32 is a hundred times nearer
    if ("dtype" in options) assert(report.errors.logits! > 1e-5, `logits within ${report.errors.logits}`);
  });
}

Deno.test("golden cases notice a wrong number", async () => {
  // The same case with one stored bit flipped must fail: the comparison is able to.
  const folder = await Deno.makeTempDir();
  try {
    await Deno.mkdir(join(folder, "cases"));
    await Deno.symlink(join(GOLDEN, "models"), join(folder, "models"));
    const from = join(GOLDEN, "cases");
    await Deno.copyFile(join(from, "vanilla-256.json"), join(folder, "cases", "vanilla-256.json"));
    const bytes = await Deno.readFile(join(from, "vanilla-256.safetensors"));
    const header = Number(new DataView(bytes.buffer).getBigUint64(0, true));
    const index = JSON.parse(new TextDecoder().decode(bytes.subarray(8, 8 + header)));
    bytes[8 + header + index["scale.2.bits"].data_offsets[0]]! ^= 1;
    await Deno.writeFile(join(folder, "cases", "vanilla-256.safetensors"), bytes);
    using runtime = openNative();
    const report = await runCase(folder, "vanilla-256", runtime);
    assert.equal(report.passed, false);
    assert(report.errors.latent! > 1e-4);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});
