/**
 * The decoder of the BSQ-VAE (infinity.md §6) in half precision for CUDA, channels last, where operators of our own do what lies
 * between two convolutions (runtime/fused_ops.ts): the mathematics of decoder_nhwc.ts, which reads and writes each map five times
 * as often. The running sum stays float32.
 *
 * @module
 */
import type { TensorRef } from "../../checkpoint/source.ts";
import { type Graph, MICROSOFT, type Value } from "../../graph/graph.ts";
import { fused, FUSED_OPS, type FusedOpName } from "../../runtime/fused_ops.ts";
import type { DecoderWeights } from "./decoder.ts";

/** A running sum [1, h, w, C], float32, and the moments of its groups for the norm that follows. */
interface Sum {
  readonly x: Value;
  readonly moments: Value;
}

/**
 * Whether the operators take a decoder: the 256 threads of a block have four channels each, and the last block of a level keeps its
 * width.
 */
export function fitsFusedDecoder({ widths, groups, blocks }: DecoderWeights): boolean {
  return blocks > 1 && widths.every((width) => 1024 % width === 0 && width % 4 === 0 && width / groups <= 64);
}

/** latent [1, d, h, w] -> RGB [1, H, W, 3], not yet clamped. */
export function decodedFused(graph: Graph, weights: DecoderWeights): Value {
  const { tensors, widths, blocks, groups, codeDim } = weights;
  const own = (name: FusedOpName, inputs: readonly Value[]): Value[] =>
    fused(graph, name, inputs, "attributes" in FUSED_OPS[name] ? { groups } : {});
  const bias = (name: string): Value => graph.weight(tensors[`${name}.conv.bias`]!);
  const norm = (name: string, part: "weight" | "bias"): Value => graph.weight(tensors[`${name}.norm.${part}`]!);
  /** Without its bias, which what follows adds. */
  const conv = (x: Value, name: string, biases: readonly Value[] = []): Value => {
    const weight = tensors[`${name}.conv.weight`]!;
    const kernel = weight.shape[2]!;
    const pad = (kernel - 1) / 2;
    const last = graph.op("Transpose", [graph.halfWeight(weight)], { perm: [0, 2, 3, 1] });
    const attributes = { kernel_shape: [kernel, kernel], pads: [pad, pad, pad, pad] };
    return graph.op("NhwcConv", [x, last, ...biases], attributes, MICROSOFT);
  };
  const biased = (x: Value, name: string, nextNorm: string): Sum => {
    const [sum, moments] = own("BiasMoments", [conv(x, name), bias(name), norm(nextNorm, "weight")]);
    return { x: sum!, moments: moments! };
  };
  const swish = ({ x, moments }: Sum, name: string): Value => own("NormSwish", [x, moments, norm(name, "bias")])[0]!;

  /** What the two convolutions of a residual block give, and the block's input or what stands for it. */
  const branch = ({ x, moments }: Sum, name: string): { map: Value; added: Value; other?: readonly [Value, Value] } => {
    const h = conv(swish({ x, moments }, `${name}.norm1`), `${name}.conv1`);
    const [inner] = own("MapMoments", [h, bias(`${name}.conv1`), norm(`${name}.norm2`, "weight")]) as [Value];
    const shift = norm(`${name}.norm2`, "bias");
    const [active] = own("MapNormSwish", [h, bias(`${name}.conv1`), inner, shift]) as [Value];
    const map = conv(active, `${name}.conv2`);
    const shortcut = `${name}.nin_shortcut`;
    if (!tensors[`${shortcut}.conv.weight`]) return { map, added: x };
    return { map, added: x, other: [conv(graph.cast(x, "F16"), shortcut), bias(shortcut)] };
  };
  const residual = (sum: Sum, name: string, nextNorm: string): Sum => {
    const { map, added, other } = branch(sum, name);
    const [weight, own2] = [norm(nextNorm, "weight"), bias(`${name}.conv2`)];
    const [x, moments] = other
      ? own("MapsMoments", [map, own2, ...other, weight])
      : own("SumMoments", [map, own2, added, weight]);
    return { x: x!, moments: moments! };
  };
  /** The last block of a level, float16. */
  const residualHalf = (sum: Sum, name: string): Value => {
    const { map, added } = branch(sum, name);
    return own("SumHalf", [map, bias(`${name}.conv2`), added])[0]!;
  };
  /** The convolution of x with each pixel four times. */
  const upsampled = (x: Value, name: string, nextNorm: string): Sum => {
    const attributes = { kernel_shape: [2, 2], pads: [1, 1, 1, 1] };
    const map = graph.op("NhwcConv", [x, quadWeight(graph, tensors[`${name}.conv.weight`]!)], attributes, MICROSOFT);
    const [sum, moments] = own("QuadMoments", [map, bias(name), norm(nextNorm, "weight")]);
    return { x: sum!, moments: moments! };
  };

  const latent = graph.input("latent", "F32", [1, codeDim, "h", "w"]);
  const cells = graph.cast(graph.op("Transpose", [latent], { perm: [0, 2, 3, 1] }), "F16");
  const top = widths.length - 1;
  let sum = biased(cells, "conv_in", "mid.block_1.norm1");
  sum = residual(sum, "mid.block_1", "mid.block_2.norm1");
  sum = residual(sum, "mid.block_2", `up.${top}.block.0.norm1`);
  for (let level = top; level >= 0; level--) {
    const name = (i: number): string => `up.${level}.block.${i}`;
    for (let i = 0; i < blocks - 1; i++) sum = residual(sum, name(i), `${name(i + 1)}.norm1`);
    if (level === 0) {
      sum = residual(sum, name(blocks - 1), "norm_out");
      break;
    }
    const small = residualHalf(sum, name(blocks - 1));
    sum = upsampled(small, `up.${level}.upsample.conv`, `up.${level - 1}.block.0.norm1`);
  }
  return graph.cast(
    conv(swish(sum, "norm_out"), "conv_out", [graph.halfWeight(tensors["conv_out.conv.bias"]!)]),
    "F32",
  );
}

/**
 * A convolution [Co, Ci, 3, 3] of a map with each pixel four times is four of 2x2 of the map itself, one for each kind of pixel, whose
 * taps are sums: [4 Co, 2, 2, Ci], float16. Less than half of the arithmetic; the library computes the sums as it loads the graph.
 */
function quadWeight(graph: Graph, weight: TensorRef): Value {
  const [Co, Ci] = weight.shape as [number, number];
  // even rows see the row above and twice their own, odd ones twice their own and the row below: [kind and tap, tap of three]
  const sums = graph.floats([1, 0, 0, 0, 1, 1, 1, 1, 0, 0, 0, 1], [4, 3]);
  const firstAxis = (x: Value, rest: number): Value => graph.op("MatMul", [sums, graph.reshape(x, [3, rest])]);
  const taps = graph.op("Transpose", [graph.weight(weight)], { perm: [2, 3, 0, 1] }); // [3, 3, Co, Ci]
  const rows = graph.reshape(firstAxis(taps, 3 * Co * Ci), [4, 3, Co * Ci]);
  const columns = firstAxis(graph.op("Transpose", [rows], { perm: [1, 0, 2] }), 4 * Co * Ci);
  const parts = graph.reshape(columns, [2, 2, 2, 2, Co, Ci]); // column's kind and tap, row's kind and tap
  const placed = graph.op("Transpose", [parts], { perm: [2, 0, 4, 3, 1, 5] });
  return graph.cast(graph.reshape(placed, [4 * Co, 2, 2, Ci]), "F16");
}
