/**
 * The 60 scale schedules of Infinity (15 aspect ratios x 4 pixel budgets) and the choice of one from a wish.
 *
 * Knows grids and pixels, not models: what a token is worth in pixels is handed in.
 *
 * @module
 */
import { UsageError } from "./errors.ts";

/** Tokens of one scale: h rows of w, row-major. */
export interface Grid {
  /** Rows. */
  readonly h: number;
  /** Columns. */
  readonly w: number;
}

/** Nominal pixels of a picture at 16 pixels a token; decides how many of the 13 scales run. */
export type PixelBudget = "0.06M" | "0.25M" | "0.60M" | "1M";

/** One of the 60 schedules: the grids to run, coarse to fine. */
export interface Schedule {
  /** Height over width, the key of the official table: 0.571 rather than 4/7. */
  readonly ratio: number;
  /** Pixel budget. */
  readonly pixels: PixelBudget;
  /** Token grid of every scale. */
  readonly grids: readonly Grid[];
  /** Last grid of the 1M schedule of this ratio, which normalises RoPE at every budget (infinity.md §3.4). */
  readonly last1M: Grid;
  /** Set where the model has this one schedule, of its own. */
  readonly own?: true;
}

/** What a caller wants of the size; everything is optional. */
export interface SizeWish {
  /** Width to height: `16:9`, `1.5`, `square`, `portrait` (2:3) or `landscape` (3:2). */
  aspect?: string | undefined;
  /** Width in pixels. */
  width?: number | undefined;
  /** Height in pixels. */
  height?: number | undefined;
  /** Pixel budget; decides the number of scales even if a size is given too. */
  pixels?: PixelBudget | undefined;
}

/** A schedule and what there is to say about how it differs from the wish. */
export interface ScheduleChoice {
  /** The nearest schedule. */
  schedule: Schedule;
  /** One sentence for every thing that was rounded; empty when the wish was met. */
  notes: string[];
}

/** Scales that run at a budget: schedules are prefixes of the 1M one (infinity.md §5.1). */
const SCALES: Readonly<Record<PixelBudget, number>> = { "0.06M": 7, "0.25M": 10, "0.60M": 12, "1M": 13 };

/** infinity.md §5.1: h/w, its inverse as the official tables key it (truncated, not rounded), grids h x w. */
const TABLE: readonly (readonly [ratio: number, inverse: number, grids: string])[] = [
  [1, 1, "1x1 2x2 4x4 6x6 8x8 12x12 16x16 20x20 24x24 32x32 40x40 48x48 64x64"],
  [1.25, 0.8, "1x1 2x2 3x3 5x4 10x8 15x12 20x16 25x20 30x24 35x28 45x36 55x44 70x56"],
  [1.333, 0.75, "1x1 2x2 4x3 8x6 12x9 16x12 20x15 24x18 28x21 36x27 48x36 60x45 72x54"],
  [1.5, 0.666, "1x1 2x2 3x2 6x4 9x6 15x10 21x14 27x18 33x22 39x26 48x32 63x42 78x52"],
  [1.75, 0.571, "1x1 2x2 3x3 7x4 11x6 14x8 21x12 28x16 35x20 42x24 56x32 70x40 84x48"],
  [2, 0.5, "1x1 2x2 4x2 6x3 10x5 16x8 22x11 30x15 38x19 46x23 60x30 74x37 90x45"],
  [2.5, 0.4, "1x1 2x2 5x2 10x4 15x6 20x8 25x10 30x12 40x16 50x20 65x26 80x32 100x40"],
  [3, 0.333, "1x1 2x2 6x2 9x3 15x5 21x7 27x9 36x12 45x15 54x18 72x24 90x30 111x37"],
];

/**
 * The four pixel budgets, small to large.
 *
 * @example
 * ```ts
 * import { PIXEL_BUDGETS } from "@stagevar/stagevar/schedule.ts";
 * import assert from "node:assert/strict";
 * assert.deepEqual(PIXEL_BUDGETS, ["0.06M", "0.25M", "0.60M", "1M"]);
 * ```
 */
export const PIXEL_BUDGETS: readonly PixelBudget[] = ["0.06M", "0.25M", "0.60M", "1M"];

/**
 * The 15 keys of the table, height over width, in the official order (the first wins a tie).
 *
 * @example
 * ```ts
 * import { RATIOS } from "@stagevar/stagevar/schedule.ts";
 * import assert from "node:assert/strict";
 * assert.deepEqual(RATIOS.slice(0, 5), [1, 1.25, 0.8, 1.333, 0.75]);
 * ```
 */
export const RATIOS: readonly number[] = [...new Set(TABLE.flatMap(([ratio, inverse]) => [ratio, inverse]))];

/** Widest and tallest wish that still goes to the nearest ratio (3 or 1/3); beyond it the shape is another one. */
const EXTREME_RATIO = 4;
/** A wish of up to four times more or fewer pixels than any schedule (twice a side) is rounded, beyond it refused. */
const EXTREME_AREA = 4;
const WORDS: Readonly<Record<string, number>> = { square: 1, portrait: 2 / 3, landscape: 3 / 2 };

