/**
 * Rank tables: how many pseudo-tokens a chunk needs at a reduced scale (stagevar.md §3.1, §5).
 *
 * The published tables of Infinity-2B are here; tables that `calibrate` measures lie beside a model as `ranks.json` and
 * are read by {@linkcode parseRankTable}. Scales are named by their place from the end (1 = the last), so that a table
 * fits every aspect and size. Knows no tensors; the measuring is somebody else's.
 *
 * @module
 */
import type { ModelShape } from "./cost.ts";
import { IntegrityError, UsageError } from "./errors.ts";
import { PIXEL_BUDGETS, type PixelBudget } from "./schedule.ts";

/** Name of the file with a model's own ranks, beside its model.json. */
export const RANK_FILE = "ranks.json";

/** Ranks of one scale at one threshold: r / min(M, d) of every chunk over the prompts. */
export interface RankStatistics {
  /** Mean over prompts, one a chunk, 0..1. */
  mean: number[];
  /** Standard deviation over prompts, one a chunk; absent where it was not published. */
  sd?: number[];
}

/** Measured ranks of one model, the content of {@linkcode RANK_FILE}. */
export interface RankTable {
  /** Format of the file. */
  version: 1;
  /** Model it was measured on. */
  model: string;
  /** Hash of that model's checkpoint; absent when unknown. */
  modelHash?: string;
  /** Chunks of the model. */
  chunks: number;
  /** Pixel budget it was measured at, square. */
  pixels: PixelBudget;
  /** Prompts it was measured on; absent where it was not published. */
  prompts?: number;
  /** Scales in the fidelity stage, counted from the last. */
  fidelity: number;
  /** Thresholds that `stagevar` takes by default, one a fidelity scale; 0 skips, 1 runs in full. */
  defaultAlpha?: number[];
  /** Threshold alpha ("0.96") -> place of the scale from the end ("3") -> ranks. */
  alphas: Record<string, Record<string, RankStatistics>>;
}

/** Far above any honest table (a dozen thresholds, 40 chunks), far below what could hurt; no schedule is shorter than 7. */
const CAPS = { text: 1 << 20, chunks: 1024, alphas: 64, prompts: 1e9, name: 200, fidelity: 6 };

/** stagevar.md §5, Infinity-2B at 1M: place 3 is side 40, 2 is 48, 1 is 64. */
const INFINITY_2B: RankTable = {
  version: 1,
  model: "Infinity-2B (published, arXiv 2512.16483)",
  chunks: 8,
  pixels: "1M",
  prompts: 553,
  fidelity: 3,
  defaultAlpha: [0.96, 0, 0],
  alphas: {
    "0.99": { "3": { mean: [.0193, .2933, .4221, .4875, .5069, .4066, .3091, .3779] } },
    "0.98": { "3": { mean: [.0183, .2092, .3167, .3746, .3900, .3046, .2345, .2828] } },
    "0.97": { "3": { mean: [.0175, .1651, .2544, .3033, .3139, .2429, .1891, .2286] } },
    "0.96": {
      "3": {
        mean: [
          .016776672694393688,
          .13648282097649195,
          .21039203774864412,
          .2502819846292948,
          .2558836742766729,
          .1978790404611215,
          .1570015822784809,
          .19090034471066883,
        ],
        sd: [.0004, .0096, .0187, .0212, .0236, .0170, .0074, .0068],
      },
      "2": {
        mean: [.013, .117, .189, .222, .234, .183, .134, .163],
        sd: [.0003, .0078, .0161, .0171, .0180, .0124, .0053, .0057],
      },
      "1": {
        mean: [.008, .054, .083, .066, .056, .029, .038, .055],
        sd: [.0007, .0064, .0176, .0164, .0146, .0084, .0067, .0142],
      },
    },
    "0.95": { "3": { mean: [.0161, .1162, .1769, .2086, .2102, .1635, .1339, .1631] } },
    "0.90": { "3": { mean: [.0132, .0636, .1182, .1520, .1645, .1280, .1070, .1334] } },
    "0.85": { "3": { mean: [.0109, .0397, .0769, .1007, .1098, .0884, .0783, .0972] } },
    "0.80": { "3": { mean: [.0091, .0283, .0532, .0698, .0770, .0638, .0608, .0753] } },
  },
};

