/**
 * The decoder of the BSQ-VAE: running latent to pixels (infinity.md §6). Widths, levels and blocks a level are read off
 * the checkpoint.
 *
 * @module
 */
import { toUint8 } from "../../core.ts";
import { type Expected, matchTensors, type TensorRef, TensorSource } from "../../checkpoint/source.ts";
import { DeviceError, ModelError } from "../../errors.ts";
import type { GraphForm } from "../../graph/form.ts";
import { Graph, type Value } from "../../graph/graph.ts";
import { ELEMENT } from "../../graph/onnx_proto.ts";
import {
  type DeviceSession,
  type DeviceTensor,
  floatTensor,
  type Runtime,
  type Session,
} from "../../runtime/runtime.ts";
import { decodedFused, fitsFusedDecoder } from "./decoder_fused.ts";
import { decodedNhwc, fitsNhwc } from "./decoder_nhwc.ts";
import { StripDecoder } from "./decoder_strips.ts";

/** A decoder checkpoint that has been checked name by name. */
export interface DecoderWeights {
  /** Latent channels d. */
  readonly codeDim: number;
  /** Output channels of each level, from full resolution down. */
  readonly widths: readonly number[];
  /** Residual blocks of a level: 3 in the released models. */
  readonly blocks: number;
  /** Pixels a latent cell is wide: 2^(levels - 1). */
  readonly stride: number;
  /** Groups of the group norms. */
  readonly groups: number;
  /** Tensors by name, `.conv.` and `.norm.` included. */
  readonly tensors: Readonly<Record<string, TensorRef>>;
}

/**
 * Finds the decoder in a VAE checkpoint: under `vae.` or at the top, with or without the inner `.conv.` and `.norm.` (§6.2).
 *
 * @throws {ModelError} when there is none, or a tensor is missing or misshapen
 * @example
 * ```ts
 * import { openCheckpoint } from "@stagevar/stagevar/checkpoint/open.ts";
 * import { readDecoderWeights } from "@stagevar/stagevar/models/infinity/decoder.ts";
 * import assert from "node:assert/strict";
 * const weights = readDecoderWeights(await openCheckpoint("tests/golden/models/mini-2b/vae.pth"));
 * assert.deepEqual([weights.codeDim, weights.stride, weights.blocks], [32, 16, 3]);
 * ```
 */
export function readDecoderWeights(source: TensorSource): DecoderWeights {
  const nested = source.under("vae.decoder.");
  const found = named(nested.size > 0 ? nested : source.under("decoder."));
  const level = new Set<number>();
  const block = new Set<number>();
  for (const name of found.names()) {
    const match = /^up\.(\d{1,2})\.block\.(\d{1,2})\./.exec(name);
    if (match) level.add(Number(match[1])), block.add(Number(match[2]));
  }
  if (level.size === 0) {
    throw new ModelError(`"${source.path}" holds no VAE decoder: no tensor is named "decoder.up.0.block.0..."`, {
      hint: "Give infinity_vae_d32reg.pth for 2B, infinity_vae_d56_f8_14_patchify.pth for 8B",
    });
  }
  const widths = Array.from({ length: level.size }, (_, i) => found.get(`up.${i}.block.0.conv1.conv.weight`).shape[0]!);
  const codeDim = found.get("conv_in.conv.weight").shape[1]!;
  const blocks = block.size;
  // GroupNorm of 32 groups; 24 where only that divides (§6.1)
  const groups = [32, 24].find((count) => widths.every((width) => width > 0 && width % count === 0));
  if (groups === undefined) {
    throw new ModelError(`"${source.path}" has decoder widths ${widths}: multiples of 32 or of 24 are wanted`);
  }
  const tensors = matchTensors<Expected>(found, decoderShapes({ codeDim, widths, blocks }));
  return { codeDim, widths, blocks, stride: 2 ** (widths.length - 1), groups, tensors };
}

