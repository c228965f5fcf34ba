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
import { readTensor } from "../../checkpoint/source.ts";
import { Graph, MICROSOFT, type Value } from "../../graph/graph.ts";
import type { DecoderWeights } from "./decoder.ts";

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
 * there is an upsampling. Outputs: `y`, its rows `first` and `last` [1, C, 1, W], and of every channel the `mean` and the
 * sum of `squares` of deviations from it, [C].
 */
export async function layerGraph({ tensors }: DecoderWeights, layer: DecoderLayer): Promise<Graph> {
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
  let y = upsample
    ? await upsampled(graph, padded, { tensors }, layer)
    : conv(graph, padded, { tensors }, name, [0, 1, 0, 1]);
  if (shortcut) {
    const x = graph.input("x", "F32", [1, shortcut.from, "h", "W"]);
    y = graph.op("Add", [y, shortcut.conv ? conv(graph, x, { tensors }, shortcut.conv, [0, 0, 0, 0]) : x]);
  }
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

function conv(
  graph: Graph,
  x: Value,
  { tensors }: Pick<DecoderWeights, "tensors">,
  name: string,
  pads: readonly number[],
): Value {
  const weight = tensors[`${name}.conv.weight`]!;
  const inputs = [x, graph.weight(weight), graph.weight(tensors[`${name}.conv.bias`]!)];
  return graph.op("Conv", inputs, { kernel_shape: weight.shape.slice(2), pads });
}

/**
 * Nearest-neighbour upsampling and a 3x3 convolution as four 2x2 convolutions of the small map, one for each place in a
 * 2x2 cell of the large one: taps that fall on the same small pixel are summed beforehand. 4/9 of the arithmetic.
 */
async function upsampled(
  graph: Graph,
  padded: Value,
  { tensors }: Pick<DecoderWeights, "tensors">,
  { name, from, to }: DecoderLayer,
): Promise<Value> {
  const weight = await readTensor(tensors[`${name}.conv.weight`]!);
  const bias = graph.weight(tensors[`${name}.conv.bias`]!);
  const above = graph.op("Slice", [padded, graph.ints([0]), graph.ints([-1]), graph.ints([2])]);
  const below = graph.op("Slice", [padded, graph.ints([1]), graph.ints([2 ** 31]), graph.ints([2])]);
  const places: Value[] = [];
  for (const [dy, source] of [above, below].entries()) {
    for (const dx of [0, 1]) {
      const taps = graph.floats(placeTaps(weight, from, to, dy, dx), [to, from, 2, 2]);
      const pads = dx === 0 ? [0, 1, 0, 0] : [0, 0, 0, 1];
      places.push(graph.op("Conv", [source, taps, bias], { kernel_shape: [2, 2], pads }));
    }
  }
  // channel j of DepthToSpace's input is place floor(j / C) of channel j mod C
  return graph.op("DepthToSpace", [graph.op("Concat", places, { axis: 1 })], { blocksize: 2, mode: "DCR" });
}

/** Taps [to, from, 2, 2] of the place (dy, dx) in a 2x2 cell, from those of the 3x3 kernel. */
export function placeTaps(weight: Float32Array, from: number, to: number, dy: number, dx: number): Float32Array {
  const taps = new Float32Array(to * from * 4);
  // Of the rows -1, 0, 1 around an even output row, -1 lies on the small row above and 0, 1 on its own; around an odd one
  // -1, 0 lie on its own and 1 on the one below. Columns alike.
  const onto = (offset: number, place: number): number => Math.floor((offset + place) / 2) + 1 - place;
  for (let pair = 0; pair < to * from; pair++) {
    for (let ky = 0; ky < 3; ky++) {
      for (let kx = 0; kx < 3; kx++) {
        const tap = 2 * onto(ky - 1, dy) + onto(kx - 1, dx);
        taps[pair * 4 + tap]! += weight[pair * 9 + ky * 3 + kx]!;
      }
    }
  }
  return taps;
}
