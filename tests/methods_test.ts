import assert from "node:assert/strict";
import { ModelError, UsageError } from "@stagevar/stagevar/errors.ts";
import type { Method } from "@stagevar/stagevar/methods/method.ts";
import { findMethod, METHODS } from "@stagevar/stagevar/methods/mod.ts";
import { makePlan, type Plan, type PlanRequest, type ReducedStep, type Step } from "@stagevar/stagevar/plan.ts";
import { PIXEL_BUDGETS, RATIOS, schedule } from "@stagevar/stagevar/schedule.ts";
import { SHAPE_2B } from "./infinity_2b.ts";
import { SHAPE_STAR, STAR_GUIDANCE, STAR_RANKS, STAR_SCHEDULE } from "./star_1_7b.ts";

function plan(method: string, methodOptions: Record<string, unknown> = {}, change: Partial<PlanRequest> = {}): Plan {
  return makePlan({
    shape: SHAPE_2B,
    schedule: schedule(1, "1M"),
    guidance: 3,
    tau: 0.5,
    method,
    methodOptions,
    ...change,
  });
}

function reducedStep(step: Step | undefined): ReducedStep {
  assert(step?.kind === "reduced", `${step?.kind} is no reduced step`);
  return step;
}

/** What every method promises on every schedule. */
function methodContract(method: Method): void {
  for (const ratio of RATIOS) {
    for (const pixels of PIXEL_BUDGETS) {
      const at = `${method.name} at ${ratio}, ${pixels}`;
      const request = { schedule: schedule(ratio, pixels) };
      const { grids } = request.schedule;
      const guidance = grids.map((_, k) => 2 + k / 8);
      const tau = grids.map((_, k) => 0.5 + k / 16);
      const made = plan(method.name, {}, { ...request, guidance, tau });
      const { steps, stages, cost, vanillaCost } = made;

      // as many steps, stages and costs as scales; plain data; the same again from the same, and from its own options
      assert.deepEqual([steps, stages, cost.scales].map(({ length }) => length), Array(3).fill(grids.length), at);
      assert.deepEqual(JSON.parse(JSON.stringify(made)), made, at);
      assert.deepEqual(plan(method.name, {}, { ...request, guidance, tau }), made, at);
      assert.deepEqual(plan(method.name, made.methodOptions, { ...request, guidance, tau }), made, at);

      let rows = "both";
      steps.forEach((step, k) => {
        const fidelity = stages[k] === "fidelity";
        if (!fidelity) assert.deepEqual(step, { kind: "full", rows: "both", guidance: guidance[k], tau: tau[k] }, at);
        if (step.kind === "skip") return;
        assert.equal(step.tau, tau[k], at);
        assert(rows === "both" || rows === step.rows, `${at}: a row that stopped running came back`);
        rows = step.rows;
        if (step.kind !== "reduced") return;
        const { h, w } = grids[k]!;
        assert(k > 0 && fidelity, at);
        assert.equal(step.ranks.length, step.reduce === "cache" ? 0 : SHAPE_2B.chunks, at);
        assert(step.ranks.every((r) => Number.isInteger(r) && r >= 1 && r <= h * w), at);
      });
      assert.equal(stages.filter((stage) => stage === "fidelity").length, 3, at);
      assert.deepEqual([...stages].sort((a, b) => order(a) - order(b)), stages, at);
      assert(cost.tokenLayers <= vanillaCost.tokenLayers && cost.transformer <= vanillaCost.transformer, at);
    }
  }
  const names = method.options.map(({ name }) => name);
  assert.equal(new Set(names).size, names.length);
  assert.throws(() => plan(method.name, { nonsense: 1 }), /no option "nonsense"/);
  assert.throws(() => plan(method.name, { toString: 1 }), UsageError);
}
const order = (stage: string) => ["semantic", "structure", "fidelity"].indexOf(stage);

for (const method of METHODS) {
  Deno.test(`methodContract holds for ${method.name}`, () => methodContract(method));
}

Deno.test("METHODS have names of their own and vanilla comes first", () => {
  assert.equal(METHODS[0]!.name, "vanilla");
  assert.equal(new Set(METHODS.map(({ name }) => name)).size, METHODS.length);
});

Deno.test("findMethod() lists the methods when there is none of that name", () => {
  assert.throws(() => findMethod("fastest"), /"fastest": wanted one of "vanilla", "stagevar"/);
});

Deno.test("vanilla runs every scale guided at the cost of vanilla", () => {
  const { steps, cost, vanillaCost } = plan("vanilla");
  assert(steps.every((step) => step.kind === "full" && step.rows === "both" && step.guidance === 3));
  assert.deepEqual(cost, vanillaCost);
  assert.equal(cost.tokenLayers, 2 * 10521 * 32);
});

