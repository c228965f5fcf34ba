/**
 * The decoder of the BSQ-VAE (infinity.md §6) in half precision for CUDA, channels last, where operators of our own do what lies
 * between two convolutions (runtime/fused_ops.ts): the mathematics of decoder_nhwc.ts, which reads and writes each map five times
 * as often. The running sum stays float32.
 *
 * @module
 */
import { readTensor, type TensorRef } from "../../checkpoint/source.ts";
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
export async function decodedFused(graph: Graph, weights: DecoderWeights): Promise<Value> {
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
  const upsampled = async (x: Value, name: string, nextNorm: string): Promise<Sum> => {
    const attributes = { kernel_shape: [2, 2], pads: [1, 1, 1, 1] };
    const weight = await quadWeight(graph, tensors[`${name}.conv.weight`]!);
    const map = graph.op("NhwcConv", [x, weight], attributes, MICROSOFT);
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
    sum = await upsampled(small, `up.${level}.upsample.conv`, `up.${level - 1}.block.0.norm1`);
  }
  return graph.cast(
    conv(swish(sum, "norm_out"), "conv_out", [graph.halfWeight(tensors["conv_out.conv.bias"]!)]),
    "F32",
  );
}

/**
 * Weights [4 C, 2, 2, C] of the four convolutions of 2x2 that one of 3x3 [C, C, 3, 3] is after nearest neighbours, one for each place in
 * a 2x2 cell of the large map: taps that fall on the same small pixel are summed beforehand. 4/9 of the arithmetic.
 */
async function quadWeight(graph: Graph, weight: TensorRef): Promise<Value> {
  const [to, from] = weight.shape as [number, number];
  const kernel = await readTensor(weight);
  const taps = new Float32Array(4 * to * from * 4);
  for (let place = 0; place < 4; place++) {
    taps.set(placeTaps(kernel, from, to, place >> 1, place & 1), place * to * from * 4);
  }
  const last = graph.op("Transpose", [graph.floats(taps, [4 * to, from, 2, 2])], { perm: [0, 2, 3, 1] });
  return graph.cast(last, "F16");
}

/** Taps [to, from, 2, 2] of the place (dy, dx) in a 2x2 cell, from those of the 3x3 kernel. */
function placeTaps(weight: Float32Array, from: number, to: number, dy: number, dx: number): Float32Array {
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
