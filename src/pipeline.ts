/**
 * The scale loop of next-scale prediction, with stage-aware acceleration: reads as the paper, no I/O, no console.
 *
 *     for each scale:  input -> chunks (in full, or reduced and restored) -> guidance -> bits -> running latent
 *
 * The transformer and the arithmetic around it come as interfaces on tensors of either memory, so the loop runs on fixed
 * logits in the tests, and on a GPU without anything but its random numbers crossing the bus. Letters: B images, R rows (B or 2B: conditional rows first, null rows last), L or M tokens of a scale,
 * C width, r rank, c chunk, k scale. Sources: infinity.md §4-5, stagevar.md §1-3.
 *
 * @module
 */
import { ModelError } from "./errors.ts";
import type { ForcedTokens, ForeseenProjection, LoopDims, ScaleKernels } from "./kernels/kernels.ts";
import type { Plan, ReducedStep, Stage, Step } from "./plan.ts";
import type { Grid } from "./schedule.ts";

/** A transformer in the middle of a batch of pictures, as far as the loop knows it: tensors T, row indices I. */
export interface ScaleTransformer<T, I> {
  /** Tokens of scale 0, [R, 1, C]. */
  start(): T;
  /** Input of a scale, u [B, L, d_tok], to its tokens [R, L, C]: the same for both rows of an image. Takes u over. */
  embed(u: T, scale: number, signal?: AbortSignal): Promise<T>;
  /** Runs a chunk of blocks on x [R, L, C], which it takes over; positions: grid tokens that the rows of x sit at. */
  chunk(chunk: number, x: T, grid: Grid, positions?: I, signal?: AbortSignal): Promise<T>;
  /** Logit of class 1 minus class 0 of every bit, [R, L, d_tok], or of every code, [R, L, V]; takes x over. */
  logits(x: T, signal?: AbortSignal): Promise<T>;
  /** Drops all batch rows but [from, to), for good. */
  keepRows(from: number, to: number): void | Promise<void>;
}

/** Replaces what is drawn at random and sees what is computed: golden cases and calibration. */
export interface Tap {
  /** Bits to force, [L, d_tok] of 0 and 1, or codes [L] of a codebook. */
  tokens?(scale: number): ForcedTokens | undefined;
  /** Projection Q to use, [M, r]. */
  projection?(scale: number, chunk: number): Float32Array | undefined;
  /** Indices I to use, [r]. */
  indices?(scale: number, chunk: number): Uint32Array | undefined;
  /** Sees `input`, `chunk.c`, `reduced.c` (rows of the batch) and `logits` (guided, [L, d_tok]) of image 0; copy to keep. */
  observe?(scale: number, name: string, data: Float32Array): void;
}

/** What the loop reads of a plan. */
export type LoopPlan = Pick<Plan, "model" | "schedule" | "stages" | "steps" | "topP" | "topK">;

/** What the loop runs on. */
export interface LoopRequest<T, I> {
  /** What to do at every scale. */
  readonly plan: LoopPlan;
  /** Dimensions. */
  readonly dims: LoopDims;
  /** The transformer, begun with the rows of the first executed step. */
  readonly transformer: ScaleTransformer<T, I>;
  /** The arithmetic around it, on the same tensors. */
  readonly kernels: ScaleKernels<T, I>;
  /** One 32-bit seed an image; their number is B. */
  readonly seeds: readonly number[];
  /** Stops the loop, inside a scale too. */
  readonly signal?: AbortSignal | undefined;
  /** For golden cases and calibration. */
  readonly tap?: Tap | undefined;
}

/** A scale that has been dealt with. */
export interface ScaleResult<T> {
  /** Scale index k. */
  readonly index: number;
  /** Its grid. */
  readonly grid: Grid;
  /** Its stage. */
  readonly stage: Stage;
  /** What was done. */
  readonly step: Step;
  /** Tokens or pseudo-tokens that went through the blocks, a row; the largest chunk's. */
  readonly tokensRun: number;
  /** Milliseconds. */
  readonly ms: number;
  /** Running sums, [B, d, H, W]; the loop's, and good until it goes on. */
  readonly latent: T;
}

/**
 * Logits that are not numbers: a damaged checkpoint, or not the one its name says.
 *
 * @example
 * ```ts
 * import { NotANumberError } from "@stagevar/stagevar/pipeline.ts";
 * import assert from "node:assert/strict";
 * assert.match(new NotANumberError(0, "x").message, /scale 1/);
 * ```
 */
export class NotANumberError extends ModelError {
  /** Builds the error from the scale index and the model's name. */
  constructor(scale: number, model: string) {
    super(`Model "${model}" gave logits that are not numbers at scale ${scale + 1}`, {
      hint: "The checkpoint holds NaN or infinite weights, or is not the one its name says: download it again",
    });
  }
}

/** The rows that came out of every chunk at the last executed scale, [B, L, C]: what a reduced scale is restored from. */
interface Cached<T> {
  readonly grid: Grid;
  readonly chunks: readonly T[];
}

