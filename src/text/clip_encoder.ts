/**
 * The text tower of CLIP, as STAR takes it (star.md §4): prompt tokens to features, in one run without padding.
 *
 * Knows the architecture and its checkpoint names; the tokenizer is beside it, what the features feed is the model's affair.
 *
 * @module
 */
import { join } from "node:path";
import { openCheckpoint } from "../checkpoint/open.ts";
import { type Expected, matchTensors, type TensorRef } from "../checkpoint/source.ts";
import { ModelError } from "../errors.ts";
import type { GraphForm, RowCount } from "../graph/form.ts";
import { Graph, type Value } from "../graph/graph.ts";
import { floatTensor, intTensor, type Residency, residencyOf, type Runtime, type Session } from "../runtime/runtime.ts";
import { rowCountOf, Sessions } from "../runtime/sessions.ts";

/** Activations of published towers: exact GELU (OpenCLIP, as STAR's), and x sigmoid(1.702 x) (OpenAI). */
const ACTIVATIONS = ["gelu", "quick_gelu"] as const;

/** Dimensions of a CLIP text tower, from config.json and the tensors' shapes. */
export interface ClipDims {
  /** Feature width. */
  readonly width: number;
  /** Vocabulary rows. */
  readonly vocabulary: number;
  /** Most tokens of a text, BOS and EOS included. */
  readonly positions: number;
  /** Number of blocks. */
  readonly depth: number;
  /** Attention heads. */
  readonly heads: number;
  /** Width of the feed-forward layer. */
  readonly ffn: number;
  /** Between the two feed-forward layers. */
  readonly activation: "gelu" | "quick_gelu";
  /** Epsilon of the layer norms. */
  readonly epsilon: number;
}

/** A CLIP text checkpoint that has been checked name by name. */
export interface ClipWeights {
  /** Dimensions. */
  readonly dims: ClipDims;
  /** Tensors by checkpoint name, without the prefix `text_model.` that most files give them. */
  readonly tensors: Readonly<Record<string, TensorRef>>;
}

/**
 * Checks a folder in the Hugging Face layout: config.json beside the weights (safetensors, shards or .bin). A table of
 * positions, projections and the image tower may be in them and are not read.
 *
 * @throws {ModelError} when it is no CLIP text tower, config and tensors disagree, or names are missing or misshapen
 * @example
 * ```ts
 * import { readClipWeights } from "@stagevar/stagevar/text/clip_encoder.ts";
 * import assert from "node:assert/strict";
 * const { dims } = await readClipWeights("tests/golden-star/models/mini-star/CLIP/text_encoder");
 * assert.deepEqual([dims.width, dims.depth, dims.heads, dims.positions], [64, 3, 4, 77]);
 * ```
 */
export async function readClipWeights(folder: string): Promise<ClipWeights> {
  const { heads, activation, epsilon, declared } = await readConfig(folder);
  const whole = await openCheckpoint(folder);
  const prefixed = whole.under("text_model.");
  const source = prefixed.size > 0 ? prefixed : whole;
  const extents = (name: string): readonly [number, number] => {
    const { shape: [rows, columns, ...more] } = source.get(name);
    if (rows !== undefined && columns !== undefined && more.length === 0) return [rows, columns];
    throw new ModelError(`"${name}" in "${folder}" is no matrix`, { hint: "Use a CLIP text encoder" });
  };
  const [vocabulary, width] = extents("embeddings.token_embedding.weight");
  const [positions] = extents("embeddings.position_embedding.weight");
  const [ffn] = extents("encoder.layers.0.mlp.fc1.weight");
  const depth = new Set(source.names().map((name) => /^encoder\.layers\.(\d{1,4})\./.exec(name)?.[1]).filter(Boolean))
    .size;
  const dims = { width, vocabulary, positions, depth, heads, ffn, activation, epsilon };
  declared("hidden_size", width);
  declared("vocab_size", vocabulary);
  declared("max_position_embeddings", positions);
  declared("num_hidden_layers", depth);
  declared("intermediate_size", ffn);
  if (width % heads !== 0) throw new ModelError(`"${folder}" has ${heads} heads, which do not divide ${width}`);
  const expected: Record<string, readonly number[]> = {
    "embeddings.token_embedding.weight": [vocabulary, width],
    "embeddings.position_embedding.weight": [positions, width],
    "final_layer_norm.weight": [width],
    "final_layer_norm.bias": [width],
  };
  for (let layer = 0; layer < depth; layer++) Object.assign(expected, blockShapes(`encoder.layers.${layer}.`, dims));
  const ignore = (name: string): boolean => !name.startsWith("encoder.layers.");
  return { dims, tensors: matchTensors<Expected>(source, expected, { ignore }) };
}

