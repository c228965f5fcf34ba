/**
 * A batch of pictures between scales: its texts, its keys and values in host memory, and the blocks run over them.
 *
 * Letters: R rows (conditional ones first, null ones last), L tokens of a scale, C width, T tokens in the cache.
 *
 * @module
 */
import type { Grid } from "../../schedule.ts";
import { floatTensor, intTensor, type Tensor } from "../../runtime/runtime.ts";
import { HostKernels } from "../../kernels/host.ts";
import type { HostIndices } from "../../kernels/host.ts";
import { allocateCache, type CacheRow, concatenate, releaseCache } from "../host_cache.ts";
import type { PictureRun, RunRequest } from "../painter.ts";
import { type Part, partsOf } from "../parts.ts";
import type { RopeTable } from "../rope_table.ts";
import { ropeTable } from "./rope.ts";
import type { EncodedText, InfinityTransformer } from "./transformer.ts";

/** One batch row: its text, and its part of the cache. */
interface Row extends CacheRow {
  readonly text: EncodedText;
}

/** The state of one batch of pictures between scales, in host memory. */
export class InfinityRun implements PictureRun<Float32Array, HostIndices> {
  /** The wasm core's. */
  readonly kernels: HostKernels;
  readonly #transformer: InfinityTransformer;
  readonly #images: number;
  readonly #filled: Int32Array; // cache tokens written so far, a chunk
  readonly #last1M: Grid;
  #rows: Row[];
  #rope: (RopeTable & { grid: Grid }) | undefined; // of the scale at hand
  #modulations: readonly Float32Array[]; // of every block, [R, 6, C]
  #head: Float32Array;

  /**
   * Starts a picture: allocates the cache for all the tokens that will be executed.
   *
   * @param texts one encoded text a row, conditional rows first
   * @throws {DeviceError} when the cache does not fit in memory
   */
  constructor(transformer: InfinityTransformer, texts: readonly EncodedText[], request: RunRequest) {
    const { capacity, last1M, images } = request;
    this.kernels = new HostKernels(request.dims, request);
    this.#images = images;
    const { width, depth, chunks } = transformer.weights.dims;
    this.#transformer = transformer;
    this.#filled = new Int32Array(chunks);
    this.#last1M = last1M;
    const cache = allocateCache({ rows: texts.length, depth, width, capacity });
    this.#rows = texts.map((text, row) => ({ text, ...cache[row]! }));
    this.#modulations = modulationsOf(this.#rows);
    this.#head = concatenate(texts.map(({ head }) => head));
  }

  /** Rows R that the next scale runs. */
  get rows(): number {
    return this.#rows.length;
  }

