/**
 * What a prompt comes down to, in half precision for CUDA, where operators of our own do what lies between two products
 * (runtime/fused_ops.ts): the mathematics of `textGraph`.
 *
 * Rows are divided by their largest magnitude before every product, and what must be float32 afterwards (conditions, the text's
 * projection) is multiplied by it there; keys and values are float16, as the blocks want them.
 *
 * @module
 */
import type { TensorRef } from "../../checkpoint/source.ts";
import { Graph, type HalfRows, type Value } from "../../graph/graph.ts";
import { fused } from "../../runtime/fused_ops.ts";
import { gelu, LAYER_NORM, outputRows } from "../block_parts.ts";
import { HEADROOM } from "./half_block.ts";
import type { InfinityWeights } from "./weights.ts";

/** T5 features [T, Dt] -> everything the scales read of a prompt (§2.4-2.8); outputs as `textGraph`'s. */
export function fusedTextGraph({ dims, outer, blocks }: InfinityWeights): Graph {
  const { width: C, textDim } = dims;
  const graph = new Graph("text", { half: "block", fused: true });
  const weight = (name: string): TensorRef => outer[name]!;
  const keyValue = ({ half, peak }: HalfRows, matrix: TensorRef, bias: TensorRef): [Value, Value] => {
    const product = graph.op("Gemm", [half, graph.halfWeight(matrix)], { transB: 1 });
    return fused(graph, "EnterText", [product, peak, graph.weight(bias)]) as [Value, Value];
  };
  const features = graph.input("features", "F32", ["T", textDim]);
  const normed = graph.op(
    "SimplifiedLayerNormalization",
    [features, graph.weight(weight("text_norm.weight"))],
    LAYER_NORM,
  );

  // the pooled prompt: start token and adaLN condition (§2.5, §2.7)
  const pool = "text_proj_for_sos.ca.";
  const [poolKeys, poolValues] = keyValue(
    graph.halfRows(normed),
    weight(`${pool}mat_kv.weight`),
    weight(`${pool}v_bias`),
  );
  const query = graph.cast(graph.reshape(graph.weight(weight(`${pool}mat_q`)), [1, 1, C]), "F16");
  const pooled = graph.attention(query, poolKeys, poolValues, { heads: dims.poolHeads, width: C });
  const linear = (x: Value, name: string): Value =>
    graph.halfLinear(x, weight(`${name}.weight`), weight(`${name}.bias`));
  const cond = linear(graph.cast(graph.reshape(pooled, [1, C]), "F32"), `${pool}proj`);
  const silu = graph.op("Mul", [cond, graph.op("Sigmoid", [cond])]);
  const level = graph.weight(outputRows(weight("lvl_embed.weight"), 0, 1));
  const first = graph.op("Add", [graph.reshape(graph.weight(weight("pos_start")), [1, C]), level]);
  const start = graph.reshape(graph.op("Add", [cond, first]), [1, 1, C]);
  const head = graph.reshape(linear(silu, "head_nm.ada_lin.1"), [1, 2, C]);
  const ada = linear(silu, "shared_ada_lin.1");

  // the words themselves, for cross attention (§2.6)
  const ctx = linear(gelu(graph, linear(normed, "text_proj_for_ca.0")), "text_proj_for_ca.2");
  const words = graph.halfRows(ctx);

  graph.output("cond", cond, "F32", [1, C]);
  graph.output("start", start, "F32", [1, 1, C]);
  graph.output("head", graph.op("Add", [head, graph.floats([1, 0], [1, 2, 1])]), "F32", [1, 2, C]);
  graph.output("ctx", ctx, "F32", ["T", C]);
  blocks.forEach((block, layer) => {
    const own = [ada, graph.weight(block["ada_gss"]!)];
    const [modulation] = fused(graph, "Modulation", own, { headroom: HEADROOM }) as [Value];
    graph.output(`modulation.${layer}`, modulation, "F32", [1, 6, C]);
    const [keys, values] = keyValue(words, block["ca.mat_kv.weight"]!, block["ca.v_bias"]!);
    graph.output(`key.${layer}`, keys, "F16", [1, "T", C]);
    graph.output(`value.${layer}`, values, "F16", [1, "T", C]);
  });
  return graph;
}
