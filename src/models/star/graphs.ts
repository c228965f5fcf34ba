/**
 * The graphs of a STAR transformer: text, word embedding, blocks, head (star.md §5-8).
 *
 * As Infinity's, a block is cut where its keys and values are complete, so that new ones are written behind the past they
 * extend. All batch rows of some tokens go through a link together, because cross attention is one row's: upstream adds what
 * the conditional row's gives to both (star.md §6, Q1), which every released model was trained or at least released with.
 *
 * Letters: R rows of the batch, B of them of one kind, L tokens of this scale, T tokens of the cache or of a text, C width.
 *
 * @module
 */
import type { TensorRef } from "../../checkpoint/source.ts";
import type { GraphForm } from "../../graph/form.ts";
import { batchRows, Graph, type Value } from "../../graph/graph.ts";
import { attendRowwise, cacheInputs, gelu, outputRows, plainNorm, rotate, unit } from "../block_parts.ts";
import type { StarBlockWeights, StarWeights } from "./weights.ts";

/** Small tensors that are folded into the graphs, read beforehand: exp(min(scale_mul, ln 100)) of every block, [D][H] (§6). */
export interface StarTemperatures {
  /** Of self attention. */
  readonly self: readonly Float32Array[];
  /** Of cross attention. */
  readonly cross: readonly Float32Array[];
}

/** Rows of a batch, and how many of them are of one kind. */
export interface StarRows {
  /** R, conditional ones first. */
  readonly rows: number;
  /** B: the first B rows' cross attention serves all. */
  readonly images: number;
}

/**
 * What a prompt comes down to (§5, §6): features [T, Dt] and pooled [1, Dt] -> start [1, 1, C], the token of scale 0, and key.l,
 * value.l [1, T, C] of every block's cross attention, keys of unit length.
 */
export function starTextGraph({ dims, outer, blocks }: StarWeights, form: GraphForm): Graph {
  const { width: C, textDim } = dims;
  const graph = new Graph("text", form);
  const features = graph.input("features", "F32", ["T", textDim]);
  const pooled = graph.input("pooled", "F32", [1, textDim]);
  const projected = graph.linear(pooled, outer["encoder_proj.weight"]!, outer["encoder_proj.bias"]!);
  const start = graph.op("Add", [
    graph.op("Add", [projected, graph.reshape(graph.weight(outer["pos_start"]!), [1, C])]),
    graph.weight(outputRows(outer["lvl_embed.weight"]!, 0, 1)),
  ]);
  graph.output("start", graph.reshape(start, [1, 1, C]), "F32", [1, 1, C]);
  blocks.forEach((block, layer) => {
    const both = block["cross_attn.mat_kv.weight"]!;
    const key = graph.linear(features, outputRows(both, 0, C));
    const value = graph.linear(features, outputRows(both, C, 2 * C), block["cross_attn.v_bias"]!);
    graph.output(`key.${layer}`, graph.reshape(unit(graph, key, dims), [1, -1, C]), "F32", [1, "T", C]);
    graph.output(`value.${layer}`, graph.reshape(value, [1, -1, C]), "F32", [1, "T", C]);
  });
  return graph;
}

/** Running latents at this scale's grid -> tokens with their level embedding (§5): u [B L, d] -> x [B L, C]. */
export function starEmbedGraph({ dims, outer }: StarWeights): Graph {
  const graph = new Graph("word_embed");
  const u = graph.input("u", "F32", ["BL", dims.codeDim]);
  const scale = graph.input("scale", "I64", [1]);
  const level = graph.op("Gather", [graph.weight(outer["lvl_embed.weight"]!), scale], { axis: 0 });
  const x = graph.linear(u, outer["word_embed.weight"]!, outer["word_embed.bias"]!);
  graph.output("x", graph.op("Add", [x, level]), "F32", ["BL", dims.width]);
  return graph;
}

/** Tokens -> logits of every code (§8.2): x [M, C] -> [M, V]. */
export function starHeadGraph({ dims, outer }: StarWeights, form: GraphForm): Graph {
  const { width: C, vocabulary } = dims;
  const graph = new Graph("head", form);
  const normed = plainNorm(graph, graph.input("x", "F32", ["M", C]), C);
  const logits = graph.linear(normed, outer["head_logits.weight"]!, outer["head_logits.bias"]!);
  graph.output("logits", logits, "F32", ["M", vocabulary]);
  return graph;
}

/**
 * A link: leaves block `leave` and enters block `enter`; the first link only enters, the last only leaves.
 *
 * Inputs, a row r: x.r [1, L, C]; to leave q.r [1, L, C] and the cache keys.r, values.r [1, T, C], and the one text's
 * textKeys.i, textValues.i [1, T, C] for every image i; to enter positions [R, L] or [1] into the tables cos, sin [M, hd/2] of the
 * scale. Outputs, a row r: x_out.r; and query.r, key.r, value.r [1, L, C].
 */
