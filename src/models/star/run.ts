/**
 * A batch of STAR pictures between scales: its text, its keys and values in host memory, and the blocks run over them. A
 * chunk of the loop is one block.
 *
 * Letters: R rows (conditional ones first, null ones last), L tokens of a scale, C width, T tokens in the cache.
 *
 * @module
 */
import type { TensorRef } from "../../checkpoint/source.ts";
import type { HostIndices } from "../../kernels/host.ts";
import { floatTensor, intTensor, type Tensor } from "../../runtime/runtime.ts";
import type { Grid } from "../../schedule.ts";
import { allocateCache, type CacheRow, concatenate, releaseCache } from "../host_cache.ts";
import type { PictureRun, RunRequest } from "../painter.ts";
import { type Slice, slicesOf } from "../parts.ts";
import type { RopeTable } from "../rope_table.ts";
import { residualGraph } from "./graphs.ts";
import { phiOf, StarKernels } from "./kernels.ts";
import { starRopeTable } from "./rope.ts";
import type { StarText, StarTransformer } from "./transformer.ts";

/** The quantiser of a VQ-VAE: its codebook's values, and its convolutions. */
export interface QuantiserWeights {
  /** Codes [V, d]. */
  readonly codebook: Float32Array;
  /** Convolutions of what scales add. */
  readonly phi: readonly { readonly weight: TensorRef; readonly bias: TensorRef }[];
}

/** The state of one batch of pictures between scales. */
export class StarRun implements PictureRun<Float32Array, HostIndices> {
  /** The wasm core's, with the quantiser's convolutions. */
  readonly kernels: StarKernels;
  readonly #transformer: StarTransformer;
  readonly #images: number;
  readonly #filled: Int32Array; // cache tokens written so far, a block
  #rows: CacheRow[];
  #texts: readonly StarText[]; // of the kinds of rows that are left, the one that cross attention reads first
  #rope: (RopeTable & { grid: Grid }) | undefined; // of the scale at hand
  #queries = new Float32Array(); // of the block at hand: one buffer a scale, where thirty would wait for the collector

  /**
   * Starts a batch: allocates the cache for all the tokens that will be executed.
   *
   * @param texts of the prompt, then of the null prompt, or of the one kind of rows alone that will run
   * @throws {DeviceError} when the cache does not fit in memory
   */
  constructor(
    transformer: StarTransformer,
    texts: readonly StarText[],
    quantiser: QuantiserWeights,
    request: RunRequest,
  ) {
    const { dims, images, last, capacity } = request;
    this.#transformer = transformer;
    this.#images = images;
    this.#texts = texts;
    const { width, depth } = transformer.weights.dims;
    this.#filled = new Int32Array(depth);
    this.#rows = allocateCache({ rows: texts.length * images, depth, width, capacity });
    this.kernels = new StarKernels(dims, { images, last }, {
      codebook: quantiser.codebook,
      add: (latent, u, scale) => this.#add(quantiser, [dims.codeDim, last.h, last.w], latent, u, scale),
    });
  }

