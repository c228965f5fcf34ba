import assert from "node:assert/strict";
import type { ModelShape } from "@stagevar/stagevar/cost.ts";
import { IntegrityError, UsageError } from "@stagevar/stagevar/errors.ts";
import { parseRankTable, pickRanks, ranksAt, type RankTable, releasedAlphas } from "@stagevar/stagevar/presets.ts";
import { SHAPE_2B } from "./infinity_2b.ts";
import { SHAPE_STAR, STAR_RANKS, STAR_SIDES } from "./star_1_7b.ts";

const published = pickRanks(SHAPE_2B).table!;

const small: RankTable = {
  version: 1,
  model: "tiny",
  modelHash: "0123456789",
  chunks: 2,
  pixels: "0.06M",
  prompts: 40,
  fidelity: 2,
  defaultAlpha: [0.9, 0],
  alphas: {
    "0.9": { "2": { mean: [0.1, 0.2], sd: [0.01, 0.02] }, "1": { mean: [0.3, 0.4] } },
    "0.99": { "2": { mean: [0.5, 1], sd: [0, 0] } },
  },
};

Deno.test("ranksAt() gives the published ranks of Infinity-2B at side 40", () => {
  assert.deepEqual(ranksAt(published, 0.96, 3, 1600), [27, 219, 337, 401, 410, 317, 252, 306]);
});

Deno.test("ranksAt() knows eight thresholds at side 40 and 0.96 at the last two scales", () => {
  const first = [0.99, 0.98, 0.97, 0.96, 0.95, 0.9, 0.85, 0.8].map((alpha) => ranksAt(published, alpha, 3, 1600));
  assert.deepEqual(first.map(([r]) => r), [31, 30, 29, 27, 26, 22, 18, 15]);
  assert.deepEqual(first[0], [31, 470, 676, 781, 812, 651, 495, 605]);
  assert.deepEqual(ranksAt(published, 0.96, 2, 2304), [30, 270, 436, 512, 540, 422, 309, 376]);
  assert.deepEqual(ranksAt(published, 0.96, 1, 4096), [33, 222, 340, 271, 230, 119, 156, 226]);
});

Deno.test("ranksAt() gives the ranks that the golden case stagevar-512 was made with", async () => {
  const golden = JSON.parse(await Deno.readTextFile("tests/golden/cases/stagevar-512.json"));
  // the ratios in the script that made it
  const table: RankTable = {
    ...small,
    chunks: 8,
    alphas: {
      "0.96": {
        "3": { mean: [0.02, 0.14, 0.21, 0.25, 0.26, 0.2, 0.16, 0.19] },
        "2": { mean: [0.013, 0.05, 0.08, 0.07, 0.06, 0.03, 0.04, 0.06] },
      },
    },
  };
  assert.deepEqual(ranksAt(table, 0.96, 3, 400), golden.steps[7].ranks);
  assert.deepEqual(ranksAt(table, 0.96, 2, 576), golden.steps[8].ranks);
});

Deno.test("ranksAt() never exceeds the number of tokens", () => {
  assert.deepEqual(ranksAt(small, 0.99, 2, 16), [9, 16]);
  assert.deepEqual(ranksAt(small, 0.9, 2, 1), [1, 1]);
});

Deno.test("ranksAt() refuses a threshold nobody measured and names those there are", () => {
  assert.throws(() => ranksAt(published, 0.965, 3, 1600), /0\.965 at scale 3 from the end.*0\.99, 0\.98.*0\.80/);
  assert.throws(() => ranksAt(published, 0.9, 2, 2304), /has 0\.96$/);
  assert.throws(() => ranksAt(published, 0.96, 4, 1024), /has none/);
  assert.throws(() => ranksAt(small, NaN, 2, 16), UsageError);
});

