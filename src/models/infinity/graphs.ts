/**
 * The graphs of an Infinity transformer, in the paper's order: text, word embedding, blocks, head (infinity.md §2-4).
 *
 * A block is cut where its keys and values are complete: `enter` ends with q, k, v, and `leave` begins with attention over
 * the whole cache. The caller lets k and v be written behind the past they extend, so the cache is never copied or
 * concatenated, and attention takes the flash path, which wants plain [1, T, C] keys (specs/onnxruntime.md C).
 *
 * Letters: R rows of the batch, L tokens of this scale, T tokens of the cache or of a text, C width.
 *
 * @module
 */
import type { TensorRef } from "../../checkpoint/source.ts";
import { Graph, type GraphForm, MICROSOFT, type Value } from "../../graph/graph.ts";
import type { QuantisedLookup } from "./quantised.ts";
import { type BlockWeights, type InfinityDims, type InfinityWeights, outputRows } from "./weights.ts";

const LAYER_NORM = { axis: -1, epsilon: { float: 1e-6 } };

/** Small tensors that are folded into the graphs, read beforehand. */
export interface FoldedWeights {
  /** exp(min(scale_mul, ln 100)) of every block, [D][H]: the temperature of cosine attention (§3.3). */
  readonly temperatures: readonly Float32Array[];
  /** Row of class 1 minus row of class 0 of the head, [d_tok, C]: only the difference matters (§4.3). */
  readonly headWeight: Float32Array;
  /** The same difference of its bias, [d_tok]. */
  readonly headBias: Float32Array;
}

/** What a prompt comes down to, per text segment (§2.4-2.8): everything the scales read of it, computed once. */
export function textGraph({ dims, outer, blocks }: InfinityWeights, form: GraphForm): Graph {
  const { width: C, textDim } = dims;
  const graph = new Graph("text", form);
  const pool = "text_proj_for_sos.ca.";
  const features = graph.input("features", "F32", ["T", textDim]);
  const normed = graph.op(
    "SimplifiedLayerNormalization",
    [features, graph.weight(outer["text_norm.weight"]!)],
    LAYER_NORM,
  );

  // the pooled prompt: start token and adaLN condition (§2.5, §2.7)
  const [poolKey, poolValue] = keyValue(graph, normed, outer[`${pool}mat_kv.weight`]!, outer[`${pool}v_bias`]!, C);
  const query = graph.reshape(graph.weight(outer[`${pool}mat_q`]!), [1, 1, C]);
  const pooled = graph.attention(query, unsqueeze(graph, poolKey), unsqueeze(graph, poolValue), {
    heads: dims.poolHeads,
    width: C,
  });
  const cond = graph.linear(
    graph.reshape(pooled, [1, C]),
    outer[`${pool}proj.weight`]!,
    outer[`${pool}proj.bias`]!,
  );
  const silu = graph.op("Mul", [cond, graph.op("Sigmoid", [cond])]);
  const level = graph.weight(outputRows(outer["lvl_embed.weight"]!, 0, 1));
  const start = graph.op("Add", [
    graph.op("Add", [cond, graph.reshape(graph.weight(outer["pos_start"]!), [1, C])]),
    level,
  ]);
  const affine = (name: string): Value => graph.linear(silu, outer[`${name}.weight`]!, outer[`${name}.bias`]!);

  // the words themselves, for cross attention (§2.6)
  const hidden = graph.linear(normed, outer["text_proj_for_ca.0.weight"]!, outer["text_proj_for_ca.0.bias"]!);
  const ctx = graph.linear(gelu(graph, hidden), outer["text_proj_for_ca.2.weight"]!, outer["text_proj_for_ca.2.bias"]!);

  graph.output("cond", cond, "F32", [1, C]);
  graph.output("start", start, "F32", [1, C]);
  graph.output("ada", affine("shared_ada_lin.1"), "F32", [1, 6 * C]);
  graph.output("head", affine("head_nm.ada_lin.1"), "F32", [1, 2 * C]);
  graph.output("ctx", ctx, "F32", ["T", C]);
  blocks.forEach((block, layer) => {
    const [key, value] = keyValue(graph, ctx, block["ca.mat_kv.weight"]!, block["ca.v_bias"]!, C);
    graph.output(`key.${layer}`, key, "F32", ["T", C]);
    graph.output(`value.${layer}`, value, "F32", ["T", C]);
  });
  return graph;
}

/** Running latent at this scale's grid -> tokens with their level embedding (§5.4, §2.8): u [L, d_tok] -> x [L, C]. */
export function embedGraph({ dims, outer }: InfinityWeights): Graph {
  const graph = new Graph("word_embed");
  const u = graph.input("u", "F32", ["L", dims.tokenDim]);
  const scale = graph.input("scale", "I64", [1]);
  const level = graph.op("Gather", [graph.weight(outer["lvl_embed.weight"]!), scale], { axis: 0 });
  const x = graph.linear(u, outer["word_embed.weight"]!, outer["word_embed.bias"]!);
  graph.output("x", graph.op("Add", [x, level]), "F32", ["L", dims.width]);
  return graph;
}

