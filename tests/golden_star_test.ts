import assert from "node:assert/strict";
import { join } from "node:path";
import { openNative } from "../src/runtime/native.ts";
import { caseNames } from "./golden.ts";
import { runStarCase } from "./golden_star.ts";

const GOLDEN = join(import.meta.dirname!, "golden-star");

for (const name of await caseNames(GOLDEN)) {
  Deno.test(`golden case ${name}`, async () => {
    using runtime = openNative();
    const report = await runStarCase(GOLDEN, name, runtime);
    assert(report.passed, JSON.stringify(report, null, 1));
    assert(report.compared >= 20, `only ${report.compared} tensors were compared`);
  });

  Deno.test(`golden case ${name}, weights mapped, in parts of ten tokens`, async () => {
    using runtime = openNative();
    const report = await runStarCase(GOLDEN, name, runtime, { mapped: true, rowsAtOnce: 20 });
    assert(report.passed, JSON.stringify(report, null, 1));
  });
}

Deno.test("golden case star-stagevar with attention as products and softmax", async () => {
  using runtime = openNative({ resident: "webgpu" });
  const report = await runStarCase(GOLDEN, "star-stagevar", runtime);
  assert(report.passed, JSON.stringify(report, null, 1));
});
