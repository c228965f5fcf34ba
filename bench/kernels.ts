/**
 * Times the kernels of `src/core.ts` against their naive TypeScript twins: `deno run -A bench/kernels.ts`.
 *
 * Sizes are those of Infinity-2B at 1M, side 40 (M = 1600 tokens, C = 2048, r = 284, the mean rank at alpha 0.96), smaller where
 * the twin would take minutes; both sides of a row always do the same work. "wasm" is the best of nine calls and
 * includes the copies into and out of the wasm memory. The twins are the oracles of the tests: float64 and literal, so read the
 * ratios as an order of magnitude. Not timed: the first calls, before V8 has compiled the wasm in full. Last line: one JSON object.
 *
 * @module
 */

import { deflateSync } from "node:zlib";
import * as oracle from "../tests/core_oracles.ts";

const beforeLoad = performance.now();
const core = await import("../src/core.ts");
const loadMs = performance.now() - beforeLoad;
const { runTask } = await import("../src/tasks.ts");

interface Row {
  kernel: string;
  size: string;
  /** Milliseconds of a call, best of nine. */
  wasm: number;
  /** Milliseconds of the twin, best of two. */
  naive: number;
  /** Billions of floating-point operations a second in wasm, where that is the measure. */
  gflops?: number;
}

function milliseconds(call: () => unknown): number {
  const start = performance.now();
  call();
  return performance.now() - start;
}

function measure(kernel: string, size: string, wasm: () => unknown, naive: () => unknown, flop?: number): Row {
  for (let i = 0; i < 4; i++) wasm();
  const best = (call: () => unknown, calls: number) =>
    Math.min(...Array.from({ length: calls }, () => milliseconds(call)));
  const row: Row = { kernel, size, wasm: best(wasm, 9), naive: best(naive, 2) };
  return flop === undefined ? row : { ...row, gflops: flop / row.wasm / 1e6 };
}

const [M, r, C] = [1600, 284, 2048];
const stream = { seed: 1, purpose: "projection" } as const;
const x = core.gaussians(stream, M * C);
const q = core.gaussianProjection(stream, M, r);
const tokens = x.subarray(0, 32 * 32 * 64);
const indices = core.sampleRows(stream, x, M, C, r);
const y = x.subarray(0, r * 64);
const bits = core.sampleBits(stream, new Float32Array(40 * 40 * 32), 0);
const latent = x.subarray(0, 32 * 64 * 64);
const square = x.subarray(0, 400 * 96);
// A slope with noise of 4 levels: the noise is what takes time.
const image = { width: 1024, height: 1024, data: Uint8Array.from(x.subarray(0, 3 << 20), (v, i) => i / 2e4 + 4 * v) };

const rows: Row[] = [
  measure("uniforms", "1e6", () => core.uniforms(stream, 1e6), () => oracle.uniforms(stream, 1e6)),
  measure("gaussians", "1e6", () => core.gaussians(stream, 1e6), () => oracle.gaussians(stream, 1e6)),
  measure(
    "project",
    `${M}x${r}, ${M}x${C}`,
    () => core.project(q, x, M, r, C),
    () => oracle.project(q, x, M, r, C),
    2 * M * r * C,
  ),
  measure(
    "projectStream gaussian",
    `${M}x${r}, ${M}x${C}`,
    () => core.projectStream(stream, "gaussian", x, M, r, C),
    () => oracle.project(oracle.gaussians(stream, M * r), x, M, r, C),
    2 * M * r * C,
  ),
  measure(
    "projectStream sign",
    `${M}x${r}, ${M}x${C}`,
    () => core.projectStream(stream, "sign", x, M, r, C),
    () => oracle.project(oracle.signs(stream, M, r), x, M, r, C),
    2 * M * r * C,
  ),
  measure(
    "sampleRows",
    `${M}x${C}, r ${r}`,
    () => core.sampleRows(stream, x, M, C, r),
    () => oracle.sampleRows(stream, x, M, C, r),
  ),
  measure(
    "resizeTokens area",
    "32x32 -> 40x40, C 64",
    () => core.resizeTokens(tokens, 32, 32, 40, 40, 64, "area"),
    () => oracle.resizeTokens(tokens, 32, 32, 40, 40, 64, "area"),
  ),
  measure(
    "restore",
    `32x32 -> 40x40, C 64, r ${r}`,
    () => core.restore(tokens, 32, 32, 40, 40, 64, y, indices),
    () => oracle.restore(tokens, 32, 32, 40, 40, 64, y, indices),
  ),
  measure(
    "sampleBits",
    "4096x32",
    () => core.sampleBits(stream, latent, 0.97),
    () => oracle.sampleBits(stream, latent, 0.97),
  ),
  measure(
    "addCodes",
    "40x40 -> 64x64, d 32",
    () => core.addCodes(latent, bits, 40, 40, 64, 64, 32, false),
    () => oracle.addCodes(latent, bits, 40, 40, 64, 64, 32, false),
  ),
  measure(
    "nextInput",
    "64x64 -> 48x48, d 32",
    () => core.nextInput(latent, 32, 64, 64, 48, 48, false),
    () => oracle.nextInput(latent, 32, 64, 64, 48, 48, false),
  ),
  measure(
    "singularEnergyRanks",
    "400x96",
    () => core.singularEnergyRanks(square, 400, 96, [0.96]),
    () => oracle.squaredSingularValues(square, 400, 96),
  ),
  measure( // the twin's strings, which make nothing smaller, are looked for by zlib
    "pixels of a PNG",
    "1024x1024",
    () => runTask({ type: "pixels", image }),
    () => deflateSync(oracle.paethRows(image.data, 1024), { level: 3 }),
  ),
];

const table = rows.map(({ kernel, size, wasm, naive, gflops }) => [
  kernel,
  size,
  wasm.toFixed(2),
  naive.toFixed(0),
  (naive / wasm).toFixed(0),
  gflops?.toFixed(1) ?? "",
]);
const heading = ["kernel", "size", "wasm ms", "naive ms", "ratio", "GFLOP/s"];
const widths = heading.map((_, i) => Math.max(...[heading, ...table].map((row) => row[i]!.length)));
for (const row of [heading, ...table]) {
  console.log(row.map((cell, i) => i < 2 ? cell.padEnd(widths[i]!) : cell.padStart(widths[i]!)).join("  "));
}
console.log(`core.ts loaded in ${loadMs.toFixed(1)} ms`);
console.log(JSON.stringify({ bench: "kernels", deno: Deno.version.deno, arch: Deno.build.arch, loadMs, rows }));
