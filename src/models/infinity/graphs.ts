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
import type { GraphForm } from "../../graph/form.ts";
import { batchRows, Graph, type Value } from "../../graph/graph.ts";
import type { ElementName } from "../../graph/onnx_proto.ts";
import { cacheInputs, gelu, LAYER_NORM, outputRows } from "../block_parts.ts";
import {
  enterBlock,
  type FoldedWeights,
  leaveBlock,
  modulate,
  modulationOf,
  outputRowwise,
  ropeInputs,
} from "./block.ts";
import { type FusedBlock, fusedBlocks } from "./fused_block.ts";
import { halfBlock, HEADROOM } from "./half_block.ts";
import type { QuantisedLookup } from "./quantised.ts";
import type { InfinityDims, InfinityWeights } from "./weights.ts";

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
  const head = graph.reshape(affine("head_nm.ada_lin.1"), [1, 2, C]);
  const ada = affine("shared_ada_lin.1");

  // the words themselves, for cross attention (§2.6)
  const hidden = graph.linear(normed, outer["text_proj_for_ca.0.weight"]!, outer["text_proj_for_ca.0.bias"]!);
  const ctx = graph.linear(gelu(graph, hidden), outer["text_proj_for_ca.2.weight"]!, outer["text_proj_for_ca.2.bias"]!);

  graph.output("cond", cond, "F32", [1, C]);
  graph.output("start", unsqueeze(graph, start), "F32", [1, 1, C]);
  graph.output("head", graph.op("Add", [head, graph.floats([1, 0], [1, 2, 1])]), "F32", [1, 2, C]);
  graph.output("ctx", ctx, "F32", ["T", C]);
  const inHalf = form.half === "block";
  blocks.forEach((block, layer) => {
    const gain = inHalf ? HEADROOM : 1;
    graph.output(`modulation.${layer}`, modulationOf(graph, ada, block, C, gain), "F32", [1, 6, C]);
    const parts = keyValue(graph, ctx, block["ca.mat_kv.weight"]!, block["ca.v_bias"]!, C);
    for (const [i, name] of (["key", "value"] as const).entries()) {
      const part = inHalf ? graph.cast(parts[i]!, "F16") : parts[i]!;
      graph.output(`${name}.${layer}`, unsqueeze(graph, part), textElement(form), [1, "T", C]);
    }
  });
  return graph;
}

/**
 * Running latents at this scale's grid -> tokens with their level embedding (§5.4, §2.8): u [B L, d_tok] of B images -> x
 * [copies B, L, C], images behind each other and again for every copy.
 */
export function embedGraph({ dims, outer }: InfinityWeights, copies = 1, images = 1): Graph {
  const graph = new Graph("word_embed");
  const u = graph.input("u", "F32", ["BL", dims.tokenDim]);
  const scale = graph.input("scale", "I64", [1]);
  const level = graph.op("Gather", [graph.weight(outer["lvl_embed.weight"]!), scale], { axis: 0 });
  const x = graph.linear(u, outer["word_embed.weight"]!, outer["word_embed.bias"]!);
  const tokens = unsqueeze(graph, graph.op("Add", [x, level]));
  const all = copies === 1 ? tokens : graph.op("Expand", [tokens, graph.ints([copies, 1, 1])]);
  const rows = images === 1 ? all : graph.reshape(all, [copies * images, -1, dims.width]);
  graph.output("x", rows, "F32", [copies * images, "L", dims.width]);
  return graph;
}

/** Tokens -> guided-to-be logits: x [R, L, C] -> class 1 minus class 0 of every bit, [R, L, d_tok] (§4.1). */
export function headGraph({ dims }: InfinityWeights, folded: FoldedWeights, { norms = "apart" }: GraphForm): Graph {
  const { width: C, tokenDim } = dims;
  const graph = new Graph("head", { norms });
  const x = graph.input("x", "F32", ["R", "L", C]);
  const [scale, shift] = graph.split(graph.input("head", "F32", ["R", 2, C]), 2, 1) as [Value, Value];
  const y = graph.op("MatMul", [modulate(graph, x, scale, shift, C), graph.floats(folded.headWeight, [C, tokenDim])]);
  graph.output("logits", graph.op("Add", [y, graph.floats(folded.headBias)]), "F32", ["R", "L", tokenDim]);
  return graph;
}

