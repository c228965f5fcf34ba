/**
 * An Infinity transformer loaded on a runtime: its text, and the sessions that pictures run on (run.ts, device_run.ts).
 *
 * @module
 */
import { readTensor } from "../../checkpoint/source.ts";
import {
  type DeviceSession,
  type DeviceTensor,
  floatTensor,
  type Residency,
  residencyOf,
  type Runtime,
  type Session,
  type Tensor,
} from "../../runtime/runtime.ts";
import { rowCountOf, Sessions } from "../../runtime/sessions.ts";
import type { GraphForm, RowCount } from "../../graph/form.ts";
import { ROWS_AT_ONCE } from "../parts.ts";
import type { Graph } from "../../graph/graph.ts";
import { DeviceMemory } from "../../runtime/device_memory.ts";
import type { FoldedWeights } from "./block.ts";
import { fitsFused } from "./fused_block.ts";
import { chunkGraph, embedGraph, headGraph, joinGraph, linkGraph, tableElement, textGraph } from "./graphs.ts";
import type { QuantisedLookup } from "./quantised.ts";
import type { Grid } from "../../schedule.ts";
import { ropeTable } from "./rope.ts";
import { fusedTextGraph } from "./text_fused.ts";
import type { InfinityWeights } from "./weights.ts";

/** Tokens of null texts, all lengths together, that stay on a device: a token is a quarter of a megabyte of a 2B model. */
const KEPT_NULL_TOKENS = 1024;

/** Keys and values of a text for every block's cross attention, and what the pooled text conditions. */
export interface EncodedText<T = Float32Array> {
  /** Text tokens T. */
  readonly tokens: number;
  /** Pooled text, [1, C]. */
  readonly cond: T;
  /** Token of scale 0, level embedding added, [1, 1, C]. */
  readonly start: T;
  /** Scale, 1 added, and shift of the head, [1, 2, C]. */
  readonly head: T;
  /** Cross-attention text, [T, C]. */
  readonly ctx: T;
  /** The six adaLN vectors of every block, [1, 6, C] each; 1 added to both scales. */
  readonly modulations: readonly T[];
  /** Cross-attention keys of every block, [1, T, C] each. */
  readonly keys: readonly T[];
  /** Cross-attention values of every block, [1, T, C] each. */
  readonly values: readonly T[];
}

/** How a transformer is loaded. */
export interface TransformerOptions {
  /** Copies of the blocks' linear weights to run in integer arithmetic. */
  readonly quantised?: QuantisedLookup | undefined;
  /** Products of the blocks in half precision, and the cache with them; for runtimes that keep tensors. */
  readonly half?: boolean | undefined;
  /** Where weights live. Default: packed where the model is small or runs on copies, else mapped. */
  readonly residency?: Residency | undefined;
  /** Rows that go through the blocks together in host memory. Default: 1024 on the CPU where float32 weights are mapped, else all. */
  readonly rowsAtOnce?: number | undefined;
}

/** The transformer of one model, loaded on one runtime. */
export class InfinityTransformer implements Disposable {
  /** Weights and dimensions. */
  readonly weights: InfinityWeights;
  /** Rows that go through the blocks together in host memory. */
  readonly rowsAtOnce: number;
  readonly #runtime: Runtime;
  readonly #folded: FoldedWeights;
  readonly #quantised: QuantisedLookup | undefined;
  readonly #half: boolean;
  readonly #residency: Residency;
  readonly #blockResidency: Residency; // integer products want their copies packed: mapped, few rows take four times as long
  readonly #sessions = new Sessions();
  readonly #there = new Sessions<DeviceSession>(); // on a device's tensors
  readonly #nullFeatures = new Map<number, Promise<Float32Array>>(); // by tokens
  readonly #nullTexts = new Map<Float32Array, Promise<EncodedText<DeviceTensor>>>(); // by their features
  #nullMemory: DeviceMemory | undefined; // which they lie in
  readonly #rotations = new Map<string, readonly [Tensor, Tensor]>();
  #packedRows: number | undefined; // the row count whose links hold packed copies

