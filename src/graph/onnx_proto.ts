/**
 * The few messages of ONNX's protobuf schema that a graph needs, written straight to bytes.
 *
 * Knows field numbers (onnx.proto3, IR version 10); knows nothing of operators or models.
 *
 * @module
 */
import { BinaryWriter } from "@bufbuild/protobuf/wire";

/** Element types, by TensorProto.DataType number. */
export const ELEMENT = {
  F32: 1,
  U8: 2,
  I8: 3,
  I16: 5,
  I32: 6,
  I64: 7,
  BOOL: 9,
  F16: 10,
  F64: 11,
  BF16: 16,
} as const;

/** Name of an element type a graph can hold. */
export type ElementName = keyof typeof ELEMENT;

/** An operator attribute: a whole number is written as INT, a wrapped one as FLOAT. */
export type Attribute = number | { float: number } | string | readonly number[];

/** One operator of a graph; an empty input name means an absent optional input. */
export interface NodeMessage {
  /** Operator type, as `Gemm`. */
  type: string;
  /** Operator domain; empty for ai.onnx. */
  domain: string;
  /** Names of its inputs. */
  inputs: readonly string[];
  /** Names of its outputs. */
  outputs: readonly string[];
  /** Attributes by name. */
  attributes: Readonly<Record<string, Attribute>>;
}

/** A constant of a graph: bytes held inline, or a byte range of a file. */
export interface InitializerMessage {
  /** Name. */
  name: string;
  /** Element type. */
  element: ElementName;
  /** Dimensions. */
  dims: readonly number[];
  /** Inline little-endian bytes, or where they lie. */
  data: Uint8Array | { location: string; offset: number; length: number };
}

/** A graph input or output; a string dimension is symbolic. */
export interface ValueMessage {
  /** Name. */
  name: string;
  /** Element type. */
  element: ElementName;
  /** Dimensions; none for a tensor of any rank. */
  dims: readonly (number | string)[] | undefined;
}

/** Everything a model file holds. */
export interface ModelMessage {
  /** Graph name, shown in errors and traces. */
  name: string;
  /** Nodes in topological order. */
  nodes: readonly NodeMessage[];
  /** Constants. */
  initializers: readonly InitializerMessage[];
  /** Graph inputs. */
  inputs: readonly ValueMessage[];
  /** Graph outputs. */
  outputs: readonly ValueMessage[];
  /** Operator set versions by domain. */
  opsets: Readonly<Record<string, number>>;
}

const LENGTH_DELIMITED = 2, VARINT = 0, FIXED32 = 5;

function message(writer: BinaryWriter, field: number, body: (inner: BinaryWriter) => void): void {
  writer.tag(field, LENGTH_DELIMITED).fork();
  body(writer);
  writer.join();
}

function text(writer: BinaryWriter, field: number, value: string): void {
  writer.tag(field, LENGTH_DELIMITED).string(value);
}

function int(writer: BinaryWriter, field: number, value: number): void {
  writer.tag(field, VARINT).int64(value);
}

function attribute(writer: BinaryWriter, name: string, value: Attribute): void {
  text(writer, 1, name);
  if (typeof value === "number") {
    int(writer, 3, value);
    int(writer, 20, 2); // INT
  } else if (typeof value === "string") {
    writer.tag(4, LENGTH_DELIMITED).bytes(new TextEncoder().encode(value));
    int(writer, 20, 3); // STRING
  } else if ("float" in value) {
    writer.tag(2, FIXED32).float(value.float);
    int(writer, 20, 1); // FLOAT
  } else {
    for (const item of value) int(writer, 8, item);
    int(writer, 20, 7); // INTS
  }
}

function initializer(writer: BinaryWriter, tensor: InitializerMessage): void {
  for (const dim of tensor.dims) int(writer, 1, dim);
  int(writer, 2, ELEMENT[tensor.element]);
  text(writer, 8, tensor.name);
  if (tensor.data instanceof Uint8Array) {
    writer.tag(9, LENGTH_DELIMITED).bytes(tensor.data);
    return;
  }
  const { location, offset, length } = tensor.data;
  for (const [key, value] of [["location", location], ["offset", `${offset}`], ["length", `${length}`]] as const) {
    message(writer, 13, (entry) => {
      text(entry, 1, key);
      text(entry, 2, value);
    });
  }
  int(writer, 14, 1); // EXTERNAL
}

function value(writer: BinaryWriter, { name, element, dims }: ValueMessage): void {
  text(writer, 1, name);
  message(writer, 2, (type) =>
    message(type, 1, (tensor) => {
      int(tensor, 1, ELEMENT[element]);
      if (dims === undefined) return;
      message(tensor, 2, (shape) => {
        for (const dim of dims) {
          message(shape, 1, (entry) => typeof dim === "number" ? int(entry, 1, dim) : text(entry, 2, dim));
        }
      });
    }));
}

/**
 * Writes a model as the bytes of an ONNX file.
 *
 * @example
 * ```ts
 * import { encodeModel } from "@stagevar/stagevar/graph/onnx_proto.ts";
 * import assert from "node:assert/strict";
 * const io = { element: "F32", dims: ["n"] } as const;
 * const bytes = encodeModel({
 *   name: "negate",
 *   nodes: [{ type: "Neg", domain: "", inputs: ["x"], outputs: ["y"], attributes: {} }],
 *   initializers: [],
 *   inputs: [{ name: "x", ...io }],
 *   outputs: [{ name: "y", ...io }],
 *   opsets: { "": 21 },
 * });
 * assert.equal(bytes[0], 0x08); // field 1, ir_version
 * ```
 */
export function encodeModel(model: ModelMessage): Uint8Array {
  const writer = new BinaryWriter();
  int(writer, 1, 10); // ir_version
  text(writer, 2, "stagevar");
  message(writer, 7, (graph) => {
    for (const node of model.nodes) {
      message(graph, 1, (out) => {
        for (const name of node.inputs) text(out, 1, name);
        for (const name of node.outputs) text(out, 2, name);
        text(out, 4, node.type);
        for (const [name, data] of Object.entries(node.attributes)) {
          message(out, 5, (inner) => attribute(inner, name, data));
        }
        if (node.domain) text(out, 7, node.domain);
      });
    }
    text(graph, 2, model.name);
    for (const tensor of model.initializers) message(graph, 5, (out) => initializer(out, tensor));
    for (const input of model.inputs) message(graph, 11, (out) => value(out, input));
    for (const output of model.outputs) message(graph, 12, (out) => value(out, output));
  });
  for (const [domain, version] of Object.entries(model.opsets)) {
    message(writer, 8, (out) => {
      if (domain) text(out, 1, domain);
      int(out, 2, version);
    });
  }
  return writer.finish();
}
