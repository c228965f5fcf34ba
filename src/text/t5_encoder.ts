/**
 * The T5 encoder, as flan-t5-xl (infinity.md §2.2): prompt tokens to features, in one run without padding.
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
import { Graph, MICROSOFT, type Value } from "../graph/graph.ts";
import { DeviceMemory } from "../runtime/device_memory.ts";
import {
  type DeviceSession,
  floatTensor,
  intTensor,
  type Residency,
  residencyOf,
  type Runtime,
  type Session,
  type Tensor,
} from "../runtime/runtime.ts";
import { rowCountOf, Sessions } from "../runtime/sessions.ts";
import { fitsFusedT5, fusedT5Graph } from "./t5_fused.ts";

/** Dimensions of a T5 encoder, from config.json and the tensors' shapes. */
export interface T5Dims {
  /** Feature width. */
  readonly width: number;
  /** Vocabulary rows. */
  readonly vocabulary: number;
  /** Number of blocks. */
  readonly depth: number;
  /** Attention heads. */
  readonly heads: number;
  /** Width of all heads together. */
  readonly inner: number;
  /** Width of the feed-forward layer. */
  readonly ffn: number;
  /** Buckets of relative distance. */
  readonly buckets: number;
  /** Distance from which all share the last bucket. */
  readonly maxDistance: number;
  /** Epsilon of the root-mean-square norms. */
  readonly epsilon: number;
}

/** A T5 encoder checkpoint that has been checked name by name. */
export interface T5Weights {
  /** Dimensions. */
  readonly dims: T5Dims;
  /** Tensors by checkpoint name. */
  readonly tensors: Readonly<Record<string, TensorRef>>;
}

/**
 * Checks a folder in the Hugging Face layout: config.json beside the weights (safetensors, shards or .bin).
 *
 * @throws {ModelError} when it is no gated-GELU T5 encoder, or names are missing or misshapen
 * @example
 * ```ts
 * import { readT5Weights } from "@stagevar/stagevar/text/t5_encoder.ts";
 * import assert from "node:assert/strict";
 * const { dims } = await readT5Weights("tests/golden/models/mini-t5");
 * assert.deepEqual([dims.width, dims.depth, dims.heads], [256, 2, 4]);
 * ```
 */
export async function readT5Weights(folder: string): Promise<T5Weights> {
  const config = await readConfig(folder);
  const source = await openCheckpoint(folder);
  const block = (layer: number): string => `encoder.block.${layer}.layer.`;
  const bias = `${block(0)}0.SelfAttention.relative_attention_bias.weight`;
  const [vocabulary, width] = source.get("shared.weight").shape as [number, number];
  const [buckets, heads] = source.get(bias).shape as [number, number];
  const inner = source.get(`${block(0)}0.SelfAttention.q.weight`).shape[0]!;
  const gate = source.get(`${block(0)}1.DenseReluDense.wi_0.weight`);
  const depth =
    new Set(source.names().map((name) => /^encoder\.block\.(\d{1,4})\./.exec(name)?.[1]).filter(Boolean)).size;
  const dims = { ...config, width, vocabulary, depth, heads, inner, ffn: gate.shape[0]!, buckets };
  if (inner % heads !== 0) throw new ModelError(`"${folder}" has ${heads} heads, which do not divide ${inner}`);
  const expected: Record<string, readonly number[]> = {
    "shared.weight": [vocabulary, width],
    [bias]: [buckets, heads],
    "encoder.final_layer_norm.weight": [width],
  };
  for (let layer = 0; layer < depth; layer++) Object.assign(expected, blockShapes(block(layer), dims));
  const ignore = (name: string): boolean =>
    !name.startsWith("encoder.block.") || name === "encoder.embed_tokens.weight";
  return { dims, tensors: matchTensors<Expected>(source, expected, { ignore }) };
}

function blockShapes(prefix: string, { width, inner, ffn }: T5Dims): Record<string, readonly number[]> {
  return {
    [`${prefix}0.SelfAttention.q.weight`]: [inner, width],
    [`${prefix}0.SelfAttention.k.weight`]: [inner, width],
    [`${prefix}0.SelfAttention.v.weight`]: [inner, width],
    [`${prefix}0.SelfAttention.o.weight`]: [width, inner],
    [`${prefix}0.layer_norm.weight`]: [width],
    [`${prefix}1.DenseReluDense.wi_0.weight`]: [ffn, width],
    [`${prefix}1.DenseReluDense.wi_1.weight`]: [ffn, width],
    [`${prefix}1.DenseReluDense.wo.weight`]: [width, ffn],
    [`${prefix}1.layer_norm.weight`]: [width],
  };
}