function blockShapes(prefix: string, { width, ffn }: ClipDims): Record<string, readonly number[]> {
  const shapes: Record<string, readonly number[]> = {};
  const put = (name: string, shape: readonly number[]): void => {
    shapes[`${prefix}${name}.weight`] = shape;
    shapes[`${prefix}${name}.bias`] = shape.slice(0, 1);
  };
  for (const part of ["q_proj", "k_proj", "v_proj", "out_proj"]) put(`self_attn.${part}`, [width, width]);
  put("mlp.fc1", [ffn, width]);
  put("mlp.fc2", [width, ffn]);
  put("layer_norm1", [width]);
  put("layer_norm2", [width]);
  return shapes;
}

/** What config.json alone knows, and a check of what the tensors know as well. */
interface ClipConfig extends Pick<ClipDims, "heads" | "activation" | "epsilon"> {
  /** Throws where the config names another extent than the tensors have. */
  declared(key: string, found: number): void;
}

async function readConfig(folder: string): Promise<ClipConfig> {
  const path = join(folder, "config.json");
  let config: Record<string, unknown>;
  try {
    config = JSON.parse(await Deno.readTextFile(path));
  } catch (cause) {
    throw new ModelError(`Cannot read "${path}": ${(cause as Error).message}`, {
      cause,
      hint: "Give a folder with a CLIP text encoder in the Hugging Face layout, as CLIP/text_encoder of STAR",
    });
  }
  if (typeof config !== "object" || config === null) {
    throw new ModelError(`"${path}" is no JSON object`, { hint: "Download the text encoder again" });
  }
  const named = config.hidden_act ?? "quick_gelu"; // what transformers takes where it is left out
  const activation = ACTIVATIONS.find((name) => name === named);
  if (!activation) {
    throw new ModelError(`"${path}" says hidden_act ${JSON.stringify(named)}: "gelu" or "quick_gelu" is wanted`, {
      hint: "Use a CLIP text encoder, as CLIP/text_encoder of STAR",
    });
  }
  const number = (key: string, fallback?: number): number => {
    const value = config[key] ?? fallback;
    if (typeof value === "number" && value > 0) return value;
    throw new ModelError(`"${path}" has an impossible ${key}: ${JSON.stringify(value)}`, {
      hint: "Download the text encoder again",
    });
  };
  const heads = number("num_attention_heads");
  if (!Number.isInteger(heads)) throw new ModelError(`"${path}" has an impossible num_attention_heads: ${heads}`);
  return {
    heads,
    activation,
    epsilon: number("layer_norm_eps", 1e-5),
    declared(key, found) {
      const value = config[key] ?? found;
      if (value === found) return;
      throw new ModelError(`"${path}" says ${key} ${JSON.stringify(value)}, but the tensors have ${found}`, {
        hint: "Check that config.json and the weights belong together",
      });
    },
  };
}

/**
 * Operations of the encoder on T tokens: linear layers and attention of all tokens to all, as its graph does it.
 *
 * @example
 * ```ts
 * import { clipFlops } from "@stagevar/stagevar/text/clip_encoder.ts";
 * import assert from "node:assert/strict";
 * assert.equal(clipFlops({ width: 4, ffn: 16, depth: 2 }, 3), 2 * (3 * 2 * (4 * 4 * 4 + 2 * 4 * 16) + 4 * 3 * 3 * 4));
 * ```
 */
export function clipFlops({ width, ffn, depth }: Pick<ClipDims, "width" | "ffn" | "depth">, T: number): number {
  return depth * (T * 2 * (4 * width * width + 2 * width * ffn) + 4 * T * T * width);
}

/**
 * Token ids [T], positions [T] and bias [1, 1, T, T] of the scores -> features [T, D].
 *
 * @example
 * ```ts
 * import { clipGraph, readClipWeights } from "@stagevar/stagevar/text/clip_encoder.ts";
 * import assert from "node:assert/strict";
 * const weights = await readClipWeights("tests/golden-star/models/mini-star/CLIP/text_encoder");
 * const graph = clipGraph(weights, { attention: "plain" });
 * assert.deepEqual(graph.inputs.map(({ name }) => name), ["ids", "positions", "bias"]);
 * ```
 */