Deno.test("stagevar reduces side 40 to the published ranks and skips the rest by default", () => {
  const { steps } = plan("stagevar");
  assert.deepEqual(steps.slice(10), [
    {
      kind: "reduced",
      rows: "null",
      guidance: 0,
      tau: 0.5,
      reduce: "project",
      ranks: [27, 219, 337, 401, 410, 317, 252, 306],
      projection: "gaussian",
      rope: "first",
      addUnselected: true,
    },
    { kind: "skip" },
    { kind: "skip" },
  ]);
});

Deno.test("stagevar takes a threshold for each scale: a rank, full at 1, skipped at 0, in any order", () => {
  const kinds = (alpha: unknown) => plan("stagevar", { alpha }).steps.slice(10).map(({ kind }) => kind);
  assert.deepEqual(kinds([0.96, 0.96, 0.96]), ["reduced", "reduced", "reduced"]);
  assert.deepEqual(kinds("0,0.96,1"), ["skip", "reduced", "full"]);
  assert.deepEqual(kinds(0.8), ["reduced", "skip", "skip"]);
  assert.deepEqual(kinds("1"), ["full", "skip", "skip"]);
  assert.deepEqual(kinds(0), ["skip", "skip", "skip"]);
  const [, full] = plan("stagevar", { alpha: "0.96, 1, 0" }).steps.slice(10);
  assert.deepEqual(full, { kind: "full", rows: "null", guidance: 0, tau: 0.5 });
});

Deno.test("stagevar reads ranks by the place from the end at other sizes", () => {
  const step = reducedStep(plan("stagevar", {}, { schedule: schedule(0.571, "0.25M") }).steps[7]);
  assert.equal(step.ranks[1], Math.floor(.13648282097649195 * 28 * 16) + 1);
});

Deno.test("stagevar has both readings of RoPE and both projections", () => {
  const step = reducedStep(plan("stagevar", { rope: "indices", projection: "sign" }).steps[10]);
  assert.equal(step.rope, "indices");
  assert.equal(step.projection, "sign");
});

Deno.test("stagevar moves the start of the fidelity stage with its option", () => {
  const { steps, stages } = plan("stagevar", { fidelity: 2 });
  assert.deepEqual(steps.slice(10).map(({ kind }) => kind), ["full", "reduced", "skip"]);
  assert.deepEqual(stages.slice(9), ["structure", "structure", "fidelity", "fidelity"]);
  assert.equal(reducedStep(steps[11]).ranks[0], 30); // side 48
});

Deno.test("stagevar refuses thresholds and choices that cannot be", () => {
  const bad: Record<string, unknown>[] = [
    { alpha: 0.965 },
    { alpha: [0.96, 0] },
    { alpha: [0.96, 0, 0, 0] },
    { alpha: [] },
    { alpha: "" },
    { alpha: "0.96,,0" },
    { alpha: -0.1 },
    { alpha: 1.1 },
    { alpha: NaN },
    { alpha: null },
    { alpha: { length: 3 } },
    { alpha: [[0.96], 0, 0] },
    { alpha: "0x1" },
    { fidelity: 0 },
    { fidelity: 13 },
    { fidelity: 2.5 },
    { fidelity: "three" },
    { fidelity: 4 }, // no published ranks at side 32
    { rope: "last" },
    { rope: 0 },
    { projection: undefined },
  ];
  for (const options of bad) assert.throws(() => plan("stagevar", options), UsageError, JSON.stringify(options));
});

Deno.test("unguided runs the fidelity stage in full on the null row", () => {
  const { steps, cost, vanillaCost } = plan("unguided");
  assert.deepEqual(steps[10], { kind: "full", rows: "null", guidance: 0, tau: 0.5 });
  assert.equal((vanillaCost.tokenLayers / cost.tokenLayers).toFixed(1), "1.6"); // the paper measures 1.5x in seconds
});

Deno.test("control arms differ from stagevar in the one thing they control", () => {
  const base = reducedStep(plan("stagevar").steps[10]);
  assert.deepEqual(plan("skip-fidelity").steps.slice(10), [{ kind: "skip" }, { kind: "skip" }, { kind: "skip" }]);
  assert.deepEqual(reducedStep(plan("cache-only").steps[10]), { ...base, reduce: "cache", ranks: [] });
  assert.deepEqual(reducedStep(plan("select-rows").steps[10]), { ...base, reduce: "select", rope: "indices" });
  assert.deepEqual(reducedStep(plan("stagevar-drop").steps[10]), { ...base, addUnselected: false });
  for (const arm of ["cache-only", "select-rows", "stagevar-drop"]) {
    assert.deepEqual(plan(arm).steps.slice(11), plan("stagevar").steps.slice(11));
  }
});

