/**
 * The decoder of the BSQ-VAE (infinity.md §6) for CUDA: channels last, as its matrix units want convolutions, and each norm with
 * its activation in one operator.
 *
 * In half precision, convolutions and what lies between the two of a residual block are float16; the running sum stays float32,
 * since trained maps can lie far from zero.
 *
 * @module
 */
import { type Graph, MICROSOFT, type Value } from "../../graph/graph.ts";
import type { DecoderWeights } from "./decoder.ts";

/** Maps channels last, [1, H, W, C]. */
class NhwcDecoder {
  readonly #graph: Graph;
  readonly #weights: DecoderWeights;
  readonly #half: boolean;

  constructor(graph: Graph, weights: DecoderWeights) {
    this.#graph = graph;
    this.#weights = weights;
    this.#half = graph.form.half !== undefined;
  }

  /** Latent [1, h, w, d] to RGB [1, H, W, 3], float32. */
  decode(latent: Value): Value {
    const { widths, blocks } = this.#weights;
    let x = this.#single(this.#conv(latent, "conv_in"));
    for (const name of ["mid.block_1", "mid.block_2"]) x = this.#residual(x, name);
    for (let level = widths.length - 1; level >= 0; level--) {
      for (let i = 0; i < blocks; i++) x = this.#residual(x, `up.${level}.block.${i}`);
      if (level === 0) break;
      const nearest = { mode: "nearest", coordinate_transformation_mode: "asymmetric", nearest_mode: "floor" };
      const large = this.#graph.op("Resize", [this.#narrow(x), null, this.#graph.floats([1, 2, 2, 1])], nearest);
      x = this.#single(this.#conv(large, `up.${level}.upsample.conv`));
    }
    return this.#single(this.#conv(this.#normSwish(x, "norm_out"), "conv_out"));
  }

  #residual(x: Value, name: string): Value {
    const { tensors } = this.#weights;
    const h = this.#conv(this.#normSwish(x, `${name}.norm1`), `${name}.conv1`);
    const y = this.#single(this.#conv(this.#normSwish(h, `${name}.norm2`), `${name}.conv2`));
    const shortcut = tensors[`${name}.nin_shortcut.conv.weight`]
      ? this.#single(this.#conv(x, `${name}.nin_shortcut`))
      : x;
    return this.#graph.op("Add", [shortcut, y]);
  }

  #normSwish(x: Value, name: string): Value {
    const { tensors, groups } = this.#weights;
    const affine = ["weight", "bias"].map((part) => this.#graph.weight(tensors[`${name}.norm.${part}`]!));
    const SWISH = 1;
    const attributes = { groups, epsilon: { float: 1e-6 }, activation: SWISH, channels_last: 1 };
    return this.#graph.op("GroupNorm", [x, ...affine], attributes, MICROSOFT);
  }

  #conv(x: Value, name: string): Value {
    const weight = this.#weights.tensors[`${name}.conv.weight`]!;
    const bias = this.#weights.tensors[`${name}.conv.bias`]!;
    const kernel = weight.shape[2]!;
    const pad = (kernel - 1) / 2;
    const attributes = { kernel_shape: [kernel, kernel], pads: [pad, pad, pad, pad] };
    const last = (value: Value): Value => this.#graph.op("Transpose", [value], { perm: [0, 2, 3, 1] });
    const inputs = this.#half
      ? [this.#narrow(x), last(this.#graph.halfWeight(weight)), this.#graph.halfWeight(bias)]
      : [x, last(this.#graph.weight(weight)), this.#graph.weight(bias)];
    return this.#graph.op("NhwcConv", inputs, attributes, MICROSOFT);
  }

  /** What a convolution reads; a cast of what is float16 already is none. */
  #narrow(x: Value): Value {
    return this.#half ? this.#graph.cast(x, "F16") : x;
  }

  /** What a convolution has written, in the running sum. */
  #single(x: Value): Value {
    return this.#half ? this.#graph.cast(x, "F32") : x;
  }
}

/** Whether the norms' operator takes the decoder's groups: an even number of channels each. */
export function fitsNhwc({ widths, groups }: DecoderWeights): boolean {
  return widths.every((width) => width / groups % 2 === 0);
}

/** latent [1, d, h, w] -> RGB [1, H, W, 3], not yet clamped. */
export function decodedNhwc(graph: Graph, weights: DecoderWeights): Value {
  const latent = graph.input("latent", "F32", [1, weights.codeDim, "h", "w"]);
  return new NhwcDecoder(graph, weights).decode(graph.op("Transpose", [latent], { perm: [0, 2, 3, 1] }));
}