/**
 * The schedule of a ratio (height over width, a key of the table) and a pixel budget; infinity.md §5.1.
 *
 * @throws {UsageError} when the table has no such ratio or budget.
 *
 * @example
 * ```ts
 * import { schedule } from "@stagevar/stagevar/schedule.ts";
 * import assert from "node:assert/strict";
 * const { grids, last1M } = schedule(0.571, "0.06M");
 * assert.equal(grids.length, 7);
 * assert.deepEqual(grids.at(-1), { h: 12, w: 21 });
 * assert.deepEqual(last1M, { h: 48, w: 84 });
 * ```
 */
export function schedule(ratio: number, pixels: PixelBudget): Schedule {
  checkBudget(pixels);
  const row = TABLE.find(([key, inverse]) => key === ratio || inverse === ratio);
  if (row === undefined) {
    throw new UsageError(`No schedule for height/width ${ratio}: the table has ${RATIOS.join(", ")}`, {
      hint: "Take one of these, or chooseSchedule() for the nearest",
    });
  }
  const all = row[2].split(" ").map((grid): Grid => {
    const [h, w] = grid.split("x").map(Number) as [number, number];
    return row[0] === ratio ? { h, w } : { h: w, w: h };
  });
  return { ratio, pixels, grids: all.slice(0, SCALES[pixels]), last1M: all.at(-1)! };
}

/**
 * The schedule nearest to a wish: ratio by absolute difference of height/width (the first key wins ties, infinity.md
 * §5.1), budget by number of pixels when a size is given, else `wish.pixels`, else `defaultPixels`.
 *
 * `pixelsPerToken` is the side of a token of the last scale in pixels. Notes say what was rounded to what.
 *
 * @throws {UsageError} for sizes that are no positive whole numbers, shapes beyond 1:4 or 4:1, or more than four times
 * too large or too small.
 *
 * @example
 * ```ts
 * import { chooseSchedule } from "@stagevar/stagevar/schedule.ts";
 * import assert from "node:assert/strict";
 * const { schedule, notes } = chooseSchedule({ aspect: "16:9" }, 16, "1M");
 * assert.equal(schedule.ratio, 0.571);
 * assert.deepEqual(notes, ['Aspect "16:9" is rounded to 1344x768 pixels, the nearest schedule']);
 * ```
 */
export function chooseSchedule(wish: SizeWish, pixelsPerToken: number, defaultPixels: PixelBudget): ScheduleChoice {
  if (wish.pixels !== undefined) checkBudget(wish.pixels);
  const size = wantedSize(wish);
  const ratio = size === undefined ? 1 / wantedAspect(wish.aspect ?? "square") : size.height / size.width;
  if (!(ratio <= EXTREME_RATIO && ratio >= 1 / EXTREME_RATIO)) {
    const found = size === undefined ? `Aspect "${wish.aspect}"` : `Size ${size.width}x${size.height}`;
    throw new UsageError(`${found} is out of reach: schedules go from 3:1 to 1:3`, {
      hint: "Ask for a shape between 3:1 and 1:3",
    });
  }
  const key = RATIOS.reduce((best, next) => Math.abs(next - ratio) < Math.abs(best - ratio) ? next : best);
  const pixels = wish.pixels ?? (size === undefined ? defaultPixels : nearestBudget(size, key, pixelsPerToken));
  const chosen = schedule(key, pixels);
  const got = pixelSize(chosen, pixelsPerToken);
  const notes: string[] = [];
  if (size !== undefined && (Math.round(size.width) !== got.width || Math.round(size.height) !== got.height)) {
    const asked = `${Math.round(size.width)}x${Math.round(size.height)}`;
    notes.push(`Size ${asked} is rounded to ${got.width}x${got.height} pixels, the nearest schedule`);
  } else if (size === undefined && Math.abs(got.height / got.width / ratio - 1) > 1e-3) {
    notes.push(`Aspect "${wish.aspect}" is rounded to ${got.width}x${got.height} pixels, the nearest schedule`);
  }
  if (pixels !== defaultPixels) {
    notes.push(`The model is made for ${defaultPixels} pixels: at ${pixels} its pictures may be poor`);
  }
  return { schedule: chosen, notes };
}

/**
 * Width and height in pixels of the picture a schedule ends in; `pixelsPerToken` is the side of a token in pixels.
 *
 * @example
 * ```ts
 * import { pixelSize, schedule } from "@stagevar/stagevar/schedule.ts";
 * import assert from "node:assert/strict";
 * assert.deepEqual(pixelSize(schedule(1.5, "1M"), 16), { width: 832, height: 1248 });
 * ```
 */
export function pixelSize(of: Schedule, pixelsPerToken: number): { width: number; height: number } {
  const last = of.grids.at(-1)!;
  return { width: last.w * pixelsPerToken, height: last.h * pixelsPerToken };
}

function checkBudget(pixels: string): void {
  if (!Object.hasOwn(SCALES, pixels)) {
    throw new UsageError(`No pixel budget ${JSON.stringify(pixels)}: wanted one of ${PIXEL_BUDGETS.join(", ")}`);
  }
}

