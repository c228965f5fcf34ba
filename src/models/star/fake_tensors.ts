/**
 * Names, shapes and value scales of the tensors of a STAR model with random weights; knows no files.
 *
 * The scales keep activations where trained weights have them: a matrix shrinks by the square root of what it sums over, and
 * unit queries are multiplied by about ten.
 *
 * @module
 */
import type { FakeTensor } from "../fake_values.ts";

/** Sizes of a STAR transformer (star.md §2). */
export interface FakeStarDims {
  /** Channels of the residual stream; heads divide it. */
  readonly width: number;
  /** Number of blocks. */
  readonly depth: number;
  /** Heads of both attentions. */
  readonly heads: number;
  /** Sides of the scales, a level embedding each. */
  readonly sides: readonly number[];
  /** Entries of the codebook. */
  readonly vocabulary: number;
  /** Channels of a codebook entry and of the latent. */
  readonly codeDim: number;
  /** Channels of the text's features. */
  readonly textDim: number;
}

/** Sizes of a VQ-VAE (star.md §10). */
export interface FakeVaeDims {
  /** Entries of the codebook. */
  readonly vocabulary: number;
  /** Channels of a codebook entry and of the latent. */
  readonly codeDim: number;
  /** Channels of the decoder's levels from full resolution down. */
  readonly widths: readonly number[];
}

/** Sizes of a CLIP text tower (star.md §4). */
export interface FakeClipDims {
  /** Channels. */
  readonly width: number;
  /** Number of layers. */
  readonly depth: number;
  /** Heads of an attention. */
  readonly heads: number;
  /** Inner channels of the feed-forward layers. */
  readonly ffn: number;
  /** Rows of the token embedding. */
  readonly vocabulary: number;
  /** Longest prompt in tokens. */
  readonly positions: number;
}

/** Labels of the class-conditional model that STAR was built on; their table lies in the file and is never read. */
const CLASSES = 1001;
/** Residual blocks of a level of the decoder. */
const BLOCKS = 3;
/** Convolutions that the codes of a scale go through; the counters of hits have ten rows whatever the number of scales. */
const PHIS = 4, HIT_ROWS = 10;
/** Biases and offsets: small beside activations of about 1, large enough that a forgotten one shows. */
const BIAS_STD = 0.3;

/** Collects tensors; a matrix keeps the size of what it is multiplied with, times `gain`. */
class Collected {
  readonly tensors: FakeTensor[] = [];

  put(name: string, shape: readonly number[], std: number, mean = 0): void {
    this.tensors.push({ name, shape, mean, std });
  }

  matrix(name: string, to: number, from: number, gain: number): void {
    this.put(name, [to, from], gain / Math.sqrt(from));
  }

  linear(name: string, from: number, to: number, gain: number, biasStd: number): void {
    this.matrix(`${name}.weight`, to, from, gain);
    this.put(`${name}.bias`, [to], biasStd);
  }

  /** Scale and offset of a norm. */
  norm(name: string, channels: number): void {
    this.put(`${name}.weight`, [channels], 0.1, 1);
    this.put(`${name}.bias`, [channels], 0.1);
  }

  conv(name: string, from: number, to: number, kernel = 3, gain = 1): void {
    this.put(`${name}.weight`, [to, from, kernel, kernel], gain / Math.sqrt(from * kernel * kernel));
    this.put(`${name}.bias`, [to], 0.1);
  }
}

/**
 * Tensors of a STAR transformer in the order of the released files, the table of classes and the buffers of zeros included
 * (star.md §3).
 *
 * @example
 * ```ts
 * import { starTensors } from "@stagevar/stagevar/models/star/fake_tensors.ts";
 * import assert from "node:assert/strict";
 * const dims = { width: 64, depth: 2, heads: 1, sides: [1, 2, 4], vocabulary: 99, codeDim: 32, textDim: 16 };
 * assert.equal(starTensors(dims).length, 9 + 19 * 2);
 * assert.deepEqual(starTensors(dims).find(({ name }) => name === "lvl_embed.weight")?.shape, [3, 64]);
 * ```
 */
export function starTensors(dims: FakeStarDims): FakeTensor[] {
  const { width: C, depth, heads, sides, vocabulary, codeDim, textDim } = dims;
  const all = new Collected();
  const linear = (name: string, from: number, to: number, gain = 0.7): void =>
    all.linear(name, from, to, gain, BIAS_STD);
  all.put("pos_start", [1, 1, C], BIAS_STD);
  linear("word_embed", codeDim, C);
  all.put("class_emb.weight", [CLASSES, C], BIAS_STD);
  all.put("lvl_embed.weight", [sides.length, C], 0.5);
  for (let layer = 0; layer < depth; layer++) {
    for (const kind of ["attn", "cross_attn"] as const) {
      const name = `blocks.${layer}.${kind}`;
      // The logarithm of what unit queries are multiplied by: about ten, never cut at a hundred (star.md §6).
      all.put(`${name}.scale_mul_1H11`, [1, heads, 1, 1], 0.3, Math.log(10));
      all.put(`${name}.q_bias`, [C], BIAS_STD);
      all.put(`${name}.v_bias`, [C], BIAS_STD);
      all.put(`${name}.zero_k_bias`, [C], 0);
      if (kind === "attn") all.matrix(`${name}.mat_qkv.weight`, 3 * C, C, 0.7);
      else {
        all.matrix(`${name}.mat_kv.weight`, 2 * C, textDim, 0.7);
        all.matrix(`${name}.mat_q.weight`, C, C, 0.7);
      }
      linear(`${name}.proj`, C, C);
    }
    linear(`blocks.${layer}.ffn.fc1`, C, 4 * C);
    linear(`blocks.${layer}.ffn.fc2`, 4 * C, C);
  }
  linear("head_logits", C, vocabulary, 1.5); // neither even nor certain over the codebook
  linear("encoder_proj", textDim, C);
  return all.tensors;
}