/**
 * A link of a chunk: leaves block `layer` and enters block `layer + 1`; the first link only enters, the last only leaves.
 *
 * Inputs: x [R, L, C]; to leave the block's modulation `leaving` [R, 6, C], q [R, L, C] and, a row r, keys.r, values.r [1, T, C] and
 * the text's textKeys.r, textValues.r [1, T_r, C]; to enter `entering` [R, 6, C] and positions [R, L] or [1] into
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
  const make = { graph, dims, rows, quantised, shaped: (y: Value) => graph.reshape(y, [rows, -1, C]) };
  let x = graph.input("x", "F32", [rows, "L", C]);
  if (leave !== undefined) {
    const q = graph.input("q", "F32", [rows, "L", C]);
    const each = { rows, width: C };
    const cache = cacheInputs(graph, each, "keys", "values");
    const text = cacheInputs(graph, each, "textKeys", "textValues");
    const modulation = graph.input("leaving", "F32", [rows, 6, C]);
    x = leaveBlock(make, blocks[leave]!, { x, modulation, q, cache, text });
    graph.output("x_out", x, "F32", [rows, "L", C]);
  }
  if (enter !== undefined) {
    const { q, k, v } = enterBlock(make, blocks[enter]!, folded.temperatures[enter]!, {
      x,
      modulation: graph.input("entering", "F32", [rows, 6, C]),
      rope: ropeInputs(make, "F32"),
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

/** Shape of the keys or values of some tokens: [R, T, C], or [R, H, T, hd] where a whole block is in half precision. */
export function cacheDims<N extends number | string>(
  { width, heads }: InfinityDims,
  { half }: GraphForm,
  rows: N,
  tokens: N,
): (N | number)[] {
  return half === "block" ? [rows, heads, tokens, width / heads] : [rows, tokens, width];
}

/** Element type of what a whole block in half precision reads of its text. */
export function textElement({ half }: GraphForm): "F16" | "F32" {
  return half === "block" ? "F16" : "F32";
}

/** Element type of rotation tables: ONNX Runtime's operator wants that of what it rotates. */
export function tableElement({ half, fused }: GraphForm): "F16" | "F32" {
  return half === "block" && !fused ? "F16" : "F32";
}

