/**
 * The kernels of the scale loop as graphs, for one image in a device's memory; shapes of grids are constants of a graph.
 *
 * Resizing is two products with the matrices that the wasm core resizes by, always of one matrix and one other: CUDA finds the
 * parts of a batched product by a table that it reads from host memory; a choice of rows is a one-hot matrix where the
 * rows go back to their places, since scattering is not there on every device.
 *
 * @module
 */
import { resizeTokens } from "../core.ts";
import type { ResizeKind } from "../core.ts";
import { batchRows, Graph, type Value } from "../graph/graph.ts";
import { ELEMENT } from "../graph/onnx_proto.ts";
import type { Grid } from "../schedule.ts";
import type { RowKind } from "../step.ts";

/** Latent of one image and how tokens cover it. */
export interface LatentShape {
  /** Channels d. */
  readonly codeDim: number;
  /** Bits a token, d_tok. */
  readonly tokenDim: number;
  /** Latent cells along a side of a token: 2 if patchified, else 1. */
  readonly cell: number;
  /** Height H in cells. */
  readonly height: number;
  /** Width W in cells. */
  readonly width: number;
}

/** Stands below every logarithm of a float32, with room for noise on top: rows of zeros come after all others. */
const LOG_OF_NOTHING = -1e4;

/** u [B L, d_tok] of running latents [B, d, H, W] at a grid. */
export function nextInputGraph(
  { codeDim, tokenDim, cell, height, width }: LatentShape,
  { h, w }: Grid,
  images = 1,
): Graph {
  const graph = new Graph(`input ${h}x${w}`);
  const latent = graph.input("latent", "F32", [images, codeDim, height, width]);
  const cells = resize(graph, latent, [height, width], [h * cell, w * cell], "linear"); // [B, d, h cell, w cell]
  const parts = graph.reshape(cells, [images, codeDim, h, cell, w, cell]);
  const tokens = graph.op("Transpose", [parts], { perm: [0, 2, 4, 1, 3, 5] }); // [B, h, w, d, cell, cell]
  graph.output("u", graph.reshape(tokens, [images * h * w, tokenDim]), "F32", [images * h * w, tokenDim]);
  return graph;
}

/**
 * z [1, L, d_tok] = (guidance own + rest nul) / tau, and `check`, which is 0 where all of it is finite. `joined`: own and nul are
 * the two rows of `both` [2, L, d_tok].
 */
export function guideGraph(tokenDim: number, joined: boolean): Graph {
  const graph = new Graph("guidance");
  const input = (name: string, rows = 1): Value => graph.input(name, "F32", [rows, "L", tokenDim]);
  const factor = (name: string): Value => graph.input(name, "F32", [1]);
  const [first, second] = joined ? graph.split(input("both", 2), 2, 0) : ["own", "nul"].map((name) => input(name));
  const own = graph.op("Mul", [first!, factor("guidance")]);
  const sum = graph.op("Add", [own, graph.op("Mul", [second!, factor("rest")])]);
  const z = graph.op("Div", [sum, factor("tau")]);
  graph.output("z", z, "F32", [1, "L", tokenDim]);
  const zeros = graph.op("Mul", [z, graph.floats([0])]); // NaN where z is not finite
  graph.output("check", graph.op("ReduceSum", [zeros, graph.ints([0, 1, 2])], { keepdims: 0 }), "F32", []);
  return graph;
}

/**
 * The running latent with the codes of z [1, L, d_tok]: a bit is its sign where |z| reaches `threshold`, else 1 where the
 * uniform u is below sigmoid(z). With `masked`, rows outside I [1, r] add nothing.
 */
