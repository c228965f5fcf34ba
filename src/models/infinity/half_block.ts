/**
 * A transformer block in half precision, for devices whose matrix units want it (infinity.md §3): products and attention take
 * float16 and add in float32; residuals, norms and the logits behind the blocks stay float32.
 *
 * Nothing grows in float16: what enters a product is normalised, an average of such, or a GELU of it. The two products that
 * trained models let grow, into the residual, come out smaller by {@linkcode HEADROOM}, which their gammas make good.
 *
 * @module
 */
import { MICROSOFT, type Value } from "../../graph/graph.ts";
import { LAYER_NORM, type Rope, rotate, type RowCaches } from "../block_parts.ts";
import { type BlockMaker, modulate, modulations } from "./block.ts";
import type { BlockWeights } from "./weights.ts";

/** What attention's and the feed-forward's outputs are divided by in float16; the modulation's gammas are larger by it. */
export const HEADROOM = 64;

/** What a block reads besides x. */
export interface HalfBlockInput {
  /** Tokens [R, L, C], float32. */
  readonly x: Value;
  /** Modulation [R, 6, C], gammas times {@linkcode HEADROOM}. */
  readonly modulation: Value;
  /** Where tokens sit; tables in float16. */
  readonly rope: Rope;
  /** Keys and values of the text, float16. */
  readonly text: RowCaches;
  /** Keys and values of earlier scales [R, H, P, hd], float16. */
  readonly past: { readonly keys: Value; readonly values: Value };
}

/** What a block gives. */
export interface HalfBlockOutput {
  /** Tokens [R, L, C], float32. */
  readonly x: Value;
  /** Keys and values of all scales so far, [R, H, P + L, hd], float16. */
  readonly present: { readonly keys: Value; readonly values: Value };
}

/**
 * x [R, L, C] through a block.
 *
 * Attention joins new keys and values to the past itself: a Concat of parts that differ in size reads a table from host memory,
 * which a recorded run would find changed.
 */
export function halfBlock(
  { graph, dims: { width: C, heads }, shaped }: BlockMaker,
  block: BlockWeights,
  temperature: Float32Array,
  { x, modulation, rope, text, past }: HalfBlockInput,
): HalfBlockOutput {
  const hd = C / heads;
  const { gamma1, gamma2, scale1, scale2, shift1, shift2 } = modulations(graph, modulation);
  const flat = (y: Value): Value => graph.reshape(y, [-1, C]);
  const half = (y: Value): Value => graph.cast(flat(y), "F16");
  const single = (y: Value): Value => graph.cast(shaped(y), "F32");
  const bias = (name: string): Value => graph.halfWeight(block[name]!);
  const linear = (y: Value, name: string, attributes = {}): Value =>
    graph.op("Gemm", [y, graph.halfWeight(block[`${name}.weight`]!), bias(`${name}.bias`)], {
      transB: 1,
      ...attributes,
    });
  const smaller = { alpha: { float: 1 / HEADROOM }, beta: { float: 1 / HEADROOM } };

  // self attention over the cache; queries and keys are directions (§3.3)
  const y = half(modulate(graph, x, scale1, shift1, C));
  const noKeyBias = graph.floats(new Float32Array(C));
  const three = [graph.weight(block["sa.q_bias"]!), noKeyBias, graph.weight(block["sa.v_bias"]!)];
  const biases = graph.cast(graph.op("Concat", three, { axis: 0 }), "F16");
  const qkv = graph.op("Gemm", [y, graph.halfWeight(block["sa.mat_qkv.weight"]!), biases], { transB: 1 });
  const [q, k, v] = graph.split(qkv, 3, 1) as [Value, Value, Value];
  const tiny = { axis: -1, epsilon: { float: 1e-24 / hd } };
  const direction = (z: Value, scales: (head: number) => number): Value => {
    const scale = Float32Array.from({ length: C }, (_, i) => scales(Math.floor(i / hd)) / Math.sqrt(hd));
    const inputs = [graph.reshape(z, [-1, heads, hd]), graph.cast(graph.floats(scale, [1, heads, hd]), "F16")];
    return rotate(graph, shaped(graph.op("SimplifiedLayerNormalization", inputs, tiny)), rope, heads);
  };
  const query = direction(q, (head) => temperature[head]!);
  const inputs = [query, direction(k, () => 1), shaped(v), null, null, null, past.keys, past.values];
  const attributes = { num_heads: heads, scale: { float: 1 } };
  const [a, keys, values] = graph.ops("MultiHeadAttention", inputs, 3, attributes, MICROSOFT) as [Value, Value, Value];
  const added = graph.op("Mul", [single(linear(flat(a), "sa.proj", smaller)), gamma1]);

  // cross attention; the norm's operator adds, too
  const affine = ["weight", "bias"].map((part) => graph.weight(block[`ca_norm.${part}`]!));
  const { epsilon } = LAYER_NORM;
  const [normed, , , residual] = graph.ops(
    "SkipLayerNormalization",
    [added, x, ...affine],
    4,
    { epsilon },
    MICROSOFT,
  ) as [Value, Value, Value, Value];
  const asked = shaped(linear(half(normed), "ca.mat_q"));
  const c = graph.attention(asked, text.keys[0]!, text.values[0]!, { heads, width: C });
  const sum = graph.op("Add", [residual, single(linear(flat(c), "ca.proj"))]);

  // feed-forward
  const grown = [half(modulate(graph, sum, scale2, shift2, C)), graph.halfWeight(block["ffn.fc1.weight"]!)];
  const f = graph.op("FastGelu", [graph.op("Gemm", grown, { transB: 1 }), bias("ffn.fc1.bias")], {}, MICROSOFT);
  const grownBack = graph.op("Mul", [single(linear(f, "ffn.fc2", smaller)), gamma2]);
  return { x: graph.op("Add", [sum, grownBack]), present: { keys, values } };
}