/** The same tensors under the names with inner `.conv.` and `.norm.`, which a checkpoint may leave out. */
function named(source: TensorSource): TensorSource {
  const layer = /(^|\.)(conv\d?|conv_in|conv_out|nin_shortcut|norm\d|norm_out)\.(conv\.|norm\.)?(weight|bias)$/;
  const tensors = new Map<string, TensorRef>();
  for (const name of source.names()) {
    const full = name.replace(layer, (_, dot, outer, inner, kind) => {
      return `${dot}${outer}.${inner ?? (outer.startsWith("norm") ? "norm." : "conv.")}${kind}`;
    });
    tensors.set(full, source.get(name));
  }
  return new TensorSource(source.path, source.files, tensors);
}

/**
 * Names inside `decoder.` and shapes of all its tensors, in the order they run (§6.2).
 *
 * @example
 * ```ts
 * import { decoderShapes } from "@stagevar/stagevar/models/infinity/decoder.ts";
 * import assert from "node:assert/strict";
 * const shapes = decoderShapes({ codeDim: 32, widths: [32, 64], blocks: 3 });
 * assert.deepEqual(shapes["conv_in.conv.weight"], [64, 32, 3, 3]);
 * ```
 */
export function decoderShapes(
  { codeDim, widths, blocks }: Pick<DecoderWeights, "codeDim" | "widths" | "blocks">,
): Record<string, readonly number[]> {
  const all: Record<string, readonly number[]> = {};
  const conv = (name: string, from: number, to: number, kernel = 3): void => {
    all[`${name}.conv.weight`] = [to, from, kernel, kernel];
    all[`${name}.conv.bias`] = [to];
  };
  const residual = (name: string, from: number, to: number): void => {
    all[`${name}.norm1.norm.weight`] = all[`${name}.norm1.norm.bias`] = [from];
    all[`${name}.norm2.norm.weight`] = all[`${name}.norm2.norm.bias`] = [to];
    conv(`${name}.conv1`, from, to);
    conv(`${name}.conv2`, to, to);
    if (from !== to) conv(`${name}.nin_shortcut`, from, to, 1);
  };
  let width = widths.at(-1)!;
  conv("conv_in", codeDim, width);
  residual("mid.block_1", width, width);
  residual("mid.block_2", width, width);
  for (let level = widths.length - 1; level >= 0; level--) {
    for (let i = 0; i < blocks; i++) {
      residual(`up.${level}.block.${i}`, width, widths[level]!);
      width = widths[level]!;
    }
    if (level > 0) conv(`up.${level}.upsample.conv`, width, width);
  }
  all["norm_out.norm.weight"] = all["norm_out.norm.bias"] = [width];
  conv("conv_out", width, 3);
  return all;
}

/** latent [1, d, h, w] -> RGB [1, 3, h stride, w stride], not yet clamped to [-1, 1]. */
export function decoderGraph(weights: DecoderWeights): Graph {
  const graph = new Graph("vae decoder");
  graph.output("rgb", decoded(graph, weights), "F32", [1, 3, "H", "W"]);
  return graph;
}

/**
 * latent [1, d, h, w] of one size -> bytes of [H, W, 3], four in an int32 of `pixels` [H W 3 / 4, 1], the first lowest; toUint8() of the
 * core, for a device that has no bytes.
 */
export async function pixelsGraph(
  weights: DecoderWeights,
  h: number,
  w: number,
  form: GraphForm = {},
): Promise<Graph> {
  const graph = new Graph("vae decoder to pixels", form);
  const interleaved = form.fused
    ? await decodedFused(graph, weights)
    : form.maps === "channels last"
    ? decodedNhwc(graph, weights)
    : graph.op("Transpose", [decoded(graph, weights, [h, w])], { perm: [0, 2, 3, 1] });
  const rgb = graph.op("Clip", [interleaved, graph.floats([-1], []), graph.floats([1], [])]);
  const levels = graph.op("Mul", [graph.op("Add", [rgb, graph.floats([1])]), graph.floats([127.5])]);
  const bytes = graph.op("Cast", [graph.reshape(graph.op("Floor", [levels]), [-1, 4])], { to: ELEMENT.I32 });
  const places = graph.op("Cast", [graph.floats([1, 2 ** 8, 2 ** 16, 2 ** 24])], { to: ELEMENT.I32 });
  // added one by one: WebGPU's ReduceSum of many int32 rounds them as floats
  const [a, b, c, d] = graph.split(graph.op("Mul", [bytes, places]), 4, 1) as [Value, Value, Value, Value];
  const packed = graph.op("Add", [graph.op("Add", [a, b]), graph.op("Add", [c, d])]);
  graph.output("pixels", packed, "I32", ["n", 1]);
  return graph;
}

