import assert from "node:assert/strict";
import { UsageError } from "@stagevar/stagevar/errors.ts";
import {
  chooseSchedule,
  ownSchedule,
  PIXEL_BUDGETS,
  type PixelBudget,
  pixelSize,
  RATIOS,
  schedule,
  type SizeWish,
} from "@stagevar/stagevar/schedule.ts";

/** infinity.md §5.1, second table: ratio, inverse, HxW and total tokens at the four budgets. */
const OFFICIAL: [number, number, string, number[]][] = [
  [1, 1, "256x256 512x512 768x768 1024x1024", [521, 2521, 6425, 10521]],
  [1.25, 0.8, "320x256 560x448 880x704 1120x896", [614, 2814, 6854, 10774]],
  [1.333, 0.75, "320x240 576x432 960x720 1152x864", [665, 2657, 7085, 10973]],
  [1.5, 0.666, "336x224 624x416 1008x672 1248x832", [533, 2759, 6941, 10997]],
  [1.75, 0.571, "336x192 672x384 1120x640 1344x768", [472, 2628, 7220, 11252]],
  [2, 0.5, "352x176 736x368 1184x592 1440x720", [451, 2681, 7219, 11269]],
  [2.5, 0.4, "400x160 800x320 1280x512 1600x640", [555, 2555, 6805, 10805]],
  [3, 0.333, "432x144 864x288 1440x480 1776x592", [509, 2588, 7016, 11123]],
];

Deno.test("schedule() has the official pixels and tokens for all 60 ratios and budgets", () => {
  const seen = new Set<string>();
  for (const [ratio, inverse, sizes, totals] of OFFICIAL) {
    for (const [b, pixels] of PIXEL_BUDGETS.entries()) {
      const [height, width] = sizes.split(" ")[b]!.split("x").map(Number) as [number, number];
      const tall = schedule(ratio, pixels);
      const wide = schedule(inverse, pixels);
      assert.deepEqual(pixelSize(tall, 16), { width, height });
      assert.deepEqual(pixelSize(wide, 16), { width: height, height: width });
      for (const one of [tall, wide]) {
        assert.equal(one.grids.reduce((sum, { h, w }) => sum + h * w, 0), totals[b]);
        assert.equal(one.grids.length, [7, 10, 12, 13][b]);
        seen.add(JSON.stringify([one.ratio, one.grids]));
      }
    }
  }
  assert.equal(seen.size, 60);
});

Deno.test("schedule() swaps h and w for an inverse ratio and keeps the 1M grid at every budget", () => {
  const tall = schedule(1.5, "0.25M");
  const wide = schedule(0.666, "0.25M");
  assert.deepEqual(wide.grids, tall.grids.map(({ h, w }) => ({ h: w, w: h })));
  assert.deepEqual(tall.last1M, { h: 78, w: 52 });
  assert.deepEqual(wide.last1M, { h: 52, w: 78 });
});

Deno.test("schedule() grows from 1x1 without ever shrinking a side", () => {
  for (const ratio of RATIOS) {
    const { grids } = schedule(ratio, "1M");
    assert.deepEqual(grids.slice(0, 2), [{ h: 1, w: 1 }, { h: 2, w: 2 }]);
    grids.slice(1).forEach(({ h, w }, k) =>
      assert(h >= grids[k]!.h && w >= grids[k]!.w && h * w > grids[k]!.h * grids[k]!.w)
    );
  }
});

Deno.test("RATIOS keeps the official key order", () => {
  assert.deepEqual(RATIOS, [1, 1.25, 0.8, 1.333, 0.75, 1.5, 0.666, 1.75, 0.571, 2, 0.5, 2.5, 0.4, 3, 0.333]);
});

Deno.test("schedule() refuses a ratio or budget that the table lacks", () => {
  assert.throws(() => schedule(4 / 7, "1M"), UsageError);
  assert.throws(() => schedule(NaN, "1M"), UsageError);
  assert.throws(() => schedule(1, "2M" as PixelBudget), /0\.06M, 0\.25M, 0\.60M, 1M/);
  assert.throws(() => schedule(1, "toString" as PixelBudget), UsageError);
});

Deno.test("chooseSchedule() takes the nearest ratio of an aspect and says when it rounds", () => {
  const cases: [string, number, boolean][] = [
    ["1:1", 1, false],
    ["square", 1, false],
    ["portrait", 1.5, false],
    ["landscape", 0.666, false],
    ["3:2", 0.666, false],
    ["2:3", 1.5, false],
    ["4:3", 0.75, false],
    ["16:9", 0.571, true],
    ["9:16", 1.75, true],
    ["1.5", 0.666, false],
    ["21:9", 0.4, true],
    ["4:1", 0.333, true],
    ["1:4", 3, true],
  ];
  for (const [aspect, ratio, rounds] of cases) {
    const choice = chooseSchedule({ aspect }, 16, "1M");
    assert.equal(choice.schedule.ratio, ratio, aspect);
    assert.equal(choice.notes.length, rounds ? 1 : 0, `${aspect}: ${choice.notes}`);
  }
});

Deno.test("chooseSchedule() gives a tie to the earlier key", () => {
  // height/width 2.25 is 0.25 from 2.0 and from 2.5; 1.125 is 0.125 from 1.0 and from 1.25: exact in binary
  assert.equal(chooseSchedule({ width: 400, height: 900 }, 16, "1M").schedule.ratio, 2);
  assert.equal(chooseSchedule({ width: 800, height: 900 }, 16, "1M").schedule.ratio, 1);
});

