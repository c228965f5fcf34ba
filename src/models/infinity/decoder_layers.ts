/**
 * The VAE decoder as layers that run on strips of rows: one graph a convolution, with the normalisation before it and what
 * the next normalisation wants to know (infinity.md §6).
 *
 * A strip is [1, C, rows, W]. The rows above and below it, which a 3x3 kernel reaches, come as tensors of their own: `top`
 * and `bottom` from the neighbours, `zeroTop` and `zeroBottom` at the picture's edge; of each pair one has one row and the
 * other none, so that every strip of a layer runs on the same session and its packed weights.
 *
 * @module
 */
import { Graph, MICROSOFT, type Value } from "../../graph/graph.ts";
import type { DecoderWeights } from "./decoder.ts";
import {
  FILTER_KERNELS,
  filterMixtures,
  type RowMixtures,
  UPSAMPLING_KERNELS,
  upsamplingMixtures,
} from "./minimal_filtering.ts";

/** A convolution of the decoder and what is done before and after it, in the order they run. */
export interface DecoderLayer {
  /** Name of the convolution, as `up.0.block.1.conv2`. */
  readonly name: string;
  /** Resolution level that its output lies on; 0 is the picture's own. */
  readonly level: number;
  /** Input channels. */
  readonly from: number;
  /** Output channels. */
  readonly to: number;
  /** Group norm before it, followed by SiLU; none where undefined. */
  readonly norm?: string;
  /** Whether its input is half as wide and high: nearest-neighbour upsampling, then the convolution. */
  readonly upsample?: true;
  /** What is added to the output: the residual block's own input, or a 1x1 convolution of it. */
  readonly shortcut?: { readonly from: number; readonly conv?: string };
}

/**
 * The layers of a decoder in the order they run.
 *
 * @example
 * ```ts
 * import { openCheckpoint } from "@stagevar/stagevar/checkpoint/open.ts";
 * import { readDecoderWeights } from "@stagevar/stagevar/models/infinity/decoder.ts";
 * import { decoderLayers } from "@stagevar/stagevar/models/infinity/decoder_layers.ts";
 * import assert from "node:assert/strict";
 * const layers = decoderLayers(readDecoderWeights(await openCheckpoint("tests/golden/models/mini-2b/vae.pth")));
 * assert.deepEqual([layers[0]!.name, layers.at(-1)!.name], ["conv_in", "conv_out"]);
 * assert.equal(layers.filter(({ upsample }) => upsample).length, 4);
 * ```
 */
export function decoderLayers({ codeDim, widths, blocks }: DecoderWeights): DecoderLayer[] {
  const layers: DecoderLayer[] = [];
  const top = widths.length - 1;
  const residual = (name: string, level: number, from: number, to: number): void => {
    layers.push({ name: `${name}.conv1`, level, from, to, norm: `${name}.norm1` });
    const shortcut = { from, ...from === to ? {} : { conv: `${name}.nin_shortcut` } };
    layers.push({ name: `${name}.conv2`, level, from: to, to, norm: `${name}.norm2`, shortcut });
  };
  let width = widths[top]!;
  layers.push({ name: "conv_in", level: top, from: codeDim, to: width });
  residual("mid.block_1", top, width, width);
  residual("mid.block_2", top, width, width);
  for (let level = top; level >= 0; level--) {
    for (let i = 0; i < blocks; i++) {
      residual(`up.${level}.block.${i}`, level, width, widths[level]!);
      width = widths[level]!;
    }
    if (level === 0) break;
    layers.push({ name: `up.${level}.upsample.conv`, level: level - 1, from: width, to: width, upsample: true });
  }
  layers.push({ name: "conv_out", level: 0, from: width, to: 3, norm: "norm_out" });
  return layers;
}