/** Width over height of `16:9`, `1.5` or a word. */
function wantedAspect(text: string): number {
  const word = Object.hasOwn(WORDS, text) ? WORDS[text] : undefined;
  if (word !== undefined) return word;
  const match = /^(\d{1,6}(?:\.\d{1,6})?)(?::(\d{1,6}(?:\.\d{1,6})?))?$/.exec(text);
  const aspect = match === null ? NaN : Number(match[1]) / Number(match[2] ?? 1);
  if (!Number.isFinite(aspect) || aspect <= 0) {
    throw new UsageError(`Cannot read aspect ${JSON.stringify(text.slice(0, 40))}`, {
      hint: `Write width:height as "16:9", a number as "1.5", or ${Object.keys(WORDS).join(", ")}`,
    });
  }
  return aspect;
}

/** Wanted pixels; the side that is not given follows from the aspect. Undefined when no side is given. */
function wantedSize(wish: SizeWish): { width: number; height: number } | undefined {
  const { width, height, aspect } = wish;
  for (const [name, value] of Object.entries({ width, height })) {
    if (value !== undefined && !(Number.isSafeInteger(value) && value > 0)) {
      throw new UsageError(`Impossible ${name} ${value}: wanted a positive whole number of pixels`);
    }
  }
  if (width !== undefined && height !== undefined) {
    if (aspect === undefined) return { width, height };
    throw new UsageError(`Size ${width}x${height} and aspect "${aspect}" are both given`, {
      hint: "Give the size, or the aspect with at most one side",
    });
  }
  if (width !== undefined) return { width, height: width / wantedAspect(aspect ?? "square") };
  if (height !== undefined) return { width: height * wantedAspect(aspect ?? "square"), height };
  return undefined;
}

function nearestBudget(size: { width: number; height: number }, ratio: number, pixelsPerToken: number): PixelBudget {
  const off = PIXEL_BUDGETS.map((pixels) => {
    const got = pixelSize(schedule(ratio, pixels), pixelsPerToken);
    return { pixels, got, error: Math.abs(Math.log((size.width * size.height) / (got.width * got.height))) };
  });
  const best = off.reduce((a, b) => b.error < a.error ? b : a);
  if (best.error > Math.log(EXTREME_AREA) + 1e-9) {
    const found = `${Math.round(size.width)}x${Math.round(size.height)}`;
    const sizes = off.map(({ got }) => `${got.width}x${got.height}`).join(", ");
    throw new UsageError(`Size ${found} is out of reach: this shape comes in ${sizes}`, {
      hint: `Ask for ${best.got.width}x${best.got.height} and resize the picture`,
    });
  }
  return best.pixels;
}

/**
 * The one schedule of a model that has its own, squares of given sides, and what there is to say about a wish for another size.
 *
 * @throws {UsageError} for another shape or pixel budget
 * @example
 * ```ts
 * import { ownSchedule } from "@stagevar/stagevar/schedule.ts";
 * import assert from "node:assert/strict";
 * const { schedule, notes } = ownSchedule({ width: 1000 }, { name: "star-256", sides: [1, 2, 16], pixels: "0.06M" }, 16);
 * assert.deepEqual(schedule.grids.at(-1), { h: 16, w: 16 });
 * assert.deepEqual(notes, ["The model draws 256x256 pixels, asked was for a width of 1000"]);
 * ```
 */
export function ownSchedule(
  wish: SizeWish,
  { name, sides, pixels }: { readonly name: string; readonly sides: readonly number[]; readonly pixels: PixelBudget },
  pixelsPerToken: number,
): ScheduleChoice {
  const side = sides.at(-1)! * pixelsPerToken;
  const size = wantedSize({ ...wish, pixels: undefined });
  const other = size !== undefined && Math.abs(Math.log(size.width / size.height)) > Math.log(SQUARE_ENOUGH) ||
    size === undefined && wish.aspect !== undefined && wantedAspect(wish.aspect) !== 1;
  if (other) {
    throw new UsageError(`Model "${name}" draws squares of ${side}x${side} pixels only`, {
      hint: "Leave --aspect, --width and --height out, or take a model of the family infinity",
    });
  }
  if (wish.pixels !== undefined && wish.pixels !== pixels) {
    throw new UsageError(`Model "${name}" draws ${side}x${side} pixels only, size "${wish.pixels}" is asked for`, {
      hint: `Leave --pixels out: other sizes are models of their own`,
    });
  }
  const notes = (["width", "height"] as const).flatMap((which) =>
    wish[which] === undefined || wish[which] === side
      ? []
      : [`The model draws ${side}x${side} pixels, asked was for a ${which} of ${wish[which]}`]
  );
  const grids = sides.map((side) => ({ h: side, w: side }));
  return { schedule: { ratio: 1, pixels, grids, last1M: grids.at(-1)!, own: true }, notes };
}

/** A wish for 1000x1024 is one for a square. */
const SQUARE_ENOUGH = 1.1;
