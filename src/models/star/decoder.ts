/**
 * The VQ-VAE of STAR as generation needs it (star.md §10): codebook, the convolutions phi that smooth a scale's codes, and the
 * decoder from latent to pixels. Widths, levels and blocks a level are read off the checkpoint.
 *
 * The decoder is that of Infinity with a convolution before it and, on the coarsest level, attention after the residual blocks:
 * what needs every position at once runs as one graph on small maps, and large maps, which need their neighbours alone, in strips.
 *
 * @module
 */
import { toUint8 } from "../../core.ts";
import { type Expected, matchTensors, type TensorRef, type TensorSource } from "../../checkpoint/source.ts";
import { decoderFlopsPerPixel } from "../../cost.ts";
import { ModelError } from "../../errors.ts";
import { Graph, type Value } from "../../graph/graph.ts";
import { floatTensor, type Runtime, type Session } from "../../runtime/runtime.ts";
import {
  decoderShapes,
  type DecoderWeights,
  type GraphLayers,
  graphLayers,
  ONE_GRAPH_VALUES,
} from "../infinity/decoder.ts";
import { decoderLayers } from "../infinity/decoder_layers.ts";
import { StripDecoder, stripRows } from "../infinity/decoder_strips.ts";

/** Convolutions phi; every scale has one of them. */
const PHIS = 4;
/** Groups of the group norms. */
const GROUPS = 32;

/**
 * A VQ-VAE checkpoint that has been checked name by name. `tensors` are the decoder's and `post_quant_conv`, by their layer's name,
 * `.conv.` or `.norm.`, and the parameter, as in Infinity's decoder.
 */
export interface VqWeights extends DecoderWeights {
  /** Codes V. */
  readonly vocabulary: number;
  /** Convolutions phi: 4. */
  readonly phis: number;
  /** Vectors of the codes, [V, d]. */
  readonly codebook: TensorRef;
  /** 3x3 convolutions of the latent, weight [d, d, 3, 3] and bias [d]. */
  readonly phi: readonly { readonly weight: TensorRef; readonly bias: TensorRef }[];
}

/** Sizes that all shapes of a VQ-VAE follow from. */
export type VqDims = Pick<VqWeights, "codeDim" | "vocabulary" | "widths" | "blocks">;

/**
 * Finds codebook, phi and decoder in the state dict of a VQ-VAE; what only its encoder and training need is left alone.
 *
 * @throws {ModelError} when there is no such decoder, or a tensor is missing, misshapen or unknown
 * @example
 * ```ts
 * import { openCheckpoint } from "@stagevar/stagevar/checkpoint/open.ts";
 * import { readVqWeights } from "@stagevar/stagevar/models/star/decoder.ts";
 * import assert from "node:assert/strict";
 * const weights = readVqWeights(await openCheckpoint("tests/golden-star/models/mini-star/vae.pth"));
 * assert.deepEqual([weights.codeDim, weights.vocabulary, weights.stride, weights.phis], [32, 256, 16, 4]);
 * ```
 */
export function readVqWeights(source: TensorSource): VqWeights {
  const level = new Set<number>();
  const block = new Set<number>();
  for (const name of source.names()) {
    const match = /^decoder\.up\.(\d{1,2})\.block\.(\d{1,2})\./.exec(name);
    if (match) level.add(Number(match[1])), block.add(Number(match[2]));
  }
  if (level.size < 2) {
    throw new ModelError(`"${source.path}" holds no VQ-VAE decoder: no tensor is named "decoder.up.1.block.0..."`, {
      hint: "Give vae_ch160v4096z32.pth",
    });
  }
  const extent = (name: string): number => {
    const { shape } = source.get(name);
    if (!shape[0]) throw new ModelError(`Tensor "${name}" of "${source.path}" has no values: its shape is [${shape}]`);
    return shape[0];
  };
  const widths = Array.from({ length: level.size }, (_, i) => extent(`decoder.up.${i}.block.0.conv1.weight`));
  if (widths.some((width) => width % GROUPS !== 0)) {
    throw new ModelError(`"${source.path}" has decoder widths ${widths}: multiples of ${GROUPS} are wanted`);
  }
  const dims: VqDims = {
    codeDim: extent("post_quant_conv.weight"),
    vocabulary: extent("quantize.embedding.weight"),
    widths,
    blocks: block.size,
  };
  const found = matchTensors<Expected>(source, vqShapes(dims), {
    ignore: (name) => /^(encoder|quant_conv)\./.test(name) || name === "quantize.ema_vocab_hit_SV",
  });
  return {
    ...dims,
    stride: 2 ** (widths.length - 1),
    groups: GROUPS,
    tensors: Object.fromEntries(Object.keys(layerShapes(dims)).map((name) => [name, found[storedName(name)]!])),
    phis: PHIS,
    codebook: found["quantize.embedding.weight"]!,
    phi: Array.from({ length: PHIS }, (_, i) => {
      return { weight: found[`${phiName(i)}.weight`]!, bias: found[`${phiName(i)}.bias`]! };
    }),
  };
}

