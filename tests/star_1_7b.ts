import type { ModelShape } from "../src/cost.ts";
import { vqDecoderFlopsPerPixel } from "../src/models/star/decoder.ts";
import { ownSchedule, type Schedule } from "../src/schedule.ts";

/** Sides of STAR-1.7B's scales (star.md §2). */
export const STAR_SIDES = [1, 2, 3, 4, 5, 7, 9, 12, 16, 21, 27, 36, 48, 64];

/** STAR-1.7B as a plan sees it (star.md §2, §10). */
export const SHAPE_STAR: ModelShape = {
  name: "star-1.7b",
  family: "star",
  width: 1920,
  depth: 30,
  chunks: 30,
  heads: 30,
  ffn: 7680,
  codeDim: 32,
  tokenDim: 4096,
  textDim: 1024,
  patchify: false,
  pixelsPerToken: 16,
  sides: STAR_SIDES,
  decoderFlopsPerPixel: vqDecoderFlopsPerPixel(
    { codeDim: 32, widths: [160, 160, 320, 320, 640], blocks: 3 },
    64 * 64,
  ),
};

/** Its one schedule. */
export const STAR_SCHEDULE: Schedule =
  ownSchedule({}, { name: SHAPE_STAR.name, sides: STAR_SIDES, pixels: "1M" }, SHAPE_STAR.pixelsPerToken).schedule;

/** Guidance of its scales at 4.5 (star.md §8.3): 1 + t. */
export const STAR_GUIDANCE = STAR_SIDES.map((_, k) => 1 + 4.5 * k / 13);

/** Published ranks of its last scale, a block each (star.md §15). */
export const STAR_RANKS =
  "30,53,134,199,329,357,336,316,296,299,318,350,371,365,339,311,287,266,269,229,204,169,139,116,97,81,68,56,46,38"
    .split(",").map(Number);
