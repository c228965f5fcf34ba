/**
 * A transformer block in two halves, as graphs join them: entering it ends with q, k, v, leaving it begins with attention
 * over all keys and values there are (infinity.md §3).
 *
 * @module
 */
import type { TensorRef } from "../../checkpoint/source.ts";
import type { Graph, Value } from "../../graph/graph.ts";
import {
  attendRowwise,
  gelu,
  LAYER_NORM,
  outputRows,
  plainNorm,
  type Rope,
  rotate,
  type RowCaches,
  unit,
} from "../block_parts.ts";
import type { QuantisedLookup } from "./quantised.ts";
import type { BlockWeights, InfinityDims } from "./weights.ts";

/** Small tensors that are folded into the graphs, read beforehand. */
export interface FoldedWeights {
  /** exp(min(scale_mul, ln 100)) of every block, [D][H]: the temperature of cosine attention (§3.3). */
  readonly temperatures: readonly Float32Array[];
  /** Row of class 1 minus row of class 0 of the head, a column each, [C, d_tok]: only the difference matters (§4.3). */
  readonly headWeight: Float32Array;
  /** The same difference of its bias, [d_tok]. */
  readonly headBias: Float32Array;
}

/** What blocks are built with. */
export interface BlockMaker {
  /** Graph under construction. */
  readonly graph: Graph;
  /** Dimensions of the model. */
  readonly dims: InfinityDims;
  /** Caches that batch rows have of their own, one each; 1 where all rows lie in one. */
  readonly rows: number;
  /** x [M, C] as tokens of batch rows, [R, L, C]. */
  readonly shaped: (x: Value) => Value;
  /** Copies of the linear layers. */
  readonly quantised: QuantisedLookup;
}

/** Declares the inputs of a {@linkcode Rope}, its tables in the element type of what they rotate. */
export function ropeInputs({ graph, dims: { width, heads } }: BlockMaker, element: "F16" | "F32"): Rope {
  return {
    positions: graph.input("positions", "I64"),
    cos: graph.input("cos", element, ["M", width / heads / 2]),
    sin: graph.input("sin", element, ["M", width / heads / 2]),
  };
}

/** Norm, modulation and q, k, v of a block, each [R, L, C]; q and k are directions, placed and q scaled (§3.3). */
export function enterBlock(
  { graph, dims, shaped, quantised }: BlockMaker,
  block: BlockWeights,
  temperature: Float32Array,
  { x, modulation, rope }: { x: Value; modulation: Value; rope: Rope },
): { q: Value; k: Value; v: Value } {
  const { width: C, heads } = dims;
  const { scale1, shift1 } = modulations(graph, modulation);
  const y = graph.reshape(modulate(graph, x, scale1, shift1, C), [-1, C]);
  const qkv = block["sa.mat_qkv.weight"]!;
  const direction = (value: Value, temperature?: Float32Array): Value =>
    rotate(graph, shaped(unit(graph, value, dims, temperature)), rope, heads);
  const q = linear(graph, y, outputRows(qkv, 0, C), block["sa.q_bias"]!, quantised);
  const k = linear(graph, y, outputRows(qkv, C, 2 * C), undefined, quantised);
  const v = linear(graph, y, outputRows(qkv, 2 * C, 3 * C), block["sa.v_bias"]!, quantised);
  return { q: direction(q, temperature), k: direction(k), v: shaped(v) };
}

/** The six adaLN vectors of a block, each [R, 1, C]; both scales have their 1 added (§3.1). */
export interface Modulations {
  /** Factor of what attention adds. */
  readonly gamma1: Value;
  /** Factor of what the feed-forward layer adds. */
  readonly gamma2: Value;
  /** Scale of the norm before attention. */
  readonly scale1: Value;
  /** Scale of the norm before the feed-forward layer. */
  readonly scale2: Value;
  /** Shift of the norm before attention. */
  readonly shift1: Value;
  /** Shift of the norm before the feed-forward layer. */
  readonly shift2: Value;
}

