/**
 * The progress of a generation in words on stderr: a line a scale, a bar under them on a terminal, a summary.
 *
 * @module
 */
import type { Plan, Step } from "../src/plan.ts";
import type { Grid } from "../src/schedule.ts";
import type { GenerateEvent } from "../src/request.ts";
import type { Context } from "./context.ts";
import { bar, byteCount, duration, oneLine, type Paint, paintFor, printable } from "./term.ts";

/** The events of one type. */
export type EventOf<T extends GenerateEvent["type"]> = Extract<GenerateEvent, { type: T }>;

/** Says what a generation does while it does it; nothing under `quiet`. */
export class Progress {
  readonly #context: Context;
  readonly #quiet: boolean;
  readonly #paint: Paint;
  readonly #told = new Set<string>();
  #plan: Plan | undefined;
  #tokensDone = 0;
  #barShown = false;

  /** Writes to the context's stderr. */
  constructor(context: Context, quiet: boolean) {
    this.#context = context;
    this.#quiet = quiet;
    this.#paint = paintFor(context.stderr, context);
  }

  /** Says something under way that leaves no line behind; only on a terminal. */
  transient(text: string): void {
    if (this.#quiet || !this.#context.stderr.isTTY) return;
    this.#clear();
    this.#context.stderr.write(oneLine(text, this.#context.stderr.columns - 1));
    this.#barShown = true;
  }

  /** A bar of how much is done, 0 to 1, and what that is; only on a terminal that has room for it. */
  share(fraction: number, text: string): void {
    const width = Math.min(40, this.#context.stderr.columns - text.length - 2);
    this.transient(width < 4 ? text : `${bar(fraction, width)} ${text}`);
  }

  /** A dtype's copies of the weights are being made, which takes a minute at the size of 2B, once. */
  copies(done: number, total: number): void {
    if (done === 1) this.line("Making copies of the weights for this dtype beside the model, once");
    this.share(done / total, `${done} of ${total} weights`);
  }

  /** A line that stays, above the bar. */
  line(text: string, dim = false): void {
    if (this.#quiet) return;
    this.#clear();
    const safe = printable(text);
    this.#context.stderr.write(`${dim ? this.#paint("dim", safe) : safe}\n`);
  }

  /** A notice, once however often it comes back in a run of many prompts. */
  notice(text: string): void {
    if (this.#told.has(text)) return;
    this.#told.add(text);
    if (this.#quiet) return;
    this.#clear();
    this.#context.stderr.write(`${this.#paint("yellow", "Note:")} ${printable(text)}\n`);
  }

  /** What is about to run. */
  start({ plan, seed, device, model, notices }: EventOf<"start">): void {
    this.#plan = plan;
    this.#tokensDone = 0;
    this.line(`${model.name}  ${plan.width}x${plan.height}  seed ${seed}  method ${plan.method}  on ${device}`);
    for (const text of new Set([...notices, ...plan.notes])) this.notice(text);
    this.#bar(0);
  }

  /** One scale is done. */
  scale(event: EventOf<"scale">): void {
    const plan = this.#plan;
    if (plan === undefined) return;
    this.line(scaleLine(event, plan.schedule.grids.length), event.step.kind !== "full");
    this.#tokensDone += weight(event.step, event.grid);
    this.#bar(event.index + 1);
  }

  /** Times, memory and what the plan saved. */
  done({ timings, peakMemory, memory, tokenLayers, vanillaTokenLayers }: EventOf<"done">, verbose = false): void {
    const { load, text, transformer, decode, encode, total } = timings;
    this.line(
      `text ${duration(text)}  transformer ${duration(transformer)}  decode ${duration(decode)}  ` +
        `encode ${duration(encode)}  load ${duration(load)}  total ${duration(total)}`,
    );
    const ratio = (vanillaTokenLayers / tokenLayers).toFixed(2);
    const saved = tokenLayers < vanillaTokenLayers
      ? `${ratio}x fewer token-layers than vanilla`
      : "token-layers as vanilla";
    this.line(`peak memory ${byteCount(peakMemory)}  ${saved}`);
    if (!verbose) return;
    const peaks = Object.entries(memory).map(([phase, { anonymous, mapped }]) =>
      `${phase} ${byteCount(anonymous)} + ${byteCount(mapped)} mapped`
    );
    this.line(`memory by phase: ${peaks.join(", ")}`);
  }

  /** Takes the bar away; call it whatever happened. */
  finish(): void {
    this.#clear();
  }

  /** The bar counts rows of tokens, not scales: the last scale alone is a third of the work. */
  #bar(scalesDone: number): void {
    const plan = this.#plan;
    if (plan === undefined) return;
    const scales = plan.steps.length;
    const total = plan.steps.reduce((sum, step, k) => sum + weight(step, plan.schedule.grids[k]!), 0);
    this.share(this.#tokensDone / total, scalesDone === scales ? "decoding" : `${scalesDone}/${scales} scales`);
  }

  #clear(): void {
    if (this.#barShown) this.#context.stderr.write("\r\x1b[2K");
    this.#barShown = false;
  }
}

function weight(step: Step, grid: Grid): number {
  if (step.kind === "skip") return 0;
  if (step.kind === "reduced") return Math.max(0, ...step.ranks);
  return grid.h * grid.w * (step.rows === "both" ? 2 : 1);
}

/**
 * One scale in words: index, grid, stage, what ran of its tokens, time.
 *
 * @example
 * ```ts
 * import { scaleLine } from "./progress.ts";
 * import assert from "node:assert/strict";
 * const scale = { type: "scale", index: 4, grid: { h: 8, w: 8 }, stage: "structure", tokensRun: 64, ms: 12 } as const;
 * const step = { kind: "full", rows: "both", guidance: 3, tau: 0.5 } as const;
 * assert.equal(scaleLine({ ...scale, step }, 7), "scale 5/7  8x8  structure  64 tokens  12 ms");
 * assert.equal(scaleLine({ ...scale, step: { kind: "skip" } }, 7), "scale 5/7  8x8  structure  skipped");
 * ```
 */
export function scaleLine({ index, grid, stage, step, tokensRun, ms }: EventOf<"scale">, scales: number): string {
  const head = `scale ${index + 1}/${scales}  ${grid.h}x${grid.w}  ${stage}`;
  return step.kind === "skip" ? `${head}  skipped` : `${head}  ${work(step, tokensRun, grid)}  ${duration(ms)}`;
}

function work(step: Exclude<Step, { kind: "skip" }>, tokensRun: number, grid: Grid): string {
  if (step.kind === "full") {
    const how = { both: "", cond: " without guidance", null: " without the prompt" }[step.rows];
    return `${tokensRun} ${tokensRun === 1 ? "token" : "tokens"}${how}`;
  }
  if (step.reduce === "cache") return "restored from the cache, nothing run";
  const verb = step.reduce === "select" ? "selected" : "reduced to";
  return `${verb} at most ${tokensRun} of ${grid.h * grid.w} tokens, without the prompt`;
}