export function starLinkGraph(
  { dims, blocks }: StarWeights,
  temperatures: StarTemperatures,
  { leave, enter }: { readonly leave: number | undefined; readonly enter: number | undefined },
  { rows, images }: StarRows,
  form: GraphForm,
): Graph {
  const { width: C, heads } = dims;
  const graph = new Graph(
    `block ${[leave, enter].filter((layer) => layer !== undefined).join("-")}, ${rows} rows`,
    form,
  );
  const shaped = (y: Value, count = rows): Value => graph.reshape(y, [count, -1, C]);
  const joined = (name: string): Value => {
    const parts = Array.from({ length: rows }, (_, r) => graph.input(`${name}.${r}`, "F32", [1, "L", C]));
    return rows === 1 ? parts[0]! : graph.op("Concat", parts, { axis: 0 });
  };
  const apart = (name: string, value: Value): void => {
    const parts = rows === 1 ? [value] : graph.split(value, rows, 0);
    parts.forEach((part, r) => graph.output(`${name}.${r}`, part, "F32", [1, "L", C]));
  };
  const add = (a: Value, b: Value): Value => graph.op("Add", [a, b]);
  const normed = (y: Value): Value => graph.reshape(plainNorm(graph, y, C), [-1, C]);
  const project = (from: Value, block: StarBlockWeights, name: string, count = rows): Value => {
    const flat = graph.reshape(from, [-1, C]);
    return shaped(graph.linear(flat, block[`${name}.weight`]!, block[`${name}.bias`]!), count);
  };

  let x = joined("x");
  if (leave !== undefined) {
    const block = blocks[leave]!;
    const q = joined("q");
    const cache = cacheInputs(graph, { rows, width: C }, "keys", "values");
    x = add(x, project(attendRowwise(graph, q, cache, dims, 1), block, "attn.proj"));

    const text = cacheInputs(graph, { rows: images, width: C }, "textKeys", "textValues");
    const own = rows === images ? x : batchRows(graph, x, 0, images);
    const asked = graph.linear(normed(own), block["cross_attn.mat_q.weight"]!, block["cross_attn.q_bias"]!);
    const query = shaped(unit(graph, asked, dims, temperatures.cross[leave]!), images);
    const told = project(attendRowwise(graph, query, text, dims, 1), block, "cross_attn.proj", images);
    const copies = images === 1 || rows === images ? told : graph.op("Concat", [told, told], { axis: 0 });
    x = add(x, copies); // one image's is added to both of its rows

    const hidden = graph.linear(normed(x), block["ffn.fc1.weight"]!, block["ffn.fc1.bias"]!);
    x = add(x, shaped(graph.linear(gelu(graph, hidden), block["ffn.fc2.weight"]!, block["ffn.fc2.bias"]!)));
    apart("x_out", x);
  }
  if (enter !== undefined) {
    const block = blocks[enter]!;
    const rope = {
      positions: graph.input("positions", "I64"),
      cos: graph.input("cos", "F32", ["M", C / heads / 2]),
      sin: graph.input("sin", "F32", ["M", C / heads / 2]),
    };
    const y = normed(x);
    const part = (index: number, bias?: TensorRef): Value =>
      graph.linear(y, outputRows(block["attn.mat_qkv.weight"]!, index * C, (index + 1) * C), bias);
    // turning keeps lengths: the norm may come first (§7)
    const direction = (value: Value, temperature?: Float32Array): Value =>
      rotate(graph, shaped(unit(graph, value, dims, temperature)), rope, heads);
    apart("query", direction(part(0, block["attn.q_bias"]!), temperatures.self[enter]!));
    apart("key", direction(part(1)));
    apart("value", shaped(part(2, block["attn.v_bias"]!)));
  }
  return graph;
}

/** What codes add to the running latent (§8.6): u [B, d, N, N] -> d = u / 2 + conv(u) / 2 by one of the quantiser's convolutions. */
export function residualGraph(
  { weight, bias }: { readonly weight: TensorRef; readonly bias: TensorRef },
  [d, height, width]: readonly [number, number, number],
): Graph {
  const graph = new Graph("residual");
  const dims = ["B", d, height, width];
  const u = graph.input("u", "F32", dims);
  const latent = graph.input("latent", "F32", dims);
  const mixed = graph.op("Conv", [u, graph.weight(weight), graph.weight(bias)], { pads: [1, 1, 1, 1] });
  const half = graph.op("Mul", [graph.op("Add", [u, mixed]), graph.floats([0.5])]);
  graph.output("sum", graph.op("Add", [latent, half]), "F32", dims);
  return graph;
}