/** Tokens -> guided-to-be logits: x [R, L, C] -> class 1 minus class 0 of every bit, [R, L, d_tok] (§4.1). */
export function headGraph({ dims }: InfinityWeights, folded: FoldedWeights): Graph {
  const { width: C, tokenDim } = dims;
  const graph = new Graph("head");
  const x = graph.input("x", "F32", ["R", "L", C]);
  const head = graph.input("head", "F32", ["R", 2 * C]);
  const [scale, shift] = graph.split(graph.reshape(head, [0, 2, C]), 2, 1) as [Value, Value];
  const flat = graph.reshape(modulate(graph, x, scale, shift, C), [-1, C]);
  const weight = graph.floats(folded.headWeight, [tokenDim, C]);
  const z = graph.op("Gemm", [flat, weight, graph.floats(folded.headBias)], { transB: 1 });
  const rows = graph.op("Shape", [x], { start: 0, end: 2 });
  const shape = graph.op("Concat", [rows, graph.ints([tokenDim])], { axis: 0 });
  graph.output("logits", graph.op("Reshape", [z, shape]), "F32", ["R", "L", tokenDim]);
  return graph;
}

/**
 * A link of a chunk: leaves block `layer` and enters block `layer + 1`; the first link only enters, the last only leaves.
 *
 * Inputs: x [R, L, C], ada [R, 6C]; to leave also q [R, L, C] and, a row r, keys.r, values.r [1, T, C] and the text's
 * textKeys.r, textValues.r [1, T_r, C]; to enter also positions [R, L] into the
 * tables cos, sin [M, hd/2] of the scale. Outputs: x; and query, key.r, value.r [1, L, C].
 */
export function linkGraph(
  { dims, blocks }: InfinityWeights,
  folded: FoldedWeights,
  leave: number | undefined,
  enter: number | undefined,
  rows: number,
  form: GraphForm,
  quantised: QuantisedLookup = () => undefined,
): Graph {
  const { width: C, heads } = dims;
  const blockNames = [leave, enter].filter((layer) => layer !== undefined).join("-");
  const graph = new Graph(`block ${blockNames}, ${rows} rows`, form);
  let x = graph.input("x", "F32", [rows, "L", C]);
  const ada = graph.input("ada", "F32", [rows, 6 * C]);
  if (leave !== undefined) {
    x = leaveBlock(graph, x, blocks[leave]!, modulation(graph, ada, blocks[leave]!, C), rows, dims, quantised);
    graph.output("x_out", x, "F32", [rows, "L", C]);
  }
  if (enter !== undefined) {
    const block = blocks[enter]!;
    const { scale1, shift1 } = modulation(graph, ada, block, C);
    const y = graph.reshape(modulate(graph, x, scale1, shift1, C), [-1, C]);
    const qkv = block["sa.mat_qkv.weight"]!;
    const rotate = {
      positions: graph.input("positions", "I64", [rows, "L"]),
      cos: graph.input("cos", "F32", ["M", C / heads / 2]),
      sin: graph.input("sin", "F32", ["M", C / heads / 2]),
    };
    const shaped = (value: Value): Value => graph.reshape(value, [rows, -1, C]);
    const direction = (value: Value, temperature?: Float32Array): Value =>
      rope(graph, shaped(unit(graph, value, dims, temperature)), rotate, heads);
    const q = linear(graph, y, outputRows(qkv, 0, C), block["sa.q_bias"]!, quantised);
    const k = linear(graph, y, outputRows(qkv, C, 2 * C), undefined, quantised);
    const v = linear(graph, y, outputRows(qkv, 2 * C, 3 * C), block["sa.v_bias"]!, quantised);
    graph.output("query", direction(q, folded.temperatures[enter]!), "F32", [rows, "L", C]);
    outputRowwise(graph, "key", direction(k), rows, C);
    outputRowwise(graph, "value", shaped(v), rows, C);
  }
  return graph;
}

interface Modulation {
  gamma1: Value;
  gamma2: Value;
  scale1: Value;
  scale2: Value;
  shift1: Value;
  shift2: Value;
}

/** The six adaLN vectors of a block, each [R, 1, C] (§3.1). */
function modulation(graph: Graph, ada: Value, block: BlockWeights, C: number): Modulation {
  const own = graph.reshape(graph.weight(block["ada_gss"]!), [1, 6, C]);
  const sum = graph.op("Add", [graph.reshape(ada, [0, 6, C]), own]);
  const [gamma1, gamma2, scale1, scale2, shift1, shift2] = graph.split(sum, 6, 1);
  return { gamma1, gamma2, scale1, scale2, shift1, shift2 } as Modulation;
}