/** Published ranks of STAR-1.7B, r of every block at side 64 (star.md §15): r = floor(ratio 1920) + 1 gives the ratios to within 1/1920. */
const STAR_RANKS = [
  ...[30, 53, 134, 199, 329, 357, 336, 316, 296, 299, 318, 350, 371, 365, 339],
  ...[311, 287, 266, 269, 229, 204, 169, 139, 116, 97, 81, 68, 56, 46, 38],
];

/** star.md §15, STAR-1.7B at 1024x1024: the last scale alone has ranks, and the one before runs in full without guidance. */
const STAR_1_7B: RankTable = {
  version: 1,
  model: "STAR-1.7B (published, arXiv 2512.16483)",
  chunks: 30,
  pixels: "1M",
  fidelity: 2,
  defaultAlpha: [1, 0.96],
  alphas: { "0.96": { "1": { mean: STAR_RANKS.map((rank) => (rank - 0.5) / 1920) } } },
};

/** Scales of the fidelity stage where no rank table says otherwise (stagevar.md §1, star.md §15). */
export const FIDELITY_SCALES = { infinity: 3, star: 2 } as const;

/** Threshold of the released code (stagevar.md §5, star.md §15). */
export const DEFAULT_ALPHA = 0.96;

/**
 * Thresholds of the fidelity scales as the released code of a family has them: Infinity's reduces the first scale and skips the
 * others (stagevar.md §6), STAR's reduces the last one and runs the others in full on one row (star.md §15).
 *
 * @example
 * ```ts
 * import { releasedAlphas } from "@stagevar/stagevar/presets.ts";
 * import assert from "node:assert/strict";
 * assert.deepEqual(releasedAlphas("infinity", 0.96, 3), [0.96, 0, 0]);
 * assert.deepEqual(releasedAlphas("star", 0.96, 2), [1, 0.96]);
 * ```
 */
export function releasedAlphas(family: ModelShape["family"] = "infinity", alpha: number, fidelity: number): number[] {
  const others = (value: number): number[] => new Array<number>(fidelity - 1).fill(value);
  return family === "star" ? [...others(1), alpha] : [alpha, ...others(0)];
}

/** The ranks a plan uses, or why a calibrated table cannot be used. */
export interface RankChoice {
  /** The table; absent when none is known. */
  table?: RankTable;
  /** What is wrong with the calibrated table; absent when nothing is. */
  problem?: string;
}

/**
 * The ranks a plan uses: the model's own calibrated table if there is one, else the published one if the model has the
 * shape of Infinity-2B (width 2048, 32 blocks in 8 chunks, d = 32) or of STAR-1.7B (width 1920, 30 blocks, last side 64), else none.
 *
 * A calibrated table of another checkpoint or number of chunks is a problem to report, not an error: methods that need
 * no ranks, `calibrate` itself among their users, go on without.
 *
 * @example
 * ```ts
 * import { pickRanks } from "@stagevar/stagevar/presets.ts";
 * import assert from "node:assert/strict";
 * const shape = {
 *   name: "Infinity-2B", family: "infinity", width: 2048, depth: 32, chunks: 8, heads: 16, ffn: 8192,
 *   codeDim: 32, tokenDim: 32, textDim: 2048, patchify: false, pixelsPerToken: 16,
 * } as const;
 * assert.equal(pickRanks(shape).table?.prompts, 553);
 * assert.deepEqual(pickRanks({ ...shape, width: 192 }), {});
 * ```
 */
