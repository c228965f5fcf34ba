/**
 * Runs an Infinity transformer scale by scale: sessions, key/value buffers, and nothing of methods or sampling.
 *
 * Letters: R rows (conditional ones first, null ones last), L tokens of a scale, C width, T tokens in the cache.
 *
 * @module
 */
import { readTensor } from "../../checkpoint/source.ts";
import { DeviceError } from "../../errors.ts";
import type { Grid } from "../../schedule.ts";
import { availableMemory } from "../../runtime/available_memory.ts";
import { type RopeTable, ropeTable } from "./rope.ts";
import {
  floatTensor,
  intTensor,
  type Residency,
  residencyOf,
  type Runtime,
  type Session,
  type Tensor,
} from "../../runtime/runtime.ts";
import { FEW_ROWS, type Graph, type GraphForm, type RowCount } from "../../graph/graph.ts";
import { embedGraph, type FoldedWeights, headGraph, linkGraph, textGraph } from "./graphs.ts";
import type { QuantisedLookup } from "./quantised.ts";
import type { InfinityWeights } from "./weights.ts";

/** Keys and values of a text for every block's cross attention, and what the pooled text conditions. */
export interface EncodedText {
  /** Text tokens T. */
  readonly tokens: number;
  /** Pooled text, [C]. */
  readonly cond: Float32Array;
  /** Token of scale 0, level embedding added, [C]. */
  readonly start: Float32Array;
  /** Shared adaLN vectors, [6C]. */
  readonly ada: Float32Array;
  /** Scale and shift of the head, [2C]. */
  readonly head: Float32Array;
  /** Cross-attention text, [T, C]. */
  readonly ctx: Float32Array;
  /** Cross-attention keys of every block, [T, C] each. */
  readonly keys: readonly Float32Array[];
  /** Cross-attention values of every block, [T, C] each. */
  readonly values: readonly Float32Array[];
}

/** How a transformer is loaded. */
export interface TransformerOptions {
  /** Copies of the blocks' linear weights to run in integer arithmetic. */
  readonly quantised?: QuantisedLookup | undefined;
  /** Where weights live. Default: packed where the model is small or runs on copies, else mapped. */
  readonly residency?: Residency | undefined;
}

/** The transformer of one model, loaded on one runtime. */
export class InfinityTransformer implements Disposable {
  /** Weights and dimensions. */
  readonly weights: InfinityWeights;
  readonly #runtime: Runtime;
  readonly #folded: FoldedWeights;
  readonly #quantised: QuantisedLookup | undefined;
  readonly #residency: Residency;
  readonly #blockResidency: Residency; // integer products want their copies packed: mapped, few rows take four times as long
  readonly #sessions = new Map<string, Promise<Session>>();
  #packedRows: number | undefined; // the row count whose links hold packed copies

  private constructor(
    weights: InfinityWeights,
    runtime: Runtime,
    folded: FoldedWeights,
    { quantised, residency }: TransformerOptions,
  ) {
    this.weights = weights;
    this.#runtime = runtime;
    this.#folded = folded;
    this.#quantised = quantised;
    const all = [...Object.values(weights.outer), ...weights.blocks.flatMap((block) => Object.values(block))];
    const elements = all.reduce((sum, { shape }) => sum + shape.reduce((size, n) => size * n, 1), 0);
    this.#residency = residency ?? residencyOf(elements);
    this.#blockResidency = residency ?? (quantised ? "packed" : this.#residency);
  }

  /** Reads the few weights that are folded into graphs; sessions are created when they are first used. */
  static async open(
    weights: InfinityWeights,
    runtime: Runtime,
    options: TransformerOptions = {},
  ): Promise<InfinityTransformer> {
    const temperatures = await Promise.all(
      weights.blocks.map(async (block) =>
        (await readTensor(block["sa.scale_mul_1H11"]!)).map((log) => Math.exp(Math.min(log, Math.log(100))))
      ),
    );
    const { width, tokenDim } = weights.dims;
    const pairWeight = await readTensor(weights.outer["head.weight"]!);
    const pairBias = await readTensor(weights.outer["head.bias"]!);
    const headWeight = new Float32Array(tokenDim * width);
    for (let bit = 0; bit < tokenDim; bit++) {
      for (let c = 0; c < width; c++) {
        headWeight[bit * width + c] = pairWeight[(2 * bit + 1) * width + c]! - pairWeight[2 * bit * width + c]!;
      }
    }
    const headBias = Float32Array.from({ length: tokenDim }, (_, bit) => pairBias[2 * bit + 1]! - pairBias[2 * bit]!);
    return new InfinityTransformer(weights, runtime, { temperatures, headWeight, headBias }, options);
  }