  /** Cuts the batch to one kind of rows, for good; cross attention reads their text from here on. */
  keepRows(from: number, to: number): void {
    releaseCache(this.#rows.filter((_, row) => row < from || row >= to));
    this.#rows = this.#rows.slice(from, to);
    this.#texts = this.#texts.slice(from / this.#images, to / this.#images);
  }

  /** Does not wait for the garbage collector. */
  freeCache(): void {
    releaseCache(this.#rows);
    this.#rows = [];
    this.#queries = new Float32Array();
  }

  /** Frees the cache. */
  [Symbol.dispose](): void {
    this.freeCache();
  }

  /** Tokens of scale 0, [R, 1, C]. */
  start(): Float32Array {
    return concatenate(this.#texts.flatMap(({ start }) => Array.from({ length: this.#images }, () => start)));
  }

  /** Tokens of a later scale: u [B L, d] -> [R, L, C], the same for both rows of an image. */
  async embed(u: Float32Array, scale: number, signal?: AbortSignal): Promise<Float32Array> {
    const { width, codeDim } = this.#transformer.weights.dims;
    const tokens = u.length / codeDim; // of all images
    const x = new Float32Array(tokens * width);
    const session = await this.#transformer.embedding();
    await session.run(
      { u: floatTensor(u, [tokens, codeDim]), scale: intTensor([scale], [1]) },
      { x: floatTensor(x, [tokens, width]) },
      signal,
    );
    return this.#texts.length === 1 ? x : concatenate([x, x]);
  }

  /**
   * Runs one block; its keys and values join the cache.
   *
   * @param x [R, L, C]; overwritten with the result, which is also returned
   * @param positions token of the grid that each of the L rows sits at, an image; by default the first L of the table
   */
  async chunk(
    block: number,
    x: Float32Array,
    grid: Grid,
    positions?: HostIndices,
    signal?: AbortSignal,
  ): Promise<Float32Array> {
    const { width: C } = this.#transformer.weights.dims;
    const rows = { rows: this.#rows.length, images: this.#images };
    const L = x.length / (rows.rows * C);
    if (this.#queries.length !== x.length) this.#queries = new Float32Array(x.length);
    const q = this.#queries;
    const filled = this.#filled[block]!;
    const slices = slicesOf(L, Math.max(1, Math.floor(this.#transformer.rowsAtOnce / rows.rows)));
    const table = this.#table(grid);
    const tokens = slices[0]!.to;
    const [enter, leave] = await Promise.all([
      this.#transformer.link(undefined, block, rows, tokens),
      this.#transformer.link(block, undefined, rows, tokens),
    ]);
    // what leaves the block attends to all that has entered it
    for (const slice of slices) {
      const inputs = { ...this.#of("x", x, slice, L), ...table, positions: this.#placement(slice, positions) };
      await enter.run(inputs, { ...this.#of("query", q, slice, L), ...this.#joining(slice, block, filled) }, signal);
    }
    for (const slice of slices) {
      const inputs = {
        ...this.#of("x", x, slice, L),
        ...this.#of("q", q, slice, L),
        ...this.#cached(block, filled + L),
        ...this.#told(block),
      };
      await leave.run(inputs, this.#of("x_out", x, slice, L), signal);
    }
    this.#filled[block] = filled + L;
    return x;
  }

  /** Logits of every code, [R, L, V]. */
  async logits(x: Float32Array, signal?: AbortSignal): Promise<Float32Array> {
    const { width: C, vocabulary } = this.#transformer.weights.dims;
    const M = x.length / C;
    const logits = new Float32Array(M * vocabulary);
    const session = await this.#transformer.head(M);
    await session.run({ x: floatTensor(x, [M, C]) }, { logits: floatTensor(logits, [M, vocabulary]) }, signal);
    return logits;
  }

  /** A slice of every row of x [R, L, C], as `name.r`. */
  #of(name: string, x: Float32Array, { from, to }: Slice, L: number): Record<string, Tensor> {
    const { width: C } = this.#transformer.weights.dims;
    return Object.fromEntries(this.#rows.map((_, r) => {
      const own = x.subarray((r * L + from) * C, (r * L + to) * C);
      return [`${name}.${r}`, floatTensor(own, [1, to - from, C])];
    }));
  }

  /** What every row attends to in a block: the first `tokens` of its cache. */
  #cached(block: number, tokens: number): Record<string, Tensor> {
    const { width: C } = this.#transformer.weights.dims;
    const inputs: Record<string, Tensor> = {};
    for (const [r, { keys, values }] of this.#rows.entries()) {
      const first = (all: Float32Array): Tensor => floatTensor(all.subarray(0, tokens * C), [1, tokens, C]);
      inputs[`keys.${r}`] = first(keys[block]!);
      inputs[`values.${r}`] = first(values[block]!);
    }
    return inputs;
  }

  /** The text that cross attention reads in a block, once an image. */
  #told(block: number): Record<string, Tensor> {
    const { width: C } = this.#transformer.weights.dims;
    const { tokens, keys, values } = this.#texts[0]!;
    const inputs: Record<string, Tensor> = {};
    for (let image = 0; image < this.#images; image++) {
      inputs[`textKeys.${image}`] = floatTensor(keys[block]!, [1, tokens, C]);
      inputs[`textValues.${image}`] = floatTensor(values[block]!, [1, tokens, C]);
    }
    return inputs;
  }

  /** Where the keys and values of a slice join the caches of a block, which hold `filled` tokens. */
  #joining({ from, to }: Slice, block: number, filled: number): Record<string, Tensor> {
    const { width: C } = this.#transformer.weights.dims;
    const outputs: Record<string, Tensor> = {};
    for (const [r, { keys, values }] of this.#rows.entries()) {
      const next = (all: Float32Array): Tensor =>
        floatTensor(all.subarray((filled + from) * C, (filled + to) * C), [1, to - from, C]);
      outputs[`key.${r}`] = next(keys[block]!);
      outputs[`value.${r}`] = next(values[block]!);
    }
    return outputs;
  }

  /** Rotation tables `cos` and `sin` of a grid, [M, hd/2]. */
  #table(grid: Grid): { cos: Tensor; sin: Tensor } {
    const { width, heads } = this.#transformer.weights.dims;
    if (this.#rope?.grid !== grid) this.#rope = { grid, ...starRopeTable(grid.h, width / heads) };
    const { cos, sin, rows, pairs } = this.#rope;
    return { cos: floatTensor(cos, [rows, pairs]), sin: floatTensor(sin, [rows, pairs]) };
  }

  /** Token of the grid that each token of a slice sits at, [R, to - from]; or the first one's, which the others follow. */
  #placement({ from, to }: Slice, positions?: HostIndices): Tensor {
    if (!positions) return intTensor([from], [1]);
    const own = positions.map((row) => [...row.subarray(from, to)]);
    return intTensor(this.#texts.flatMap(() => own).flat(), [this.#rows.length, to - from]);
  }

  /** What codes u [B, d, H, W] of a scale add to the running latents (star.md §8.6). */
  async #add(
    { phi }: QuantiserWeights,
    map: readonly [number, number, number],
    latent: Float32Array,
    u: Float32Array,
    scale: number,
  ): Promise<Float32Array> {
    const index = phiOf(scale, this.#transformer.weights.dims.levels);
    const session = await this.#transformer.session(`phi ${index}`, () => residualGraph(phi[index]!, map));
    const dims = [this.#images, ...map];
    const sum = new Float32Array(latent.length);
    await session.run({ u: floatTensor(u, dims), latent: floatTensor(latent, dims) }, { sum: floatTensor(sum, dims) });
    return sum;
  }
}
