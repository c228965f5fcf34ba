/**
 * Golden cases: runs the engine on stored bits, projections and indices, and measures how far every intermediate is from
 * the float64 reference.
 *
 *     deno task golden [DIR] [--dtype f32|f16|u16|u8] [--mapped] [--device cpu|as-webgpu|as-cuda|as-cuda-fused|webgpu|cuda]      DIR holds models/ and cases/ (default: tests/golden)
 */
import { join } from "node:path";
import { parseArgs } from "node:util";
import { openCheckpoint } from "../src/checkpoint/open.ts";
import { readBytes, readIntegers, readTensor } from "../src/checkpoint/source.ts";
import { beginRun } from "../src/models/infinity/device_run.ts";
import type { LoopTensor } from "../src/models/painter.ts";
import { Decoder } from "../src/models/infinity/decoder.ts";
import { openInfinity } from "../src/models/infinity/model.ts";
import { openQuantised } from "../src/models/infinity/quantised.ts";
import { InfinityTransformer } from "../src/models/infinity/transformer.ts";
import { cacheCapacity, drawScales } from "../src/pipeline.ts";
import type { Step } from "../src/plan.ts";
import type { DtypeName } from "../src/request.ts";
import { openNative } from "../src/runtime/native.ts";
import { openCuda } from "../src/runtime/cuda.ts";
import { openWebGpu } from "../src/runtime/webgpu.ts";
import type { Runtime } from "../src/runtime/runtime.ts";
import { RATIOS, schedule } from "../src/schedule.ts";
import type { PixelBudget } from "../src/schedule.ts";
import { T5Encoder } from "../src/text/t5_encoder.ts";
import { loadTokenizer } from "../src/text/tokenizer.ts";
import { REFERENCE } from "./fused_reference.ts";
import { type CaseReport, Comparison } from "./golden_comparison.ts";
import { runStarCase } from "./golden_star.ts";

/**
 * Relative error allowed of features and logits: plain float32 reaches 6e-7. In integers and in half precision, half as much
 * again as the largest error seen, on the committed cases and those of other seeds and widths (bench/LOG.md).
 */
export const FEATURE_TOLERANCE: Readonly<Record<DtypeName, number>> = { f32: 1e-5, f16: 6e-3, u16: 2.5e-4, u8: 4e-2 };
/** Relative error allowed of the latent, which comes of stored bits: float32 reaches 1e-7. */
export const LATENT_TOLERANCE = 1e-6;
interface CaseFile {
  model: string;
  prompt: string;
  negative_prompt: string | null;
  height_over_width: number;
  pixels: PixelBudget;
  grids: [number, number][];
  top_p: number;
  steps: { guidance?: number; tau?: number; null_only?: boolean; ranks?: number[]; skip?: boolean }[];
}

/** How a case is run. */
export interface CaseOptions {
  /** Arithmetic of the blocks' linear layers. Default `f32`. */
  readonly dtype?: DtypeName;
  /** Leave weights in their files, as a large model's are, and `--low-memory` does with every model's. */
  readonly mapped?: boolean;
}

/** Runs one case of a golden directory. */
export async function runCase(
  folder: string,
  name: string,
  runtime: Runtime,
  { dtype = "f32", mapped = false }: CaseOptions = {},
): Promise<CaseReport> {
  const request: CaseFile = JSON.parse(await Deno.readTextFile(join(folder, "cases", `${name}.json`)));
  const stored = await openCheckpoint(join(folder, "cases", `${name}.safetensors`));
  const model = await openInfinity(join(folder, "models", request.model));
  const report = new Comparison(stored, { features: FEATURE_TOLERANCE[dtype], latent: LATENT_TOLERANCE });
  const residency = mapped ? "mapped" as const : undefined;
  const copies = await Deno.makeTempDir();
  using _removed = { [Symbol.dispose]: () => Deno.removeSync(copies, { recursive: true }) };
  const half = dtype === "f16";
  const quantised = dtype === "u16" || dtype === "u8"
    ? await openQuantised({ ...model, folder: copies }, dtype)
    : undefined;

  // text
  const tokenizer = await loadTokenizer(model.textFolder);
  using encoder = T5Encoder.open(model.text, runtime, residency, half);
  const encode = async (key: string, text: string): Promise<Float32Array> => {
    const { ids } = tokenizer.encode(text);
    report.tokens(ids, await readIntegers(stored.get(`${key}.input_ids`)));
    const features = await encoder.encode(ids);
    await report.compare(`${key}.features`, features);
    return features;
  };
  const features = await encode("text", request.prompt);
  const negative = request.negative_prompt === null ? undefined : await encode("negative", request.negative_prompt);
  using transformer = await InfinityTransformer.open(model.transformer, runtime, { quantised, half, residency });
  const cond = await transformer.encodeText(features); // in host memory, wherever pictures run
  const uncond = negative ?? await transformer.nullFeatures(cond.tokens);
  const nul = await transformer.encodeText(uncond);
  await report.compare("text.cond", Float32Array.of(...cond.cond, ...nul.cond));
  await report.compare("text.ctx", cond.ctx);
  await report.compare("text.ctx_null", nul.ctx);

  // scales, on the stored bits
  const { dims } = model;
  const nearest = RATIOS.reduce((a, b) =>
    Math.abs(b - request.height_over_width) < Math.abs(a - request.height_over_width) ? b : a
  );
  const plan = {
    model: request.model,
    schedule: schedule(nearest, request.pixels),
    stages: request.steps.map(() => "structure" as const),
    steps: request.steps.map(stepOf),
    topP: request.top_p,
  };
  const grids = plan.schedule.grids;
  if (JSON.stringify(grids.map(({ h, w }) => [h, w])) !== JSON.stringify(request.grids)) {
    throw new Error(`Case "${name}" wants grids ${request.grids.join(" ")}: the schedule has others`);
  }
  using run = await beginRun(transformer, [features, uncond], {
    dims,
    images: 1,
    last: grids.at(-1)!,
    last1M: plan.schedule.last1M,
    capacity: cacheCapacity({ steps: plan.steps, grids, chunks: dims.chunks }),
  });
  const forced = new Map<string, Uint8Array | Float32Array | Uint32Array>();
  for (const key of stored.names()) {
    const ref = stored.get(key);
    if (/\.bits$/.test(key)) forced.set(key, await readBytes(ref));
    if (/\.projection\./.test(key)) forced.set(key, await readTensor(ref));
    if (/\.indices\./.test(key)) forced.set(key, Uint32Array.from(await readIntegers(ref)));
  }
  const tap = {
    tokens: (k: number) => forced.get(`scale.${k}.bits`) as Uint8Array,
    projection: (k: number, c: number) => forced.get(`scale.${k}.projection.${c}`) as Float32Array | undefined,
    indices: (k: number, c: number) => forced.get(`scale.${k}.indices.${c}`) as Uint32Array | undefined,
    observe: (k: number, what: string, data: Float32Array) => report.later(`scale.${k}.${what}`, data),
  };
  const { kernels } = run;
  let latent: LoopTensor | undefined;
  for await (const scale of drawScales({ plan, dims, transformer: run, kernels, seeds: [0], tap })) {
    await report.settle();
    latent = scale.latent;
  }
  await report.compare("latent", await kernels.read(latent!));

  // picture
  const [, h, w] = stored.get("latent").shape as [number, number, number];
  using decoder = new Decoder(model.decoder, runtime);
  const own = latent instanceof Float32Array ? latent : latent![0]!;
  report.picture(await decoder.pixels(own, h, w), await readBytes(stored.get("image")));
  return report.finish(name);
}

