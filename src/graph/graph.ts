/**
 * A typed builder of ONNX graphs whose weights stay where they are: in the checkpoint files.
 *
 * Knows operators' plumbing (names, constants, external data); knows no model. A graph is built once, by plain function
 * calls in execution order, and handed to the runtime, which asks for its bytes with weights referenced (native) or
 * inlined (portable).
 *
 * @module
 */
import { byteLength, isContiguous, readBytes, readTensor, type TensorRef } from "../checkpoint/source.ts";
import {
  type Attribute,
  ELEMENT,
  type ElementName,
  encodeModel,
  type InitializerMessage,
  type NodeMessage,
  type ValueMessage,
} from "./onnx_proto.ts";
import type { GraphForm } from "./form.ts";

/** A value inside one graph: an input, a constant or an operator's output. */
export interface Value {
  /** Unique name inside its graph. */
  readonly name: string;
}

/** Eight bits of every element of a matrix, as (byte - zero) * scale. */
interface Plane {
  readonly bytes: Value;
  readonly scale: Value;
  readonly zero: Value;
}

interface Planes {
  readonly high: Plane;
  /** Made when a layer first asks for it. */
  low(): Plane;
}

/** A matrix [M, K] as half = x / peak in float16. */
export interface HalfRows {
  /** [M, K], float16. */
  readonly half: Value;
  /** Largest magnitude of each row, [M, 1]. */
  readonly peak: Value;
}

/** Attributes of an operator by name. */
export type Attributes = Readonly<Record<string, Attribute>>;

/** A linear weight in eight-bit planes, laid out [in, out]: value = (byte - zero point) * scale of its output channel. */
export interface EightBitWeight {
  /** I8 with zero point 0, or U8 with zero point 128, [in, out]. */
  readonly weight: TensorRef;
  /** Float32 scale of each output channel, [out]. */
  readonly scale: TensorRef;
  /** What rounding to `weight` left over, in units of scale / 254; with it the weight has sixteen bits. */
  readonly low?: TensorRef | undefined;
}

/** Domain of ONNX Runtime's own operators (MultiHeadAttention, FastGelu, RotaryEmbedding). */
export const MICROSOFT = "com.microsoft";

/** Steps of a low plane in one of the high plane: 127 either way. */
export const LOW_STEPS = 254;

const OPSETS: Readonly<Record<string, number>> = { "": 21, [MICROSOFT]: 1 };

/**
 * The folder that external data locations are relative to: the root of the file system, so that weights can lie anywhere.
 *
 * @example
 * ```ts
 * import { externalRoot } from "@stagevar/stagevar/graph/graph.ts";
 * import assert from "node:assert/strict";
 * assert.equal(externalRoot("/models/a/w.pth"), "/");
 * assert.equal(externalRoot("C:\\models\\w.pth"), "C:\\");
 * ```
 */
export function externalRoot(file: string): string {
  return /^[A-Za-z]:[\\/]/.test(file) ? file.slice(0, 3) : "/";
}

/** Batch rows `from` to `to` of x [R, ...]. */
export function batchRows(graph: Graph, x: Value, from: number, to = from + 1): Value {
  return graph.op("Slice", [x, graph.ints([from]), graph.ints([to]), graph.ints([0])]);
}

/**
 * A graph under construction.
 *
 * @example
 * ```ts
 * import { Graph } from "@stagevar/stagevar/graph/graph.ts";
 * import assert from "node:assert/strict";
 * const graph = new Graph("double");
 * const x = graph.input("x", "F32", ["n"]);
 * graph.output("y", graph.op("Add", [x, x]), "F32", ["n"]);
 * assert((await graph.encode("external")).length > 20);
 * ```
 */
export class Graph {
  /** Name, shown in errors and traces. */
  readonly name: string;
  /** Inputs in order of declaration. */
  readonly inputs: ValueMessage[] = [];
  /** Outputs in order of declaration. */
  readonly outputs: ValueMessage[] = [];
  readonly #nodes: NodeMessage[] = [];
  readonly #constants: InitializerMessage[] = [];
  readonly #weights = new Map<string, { name: string; ref: TensorRef }>();
  readonly #casts = new Map<string, Value>();
  readonly #renamed = new Map<string, string>(); // a value's name -> the graph output it became
  readonly #planes = new Map<string, Planes>(); // a value's name -> its eight-bit planes
  readonly #halves = new Map<string, HalfRows>(); // a value's name -> its half-precision form
  /** How it is built. */
  readonly form: GraphForm;
  #count = 0;