Deno.test("pickRanks() prefers a model's own table and reports one of another checkpoint", () => {
  const shape: ModelShape = { ...SHAPE_2B, name: "tiny", width: 8, chunks: 2, hash: "0123456789" };
  assert.deepEqual(pickRanks(shape), {});
  assert.equal(pickRanks({ ...SHAPE_2B, name: "a fine-tune" }).table, published);
  assert.equal(pickRanks(shape, small).table, small);
  assert.deepEqual(pickRanks({ ...shape, hash: "ffff" }, small), {
    problem: 'The ranks of "tiny" were measured on "tiny" with checkpoint "0123456789", this one is "ffff"',
  });
  assert.match(pickRanks(SHAPE_2B, small).problem!, /measured on "tiny" with 2 chunks, this model has 8$/);
  assert.equal(pickRanks(SHAPE_2B, small).table, undefined);
});

Deno.test("parseRankTable() reads back what was written", () => {
  assert.deepEqual(parseRankTable(JSON.stringify(small), "ranks.json"), small);
  assert.deepEqual(parseRankTable(JSON.stringify(published), "ranks.json"), published);
});

Deno.test("parseRankTable() leaves out what it does not know", () => {
  const text = JSON.stringify({ ...small, comment: "mine" });
  assert.deepEqual(parseRankTable(text, "ranks.json"), small);
});

Deno.test("parseRankTable() names the file and the field of what cannot be", () => {
  const other = (change: (table: Record<string, unknown>) => void) => {
    const table = structuredClone(small) as unknown as Record<string, unknown>;
    change(table);
    return JSON.stringify(table);
  };
  const cases: [string, RegExp][] = [
    ["", /content.*wanted JSON/],
    ["[1]", /content.*wanted an object/],
    ["null", /content/],
    ["[".repeat(200_000), /content/],
    [" ".repeat((1 << 20) + 1), /length is 1048577/],
    [other((t) => t.version = 2), /version is 2, wanted 1/],
    [other((t) => delete t.chunks), /chunks is nothing/],
    [other((t) => t.chunks = 3), /mean is \[0\.3,0\.4\], wanted a list of 3/],
    [other((t) => t.chunks = 1e300), /chunks/],
    [other((t) => t.chunks = 1.5), /chunks is 1\.5, wanted a whole number/],
    [other((t) => t.pixels = "2M"), /pixels is "2M"/],
    [other((t) => t.fidelity = 7), /fidelity is 7/],
    [other((t) => t.prompts = -1), /prompts/],
    [other((t) => t.model = ""), /model is ""/],
    [other((t) => t.modelHash = 5), /modelHash/],
    [other((t) => t.alphas = []), /alphas is \[\], wanted an object/],
    [other((t) => t.alphas = { "1": {} }), /key of alphas/],
    [other((t) => t.alphas = { "0.0": {} }), /key of alphas/],
    [other((t) => t.alphas = { "0.9": {}, "0.90": {} }), /alphas is "0\.90", wanted it once/],
    [other((t) => t.alphas = { "0.9": { "0": { mean: [0, 0] } } }), /a place from the end/],
    [other((t) => t.alphas = { "0.9": { "7": { mean: [0, 0] } } }), /a place from the end/],
    [other((t) => t.alphas = { "0.9": { "1": { mean: [0, 1.01] } } }), /\["1"\]\.mean is 1\.01/],
    [other((t) => t.alphas = { "0.9": { "1": { mean: [0, null] } } }), /is null/],
    [other((t) => t.alphas = { "0.9": { "1": { mean: [0, 0], sd: [0, -1] } } }), /\.sd is -1/],
    [other((t) => t.defaultAlpha = [0.9]), /defaultAlpha.*a list of 2/],
    [other((t) => t.defaultAlpha = [0.95, 0]), /entry 0 of defaultAlpha is 0\.95/],
    [JSON.stringify(small).replace('"0.9"', '"__proto__"'), /key of alphas/],
    [JSON.stringify(small).replace("0.3", "1e999"), /mean is null, wanted a number/],
  ];
  for (const [text, message] of cases) {
    assert.throws(
      () => parseRankTable(text, "models/x/ranks.json"),
      (error) =>
        error instanceof IntegrityError && message.test(error.message) && error.message.includes("models/x/ranks.json"),
      `${text.slice(0, 60)} ${message}`,
    );
  }
});

