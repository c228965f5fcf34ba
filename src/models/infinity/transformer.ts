/**
 * An Infinity transformer loaded on a runtime: its text, and the sessions that pictures run on (run.ts, device_run.ts).
 *
 * @module
 */
import { readTensor } from "../../checkpoint/source.ts";
import {
  type DeviceSession,
  floatTensor,
  type Residency,
  residencyOf,
  type Runtime,
  type Session,
  type Tensor,
} from "../../runtime/runtime.ts";
import { FEW_ROWS, Graph, type GraphForm, type RowCount } from "../../graph/graph.ts";
import type { FoldedWeights } from "./block.ts";
import { chunkGraph, embedGraph, headGraph, linkGraph, textGraph } from "./graphs.ts";
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

  /** Whether keys and values can stay on the device: then {@linkcode chunkSession} runs a chunk at a time. */
  get keepsTensors(): boolean {
    return this.#runtime.createDeviceSession !== undefined && !this.#quantised;
  }

  /** The session of a whole chunk on a device (see {@linkcode chunkGraph}), created on first use. */
  chunkSession(chunk: number, rows: number): Promise<DeviceSession> {
    const graph = (): Graph => chunkGraph(this.weights, this.#folded, chunk, rows, this.#form("many"));
    return this.#deviceSession(`chunk ${chunk} ${rows}`, graph);
  }

  /** A session that copies `x` [1, T, C] from the host to `y` on the device. */
  uploadSession(): Promise<DeviceSession> {
    return this.#deviceSession("upload", () => {
      const graph = new Graph("upload");
      const { width } = this.weights.dims;
      graph.output("y", graph.input("x", "F32", [1, "T", width]), "F32", [1, "T", width]);
      return graph;
    });
  }

  #deviceSession(key: string, graph: () => Graph): Promise<DeviceSession> {
    let session = this.#sessions.get(key) as Promise<DeviceSession> | undefined;
    if (!session) {
      session = this.#runtime.createDeviceSession!(graph());
      this.#sessions.set(key, session);
    }
    return session;
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
