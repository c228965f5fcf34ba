/**
 * The plan: what happens at every scale of one picture, why, and what it costs.
 *
 * Plain JSON-able data; knows no tensors, no graphs and no prompt.
 *
 * @module
 */
import { type Cost, type ModelShape, planCost } from "./cost.ts";
import { ModelError, UsageError } from "./errors.ts";
import { type OptionValue, resolveOptions } from "./methods/method.ts";
import { findMethod } from "./methods/mod.ts";
import { DEFAULT_ALPHA, FIDELITY_SCALES, pickRanks, ranksAt, type RankTable, releasedAlphas } from "./presets.ts";
import { type Grid, type PixelBudget, pixelSize, type Schedule } from "./schedule.ts";
import type { FullStep, Stage, Step } from "./step.ts";

export type { Cost, ModelShape } from "./cost.ts";
export type { FullStep, ReducedStep, SkipStep, Stage, Step } from "./step.ts";

/** What a plan is made from. */
export interface PlanRequest {
  /** The model. */
  shape: ModelShape;
  /** The scales. */
  schedule: Schedule;
  /** Guidance g, one number or at least one a scale; 0..100, 1 = none. */
  guidance: number | readonly number[];
  /** Temperature, one number or at least one a scale; 0 = greedy, else 0.001..1000. */
  tau: number | readonly number[];
  /** Nucleus threshold 0..1 on the two classes of a bit (infinity.md §4.3); 0 and 1 filter nothing. Default 0.97. */
  topP?: number | undefined;
  /** Most likely codes that may be drawn, of models with a codebook: a whole number, 0 filters nothing. */
  topK?: number | undefined;
  /** Name of the method. Default: `stagevar` where ranks are known, else `vanilla`. */
  method?: string | undefined;
  /** Options of the method, by name. */
  methodOptions?: Readonly<Record<string, unknown>> | undefined;
  /** The model's own calibrated ranks. Default: the published ones, for a model of Infinity-2B's shape. */
  ranks?: RankTable | undefined;
  /** Tokens of the prompt, for the cost. Default 64. */
  textTokens?: number | undefined;
  /** What is already to be said, about rounding for example. */
  notes?: readonly string[] | undefined;
}

/** Where the ranks of a plan come from. */
export interface RanksOrigin {
  /** Model they were measured on. */
  model: string;
  /** Pixel budget they were measured at, square. */
  pixels: PixelBudget;
  /** Prompts they were measured on; absent where it was not published. */
  prompts?: number;
}

/** What happens at every scale of one picture, and what it costs. */
export interface Plan {
  /** Name of the model. */
  model: string;
  /** Name of the method. */
  method: string;
  /** All its options, defaults included. */
  methodOptions: Record<string, OptionValue>;
  /** The scales. */
  schedule: Schedule;
  /** Width of the picture in pixels. */
  width: number;
  /** Height of the picture in pixels. */
  height: number;
  /** What every scale is for. */
  stages: Stage[];
  /** What happens at every scale. */
  steps: Step[];
  /** Nucleus threshold, 0..1; 1 = no filter. */
  topP: number;
  /** Most likely codes that may be drawn, of models with a codebook; 0 = no filter. Absent where tokens are bits. */
  topK?: number;
  /** Tokens of the prompt that the costs count. */
  textTokens: number;
  /** Where the ranks of reduced steps come from; absent when no step has ranks. */
  ranks?: RanksOrigin;
  /** What a person should be told before it runs. */
  notes: string[];
  /** What it costs. */
  cost: Cost;
  /** What the same request costs without acceleration. */
  vanillaCost: Cost;
}

/** Guidance above this is a typing error: official scripts use 3 and 4. */
const MAX_GUIDANCE = 100;
/** Temperatures outside drown or underflow float32 logits. */
const MIN_TAU = 1e-3;
const MAX_TAU = 1e3;
/** infinity.md §4.3. */
const DEFAULT_TOP_P = 0.97;
/** The prompt length of the tables in infinity.md §7.2. */
const DEFAULT_TEXT_TOKENS = 64;
/** Structure is the three scales before the fidelity stage (sides 20, 24, 32 at 1M: the paper's Fig. 1 has meaning settled at 16). */
const STRUCTURE_SCALES = 3;

/**
 * Makes the plan of one picture.
 *
 * A row of the batch runs only as long as the guidance of some later scale needs it: without guidance anywhere only the
 * conditional row, from the first scale of an all-null tail only the null row. Outputs are the same as with both.
 *
 * @throws {UsageError} for guidance, temperature, topP, method or options that cannot be, or lists shorter than the
 * schedule; {ModelError} when the method needs ranks and the model has none.
 *
 * @example
 * ```ts
 * import { makePlan } from "@stagevar/stagevar/plan.ts";
 * import { schedule } from "@stagevar/stagevar/schedule.ts";
 * import assert from "node:assert/strict";
 * const shape = {
 *   name: "Infinity-2B", family: "infinity", width: 2048, depth: 32, chunks: 8, heads: 16, ffn: 8192,
 *   codeDim: 32, tokenDim: 32, textDim: 2048, patchify: false, pixelsPerToken: 16,
 * } as const;
 * const plan = makePlan({ shape, schedule: schedule(1, "1M"), guidance: 3, tau: 0.5 });
 * assert.equal(plan.method, "stagevar");
 * const side40 = plan.steps[10];
 * assert(side40?.kind === "reduced");
 * assert.deepEqual(side40.ranks, [27, 219, 337, 401, 410, 317, 252, 306]);
 * assert.equal(plan.steps[12]?.kind, "skip");
 * ```
 */