/** Attention over the cache, cross attention, feed-forward (§3.2). */
function leaveBlock(
  graph: Graph,
  input: Value,
  block: BlockWeights,
  { gamma1, gamma2, scale2, shift2 }: Modulation,
  rows: number,
  { width: C, heads }: InfinityDims,
  quantised: QuantisedLookup,
): Value {
  const project = (from: Value, name: string): Value => {
    const flat = graph.reshape(from, [-1, C]);
    return graph.reshape(linear(graph, flat, block[`${name}.weight`]!, block[`${name}.bias`]!, quantised), [
      rows,
      -1,
      C,
    ]);
  };
  let x = input;
  const q = graph.input("q", "F32", [rows, "L", C]);
  const a = attendRowwise(graph, q, ["keys", "values"], "T", rows, C, heads, 1);
  x = add(graph, x, graph.op("Mul", [project(a, "sa.proj"), gamma1]));

  const z = graph.op("LayerNormalization", [
    x,
    graph.weight(block["ca_norm.weight"]!),
    graph.weight(block["ca_norm.bias"]!),
  ], LAYER_NORM);
  const words = project(z, "ca.mat_q");
  const c = attendRowwise(graph, words, ["textKeys", "textValues"], "T", rows, C, heads);
  x = add(graph, x, project(c, "ca.proj"));

  const y = graph.reshape(modulate(graph, x, scale2, shift2, C), [-1, C]);
  const f = gelu(graph, linear(graph, y, block["ffn.fc1.weight"]!, block["ffn.fc1.bias"]!, quantised));
  const out = graph.reshape(linear(graph, f, block["ffn.fc2.weight"]!, block["ffn.fc2.bias"]!, quantised), [
    rows,
    -1,
    C,
  ]);
  return add(graph, x, graph.op("Mul", [out, gamma2]));
}

/** A linear layer of a block, on its eight-bit copy where there is one. */
function linear(
  graph: Graph,
  x: Value,
  weight: TensorRef,
  bias: TensorRef | undefined,
  quantised: QuantisedLookup,
): Value {
  const copy = quantised(weight);
  return copy ? graph.quantisedLinear(x, copy, bias) : graph.linear(x, weight, bias);
}

/** Each batch row attends to keys and values of its own, which differ in length or lie in buffers of their own. */
function attendRowwise(
  graph: Graph,
  q: Value,
  [keys, values]: readonly [string, string],
  length: string,
  rows: number,
  C: number,
  heads: number,
  scale?: number,
): Value {
  const queries = rows === 1 ? [q] : graph.split(q, rows, 0);
  const attended = queries.map((query, r) =>
    graph.attention(
      query,
      graph.input(`${keys}.${r}`, "F32", [1, `${length}${r}${keys}`, C]),
      graph.input(`${values}.${r}`, "F32", [1, `${length}${r}${keys}`, C]),
      { heads, width: C, scale },
    )
  );
  return rows === 1 ? attended[0]! : graph.op("Concat", attended, { axis: 0 });
}

function outputRowwise(graph: Graph, name: string, value: Value, rows: number, C: number): void {
  const parts = rows === 1 ? [value] : graph.split(value, rows, 0);
  parts.forEach((part, r) => graph.output(`${name}.${r}`, part, "F32", [1, "L", C]));
}

/** LN(x) * (1 + scale) + shift, LN without affine (§3.1). */
function modulate(graph: Graph, x: Value, scale: Value, shift: Value, C: number): Value {
  const normed = graph.op("LayerNormalization", [x, graph.floats(new Float32Array(C).fill(1))], LAYER_NORM);
  return add(graph, graph.op("Mul", [normed, add(graph, scale, graph.floats([1]))]), shift);
}

/**
 * x / ||x|| over each head, times the head's temperature (§3.3): a root-mean-square norm scaled by 1/sqrt(hd), whose
 * kernel makes one pass where norm, clamp and division make three. x [M, C] -> [M, H, hd].
 */
function unit(graph: Graph, x: Value, { width: C, heads }: InfinityDims, temperature?: Float32Array): Value {
  const hd = C / heads;
  const scale = graph.floats(new Float32Array(hd).fill(1 / Math.sqrt(hd)));
  const tiny = { axis: -1, epsilon: { float: 1e-24 / hd } }; // max(||x||, 1e-12) of the definition, squared and averaged
  const direction = graph.op("SimplifiedLayerNormalization", [graph.reshape(x, [-1, heads, hd]), scale], tiny);
  return temperature ? graph.op("Mul", [direction, graph.floats(temperature, [heads, 1])]) : direction;
}

/** Rotation of adjacent pairs (§3.4), x [R, L, C]. */
function rope(
  graph: Graph,
  x: Value,
  { positions, cos, sin }: { positions: Value; cos: Value; sin: Value },
  heads: number,
): Value {
  const inputs = [x, positions, cos, sin];
  return graph.op("RotaryEmbedding", inputs, { interleaved: 1, num_heads: heads }, MICROSOFT);
}

function keyValue(graph: Graph, x: Value, weight: TensorRef, valueBias: TensorRef, C: number): [Value, Value] {
  return [
    graph.linear(x, outputRows(weight, 0, C)),
    graph.linear(x, outputRows(weight, C, 2 * C), valueBias),
  ];
}

function add(graph: Graph, a: Value, b: Value): Value {
  return graph.op("Add", [a, b]);
}

function gelu(graph: Graph, x: Value): Value {
  return graph.op("FastGelu", [x], {}, MICROSOFT);
}

function unsqueeze(graph: Graph, x: Value): Value {
  return graph.op("Unsqueeze", [x, graph.ints([0])]);
}