/**
 * The graph of a layer on one strip.
 *
 * Inputs: `body` [1, C, h, W], `top`, `bottom`, `zeroTop`, `zeroBottom` [1, C, 0 or 1, W]; `centre` and `gain` [1, C, 1, 1]
 * where there is a norm; `x` [1, C', h, W] where there is a shortcut; `start` and `end` of the rows of `body` to take where
 * there is an upsampling; `into` [m, h + 2] and `outOf` [H, m], its {@linkcode layerMixtures}. Outputs: `y`, its rows `first`
 * and `last` [1, C, 1, W], and of every channel the `mean` and the sum of `squares` of deviations from it, [C].
 */
export function layerGraph({ tensors }: DecoderWeights, layer: DecoderLayer): Graph {
  const { name, from, to, norm, upsample, shortcut } = layer;
  const graph = new Graph(`vae decoder ${name}`);
  const rows = (input: string): Value => graph.input(input, "F32", [1, from, `${input} rows`, "W"]);
  const zeroTop = rows("zeroTop");
  let parts = ["top", "body", "bottom"].map(rows);
  const zeroBottom = rows("zeroBottom");
  if (upsample) {
    const [start, end] = [graph.input("start", "I64", [1]), graph.input("end", "I64", [1])];
    parts[1] = graph.op("Slice", [parts[1]!, start, end, graph.ints([2])]);
  }
  if (norm) {
    const perChannel = (input: string): Value => graph.input(input, "F32", [1, from, 1, 1]);
    const [centre, gain] = [perChannel("centre"), perChannel("gain")];
    const bias = graph.reshape(graph.weight(tensors[`${norm}.norm.bias`]!), [1, from, 1, 1]);
    // Centred first: trained maps lie hundreds of deviations from zero, and x gain - centre gain would lose those digits.
    parts = parts.map((part) => {
      const y = graph.op("Add", [graph.op("Mul", [graph.op("Sub", [part, centre]), gain]), bias]);
      return graph.op("QuickGelu", [y], { alpha: { float: 1 } }, MICROSOFT); // y * sigmoid(y) in one pass
    });
  }
  const padded = graph.op("Concat", [zeroTop, ...parts, zeroBottom], { axis: 2 });
  const convolved = mixesRows(layer)
    ? filtered(graph, padded, { tensors }, layer)
    : plain(graph, padded, { tensors }, name);
  const y = shortcut ? graph.op("Add", [convolved, shortcutOf(graph, { tensors }, shortcut, to)]) : convolved;
  graph.output("y", y, "F32", [1, to, "H", "W out"]);
  const row = (start: number, end: number): Value =>
    graph.op("Slice", [y, graph.ints([start]), graph.ints([end]), graph.ints([2])]);
  graph.output("first", row(0, 1), "F32", [1, to, 1, "W out"]);
  graph.output("last", row(-1, 2 ** 31), "F32", [1, to, 1, "W out"]);
  // Rows first and then over rows: one float32 sum over a whole strip would cost a digit.
  const rowMeans = graph.op("ReduceMean", [y, graph.ints([3])], { keepdims: 1 });
  const mean = graph.op("ReduceMean", [rowMeans, graph.ints([2])], { keepdims: 1 });
  const rowSquares = graph.op("ReduceSumSquare", [graph.op("Sub", [y, mean]), graph.ints([3])], { keepdims: 0 });
  const squares = graph.op("ReduceSum", [rowSquares, graph.ints([2])], { keepdims: 0 });
  graph.output("mean", graph.reshape(mean, [to]), "F32", [to]);
  graph.output("squares", graph.reshape(squares, [to]), "F32", [to]);
  return graph;
}

/** Whether a layer's convolution wants mixtures of rows: all but the last, whose three channels gain nothing. */
function mixesRows({ to }: DecoderLayer): boolean {
  return to > 3;
}

/** The mixtures that a layer wants for a strip of `rows` output rows; none where undefined. */
export function layerMixtures(layer: DecoderLayer, rows: number): RowMixtures | undefined {
  if (!mixesRows(layer)) return undefined;
  return layer.upsample ? upsamplingMixtures(rows / 2) : filterMixtures(rows);
}

type Tensors = Pick<DecoderWeights, "tensors">;

