/**
 * Golden cases of STAR: runs the engine's parts on stored codes, projections and indices, and measures how far every
 * intermediate is from the float64 reference (make_star_cases.py). Run by `deno task golden`, as Infinity's.
 */
import { join } from "node:path";
import { openCheckpoint } from "../src/checkpoint/open.ts";
import { readBytes, readIntegers, readTensor } from "../src/checkpoint/source.ts";
import { VqDecoder } from "../src/models/star/decoder.ts";
import { openStar } from "../src/models/star/model.ts";
import { StarRun } from "../src/models/star/run.ts";
import { StarTransformer } from "../src/models/star/transformer.ts";
import { cacheCapacity, drawScales } from "../src/pipeline.ts";
import type { Step } from "../src/plan.ts";
import type { Runtime } from "../src/runtime/runtime.ts";
import { ownSchedule } from "../src/schedule.ts";
import { ClipEncoder } from "../src/text/clip_encoder.ts";
import { loadClipTokenizer } from "../src/text/clip_tokenizer.ts";
import { type CaseReport, Comparison } from "./golden_comparison.ts";

/** Those of Infinity in float32. Logits reach 2e-6, latents 2e-7; 2e-5 would let no wrong GELU, table or rounding pass. */
export const STAR_TOLERANCES = { features: 1e-5, latent: 1e-6 };

interface CaseFile {
  model: string;
  prompt: string;
  sides: number[];
  steps: { guidance?: number; null_only?: boolean; cond_only?: boolean; ranks?: number[]; skip?: boolean }[];
}

/** How a case is run. */
export interface StarCaseOptions {
  /** Leave weights in their files, as a large model's are. */
  readonly mapped?: boolean;
  /** Rows that go through the blocks together. Default: as the engine does it. */
  readonly rowsAtOnce?: number;
}

/** Runs one case of a golden directory. */
export async function runStarCase(
  folder: string,
  name: string,
  runtime: Runtime,
  { mapped = false, rowsAtOnce }: StarCaseOptions = {},
): Promise<CaseReport> {
  const request: CaseFile = JSON.parse(await Deno.readTextFile(join(folder, "cases", `${name}.json`)));
  const stored = await openCheckpoint(join(folder, "cases", `${name}.safetensors`));
  const model = await openStar(join(folder, "models", request.model));
  const report = new Comparison(stored, STAR_TOLERANCES);
  const residency = mapped ? "mapped" as const : undefined;

  // text
  const tokenizer = await loadClipTokenizer(model.textFolder);
  using encoder = ClipEncoder.open(model.text, runtime, residency);
  using transformer = await StarTransformer.open(model.transformer, runtime, { residency, rowsAtOnce });
  const encode = async (key: string, text: string) => {
    const { ids } = tokenizer.encode(text);
    report.tokens(ids, await readIntegers(stored.get(`${key}.input_ids`)));
    const features = await encoder.encode(ids);
    const pooled = features.slice(-model.shape.textDim);
    await report.compare(`${key}.features`, features);
    await report.compare(`${key}.pooled`, pooled);
    return await transformer.encodeText({ features, pooled });
  };
  const texts = [await encode("text", request.prompt), await encode("null", "")];

  // scales, on the stored codes
  const { dims } = model;
  const { schedule } = ownSchedule({}, { ...model.config, sides: model.sides }, model.shape.pixelsPerToken);
  if (`${model.sides}` !== `${request.sides}`) throw new Error(`Case "${name}" has other scales than its model`);
  const steps = request.steps.map(stepOf);
  const plan = { model: request.model, schedule, stages: steps.map(() => "structure" as const), steps, topP: 1 };
  const { grids } = schedule;
  const codebook = await readTensor(model.decoder.codebook);
  using run = new StarRun(transformer, texts, { codebook, phi: model.decoder.phi }, {
    dims,
    images: 1,
    last: grids.at(-1)!,
    last1M: schedule.last1M,
    capacity: cacheCapacity({ steps, grids, chunks: dims.chunks }),
  });
  const sos = await readTensor(stored.get("sos"));
  const level = (await readTensor(model.transformer.outer["lvl_embed.weight"]!)).subarray(0, dims.width);
  report.difference("sos", run.start().map((value, i) => value - level[i % dims.width]!), sos);
  const projections = new Map<string, Float32Array>();
  const integers = new Map<string, Uint32Array>();
  for (const key of stored.names()) {
    const ref = stored.get(key);
    if (/\.projection\./.test(key)) projections.set(key, await readTensor(ref));
    if (/\.(ids|indices\.\d+)$/.test(key)) integers.set(key, Uint32Array.from(await readIntegers(ref)));
  }
  const tap = {
    tokens: (k: number) => integers.get(`scale.${k}.ids`),
    projection: (k: number, c: number) => projections.get(`scale.${k}.projection.${c}`),
    indices: (k: number, c: number) => integers.get(`scale.${k}.indices.${c}`),
    observe: (k: number, what: string, data: Float32Array) =>
      report.later(`scale.${k}.${what.replace(/^chunk/, "block")}`, data),
  };
  const { kernels } = run;
  let latent = new Float32Array();
  for await (const scale of drawScales({ plan, dims, transformer: run, kernels, seeds: [0], tap })) {
    if (scale.step.kind !== "skip") report.later(`scale.${scale.index}.f_hat`, scale.latent);
    await report.settle();
    latent = scale.latent as Float32Array<ArrayBuffer>;
  }
  await report.compare("f_hat", latent);

  // picture
  const last = grids.at(-1)!;
  using decoder = new VqDecoder(model.decoder, runtime);
  report.picture(await decoder.pixels(latent, last.h, last.w), await readBytes(stored.get("image")));
  return report.finish(name);
}

function stepOf({ guidance, null_only, cond_only, ranks, skip }: CaseFile["steps"][number]): Step {
  if (skip) return { kind: "skip" };
  const rows = null_only ? "null" as const : cond_only ? "cond" as const : "both" as const;
  if (!ranks) return { kind: "full", rows, guidance: 1 + (guidance ?? 0), tau: 1 };
  if (rows === "both") throw new Error("Reduced steps of both rows are not the engine's");
  return {
    kind: "reduced",
    rows,
    guidance: rows === "null" ? 0 : 1,
    tau: 1,
    reduce: "project",
    ranks,
    projection: "gaussian",
    rope: "indices",
    addUnselected: true,
  };
}