/**
 * Draws a batch of pictures scale by scale.
 *
 * @throws {NotANumberError} when logits are not numbers
 * @example
 * ```ts
 * import { HostKernels } from "@stagevar/stagevar/kernels/host.ts";
 * import { makePlan } from "@stagevar/stagevar/plan.ts";
 * import { drawScales } from "@stagevar/stagevar/pipeline.ts";
 * import { schedule } from "@stagevar/stagevar/schedule.ts";
 * import assert from "node:assert/strict";
 * const dims = { width: 4, chunks: 1, codeDim: 2, tokenDim: 2, patchify: false };
 * const shape = { ...dims, name: "fake", family: "infinity", depth: 1, heads: 1, ffn: 16, textDim: 4, pixelsPerToken: 8 } as const;
 * const plan = makePlan({ shape, schedule: schedule(1, "0.06M"), guidance: 1, tau: 1, method: "vanilla" });
 * const transformer = { // always surer of 1 than of 0
 *   start: () => new Float32Array(4),
 *   embed: (u: Float32Array) => Promise.resolve(new Float32Array(u.length * 2)),
 *   chunk: (_: number, x: Float32Array) => Promise.resolve(x),
 *   logits: (x: Float32Array) => Promise.resolve(new Float32Array(x.length / 2).fill(9)),
 *   keepRows: () => {},
 * };
 * const kernels = new HostKernels(dims, { images: 1, last: plan.schedule.grids.at(-1)! });
 * const scales = await Array.fromAsync(drawScales({ plan, dims, transformer, kernels, seeds: [1] }));
 * assert.equal(scales.length, 7);
 * assert(scales.at(-1)!.latent.every((value) => Math.abs(value - 7 / Math.sqrt(2)) < 1e-5));
 * ```
 */
export async function* drawScales<T, I>(request: LoopRequest<T, I>): AsyncGenerator<ScaleResult<T>> {
  const { plan, dims, transformer, kernels, seeds, signal, tap } = request;
  const { grids } = plan.schedule;
  const B = seeds.length;
  let rows = plan.steps.find((step) => step.kind !== "skip")?.rows;
  if (!tap?.projection) kernels.foresee?.(foreseen(plan, seeds));
  let latent = await kernels.zeros();
  let cached: Cached<T> | undefined;
  let ahead: T | undefined; // tokens of the next scale, made while a device is still at this one

  for (const [k, step] of plan.steps.entries()) {
    const grid = grids[k]!;
    const stage = plan.stages[k]!;
    const started = performance.now();
    signal?.throwIfAborted();
    if (step.kind === "skip") {
      yield { index: k, grid, stage, step, tokensRun: 0, ms: 0, latent };
      continue;
    }
    if (rows === "both" && step.rows !== "both") {
      await (step.rows === "null" ? transformer.keepRows(B, 2 * B) : transformer.keepRows(0, B));
      rows = step.rows;
    }
    const observe = async (name: string, x: T, image?: number): Promise<void> => {
      if (!tap?.observe) return;
      const data = await kernels.read(x);
      tap.observe(k, name, image === undefined ? data : data.subarray(0, data.length / B));
    };

    // tokens in: the running latent at this scale's grid
    const enter = async (scale: number): Promise<T> =>
      await transformer.embed(await kernels.nextInput(latent, grids[scale]!), scale, signal);
    let x = k === 0 ? transformer.start() : ahead ?? await enter(k);
    ahead = undefined;
    await observe("input", x);

    // chunks, and their outputs kept where the next executed scale restores from them
    const next = plan.steps.slice(k + 1).find(({ kind }) => kind !== "skip");
    const kept: T[] | undefined = next?.kind === "reduced" ? [] : undefined;
    let chosen: I | undefined; // of the last chunk
    for (let c = 0; c < dims.chunks; c++) {
      if (step.kind === "full") x = await transformer.chunk(c, x, grid, undefined, signal);
      else {
        if (chosen !== undefined) kernels.freeIndices(chosen);
        [x, chosen] = await reducedChunk(request, { k, c, grid, step }, x, cached!.grid, cached!.chunks[c]!, observe);
      }
      if (kept && next?.kind === "reduced") kept.push(await kernels.keep(x, grid, next.rows));
      await observe(`chunk.${c}`, x);
    }
    cached?.chunks.forEach((rows) => kernels.free(rows));
    cached = kept && { grid, chunks: kept };

    // bits out: guidance, sampling, codes onto the running latent
    const logits = await transformer.logits(x, signal);
    const greedy = step.tau === 0;
    const { z, finite } = await kernels.guide(
      logits,
      rows === "both" ? step.guidance : undefined,
      greedy ? 1 : step.tau,
    );
    kernels.free(logits);
    const wrong = (): NotANumberError => new NotANumberError(k, plan.model);
    if (finite === false) throw wrong();
    await observe("logits", z, 0);
    const forced = tap?.tokens?.(k);
    const bits = {
      scale: k,
      grid,
      streams: seeds.map((seed) => ({ seed, purpose: "bits", scale: k }) as const),
      topP: greedy ? 0.5 : plan.topP, // top-p 0.5 leaves no doubt between two
      topK: greedy ? 1 : plan.topK,
      forced: forced && seeds.map(() => forced),
    };
    const only = step.kind === "reduced" && !step.addUnselected ? chosen : undefined;
    const before = latent;
    latent = await kernels.addBits(before, z, bits, only);
    for (const done of [before, z]) kernels.free(done);
    if (typeof finite === "function") { // a device is still at it: it is told what comes next before the answer is waited for
      const following = plan.steps[k + 1];
      if (following && following.kind !== "skip" && following.rows === rows) ahead = await enter(k + 1);
      if (!await finite()) throw wrong();
    }
    if (chosen !== undefined) kernels.freeIndices(chosen);
    yield { index: k, grid, stage, step, tokensRun: tokensRun(step, grid), ms: performance.now() - started, latent };
  }
}

