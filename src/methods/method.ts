/**
 * What a method of acceleration is: a name, options, and a step for every scale.
 *
 * A method knows schedules, stages and ranks; it knows no tensors, no ONNX and no loop.
 *
 * @module
 */
import { UsageError } from "../errors.ts";
import type { ModelShape } from "../cost.ts";
import { DEFAULT_ALPHA, releasedAlphas } from "../presets.ts";
import type { FullStep, RowKind, Step } from "../step.ts";

/** Value of an option after reading: plain JSON. */
export type OptionValue = number | string | number[];

/** What the default of an option may depend on. */
export interface OptionFacts {
  /** Scales of the schedule. */
  scales: number;
  /** Scales of the fidelity stage, counted from the last. */
  fidelity: number;
  /** Thresholds of the model's rank table, one a fidelity scale. */
  alphas: readonly number[];
  /** Family of the model, whose released code the defaults are. Default: infinity. */
  family?: ModelShape["family"];
}

/** One option of a method, as `--method-option name=value` or in a request. */
export interface MethodOption<V extends OptionValue = OptionValue> {
  /** Name as people type it. */
  readonly name: string;
  /** What may be written, in words. */
  readonly type: string;
  /** What it does, one clause. */
  readonly doc: string;
  /** Value when it is not given. */
  default(facts: OptionFacts): V;
  /** Reads a JSON value or the text of the command line; throws UsageError. */
  parse(value: unknown, facts: OptionFacts): V;
}

/** What a method chooses its steps from. */
export interface MethodContext {
  /** The unaccelerated step of every scale, with its guidance and temperature. */
  readonly full: readonly FullStep[];
  /** Scales of the fidelity stage, counted from the last; at least one scale comes before it. */
  readonly fidelity: number;
  /** Value of an option of this method. */
  option<V extends OptionValue>(option: MethodOption<V>): V;
  /** Ranks of all chunks at a scale index for a threshold; throws ModelError without a table, UsageError without that threshold. */
  ranksAt(alpha: number, scale: number): number[];
}

/** A method of acceleration. */
export interface Method {
  /** Name as people type it. */
  readonly name: string;
  /** What it does, one clause. */
  readonly summary: string;
  /** Options it takes. */
  readonly options: readonly MethodOption[];
  /**
   * One step a scale. Rows of full steps follow from guidance afterwards (a row that no later guidance needs does not
   * run), so a full step keeps the rows it came with.
   */
  steps(context: MethodContext): Step[];
}

/**
 * An option that is a whole number from `low` to `high(facts)`.
 *
 * @example
 * ```ts
 * import { integerOption } from "@stagevar/stagevar/methods/method.ts";
 * import assert from "node:assert/strict";
 * const last = integerOption("last", "scales", 1, (facts) => facts.scales - 1, (facts) => facts.fidelity);
 * assert.equal(last.parse("2", { scales: 13, fidelity: 3, alphas: [] }), 2);
 * ```
 */
export function integerOption(
  name: string,
  doc: string,
  low: number,
  high: (facts: OptionFacts) => number,
  fallback: (facts: OptionFacts) => number,
): MethodOption<number> {
  return {
    name,
    type: "whole number",
    doc,
    default: fallback,
    parse(value, facts) {
      const number = toNumber(value);
      if (Number.isInteger(number) && number >= low && number <= high(facts)) return number;
      throw badValue(name, value, `a whole number from ${low} to ${high(facts)}`);
    },
  };
}

/**
 * An option that is one of a few words; the first is the default.
 *
 * @example
 * ```ts
 * import { choiceOption } from "@stagevar/stagevar/methods/method.ts";
 * import assert from "node:assert/strict";
 * const rope = choiceOption("rope", "positions", ["first", "indices"]);
 * assert.equal(rope.parse("indices", { scales: 13, fidelity: 3, alphas: [] }), "indices");
 * ```
 */
export function choiceOption<T extends string>(
  name: string,
  doc: string,
  choices: readonly [T, ...T[]],
): MethodOption<T> {
  return {
    name,
    type: choices.join(" | "),
    doc,
    default: () => choices[0],
    parse(value) {
      const choice = choices.find((choice) => choice === value);
      if (choice !== undefined) return choice;
      throw badValue(name, value, `one of ${choices.join(", ")}`);
    },
  };
}

/**
 * An option that is a list of thresholds 0..1, one a fidelity scale; a single one stands where the released code of the family
 * reduces, and the other scales are as there: Infinity's first fidelity scale, the others skipped, as in the sweep of the paper
 * (stagevar.md §6), or STAR's last, the others in full (star.md §15).
 *
 * @example
 * ```ts
 * import { thresholdsOption } from "@stagevar/stagevar/methods/method.ts";
 * import assert from "node:assert/strict";
 * const alpha = thresholdsOption("alpha", "energy kept");
 * const facts = { scales: 13, fidelity: 3, alphas: [0.96, 0, 0] };
 * assert.deepEqual(alpha.default(facts), [0.96, 0, 0]);
 * assert.deepEqual(alpha.parse("0.9", facts), [0.9, 0, 0]);
 * assert.deepEqual(alpha.parse("0.9", { ...facts, family: "star" }), [1, 1, 0.9]);
 * assert.deepEqual(alpha.parse([0.96, 1, 0], facts), [0.96, 1, 0]);
 * ```
 */
