/**
 * `deno run -A bench/parts.ts MODEL [--pixels 1M] [--parts LIST]`: the first chunk of blocks over all scales of a guided picture,
 * its rows all together ("whole") or in parts of some rows, scale by scale and in turn, so that what else the machine does hits
 * all forms. Text and tokens are noise: times do not depend on them. A form's first scales of few and of many rows have the
 * loading of their sessions in their time. A Markdown table.
 *
 * @module
 */
import { parseArgs } from "node:util";
import { openInfinity } from "../src/models/infinity/model.ts";
import { InfinityRun } from "../src/models/infinity/run.ts";
import { InfinityTransformer } from "../src/models/infinity/transformer.ts";
import { findModel } from "../src/models/registry.ts";
import { openNative } from "../src/runtime/native.ts";
import { type PixelBudget, schedule } from "../src/schedule.ts";

const { values, positionals: [name] } = parseArgs({
  allowPositionals: true,
  options: { pixels: { type: "string", default: "1M" }, parts: { type: "string", default: "whole,1024" } },
});
if (name === undefined) {
  console.error("Usage: deno run -A bench/parts.ts MODEL [--pixels 1M] [--parts whole,1024,...]");
  Deno.exit(2);
}

const model = await openInfinity((await findModel(name)).folder);
const { dims, transformer: weights } = model;
const { grids, last1M } = schedule(1, values.pixels as PixelBudget);
const noise = (length: number): Float32Array => Float32Array.from({ length }, () => Math.random() - 0.5);
const tokens = grids.reduce((sum, { h, w }) => sum + h * w, 0);
const capacity = Array.from({ length: dims.chunks }, (_, chunk) => chunk === 0 ? tokens : 0);

using runtime = openNative();
using stack = new DisposableStack();
const forms = await Promise.all(
  values.parts.split(",").map(async (form) => {
    const rowsAtOnce = form === "whole" ? Infinity : Number(form);
    const transformer = stack.use(
      await InfinityTransformer.open(weights, runtime, { rowsAtOnce, residency: "mapped" }),
    );
    const text = await transformer.encodeText(noise(8 * weights.dims.textDim));
    const batch = { dims, images: 1, last: grids.at(-1)!, last1M, capacity };
    return { form, run: stack.use(new InfinityRun(transformer, [text, text], batch)) };
  }),
);

console.log(`| seconds | ${forms.map(({ form }) => form).join(" | ")} |`);
console.log(`| --- |${" --- |".repeat(forms.length)}`);
for (const grid of grids) {
  const x = noise(2 * grid.h * grid.w * dims.width);
  const cells: string[] = [];
  for (const { run } of forms) {
    const own = x.slice();
    const started = performance.now();
    await run.chunk(0, own, grid);
    cells.push(((performance.now() - started) / 1000).toFixed(2));
  }
  console.log(`| ${grid.h}x${grid.w} | ${cells.join(" | ")} |`);
}