export function pickRanks(shape: ModelShape, calibrated?: RankTable): RankChoice {
  if (calibrated === undefined) {
    if (shape.family === "star") {
      const is1_7B = shape.width === 1920 && shape.depth === 30 && shape.sides?.at(-1) === 64;
      return is1_7B ? { table: STAR_1_7B } : {};
    }
    const is2B = shape.width === 2048 && shape.depth === 32 && shape.chunks === 8 && shape.codeDim === 32;
    return is2B ? { table: INFINITY_2B } : {};
  }
  const { model, chunks, modelHash } = calibrated;
  const about = `The ranks of "${shape.name}" were measured on "${model}" with`;
  if (chunks !== shape.chunks) return { problem: `${about} ${chunks} chunks, this model has ${shape.chunks}` };
  if (shape.hash !== undefined && modelHash !== undefined && shape.hash !== modelHash) {
    return { problem: `${about} checkpoint "${modelHash}", this one is "${shape.hash}"` };
  }
  return { table: calibrated };
}

/**
 * Rank of every chunk: r = floor(ratio * M) + 1, at most M (the released Infinity code, stagevar.md §3.1). The released STAR code
 * takes the ratio of min(M, C) instead (star.md §15), which `most` says.
 *
 * `fromEnd` is the scale's place from the end (1 = the last), `tokens` M of the scale. Thresholds are looked up, never
 * interpolated: a rank that nobody measured has no energy share to stand for.
 *
 * @throws {UsageError} when the table has no such threshold at that place.
 *
 * @example
 * ```ts
 * import { type RankTable, ranksAt } from "@stagevar/stagevar/presets.ts";
 * import assert from "node:assert/strict";
 * const table: RankTable = {
 *   version: 1, model: "tiny", chunks: 2, pixels: "0.06M", prompts: 8, fidelity: 2,
 *   alphas: { "0.9": { "2": { mean: [0.125, 1] } } },
 * };
 * assert.deepEqual(ranksAt(table, 0.9, 2, 64), [9, 64]);
 * ```
 */
export function ranksAt(
  table: RankTable,
  alpha: number,
  fromEnd: number,
  tokens: number,
  most: number = tokens,
): number[] {
  const place = String(fromEnd);
  const there = Object.entries(table.alphas).filter(([, places]) => Object.hasOwn(places, place));
  const found = there.find(([key]) => Number(key) === alpha)?.[1][place];
  if (found !== undefined) {
    return found.mean.map((ratio) => Math.min(tokens, Math.floor(ratio * Math.min(tokens, most)) + 1));
  }
  const known = there.map(([key]) => key).join(", ") || "none";
  throw new UsageError(`No ranks for alpha ${alpha} at scale ${place} from the end: "${table.model}" has ${known}`, {
    hint: "Take one of these, 0 to skip the scale, 1 to run it in full, or calibrate at this alpha",
  });
}

/**
 * Reads a rank table from the text of `where`, a file name for messages. The text is untrusted.
 *
 * @throws {IntegrityError} when it is not a rank table of version 1, or its numbers cannot be ranks.
 *
 * @example
 * ```ts
 * import { parseRankTable } from "@stagevar/stagevar/presets.ts";
 * import assert from "node:assert/strict";
 * const text = `{"version": 1, "model": "tiny", "chunks": 1, "pixels": "0.06M", "prompts": 8, "fidelity": 2,
 *   "defaultAlpha": [0.9, 0], "alphas": {"0.9": {"2": {"mean": [0.125], "sd": [0.01]}}}}`;
 * assert.equal(parseRankTable(text, "ranks.json").alphas["0.9"]?.["2"]?.mean[0], 0.125);
 * assert.throws(() => parseRankTable("{}", "ranks.json"), /version/);
 * ```
 */