/**
 * Tensors of a VQ-VAE without its encoder, which drawing never reads (star.md §10).
 *
 * @example
 * ```ts
 * import { vaeTensors } from "@stagevar/stagevar/models/star/fake_tensors.ts";
 * import assert from "node:assert/strict";
 * const [first] = vaeTensors({ vocabulary: 99, codeDim: 32, widths: [32, 64] });
 * assert.deepEqual([first!.name, first!.shape], ["decoder.conv_in.weight", [64, 32, 3, 3]]);
 * ```
 */
export function vaeTensors({ vocabulary, codeDim, widths }: FakeVaeDims): FakeTensor[] {
  const all = new Collected();
  const residual = (name: string, from: number, to: number): void => {
    all.norm(`${name}.norm1`, from);
    all.norm(`${name}.norm2`, to);
    all.conv(`${name}.conv1`, from, to);
    all.conv(`${name}.conv2`, to, to);
    if (from !== to) all.conv(`${name}.nin_shortcut`, from, to, 1);
  };
  const attention = (name: string, channels: number): void => {
    all.norm(`${name}.norm`, channels);
    all.conv(`${name}.qkv`, channels, 3 * channels, 1);
    all.conv(`${name}.proj_out`, channels, channels, 1);
  };
  let width = widths.at(-1)!;
  all.conv("decoder.conv_in", codeDim, width);
  residual("decoder.mid.block_1", width, width);
  attention("decoder.mid.attn_1", width);
  residual("decoder.mid.block_2", width, width);
  for (let level = widths.length - 1; level >= 0; level--) {
    for (let i = 0; i < BLOCKS; i++) {
      residual(`decoder.up.${level}.block.${i}`, width, widths[level]!);
      width = widths[level]!;
      if (level === widths.length - 1) attention(`decoder.up.${level}.attn.${i}`, width);
    }
    if (level > 0) all.conv(`decoder.up.${level}.upsample.conv`, width, width);
  }
  all.norm("decoder.norm_out", width);
  all.conv("decoder.conv_out", width, 3, 3, 0.5); // most of it inside [-1, 1]
  all.put("quantize.ema_vocab_hit_SV", [HIT_ROWS, vocabulary], 0);
  for (let i = 0; i < PHIS; i++) all.conv(`quantize.quant_resi.qresi_ls.${i}`, codeDim, codeDim);
  all.put("quantize.embedding.weight", [vocabulary, codeDim], 0.7);
  all.conv("quant_conv", codeDim, codeDim);
  all.conv("post_quant_conv", codeDim, codeDim);
  return all.tensors;
}

/**
 * Tensors of a CLIP text tower under the names of its published files (star.md §4); the table of positions 0, 1, 2, ... that
 * those hold is no weight.
 *
 * @example
 * ```ts
 * import { clipTensors } from "@stagevar/stagevar/models/star/fake_tensors.ts";
 * import assert from "node:assert/strict";
 * const dims = { width: 64, depth: 3, heads: 4, ffn: 256, vocabulary: 999, positions: 77 };
 * assert.equal(clipTensors(dims).length, 4 + 16 * 3);
 * ```
 */
export function clipTensors({ width, depth, ffn, vocabulary, positions }: FakeClipDims): FakeTensor[] {
  const all = new Collected();
  const linear = (name: string, from: number, to: number): void => all.linear(name, from, to, 0.8, 0.1);
  all.put("text_model.embeddings.token_embedding.weight", [vocabulary, width], 0.5);
  all.put("text_model.embeddings.position_embedding.weight", [positions, width], 0.2);
  for (let layer = 0; layer < depth; layer++) {
    const block = `text_model.encoder.layers.${layer}.`;
    for (const name of ["q_proj", "k_proj", "v_proj", "out_proj"]) linear(`${block}self_attn.${name}`, width, width);
    all.norm(`${block}layer_norm1`, width);
    linear(`${block}mlp.fc1`, width, ffn);
    linear(`${block}mlp.fc2`, ffn, width);
    all.norm(`${block}layer_norm2`, width);
  }
  all.norm("text_model.final_layer_norm", width);
  return all.tensors;
}