Deno.test("methods without ranks run on any model, the others say what to do", () => {
  const shape = { ...SHAPE_2B, name: "other", width: 192 };
  for (const name of ["vanilla", "unguided", "skip-fidelity", "cache-only"]) {
    assert.equal(plan(name, {}, { shape }).method, name);
  }
  for (const name of ["stagevar", "select-rows", "stagevar-drop"]) {
    assert.throws(
      () => plan(name, {}, { shape }),
      (error) => error instanceof ModelError && /stagevar calibrate other/.test(error.hint ?? ""),
    );
  }
  assert.equal(plan("stagevar", { alpha: "1,0,0" }, { shape }).steps[10]?.kind, "full"); // nothing to look up
});

/** A plan of STAR-1.7B. */
function starPlan(method: string | undefined, methodOptions: Record<string, unknown> = {}): Plan {
  return makePlan({
    shape: SHAPE_STAR,
    schedule: STAR_SCHEDULE,
    guidance: STAR_GUIDANCE,
    tau: 1,
    topP: 0.8,
    topK: 600,
    method,
    methodOptions,
  });
}

Deno.test("STAR-1.7B is accelerated as released: 48 on the null row, 64 reduced at the rows' own positions (star.md §15)", () => {
  const { method, steps, stages, topK, methodOptions } = starPlan(undefined);
  assert.deepEqual([method, topK, methodOptions["alpha"]], ["stagevar", 600, [1, 0.96]]);
  const guided = STAR_GUIDANCE.slice(0, 12).map((guidance) => ({ kind: "full", rows: "both", guidance, tau: 1 }));
  assert.deepEqual(guided.map(({ guidance }) => (guidance - 1).toFixed(3)).slice(0, 4), [
    "0.000",
    "0.346",
    "0.692",
    "1.038",
  ]);
  assert.deepEqual(steps, [
    ...guided,
    { kind: "full", rows: "null", guidance: 0, tau: 1 },
    {
      kind: "reduced",
      rows: "null",
      guidance: 0,
      tau: 1,
      reduce: "project",
      ranks: STAR_RANKS,
      projection: "gaussian",
      rope: "indices",
      addUnselected: true,
    },
  ]);
  assert.deepEqual(stages.map((stage) => stage[0]).join(""), "s".repeat(12) + "ff");
});

Deno.test("row decides which row goes on alone, by every method that leaves one", () => {
  for (const method of ["stagevar", "unguided", "cache-only", "select-rows", "stagevar-drop"]) {
    for (const [row, guidance] of [["null", 0], ["cond", 1]] as const) {
      const { steps } = starPlan(method, { row });
      for (const step of steps.slice(0, 12)) assert(step.kind === "full" && step.rows === "both", method);
      for (const step of steps.slice(12)) {
        assert(step.kind !== "skip" && step.rows === row && step.guidance === guidance, `${method}, ${row}`);
      }
      const infinity = plan(method, { row, ...method === "unguided" ? {} : { alpha: "0.96,1,0" } }).steps.slice(10, 12);
      assert(infinity.every((step) => step.kind !== "skip" && step.rows === row && step.guidance === guidance), method);
    }
    assert.deepEqual(starPlan(method).steps, starPlan(method, { row: "null" }).steps, `${method}: as released`);
    for (const row of ["both", "", 0, null]) assert.throws(() => starPlan(method, { row }), UsageError);
  }
  for (const method of ["vanilla", "skip-fidelity"]) {
    assert.throws(() => starPlan(method, { row: "cond" }), /no option "row"/);
  }
});

Deno.test("control arms of STAR differ from stagevar in the one thing they control, without ranks, too", () => {
  const base = reducedStep(starPlan("stagevar").steps[13]);
  assert.deepEqual(reducedStep(starPlan("select-rows").steps[13]), { ...base, reduce: "select" });
  assert.deepEqual(reducedStep(starPlan("stagevar-drop").steps[13]), { ...base, addUnselected: false });
  const cache = { ...base, reduce: "cache", ranks: [], rope: "first" }; // nothing to place
  assert.deepEqual(reducedStep(starPlan("cache-only").steps[13]), cache);
  for (const arm of ["cache-only", "select-rows", "stagevar-drop"]) {
    assert.deepEqual(starPlan(arm).steps.slice(0, 13), starPlan("stagevar").steps.slice(0, 13));
  }
  // one threshold is that of the scale which the family's released code reduces
  assert.deepEqual(starPlan("cache-only", { alpha: "0.5" }).methodOptions["alpha"], [1, 0.5]);
  assert.deepEqual(starPlan("cache-only", { fidelity: 3 }).methodOptions["alpha"], [1, 1, 0.96]);
  // a STAR model nobody measured takes the released places all the same
  const other = { shape: { ...SHAPE_STAR, width: 1024 }, schedule: STAR_SCHEDULE, guidance: STAR_GUIDANCE, tau: 1 };
  const { steps, methodOptions } = makePlan({ ...other, method: "cache-only" });
  assert.deepEqual(methodOptions["alpha"], [1, 0.96]);
  assert.deepEqual(steps.slice(11).map(({ kind }) => kind), ["full", "full", "reduced"]);
});