export function parseRankTable(text: string, where: string): RankTable {
  const fail = (what: string, found: unknown, wanted: string, cause?: unknown): IntegrityError => {
    const shown = found === undefined ? "nothing" : JSON.stringify(found)?.slice(0, 60) ?? String(found);
    return new IntegrityError(`Cannot read ranks from "${where}": ${what} is ${shown}, wanted ${wanted}`, {
      hint: "Measure the ranks again with stagevar calibrate",
      cause,
    });
  };
  const record = (value: unknown, what: string): Record<string, unknown> => {
    if (typeof value === "object" && value !== null && !Array.isArray(value)) return value as Record<string, unknown>;
    throw fail(what, value, "an object");
  };
  const number = (value: unknown, what: string, low: number, high: number): number => {
    if (typeof value === "number" && value >= low && value <= high) return value;
    throw fail(what, value, `a number from ${low} to ${high}`);
  };
  const integer = (value: unknown, what: string, low: number, high: number): number => {
    if (Number.isInteger(number(value, what, low, high))) return value as number;
    throw fail(what, value, "a whole number");
  };
  const numbers = (value: unknown, what: string, length: number, high: number): number[] => {
    if (!Array.isArray(value) || value.length !== length) throw fail(what, value, `a list of ${length} numbers`);
    return value.map((entry) => number(entry, `an entry of ${what}`, 0, high));
  };
  const name = (value: unknown, what: string): string => {
    if (typeof value === "string" && value.length > 0 && value.length <= CAPS.name) return value;
    throw fail(what, value, `a text of 1 to ${CAPS.name} characters`);
  };

  if (text.length > CAPS.text) throw fail("its length", text.length, `at most ${CAPS.text} characters`);
  let parsed: unknown;
  try {
    parsed = JSON.parse(text);
  } catch (cause) {
    throw fail("the content", text.slice(0, 20), "JSON", cause);
  }
  const root = record(parsed, "the content");
  if (root.version !== 1) throw fail("version", root.version, "1");
  const pixels = PIXEL_BUDGETS.find((budget) => budget === root.pixels);
  if (pixels === undefined) throw fail("pixels", root.pixels, `one of ${PIXEL_BUDGETS.join(", ")}`);
  const chunks = integer(root.chunks, "chunks", 1, CAPS.chunks);
  const fidelity = integer(root.fidelity, "fidelity", 1, CAPS.fidelity);
  const entries = Object.entries(record(root.alphas, "alphas"));
  if (entries.length > CAPS.alphas) throw fail("the number of alphas", entries.length, `at most ${CAPS.alphas}`);
  const alphas: RankTable["alphas"] = {};
  for (const [alpha, places] of entries) {
    // A plain decimal below 1, so that no two keys that look alike ("0.9", "__proto__") can hide one another.
    if (!/^0\.\d{1,6}$/.test(alpha) || Number(alpha) === 0) {
      throw fail("a key of alphas", alpha, '0 < alpha < 1, as "0.96"');
    }
    if (Object.keys(alphas).some((other) => Number(other) === Number(alpha))) throw fail("alphas", alpha, "it once");
    const scales: Record<string, RankStatistics> = {};
    for (const [place, value] of Object.entries(record(places, `alphas["${alpha}"]`))) {
      const what = `alphas["${alpha}"]["${place.slice(0, 10)}"]`;
      if (!/^[1-9]$/.test(place) || Number(place) > CAPS.fidelity) {
        throw fail(`a key of alphas["${alpha}"]`, place, `a place from the end, 1 to ${CAPS.fidelity}`);
      }
      const statistics = record(value, what);
      scales[place] = { mean: numbers(statistics.mean, `${what}.mean`, chunks, 1) };
      if (statistics.sd !== undefined) scales[place].sd = numbers(statistics.sd, `${what}.sd`, chunks, 1);
    }
    alphas[alpha] = scales;
  }
  const table: RankTable = {
    version: 1,
    model: name(root.model, "model"),
    chunks,
    pixels,
    prompts: integer(root.prompts, "prompts", 1, CAPS.prompts),
    fidelity,
    alphas,
  };
  if (root.modelHash !== undefined) table.modelHash = name(root.modelHash, "modelHash");
  if (root.defaultAlpha !== undefined) {
    const defaults = numbers(root.defaultAlpha, "defaultAlpha", fidelity, 1);
    defaults.forEach((alpha, i) => {
      const place = String(fidelity - i);
      const measured = Object.keys(alphas).some((key) => Number(key) === alpha && Object.hasOwn(alphas[key]!, place));
      if (alpha > 0 && alpha < 1 && !measured) {
        throw fail(`entry ${i} of defaultAlpha`, alpha, "an alpha of this table");
      }
    });
    table.defaultAlpha = defaults;
  }
  return table;
}