  private constructor(
    weights: InfinityWeights,
    runtime: Runtime,
    folded: FoldedWeights,
    { quantised, half, residency, rowsAtOnce }: TransformerOptions,
  ) {
    this.weights = weights;
    this.#runtime = runtime;
    this.#folded = folded;
    this.#quantised = quantised;
    this.#half = half ?? false;
    const all = [...Object.values(weights.outer), ...weights.blocks.flatMap((block) => Object.values(block))];
    this.#residency = residency ?? residencyOf(all);
    this.#blockResidency = residency ?? (quantised ? "packed" : this.#residency);
    const inParts = runtime.device === "cpu" && this.#residency === "mapped" && !quantised;
    this.rowsAtOnce = rowsAtOnce ?? (inParts ? ROWS_AT_ONCE : Infinity);
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
        headWeight[c * tokenDim + bit] = pairWeight[(2 * bit + 1) * width + c]! - pairWeight[2 * bit * width + c]!;
      }
    }
    const headBias = Float32Array.from({ length: tokenDim }, (_, bit) => pairBias[2 * bit + 1]! - pairBias[2 * bit]!);
    return new InfinityTransformer(weights, runtime, { temperatures, headWeight, headBias }, options);
  }

  /** Encodes one text segment: T5 features, or rows of the null prompt, [T, Dt]. */
  async encodeText(features: Float32Array, signal?: AbortSignal): Promise<EncodedText> {
    const tokens = features.length / this.weights.dims.textDim;
    const count = this.#rowCount(tokens);
    const session = await this.#session(
      `text ${count}`,
      () => textGraph(this.weights, { ...this.#form(count), half: undefined }),
    );
    const outputs: Record<string, Tensor> = {};
    const encoded = this.#textOutputs(tokens, (name, dims) => {
      const data = new Float32Array(dims.reduce((product, dim) => product * dim));
      outputs[name] = floatTensor(data, dims);
      return data;
    });
    await session.run(this.#textInput(features, tokens), outputs, signal);
    return encoded;
  }

  /**
   * The same in a device's memory. A null text, of {@linkcode InfinityTransformer.nullFeatures}, is encoded once and stays there with
   * this object, whatever is done to it by way of `memory`.
   */
  async encodeTextThere(
    features: Float32Array,
    memory: DeviceMemory,
    signal?: AbortSignal,
  ): Promise<EncodedText<DeviceTensor>> {
    const nul = this.#nullTexts.get(features);
    if (nul) return await nul;
    const tokens = features.length / this.weights.dims.textDim;
    const lengths = [...this.#nullFeatures.keys()];
    const kept = await this.#nullFeatures.get(tokens) === features &&
      lengths.reduce((sum, length) => sum + length) <= KEPT_NULL_TOKENS;
    if (!kept) return await this.#encodeIn(memory, features, signal);
    const encoded = this.#encodeIn(this.#nullMemory ??= this.deviceMemory(), features, signal);
    this.#nullTexts.set(features, encoded);
    encoded.catch(() => this.#nullTexts.delete(features)); // or the next picture would fail as well
    return await encoded;
  }

  async #encodeIn(
    memory: DeviceMemory,
    features: Float32Array,
    signal?: AbortSignal,
  ): Promise<EncodedText<DeviceTensor>> {
    const tokens = features.length / this.weights.dims.textDim;
    const shapes: Record<string, readonly number[]> = {};
    const names = this.#textOutputs(tokens, (name, dims) => (shapes[name] = dims, name));
    const graph = (): Graph => this.form.fused ? fusedTextGraph(this.weights) : textGraph(this.weights, this.form);
    const made = await memory.run("text", graph, this.#textInput(features, tokens), shapes, { signal, repeated: true });
    const tensor = (name: string): DeviceTensor => made[name]!;
    const { cond, start, head, ctx } = names;
    return {
      tokens,
      ...{ cond: tensor(cond), start: tensor(start), head: tensor(head), ctx: tensor(ctx) },
      modulations: names.modulations.map(tensor),
      keys: names.keys.map(tensor),
      values: names.values.map(tensor),
    };
  }

  /** Texts of the same length as one, a batch row for each image of each text, the first text's rows first; the parts stay. */
  async joinTexts(
    texts: readonly [EncodedText<DeviceTensor>, ...EncodedText<DeviceTensor>[]],
    images: number,
    memory: DeviceMemory,
    signal?: AbortSignal,
  ): Promise<EncodedText<DeviceTensor>> {
    const [own] = texts;
    const inputs: Record<string, DeviceTensor> = {};
    const shapes: Record<string, readonly number[]> = {};
    const add = (name: string, parts: readonly DeviceTensor[]): string => {
      parts.forEach((part, text) => inputs[`${text}.${name}`] = part);
      shapes[name] = [texts.length * images, ...parts[0]!.dims.slice(1)];
      return name;
    };
    const list = (name: string, key: "modulations" | "keys" | "values"): string[] =>
      own[key].map((_, layer) => add(`${name}.${layer}`, texts.map((text) => text[key][layer]!)));
    const names = {
      start: add("start", texts.map(({ start }) => start)),
      head: add("head", texts.map(({ head }) => head)),
      modulations: list("modulation", "modulations"),
      keys: list("key", "keys"),
      values: list("value", "values"),
    };
    const graph = (): Graph => joinGraph(this.weights.dims, this.form, texts.length, images);
    const made = await memory.run(`join ${texts.length} of ${images}`, graph, inputs, shapes, {
      signal,
      repeated: true,
    });
    const tensors = (list: readonly string[]): DeviceTensor[] => list.map((name) => made[name]!);
    return {
      tokens: own.tokens,
      cond: memory.hold(own.cond), // nothing reads them of a joined text
      ctx: memory.hold(own.ctx),
      start: made[names.start]!,
      head: made[names.head]!,
      modulations: tensors(names.modulations),
      keys: tensors(names.keys),
      values: tensors(names.values),
    };
  }

  /** Rotation tables of a grid, cosines and sines [L, hd/2], as its chunks want them; kept, being the same for every picture. */
  rotation(grid: Grid, last1M: Grid): readonly [cos: Tensor, sin: Tensor] {
    const key = `${grid.h}x${grid.w} of ${last1M.h}x${last1M.w}`;
    let tables = this.#rotations.get(key);
    if (!tables) {
      const { width, heads } = this.weights.dims;
      const { cos, sin, rows, pairs } = ropeTable(grid, last1M, width / heads);
      const dims = [rows, pairs];
      const tensor = (data: Float32Array): Tensor =>
        tableElement(this.form) === "F16"
          ? { element: "F16", data: new Float16Array(data), dims }
          : floatTensor(data, dims);
      tables = [tensor(cos), tensor(sin)];
      this.#rotations.set(key, tables);
    }
    return tables;
  }

  #textInput(features: Float32Array, tokens: number): { features: Tensor } {
    return { features: floatTensor(features, [tokens, this.weights.dims.textDim]) };
  }

  /** What the text graph gives, each output made of its name and shape. */
  #textOutputs<T>(tokens: number, make: (name: string, dims: readonly number[]) => T): EncodedText<T> {
    const { width: C, depth } = this.weights.dims;
    const layers = (name: string, rows: number): T[] =>
      Array.from({ length: depth }, (_, l) => make(`${name}.${l}`, [1, rows, C]));
    return {
      tokens,
      cond: make("cond", [1, C]),
      start: make("start", [1, 1, C]),
      head: make("head", [1, 2, C]),
      ctx: make("ctx", [tokens, C]),
      modulations: layers("modulation", 6),
      keys: layers("key", tokens),
      values: layers("value", tokens),
    };
  }

  /** The learned null prompt's first rows, [tokens, Dt] (§2.3): the same array whenever it is asked for. */
  nullFeatures(tokens: number): Promise<Float32Array> {
    let features = this.#nullFeatures.get(tokens);
    if (!features) {
      const length = tokens * this.weights.dims.textDim;
      features = readTensor(this.weights.outer["cfg_uncond"]!).then((all) => all.slice(0, length));
      this.#nullFeatures.set(tokens, features);
    }
    return features;
  }

  /** Whether tensors can stay on the device: then pictures run there whole (device_run.ts). */
  get keepsTensors(): boolean {
    return this.#runtime.createDeviceSession !== undefined && !this.#quantised;
  }

  /** Memory of the device, for one batch of pictures. */
  deviceMemory(): DeviceMemory {
    return new DeviceMemory((...session) => this.deviceSession(...session), this.#runtime);
  }

  /** Sessions of a device, by key; created on first use, and released with the others. */
  deviceSession(key: string, graph: () => Graph, repeated: boolean): Promise<DeviceSession> {
    return this.#there.get(key, () => this.#runtime.createDeviceSession!(graph(), repeated));
  }

  /** Whether all images of a batch run as one: where operators of our own do what lies between chunks (kernels/fused.ts). */
  get together(): boolean {
    return this.form.fused === true;
  }

  /** The graph of a whole chunk (see {@linkcode chunkGraph}). */
  chunkGraph(chunk: number): Graph {
    return chunkGraph(this.weights, this.#folded, chunk, this.form);
  }

  /** The graph of the head (see {@linkcode headGraph}). */
  headGraph(): Graph {
    return headGraph(this.weights, this.#folded, this.form);
  }

  /** The session of a link (see {@linkcode linkGraph}) for some tokens a row, created on first use. */
  link(leave: number | undefined, enter: number | undefined, rows: number, tokens: number): Promise<Session> {
    const count = this.#quantised ? "many" : this.#rowCount(rows * tokens);
    if (count === "many") this.#sessions.release("few"); // scales only grow; two maps of a weight would count twice
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
    const { attention, norms, half, fused } = this.#runtime.form;
    if (!this.#half) return { rows, attention, norms };
    return { rows, attention, norms, half, fused: fused && half === "block" && fitsFused(this.weights.dims) };
  }

  /** The form of its graphs for any number of rows. */
  get form(): GraphForm {
    return this.#form("many");
  }

  #rowCount(rows: number): RowCount {
    return rowCountOf(this.#runtime, this.#residency, rows);
  }

  /** The word-embedding session. */
  embedding(): Promise<Session> {
    return this.#session("embed", () => embedGraph(this.weights));
  }

  /** The head session. */
  head(): Promise<Session> {
    return this.#session("head", () => this.headGraph());
  }

  /** Releases every session. */
  [Symbol.dispose](): void {
    this.#nullMemory?.[Symbol.dispose]();
    this.#sessions[Symbol.dispose]();
    this.#there[Symbol.dispose]();
  }

  #session(key: string, graph: () => Graph, residency: Residency = this.#residency): Promise<Session> {
    return this.#sessions.get(key, () => this.#runtime.createSession(graph(), residency));
  }
}
