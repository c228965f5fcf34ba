/**
 * From what a caller asks for to what will run: checks a request and makes its plan, before anything is loaded.
 *
 * @module
 */
import { UsageError } from "./errors.ts";
import { type Model, openModel } from "./models/open.ts";
import { DEFAULT_MODEL, findModel } from "./models/registry.ts";
import { makePlan, type Plan } from "./plan.ts";
import type { GenerateRequest } from "./request.ts";
import { chooseSchedule, ownSchedule } from "./schedule.ts";
import { loadClipTokenizer } from "./text/clip_tokenizer.ts";
import { loadTokenizer } from "./text/tokenizer.ts";

/** A request as an engine takes it: what it was opened with is its own. */
export type EngineRequest = Omit<GenerateRequest, "model" | "device" | "threads" | "dtype" | "lowMemory">;

/** Longest prompt looked at, in characters: far beyond the 512 tokens that count. */
const MAX_PROMPT = 100_000;
/** Most pictures of one batch: all of them share one key/value cache allocation. */
const MAX_BATCH = 64;
/** Largest seed: 32 bits. */
export const MAX_SEED = 2 ** 32 - 1;

/**
 * The seed of a request that can be run, drawn where it names none.
 *
 * @throws {UsageError} for a prompt, seed or batch that cannot be
 * @example
 * ```ts
 * import { checkRequest } from "@stagevar/stagevar/prepare.ts";
 * import assert from "node:assert/strict";
 * assert.equal(checkRequest({ prompt: "a fox", seed: 3 }), 3);
 * assert.throws(() => checkRequest({ prompt: " " }), /Empty prompt/);
 * ```
 */
export function checkRequest({ prompt, negativePrompt, seed, batch = 1 }: EngineRequest): number {
  if (typeof prompt !== "string" || prompt.trim() === "") {
    throw new UsageError("Empty prompt", { hint: 'Say what to draw, as in "a red circle left of a blue square"' });
  }
  for (const [name, text] of [["Prompt", prompt], ["Negative prompt", negativePrompt ?? ""]] as const) {
    if (text.length <= MAX_PROMPT) continue;
    throw new UsageError(`${name} has ${text.length} characters: at most ${MAX_PROMPT} are taken`, {
      hint: "Only the first 512 tokens of a prompt count",
    });
  }
  if (!Number.isInteger(batch) || batch < 1 || batch > MAX_BATCH) {
    throw new UsageError(`Batch is ${batch}: a whole number from 1 to ${MAX_BATCH} is wanted`);
  }
  if (seed === undefined) return crypto.getRandomValues(new Uint32Array(1))[0]!;
  if (!Number.isInteger(seed) || seed < 0 || seed > MAX_SEED) {
    throw new UsageError(`Seed is ${seed}: a whole number from 0 to ${MAX_SEED} is wanted`);
  }
  return seed;
}

/**
 * The plan of a request on a model, with the model's settings where the request has none.
 *
 * @throws {UsageError} for a size, guidance, temperature or method that cannot be
 * @throws {ModelError} when the method needs ranks and the model has none
 * @example
 * ```ts
 * import { openModel } from "@stagevar/stagevar/models/open.ts";
 * import { planRequest } from "@stagevar/stagevar/prepare.ts";
 * import assert from "node:assert/strict";
 * const model = await openModel("tests/golden/models/mini-2b");
 * assert.equal(planRequest(model, { pixels: "0.06M" }).steps.length, 7);
 * ```
 */
export function planRequest(model: Model, request: Omit<EngineRequest, "prompt">, textTokens?: number): Plan {
  const { aspect, width, height, pixels, cfgScale, tau, topP, topK, method, methodOptions } = request;
  const defined = <T extends object>(wish: T): T =>
    Object.fromEntries(Object.entries(wish).filter(([, value]) => value !== undefined)) as T;
  const wish = defined({ aspect, width, height, pixels }) as Parameters<typeof chooseSchedule>[0];
  const { shape, config } = model;
  if (model.family === "star") {
    const own = { name: shape.name, sides: model.sides, pixels: config.pixels };
    const { schedule, notes } = ownSchedule(wish, own, shape.pixelsPerToken);
    return makePlan({
      shape,
      schedule,
      guidance: ramp(cfgScale ?? config.cfg, schedule.grids.length),
      tau: tau ?? config.tau,
      topP: topP ?? model.config.topP,
      topK: topK ?? model.config.topK,
      method,
      methodOptions,
      ranks: model.ranks,
      textTokens,
      notes,
    });
  }
  if (topK !== undefined) {
    throw new UsageError(`Top-k is ${topK}: tokens of model "${shape.name}" are bits, which have no other choices`, {
      hint: "Leave --top-k out",
    });
  }
  const { schedule, notes } = chooseSchedule(wish, shape.pixelsPerToken, config.pixels);
  if (schedule.grids.length > model.transformer.dims.levels) {
    throw new UsageError(
      `Size "${schedule.pixels}" has ${schedule.grids.length} scales: model "${shape.name}" has ${model.transformer.dims.levels}`,
      { hint: `Take --pixels ${config.pixels}, which it was trained for` },
    );
  }
  return makePlan({
    shape,
    schedule,
    guidance: cfgScale ?? config.cfg,
    tau: tau ?? config.tau,
    topP,
    method,
    methodOptions,
    ranks: model.ranks,
    textTokens,
    notes,
  });
}

/**
 * Guidance of STAR's scales, g in g cond + (1 - g) null: 1 + cfg k / (S - 1), from the conditional row's own logits at the first
 * scale to 1 + cfg at the last (star.md §8.3).
 */
function ramp(cfg: number | readonly number[], scales: number): number[] {
  const given = Array.isArray(cfg) ? cfg as readonly number[] : new Array<number>(scales).fill(cfg as number);
  // what is no number is left to the plan to refuse
  return given.map((value, k) => typeof value === "number" ? 1 + value * Math.min(1, k / (scales - 1)) : value);
}

/**
 * What a request would run, from the checkpoints' headers alone.
 *
 * @example
 * ```ts
 * import { planFor } from "@stagevar/stagevar";
 * import assert from "node:assert/strict";
 * const plan = await planFor({ prompt: "a red circle", method: "skip-fidelity" });
 * assert(plan.cost.tokenLayers < plan.vanillaCost.tokenLayers);
 * ```
 */
export async function planFor(request: Omit<GenerateRequest, "prompt"> & { prompt?: string }): Promise<Plan> {
  const { folder } = await findModel(request.model ?? DEFAULT_MODEL);
  const model = await openModel(folder);
  if (request.prompt === undefined) return planRequest(model, request);
  const tokenizer = await (model.family === "star" ? loadClipTokenizer : loadTokenizer)(model.textFolder);
  return planRequest(model, request, tokenizer.encode(request.prompt).ids.length);
}