/**
 * What a prompt modulates a block with, [1, 6, C]: the shared adaLN vectors and the block's own, 1 added to both scales. Gammas
 * are larger by `gain`.
 */
export function modulationOf(graph: Graph, ada: Value, block: BlockWeights, C: number, gain: number): Value {
  const own = graph.reshape(graph.weight(block["ada_gss"]!), [1, 6, C]);
  const ones = graph.op("Add", [own, graph.floats([0, 0, 1, 1, 0, 0], [1, 6, 1])]);
  const sum = graph.op("Add", [graph.reshape(ada, [0, 6, C]), ones]);
  return gain === 1 ? sum : graph.op("Mul", [sum, graph.floats([gain, gain, 1, 1, 1, 1], [1, 6, 1])]);
}

/** The parts of a modulation [R, 6, C]. */
export function modulations(graph: Graph, modulation: Value): Modulations {
  const [gamma1, gamma2, scale1, scale2, shift1, shift2] = graph.split(modulation, 6, 1);
  return { gamma1, gamma2, scale1, scale2, shift1, shift2 } as Modulations;
}

/** Attention over the cache, cross attention, feed-forward (§3.2). */
export function leaveBlock(
  make: BlockMaker,
  block: BlockWeights,
  input: { x: Value; modulation: Value; q: Value; cache: RowCaches; text: RowCaches },
): Value {
  const { graph, shaped, dims: { width: C }, quantised } = make;
  const { gamma1, gamma2, scale2, shift2 } = modulations(graph, input.modulation);
  const project = (from: Value, name: string): Value =>
    shaped(
      linear(graph, graph.reshape(from, [-1, C]), block[`${name}.weight`]!, block[`${name}.bias`]!, quantised),
    );
  const a = attendRowwise(graph, input.q, input.cache, make.dims, 1);
  let x = add(graph, input.x, graph.op("Mul", [project(a, "sa.proj"), gamma1]));

  const z = graph.op("LayerNormalization", [
    x,
    graph.weight(block["ca_norm.weight"]!),
    graph.weight(block["ca_norm.bias"]!),
  ], LAYER_NORM);
  const c = attendRowwise(graph, project(z, "ca.mat_q"), input.text, make.dims);
  x = add(graph, x, project(c, "ca.proj"));

  const y = graph.reshape(modulate(graph, x, scale2, shift2, C), [-1, C]);
  const f = gelu(graph, linear(graph, y, block["ffn.fc1.weight"]!, block["ffn.fc1.bias"]!, quantised));
  const out = shaped(linear(graph, f, block["ffn.fc2.weight"]!, block["ffn.fc2.bias"]!, quantised));
  return add(graph, x, graph.op("Mul", [out, gamma2]));
}

/** A linear layer of a block: on its eight-bit copy where there is one, or in half precision. */
function linear(
  graph: Graph,
  x: Value,
  weight: TensorRef,
  bias: TensorRef | undefined,
  quantised: QuantisedLookup,
): Value {
  const copy = quantised(weight);
  if (copy) return graph.quantisedLinear(x, copy, bias);
  return graph.form.half ? graph.halfLinear(x, weight, bias) : graph.linear(x, weight, bias);
}

/** Declares a value [R, L, C] as outputs `name.r` [1, L, C]. */
export function outputRowwise({ graph, dims, rows }: BlockMaker, name: string, value: Value): void {
  const parts = rows === 1 ? [value] : graph.split(value, rows, 0);
  parts.forEach((part, r) => graph.output(`${name}.${r}`, part, "F32", [1, "L", dims.width]));
}

/** LN(x) * scale + shift, LN without affine (§3.1): x [R, L, C], scale and shift [R, 1, C]. */
export function modulate(graph: Graph, x: Value, scale: Value, shift: Value, C: number): Value {
  if (graph.form.norms === "rowwise") return graph.op("LayerNormalization", [x, scale, shift], LAYER_NORM);
  return add(graph, graph.op("Mul", [plainNorm(graph, x, C), scale]), shift);
}

function add(graph: Graph, a: Value, b: Value): Value {
  return graph.op("Add", [a, b]);
}