Deno.test("parseRankTable() survives any damage: a valid table or one clear error", () => {
  let state = 1;
  const random = (below: number) => (state = Math.imul(state, 48271) >>> 0) % below; // any fixed stream will do
  const text = JSON.stringify(small);
  let read = 0;
  for (let i = 0; i < 5000; i++) {
    let damaged = text;
    for (let n = 1 + random(3); n > 0; n--) {
      const at = random(damaged.length);
      const insert = ["", '"', "{", "]", "-", "9", "e99", "null", "0.", ","][random(10)]!;
      damaged = damaged.slice(0, at) + insert + damaged.slice(at + random(4));
    }
    try {
      const table = parseRankTable(damaged, "x");
      read++;
      for (const places of Object.values(table.alphas)) {
        for (const { mean } of Object.values(places)) {
          assert(mean.length === table.chunks && mean.every((ratio) => ratio >= 0 && ratio <= 1));
        }
      }
    } catch (error) {
      assert(error instanceof IntegrityError, `${damaged}: ${error}`);
    }
  }
  assert(read > 100 && read < 4900, `${read} of 5000 read`); // the damage neither spares nor ruins everything
});

Deno.test("ranksAt() gives the published ranks of STAR-1.7B, ratios of the width where that is less than the tokens", () => {
  const { table } = pickRanks(SHAPE_STAR);
  assert(table);
  assert.deepEqual(ranksAt(table, 0.96, 1, 4096, 1920), STAR_RANKS);
  assert.equal(Math.round(STAR_RANKS.reduce((sum, rank) => sum + rank) / 30), 216); // the mean that star.md §15 gives
  assert.deepEqual([table.fidelity, table.defaultAlpha, table.chunks], [2, [1, 0.96], 30]);
  assert.throws(
    () => ranksAt(table, 0.96, 2, 2304, 1920),
    /No ranks for alpha 0\.96 at scale 2 from the end.*has none/,
  );
  assert.throws(() => ranksAt(table, 0.9, 1, 4096, 1920), /has 0\.96$/);
});

Deno.test("ranksAt() takes the ratio of the smaller of tokens and width, never more than the tokens", () => {
  assert.deepEqual(ranksAt(small, 0.9, 1, 100, 50), [16, 21]);
  assert.deepEqual(ranksAt(small, 0.9, 1, 50, 100), [16, 21]);
  assert.deepEqual(ranksAt(small, 0.99, 2, 8, 2), [2, 3]);
});

Deno.test("pickRanks() gives the published ranks of STAR to models of its size alone", () => {
  const published = pickRanks(SHAPE_STAR).table;
  assert.equal(pickRanks({ ...SHAPE_STAR, name: "a fine-tune" }).table, published);
  assert.deepEqual(pickRanks({ ...SHAPE_STAR, sides: STAR_SIDES.slice(0, -1) }), {});
  assert.deepEqual(pickRanks({ ...SHAPE_STAR, depth: 29, chunks: 29 }), {});
  assert.deepEqual(pickRanks({ ...SHAPE_STAR, width: 1024 }), {});
  const { sides: _, ...without } = SHAPE_STAR;
  assert.deepEqual(pickRanks(without), {});
  assert.deepEqual(pickRanks({ ...SHAPE_2B, family: "star" }), {}, "Infinity's are not STAR's");
  assert.deepEqual(parseRankTable(JSON.stringify({ ...published, prompts: 1 }), "x"), { ...published, prompts: 1 });
});

Deno.test("releasedAlphas() reduces the first fidelity scale of Infinity and the last one of STAR", () => {
  assert.deepEqual(releasedAlphas("infinity", 0.9, 3), [0.9, 0, 0]);
  assert.deepEqual(releasedAlphas("star", 0.9, 3), [1, 1, 0.9]);
  for (const family of ["infinity", "star"] as const) assert.deepEqual(releasedAlphas(family, 0.9, 1), [0.9]);
});