export function makePlan(request: PlanRequest): Plan {
  const { shape, schedule } = request;
  const { grids } = schedule;
  const notes = [...request.notes ?? []];
  const guidance = perScale(
    "Guidance",
    request.guidance,
    grids.length,
    notes,
    (g) => g >= 0 && g <= MAX_GUIDANCE,
    `0 to ${MAX_GUIDANCE}`,
  );
  const tau = perScale(
    "Temperature",
    request.tau,
    grids.length,
    notes,
    (t) => t === 0 || t >= MIN_TAU && t <= MAX_TAU,
    `0 (greedy) or ${MIN_TAU} to ${MAX_TAU}`,
  );
  const topP = request.topP ?? DEFAULT_TOP_P;
  if (!(typeof topP === "number" && topP >= 0 && topP <= 1)) {
    throw new UsageError(`Top-p is ${topP}, wanted a number from 0 to 1`);
  }
  const { topK } = request;
  if (topK !== undefined && !(Number.isSafeInteger(topK) && topK >= 0)) {
    throw new UsageError(`Top-k is ${topK}, wanted a whole number, 0 for no filter`);
  }
  const { table, problem } = pickRanks(shape, request.ranks);
  if (problem !== undefined) notes.push(`${problem}, so they are not used; "stagevar calibrate" measures them again`);
  else if (request.method === undefined && table === undefined) {
    notes.push(`No ranks are known for "${shape.name}", so nothing is accelerated; "stagevar calibrate" measures them`);
  }
  const method = findMethod(request.method ?? (table === undefined ? "vanilla" : "stagevar"));
  const defaultFidelity = table?.fidelity ?? FIDELITY_SCALES[shape.family];
  const methodOptions = resolveOptions(method, request.methodOptions ?? {}, {
    scales: grids.length,
    fidelity: defaultFidelity,
    alphas: table?.defaultAlpha ?? releasedAlphas(shape.family, DEFAULT_ALPHA, defaultFidelity),
    family: shape.family,
  });
  const fidelity = typeof methodOptions.fidelity === "number" ? methodOptions.fidelity : defaultFidelity;
  const full = grids.map((_, k): FullStep => ({ kind: "full", rows: "both", guidance: guidance[k]!, tau: tau[k]! }));
  const steps = cutRows(method.steps({
    full,
    fidelity,
    option: (option) => methodOptions[option.name] as ReturnType<typeof option.parse>,
    ranksAt: (alpha, scale) => {
      if (table === undefined) {
        throw new ModelError(problem ?? `Method "${method.name}" needs ranks, "${shape.name}" has none`, {
          hint: `Run "stagevar calibrate ${shape.name} --prompt-file FILE", or choose method "vanilla"`,
        });
      }
      const { h, w } = grids[scale]!;
      const most = shape.family === "star" ? shape.width : undefined;
      return ranksAt(table, alpha, grids.length - scale, h * w, most);
    },
  }));
  if (guidance.every((g) => g === 1) && steps.some((step) => step.kind !== "skip" && step.rows === "both")) {
    notes.push(`Guidance is 1, but "${method.name}" ends on the null row, so the scales before it run both rows`);
  }
  const textTokens = request.textTokens ?? DEFAULT_TEXT_TOKENS;
  const cost = (steps: Step[]) => planCost({ shape, grids, steps, textTokens });
  const ranked = table !== undefined && steps.some((step) => step.kind === "reduced" && step.ranks.length > 0);
  return {
    model: shape.name,
    method: method.name,
    methodOptions,
    schedule,
    ...pixelSize(schedule, shape.pixelsPerToken),
    stages: stagesOf(grids.length, fidelity),
    steps,
    topP: topP === 0 ? 1 : topP, // the official code takes 0 for "no filter", the closed form takes 1
    ...topK === undefined ? {} : { topK },
    textTokens,
    ...(ranked ? { ranks: originOf(table) } : {}),
    notes,
    cost: cost(steps),
    vanillaCost: cost(cutRows(full)),
  };
}