export function addBitsGraph(shape: LatentShape, { h, w }: Grid, masked: boolean): Graph {
  const { codeDim, tokenDim, cell, height, width } = shape;
  const graph = new Graph(`bits ${h}x${w}`);
  const latent = graph.input("latent", "F32", [1, codeDim, height, width]);
  const z = graph.input("z", "F32", [1, h * w, tokenDim]);
  const u = graph.input("u", "F32", [1, h * w, tokenDim]);
  const number = (condition: Value): Value => graph.op("Cast", [condition], { to: ELEMENT.F32 });
  const sure = graph.op("GreaterOrEqual", [graph.op("Abs", [z]), graph.input("threshold", "F32", [1])]);
  const sign = number(graph.op("Greater", [z, graph.floats([0])]));
  const drawn = number(graph.op("Less", [u, graph.op("Sigmoid", [z])]));
  const bits = graph.op("Where", [sure, sign, drawn]);
  let codes = graph.op("Sub", [graph.op("Mul", [bits, graph.floats([2])]), graph.floats([1])]);
  if (masked) {
    const places = oneHot(graph, graph.input("chosen", "I64", [1, "r"]), h * w); // [1, L, r]
    codes = graph.op("Mul", [codes, graph.op("ReduceSum", [places, graph.ints([2])], { keepdims: 1 })]);
  }
  const parts = graph.reshape(codes, [h, w, codeDim, cell, cell]);
  const placed = graph.op("Transpose", [parts], { perm: [2, 0, 3, 1, 4] }); // [d, h, cell, w, cell]
  const cells = graph.reshape(placed, [1, codeDim, h * cell, w * cell]);
  const full = resize(graph, cells, [h * cell, w * cell], [height, width], "linear");
  const scaled = graph.op("Mul", [full, graph.floats([1 / Math.sqrt(codeDim)])]);
  graph.output("sum", graph.op("Add", [latent, scaled]), "F32", [1, codeDim, height, width]);
  return graph;
}

/** I [1, r]: the rows of x [1, M, C] with the largest log squared norm plus noise [1, M], largest first. */
export function sampleRowsGraph(C: number): Graph {
  const graph = new Graph("sample rows");
  const x = graph.input("x", "F32", [1, "M", C]);
  const energy = graph.op("ReduceSumSquare", [x, graph.ints([2])], { keepdims: 0 });
  const some = graph.op("Greater", [energy, graph.floats([0])]);
  const log = graph.op("Where", [some, graph.op("Log", [energy]), graph.floats([LOG_OF_NOTHING])]);
  const keys = graph.op("Add", [log, graph.input("noise", "F32", [1, "M"])]);
  const [, chosen] = graph.ops("TopK", [keys, graph.input("rank", "I64", [1])], 2);
  graph.output("chosen", chosen!, "I64", [1, "r"]);
  return graph;
}

/** First and last but one of the rows of a kind among 2 B, conditional ones first. */
export function rowsOf(kind: RowKind, images: number): [from: number, to: number] {
  return kind === "null" ? [images, 2 * images] : [0, images];
}

/** One kind of the rows of x [2 B, L, C], [B, L, C]. */
export function keptRowsGraph(C: number, kind: RowKind, images = 1): Graph {
  const graph = new Graph(`${kind} rows`);
  const x = graph.input("x", "F32", [2 * images, "L", C]);
  graph.output("y", batchRows(graph, x, ...rowsOf(kind, images)), "F32", [images, "L", C]);
  return graph;
}

/** X[I] [1, r, C] of x [1, M, C]. */
export function selectRowsGraph(C: number): Graph {
  const graph = new Graph("select rows");
  const x = graph.reshape(graph.input("x", "F32", [1, "M", C]), [-1, C]);
  const rows = graph.op("Gather", [x, graph.input("chosen", "I64", [1, "r"])], { axis: 0 });
  graph.output("y", rows, "F32", [1, "r", C]);
  return graph;
}

/** Q^T X [1, r, C] of q [M, r] and x [1, M, C]. */
export function projectGraph(C: number): Graph {
  const graph = new Graph("project");
  const x = graph.reshape(graph.input("x", "F32", [1, "M", C]), [-1, C]);
  const y = graph.op("Gemm", [graph.input("q", "F32", ["M", "r"]), x], { transA: 1 });
  graph.output("y", graph.reshape(y, [1, -1, C]), "F32", [1, "r", C]);
  return graph;
}

