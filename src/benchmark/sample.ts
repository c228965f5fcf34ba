/**
 * Measures one configuration in this process, which should be fresh: memory only ever grows.
 *
 * One engine draws a warm-up, then the pictures that count, each with a prompt of its own, since an engine remembers the
 * text it has encoded; prompts and seeds are the same for all configurations.
 *
 * @module
 */
import { type Cost, scaleFlops } from "../cost.ts";
import { Engine } from "../engine.ts";
import type { DtypeName, GenerateEvent, GenerateRequest, Phase } from "../request.ts";
import { openDevice } from "../runtime/device.ts";
import { chromeTrace, type Span } from "../runtime/trace.ts";
import type { Grid } from "../schedule.ts";
import type { Stage, Step } from "../step.ts";
import type { Model } from "../models/open.ts";
import { clipFlops } from "../text/clip_encoder.ts";
import { encoderFlops } from "../text/t5_encoder.ts";
import { deviceGemmRate, gemmRate } from "./gemm.ts";

/** What is drawn before the pictures that count: one of the same, one of the seven smallest scales, or nothing. */
export type WarmUp = "full" | "short" | "none";

/** What to measure. */
export interface SampleRequest {
  /** Settings of the pictures but prompt and seed, the method named. */
  readonly settings: Omit<GenerateRequest, "prompt" | "seed"> & { readonly method: string };
  /** Prompt of every picture; by default each has its own. */
  readonly prompt?: string;
  /** Pictures (batches of them) that count. */
  readonly runs: number;
  /** What comes before. */
  readonly warmUp: WarmUp;
  /** Whether to trace the first picture that counts. */
  readonly trace: boolean;
}

/** Repeated measurements of one thing. */
export interface Measured {
  /** Mean. */
  readonly mean: number;
  /** The run in the middle, or the mean of the two there. */
  readonly median: number;
  /** Standard deviation of a run around the mean (n - 1); 0 for one run. */
  readonly sd: number;
  /** Every run, in order. */
  readonly runs: readonly number[];
}

/** Time, arithmetic and memory of a phase or of the whole. */
export interface PhaseSample {
  /** Milliseconds. */
  readonly ms: Measured;
  /** Operations that the definition counts (a multiplication and an addition are two); absent where none are counted. */
  readonly flops?: number;
  /** Peak of anonymous and of mapped memory, bytes; absent for the whole. */
  readonly memory?: { readonly anonymous: number; readonly mapped: number };
}

/** One scale. */
export interface ScaleSample {
  /** Its grid. */
  readonly grid: Grid;
  /** Its stage. */
  readonly stage: Stage;
  /** What was done. */
  readonly step: Step["kind"];
  /** Tokens that went through the blocks, a row. */
  readonly tokens: number;
  /** Milliseconds. */
  readonly ms: Measured;
  /** Operations. */
  readonly flops: number;
}

/** Phases of a picture whose figures are given, and the whole of it: from request to PNG, without the loading before. */
export const PARTS: readonly (Phase | "whole")[] = ["load", "text", "transformer", "decode", "encode", "whole"];

/** What was measured of one configuration. */
export interface Sample {
  /** Name of the model and first digits of its hash. */
  readonly model: string;
  /** First digits of the model's hash. */
  readonly modelHash: string;
  /** Where the graphs ran. */
  readonly device: string;
  /** Engine and its version. */
  readonly runtime: string;
  /** Pixels of a picture. */
  readonly size: readonly [width: number, height: number];
  /** Tokens of the prompt of the first picture that counts. */
  readonly textTokens: number;
  /** Milliseconds from the engine's opening to the end of the first picture, warm-up or not: graphs are built on the way. */
  readonly firstPicture: number;
  /** The phases, and `whole`. */
  readonly parts: Readonly<Record<string, PhaseSample>>;
  /** Every scale. */
  readonly scales: readonly ScaleSample[];
  /** Rows times tokens times blocks that ran. */
  readonly tokenLayers: number;
  /** Those of vanilla. */
  readonly vanillaTokenLayers: number;
  /** Arithmetic of the blocks' linear layers. */
  readonly dtype: DtypeName;
  /** GFLOP/s of a large product on the same threads or device: see {@linkcode gemmRate} and {@linkcode deviceGemmRate}. */
  readonly gemmRate: number;
  /** What that product was. */
  readonly gemm: string;
  /** Chrome trace of the first picture that counts, where it was asked for. */
  readonly trace?: string;
}

