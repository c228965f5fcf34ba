import assert from "node:assert/strict";
import {
  type Cost,
  decoderFlopsPerPixel,
  type ModelShape,
  planCost,
  type ScaleCost,
  scaleFlops,
} from "@stagevar/stagevar/cost.ts";
import { makePlan, type Step } from "@stagevar/stagevar/plan.ts";
import { type PixelBudget, schedule } from "@stagevar/stagevar/schedule.ts";
import { SHAPE_2B_WITH_DECODER } from "./infinity_2b.ts";
import { SHAPE_STAR, STAR_GUIDANCE, STAR_SCHEDULE } from "./star_1_7b.ts";

const shape8B: ModelShape = {
  ...SHAPE_2B_WITH_DECODER,
  name: "Infinity-8B",
  width: 3584,
  depth: 40,
  heads: 28,
  ffn: 14336,
  codeDim: 14,
  tokenDim: 56,
  patchify: true,
  decoderFlopsPerPixel: decoderFlopsPerPixel({ codeDim: 14, channels: [128, 256, 512, 512], blocks: 3 }),
};
const T = 1e12;

/** The cost of one row (guidance 1) or two (3), without acceleration, at 64 text tokens. */
function vanilla(shape: ModelShape, pixels: PixelBudget, guidance: 1 | 3): Cost {
  return makePlan({ shape, schedule: schedule(1, pixels), guidance, tau: 1, method: "vanilla" }).cost;
}

/** The tables of infinity.md §7.2 recompute text keys and values at every scale; this engine does so once. */
const recomputed = (cost: Cost) =>
  cost.transformer + cost.textKeysValues * (cost.scales.filter(({ rows }) => rows > 0).length - 1);

/**
 * Asserts that a number rounds to the one in the table. Half of the last decimal, and a tenth of that more: the table
 * adds up rounded parts (0.0150 + 0.0344 prints as 0.050, twice 31.32 as 62.7).
 */
function prints(value: number, table: string): void {
  const last = 10 ** -(table.split(".")[1]?.length ?? 0);
  assert(Math.abs(value - Number(table)) <= 0.55 * last, `${value} is not ${table}`);
}

Deno.test("planCost() reproduces every row of the table of infinity.md §7.2", () => {
  const table = [
    ["0.0038", "0.0000", "0.0344", "0.038"],
    ["0.0150", "0.0000", "0.0344", "0.050"],
    ["0.0601", "0.0001", "0.0346", "0.095"],
    ["0.1353", "0.0005", "0.0350", "0.171"],
    ["0.2405", "0.0020", "0.0354", "0.278"],
    ["0.541", "0.010", "0.037", "0.588"],
    ["0.962", "0.035", "0.039", "1.036"],
    ["1.503", "0.097", "0.041", "1.641"],
    ["2.165", "0.226", "0.044", "2.435"],
    ["3.848", "0.677", "0.052", "4.577"],
    ["6.013", "1.729", "0.061", "7.803"],
    ["8.659", "3.881", "0.073", "12.613"],
    ["15.393", "11.297", "0.103", "26.795"],
  ] as const;
  const cost = vanilla(SHAPE_2B_WITH_DECODER, "1M", 1);
  table.forEach(([linear, attention, rest, all], k) => {
    const { flops } = cost.scales[k]!;
    const cross = flops.crossAttention + cost.textKeysValues; // the column leaves the head out, its sums do not
    prints(flops.linear / T, linear);
    prints(flops.selfAttention / T, attention);
    prints(cross / T, rest);
    prints((flops.linear + flops.selfAttention + cross + flops.ends) / T, all);
  });
});

Deno.test("planCost() reproduces the totals of infinity.md §7.2 for 2B and 8B, one row and two", () => {
  const totals: [ModelShape, PixelBudget, string, string][] = [
    [SHAPE_2B_WITH_DECODER, "0.06M", "2.26", "4.51"],
    [SHAPE_2B_WITH_DECODER, "0.25M", "10.9", "21.8"],
    [SHAPE_2B_WITH_DECODER, "0.60M", "31.3", "62.7"],
    [SHAPE_2B_WITH_DECODER, "1M", "58.1", "116.2"],
    [shape8B, "0.25M", "40.0", "79.9"],
    [shape8B, "1M", "192.7", "385.5"],
  ];
  for (const [shape, pixels, one, two] of totals) {
    prints(recomputed(vanilla(shape, pixels, 1)) / T, one);
    prints(recomputed(vanilla(shape, pixels, 3)) / T, two);
  }
});

Deno.test("planCost() gives the accelerated plan of stagevar.md §6: 21.8 guided, about 1.3 reduced, decoder 9.85", () => {
  const { cost } = makePlan({
    shape: SHAPE_2B_WITH_DECODER,
    schedule: schedule(1, "1M"),
    guidance: 3,
    tau: 0.5,
    method: "stagevar",
  });
  const reduced = cost.scales[10]!.flops;
  const side40 = reduced.linear + reduced.selfAttention + reduced.crossAttention + reduced.projection + reduced.ends;
  const nine = cost.textKeysValues * 9; // ten guided scales, the table counts the text at each
  prints((cost.transformer + nine - side40) / T, "21.8");
  prints((side40 + cost.textKeysValues / 2) / T, "1.3");
  prints(cost.decoder! / T, "9.85");
  assert.equal(Math.round(100 * cost.decoder! / (cost.decoder! + cost.transformer)), 30);
});