Deno.test("chooseSchedule() takes ratio and budget from a size", () => {
  const at = (wish: SizeWish, side = 16) => {
    const { schedule, notes } = chooseSchedule(wish, side, "1M");
    return [schedule.ratio, schedule.pixels, notes.length];
  };
  assert.deepEqual(at({ width: 1024, height: 1024 }), [1, "1M", 0]);
  assert.deepEqual(at({ width: 832, height: 1248 }), [1.5, "1M", 0]);
  assert.deepEqual(at({ width: 1920, height: 1080 }), [0.571, "1M", 1]);
  assert.deepEqual(at({ width: 512, height: 512 }), [1, "0.25M", 1]); // exact, but not what the model is made for
  assert.deepEqual(at({ width: 512 }), [1, "0.25M", 1]);
  assert.deepEqual(at({ height: 1152, aspect: "3:4" }), [1.333, "1M", 0]);
  assert.deepEqual(at({ width: 768, height: 768, pixels: "1M" }), [1, "1M", 1]);
  assert.deepEqual(at({ width: 128, height: 128 }, 8), [1, "0.06M", 1]);
  assert.deepEqual(at({}), [1, "1M", 0]);
});

Deno.test("chooseSchedule() names both sizes when it rounds", () => {
  const { notes } = chooseSchedule({ width: 1000, height: 1000 }, 16, "1M");
  assert.deepEqual(notes, ["Size 1000x1000 is rounded to 1024x1024 pixels, the nearest schedule"]);
});

Deno.test("chooseSchedule() refuses what no schedule comes near", () => {
  const bad: SizeWish[] = [
    { width: 0 },
    { width: -512, height: 512 },
    { width: 512.5, height: 512 },
    { width: NaN },
    { height: Infinity },
    { width: 8192, height: 8192 },
    { width: 64, height: 64 },
    { width: 4096, height: 512 },
    { width: Number.MAX_SAFE_INTEGER, height: Number.MAX_SAFE_INTEGER },
    { width: 512, height: 512, aspect: "1:1" },
    { aspect: "10:1" },
    { aspect: "0:1" },
    { aspect: "1:0" },
    { aspect: "" },
    { aspect: "wide" },
    { aspect: "toString" },
    { aspect: "-1:2" },
    { aspect: "1e9" },
    { aspect: "9".repeat(1 << 20) },
    { pixels: "4M" as PixelBudget },
  ];
  for (const wish of bad) {
    assert.throws(() => chooseSchedule(wish, 16, "1M"), UsageError, JSON.stringify(wish).slice(0, 80));
  }
});

const OWN = { name: "star", sides: [1, 2, 3, 16], pixels: "0.06M" } as const;

Deno.test("ownSchedule() is the model's squares, whatever square is asked for", () => {
  const wishes: SizeWish[] = [
    {},
    { aspect: "1:1" },
    { aspect: "square" },
    { aspect: "1.0" },
    { width: 256 },
    { height: 256 },
    { width: 256, height: 256 },
    { width: 256, aspect: "1:1" },
    { pixels: "0.06M" },
    { pixels: undefined, aspect: undefined },
  ];
  const squares = OWN.sides.map((side) => ({ h: side, w: side }));
  for (const wish of wishes) {
    const { schedule, notes } = ownSchedule(wish, OWN, 16);
    assert.deepEqual(schedule, { ratio: 1, pixels: "0.06M", grids: squares, last1M: { h: 16, w: 16 }, own: true });
    assert.deepEqual(notes, [], JSON.stringify(wish));
    assert.deepEqual(pixelSize(schedule, 16), { width: 256, height: 256 });
  }
});

Deno.test("ownSchedule() says what a wish near a square, or for another square, gets", () => {
  const told = (wish: SizeWish): string[] => ownSchedule(wish, OWN, 16).notes;
  assert.deepEqual(told({ width: 1024 }), ["The model draws 256x256 pixels, asked was for a width of 1024"]);
  assert.deepEqual(told({ width: 256, height: 250 }), [
    "The model draws 256x256 pixels, asked was for a height of 250",
  ]);
  assert.equal(told({ width: 250, height: 260 }).length, 2);
});

Deno.test("ownSchedule() refuses other shapes and budgets with a hint, and what is no size", () => {
  const bad: [SizeWish, RegExp][] = [
    [{ aspect: "16:9" }, /"star" draws squares of 256x256 pixels only/],
    [{ aspect: "portrait" }, /squares of 256x256/],
    [{ width: 512, height: 256 }, /squares of 256x256/],
    [{ width: 256, height: 512 }, /squares of 256x256/],
    [{ width: 256, aspect: "3:2" }, /squares of 256x256/],
    [{ pixels: "1M" }, /draws 256x256 pixels only, size "1M"/],
  ];
  for (const [wish, message] of bad) {
    assert.throws(() => ownSchedule(wish, OWN, 16), (error) => {
      assert(error instanceof UsageError && error.hint !== undefined, JSON.stringify(wish));
      assert.match(error.message, message);
      return true;
    });
  }
  for (
    const wish of [{ width: 0 }, { height: -1 }, { width: 1.5 }, { width: NaN }, { aspect: "wide" }, { aspect: "0:1" }]
  ) {
    assert.throws(() => ownSchedule(wish, OWN, 16), UsageError, JSON.stringify(wish));
  }
  assert.throws(() => ownSchedule({ pixels: "2M" as PixelBudget }, OWN, 16), UsageError);
});