/**
 * Mean and spread of repeated measurements.
 *
 * @example
 * ```ts
 * import { measured } from "@stagevar/stagevar/benchmark/sample.ts";
 * import assert from "node:assert/strict";
 * assert.deepEqual(measured([1, 2, 3]), { mean: 2, median: 2, sd: 1, runs: [1, 2, 3] });
 * ```
 */
export function measured(runs: readonly number[]): Measured {
  const mean = runs.reduce((sum, run) => sum + run, 0) / runs.length;
  const squares = runs.reduce((sum, run) => sum + (run - mean) ** 2, 0);
  const sorted = runs.toSorted((a, b) => a - b);
  const median = (sorted[Math.floor((runs.length - 1) / 2)]! + sorted[Math.floor(runs.length / 2)]!) / 2;
  return { mean, median, sd: Math.sqrt(squares / Math.max(1, runs.length - 1)), runs };
}

/** Pictures of a size until CUDA has recorded all that it repeats: see runtime/recordings.ts. */
const CUDA_WARM_UP = 12;

const COLOURS = ["red", "blue", "green", "yellow", "orange", "purple", "white", "black"];

/**
 * The prompt of a run: another pair of colours each, until after 56 runs they come again.
 *
 * @example
 * ```ts
 * import { benchPrompt } from "@stagevar/stagevar/benchmark/sample.ts";
 * import assert from "node:assert/strict";
 * assert.equal(benchPrompt(0), "a red circle left of a blue square");
 * ```
 */
export function benchPrompt(run: number): string {
  const first = run % COLOURS.length;
  const second = (first + 1 + Math.floor(run / COLOURS.length) % (COLOURS.length - 1)) % COLOURS.length;
  return `a ${COLOURS[first]} circle left of a ${COLOURS[second]} square`;
}

/** Scales of the smallest size of Infinity. */
const FEWEST_SCALES = 7;

/** What draws those alone: a smaller picture, or one of a model of one size that is left off there. */
function shortest({ model }: Engine): Partial<GenerateRequest> {
  if (model.family === "infinity") return { pixels: "0.06M" };
  return {
    method: "skip-fidelity",
    methodOptions: { fidelity: Math.max(1, model.sides.length - FEWEST_SCALES) },
  };
}

type Event<T extends GenerateEvent["type"]> = Extract<GenerateEvent, { type: T }>;

/** Events of one picture, without its pixels, and its time in milliseconds. */
interface Picture {
  readonly start: Event<"start">;
  readonly text: Event<"text">;
  readonly scales: readonly Event<"scale">[];
  readonly size: readonly [number, number];
  readonly done: Event<"done">;
  readonly ms: number;
}

async function draw(events: AsyncIterable<GenerateEvent>): Promise<Picture> {
  const asked = performance.now();
  const scales: Event<"scale">[] = [];
  let start, text, done, size: [number, number] = [0, 0];
  for await (const event of events) {
    if (event.type === "start") start = event;
    if (event.type === "text") text = event;
    if (event.type === "scale") scales.push(event);
    if (event.type === "image") size = [event.image.width, event.image.height];
    if (event.type === "done") done = event;
  }
  if (!start || !text || !done) throw new Error("A picture ended without its events");
  return { start, text, scales, size, done, ms: performance.now() - asked };
}

/**
 * Measures a configuration, and tells `progress` the number of every run before it starts (0 is the warm-up).
 *
 * @throws {StageVarError} one of its classes, when the configuration cannot be run
 * @example
 * ```ts
 * import { takeSample } from "@stagevar/stagevar/benchmark/sample.ts";
 * import assert from "node:assert/strict";
 * const settings = { model: "shapes", method: "stagevar" };
 * const { parts, size } = await takeSample({ settings, runs: 2, warmUp: "none", trace: false });
 * assert(parts.transformer!.ms.runs.length === 2 && size[0] === 128);
 * ```
 */