/**
 * Names and shapes of all tensors that generation needs.
 *
 * @example
 * ```ts
 * import { vqShapes } from "@stagevar/stagevar/models/star/decoder.ts";
 * import assert from "node:assert/strict";
 * const shapes = vqShapes({ codeDim: 32, vocabulary: 4096, widths: [160, 160, 320, 320, 640], blocks: 3 });
 * assert.deepEqual(shapes["decoder.up.4.attn.2.qkv.weight"], [1920, 640, 1, 1]);
 * ```
 */
export function vqShapes(dims: VqDims): Record<string, readonly number[]> {
  const { codeDim, vocabulary } = dims;
  const all: Record<string, readonly number[]> = { "quantize.embedding.weight": [vocabulary, codeDim] };
  for (let i = 0; i < PHIS; i++) {
    all[`${phiName(i)}.weight`] = [codeDim, codeDim, 3, 3];
    all[`${phiName(i)}.bias`] = [codeDim];
  }
  for (const [name, shape] of Object.entries(layerShapes(dims))) all[storedName(name)] = shape;
  return all;
}

function phiName(i: number): string {
  return `quantize.quant_resi.qresi_ls.${i}`;
}

/** Shapes of the decoder's tensors by the names of {@linkcode VqWeights}. */
function layerShapes({ codeDim, widths, blocks }: VqDims): Record<string, readonly number[]> {
  const all = decoderShapes({ codeDim, widths, blocks });
  const width = widths.at(-1)!;
  const conv = (name: string, from: number, to: number, kernel: number): void => {
    all[`${name}.conv.weight`] = [to, from, kernel, kernel];
    all[`${name}.conv.bias`] = [to];
  };
  conv("post_quant_conv", codeDim, codeDim, 3);
  const attentions = Array.from({ length: blocks }, (_, i) => `up.${widths.length - 1}.attn.${i}`);
  for (const name of ["mid.attn_1", ...attentions]) {
    all[`${name}.norm.norm.weight`] = all[`${name}.norm.norm.bias`] = [width];
    conv(`${name}.qkv`, width, 3 * width, 1);
    conv(`${name}.proj_out`, width, width, 1);
  }
  return all;
}

/** A tensor's name in the checkpoint, which does without the inner `.conv.` and `.norm.`. */
function storedName(name: string): string {
  const short = name.replace(/\.(conv|norm)\.(weight|bias)$/, ".$2");
  return short.startsWith("post_quant_conv.") ? short : `decoder.${short}`;
}

/** latent [1, d, h, w] -> RGB [1, 3, h stride, w stride], not yet clamped to [-1, 1]. */
export function vqDecoderGraph(weights: VqWeights, { form }: Pick<Runtime, "form">): Graph {
  const graph = new Graph("vq-vae decoder", { attention: form.attention });
  const layers = graphLayers(graph, weights);
  const { conv, normSwish, residual, upsampled } = layers;
  let x = coarsest(graph, layers, weights);
  for (let level = weights.widths.length - 2; level >= 0; level--) {
    x = upsampled(x, `up.${level + 1}.upsample.conv`);
    for (let i = 0; i < weights.blocks; i++) x = residual(x, `up.${level}.block.${i}`);
  }
  graph.output("rgb", conv(normSwish(x, "norm_out"), "conv_out"), "F32", [1, 3, "H", "W"]);
  return graph;
}

/** latent [1, d, h, w] -> `map` [1, C, h, w] after the last attention. */
export function vqCoarsestGraph(weights: VqWeights, { form }: Pick<Runtime, "form">): Graph {
  const graph = new Graph("vq-vae decoder, coarsest level", { attention: form.attention });
  const map = coarsest(graph, graphLayers(graph, weights), weights);
  graph.output("map", map, "F32", [1, weights.widths.at(-1)!, "h", "w"]);
  return graph;
}

/** Everything up to the first upsampling. */
function coarsest(graph: Graph, layers: GraphLayers, { codeDim, widths, blocks }: VqWeights): Value {
  const { conv, norm, residual } = layers;
  const width = widths.at(-1)!;
  const top = `up.${widths.length - 1}`;
  const attended = (x: Value, name: string): Value => {
    const qkv = graph.reshape(conv(norm(x, `${name}.norm`), `${name}.qkv`), [0, 3 * width, -1]);
    const tokens = graph.op("Transpose", [qkv], { perm: [0, 2, 1] }); // [1, h w, 3 C]
    const [q, k, v] = graph.split(tokens, 3, 2) as [Value, Value, Value];
    const mixed = graph.op("Transpose", [graph.attention(q, k, v, { heads: 1, width })], { perm: [0, 2, 1] });
    const map = graph.op("Reshape", [mixed, graph.op("Shape", [x])]);
    return graph.op("Add", [x, conv(map, `${name}.proj_out`)]);
  };
  let x = conv(conv(graph.input("latent", "F32", [1, codeDim, "h", "w"]), "post_quant_conv"), "conv_in");
  x = residual(attended(residual(x, "mid.block_1"), "mid.attn_1"), "mid.block_2");
  for (let i = 0; i < blocks; i++) x = attended(residual(x, `${top}.block.${i}`), `${top}.attn.${i}`);
  return x;
}