/**
 * One chunk of a reduced scale, one kind of rows only: X [B, M, C] -> restored Z [B, M, C], and the rows I that were run.
 *
 * r mixtures of the rows (or r of the rows themselves) go through the blocks and take the places I in the cached output of
 * the same chunk, upsampled to this grid (stagevar.md §3, §7).
 */
async function reducedChunk<T, I>(
  { transformer, kernels, seeds, signal, tap }: LoopRequest<T, I>,
  { k, c, grid, step }: { k: number; c: number; grid: Grid; step: ReducedStep },
  x: T,
  oldGrid: Grid,
  old: T,
  observe: (name: string, x: T) => Promise<void>,
): Promise<[T, I | undefined]> {
  if (step.reduce === "cache") {
    kernels.free(x);
    return [await kernels.upsample(old, oldGrid, grid), undefined];
  }
  const rank = step.ranks[c]!;
  const wanted = tap?.indices?.(k, c);
  const chosen = wanted
    ? kernels.indices(seeds.map(() => wanted))
    : await kernels.sampleRows(x, rank, streamsOf("rows", seeds, k, c));
  const Q = tap?.projection?.(k, c);
  const entering = step.reduce === "select" ? await kernels.selectRows(x, chosen) : await kernels.project(x, chosen, {
    rank,
    kind: step.projection,
    streams: streamsOf("projection", seeds, k, c),
    forced: Q && seeds.map(() => Q),
  });
  kernels.free(x);
  const y = await transformer.chunk(c, entering, grid, step.rope === "indices" ? chosen : undefined, signal);
  await observe(`reduced.${c}`, y);
  const restored = await kernels.restore(old, oldGrid, grid, y, chosen);
  kernels.free(y);
  return [restored, chosen];
}

/** All projections of a plan. */
function foreseen({ steps, schedule }: LoopPlan, seeds: readonly number[]): ForeseenProjection[] {
  return steps.flatMap((step, k) => {
    if (step.kind !== "reduced" || step.reduce !== "project") return [];
    const { h, w } = schedule.grids[k]!;
    return step.ranks.map((rank, c) => ({
      rows: h * w,
      rank,
      kind: step.projection,
      streams: streamsOf("projection", seeds, k, c),
    }));
  });
}

/** The random stream of each image for one purpose in a chunk. */
function streamsOf<P extends "rows" | "projection">(
  purpose: P,
  seeds: readonly number[],
  scale: number,
  chunk: number,
) {
  return seeds.map((seed) => ({ seed, purpose, scale, chunk }) as const);
}

/** Tokens or pseudo-tokens a row sends through the blocks, the largest chunk's. */
function tokensRun(step: Step, { h, w }: Grid): number {
  return step.kind === "full" ? h * w : step.kind === "reduced" ? Math.max(0, ...step.ranks) : 0;
}

/**
 * Tokens each chunk executes over all scales: what its key/value cache must hold.
 *
 * @example
 * ```ts
 * import { cacheCapacity } from "@stagevar/stagevar/pipeline.ts";
 * import assert from "node:assert/strict";
 * const steps = [
 *   { kind: "full", rows: "both", guidance: 3, tau: 1 },
 *   { kind: "skip" },
 * ] as const;
 * assert.deepEqual(cacheCapacity({ steps, grids: [{ h: 2, w: 2 }, { h: 4, w: 4 }], chunks: 3 }), [4, 4, 4]);
 * ```
 */
export function cacheCapacity(
  { steps, grids, chunks }: { steps: readonly Step[]; grids: readonly Grid[]; chunks: number },
): number[] {
  return Array.from({ length: chunks }, (_, c) =>
    steps.reduce((sum, step, k) => {
      const tokens = grids[k]!.h * grids[k]!.w;
      return sum + (step.kind === "full" ? tokens : step.kind === "reduced" ? step.ranks[c] ?? 0 : 0);
    }, 0));
}