  /** Cuts the batch to some rows, for good: their caches, texts and conditions stay, the others' memory goes. */
  keepRows(from: number, to: number): void {
    releaseCache(this.#rows.filter((_, row) => row < from || row >= to));
    this.#rows = this.#rows.slice(from, to);
    this.#modulations = modulationsOf(this.#rows);
    this.#head = concatenate(this.#rows.map(({ text }) => text.head));
  }

  /** Does not wait for the garbage collector. */
  freeCache(): void {
    releaseCache(this.#rows);
    this.#rows = [];
  }

  /** Frees the cache. */
  [Symbol.dispose](): void {
    this.freeCache();
  }

  /** Tokens of scale 0, [R, 1, C]. */
  start(): Float32Array {
    return concatenate(this.#rows.map(({ text }) => text.start));
  }

  /** Tokens of a later scale: u [B, L, d_tok] -> [R, L, C]. */
  async embed(u: Float32Array, scale: number, signal?: AbortSignal): Promise<Float32Array> {
    const { width, tokenDim } = this.#transformer.weights.dims;
    const tokens = u.length / tokenDim; // of all images
    const x = new Float32Array(tokens * width);
    const session = await this.#transformer.embedding();
    await session.run(
      { u: floatTensor(u, [tokens, tokenDim]), scale: intTensor([scale], [1]) },
      { x: floatTensor(x, [1, tokens, width]) },
      signal,
    );
    return this.rows === this.#images ? x : concatenate([x, x]);
  }

  /**
   * Runs the blocks of one chunk; their keys and values join the cache.
   *
   * @param x [R, L, C]; overwritten with the result, which is also returned
   * @param grid of the scale, whose RoPE table places the tokens
   * @param positions token of the grid that each of the L rows sits at, a batch row; by default the first L of the table
   */
  async chunk(
    chunk: number,
    x: Float32Array,
    grid: Grid,
    positions?: HostIndices,
    signal?: AbortSignal,
  ): Promise<Float32Array> {
    const { width: C, depth, chunks } = this.#transformer.weights.dims;
    const R = this.rows;
    const L = x.length / (R * C);
    const per = depth / chunks;
    const q = new Float32Array(R * L * C);
    const filled = this.#filled[chunk]!;
    const parts = partsOf(R, L, this.#transformer.rowsAtOnce);
    const table = this.#table(grid);
    const placed = parts.map((part) => ({ ...table, positions: placement(part, positions) }));
    const first = chunk * per;
    const links = Array.from({ length: per + 1 }, (_, link) => ({
      leave: link > 0 ? first + link - 1 : undefined,
      enter: link < per ? first + link : undefined,
    }));
    // loaded side by side: packing a session's weights takes one thread
    const { rows, from, to } = parts[0]!;
    const sessions = await Promise.all(
      links.map(({ leave, enter }) => this.#transformer.link(leave, enter, rows.length, to - from)),
    );
    for (const [link, { leave, enter }] of links.entries()) {
      for (const [index, part] of parts.entries()) {
        const inputs: Record<string, Tensor> = { x: this.#of(part, x, L) };
        const outputs: Record<string, Tensor> = {};
        if (leave !== undefined) {
          inputs.leaving = this.#modulation(part, leave);
          inputs.q = this.#of(part, q, L);
          this.#cached(part, leave, filled + L, inputs);
          outputs.x_out = inputs.x!;
        }
        if (enter !== undefined) {
          Object.assign(inputs, placed[index], { entering: this.#modulation(part, enter) });
          outputs.query = this.#of(part, q, L);
          this.#joining(part, enter, filled, outputs);
        }
        await sessions[link]!.run(inputs, outputs, signal);
      }
    }
    this.#filled[chunk] = filled + L;
    return x;
  }

  /** A part of x [R, L, C]. */
  #of({ rows, from, to }: Part, x: Float32Array, L: number): Tensor {
    const C = this.#transformer.weights.dims.width;
    const at = (row: number, token: number): number => (row * L + token) * C;
    return floatTensor(x.subarray(at(rows[0]!, from), at(rows.at(-1)!, to)), [rows.length, to - from, C]);
  }

  /** The adaLN vectors of a part's rows in one block. */
  #modulation({ rows }: Part, block: number): Tensor {
    const { width: C } = this.#transformer.weights.dims;
    const all = this.#modulations[block]!;
    return floatTensor(all.subarray(rows[0]! * 6 * C, (rows.at(-1)! + 1) * 6 * C), [rows.length, 6, C]);
  }

  /** What a part's rows attend to in one block: the first `tokens` of their caches, and their texts. */
  #cached({ rows }: Part, block: number, tokens: number, inputs: Record<string, Tensor>): void {
    const { width: C } = this.#transformer.weights.dims;
    for (const [r, row] of rows.entries()) {
      const { text, keys, values } = this.#rows[row]!;
      const cached = (buffer: Float32Array): Tensor => floatTensor(buffer.subarray(0, tokens * C), [1, tokens, C]);
      const words = (data: Float32Array): Tensor => floatTensor(data, [1, text.tokens, C]);
      inputs[`keys.${r}`] = cached(keys[block]!);
      inputs[`values.${r}`] = cached(values[block]!);
      inputs[`textKeys.${r}`] = words(text.keys[block]!);
      inputs[`textValues.${r}`] = words(text.values[block]!);
    }
  }

  /** Where the keys and values of a part join the caches of one block, which hold `filled` tokens. */
  #joining({ rows, from, to }: Part, block: number, filled: number, outputs: Record<string, Tensor>): void {
    const { width: C } = this.#transformer.weights.dims;
    for (const [r, row] of rows.entries()) {
      const { keys, values } = this.#rows[row]!;
      const next = (buffer: Float32Array): Tensor =>
        floatTensor(buffer.subarray((filled + from) * C, (filled + to) * C), [1, to - from, C]);
      outputs[`key.${r}`] = next(keys[block]!);
      outputs[`value.${r}`] = next(values[block]!);
    }
  }

  /** Rotation tables `cos` and `sin` of a grid, [M, hd/2]. */
  #table(grid: Grid): { cos: Tensor; sin: Tensor } {
    const { width, heads } = this.#transformer.weights.dims;
    if (this.#rope?.grid !== grid) this.#rope = { grid, ...ropeTable(grid, this.#last1M, width / heads) };
    const { cos, sin, rows: tokens, pairs } = this.#rope;
    return { cos: floatTensor(cos, [tokens, pairs]), sin: floatTensor(sin, [tokens, pairs]) };
  }

  /** Logits of every bit, class 1 minus class 0, [R, L, d_tok]. */
  async logits(x: Float32Array, signal?: AbortSignal): Promise<Float32Array> {
    const { width: C, tokenDim } = this.#transformer.weights.dims;
    const R = this.rows;
    const L = x.length / (R * C);
    const logits = new Float32Array(R * L * tokenDim);
    const session = await this.#transformer.head();
    await session.run(
      { x: floatTensor(x, [R, L, C]), head: floatTensor(this.#head, [R, 2, C]) },
      { logits: floatTensor(logits, [R, L, tokenDim]) },
      signal,
    );
    return logits;
  }
}

/** Token of the grid that each token of a part sits at, [rows, to - from]; or the first one's, which the others follow. */
function placement({ rows, from, to }: Part, positions?: HostIndices): Tensor {
  if (!positions) return intTensor([from], [1]);
  return intTensor(rows.flatMap((row) => [...positions[row]!.subarray(from, to)]), [rows.length, to - from]);
}

function modulationsOf(rows: readonly Row[]): Float32Array[] {
  const count = rows[0]?.text.modulations.length ?? 0;
  return Array.from({ length: count }, (_, block) => concatenate(rows.map(({ text }) => text.modulations[block]!)));
}