/** How a decoder is cut up, for tests. */
export interface VqDecoding {
  /** Values of the largest map up to which a picture is decoded by one graph. */
  readonly oneGraph?: number;
  /** Strips of the maps of larger ones. */
  readonly rows?: typeof stripRows;
}

/**
 * A decoder: one graph for small pictures and for devices with memory of their own, strips for large ones on the CPU, which are
 * faster and keep no map of the picture's size but those that a residual block needs.
 *
 * @example
 * ```ts
 * import { openCheckpoint } from "@stagevar/stagevar/checkpoint/open.ts";
 * import { readVqWeights, VqDecoder } from "@stagevar/stagevar/models/star/decoder.ts";
 * import { openNative } from "@stagevar/stagevar/runtime/native.ts";
 * import assert from "node:assert/strict";
 * const weights = readVqWeights(await openCheckpoint("tests/golden-star/models/mini-star/vae.pth"));
 * using runtime = openNative();
 * using decoder = new VqDecoder(weights, runtime);
 * const pixels = await decoder.pixels(new Float32Array(32 * 2 * 3), 2, 3);
 * assert.equal(pixels.length, 32 * 48 * 3);
 * ```
 */
export class VqDecoder implements Disposable {
  readonly #weights: VqWeights;
  readonly #runtime: Runtime;
  readonly #oneGraph: number;
  readonly #strips: StripDecoder;
  #whole: Promise<Session> | undefined;
  #coarsest: Promise<Session> | undefined;

  /** Opens the decoder; graphs are loaded when first used. */
  constructor(
    weights: VqWeights,
    runtime: Runtime,
    { oneGraph = ONE_GRAPH_VALUES, rows = stripRows }: VqDecoding = {},
  ) {
    this.#weights = weights;
    this.#runtime = runtime;
    this.#oneGraph = oneGraph;
    const layers = decoderLayers(weights);
    const fine = layers.slice(layers.findIndex(({ upsample }) => upsample));
    this.#strips = new StripDecoder(weights, runtime, rows, fine);
  }

  /**
   * latent [d, h, w] -> pixels [H, W, 3], clamped and truncated to bytes.
   *
   * @throws {RangeError} when the latent does not hold its shape
   */
  async pixels(latent: Float32Array, h: number, w: number, signal?: AbortSignal): Promise<Uint8Array> {
    const { stride } = this.#weights;
    return toUint8(await this.decode(latent, h, w, signal), h * stride, w * stride);
  }

  /** latent [d, h, w] -> RGB [3, H, W], about -1 to 1 and not clamped. */
  async decode(latent: Float32Array, h: number, w: number, signal?: AbortSignal): Promise<Float32Array> {
    const { codeDim, stride, widths } = this.#weights;
    const input = floatTensor(latent, [1, codeDim, h, w]);
    const [H, W] = [h * stride, w * stride];
    if (this.#runtime.device === "cpu" && widths[0]! * H * W > this.#oneGraph) {
      const width = widths.at(-1)!;
      const map = new Float32Array(width * h * w);
      const session = await (this.#coarsest ??= this.#runtime.createSession(
        vqCoarsestGraph(this.#weights, this.#runtime),
      ));
      await session.run({ latent: input }, { map: floatTensor(map, [1, width, h, w]) }, signal);
      return await this.#strips.decode(map, h, w, signal);
    }
    const rgb = new Float32Array(3 * H * W);
    const session = await (this.#whole ??= this.#runtime.createSession(vqDecoderGraph(this.#weights, this.#runtime)));
    await session.run({ latent: input }, { rgb: floatTensor(rgb, [1, 3, H, W]) }, signal);
    return rgb;
  }

  /** Frees the weights. */
  [Symbol.dispose](): void {
    for (const session of [this.#whole, this.#coarsest]) session?.then((open) => open[Symbol.dispose](), () => {});
    this.#strips[Symbol.dispose]();
  }
}

/**
 * Operations of the decoder a pixel, in a picture of so many latent cells: convolutions, and attention of every cell to all.
 *
 * @param cells of the latent, h w
 * @example
 * ```ts
 * import { vqDecoderFlopsPerPixel } from "@stagevar/stagevar/models/star/decoder.ts";
 * import assert from "node:assert/strict";
 * const perPixel = vqDecoderFlopsPerPixel({ codeDim: 32, widths: [160, 160, 320, 320, 640], blocks: 3 }, 64 * 64);
 * assert.equal((perPixel * 1024 * 1024 / 1e12).toFixed(2), "6.46");
 * ```
 */
export function vqDecoderFlopsPerPixel(
  { codeDim, widths, blocks }: Pick<VqDims, "codeDim" | "widths" | "blocks">,
  cells: number,
): number {
  const width = widths.at(-1)!;
  const attention = 2 * 4 * width * width + 4 * width * cells; // qkv and proj_out; q k^T and the sum over v
  const aCell = 2 * 9 * codeDim * codeDim + (1 + blocks) * attention;
  return decoderFlopsPerPixel({ codeDim, channels: widths, blocks }) + aCell * 4 ** (1 - widths.length);
}
