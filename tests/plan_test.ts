import assert from "node:assert/strict";
import type { ModelShape } from "@stagevar/stagevar/cost.ts";
import { ModelError, UsageError } from "@stagevar/stagevar/errors.ts";
import { explainPlan, makePlan, type Plan, type PlanRequest } from "@stagevar/stagevar/plan.ts";
import type { RankTable } from "@stagevar/stagevar/presets.ts";
import { schedule } from "@stagevar/stagevar/schedule.ts";
import { SHAPE_STAR, STAR_GUIDANCE, STAR_SCHEDULE } from "./star_1_7b.ts";

const shape: ModelShape = {
  name: "tiny",
  family: "infinity",
  width: 192,
  depth: 6,
  chunks: 3,
  heads: 3,
  ffn: 768,
  codeDim: 16,
  tokenDim: 16,
  textDim: 128,
  patchify: false,
  pixelsPerToken: 8,
};
const ranks: RankTable = {
  version: 1,
  model: "tiny",
  chunks: 3,
  pixels: "0.06M",
  prompts: 24,
  fidelity: 2,
  defaultAlpha: [0.9, 0.95],
  alphas: { "0.9": { "2": { mean: [0.1, 0.2, 0.3] } }, "0.95": { "1": { mean: [0.2, 0.3, 0.4] } } },
};

function plan(change: Partial<PlanRequest> = {}): Plan {
  return makePlan({ shape, schedule: schedule(1, "0.06M"), guidance: 3, tau: 0.5, ...change });
}
const rowsOf = ({ steps }: Plan) => steps.map((step) => step.kind === "skip" ? "-" : step.rows[0]).join("");

Deno.test("makePlan() says how large the picture is, of which model and by which method", () => {
  const { model, method, width, height, topP } = plan({ schedule: schedule(0.666, "0.06M") });
  assert.deepEqual([model, method, width, height, topP], ["tiny", "vanilla", 168, 112, 0.97]);
});

Deno.test("makePlan() takes vanilla where no ranks are known, and says so", () => {
  const made = plan({ notes: ["first"] });
  assert.equal(made.method, "vanilla");
  assert.deepEqual(made.notes, [
    "first",
    'No ranks are known for "tiny", so nothing is accelerated; "stagevar calibrate" measures them',
  ]);
  assert.deepEqual(plan({ method: "vanilla" }).notes, []);
});

Deno.test("makePlan() takes stagevar with the stages and thresholds of calibrated ranks", () => {
  const made = plan({ ranks });
  assert.equal(made.method, "stagevar");
  assert.deepEqual(made.notes, []);
  assert.deepEqual(made.ranks, { model: "tiny", pixels: "0.06M", prompts: 24 });
  assert.deepEqual(made.stages.slice(4), ["structure", "fidelity", "fidelity"]);
  const [fifth, last] = made.steps.slice(5);
  assert(fifth?.kind === "reduced" && last?.kind === "reduced");
  assert.deepEqual(fifth.ranks, [15, 29, 44]); // 144 tokens
  assert.deepEqual(last.ranks, [52, 77, 103]); // 256 tokens
});

Deno.test("makePlan() goes on without ranks of another checkpoint, unless the method needs them", () => {
  const stale = { shape: { ...shape, hash: "new" }, ranks: { ...ranks, modelHash: "old" } };
  const made = plan(stale);
  assert.equal(made.method, "vanilla");
  assert.match(made.notes.join(), /checkpoint "old", this one is "new", so they are not used/);
  assert.throws(() => plan({ ...stale, method: "stagevar" }), ModelError);
  assert.equal(plan({ ...stale, ranks: { ...ranks, modelHash: "new" } }).method, "stagevar");
});