/** What a decoder's graph is built of: layers on maps [1, C, h, w], by the name of their weights. */
export interface GraphLayers {
  /** A convolution, padded to keep its map's size. */
  conv(x: Value, name: string): Value;
  /** A group norm. */
  norm(x: Value, name: string): Value;
  /** A group norm, then SiLU. */
  normSwish(x: Value, name: string): Value;
  /** A residual block. */
  residual(x: Value, name: string): Value;
  /** Nearest-neighbour upsampling, then a convolution. */
  upsampled(x: Value, name: string): Value;
}

/**
 * Layers that are added to a graph in the order they are called, the upsamplings coarse to fine. Shapes are computed as the graph
 * runs, or constants where the latent's size is given: a device computes no shapes.
 *
 * @example
 * ```ts
 * import { openCheckpoint } from "@stagevar/stagevar/checkpoint/open.ts";
 * import { Graph } from "@stagevar/stagevar/graph/graph.ts";
 * import { graphLayers, readDecoderWeights } from "@stagevar/stagevar/models/infinity/decoder.ts";
 * import assert from "node:assert/strict";
 * const weights = readDecoderWeights(await openCheckpoint("tests/golden/models/mini-2b/vae.pth"));
 * const graph = new Graph("the first convolution");
 * graphLayers(graph, weights).conv(graph.input("latent", "F32", [1, weights.codeDim, "h", "w"]), "conv_in");
 * assert(graph.has("Conv"));
 * ```
 */
export function graphLayers(
  graph: Graph,
  { groups, tensors }: Pick<DecoderWeights, "groups" | "tensors">,
  size?: readonly [number, number],
): GraphLayers {
  let sides = size; // of the map at hand
  const weight = (name: string): Value => graph.weight(tensors[name]!);
  const conv = (x: Value, name: string): Value => {
    const kernel = tensors[`${name}.conv.weight`]!.shape[2]!;
    const pad = (kernel - 1) / 2;
    const inputs = [x, weight(`${name}.conv.weight`), weight(`${name}.conv.bias`)];
    return graph.op("Conv", inputs, { kernel_shape: [kernel, kernel], pads: [pad, pad, pad, pad] });
  };
  // Means are taken along rows first and then over the rows of a group: one float32 sum over the millions of values of a
  // group at full size would cost a digit (InstanceNormalization does, and is off by one level ten times as often).
  const mean = (rows: Value): Value => graph.op("ReduceMean", [rows, graph.ints([2])], { keepdims: 1 });
  const norm = (x: Value, name: string): Value => {
    const width = tensors[`${name}.norm.weight`]!.shape[0]!;
    const length = sides ? graph.ints([sides[1]]) : graph.op("Shape", [x], { start: 3 }); // [W]
    const shape = sides ? graph.ints([1, width, ...sides]) : graph.op("Shape", [x]);
    const split = sides
      ? graph.ints([1, groups, -1, sides[1]])
      : graph.op("Concat", [graph.ints([1, groups, -1]), length], { axis: 0 });
    const grouped = graph.op("Reshape", [x, split]); // [1, G, rows, W]
    const rowMeans = graph.op("ReduceMean", [grouped, graph.ints([3])], { keepdims: 1 });
    const centred = graph.op("Sub", [grouped, mean(rowMeans)]);
    const rowSquares = graph.op("ReduceSumSquare", [centred, graph.ints([3])], { keepdims: 1 });
    const count = sides ? graph.floats([sides[1]]) : graph.op("Cast", [length], { to: ELEMENT.F32 });
    const variance = graph.op("Div", [mean(rowSquares), count]); // [1, G, 1, 1]
    const deviation = graph.op("Sqrt", [graph.op("Add", [variance, graph.floats([1e-6])])]);
    const gain = graph.op("Div", [graph.reshape(weight(`${name}.norm.weight`), [1, groups, -1, 1]), deviation]);
    const scaled = graph.op("Mul", [graph.op("Reshape", [centred, shape]), graph.reshape(gain, [1, width, 1, 1])]);
    return graph.op("Add", [scaled, graph.reshape(weight(`${name}.norm.bias`), [1, width, 1, 1])]);
  };
  const normSwish = (x: Value, name: string): Value => {
    const y = norm(x, name);
    return graph.op("Mul", [y, graph.op("Sigmoid", [y])]);
  };
  const residual = (x: Value, name: string): Value => {
    const h = conv(normSwish(x, `${name}.norm1`), `${name}.conv1`);
    const shortcut = tensors[`${name}.nin_shortcut.conv.weight`] ? conv(x, `${name}.nin_shortcut`) : x;
    return graph.op("Add", [shortcut, conv(normSwish(h, `${name}.norm2`), `${name}.conv2`)]);
  };
  const double = graph.floats([1, 1, 2, 2]);
  const upsampled = (x: Value, name: string): Value => {
    const nearest = { mode: "nearest", coordinate_transformation_mode: "asymmetric", nearest_mode: "floor" };
    sides = sides && [2 * sides[0], 2 * sides[1]];
    return conv(graph.op("Resize", [x, null, double], nearest), name);
  };
  return { conv, norm, normSwish, residual, upsampled };
}