export function clipGraph({ dims, tensors }: ClipWeights, form: GraphForm): Graph {
  const graph = new Graph("clip text encoder", form);
  const weight = (name: string): TensorRef => tensors[name]!;
  const norm = (x: Value, name: string): Value =>
    graph.op("LayerNormalization", [x, graph.weight(weight(`${name}.weight`)), graph.weight(weight(`${name}.bias`))], {
      axis: -1,
      epsilon: { float: dims.epsilon },
    });
  const linear = (x: Value, name: string): Value => graph.linear(x, weight(`${name}.weight`), weight(`${name}.bias`));
  const activation = (x: Value): Value => {
    if (dims.activation === "gelu") return graph.op("Gelu", [x]);
    return graph.op("Mul", [x, graph.op("Sigmoid", [graph.op("Mul", [x, graph.floats([1.702])])])]);
  };
  const ids = graph.input("ids", "I64", ["T"]);
  const positions = graph.input("positions", "I64", ["T"]);
  const bias = graph.input("bias", "F32", [1, 1, "T", "T"]);
  let x = graph.op("Add", [
    graph.gather(weight("embeddings.token_embedding.weight"), ids),
    graph.gather(weight("embeddings.position_embedding.weight"), positions),
  ]);
  for (let layer = 0; layer < dims.depth; layer++) {
    const block = `encoder.layers.${layer}.`;
    const n = norm(x, `${block}layer_norm1`);
    const [q, k, v] = ["q", "k", "v"].map((part) =>
      graph.op("Unsqueeze", [linear(n, `${block}self_attn.${part}_proj`), graph.ints([0])])
    ) as [Value, Value, Value];
    const attended = graph.attention(q, k, v, { heads: dims.heads, width: dims.width, bias });
    const merged = graph.reshape(attended, [-1, dims.width]);
    x = graph.op("Add", [x, linear(merged, `${block}self_attn.out_proj`)]);
    const m = linear(norm(x, `${block}layer_norm2`), `${block}mlp.fc1`);
    x = graph.op("Add", [x, linear(activation(m), `${block}mlp.fc2`)]);
  }
  graph.output("features", norm(x, "final_layer_norm"), "F32", ["T", dims.width]);
  return graph;
}

/** Scores of keys behind their query are lowered by this much: a weight of exactly zero, and no infinity for a device. */
const FUTURE = -1e30;

/** A CLIP text encoder; graphs are loaded when first used. Dispose it before the transformer runs: it is larger. */
export class ClipEncoder implements Disposable {
  readonly #weights: ClipWeights;
  readonly #runtime: Runtime;
  readonly #residency: Residency;
  readonly #sessions = new Sessions();

  private constructor(weights: ClipWeights, runtime: Runtime, residency: Residency) {
    this.#weights = weights;
    this.#runtime = runtime;
    this.#residency = residency;
  }

  /**
   * Opens the encoder.
   *
   * @param residency by default its weights are packed where they are few, or stay mapped
   * @example
   * ```ts
   * import { openNative } from "@stagevar/stagevar/runtime/native.ts";
   * import { ClipEncoder, readClipWeights } from "@stagevar/stagevar/text/clip_encoder.ts";
   * import assert from "node:assert/strict";
   * const weights = await readClipWeights("tests/golden-star/models/mini-star/CLIP/text_encoder");
   * using runtime = openNative();
   * using encoder = ClipEncoder.open(weights, runtime);
   * const features = await encoder.encode([714, 320, 715]); // BOS "a" EOS
   * assert.equal(features.length, 3 * weights.dims.width);
   * const start = await encoder.encode([714]); // no token sees what comes behind it
   * assert(start.every((value, i) => Math.abs(value - features[i]!) < 1e-5));
   * ```
   */
  static open(weights: ClipWeights, runtime: Runtime, residency?: Residency): ClipEncoder {
    return new ClipEncoder(weights, runtime, residency ?? residencyOf(Object.values(weights.tensors)));
  }

  /**
   * Features [T, D] of token ids [T], BOS .. EOS without padding; the last row is what CLIP pools.
   *
   * @throws {ModelError} when an id is outside the vocabulary, or there are more than the tower has positions for
   */
  async encode(ids: readonly number[], signal?: AbortSignal): Promise<Float32Array> {
    const { width, vocabulary, positions } = this.#weights.dims;
    const T = ids.length;
    const hint = "The tokenizer and the encoder of the text folder do not belong together";
    const outside = ids.find((id) => !(id >= 0 && id < vocabulary));
    if (outside !== undefined) {
      throw new ModelError(`Token ${outside} is outside the text encoder's vocabulary of ${vocabulary}`, { hint });
    }
    if (T > positions) {
      throw new ModelError(`A text of ${T} tokens is longer than the text encoder's ${positions} positions`, { hint });
    }
    const bias = Float32Array.from({ length: T * T }, (_, at) => at % T > Math.floor(at / T) ? FUTURE : 0);
    const features = new Float32Array(T * width);
    const session = await this.#session(rowCountOf(this.#runtime, this.#residency, T));
    await session.run(
      {
        ids: intTensor(ids, [T]),
        positions: intTensor([...ids.keys()], [T]),
        bias: floatTensor(bias, [1, 1, T, T]),
      },
      { features: floatTensor(features, [T, width]) },
      signal,
    );
    return features;
  }

  #session(rows: RowCount): Promise<Session> {
    const { attention } = this.#runtime.form;
    const load = () => this.#runtime.createSession(clipGraph(this.#weights, { rows, attention }), this.#residency);
    return this.#sessions.get(rows, load);
  }

  /** Frees the weights. */
  [Symbol.dispose](): void {
    this.#sessions[Symbol.dispose]();
  }
}