/** The 3x3 convolution as it is. */
function plain(graph: Graph, padded: Value, { tensors }: Tensors, name: string): Value {
  const inputs = [padded, graph.weight(tensors[`${name}.conv.weight`]!), graph.weight(tensors[`${name}.conv.bias`]!)];
  return graph.op("Conv", inputs, { kernel_shape: [3, 3], pads: [0, 1, 0, 1] });
}

/** The 3x3 convolution, after upsampling where there is one, on mixtures of rows (minimal_filtering.ts). */
function filtered(
  graph: Graph,
  padded: Value,
  { tensors }: Tensors,
  { name, from, to, upsample, shortcut }: DecoderLayer,
): Value {
  // kernels and biases are computed once, as the graph is loaded
  const weight = graph.reshape(graph.weight(tensors[`${name}.conv.weight`]!), [to * from, 9]);
  const own = graph.weight(tensors[`${name}.conv.bias`]!);
  const bias = shortcut?.conv ? graph.op("Add", [own, graph.weight(tensors[`${shortcut.conv}.conv.bias`]!)]) : own;
  const into = graph.input("into", "F32", ["m", "padded rows"]);
  const outOf = graph.input("outOf", "F32", ["H", "m"]);
  const kinds = upsample
    ? [{ kernels: UPSAMPLING_KERNELS[0], pads: [0, 1, 0, 0] }, { kernels: UPSAMPLING_KERNELS[1], pads: [0, 0, 0, 1] }]
    : [{ kernels: FILTER_KERNELS, pads: [0, 1, 0, 1] }];
  const mixtures = graph.split(graph.op("MatMul", [into, padded]), kinds[0]!.kernels.length, 2);
  const [left, right] = kinds.map(({ kernels, pads }) => {
    const results = kernels.map(({ width, taps, bias: share }, i) => {
      const kernel = graph.op("MatMul", [weight, graph.floats(taps, [9, width])]);
      const inputs = [
        mixtures[i]!,
        graph.reshape(kernel, [to, from, 1, width]),
        // also where the share is none: ONNX Runtime's blocked layout leaves out convolutions without a bias
        graph.op("Mul", [bias, graph.floats([share])]),
      ];
      return graph.op("Conv", inputs, { kernel_shape: [1, width], pads });
    });
    return graph.op("MatMul", [outOf, graph.op("Concat", results, { axis: 2 })]);
  }) as [Value, Value?];
  return right ? byTurns(graph, left, right, to) : left;
}

/** Columns of two maps [1, C, H, W] by turns: [1, C, H, 2 W]. */
function byTurns(graph: Graph, left: Value, right: Value, channels: number): Value {
  const last = graph.ints([-1]);
  const pairs = [left, right].map((columns) => graph.op("Unsqueeze", [columns, last]));
  const height = graph.op("Shape", [left], { start: 2, end: 3 });
  const shape = graph.op("Concat", [graph.ints([1, channels]), height, last], { axis: 0 });
  return graph.op("Reshape", [graph.op("Concat", pairs, { axis: -1 }), shape]);
}

/** What a residual block adds to its second convolution: its input, or a 1x1 convolution of it, whose bias that one has. */
function shortcutOf(
  graph: Graph,
  { tensors }: Tensors,
  { from, conv }: NonNullable<DecoderLayer["shortcut"]>,
  to: number,
): Value {
  const x = graph.input("x", "F32", [1, from, "h", "W"]);
  if (!conv) return x;
  // a product of matrices: the blocked 1x1 convolution takes longer (bench/LOG.md)
  const projection = graph.reshape(graph.weight(tensors[`${conv}.conv.weight`]!), [to, from]);
  const projected = graph.op("MatMul", [projection, graph.reshape(x, [1, from, -1])]);
  const shape = graph.op("Concat", [graph.ints([1, to]), graph.op("Shape", [x], { start: 2 })], { axis: 0 });
  return graph.op("Reshape", [projected, shape]);
}
