/** Requests and plans of a STAR model: what it refuses, what it says, and where its ranks come from. */
import assert from "node:assert/strict";
import { join } from "node:path";
import { calibrate } from "../src/calibrate.ts";
import { Engine } from "../src/engine.ts";
import { ModelError, UsageError } from "../src/errors.ts";
import { openModel } from "../src/models/open.ts";
import { planFor, planRequest } from "../src/prepare.ts";
import { ranksAt, type RankTable } from "../src/presets.ts";
import { type Change, events, MINI_STAR, of, PROMPT, withCopyOfMiniStar } from "./mini_star.ts";

Deno.test("a STAR model draws one size: shapes and budgets of others are refused with a hint, near sizes are said", async () => {
  using engine = await Engine.open({ model: MINI_STAR });
  const refused: [Change, RegExp][] = [
    [{ aspect: "16:9" }, /draws squares of 192x192 pixels only/],
    [{ aspect: "portrait" }, /squares of 192x192/],
    [{ width: 1024, height: 256 }, /squares of 192x192/],
    [{ width: 192, aspect: "2:1" }, /squares of 192x192/],
    [{ pixels: "1M" }, /draws 192x192 pixels only, size "1M"/],
    [{ cfgScale: [4, 4] }, /Guidance has 2 entries, the schedule has 6 scales/],
    [{ cfgScale: [] }, /Guidance has 0 entries/],
    [{ tau: [1] }, /Temperature has 1 entries/],
    [{ cfgScale: NaN }, /Guidance is NaN/],
    [{ cfgScale: -40 }, /Guidance/],
    [{ topK: -1 }, /Top-k is -1/],
    [{ topK: 1.5 }, /Top-k is 1.5/],
    [{ topP: 2 }, /Top-p is 2/],
    [{ method: "stagevar", methodOptions: { row: "both" } }, /"row" is "both", wanted one of null, cond/],
  ];
  for (const [change, message] of refused) {
    await assert.rejects(events(engine, change), (error) => {
      assert(error instanceof UsageError, `${JSON.stringify(change)}: ${error}`);
      assert.match(error.message, message);
      return true;
    });
  }
  for (const change of [{ aspect: "16:9" }, { pixels: "1M" }] as const) {
    assert.throws(
      () => engine.plan(change),
      (error) => error instanceof UsageError && /Leave --/.test(error.hint ?? ""),
    );
  }
  const near = engine.plan({ width: 200, height: 190, method: "vanilla" });
  assert.deepEqual([near.width, near.height], [192, 192]);
  assert.deepEqual(near.notes, [
    "The model draws 192x192 pixels, asked was for a width of 200",
    "The model draws 192x192 pixels, asked was for a height of 190",
  ]);
  const [start] = of(await events(engine, { width: 200, method: "vanilla" }), "start");
  assert.deepEqual(start!.notices, ["The model draws 192x192 pixels, asked was for a width of 200"]);
});

Deno.test("what needs ranks says how to get them; lists that are too long are said", async () => {
  using engine = await Engine.open({ model: MINI_STAR });
  assert.throws(
    () => engine.plan({ method: "stagevar" }),
    (error) => error instanceof ModelError && /stagevar calibrate mini-star/.test(error.hint ?? ""),
  );
  assert.deepEqual(engine.plan({ method: "vanilla", cfgScale: [1, 2, 3, 4, 5, 6, 7] }).notes, [
    "Guidance has 7 entries, the first 6 are used",
  ]);
});

Deno.test("STAR has neither GPU nor other dtypes: refused before anything is written", async () => {
  await withCopyOfMiniStar(async (model) => {
    const before = [...Deno.readDirSync(model)].map(({ name }) => name).sort();
    for (const device of ["cuda", "webgpu"] as const) {
      await assert.rejects(Engine.open({ model, device }), (error) => {
        assert(error instanceof UsageError && /--device cpu or wasm/.test(error.hint ?? ""), `${error}`);
        assert.match(error.message, new RegExp(`"mini-star" is of the family star.*"${device}"`));
        return true;
      });
    }
    for (const dtype of ["f16", "u16", "u8"] as const) {
      await assert.rejects(Engine.open({ model, dtype }), (error) => {
        assert(error instanceof UsageError && /Leave --dtype out/.test(error.hint ?? ""), `${error}`);
        assert.match(error.message, new RegExp(`no dtype "${dtype}"`));
        return true;
      });
    }
    using plain = await Engine.open({ model, dtype: "f32", device: "cpu" });
    assert.equal(plain.dtype, "f32");
    assert.deepEqual([...Deno.readDirSync(model)].map(({ name }) => name).sort(), before);
  });
});

Deno.test("top-k is refused where tokens are bits", async () => {
  await assert.rejects(planFor({ model: "tests/golden/models/mini-2b", topK: 600 }), (error) => {
    assert(error instanceof UsageError && /Leave --top-k out/.test(error.hint ?? ""));
    assert.match(error.message, /Top-k is 600: tokens of model "mini-2b" are bits/);
    return true;
  });
});

Deno.test("planFor() counts a prompt's CLIP tokens and agrees with the plan that runs", async () => {
  using engine = await Engine.open({ model: MINI_STAR });
  const plan = await planFor({ model: MINI_STAR, prompt: PROMPT, method: "skip-fidelity" });
  const [start] = of(await events(engine, { method: "skip-fidelity" }), "start");
  assert.deepEqual(start!.plan, plan);
});

Deno.test("calibrate() measures the null row of STAR, and its ranks are picked up", async () => {
  await withCopyOfMiniStar(async (model) => {
    let table: RankTable | undefined;
    let drawn = 0;
    {
      using engine = await Engine.open({ model });
      assert.equal(engine.plan({}).method, "vanilla");
      const request = { prompts: [PROMPT, "a dog"], seed: 0, alphas: [0.96, 0.5] };
      for await (const event of calibrate(engine, request)) {
        if (event.type === "ranks") table = event.table;
        else drawn++;
      }
    }
    assert.equal(drawn, 2);
    assert.deepEqual([table!.chunks, table!.pixels, table!.fidelity], [6, "0.06M", 2]);
    assert.deepEqual(table!.defaultAlpha, [1, 0.96], "as the released code: one row in full, then few pseudo-tokens");
    for (const alpha of ["0.96", "0.5"]) {
      for (const place of ["1", "2"]) {
        const { mean } = table!.alphas[alpha]![place]!;
        assert(mean.every((ratio) => ratio > 0 && ratio <= 1), `${mean}`);
      }
    }
    for (const [c, ratio] of table!.alphas["0.96"]!["1"]!.mean.entries()) {
      assert(ratio > table!.alphas["0.5"]!["1"]!.mean[c]!, "more energy takes more directions");
    }
    await Deno.writeTextFile(join(model, "ranks.json"), JSON.stringify(table));
    const plan = planRequest(await openModel(model), {});
    assert.equal(plan.method, "stagevar");
    assert.deepEqual(plan.ranks, { model: "mini-star", pixels: "0.06M", prompts: 2 });
    assert.deepEqual(plan.steps.map(({ kind }) => kind), ["full", "full", "full", "full", "full", "reduced"]);
    const last = plan.steps.at(-1)!;
    assert(last.kind === "reduced");
    assert.deepEqual(
      last.ranks,
      ranksAt(table!, 0.96, 1, 144, 32),
      "ratios of the width, which is less than the tokens",
    );
    assert(last.ranks.every((rank) => rank <= 33));
    using engine = await Engine.open({ model });
    const scales = of(await events(engine), "scale");
    assert.equal(scales.at(-1)!.tokensRun, Math.max(...last.ranks));
  });
});
