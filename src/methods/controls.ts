/**
 * Control arms that every quality table of `stagevar` carries (stagevar.md §7): each takes one part of it away.
 *
 * @module
 */
import { aloneOn, FIDELITY, type Method, ROW } from "./method.ts";
import { ALPHA, projected, refine, stagevar } from "./stagevar.ts";

/**
 * The paper's "CFG = 0" alone (stagevar.md §6): fidelity scales in full, without the prompt.
 *
 * @example
 * ```ts
 * import { unguided } from "@stagevar/stagevar/methods/controls.ts";
 * import assert from "node:assert/strict";
 * assert.equal(unguided.name, "unguided");
 * ```
 */
export const unguided: Method = {
  name: "unguided",
  summary: "fidelity scales in full on one row",
  options: [FIDELITY, ROW],
  steps: ({ full, fidelity, option }) =>
    full.map((step, k) => k < full.length - fidelity ? step : { ...step, guidance: aloneOn(option(ROW)) }),
};

/**
 * Control (a): the whole fidelity stage is left out.
 *
 * @example
 * ```ts
 * import { skipFidelity } from "@stagevar/stagevar/methods/controls.ts";
 * import assert from "node:assert/strict";
 * assert.equal(skipFidelity.name, "skip-fidelity");
 * ```
 */
export const skipFidelity: Method = {
  name: "skip-fidelity",
  summary: "control (a): no fidelity scale runs",
  options: [FIDELITY],
  steps: ({ full, fidelity }) => full.map((step, k) => k < full.length - fidelity ? step : { kind: "skip" }),
};

/**
 * Control (b): no block runs where `stagevar` reduces; logits come from the upsampled cached outputs. Needs no ranks.
 *
 * @example
 * ```ts
 * import { cacheOnly } from "@stagevar/stagevar/methods/controls.ts";
 * import assert from "node:assert/strict";
 * assert.equal(cacheOnly.name, "cache-only");
 * ```
 */
export const cacheOnly: Method = {
  name: "cache-only",
  summary: "control (b): reduced scales sample from the upsampled cache, no block runs",
  options: [FIDELITY, ALPHA, ROW],
  steps: (context) =>
    refine(context, context.option(ROW), context.option(ALPHA), (scale) => ({
      kind: "reduced",
      rows: context.option(ROW),
      guidance: aloneOn(context.option(ROW)),
      tau: context.full[scale]!.tau,
      reduce: "cache",
      ranks: [],
      projection: "gaussian",
      rope: "first",
      addUnselected: true,
    })),
};

/**
 * Control (c): the drawn rows themselves pass the blocks at their own positions, not mixtures of all rows.
 *
 * @example
 * ```ts
 * import { selectRows } from "@stagevar/stagevar/methods/controls.ts";
 * import assert from "node:assert/strict";
 * assert.equal(selectRows.name, "select-rows");
 * ```
 */
export const selectRows: Method = {
  name: "select-rows",
  summary: "control (c): reduced scales run the drawn rows unmixed, at their own positions",
  options: [FIDELITY, ALPHA, ROW],
  steps: (context) =>
    refine(context, context.option(ROW), context.option(ALPHA), (scale, alpha) => ({
      ...projected(context, context.option(ROW), scale, alpha),
      reduce: "select",
      rope: "indices",
    })),
};

/**
 * Control (d): `stagevar`, but a row that the last chunk did not draw adds no code to the running sum.
 *
 * @example
 * ```ts
 * import { stagevarDrop } from "@stagevar/stagevar/methods/controls.ts";
 * import assert from "node:assert/strict";
 * assert.equal(stagevarDrop.name, "stagevar-drop");
 * ```
 */
export const stagevarDrop: Method = {
  name: "stagevar-drop",
  summary: "control (d): stagevar, but rows the last chunk did not draw add no code",
  options: stagevar.options,
  steps: (context) =>
    stagevar.steps(context).map((step) => step.kind === "reduced" ? { ...step, addUnselected: false } : step),
};
