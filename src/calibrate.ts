/**
 * Measures how many directions the inputs of late chunks really span, and writes the ranks that `stagevar` reduces to
 * (stagevar.md §5, appendix A.1 of the paper). Offline, once per model.
 *
 * @module
 */
import { singularEnergyRanks } from "./core.ts";
import type { Engine } from "./engine.ts";
import { UsageError } from "./errors.ts";
import { FIDELITY_SCALES, type RankStatistics, type RankTable, releasedAlphas } from "./presets.ts";

/** Thresholds measured where none are named: those of the paper's tables. */
export const DEFAULT_ALPHAS: readonly number[] = [0.99, 0.98, 0.97, 0.96, 0.95, 0.9, 0.85, 0.8];

/** What to measure. */
export interface CalibrationRequest {
  /** Prompts, one picture each a seed. */
  readonly prompts: readonly string[];
  /** Seed of the first picture of every prompt. */
  readonly seed: number;
  /** Pictures a prompt. Default 1. */
  readonly seeds?: number;
  /** Energy shares to reach, 0 to 1 exclusive. */
  readonly alphas?: readonly number[];
  /** How many last scales form the fidelity stage. Default: as released, 3 of Infinity, 2 of STAR. */
  readonly fidelity?: number;
  /** Thresholds that the plan takes by default, one a fidelity scale. Default: as released, 0.96 and then 0, or 1 and then 0.96. */
  readonly defaultAlpha?: readonly number[];
  /** Stops the run. */
  readonly signal?: AbortSignal;
}

/** Where a calibration stands. */
export type CalibrationEvent =
  | { type: "picture"; done: number; total: number; prompt: string }
  | { type: "ranks"; table: RankTable };

/**
 * Runs prompts without acceleration and yields the table of ranks at the end.
 *
 * For every chunk input X [M, C] of the null row at the fidelity scales: the smallest r whose r largest squared singular
 * values hold the share alpha of all, as r / min(M, C); mean and standard deviation over the pictures.
 *
 * @throws {UsageError} without prompts, or for thresholds or stages that cannot be
 * @example
 * ```ts
 * import { calibrate } from "@stagevar/stagevar/calibrate.ts";
 * import { Engine } from "@stagevar/stagevar/engine.ts";
 * import assert from "node:assert/strict";
 * using engine = await Engine.open({ model: "tests/golden/models/mini-2b" });
 * for await (const event of calibrate(engine, { prompts: ["a dog"], seed: 0, fidelity: 1, alphas: [0.9] }, "0.06M")) {
 *   if (event.type === "ranks") assert.equal(event.table.alphas["0.9"]!["1"]!.mean.length, 8);
 * }
 * ```
 */
export async function* calibrate(
  engine: Engine,
  request: CalibrationRequest,
  pixels = engine.model.config.pixels,
): AsyncGenerator<CalibrationEvent> {
  const { family } = engine.model;
  const { prompts, seed, seeds = 1, alphas = DEFAULT_ALPHAS, fidelity = FIDELITY_SCALES[family] } = request;
  const { width, chunks } = engine.model.dims;
  if (prompts.length === 0) throw new UsageError("No prompts to measure ranks on");
  const grids = engine.plan({ method: "vanilla", pixels }).schedule.grids;
  if (!Number.isInteger(fidelity) || fidelity < 1 || fidelity >= grids.length) {
    throw new UsageError(`Fidelity stage of ${fidelity} scales: 1 to ${grids.length - 1} are possible at "${pixels}"`);
  }
  const wrong = alphas.find((alpha) => !(alpha > 0 && alpha < 1));
  if (wrong !== undefined) throw new UsageError(`Threshold is ${wrong}: a number between 0 and 1 is wanted`);

  const ratios = new Map<string, number[]>(); // "place chunk alpha" -> one ratio a picture
  const measure = (scale: number, name: string, data: Float32Array): void => {
    const place = grids.length - scale;
    const chunk = name === "input" ? 0 : /^chunk\.\d+$/.test(name) ? Number(name.slice("chunk.".length)) + 1 : chunks;
    if (place > fidelity || chunk >= chunks) return; // the last chunk's output is no chunk's input
    const M = grids[scale]!.h * grids[scale]!.w;
    const X = data.subarray(data.length - M * width); // the null row is the last
    singularEnergyRanks(X, M, width, [...alphas]).forEach((rank, i) => {
      const key = `${place} ${chunk} ${alphas[i]}`;
      ratios.set(key, [...ratios.get(key) ?? [], rank / Math.min(M, width)]);
    });
  };
  const total = prompts.length * seeds;
  let done = 0;
  for (const prompt of prompts) {
    for (let i = 0; i < seeds; i++) {
      const run = engine.generate({ prompt, seed: seed + i, method: "vanilla", pixels }, {
        signal: request.signal,
        tap: { observe: measure },
      });
      for await (const event of run) if (event.type === "image") yield { type: "picture", done: ++done, total, prompt };
    }
  }
  const table: RankTable["alphas"] = {};
  for (const alpha of alphas) {
    const places: Record<string, RankStatistics> = {};
    for (let place = fidelity; place >= 1; place--) {
      const all = Array.from({ length: chunks }, (_, chunk) => ratios.get(`${place} ${chunk} ${alpha}`)!);
      places[place] = { mean: all.map(mean), sd: all.map(deviation) };
    }
    table[alpha] = places;
  }
  const first = alphas.includes(0.96) ? 0.96 : alphas[0]!;
  const defaultAlpha = request.defaultAlpha ?? releasedAlphas(family, first, fidelity);
  const { name, hash } = engine.model.shape;
  yield {
    type: "ranks",
    table: {
      version: 1,
      model: name,
      ...hash === undefined ? {} : { modelHash: hash },
      chunks,
      pixels,
      prompts: prompts.length,
      fidelity,
      defaultAlpha: [...defaultAlpha],
      alphas: table,
    },
  };
}

function mean(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}

/** Sample standard deviation; 0 for a single picture. */
function deviation(values: readonly number[]): number {
  const centre = mean(values);
  const squares = values.reduce((sum, value) => sum + (value - centre) ** 2, 0);
  return values.length > 1 ? Math.sqrt(squares / (values.length - 1)) : 0;
}
