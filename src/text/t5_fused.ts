/**
 * The T5 encoder in half precision for CUDA, where operators of our own do what lies between two products (runtime/fused_ops.ts).
 *
 * The residual stream stays float32. What is normalised, or an average of what comes of that, is small enough for float16; the
 * gated product of the feed-forward layer is not (infinity.md §2.2), so its rows are divided by their largest magnitude.
 *
 * @module
 */
import { Graph, type Value } from "../graph/graph.ts";
import { fused } from "../runtime/fused_ops.ts";
import type { T5Dims, T5Weights } from "./t5_encoder.ts";

/** Whether the operators take an encoder: pairs of values, rows of a block's threads, heads of its shared memory. */
export function fitsFusedT5({ width, inner, heads, ffn }: T5Dims): boolean {
  const hd = inner / heads;
  return width % 4 === 0 && width <= 8192 && ffn % 2 === 0 && hd % 2 === 0 && hd <= 128;
}

/** Token ids [T] and distance buckets [T, T] -> features [T, D], as `t5Graph`. */
export function fusedT5Graph({ dims, tensors }: T5Weights): Graph {
  const graph = new Graph("t5 encoder", { half: "block", fused: true });
  const own = fused.bind(undefined, graph);
  const weight = (name: string): Value => graph.weight(tensors[name]!);
  const product = (x: Value, name: string): Value =>
    graph.op("Gemm", [x, graph.halfWeight(tensors[name]!)], { transB: 1 });
  const epsilon = { epsilon_float: { float: dims.epsilon } };

  const ids = graph.input("ids", "I64", ["T"]);
  const buckets = graph.input("buckets", "I64", ["T", "T"]);
  const table = weight("encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight");
  let x = graph.gather(tensors["shared.weight"]!, ids);
  let [y] = own("RootNorm", [x, weight("encoder.block.0.layer.0.layer_norm.weight")], epsilon) as [Value];
  for (let layer = 0; layer < dims.depth; layer++) {
    const block = `encoder.block.${layer}.layer.`, dense = `${block}1.DenseReluDense`;
    const [q, k, v] = ["q", "k", "v"].map((part) => product(y, `${block}0.SelfAttention.${part}.weight`)) as [
      Value,
      Value,
      Value,
    ];
    const [a] = own("BiasedAttention", [q, k, v, table, buckets]) as [Value];
    const attended = product(a, `${block}0.SelfAttention.o.weight`);
    [x, y] = own("AddRootNorm", [x, attended, weight(`${block}1.layer_norm.weight`)], epsilon) as [Value, Value];
    const [gated, peak] = own("GatedGelu", [product(y, `${dense}.wi_0.weight`), product(y, `${dense}.wi_1.weight`)]);
    const grown = [x, product(gated!, `${dense}.wo.weight`), peak!];
    [x, y] = layer + 1 < dims.depth
      ? own(
        "ScaledAddRootNorm",
        [...grown, weight(`encoder.block.${layer + 1}.layer.0.layer_norm.weight`)],
        epsilon,
      ) as [
        Value,
        Value,
      ]
      : [own("ScaledAdd", grown)[0]!, y];
  }
  const features = graph.op("SimplifiedLayerNormalization", [x, weight("encoder.final_layer_norm.weight")], {
    axis: -1,
    epsilon: { float: dims.epsilon },
  });
  graph.output("features", features, "F32", ["T", dims.width]);
  return graph;
}