Deno.test("decoderFlopsPerPixel() reproduces infinity.md §6.1 for both decoders", () => {
  prints(SHAPE_2B_WITH_DECODER.decoderFlopsPerPixel! * 1024 ** 2 / T, "9.85");
  prints(shape8B.decoderFlopsPerPixel! * 1024 ** 2 / T, "9.89");
  prints(shape8B.decoderFlopsPerPixel! * 512 ** 2 / T, "2.47");
});

Deno.test("planCost() counts rows x tokens x layers and what is in each chunk's cache", () => {
  const shape: ModelShape = { ...SHAPE_2B_WITH_DECODER, width: 8, ffn: 20, depth: 4, chunks: 2, tokenDim: 4 };
  const grids = [{ h: 1, w: 1 }, { h: 2, w: 2 }, { h: 2, w: 3 }, { h: 4, w: 4 }];
  const reduced: Step = {
    kind: "reduced",
    rows: "null",
    guidance: 0,
    tau: 1,
    reduce: "project",
    ranks: [2, 3],
    projection: "gaussian",
    rope: "first",
    addUnselected: true,
  };
  const both = { kind: "full", rows: "both", guidance: 3, tau: 1 } as const;
  const { scales, tokenLayers } = planCost({
    shape,
    grids,
    steps: [both, reduced, { kind: "skip" }, { ...both, rows: "null", guidance: 0 }],
    textTokens: 5,
  });
  assert.deepEqual(scales.map((scale) => scale.tokenLayers), [2 * 1 * 4, 2 * 2 + 3 * 2, 0, 16 * 4]);
  assert.equal(tokenLayers, 8 + 10 + 64);
  const layer = 4 * 8; // 4 C operations a pair of query and key, in each of the chunk's 2 blocks
  assert.equal(scales[1]!.flops.selfAttention, 2 * layer * (2 * (1 + 2) + 3 * (1 + 3)));
  assert.equal(scales[3]!.flops.selfAttention, 2 * layer * 16 * ((1 + 2 + 16) + (1 + 3 + 16)));
  assert.equal(scales[1]!.flops.crossAttention, 2 * layer * (2 + 3) * 5);
  assert.equal(scales[1]!.flops.projection, 2 * 8 * 4 * (2 + 3)); // Q^T X: r x M x C
  assert.equal(scales[1]!.flops.linear, 2 * (2 + 3) * (12 * 64 + 4 * 8 * 20));
  assert.equal(scales[1]!.flops.ends, 2 * 8 * 4 * (4 + 2 * 4)); // all rows are embedded and sampled, reduced or not
});

Deno.test("planCost() runs no block at a cache step and leaves nothing in the cache", () => {
  const plan = makePlan({
    shape: SHAPE_2B_WITH_DECODER,
    schedule: schedule(1, "1M"),
    guidance: 3,
    tau: 1,
    method: "cache-only",
    methodOptions: { alpha: [0.96, 1, 0] },
  });
  const [, cached, full] = [9, 10, 11].map((k) => plan.cost.scales[k]!);
  assert.equal(cached!.tokenLayers, 0);
  assert.equal(cached!.flops.linear, 0);
  assert(cached!.flops.ends > 0);
  assert.equal(full!.flops.selfAttention, 32 * 4 * 2048 * 2304 * (2521 + 2304));
});

/** STAR-1.7B at the 77 text tokens of star.md §16b. */
function star(method: string, guidance: number | number[] = STAR_GUIDANCE): Cost {
  return makePlan({ shape: SHAPE_STAR, schedule: STAR_SCHEDULE, guidance, tau: 1, method, textTokens: 77 }).cost;
}

Deno.test("planCost() reproduces the operations of a STAR row at every scale of star.md §16b, and their sum of §14", () => {
  const table = "0.003 0.013 0.028 0.050 0.079 0.155 0.257 0.462 0.836 1.485 2.577 4.968 10.05 21.74".split(" ");
  const { scales, transformer, textKeysValues, decoder } = star("vanilla", 1);
  assert.equal(scales.length, table.length);
  scales.forEach(({ flops, rows }, k) => {
    assert.equal(rows, 1);
    prints(scaleFlops(flops) / T, table[k]!);
  });
  const { linear, selfAttention } = scales[13]!.flops;
  prints(linear / T, "12.7");
  prints(selfAttention / T, "8.9");
  prints((transformer - textKeysValues) / T, "42.7");
  prints(decoder! / T, "6.46");
});

Deno.test("planCost() counts STAR's cross attention once for both rows, which the tables of star.md count for each", () => {
  const [one, two] = [star("vanilla", 1), star("vanilla")];
  one.scales.forEach(({ flops }, k) => {
    const both = two.scales[k]!.flops;
    const n = STAR_SCHEDULE.grids[k]!.h ** 2;
    const crossing = 30 * n * 4 * 1920 ** 2; // its query and output projections
    assert.equal(both.crossAttention, flops.crossAttention);
    assert.equal(both.linear, 2 * flops.linear - crossing);
    assert.equal(both.selfAttention, 2 * flops.selfAttention);
    assert.equal(both.ends, 2 * flops.ends);
  });
  prints(two.transformer / T, "81.1"); // where §14 has 85.4
  assert.equal(two.textKeysValues, 2 * one.textKeysValues);

  // counted for each row, acceleration is the 2.60 times of §14
  const fast = star("stagevar");
  const each = ({ rows, flops }: ScaleCost, k: number): number =>
    rows === 2 ? 2 * scaleFlops(one.scales[k]!.flops) : scaleFlops(flops);
  const sum = ({ scales }: Cost): number => scales.map(each).reduce((a, b) => a + b);
  prints(sum(two) / T, "85.4");
  assert.equal((sum(two) / sum(fast)).toFixed(2), "2.59");
  assert.equal((two.transformer / fast.transformer).toFixed(2), "2.56");
});