async function readConfig(folder: string): Promise<{ maxDistance: number; epsilon: number }> {
  const path = join(folder, "config.json");
  let config: Record<string, unknown>;
  try {
    config = JSON.parse(await Deno.readTextFile(path));
  } catch (cause) {
    throw new ModelError(`Cannot read "${path}": ${(cause as Error).message}`, {
      cause,
      hint: "Give a folder with a T5 encoder in the Hugging Face layout, such as google/flan-t5-xl",
    });
  }
  const activation = config?.feed_forward_proj;
  if (activation !== "gated-gelu") {
    throw new ModelError(`"${path}" says feed_forward_proj ${JSON.stringify(activation)}: "gated-gelu" is wanted`);
  }
  const number = (key: string, fallback: number): number => {
    const value = config[key] ?? fallback;
    if (typeof value !== "number" || !(value > 0)) throw new ModelError(`"${path}" has an impossible ${key}: ${value}`);
    return value;
  };
  return { maxDistance: number("relative_attention_max_distance", 128), epsilon: number("layer_norm_epsilon", 1e-6) };
}

/**
 * Operations of the encoder on T tokens: its linear layers and attention; a multiplication and an addition are two.
 *
 * @example
 * ```ts
 * import { encoderFlops } from "@stagevar/stagevar/text/t5_encoder.ts";
 * import assert from "node:assert/strict";
 * const dims = { width: 4, inner: 8, ffn: 16, depth: 2, heads: 2, vocabulary: 9, buckets: 8, maxDistance: 16, epsilon: 1e-6 };
 * assert.equal(encoderFlops(dims, 3), 2 * (3 * 2 * (4 * 4 * 8 + 3 * 4 * 16) + 4 * 3 * 3 * 8));
 * ```
 */
export function encoderFlops({ width, inner, ffn, depth }: T5Dims, T: number): number {
  return depth * (T * 2 * (4 * width * inner + 3 * width * ffn) + 4 * T * T * inner);
}

/** Token ids [T] and distance buckets [T, T] -> features [T, D]. */
export function t5Graph({ dims, tensors }: T5Weights, form: GraphForm): Graph {
  const graph = new Graph("t5 encoder", form);
  const weight = (name: string): TensorRef => tensors[name]!;
  const norm = (x: Value, name: string): Value =>
    graph.op("SimplifiedLayerNormalization", [x, graph.weight(weight(name))], {
      axis: -1,
      epsilon: { float: dims.epsilon },
    });
  const linear = (x: Value, name: string): Value => graph.linear(x, weight(name));
  const ids = graph.input("ids", "I64", ["T"]);
  const buckets = graph.input("buckets", "I64", ["T", "T"]);
  const table = weight("encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight");
  const byPair = graph.op("Gather", [graph.weight(table), buckets], { axis: 0 }); // [T, T, H]
  const bias = graph.op("Unsqueeze", [graph.op("Transpose", [byPair], { perm: [2, 0, 1] }), graph.ints([0])]);
  let x = graph.gather(weight("shared.weight"), ids);
  for (let layer = 0; layer < dims.depth; layer++) {
    const attention = `encoder.block.${layer}.layer.0.`;
    const dense = `encoder.block.${layer}.layer.1.`;
    const n = norm(x, `${attention}layer_norm.weight`);
    const [q, k, v] = ["q", "k", "v"].map((part) =>
      graph.op("Unsqueeze", [linear(n, `${attention}SelfAttention.${part}.weight`), graph.ints([0])])
    ) as [Value, Value, Value];
    const scale = 1; // T5 leaves scores unscaled
    const attended = graph.attention(q, k, v, { heads: dims.heads, width: dims.inner, scale, bias });
    const merged = graph.reshape(attended, [-1, dims.inner]);
    x = graph.op("Add", [x, linear(merged, `${attention}SelfAttention.o.weight`)]);
    const m = norm(x, `${dense}layer_norm.weight`);
    const gate = graph.op("FastGelu", [linear(m, `${dense}DenseReluDense.wi_0.weight`)], {}, MICROSOFT);
    const gated = graph.op("Mul", [gate, linear(m, `${dense}DenseReluDense.wi_1.weight`)]);
    x = graph.op("Add", [x, linear(gated, `${dense}DenseReluDense.wo.weight`)]);
  }
  graph.output("features", norm(x, "encoder.final_layer_norm.weight"), "F32", ["T", dims.width]);
  return graph;
}