  /** Encodes one text segment: T5 features, or rows of the null prompt, [T, Dt]. */
  async encodeText(features: Float32Array, signal?: AbortSignal): Promise<EncodedText> {
    const { textDim, width: C, depth } = this.weights.dims;
    const tokens = features.length / textDim;
    const count = this.#rowCount(tokens);
    const session = await this.#session(`text ${count}`, () => textGraph(this.weights, this.#form(count)));
    const outputs: Record<string, Tensor> = {};
    const take = (name: string, rows: number, columns: number): Float32Array => {
      const data = new Float32Array(rows * columns);
      outputs[name] = floatTensor(data, [rows, columns]);
      return data;
    };
    const encoded = {
      tokens,
      cond: take("cond", 1, C),
      start: take("start", 1, C),
      ada: take("ada", 1, 6 * C),
      head: take("head", 1, 2 * C),
      ctx: take("ctx", tokens, C),
      keys: Array.from({ length: depth }, (_, layer) => take(`key.${layer}`, tokens, C)),
      values: Array.from({ length: depth }, (_, layer) => take(`value.${layer}`, tokens, C)),
    };
    await session.run({ features: floatTensor(features, [tokens, textDim]) }, outputs, signal);
    return encoded;
  }

  /** The learned null prompt's first rows, [tokens, Dt] (§2.3). */
  async nullFeatures(tokens: number): Promise<Float32Array> {
    const { textDim } = this.weights.dims;
    const all = await readTensor(this.weights.outer["cfg_uncond"]!);
    return all.slice(0, tokens * textDim);
  }

  /**
   * Starts a picture: allocates the cache for all the tokens that will be executed.
   *
   * @param texts one encoded text a row, conditional rows first
   * @param capacity tokens each chunk will execute over all scales, [chunks]
   * @param last1M last grid of the 1M schedule of this aspect ratio, which positions are stretched to (§3.4)
   * @throws {DeviceError} when the cache does not fit in memory
   */
  begin(texts: readonly EncodedText[], capacity: readonly number[], last1M: Grid): InfinityRun {
    return new InfinityRun(this, texts, capacity, last1M);
  }

  /** The session of a link (see {@linkcode linkGraph}) for some tokens a row, created on first use. */
  link(leave: number | undefined, enter: number | undefined, rows: number, tokens: number): Promise<Session> {
    const count = this.#quantised ? "many" : this.#rowCount(rows * tokens);
    if (count === "many") this.#release("few"); // scales only grow; two maps of a weight would count twice
    // Graphs of another row count (the null row alone, at the end of a picture) would pack all copies a second time:
    // mapped, a reduced scale runs half a second longer, and packing takes two.
    this.#packedRows ??= rows;
    const residency = this.#quantised && rows !== this.#packedRows ? "mapped" : this.#blockResidency;
    return this.#session(
      `link ${leave} ${enter} ${rows} ${count}`,
      () => linkGraph(this.weights, this.#folded, leave, enter, rows, this.#form(count), this.#quantised),
      residency,
    );
  }

  #form(rows: RowCount): GraphForm {
    return { rows, attention: this.#runtime.attention };
  }

  #rowCount(rows: number): RowCount {
    return this.#runtime.device === "cpu" && this.#residency === "mapped" && rows <= FEW_ROWS ? "few" : "many";
  }

  /** The word-embedding session. */
  embedding(): Promise<Session> {
    return this.#session("embed", () => embedGraph(this.weights));
  }

  /** The head session. */
  head(): Promise<Session> {
    return this.#session("head", () => headGraph(this.weights, this.#folded));
  }

  /** Releases every session. */
  [Symbol.dispose](): void {
    this.#release();
  }

  /** Releases the sessions whose key ends so; all of them by default. */
  #release(ending = ""): void {
    for (const [key, session] of this.#sessions) {
      if (!key.endsWith(ending)) continue;
      session.then((open) => open[Symbol.dispose](), () => {});
      this.#sessions.delete(key);
    }
  }

  #session(key: string, graph: () => Graph, residency: Residency = this.#residency): Promise<Session> {
    let session = this.#sessions.get(key);
    if (!session) {
      session = this.#runtime.createSession(graph(), residency);
      this.#sessions.set(key, session);
    }
    return session;
  }
}