/**
 * A whole chunk, for devices with memory of their own: what links write behind the past in place, it concatenates. Batch rows
 * R share one cache tensor, as many as are run: weights are held once however many there are.
 *
 * Inputs: x [R, L, C] and its `shape`, positions [R, L] or [1], cos, sin [M, hd/2]; of each layer l of the chunk (counted from 0)
 * modulation.l [R, 6, C], keys.l, values.l, the past of P tokens, which may be none, and textKeys.l, textValues.l [R, T, C].
 * Outputs: x_out [R, L, C], and newKeys.l, newValues.l of P + L tokens. In half precision the cache is held in it, too.
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
  let x = graph.input("x", "F32", ["R", "L", C]);
  const shape = graph.input("shape", "I64", [3]);
  const shaped = (y: Value): Value => graph.op("Reshape", [y, shape]);
  const make = { graph, dims, rows: 1, shaped, quantised: () => undefined };
  const [stored, ofText] = [cacheElement(form), textElement(form)];
  const rope = ropeInputs(make, tableElement(form));
  const fused: FusedBlock[] = [];
  const present = (layer: number, all: { keys: Value; values: Value }): void => {
    graph.output(`newKeys.${layer}`, all.keys, stored, cacheDims(dims, form, "R", "P+L"));
    graph.output(`newValues.${layer}`, all.values, stored, cacheDims(dims, form, "R", "P+L"));
  };
  for (let layer = 0; layer < per; layer++) {
    const block = blocks[chunk * per + layer]!;
    const temperature = folded.temperatures[chunk * per + layer]!;
    const modulation = graph.input(`modulation.${layer}`, "F32", ["R", 6, C]);
    const text = {
      keys: [graph.input(`textKeys.${layer}`, ofText, ["R", "T", C])],
      values: [graph.input(`textValues.${layer}`, ofText, ["R", "T", C])],
    };
    const input = (name: string): Value => graph.input(`${name}.${layer}`, stored, cacheDims(dims, form, "R", "P"));
    const past = { keys: input("keys"), values: input("values") };
    if (form.fused) {
      fused.push({ weights: block, temperature, modulation, text, past });
      continue;
    }
    if (form.half === "block") {
      const made = halfBlock(make, block, temperature, { x, modulation, rope, text, past });
      present(layer, made.present);
      x = made.x;
      continue;
    }
    const { q, k, v } = enterBlock(make, block, temperature, { x, modulation, rope });
    const extend = (old: Value, fresh: Value): Value =>
      graph.op("Concat", [old, form.half ? graph.cast(fresh, stored) : fresh], { axis: 1 });
    const all = { keys: extend(past.keys, k), values: extend(past.values, v) };
    present(layer, all);
    // temperatures go to 100: scores in float16 would be off by 1/16
    const read = (value: Value): Value => form.half ? graph.cast(value, "F32") : value;
    const cache = { keys: [read(all.keys)], values: [read(all.values)] };
    x = leaveBlock(make, block, { x, modulation, q, cache, text });
  }
  if (fused.length > 0) {
    const made = fusedBlocks(make, fused, rope, x);
    made.present.forEach((all, layer) => present(layer, all));
    x = made.x;
  }
  graph.output("x_out", x, "F32", ["R", "L", C]);
  return graph;
}

/** Rows `from` to `to` of every tensor of a chunk's cache: `keys.l`, `values.l` -> `cutKeys.l`, `cutValues.l`. */
export function cutGraph(dims: InfinityDims, [from, to]: readonly [number, number], form: GraphForm): Graph {
  const graph = new Graph(`rows ${from} to ${to} of a cache`);
  const element = cacheElement(form);
  for (let layer = 0; layer < dims.depth / dims.chunks; layer++) {
    for (const kind of ["Keys", "Values"]) {
      const all = graph.input(`${kind.toLowerCase()}.${layer}`, element, cacheDims(dims, form, "R", "P"));
      graph.output(`cut${kind}.${layer}`, batchRows(graph, all, from, to), element, [
        to - from,
        ...cacheDims(dims, form, "R", "P").slice(1),
      ]);
    }
  }
  return graph;
}

/**
 * Texts as one: every output of {@linkcode textGraph} but `cond` and `ctx`, `0.*` and perhaps `1.*` [1, ...] -> [texts images, ...],
 * as many times as there are images, the first text's rows first.
 */
export function joinGraph({ width: C, depth }: InfinityDims, form: GraphForm, texts: number, images: number): Graph {
  const graph = new Graph(`${texts} texts of ${images} images as one`);
  const join = (name: string, element: ElementName, dims: readonly (number | string)[]): void => {
    const rows = Array.from({ length: texts }, (_, text) => graph.input(`${text}.${name}`, element, [1, ...dims]));
    const all = rows.flatMap((row) => Array.from({ length: images }, () => row));
    graph.output(name, graph.op("Concat", all, { axis: 0 }), element, [all.length, ...dims]);
  };
  join("start", "F32", [1, C]);
  join("head", "F32", [2, C]);
  for (let layer = 0; layer < depth; layer++) {
    join(`modulation.${layer}`, "F32", [6, C]);
    join(`key.${layer}`, textElement(form), ["T", C]);
    join(`value.${layer}`, textElement(form), ["T", C]);
  }
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
