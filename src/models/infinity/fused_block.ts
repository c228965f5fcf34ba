/**
 * The blocks of a chunk in half precision, where operators of our own do what lies between two products (runtime/fused_ops.ts): the
 * mathematics of half_block.ts in a third of its kernels.
 *
 * @module
 */
import { MICROSOFT, type Value } from "../../graph/graph.ts";
import { fused } from "../../runtime/fused_ops.ts";
import type { Rope, RowCaches } from "../block_parts.ts";
import type { BlockMaker } from "./block.ts";
import { HEADROOM } from "./half_block.ts";
import type { BlockWeights, InfinityDims } from "./weights.ts";

/** Numbers of the vectors of a modulation [R, 6, C] (infinity.md §3.1). */
const VECTOR = { gamma1: 0, gamma2: 1, scale1: 2, scale2: 3, shift1: 4, shift2: 5 } as const;

/** A block and what it reads. */
export interface FusedBlock {
  /** Its weights. */
  readonly weights: BlockWeights;
  /** Temperature of every head. */
  readonly temperature: Float32Array;
  /** Modulation [R, 6, C], gammas times {@linkcode HEADROOM}. */
  readonly modulation: Value;
  /** Keys and values of the text, float16. */
  readonly text: RowCaches;
  /** Keys and values of earlier scales [R, H, P, hd], float16. */
  readonly past: { readonly keys: Value; readonly values: Value };
}

/** Whether the operators take a model's width: heads are copied sixteen bytes at a time, and a warp each. */
export function fitsFused({ width, heads }: Pick<InfinityDims, "width" | "heads">): boolean {
  const hd = width / heads;
  return hd % 8 === 0 && hd <= 256 && heads <= 32 && width <= 8192;
}

/**
 * x [R, L, C] through blocks -> x, and keys and values of all scales so far of each block, [R, H, P + L, hd].
 *
 * @param rope tables in float32
 */
export function fusedBlocks(
  { graph, dims: { width: C, heads }, shaped }: BlockMaker,
  blocks: readonly FusedBlock[],
  rope: Rope,
  x: Value,
): { x: Value; present: { keys: Value; values: Value }[] } {
  const own = fused.bind(undefined, graph);
  const flat = (y: Value): Value => graph.reshape(y, [-1, C]);
  const smaller = { alpha: { float: 1 / HEADROOM } };
  const headroom = HEADROOM;
  const first = { scale: VECTOR.scale1, shift: VECTOR.shift1 }, second = { scale: VECTOR.scale2, shift: VECTOR.shift2 };
  const present: { keys: Value; values: Value }[] = [];

  let [y] = own("ModulatedNorm", [x, blocks[0]!.modulation], first) as [Value];
  for (const [layer, { weights, temperature, modulation, text, past }] of blocks.entries()) {
    const weight = (name: string): Value => graph.weight(weights[name]!);
    const product = (z: Value, name: string, attributes = {}): Value =>
      graph.op("Gemm", [z, graph.halfWeight(weights[`${name}.weight`]!)], { transB: 1, ...attributes });

    const biases = [weight("sa.q_bias"), weight("sa.v_bias")];
    const placed = [graph.floats(temperature), rope.positions, rope.cos, rope.sin];
    const [q, keys, values] = own("EnterCache", [
      product(y, "sa.mat_qkv"),
      ...biases,
      ...placed,
      past.keys,
      past.values,
    ]) as [Value, Value, Value];
    present.push({ keys, values });
    const attributes = { num_heads: heads, scale: { float: 1 } };
    const a = graph.op("MultiHeadAttention", [q, keys, values], attributes, MICROSOFT);
    const norm = [weight("ca_norm.weight"), weight("ca_norm.bias")];
    [x, y] = own(
      "GatedAddNorm",
      [x, product(flat(a), "sa.proj", smaller), weight("sa.proj.bias"), modulation, ...norm],
      {
        gate: VECTOR.gamma1,
        headroom,
      },
    ) as [Value, Value];

    const [asked] = own("AddBias", [product(y, "ca.mat_q"), weight("ca.mat_q.bias")]) as [Value];
    const c = graph.attention(shaped(asked), text.keys[0]!, text.values[0]!, { heads, width: C });
    const added = [x, product(flat(c), "ca.proj"), weight("ca.proj.bias"), modulation];
    [x, y] = own("AddModulatedNorm", added, second) as [Value, Value];

    const [f] = own("BiasGelu", [product(y, "ffn.fc1"), weight("ffn.fc1.bias")]) as [Value];
    const grown = [x, product(f, "ffn.fc2", smaller), weight("ffn.fc2.bias"), modulation];
    const gate = { gate: VECTOR.gamma2, headroom };
    const next = blocks[layer + 1];
    [x, y] = next
      ? own("GatedAddModulatedNorm", [...grown, next.modulation], { ...gate, ...first }) as [Value, Value]
      : [own("GatedAdd", grown, gate)[0]!, y];
  }
  return { x, present };
}