/**
 * Bucket of relative distance for every pair of a query i and a key j, [T, T] (T5, bidirectional): exact up to a quarter of
 * the buckets on each side, then logarithmic.
 *
 * @example
 * ```ts
 * import { distanceBuckets } from "@stagevar/stagevar/text/t5_encoder.ts";
 * import assert from "node:assert/strict";
 * assert.deepEqual(distanceBuckets(2, 32, 128), [0, 17, 1, 0]);
 * ```
 */
export function distanceBuckets(tokens: number, buckets: number, maxDistance: number): number[] {
  const half = buckets / 2;
  const exact = Math.floor(half / 2);
  return Array.from({ length: tokens * tokens }, (_, at) => {
    const offset = at % tokens - Math.floor(at / tokens); // key minus query
    const distance = Math.abs(offset);
    // float32 as torch computes it: at powers of two the logarithms' ratio decides which side of a bucket's edge it falls
    const log = Math.fround(
      Math.fround(Math.fround(Math.log(Math.fround(distance / exact))) / Math.fround(Math.log(maxDistance / exact))) *
        (half - exact),
    );
    const bucket = distance < exact ? distance : Math.min(exact + Math.trunc(log), half - 1);
    return bucket + (offset > 0 ? half : 0);
  });
}

/** A T5 encoder; graphs are loaded when first used. Dispose it before the transformer runs: it is larger. */
export class T5Encoder implements Disposable {
  readonly #weights: T5Weights;
  readonly #runtime: Runtime;
  readonly #residency: Residency;
  readonly #half: boolean;
  readonly #sessions = new Sessions();
  readonly #there = new Sessions<DeviceSession>(); // on a device's tensors

  private constructor(weights: T5Weights, runtime: Runtime, residency: Residency, half: boolean) {
    this.#weights = weights;
    this.#runtime = runtime;
    this.#residency = residency;
    this.#half = half;
  }

  /**
   * Opens the encoder.
   *
   * @param residency by default its weights are packed where they are few, or stay mapped
   * @param half products in half precision, on devices that have operators of our own
   */
  static open(weights: T5Weights, runtime: Runtime, residency?: Residency, half = false): T5Encoder {
    const halves = half && runtime.form.fused === true && fitsFusedT5(weights.dims);
    return new T5Encoder(weights, runtime, residency ?? residencyOf(Object.values(weights.tensors)), halves);
  }

  /** Features [T, D] of token ids [T]. */
  async encode(ids: readonly number[], signal?: AbortSignal): Promise<Float32Array> {
    const { width, vocabulary, buckets, maxDistance } = this.#weights.dims;
    const T = ids.length;
    const outside = ids.find((id) => id >= vocabulary);
    if (outside !== undefined) {
      throw new ModelError(`Token ${outside} is outside the text encoder's vocabulary of ${vocabulary}`, {
        hint: "The tokenizer and the encoder of the text folder do not belong together",
      });
    }
    const input = { ids: intTensor(ids, [T]), buckets: intTensor(distanceBuckets(T, buckets, maxDistance), [T, T]) };
    if (this.#half) return await this.#encodeThere(input, [T, width], signal);
    const features = new Float32Array(T * width);
    const session = await this.#session(rowCountOf(this.#runtime, this.#residency, T));
    await session.run(input, { features: floatTensor(features, [T, width]) }, signal);
    return features;
  }

  /** On tensors of the device, so that runs for as many tokens can be recorded. */
  async #encodeThere(
    { ids, buckets }: { readonly ids: Tensor; readonly buckets: Tensor },
    dims: readonly number[],
    signal?: AbortSignal,
  ): Promise<Float32Array> {
    const sessions = (key: string, graph: () => Graph, repeated: boolean): Promise<DeviceSession> =>
      this.#there.get(key, () => this.#runtime.createDeviceSession!(graph(), repeated));
    using memory = new DeviceMemory(sessions, this.#runtime);
    const inputs = { ids: await memory.upload(ids, signal), buckets: await memory.upload(buckets, signal) };
    const graph = (): Graph => fusedT5Graph(this.#weights);
    const made = await memory.run("t5", graph, inputs, { features: dims }, { signal, repeated: true });
    return await memory.read(made["features"]!);
  }

  #session(rows: RowCount): Promise<Session> {
    const { attention } = this.#runtime.form;
    const load = () => this.#runtime.createSession(t5Graph(this.#weights, { rows, attention }), this.#residency);
    return this.#sessions.get(rows, load);
  }

  /** Frees the weights. */
  [Symbol.dispose](): void {
    this.#sessions[Symbol.dispose]();
    this.#there[Symbol.dispose]();
  }
}