  /** Starts an empty graph. */
  constructor(name: string, form: GraphForm = {}) {
    this.name = name;
    this.form = form;
  }

  /** Declares an input; a string dimension is symbolic, and without dimensions it may have any rank. */
  input(name: string, element: ElementName, dims?: readonly (number | string)[]): Value {
    this.inputs.push({ name, element, dims });
    return { name };
  }

  /** Declares `value` as the output `name`. */
  output(name: string, value: Value, element: ElementName, dims?: readonly (number | string)[]): void {
    this.outputs.push({ name, element, dims });
    const produced = this.#nodes.some((node) => node.outputs.includes(value.name));
    if (produced && !this.#renamed.has(value.name)) this.#renamed.set(value.name, name);
    else this.#nodes.push({ type: "Identity", domain: "", inputs: [value.name], outputs: [name], attributes: {} });
  }

  /** A float32 view of a checkpoint tensor; other element types are cast inside the graph. */
  weight(ref: TensorRef): Value {
    const stored = this.#stored(ref);
    const cached = this.#casts.get(stored.name);
    if (cached) return cached;
    const value = this.#isFloat32(ref) ? stored : this.cast(stored, "F32");
    this.#casts.set(stored.name, value);
    return value;
  }

  /** Float32 rows of a checkpoint table; only the rows taken are widened, not the table. */
  gather(table: TensorRef, rows: Value): Value {
    const stored = this.#stored(table);
    const taken = this.op("Gather", [stored, rows], { axis: 0 });
    return this.#isFloat32(table) ? taken : this.cast(taken, "F32");
  }

  /** A float32 constant, held inline. */
  floats(data: ArrayLike<number>, dims: readonly number[] = [data.length]): Value {
    return this.#constant("F32", Float32Array.from(data), dims);
  }

  /** An int64 constant, held inline (shapes, axes, indices). */
  ints(data: readonly number[], dims: readonly number[] = [data.length]): Value {
    return this.#constant("I64", BigInt64Array.from(data, BigInt), dims);
  }

  /** Adds an operator with one output; a null input is an absent optional one. */
  op(type: string, inputs: readonly (Value | null)[], attributes: Attributes = {}, domain = ""): Value {
    return this.ops(type, inputs, 1, attributes, domain)[0]!;
  }

  /** Adds an operator with `count` outputs. */
  ops(
    type: string,
    inputs: readonly (Value | null)[],
    count: number,
    attributes: Attributes = {},
    domain = "",
  ): Value[] {
    const outputs = Array.from({ length: count }, () => `v${this.#count++}`);
    this.#nodes.push({ type, domain, inputs: inputs.map((value) => value?.name ?? ""), outputs, attributes });
    return outputs.map((name) => ({ name }));
  }

  /** y = x W^T + b for a checkpoint's [out, in] weight; x is [M, in]. */
  linear(x: Value, weight: TensorRef, bias?: TensorRef): Value {
    if (this.form.rows === "few") {
      const columns = this.op("Transpose", [x], { perm: [1, 0] });
      const product = this.op("MatMul", [this.weight(weight), columns]);
      const y = this.op("Transpose", [product], { perm: [1, 0] });
      return bias ? this.op("Add", [y, this.weight(bias)]) : y;
    }
    const inputs = [x, this.weight(weight)];
    if (bias) inputs.push(this.weight(bias));
    return this.op("Gemm", inputs, { transB: 1 });
  }

  /**
   * {@linkcode Graph.linear} in integer arithmetic. x is cut into planes of eight bits as it comes, one scale for the whole
   * matrix; of the four products of two planes each, the smallest (low times low) is left out.
   */
  quantisedLinear(x: Value, { weight, scale, low }: EightBitWeight, bias?: TensorRef): Value {
    const signed = weight.dtype === "I8";
    const columns = weight.shape[1]!;
    const zero = signed ? null : this.#constant("U8", new Uint8Array(columns).fill(128), [columns]);
    const scales = this.weight(scale);
    const product = (plane: Plane, side: TensorRef, sideScale: Value, add?: Value): Value =>
      this.op(
        "MatMulIntegerToFloat",
        [
          plane.bytes,
          this.#stored(side),
          plane.scale,
          sideScale,
          plane.zero,
          zero,
          ...add ? [add] : [],
        ],
        {},
        MICROSOFT,
      );
    const planes = this.#planesOf(x);
    const y = product(planes.high, weight, scales, bias && this.weight(bias));
    if (!low) return y;
    const lowScales = this.op("Mul", [scales, this.floats([1 / LOW_STEPS])]);
    const rest = this.op("Add", [product(planes.high, low, lowScales), product(planes.low(), weight, scales)]);
    return this.op("Add", [y, rest]);
  }

  /**
   * {@linkcode Graph.linear} in float16. Rows of x are divided by their largest magnitude before, and the product multiplied
   * by it after, in float32: activations of any size neither overflow nor vanish, and the sums stay below
   * sqrt(K) times the norm of a weight's row.
   */
  halfLinear(x: Value, weight: TensorRef, bias?: TensorRef): Value {
    const rows = this.halfRows(x);
    const product = this.op("Gemm", [rows.half, this.halfWeight(weight)], { transB: 1 });
    const y = this.op("Mul", [this.cast(product, "F32"), rows.peak]);
    return bias ? this.op("Add", [y, this.weight(bias)]) : y;
  }

  /** A matrix in float16, each row divided by its largest magnitude; made once. */
  halfRows(x: Value): HalfRows {
    let rows = this.#halves.get(x.name);
    if (!rows) {
      const largest = this.op("ReduceMax", [this.op("Abs", [x]), this.ints([1])], { keepdims: 1 });
      const peak = this.op("Add", [largest, this.floats([1e-30])]); // a row of zeros stays one
      rows = { half: this.cast(this.op("Div", [x, peak]), "F16"), peak };
      this.#halves.set(x.name, rows);
    }
    return rows;
  }

  /** A checkpoint tensor in float16. */
  halfWeight(ref: TensorRef): Value {
    return ref.dtype === "F16" && isContiguous(ref) ? this.#stored(ref) : this.cast(this.weight(ref), "F16");
  }

  /** x in another element type. */
  cast(x: Value, element: ElementName): Value {
    return this.op("Cast", [x], { to: ELEMENT[element] });
  }

  /** The planes of x, shared by all layers that read it. */
  #planesOf(x: Value): Planes {
    let planes = this.#planes.get(x.name);
    if (!planes) {
      const [bytes, scale, zero] = this.ops("DynamicQuantizeLinear", [x], 3) as [Value, Value, Value];
      let low: Plane | undefined;
      planes = {
        high: { bytes, scale, zero },
        low: () => low ??= this.#lowPlane(x, { bytes, scale, zero }),
      };
      this.#planes.set(x.name, planes);
    }
    return planes;
  }

