/**
 * Plans as text: one plan scale by scale, or several side by side.
 *
 * Pure: knows plans, not terminals.
 *
 * @module
 */
import { scaleFlops } from "../src/cost.ts";
import { explainPlan, type Plan, type Step } from "../src/plan.ts";

/** How a plan is printed: aligned text for people, or one JSON object a line. */
export type PlanStyle = "table" | "json";

/**
 * One plan: a line a scale, totals, and what there is to explain; without a final line break.
 *
 * @example
 * ```ts
 * import { renderPlan } from "./plan_table.ts";
 * import { makePlan } from "../src/plan.ts";
 * import { schedule } from "../src/schedule.ts";
 * import assert from "node:assert/strict";
 * const shape = {
 *   name: "Infinity-2B", family: "infinity", width: 2048, depth: 32, chunks: 8, heads: 16, ffn: 8192,
 *   codeDim: 32, tokenDim: 32, textDim: 2048, patchify: false, pixelsPerToken: 16,
 * } as const;
 * const plan = makePlan({ shape, schedule: schedule(1, "1M"), guidance: 3, tau: 0.5 });
 * assert.match(renderPlan(plan, "table"), /11 +40x40 +fidelity +project, rank 27-410/);
 * assert.deepEqual(JSON.parse(renderPlan(plan, "json")).steps, plan.steps);
 * ```
 */
export function renderPlan(plan: Plan, style: PlanStyle): string {
  if (style === "json") return JSON.stringify(plan);
  const rows = plan.schedule.grids.map(({ h, w }, k): string[] => {
    const step = plan.steps[k]!;
    const cost = plan.cost.scales[k]!;
    const left = [`${k + 1}`, `${h}x${w}`, plan.stages[k]!, stepInWords(step)];
    if (step.kind === "skip") return [...left, "-", "-", "-", `0 of ${h * w}`, "0", "0"];
    const mean = cost.tokens.reduce((a, b) => a + b, 0) / Math.max(1, cost.tokens.length);
    const tokens = step.kind === "full" ? `${h * w}` : `${Math.round(mean)} of ${h * w}`;
    const work = [tokens, count(cost.tokenLayers), flops(scaleFlops(cost.flops))];
    const guidance = `${Number(step.guidance.toFixed(3))}`; // STAR's grows by fractions
    return [...left, guidance, `${step.tau}`, step.rows, ...work];
  });
  const head = ["scale", "grid", "stage", "step", "guidance", "tau", "rows", "tokens", "token-layers", "FLOPs"];
  const { ratio, pixels, grids } = plan.schedule;
  const { cost, vanillaCost } = plan;
  const total = cost.transformer + (cost.decoder ?? 0);
  const lines = [
    `${plan.model}, method ${plan.method}: ${plan.width}x${plan.height} pixels in ${grids.length} scales ` +
    `(schedule ${pixels}, height/width ${ratio})`,
    "",
    ...align([head, ...rows], 4),
    "",
    `Token-layers  ${count(cost.tokenLayers)} of ${count(vanillaCost.tokenLayers)} (${speedUp(plan)} less work)`,
    `Transformer   ${flops(cost.transformer)} of ${flops(vanillaCost.transformer)} FLOPs ` +
    `(${times(vanillaCost.transformer / cost.transformer)} less work)`,
  ];
  if (cost.decoder !== undefined) {
    lines.push(`Decoder       ${flops(cost.decoder)} FLOPs (${Math.round(100 * cost.decoder / total)} % of this plan)`);
  }
  lines.push("", ...explainPlan(plan));
  if (plan.notes.length > 0) lines.push("", ...plan.notes.map((note) => `Note: ${note}`));
  return lines.join("\n");
}

/**
 * Several plans of one request side by side, a line a method; without a final line break.
 *
 * @example
 * ```ts
 * import { renderPlans } from "./plan_table.ts";
 * import { makePlan } from "../src/plan.ts";
 * import { schedule } from "../src/schedule.ts";
 * import assert from "node:assert/strict";
 * const shape = {
 *   name: "Infinity-2B", family: "infinity", width: 2048, depth: 32, chunks: 8, heads: 16, ffn: 8192,
 *   codeDim: 32, tokenDim: 32, textDim: 2048, patchify: false, pixelsPerToken: 16,
 * } as const;
 * const request = { shape, schedule: schedule(1, "1M"), guidance: 3, tau: 0.5 };
 * const plans = ["vanilla", "stagevar"].map((method) => makePlan({ ...request, method }));
 * assert.match(renderPlans(plans, "table"), /stagevar .*3\.95x/);
 * ```
 */
export function renderPlans(plans: readonly Plan[], style: PlanStyle): string {
  if (style === "json") return plans.map((plan) => JSON.stringify(plan)).join("\n");
  const head = ["method", "fidelity scales", "token-layers", "less", "transformer", "decoder", "FLOPs less"];
  const rows = plans.map((plan): string[] => {
    const { cost, vanillaCost } = plan;
    const all = (of: typeof cost) => of.transformer + (of.decoder ?? 0);
    const fidelity = plan.steps.filter((_, k) => plan.stages[k] === "fidelity").map(stepInWords);
    return [
      plan.method,
      fidelity.join("; "),
      count(cost.tokenLayers),
      speedUp(plan),
      flops(cost.transformer),
      cost.decoder === undefined ? "-" : flops(cost.decoder),
      times(all(vanillaCost) / all(cost)),
    ];
  });
  return align([head, ...rows], 2).join("\n");
}

/** A full step by the rows that run. */
const ALONE = { both: "full", cond: "full, no guidance", null: "full, no prompt" } as const;

function stepInWords(step: Step): string {
  if (step.kind === "skip") return "skip";
  if (step.kind === "full") return ALONE[step.rows];
  if (step.reduce === "cache") return "cache";
  const ranks = `rank ${Math.min(...step.ranks)}-${Math.max(...step.ranks)}`;
  const rare = [
    ...(step.rows === "cond" ? ["with the prompt"] : []),
    ...(step.reduce === "project" && step.projection === "sign" ? ["signs"] : []),
    ...(step.reduce === "project" && step.rope === "indices" ? ["rope indices"] : []),
    ...(step.addUnselected ? [] : ["drop the rest"]),
  ];
  return [step.reduce, ranks, ...rare].join(", ");
}

function speedUp({ cost, vanillaCost }: Plan): string {
  return times(vanillaCost.tokenLayers / cost.tokenLayers);
}

function times(factor: number): string {
  return `${factor.toFixed(2)}x`;
}

function count(value: number): string {
  return value.toLocaleString("en-US");
}

/** Three significant digits and an SI prefix. */
function flops(value: number): string {
  const steps: [number, string][] = [[1e12, " T"], [1e9, " G"], [1e6, " M"], [1e3, " k"]];
  const [unit, prefix] = steps.find(([unit]) => value >= unit) ?? [1, ""];
  const scaled = value / unit;
  return scaled.toFixed(scaled >= 100 ? 0 : scaled >= 10 ? 1 : 2) + prefix;
}

/** Pads columns; those from `firstNumber` on are flush right. */
function align(rows: readonly string[][], firstNumber: number): string[] {
  const widths = rows[0]!.map((_, column) => Math.max(...rows.map((row) => row[column]!.length)));
  return rows.map((row) =>
    row.map((cell, column) => column < firstNumber ? cell.padEnd(widths[column]!) : cell.padStart(widths[column]!))
      .join("  ").trimEnd()
  );
}