export async function takeSample(
  { settings, prompt, runs, warmUp, trace }: SampleRequest,
  progress: (run: number) => void = () => {},
  signal?: AbortSignal,
): Promise<Sample> {
  const { model, device, threads, dtype, lowMemory, ...picture } = settings;
  const spans: Span[] = [];
  let tracing = false;
  const opened = performance.now();
  using engine = await Engine.open({
    ...model && { model },
    ...device && { device },
    ...threads && { threads },
    ...dtype && { dtype },
    ...lowMemory && { lowMemory },
    ...trace && { trace: (span: Span) => void (tracing && spans.push(span)) },
  });
  let firstPicture: number | undefined;
  const one = async (run: number, change: Partial<GenerateRequest> = {}): Promise<Picture> => {
    progress(run);
    const request = { ...picture, ...change, prompt: prompt ?? benchPrompt(run), seed: run };
    const drawn = await draw(engine.generate(request, { signal }));
    firstPicture ??= performance.now() - opened;
    return drawn;
  };
  if (warmUp === "full") {
    await one(0);
    if (engine.device === "cuda") { for (let run = 1; run < CUDA_WARM_UP; run++) await one(runs + run); }
  }
  if (warmUp === "short") await one(0, { ...shortest(engine), batch: 1 });
  const pictures: Picture[] = [];
  for (let run = 1; run <= runs; run++) {
    tracing = run === 1;
    pictures.push(await one(run));
  }
  const over = (ms: (picture: Picture) => number): Measured => measured(pictures.map(ms));
  const [first] = pictures as [Picture, ...Picture[]];
  const batch = settings.batch ?? 1;
  const { cost } = first.start.plan;
  const rate = await rateOf(engine.device, engine.dtype, threads);
  return {
    model: first.start.model.name,
    modelHash: first.start.model.hash,
    device: first.start.device,
    dtype: engine.dtype,
    runtime: rate.runtime,
    size: first.size,
    textTokens: first.text.tokens,
    firstPicture: firstPicture!,
    parts: Object.fromEntries(PARTS.map((part) => [part, {
      ms: part === "whole" ? over(({ ms }) => ms) : over(({ done }) => done.timings[part]),
      ...flopsOf(part, cost, batch, textFlops(engine.model, first.text.tokens)),
      ...part !== "whole" && { memory: peakOf(pictures, part) },
    }])),
    scales: first.scales.map(({ index, grid, stage, step, tokensRun }) => ({
      grid,
      stage,
      step: step.kind,
      tokens: tokensRun,
      ms: over(({ scales }) => scales[index]!.ms),
      flops: scaleFlops(cost.scales[index]!.flops) * batch,
    })),
    tokenLayers: first.done.tokenLayers,
    vanillaTokenLayers: first.done.vanillaTokenLayers,
    gemmRate: rate.gflops,
    gemm: rate.product,
    ...trace && { trace: chromeTrace(spans) },
  };
}

/** Of one prompt; the null prompt of STAR is encoded once an engine. */
function textFlops(model: Model, tokens: number): number {
  return model.family === "star" ? clipFlops(model.text.dims, tokens) : encoderFlops(model.text.dims, tokens);
}

/** Loading counts no arithmetic, and neither does the PNG; text keys and values are computed once for the whole batch. */
function flopsOf(part: Phase | "whole", cost: Cost, batch: number, text: number): { flops?: number } {
  const transformer = (cost.transformer - cost.textKeysValues) * batch + cost.textKeysValues;
  const decode = (cost.decoder ?? 0) * batch;
  const flops = { load: 0, encode: 0, text, transformer, decode, whole: text + transformer + decode }[part];
  return flops > 0 ? { flops } : {};
}

function peakOf(pictures: readonly Picture[], part: Phase): { anonymous: number; mapped: number } {
  const peaks = pictures.map(({ done }) => done.memory[part]);
  return {
    anonymous: Math.max(0, ...peaks.map((peak) => peak?.anonymous ?? 0)),
    mapped: Math.max(0, ...peaks.map((peak) => peak?.mapped ?? 0)),
  };
}

async function rateOf(
  device: string,
  dtype: DtypeName,
  threads?: number,
): Promise<{ gflops: number; product: string; runtime: string }> {
  using runtime = (await openDevice(device as "cpu", threads)).runtime;
  const { version } = runtime;
  const element = dtype === "f16" ? "F16" : "F32";
  const rate = await deviceGemmRate(runtime, element);
  return rate === undefined
    ? { gflops: await gemmRate(runtime), product: "float32 product [1024, 2048] x [2048, 8192]", runtime: version }
    : {
      gflops: rate,
      product: `${element === "F16" ? "float16" : "float32"} product [8192, 8192] x [8192, 8192]`,
      runtime: version,
    };
}