export function thresholdsOption(name: string, doc: string): MethodOption<number[]> {
  return {
    name,
    type: "number or comma-separated list",
    doc,
    default: (facts) => [...facts.alphas],
    parse(value, { fidelity, family }) {
      const given: unknown[] = Array.isArray(value) ? value : typeof value === "string" ? value.split(",") : [value];
      const numbers = given.length === 1 ? releasedAlphas(family, toNumber(given[0]), fidelity) : given.map(toNumber);
      if (numbers.length === fidelity && numbers.every((n) => n >= 0 && n <= 1)) return numbers;
      throw badValue(name, value, `one number from 0 to 1, or ${fidelity} of them, one for each of the last scales`);
    },
  };
}

/**
 * Reads the given options of a method and fills in the others.
 *
 * @throws {UsageError} for a name the method does not have or a value it cannot take.
 *
 * @example
 * ```ts
 * import { resolveOptions } from "@stagevar/stagevar/methods/method.ts";
 * import { findMethod } from "@stagevar/stagevar/methods/mod.ts";
 * import assert from "node:assert/strict";
 * const facts = { scales: 13, fidelity: 3, alphas: [0.96, 0, 0] };
 * assert.deepEqual(resolveOptions(findMethod("stagevar"), { alpha: "0.9" }, facts), {
 *   fidelity: 3, alpha: [0.9, 0, 0], row: "null", rope: "first", projection: "gaussian",
 * });
 * ```
 */
export function resolveOptions(
  method: Method,
  given: Readonly<Record<string, unknown>>,
  facts: OptionFacts,
): Record<string, OptionValue> {
  for (const name of Object.keys(given)) {
    if (method.options.some((option) => option.name === name)) continue;
    const known = method.options.map((option) => `"${option.name}"`).join(", ") || "none";
    throw new UsageError(`Method "${method.name}" has no option ${JSON.stringify(name.slice(0, 40))}: it has ${known}`);
  }
  const value = <V extends OptionValue>(option: MethodOption<V>, facts: OptionFacts): V =>
    Object.hasOwn(given, option.name) ? option.parse(given[option.name], facts) : option.default(facts);
  const fidelity = method.options.includes(FIDELITY) ? value(FIDELITY, facts) : facts.fidelity;
  const settled = { ...facts, fidelity, alphas: defaultAlphas(facts, fidelity) };
  return Object.fromEntries(method.options.map((option) => [option.name, value(option, settled)]));
}

/**
 * The one option the planner reads too: how many of the last scales form the fidelity stage.
 *
 * @example
 * ```ts
 * import { FIDELITY } from "@stagevar/stagevar/methods/method.ts";
 * import assert from "node:assert/strict";
 * assert.throws(() => FIDELITY.parse(13, { scales: 13, fidelity: 3, alphas: [] }), /from 1 to 12/);
 * ```
 */
export const FIDELITY: MethodOption<number> = integerOption(
  "fidelity",
  "how many of the last scales form the fidelity stage",
  1,
  (facts) => facts.scales - 1, // a reduced scale restores from a scale that ran
  (facts) => facts.fidelity,
);

/**
 * Which batch row goes on alone through the fidelity stage: the released code's null row, or the conditional one, whose logits
 * are those of a run of both rows without guidance and keep the prompt at the same cost (star.md §15, V-null and V-cond).
 *
 * @example
 * ```ts
 * import { ROW } from "@stagevar/stagevar/methods/method.ts";
 * import assert from "node:assert/strict";
 * assert.equal(ROW.default({ scales: 13, fidelity: 3, alphas: [] }), "null");
 * ```
 */
export const ROW: MethodOption<RowKind> = choiceOption(
  "row",
  "batch row that goes on alone: the null row, as released, or the conditional one, which keeps the prompt",
  ["null", "cond"],
);

/**
 * Guidance under which a batch row's own logits are taken.
 *
 * @example
 * ```ts
 * import { aloneOn } from "@stagevar/stagevar/methods/method.ts";
 * import assert from "node:assert/strict";
 * assert.deepEqual([aloneOn("null"), aloneOn("cond")], [0, 1]);
 * ```
 */
export function aloneOn(row: RowKind): 0 | 1 {
  return row === "null" ? 0 : 1;
}

/** The table's own list where it has the right length; else that of the released code. */
function defaultAlphas({ alphas, family }: OptionFacts, fidelity: number): readonly number[] {
  return alphas.length === fidelity ? alphas : releasedAlphas(family, DEFAULT_ALPHA, fidelity);
}

/** Number of a JSON number or a decimal text; NaN for anything else, empty text included. */
function toNumber(value: unknown): number {
  if (typeof value === "number") return value;
  return typeof value === "string" && /^\s*\d*\.?\d+\s*$/.test(value) ? Number(value) : NaN;
}

function badValue(name: string, value: unknown, wanted: string): UsageError {
  const found = JSON.stringify(value)?.slice(0, 60) ?? String(value);
  return new UsageError(`Option "${name}" is ${found}, wanted ${wanted}`);
}
