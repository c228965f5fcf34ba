/**
 * Stage-aware acceleration (stagevar.md §1-3): the fidelity stage runs without the prompt, on a few percent of the rows,
 * or not at all.
 *
 * @module
 */
import type { ReducedStep, RowKind, Step } from "../step.ts";
import {
  aloneOn,
  choiceOption,
  FIDELITY,
  type Method,
  type MethodContext,
  type MethodOption,
  ROW,
  thresholdsOption,
} from "./method.ts";

/**
 * Share of the energy that the rank of a fidelity scale keeps.
 *
 * @example
 * ```ts
 * import { ALPHA } from "@stagevar/stagevar/methods/stagevar.ts";
 * import assert from "node:assert/strict";
 * assert.deepEqual(ALPHA.parse("0.96,0,0", { scales: 13, fidelity: 3, alphas: [] }), [0.96, 0, 0]);
 * ```
 */
export const ALPHA: MethodOption<number[]> = thresholdsOption(
  "alpha",
  "energy kept at each fidelity scale: 0 skips it, 1 runs it in full on one row; one number is that of the scale which the family's released code reduces",
);

/**
 * Positions of the pseudo-tokens: the released Infinity code takes the first r of the scale, STAR's those at I.
 *
 * @example
 * ```ts
 * import { ROPE } from "@stagevar/stagevar/methods/stagevar.ts";
 * import assert from "node:assert/strict";
 * assert.equal(ROPE.default({ scales: 13, fidelity: 3, alphas: [] }), "first");
 * ```
 */
export const ROPE: MethodOption<ReducedStep["rope"]> = {
  ...choiceOption(
    "rope",
    "positions of the pseudo-tokens: the first r of the scale, or those of the restored rows",
    ["first", "indices"],
  ),
  default: ({ family }) => family === "star" ? "indices" : "first",
};

/**
 * Entries of the random projection Q.
 *
 * @example
 * ```ts
 * import { PROJECTION } from "@stagevar/stagevar/methods/stagevar.ts";
 * import assert from "node:assert/strict";
 * assert.equal(PROJECTION.default({ scales: 13, fidelity: 3, alphas: [] }), "gaussian");
 * ```
 */
export const PROJECTION: MethodOption<ReducedStep["projection"]> = choiceOption(
  "projection",
  "entries of the random projection: normal as in the paper, or signs",
  ["gaussian", "sign"],
);

/**
 * Steps that leave all scales before the fidelity stage alone and treat each fidelity scale by its threshold: 0 skips it,
 * 1 runs it in full on one row, anything between is `reduce(scale, alpha)`.
 *
 * @example
 * ```ts
 * import { refine } from "@stagevar/stagevar/methods/stagevar.ts";
 * import assert from "node:assert/strict";
 * const step = { kind: "full", rows: "both", guidance: 3, tau: 1 } as const;
 * const context = { full: [step, step, step], fidelity: 2, option: () => assert.fail(), ranksAt: () => [] };
 * const steps = refine(context, "null", [1, 0], () => assert.fail());
 * assert.deepEqual(steps, [step, { ...step, guidance: 0 }, { kind: "skip" }]);
 * ```
 */
export function refine(
  { full, fidelity }: MethodContext,
  row: RowKind,
  alphas: readonly number[],
  reduce: (scale: number, alpha: number) => Step,
): Step[] {
  const first = full.length - fidelity;
  return full.map((step, scale): Step => {
    if (scale < first) return step;
    const alpha = alphas[scale - first]!;
    if (alpha === 0) return { kind: "skip" };
    return alpha === 1 ? { ...step, guidance: aloneOn(row) } : reduce(scale, alpha);
  });
}

/**
 * The method's step at one scale: ranks of `alpha`, restored at the drawn rows; `everything else as released.
 *
 * @throws {ModelError} when the model has no ranks, {UsageError} when none for this threshold.
 *
 * @example
 * ```ts
 * import { projected } from "@stagevar/stagevar/methods/stagevar.ts";
 * import assert from "node:assert/strict";
 * const step = { kind: "full", rows: "both", guidance: 3, tau: 0.5 } as const;
 * const context = { full: [step, step], fidelity: 1, option: () => assert.fail(), ranksAt: () => [2, 3] };
 * assert.deepEqual(projected(context, "null", 1, 0.96).ranks, [2, 3]);
 * ```
 */
export function projected(
  { full, ranksAt }: MethodContext,
  row: RowKind,
  scale: number,
  alpha: number,
): ReducedStep {
  return {
    kind: "reduced",
    rows: row,
    guidance: aloneOn(row),
    tau: full[scale]!.tau,
    reduce: "project",
    ranks: ranksAt(alpha, scale),
    projection: "gaussian",
    rope: "first",
    addUnselected: true,
  };
}

/**
 * The method of the paper, as released.
 *
 * @example
 * ```ts
 * import { stagevar } from "@stagevar/stagevar/methods/stagevar.ts";
 * import assert from "node:assert/strict";
 * assert.deepEqual(stagevar.options.map(({ name }) => name), ["fidelity", "alpha", "row", "rope", "projection"]);
 * ```
 */
export const stagevar: Method = {
  name: "stagevar",
  summary: "fidelity scales without the prompt, on few random mixtures of rows or not at all",
  options: [FIDELITY, ALPHA, ROW, ROPE, PROJECTION],
  steps: (context) =>
    refine(context, context.option(ROW), context.option(ALPHA), (scale, alpha) => ({
      ...projected(context, context.option(ROW), scale, alpha),
      rope: context.option(ROPE),
      projection: context.option(PROJECTION),
    })),
};