Deno.test("makePlan() counts the fidelity stage of calibrated ranks for methods that need none, too", () => {
  assert.equal(plan({ ranks, method: "vanilla" }).stages.filter((stage) => stage === "fidelity").length, 2);
  assert.equal(plan({ ranks, method: "skip-fidelity" }).steps.filter(({ kind }) => kind === "skip").length, 2);
  assert.equal(plan({ ranks, method: "skip-fidelity" }).ranks, undefined);
});

Deno.test("makePlan() gives structure three scales, but no more than half of what comes first", () => {
  const parts = (fidelity: number, pixels: "0.06M" | "1M") => {
    const { stages } = plan({ schedule: schedule(1, pixels), method: "unguided", methodOptions: { fidelity } });
    return ["semantic", "structure", "fidelity"].map((stage) => stages.filter((other) => other === stage).length);
  };
  assert.deepEqual(parts(3, "1M"), [7, 3, 3]);
  assert.deepEqual(parts(3, "0.06M"), [2, 2, 3]);
  assert.deepEqual(parts(6, "0.06M"), [1, 0, 6]);
});

Deno.test("makePlan() runs a row only as long as a later scale's guidance needs it", () => {
  assert.equal(rowsOf(plan({ guidance: 3 })), "bbbbbbb");
  assert.equal(rowsOf(plan({ guidance: 1 })), "ccccccc");
  assert.equal(rowsOf(plan({ guidance: 0 })), "nnnnnnn");
  assert.equal(rowsOf(plan({ guidance: [1, 3, 1, 3, 1, 1, 1] })), "bbbbccc");
  assert.equal(rowsOf(plan({ guidance: [3, 3, 3, 3, 3, 0, 0] })), "bbbbbnn");
  assert.equal(rowsOf(plan({ guidance: [1, 1, 1, 1, 1, 1, 0] })), "bbbbbbn");
  assert.equal(rowsOf(plan({ guidance: [1, 0, 1, 1, 1, 1, 1] })), "bbccccc");
  assert.equal(rowsOf(plan({ ranks })), "bbbbbnn");
  assert.equal(rowsOf(plan({ method: "skip-fidelity" })), "bbbb---");
  assert.equal(rowsOf(plan({ method: "skip-fidelity", guidance: [1, 1, 1, 1, 3, 3, 3] })), "cccc---");
});

Deno.test("makePlan() says that the null row costs something where guidance is off", () => {
  const made = plan({ ranks, guidance: 1 });
  assert.equal(rowsOf(made), "bbbbbnn");
  assert.match(made.notes.join(), /Guidance is 1, but "stagevar" ends on the null row/);
  assert.deepEqual(plan({ guidance: 1, method: "skip-fidelity" }).notes, []);
});

Deno.test("makePlan() takes guidance and temperature for each scale", () => {
  const guidance = [1, 2, 3, 4, 5, 6, 7];
  const tau = [0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6];
  const steps = plan({ guidance, tau }).steps;
  assert.deepEqual(steps.map((step) => step.kind === "full" && step.guidance), guidance);
  assert.deepEqual(steps.map((step) => step.kind === "full" && step.tau), tau);
});

Deno.test("makePlan() uses the head of a list that is too long, and says so", () => {
  const made = plan({ guidance: [...Array(7).fill(3), 9, 9], method: "vanilla" });
  assert.deepEqual(made.steps, plan({ method: "vanilla" }).steps);
  assert.deepEqual(made.notes, ["Guidance has 9 entries, the first 7 are used"]);
});

Deno.test("makePlan() takes top-p 0 for no filter, as the official code", () => {
  assert.equal(plan({ topP: 0 }).topP, 1);
  assert.equal(plan({ topP: 1 }).topP, 1);
  assert.equal(plan({ topP: 0.5 }).topP, 0.5);
});

