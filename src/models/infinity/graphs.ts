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
import { Graph, type GraphForm, type Value } from "../../graph/graph.ts";
import {
  attentionCaches,
  enterBlock,
  type FoldedWeights,
  gelu,
  LAYER_NORM,
  leaveBlock,
  modulate,
  outputRowwise,
  ropeInputs,
} from "./block.ts";
import type { QuantisedLookup } from "./quantised.ts";
import { type InfinityWeights, outputRows } from "./weights.ts";

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
  graph.output("start", unsqueeze(graph, start), "F32", [1, 1, C]);
  graph.output("ada", affine("shared_ada_lin.1"), "F32", [1, 6 * C]);
  graph.output("head", affine("head_nm.ada_lin.1"), "F32", [1, 2 * C]);
  graph.output("ctx", ctx, "F32", ["T", C]);
  blocks.forEach((block, layer) => {
    const [key, value] = keyValue(graph, ctx, block["ca.mat_kv.weight"]!, block["ca.v_bias"]!, C);
    graph.output(`key.${layer}`, unsqueeze(graph, key), "F32", [1, "T", C]);
    graph.output(`value.${layer}`, unsqueeze(graph, value), "F32", [1, "T", C]);
  });
  return graph;
}

/** Running latent at this scale's grid -> tokens with their level embedding (§5.4, §2.8): u [L, d_tok] -> x [1, L, C]. */
export function embedGraph({ dims, outer }: InfinityWeights): Graph {
  const graph = new Graph("word_embed");
  const u = graph.input("u", "F32", ["L", dims.tokenDim]);
  const scale = graph.input("scale", "I64", [1]);
  const level = graph.op("Gather", [graph.weight(outer["lvl_embed.weight"]!), scale], { axis: 0 });
  const x = graph.linear(u, outer["word_embed.weight"]!, outer["word_embed.bias"]!);
  graph.output("x", unsqueeze(graph, graph.op("Add", [x, level])), "F32", [1, "L", dims.width]);
  return graph;
}

/** Tokens -> guided-to-be logits: x [R, L, C] -> class 1 minus class 0 of every bit, [R, L, d_tok] (§4.1). */
export function headGraph({ dims }: InfinityWeights, folded: FoldedWeights): Graph {
  const { width: C, tokenDim } = dims;
  const graph = new Graph("head");
  const x = graph.input("x", "F32", ["R", "L", C]);
  const head = graph.input("head", "F32", ["R", 2 * C]);
  const [scale, shift] = graph.split(graph.reshape(head, [0, 2, C]), 2, 1) as [Value, Value];
  const y = graph.op("MatMul", [modulate(graph, x, scale, shift, C), graph.floats(folded.headWeight, [C, tokenDim])]);
  graph.output("logits", graph.op("Add", [y, graph.floats(folded.headBias)]), "F32", ["R", "L", tokenDim]);
  return graph;
}

/**
 * A link of a chunk: leaves block `layer` and enters block `layer + 1`; the first link only enters, the last only leaves.
 *
 * Inputs: x [R, L, C], ada [R, 6C]; to leave also q [R, L, C] and, a row r, keys.r, values.r [1, T, C] and the text's
 * textKeys.r, textValues.r [1, T_r, C]; to enter also positions [R, L] or [1] into
 * the tables cos, sin [M, hd/2] of the scale. Outputs: x; and query, key.r, value.r [1, L, C].
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
  const { width: C } = dims;
  const blockNames = [leave, enter].filter((layer) => layer !== undefined).join("-");
  const graph = new Graph(`block ${blockNames}, ${rows} rows`, form);
  const make = { graph, dims, rows, quantised };
  let x = graph.input("x", "F32", [rows, "L", C]);
  const ada = graph.input("ada", "F32", [rows, 6 * C]);
  if (leave !== undefined) {
    const q = graph.input("q", "F32", [rows, "L", C]);
    const [cache, text] = [attentionCaches(make, "keys", "values"), attentionCaches(make, "textKeys", "textValues")];
    x = leaveBlock(make, blocks[leave]!, { x, ada, q, cache, text });
    graph.output("x_out", x, "F32", [rows, "L", C]);
  }
  if (enter !== undefined) {
    const { q, k, v } = enterBlock(make, blocks[enter]!, folded.temperatures[enter]!, {
      x,
      ada,
      rope: ropeInputs(make),
    });
    graph.output("query", q, "F32", [rows, "L", C]);
    outputRowwise(make, "key", k);
    outputRowwise(make, "value", v);
  }
  return graph;
}

/** Element type that a device keeps keys and values in. */
export function cacheElement({ half }: GraphForm): "F16" | "F32" {
  return half ? "F16" : "F32";
}

/**
 * A whole chunk for one batch row, for devices with memory of their own: what links write behind the past in place, it
 * concatenates. Rows run one after the other, so that weights are held once however many rows there are.
 *
 * Inputs: x [1, L, C], ada [1, 6C], positions [1, L] or [1], cos, sin [M, hd/2]; of each layer l of the chunk (counted from 0)
 * keys.l, values.l [1, P, C], the past, which may be empty, and textKeys.l, textValues.l [1, T, C].
 * Outputs: x_out [1, L, C], and newKeys.l, newValues.l [1, P + L, C]. In half precision the cache is held in it, too.
 */
export function chunkGraph(
  { dims, blocks }: InfinityWeights,
  folded: FoldedWeights,
  chunk: number,
  form: GraphForm,
): Graph {
  const { width: C, depth, chunks } = dims;
  const per = depth / chunks;
  const graph = new Graph(`chunk ${chunk}`, form);
  const make = { graph, dims, rows: 1, quantised: () => undefined };
  const stored = cacheElement(form);
  let x = graph.input("x", "F32", [1, "L", C]);
  const ada = graph.input("ada", "F32", [1, 6 * C]);
  const rope = ropeInputs(make);
  for (let layer = 0; layer < per; layer++) {
    const block = blocks[chunk * per + layer]!;
    const temperature = folded.temperatures[chunk * per + layer]!;
    const { q, k, v } = enterBlock(make, block, temperature, { x, ada, rope });
    const extend = (kind: "Keys" | "Values", fresh: Value): Value => {
      const past = graph.input(`${kind.toLowerCase()}.${layer}`, stored, [1, "P", C]);
      const all = graph.op("Concat", [past, form.half ? graph.cast(fresh, stored) : fresh], { axis: 1 });
      graph.output(`new${kind}.${layer}`, all, stored, [1, "P+L", C]);
      return form.half ? graph.cast(all, "F32") : all; // temperatures go to 100: scores in float16 would be off by 1/16
    };
    const cache = { keys: [extend("Keys", k)], values: [extend("Values", v)] };
    const text = {
      keys: [graph.input(`textKeys.${layer}`, "F32", [1, "T", C])],
      values: [graph.input(`textValues.${layer}`, "F32", [1, "T", C])],
    };
    x = leaveBlock(make, block, { x, ada, q, cache, text });
  }
  graph.output("x_out", x, "F32", [1, "L", C]);
  return graph;
}

function keyValue(graph: Graph, x: Value, weight: TensorRef, valueBias: TensorRef, C: number): [Value, Value] {
  return [
    graph.linear(x, outputRows(weight, 0, C)),
    graph.linear(x, outputRows(weight, C, 2 * C), valueBias),
  ];
}

function unsqueeze(graph: Graph, x: Value): Value {
  return graph.op("Unsqueeze", [x, graph.ints([0])]);
}