/**
 * Says in sentences how a plan came about: what the stages are and how they were counted, what the method does, where
 * ranks come from, which rows run, and what the costs count.
 *
 * @example
 * ```ts
 * import { explainPlan, makePlan } from "@stagevar/stagevar/plan.ts";
 * import { schedule } from "@stagevar/stagevar/schedule.ts";
 * import assert from "node:assert/strict";
 * const shape = {
 *   name: "Infinity-2B", family: "infinity", width: 2048, depth: 32, chunks: 8, heads: 16, ffn: 8192,
 *   codeDim: 32, tokenDim: 32, textDim: 2048, patchify: false, pixelsPerToken: 16,
 * } as const;
 * const plan = makePlan({ shape, schedule: schedule(1.5, "1M"), guidance: 3, tau: 0.5 });
 * assert.match(explainPlan(plan).join("\n"), /counted from the last scale/);
 * ```
 */
export function explainPlan(plan: Plan): string[] {
  const { grids, ratio, pixels } = plan.schedule;
  const part = (stage: Stage) => grids.filter((_, k) => plan.stages[k] === stage);
  const span = (part: readonly Grid[]) =>
    [part[0], part.at(-1)].filter((grid, i) => grid !== undefined && (i === 0 || part.length > 1))
      .map((grid) => `${grid!.h}x${grid!.w}`).join(" to ") || "none";
  const fidelity = part("fidelity");
  const lines = [
    `Stages are counted from the last scale, whatever the aspect and size: fidelity is the last ${fidelity.length} ` +
    `(${span(fidelity)}), structure what leads to it (${span(part("structure"))}), semantic the rest ` +
    `(${span(part("semantic"))})` +
    (plan.schedule.own || ratio === 1 && pixels === "1M"
      ? ""
      : "; the paper defines them on 13 square scales, fidelity 40x40 to 64x64"),
    `Method "${plan.method}": ${findMethod(plan.method).summary}${optionsInWords(plan.methodOptions)}`,
  ];
  if (plan.ranks !== undefined) {
    const { model, prompts } = plan.ranks;
    const away = ratio !== 1 || pixels !== plan.ranks.pixels;
    lines.push(
      `Ranks were measured${
        prompts === undefined ? "" : ` on ${prompts} prompts`
      } with ${model}, square at ${plan.ranks.pixels}` +
        (away ? "; a scale here takes those of the scale at the same place from the end" : ""),
    );
  }
  const executed = plan.steps.flatMap((step, k) => step.kind === "skip" ? [] : [{ k, rows: step.rows }]);
  const cut = executed.find(({ rows }) => rows !== "both");
  if (cut !== undefined) {
    const row = cut.rows === "cond" ? "conditional" : "null";
    lines.push(`Only the ${row} row runs ${cut.k === 0 ? "at all scales" : `from scale ${cut.k + 1} on`}`);
  }
  lines.push(
    "Costs count a multiply-add as two operations and the prompt's cross-attention keys and values once, " +
      `for a prompt of ${plan.textTokens} tokens; the text encoder is left out`,
  );
  return lines;
}

function originOf({ model, pixels, prompts }: RankTable): RanksOrigin {
  return { model, pixels, ...prompts === undefined ? {} : { prompts } };
}

/** A value a scale; entries beyond the schedule are for larger budgets and ignored, as official lists are prefixes. */
function perScale(
  name: string,
  given: number | readonly number[],
  scales: number,
  notes: string[],
  valid: (value: number) => boolean,
  wanted: string,
): number[] {
  const list = Array.isArray(given) ? given as readonly number[] : new Array<number>(scales).fill(given as number);
  const bad = list.findIndex((value) => !(typeof value === "number" && valid(value)));
  if (bad >= 0) throw new UsageError(`${name} is ${list[bad]}, wanted a number: ${wanted}`);
  if (list.length < scales) {
    throw new UsageError(`${name} has ${list.length} entries, the schedule has ${scales} scales`, {
      hint: "Give one number for all scales, or one for each",
    });
  }
  if (list.length > scales) notes.push(`${name} has ${list.length} entries, the first ${scales} are used`);
  return list.slice(0, scales);
}

/** Stages by place from the end; structure never takes more than half of what comes before the fidelity stage. */
function stagesOf(scales: number, fidelity: number): Stage[] {
  const structure = Math.min(STRUCTURE_SCALES, Math.floor((scales - fidelity) / 2));
  return Array.from({ length: scales }, (_, k): Stage => {
    const fromEnd = scales - k;
    return fromEnd <= fidelity ? "fidelity" : fromEnd <= fidelity + structure ? "structure" : "semantic";
  });
}

/** Cuts every full step to the rows that its own guidance or a later scale's needs. */
function cutRows(steps: readonly Step[]): Step[] {
  let cond = false;
  let none = false;
  return steps.toReversed().map((step): Step => {
    if (step.kind === "skip") return step;
    cond ||= step.guidance !== 0;
    none ||= step.guidance !== 1;
    return step.kind === "reduced" ? step : { ...step, rows: cond && none ? "both" : cond ? "cond" : "null" };
  }).reverse();
}

function optionsInWords(options: Record<string, OptionValue>): string {
  const words = Object.entries(options).map(([name, value]) =>
    `${name} ${Array.isArray(value) ? value.join(",") : value}`
  );
  return words.length === 0 ? "" : ` (${words.join("; ")})`;
}