function stepOf({ guidance, tau, null_only, ranks, skip }: CaseFile["steps"][number]): Step {
  if (skip) return { kind: "skip" };
  if (!ranks) return { kind: "full", rows: null_only ? "null" : "both", guidance: guidance!, tau: tau! };
  return {
    kind: "reduced",
    rows: "null",
    guidance: 0,
    tau: tau!,
    reduce: "project",
    ranks,
    projection: "gaussian",
    rope: "first",
    addUnselected: true,
  };
}

/** Names of the cases of a golden directory. */
export async function caseNames(folder: string): Promise<string[]> {
  const names: string[] = [];
  for await (const entry of Deno.readDir(join(folder, "cases"))) {
    if (entry.name.endsWith(".json")) names.push(entry.name.slice(0, -".json".length));
  }
  return names.sort();
}

if (import.meta.main) {
  const { values, positionals: [folder = join(import.meta.dirname!, "golden")] } = parseArgs({
    args: Deno.args,
    allowPositionals: true,
    options: {
      dtype: { type: "string", default: "f32" },
      mapped: { type: "boolean" },
      device: { type: "string", default: "cpu" },
    },
  });
  const { mapped = false } = values;
  const dtype = (Object.keys(FEATURE_TOLERANCE) as DtypeName[]).find((name) => name === values.dtype);
  if (!dtype) {
    console.error(`No dtype "${values.dtype}": one of ${Object.keys(FEATURE_TOLERANCE).join(", ")} is wanted`);
    Deno.exit(2);
  }
  const openers: Readonly<Record<string, () => Runtime | Promise<Runtime>>> = {
    cpu: () => openNative(),
    "as-webgpu": () => openNative({ resident: "webgpu" }), // the CPU, with that GPU's graphs and memory of its own
    "as-cuda": () => openNative({ resident: "cuda" }),
    "as-cuda-fused": () => openNative({ resident: "cuda", fused: REFERENCE }),
    webgpu: () => openWebGpu(),
    cuda: () => openCuda(),
  };
  const open = openers[values.device];
  if (!open) {
    console.error(`No device "${values.device}": one of ${Object.keys(openers).join(", ")} is wanted`);
    Deno.exit(2);
  }
  using runtime = await open();
  const names = await caseNames(folder).catch(() => []);
  if (names.length === 0) {
    console.error(`No golden cases in "${folder}": give a folder with models/ and cases/`);
    Deno.exit(1);
  }
  let failed = 0;
  for (const name of names) {
    const report = name.startsWith("star-")
      ? await runStarCase(folder, name, runtime, { mapped })
      : await runCase(folder, name, runtime, { dtype, mapped });
    if (!report.passed) failed++;
    const errors = Object.entries(report.errors).map(([kind, error]) => `${kind} ${error.toExponential(1)}`).join("  ");
    console.log(
      `${report.passed ? "ok  " : "FAIL"} ${name.padEnd(14)} ${errors}  pixels ${report.pixelLevels} level on ` +
        `${(100 * report.pixelShare).toFixed(3)} %  tokens ${report.tokensEqual ? "equal" : "DIFFER"}  ` +
        `(${report.compared} tensors)`,
    );
  }
  console.log(failed === 0 ? "All cases within tolerance" : `${failed} cases out of tolerance`);
  Deno.exit(failed === 0 ? 0 : 1);
}