Deno.test("makePlan() refuses guidance, temperature and top-p that cannot be", () => {
  const odd = "3" as unknown as number;
  const bad: Partial<PlanRequest>[] = [
    { guidance: NaN },
    { guidance: Infinity },
    { guidance: -1 },
    { guidance: 1e6 },
    { guidance: odd },
    { guidance: [3, 3, 3, 3, 3, 3] },
    { guidance: [] },
    { guidance: [3, 3, NaN, 3, 3, 3, 3] },
    { guidance: [3, 3, 3, 3, 3, 3, 3, NaN] }, // beyond the schedule, but wrong all the same
    { guidance: new Array<number>(7) },
    { guidance: null as unknown as number },
    { tau: -0.5 },
    { tau: NaN },
    { tau: Infinity },
    { tau: 1e-9 },
    { tau: [0.5] },
    { topP: -0.1 },
    { topP: 1.1 },
    { topP: NaN },
    { topP: odd },
    { method: "none" },
    { method: "" },
    { method: "vanilla", methodOptions: { alpha: 0.96 } },
  ];
  for (const change of bad) assert.throws(() => plan(change), UsageError, JSON.stringify(change));
});

Deno.test("makePlan() counts the prompt it is told of", () => {
  const [short, long] = [8, 512].map((textTokens) => plan({ textTokens, method: "vanilla" }).cost);
  assert.equal(long!.textKeysValues / short!.textKeysValues, 64);
  assert.equal(short!.tokenLayers, long!.tokenLayers);
});

Deno.test("explainPlan() says how stages were counted and where ranks come from", () => {
  const square = explainPlan(plan({ ranks })).join("\n");
  assert.match(square, /counted from the last scale.*fidelity is the last 2 \(12x12 to 16x16\)/);
  assert.match(square, /semantic the rest \(1x1 to 4x4\); the paper defines them on 13 square scales/);
  assert.match(square, /Ranks were measured on 24 prompts with tiny, square at 0\.06M$/m);
  assert.match(square, /Only the null row runs from scale 6 on/);
  const wide = explainPlan(plan({ ranks, schedule: schedule(0.571, "0.25M") })).join("\n");
  assert.match(wide, /square at 0\.06M; a scale here takes those of the scale at the same place from the end/);
  assert.match(explainPlan(plan({ guidance: 1 })).join("\n"), /Only the conditional row runs at all scales/);
  assert.doesNotMatch(explainPlan(plan()).join("\n"), /Ranks|Only the/);
});

Deno.test("explainPlan() needs no words for a stage that has no scales", () => {
  const lines = explainPlan(plan({ method: "unguided", methodOptions: { fidelity: 6 } })).join("\n");
  assert.match(lines, /structure what leads to it \(none\), semantic the rest \(1x1\)/);
});

Deno.test("makePlan() takes top-k of models with a codebook as it is, and refuses what cannot be", () => {
  assert.equal(Object.hasOwn(plan(), "topK"), false);
  for (const topK of [0, 1, 600, 1e9]) assert.equal(plan({ topK }).topK, topK);
  for (const topK of [-1, 1.5, NaN, Infinity, "3" as unknown as number]) {
    assert.throws(() => plan({ topK }), UsageError, `${topK}`);
  }
});

Deno.test("explainPlan() speaks of STAR's own scales and of the row that goes on", () => {
  const request = { shape: SHAPE_STAR, schedule: STAR_SCHEDULE, guidance: STAR_GUIDANCE, tau: 1 };
  const released = explainPlan(makePlan(request)).join("\n");
  assert.match(released, /fidelity is the last 2 \(48x48 to 64x64\), structure what leads to it \(21x21 to 36x36\)/);
  assert.match(released, /semantic the rest \(1x1 to 16x16\)$/m);
  assert.match(released, /Ranks were measured with STAR-1\.7B \(published, arXiv 2512\.16483\), square at 1M$/m);
  assert.match(released, /Only the null row runs from scale 13 on/);
  const exact = explainPlan(makePlan({ ...request, methodOptions: { row: "cond" } })).join("\n");
  assert.match(exact, /row cond/);
  assert.match(exact, /Only the conditional row runs from scale 13 on/);
});