  /** What rounding x to its high plane left over. */
  #lowPlane(x: Value, high: Plane): Plane {
    const rest = this.op("Sub", [x, this.op("DequantizeLinear", [high.bytes, high.scale, high.zero])]);
    const scale = this.op("Div", [high.scale, this.floats([LOW_STEPS], [])]);
    const zero = this.#constant("U8", Uint8Array.of(128), []);
    return { bytes: this.op("QuantizeLinear", [rest, scale, zero]), scale, zero };
  }

  /**
   * softmax(q K^T scale + bias) V over heads that lie side by side: q [1, L, C], keys and values [1, T, C] -> [1, L, C].
   *
   * @param scale defaults to 1/sqrt(head dim)
   * @param bias [1, heads, L, T]
   */
  attention(
    q: Value,
    k: Value,
    v: Value,
    { heads, width, scale, bias }: { heads: number; width: number; scale?: number | undefined; bias?: Value },
  ): Value {
    if (this.form.attention !== "plain") {
      const attributes = { num_heads: heads, ...(scale === undefined ? {} : { scale: { float: scale } }) };
      const inputs = bias ? [q, k, v, null, null, bias] : [q, k, v];
      return this.op("MultiHeadAttention", inputs, attributes, MICROSOFT);
    }
    const split = (x: Value, perm: readonly number[]): Value =>
      this.op("Transpose", [this.reshape(x, [0, -1, heads, width / heads])], { perm });
    const scores = this.op("MatMul", [split(q, [0, 2, 1, 3]), split(k, [0, 2, 3, 1])]);
    const scaled = this.op("Mul", [scores, this.floats([scale ?? 1 / Math.sqrt(width / heads)])]);
    const weights = this.op("Softmax", [bias ? this.op("Add", [scaled, bias]) : scaled], { axis: -1 });
    const mixed = this.op("MatMul", [weights, split(v, [0, 2, 1, 3])]); // [1, H, L, hd]
    return this.reshape(this.op("Transpose", [mixed], { perm: [0, 2, 1, 3] }), [0, -1, width]);
  }

  /** Reshape with ONNX's conventions: 0 copies the input's dimension, -1 is inferred. */
  reshape(x: Value, dims: readonly number[]): Value {
    return this.op("Reshape", [x, this.ints(dims)]);
  }

  /** Cuts an axis into equal parts. */
  split(x: Value, parts: number, axis: number): Value[] {
    return this.ops("Split", [x], parts, { axis, num_outputs: parts });
  }

  /** Whether an operator of this type is in it. */
  has(type: string): boolean {
    return this.#nodes.some((node) => node.type === type);
  }

  /** Files that this graph's weights lie in. */
  files(): string[] {
    return [...new Set([...this.#weights.values()].map(({ ref }) => ref.file))];
  }

  /** Bytes of weights referenced, as stored. */
  weightBytes(): number {
    return [...this.#weights.values()].reduce((sum, { ref }) => sum + byteLength(ref), 0);
  }

  /**
   * The bytes of the ONNX model. `external` references weights in place, relative to {@linkcode externalRoot};
   * `inline` copies them in, for a runtime that cannot map files.
   */
  async encode(weights: "external" | "inline"): Promise<Uint8Array> {
    const stored: InitializerMessage[] = [];
    for (const { name, ref } of this.#weights.values()) {
      if (!isContiguous(ref)) {
        const data = new Uint8Array((await readTensor(ref)).buffer);
        stored.push({ name, element: "F32", dims: ref.shape, data });
        continue;
      }
      const data = weights === "inline" ? await readBytes(ref) : {
        location: ref.file.slice(externalRoot(ref.file).length),
        offset: ref.offset,
        length: byteLength(ref),
      };
      stored.push({ name, element: ref.dtype, dims: ref.shape, data });
    }
    const final = (name: string): string => this.#renamed.get(name) ?? name;
    return encodeModel({
      name: this.name,
      nodes: this.#nodes.map((node) => ({ ...node, inputs: node.inputs.map(final), outputs: node.outputs.map(final) })),
      initializers: [...stored, ...this.#constants],
      inputs: this.inputs,
      outputs: this.outputs,
      opsets: { ...this.#ownOpsets(), ...OPSETS },
    });
  }

  /** Domains of operators that a library knows only if it has been told. */
  #ownOpsets(): Record<string, number> {
    return Object.fromEntries(this.#nodes.filter(({ domain }) => !(domain in OPSETS)).map(({ domain }) => [domain, 1]));
  }

  #stored(ref: TensorRef): Value {
    const key = `${ref.file}:${ref.offset}:${ref.shape}:${ref.strides}`;
    let weight = this.#weights.get(key);
    if (!weight) {
      weight = { name: `weight_${this.#weights.size}`, ref };
      this.#weights.set(key, weight);
    }
    return { name: weight.name };
  }

  /** A strided tensor is read, widened and held inline. */
  #isFloat32(ref: TensorRef): boolean {
    return ref.dtype === "F32" || !isContiguous(ref);
  }

  #constant(element: ElementName, data: Float32Array | BigInt64Array | Uint8Array, dims: readonly number[]): Value {
    const name = `constant_${this.#constants.length}`;
    const bytes = new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
    this.#constants.push({ name, element, dims, data: bytes });
    return { name };
  }
}