function decoded(graph: Graph, weights: DecoderWeights, size?: readonly [number, number]): Value {
  const { codeDim, widths, blocks } = weights;
  const { conv, normSwish, residual, upsampled } = graphLayers(graph, weights, size);
  let x = conv(graph.input("latent", "F32", [1, codeDim, "h", "w"]), "conv_in");
  x = residual(residual(x, "mid.block_1"), "mid.block_2");
  for (let level = widths.length - 1; level >= 0; level--) {
    for (let i = 0; i < blocks; i++) x = residual(x, `up.${level}.block.${i}`);
    if (level > 0) x = upsampled(x, `up.${level}.upsample.conv`);
  }
  return conv(normSwish(x, "norm_out"), "conv_out");
}

/** Pictures whose largest map has more values than this are decoded in strips: faster, and in a third of the memory. */
export const ONE_GRAPH_VALUES = 2 ** 22;

/** How a decoder works on a device with memory of its own. */
export interface DeviceDecoding {
  /** Whether it may convolve in half precision. */
  readonly half?: boolean;
  /** Gives the host's runtime, for maps that the device cannot bear; disposed with the decoder. */
  readonly fallback?: () => Runtime;
}

/** A decoder: one graph for small pictures and devices that fuse it themselves, strips for large ones on the CPU. */
export class Decoder implements Disposable {
  readonly #weights: DecoderWeights;
  readonly #runtime: Runtime;
  readonly #device: DeviceDecoding;
  #here: { readonly runtime: Runtime; readonly decoder: Decoder } | undefined; // once the device has failed
  #whole: Promise<Session> | undefined;
  #pixels: { readonly size: string; readonly session: Promise<DeviceSession> } | undefined;
  #strips: StripDecoder | undefined;

  /** Opens the decoder; graphs are loaded when first used. */
  constructor(weights: DecoderWeights, runtime: Runtime, device: DeviceDecoding = {}) {
    this.#weights = weights;
    this.#runtime = runtime;
    this.#device = device;
  }

