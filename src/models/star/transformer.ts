/**
 * A STAR transformer loaded on a runtime: its text, and the sessions that pictures run on (run.ts).
 *
 * @module
 */
import { readTensor } from "../../checkpoint/source.ts";
import type { GraphForm, RowCount } from "../../graph/form.ts";
import { ROWS_AT_ONCE } from "../parts.ts";
import type { Graph } from "../../graph/graph.ts";
import {
  floatTensor,
  type Residency,
  residencyOf,
  type Runtime,
  type Session,
  type Tensor,
} from "../../runtime/runtime.ts";
import { rowCountOf, Sessions } from "../../runtime/sessions.ts";
import {
  starEmbedGraph,
  starHeadGraph,
  starLinkGraph,
  type StarRows,
  type StarTemperatures,
  starTextGraph,
} from "./graphs.ts";
import type { StarWeights } from "./weights.ts";

/** What the blocks read of a prompt. */
export interface StarText {
  /** Text tokens T. */
  readonly tokens: number;
  /** Token of scale 0, level embedding added, [1, 1, C]. */
  readonly start: Float32Array;
  /** Cross-attention keys of every block, of unit length, [1, T, C] each. */
  readonly keys: readonly Float32Array[];
  /** Cross-attention values of every block, [1, T, C] each. */
  readonly values: readonly Float32Array[];
}

/** Features of a prompt: last hidden states [T, Dt], and the one of its end [Dt] (star.md §4). */
export interface StarFeatures {
  /** Of every token. */
  readonly features: Float32Array;
  /** Of the last one. */
  readonly pooled: Float32Array;
}

/** How a transformer is loaded. */
export interface StarTransformerOptions {
  /** Where weights live. Default: packed where the model is small, else mapped. */
  readonly residency?: Residency | undefined;
  /** Rows that go through the blocks together. Default: 1024 on the CPU where weights are mapped, else all. */
  readonly rowsAtOnce?: number | undefined;
}

/** The transformer of one model, loaded on one runtime. */
export class StarTransformer implements Disposable {
  /** Weights and dimensions. */
  readonly weights: StarWeights;
  /** Rows that go through the blocks together. */
  readonly rowsAtOnce: number;
  readonly #runtime: Runtime;
  readonly #temperatures: StarTemperatures;
  readonly #residency: Residency;
  readonly #sessions = new Sessions();

  private constructor(
    weights: StarWeights,
    runtime: Runtime,
    temperatures: StarTemperatures,
    { residency, rowsAtOnce }: StarTransformerOptions,
  ) {
    this.weights = weights;
    this.#runtime = runtime;
    this.#temperatures = temperatures;
    const all = [...Object.values(weights.outer), ...weights.blocks.flatMap((block) => Object.values(block))];
    this.#residency = residency ?? residencyOf(all);
    const inParts = runtime.device === "cpu" && this.#residency === "mapped";
    this.rowsAtOnce = rowsAtOnce ?? (inParts ? ROWS_AT_ONCE : Infinity);
  }

  /** Reads the few weights that are folded into graphs; sessions are created when they are first used. */
  static async open(
    weights: StarWeights,
    runtime: Runtime,
    options: StarTransformerOptions = {},
  ): Promise<StarTransformer> {
    const read = (part: string): Promise<Float32Array[]> =>
      Promise.all(
        weights.blocks.map(async (block) =>
          (await readTensor(block[`${part}.scale_mul_1H11`]!)).map((log) => Math.exp(Math.min(log, Math.log(100))))
        ),
      );
    return new StarTransformer(
      weights,
      runtime,
      { self: await read("attn"), cross: await read("cross_attn") },
      options,
    );
  }

  /** Encodes one prompt: features [T, Dt] and the pooled one [Dt]. */
  async encodeText({ features, pooled }: StarFeatures, signal?: AbortSignal): Promise<StarText> {
    const { width: C, depth, textDim } = this.weights.dims;
    const tokens = features.length / textDim;
    const count = this.#rowCount(tokens);
    const session = await this.#session(`text ${count}`, () => starTextGraph(this.weights, this.#form(count)));
    const outputs: Record<string, Tensor> = {};
    const make = (name: string, dims: readonly number[]): Float32Array => {
      const data = new Float32Array(dims.reduce((product, dim) => product * dim));
      outputs[name] = floatTensor(data, dims);
      return data;
    };
    const layers = (name: string): Float32Array[] =>
      Array.from({ length: depth }, (_, l) => make(`${name}.${l}`, [1, tokens, C]));
    const text = { tokens, start: make("start", [1, 1, C]), keys: layers("key"), values: layers("value") };
    const inputs = { features: floatTensor(features, [tokens, textDim]), pooled: floatTensor(pooled, [1, textDim]) };
    await session.run(inputs, outputs, signal);
    return text;
  }

  /** The session of a link (see {@linkcode starLinkGraph}) for some tokens a row, created on first use. */
  link(leave: number | undefined, enter: number | undefined, rows: StarRows, tokens: number): Promise<Session> {
    const count = this.#rowCount(rows.rows * tokens);
    if (count === "many") this.#sessions.release("few"); // scales only grow; two maps of a weight would count twice
    return this.#session(
      `link ${leave} ${enter} ${rows.rows} of ${rows.images} ${count}`,
      () => starLinkGraph(this.weights, this.#temperatures, { leave, enter }, rows, this.#form(count)),
    );
  }

  /** The word-embedding session. */
  embedding(): Promise<Session> {
    return this.#session("embed", () => starEmbedGraph(this.weights));
  }

  /** The head session for some rows. */
  head(rows: number): Promise<Session> {
    const count = this.#rowCount(rows);
    return this.#session(`head ${count}`, () => starHeadGraph(this.weights, this.#form(count)));
  }

  /** A session of the run's own, released with the others. */
  session(key: string, graph: () => Graph): Promise<Session> {
    return this.#session(key, graph);
  }

  /** Releases every session. */
  [Symbol.dispose](): void {
    this.#sessions[Symbol.dispose]();
  }

  #form(rows: RowCount): GraphForm {
    const { attention } = this.#runtime.form;
    return { rows, attention };
  }

  #rowCount(rows: number): RowCount {
    return rowCountOf(this.#runtime, this.#residency, rows);
  }

  #session(key: string, graph: () => Graph): Promise<Session> {
    return this.#sessions.get(key, () => this.#runtime.createSession(graph(), this.#residency));
  }
}