/** Area averages of cached [1, h w, C] at another grid. */
export function upsampleGraph(C: number, from: Grid, to: Grid): Graph {
  const graph = new Graph(`upsample ${from.h}x${from.w} to ${to.h}x${to.w}`);
  graph.output("z", upsampled(graph, C, from, to), "F32", [1, to.h * to.w, C]);
  return graph;
}

/** The same with y [1, r, C] in the places I [1, r]. */
export function restoreGraph(C: number, from: Grid, to: Grid): Graph {
  const graph = new Graph(`restore ${from.h}x${from.w} to ${to.h}x${to.w}`);
  const old = upsampled(graph, C, from, to);
  const places = oneHot(graph, graph.input("chosen", "I64", [1, "r"]), to.h * to.w); // [1, L, r]
  const fresh = graph.op("MatMul", [places, graph.input("y", "F32", [1, "r", C])]);
  const taken = graph.op("ReduceSum", [places, graph.ints([2])], { keepdims: 1 });
  const z = graph.op("Where", [graph.op("Greater", [taken, graph.floats([0])]), fresh, old]);
  graph.output("z", z, "F32", [1, to.h * to.w, C]);
  return graph;
}

function upsampled(graph: Graph, C: number, from: Grid, to: Grid): Value {
  const cached = graph.reshape(graph.input("cached", "F32", [1, from.h * from.w, C]), [from.h, from.w * C]);
  const tall = graph.op("MatMul", [matrix(graph, from.h, to.h, "area"), cached]);
  const columns = graph.op("Transpose", [graph.reshape(tall, [to.h, from.w, C])], { perm: [1, 0, 2] });
  const wide = graph.op("MatMul", [
    matrix(graph, from.w, to.w, "area"),
    graph.reshape(columns, [from.w, to.h * C]),
  ]);
  const back = graph.op("Transpose", [graph.reshape(wide, [to.w, to.h, C])], { perm: [1, 0, 2] });
  return graph.reshape(back, [1, to.h * to.w, C]);
}

/** 1 at [0, chosen[j], j], else 0: [1, L, r]. Places are compared as floats, exact up to 2^24. */
function oneHot(graph: Graph, chosen: Value, L: number): Value {
  const places = Float32Array.from({ length: L }, (_, place) => place);
  const taken = graph.op("Gather", [graph.floats(places), chosen], { axis: 0 }); // [1, r]
  const equal = graph.op("Equal", [graph.floats(places, [L, 1]), graph.op("Unsqueeze", [taken, graph.ints([1])])]);
  return graph.op("Cast", [equal], { to: ELEMENT.F32 });
}

/** Maps [B, d, h, w] at another size. */
export function resize(
  graph: Graph,
  x: Value,
  [h, w]: readonly [number, number],
  [outH, outW]: readonly [number, number],
  kind: ResizeKind,
): Value {
  const turned = { perm: [0, 1, 3, 2] };
  const columns = (y: Value): Value => graph.op("Transpose", [y], turned);
  const tall = h === outH ? x : columns(graph.op("MatMul", [columns(x), matrix(graph, h, outH, kind, true)]));
  return w === outW ? tall : graph.op("MatMul", [tall, matrix(graph, w, outW, kind, true)]);
}

/** [out, in], or [in, out] transposed: what the core's resize does along one axis. */
function matrix(graph: Graph, size: number, out: number, kind: ResizeKind, transposed = false): Value {
  const unit = Float32Array.from({ length: size * size }, (_, i) => Number(i % (size + 1) === 0));
  const weights = resizeTokens(unit, size, 1, out, 1, size, kind);
  if (!transposed) return graph.floats(weights, [out, size]);
  return graph.floats(Float32Array.from(weights, (_, i) => weights[(i % out) * size + Math.floor(i / out)]!), [
    size,
    out,
  ]);
}