  /** latent [d, h, w] -> RGB [3, H, W], about -1 to 1 and not clamped. */
  async decode(latent: Float32Array, h: number, w: number, signal?: AbortSignal): Promise<Float32Array> {
    const { codeDim, stride, widths } = this.#weights;
    const [H, W] = [h * stride, w * stride];
    if (this.#runtime.device === "cpu" && widths[0]! * H * W > ONE_GRAPH_VALUES) {
      this.#strips ??= new StripDecoder(this.#weights, this.#runtime);
      return await this.#strips.decode(latent, h, w, signal);
    }
    const rgb = new Float32Array(3 * H * W);
    const session = await (this.#whole ??= this.#runtime.createSession(decoderGraph(this.#weights)));
    await session.run(
      { latent: floatTensor(latent, [1, codeDim, h, w]) },
      { rgb: floatTensor(rgb, [1, 3, H, W]) },
      signal,
    );
    return rgb;
  }

  /**
   * latent [d, h, w] -> pixels [H, W, 3]; a latent on a device, [1, d, h, w], becomes bytes there. Where the device fails, at maps
   * larger than its memory or than what it binds at a time, they are made on the host.
   *
   * @param read copies a latent to the host
   * @param queued called when a device is at work and this thread is free; not at all where it never is
   */
  async pixels(
    latent: Float32Array | DeviceTensor,
    h: number,
    w: number,
    signal?: AbortSignal,
    read?: (latent: DeviceTensor) => Promise<Float32Array>,
    queued?: () => void,
  ): Promise<Uint8Array> {
    const { stride } = this.#weights;
    if (latent instanceof Float32Array) return toUint8(await this.decode(latent, h, w, signal), h * stride, w * stride);
    const { fallback } = this.#device;
    if (!this.#here) {
      try {
        return await this.#pixelsThere(latent, h, w, signal, queued);
      } catch (error) {
        if (!(error instanceof DeviceError) || !fallback || !read) throw error;
        this.#release();
        const runtime = fallback();
        this.#here = { runtime, decoder: new Decoder(this.#weights, runtime) };
      }
    }
    return await this.#here.decoder.pixels(await read!(latent), h, w, signal);
  }

  async #pixelsThere(
    latent: DeviceTensor,
    h: number,
    w: number,
    signal?: AbortSignal,
    queued?: () => void,
  ): Promise<Uint8Array> {
    const { stride } = this.#weights;
    const [H, W] = [h * stride, w * stride];
    const packed = new Int32Array(H * W * 3 / 4); // sides are multiples of 4: a picture is a few latent cells at least
    const last = this.#runtime.form.maps === "channels last" && fitsNhwc(this.#weights);
    const size = last ? "any" : `${h}x${w}`;
    if (this.#pixels?.size !== size) {
      this.#release(); // one size at a time: each would hold the weights again
      const { half } = this.#runtime.form;
      const form: GraphForm = !last
        ? {}
        : this.#device.half
        ? { maps: "channels last", half, fused: this.#runtime.form.fused && fitsFusedDecoder(this.#weights) }
        : { maps: "channels last" };
      const { createDeviceSession } = this.#runtime;
      const session = pixelsGraph(this.#weights, h, w, form).then((graph) => createDeviceSession!(graph, form.fused));
      this.#pixels = { size, session };
    }
    const session = await this.#pixels.session;
    const { download } = this.#runtime;
    if (download) { // what stays on the device first can be recorded
      const { pixels } = await session.runKeeping({ latent }, {}, { pixels: [packed.length, 1] }, signal);
      using made = pixels!;
      queued?.();
      download(made, packed);
    } else {
      const pixels = { element: "I32", dims: [packed.length, 1], data: packed } as const;
      await session.runKeeping({ latent }, { pixels }, {}, signal);
    }
    return new Uint8Array(packed.buffer);
  }

  /** Frees the weights. */
  [Symbol.dispose](): void {
    this.#whole?.then((session) => session[Symbol.dispose](), () => {});
    this.#release();
    this.#strips?.[Symbol.dispose]();
    this.#here?.decoder[Symbol.dispose]();
    this.#here?.runtime[Symbol.dispose]();
  }

  #release(): void {
    this.#pixels?.session.then((open) => open[Symbol.dispose](), () => {});
    this.#pixels = undefined;
  }
}