/** One batch row of the cache: its text, and a buffer of keys and of values a block. */
interface Row {
  readonly text: EncodedText;
  readonly keys: readonly Float32Array[];
  readonly values: readonly Float32Array[];
}

/** The state of one batch of pictures between scales. */
export class InfinityRun implements Disposable {
  readonly #transformer: InfinityTransformer;
  readonly #filled: Int32Array; // cache tokens written so far, a chunk
  readonly #last1M: Grid;
  #rows: Row[];
  #rope: (RopeTable & { grid: Grid }) | undefined; // of the scale at hand
  #ada: Float32Array;
  #head: Float32Array;

  /** Use {@linkcode InfinityTransformer.begin}. */
  constructor(
    transformer: InfinityTransformer,
    texts: readonly EncodedText[],
    capacity: readonly number[],
    last1M: Grid,
  ) {
    const { width, depth, chunks } = transformer.weights.dims;
    this.#transformer = transformer;
    this.#filled = new Int32Array(chunks);
    this.#last1M = last1M;
    const bytes = capacity.reduce((sum, tokens) => sum + tokens, 0) * (depth / chunks) * width * 2 * texts.length * 4;
    const refuse = (why: string, cause?: unknown): DeviceError =>
      new DeviceError(`Cannot allocate ${gibibytes(bytes)} for keys and values${why}`, {
        cause,
        hint: "Take a smaller --pixels or --batch, or --method stagevar, which keeps fewer; or raise the memory limit",
      });
    // Fresh memory is only promised until it is written: without this look the system would kill the process minutes later.
    const available = availableMemory();
    if (bytes > available) throw refuse(`: ${gibibytes(available)} of memory are available`);
    try {
      this.#rows = texts.map((text) => {
        const buffers = (): Float32Array[] =>
          Array.from({ length: depth }, (_, l) => new Float32Array(capacity[Math.floor(l * chunks / depth)]! * width));
        return { text, keys: buffers(), values: buffers() };
      });
    } catch (cause) {
      throw refuse("", cause);
    }
    this.#ada = concatenate(texts.map(({ ada }) => ada));
    this.#head = concatenate(texts.map(({ head }) => head));
  }

  /** Rows R that the next scale runs. */
  get rows(): number {
    return this.#rows.length;
  }

  /** Cuts the batch to some rows, for good: their caches, texts and conditions stay, the others' memory goes. */
  keepRows(from: number, to: number): void {
    release(this.#rows.filter((_, row) => row < from || row >= to));
    this.#rows = this.#rows.slice(from, to);
    this.#ada = concatenate(this.#rows.map(({ text }) => text.ada));
    this.#head = concatenate(this.#rows.map(({ text }) => text.head));
  }

  /** Frees the cache at once, without waiting for the garbage collector: it can be gigabytes. */
  [Symbol.dispose](): void {
    release(this.#rows);
    this.#rows = [];
  }

  /** Tokens of scale 0, [R, 1, C]. */
  start(): Float32Array {
    return concatenate(this.#rows.map(({ text }) => text.start));
  }

  /** Tokens of a later scale from the running latent at its grid: u [L, d_tok] -> [L, C], the same for every row. */
  async embed(u: Float32Array, scale: number, signal?: AbortSignal): Promise<Float32Array> {
    const { width, tokenDim } = this.#transformer.weights.dims;
    const tokens = u.length / tokenDim;
    const x = new Float32Array(tokens * width);
    const session = await this.#transformer.embedding();
    await session.run(
      { u: floatTensor(u, [tokens, tokenDim]), scale: intTensor([scale], [1]) },
      { x: floatTensor(x, [tokens, width]) },
      signal,
    );
    return x;
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
    positions?: readonly ArrayLike<number>[],
    signal?: AbortSignal,
  ): Promise<Float32Array> {
    const { width: C, depth, chunks, heads } = this.#transformer.weights.dims;
    const R = this.rows;
    const L = x.length / (R * C);
    const per = depth / chunks;
    const past = this.#filled[chunk]!;
    const shape = [R, L, C];
    const q = new Float32Array(R * L * C);
    const ada = floatTensor(this.#ada, [R, 6 * C]);
    const rope = this.#table(grid, C / heads);
    const cos = floatTensor(rope.cos, [rope.rows, rope.pairs]);
    const sin = floatTensor(rope.sin, [rope.rows, rope.pairs]);
    const places = Array.from({ length: R }, (_, r) => Array.from({ length: L }, (_, i) => positions?.[r]?.[i] ?? i));
    const placed = intTensor(places.flat(), [R, L]);
    const first = chunk * per;
    const links = Array.from({ length: per + 1 }, (_, link) => ({
      leave: link > 0 ? first + link - 1 : undefined,
      enter: link < per ? first + link : undefined,
    }));
    // loaded side by side: packing a session's weights takes one thread
    const sessions = await Promise.all(links.map(({ leave, enter }) => this.#transformer.link(leave, enter, R, L)));
    for (const [link, { leave, enter }] of links.entries()) {
      const inputs: Record<string, Tensor> = { x: floatTensor(x, shape), ada };
      const outputs: Record<string, Tensor> = {};
      if (leave !== undefined) {
        inputs.q = floatTensor(q, shape);
        this.#rows.forEach(({ text, keys, values }, r) => {
          const cached = (buffer: Float32Array): Tensor =>
            floatTensor(buffer.subarray(0, (past + L) * C), [1, past + L, C]);
          const words = (data: Float32Array): Tensor => floatTensor(data, [1, text.tokens, C]);
          inputs[`keys.${r}`] = cached(keys[leave]!);
          inputs[`values.${r}`] = cached(values[leave]!);
          inputs[`textKeys.${r}`] = words(text.keys[leave]!);
          inputs[`textValues.${r}`] = words(text.values[leave]!);
        });
        outputs.x_out = floatTensor(x, shape);
      }
      if (enter !== undefined) {
        inputs.positions = placed;
        inputs.cos = cos;
        inputs.sin = sin;
        outputs.query = floatTensor(q, shape);
        this.#rows.forEach(({ keys, values }, r) => {
          const next = (buffer: Float32Array): Tensor =>
            floatTensor(buffer.subarray(past * C, (past + L) * C), [1, L, C]);
          outputs[`key.${r}`] = next(keys[enter]!);
          outputs[`value.${r}`] = next(values[enter]!);
        });
      }
      await sessions[link]!.run(inputs, outputs, signal);
    }
    this.#filled[chunk] = past + L;
    return x;
  }

  #table(grid: Grid, headDim: number): RopeTable {
    if (this.#rope?.grid !== grid) this.#rope = { grid, ...ropeTable(grid, this.#last1M, headDim) };
    return this.#rope;
  }

  /** Logits of every bit, class 1 minus class 0, [R, L, d_tok]. */
  async logits(x: Float32Array, signal?: AbortSignal): Promise<Float32Array> {
    const { width: C, tokenDim } = this.#transformer.weights.dims;
    const R = this.rows;
    const L = x.length / (R * C);
    const logits = new Float32Array(R * L * tokenDim);
    const session = await this.#transformer.head();
    await session.run(
      { x: floatTensor(x, [R, L, C]), head: floatTensor(this.#head, [R, 2 * C]) },
      { logits: floatTensor(logits, [R, L, tokenDim]) },
      signal,
    );
    return logits;
  }
}

function gibibytes(bytes: number): string {
  return `${(bytes / 2 ** 30).toFixed(1)} GiB`;
}

/** Detaching an ArrayBuffer gives its memory back. */
function release(rows: readonly Row[]): void {
  for (const { keys, values } of rows) {
    for (const { buffer } of [...keys, ...values]) (buffer as ArrayBuffer).transfer(0);
  }
}

function concatenate(parts: readonly Float32Array[]): Float32Array {
  const all = new Float32Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    all.set(part, at);
    at += part.length;
  }
  return all;
}
