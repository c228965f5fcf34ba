/**
 * Names, shapes and value scales of the tensors of a model with random weights; knows no files.
 *
 * The scales keep activations where trained weights have them: a matrix shrinks by the square root of what it sums over.
 *
 * @module
 */
import type { T5Dims } from "../../text/t5_encoder.ts";
import type { FakeTensor } from "../fake_values.ts";
import { decoderShapes, type DecoderWeights } from "./decoder.ts";
import type { InfinityDims } from "./weights.ts";

/** What a decoder's tensors depend on. */
export type DecoderDims = Pick<DecoderWeights, "codeDim" | "widths" | "blocks">;

/** Biases and offsets: small beside activations of about 1, large enough that a forgotten one shows. */
const BIAS_STD = 0.3;

/**
 * Tensors of an Infinity transformer in the order of the released files: all blocks' and the 22 others, with the buffers of
 * zeros that those files hold (infinity.md §3, §11).
 *
 * @example
 * ```ts
 * import { transformerTensors } from "@stagevar/stagevar/models/infinity/fake_tensors.ts";
 * import assert from "node:assert/strict";
 * const dims = { width: 64, depth: 4, chunks: 2, heads: 2, ffn: 256, tokenDim: 16, textDim: 128, poolHeads: 1, maxTokens: 512, levels: 15 };
 * assert.equal(transformerTensors(dims).length, 22 + 21 * 4);
 * ```
 */
export function transformerTensors(dims: InfinityDims): FakeTensor[] {
  const { width: C, depth, chunks, heads, ffn, tokenDim, textDim, poolHeads } = dims;
  const tensors: FakeTensor[] = [];
  const put = (name: string, shape: readonly number[], std = 0.7 / Math.sqrt(shape.at(-1)!), mean = 0): void => {
    tensors.push({ name, shape, mean, std });
  };
  const bias = (name: string, size: number): void => put(name, [size], BIAS_STD);
  const linear = (name: string, from: number, to: number): void => {
    put(`${name}.weight`, [to, from]);
    bias(`${name}.bias`, to);
  };
  const pool = "text_proj_for_sos.ca.";
  put("cfg_uncond", [dims.maxTokens, textDim], 0.3);
  put("pos_start", [1, 1, C]);
  put("text_norm.weight", [textDim], 0.1, 1);
  put(`${pool}mat_q`, [1, poolHeads, C / poolHeads]);
  bias(`${pool}v_bias`, C);
  put(`${pool}zero_k_bias`, [C], 0);
  put(`${pool}mat_kv.weight`, [2 * C, textDim]);
  linear(`${pool}proj`, C, C);
  linear("text_proj_for_ca.0", textDim, C);
  linear("text_proj_for_ca.2", C, C);
  put("lvl_embed.weight", [dims.levels, C]);
  linear("word_embed", tokenDim, C);
  linear("shared_ada_lin.1", C, 6 * C);
  const per = depth / chunks;
  for (let layer = 0; layer < depth; layer++) {
    const block = `block_chunks.${Math.floor(layer / per)}.module.${layer % per}.`;
    put(`${block}ada_gss`, [1, 1, 6, C], BIAS_STD);
    put(`${block}sa.scale_mul_1H11`, [1, heads, 1, 1], 0.3, 1.5); // the logarithm of what unit queries are multiplied by
    bias(`${block}sa.q_bias`, C);
    bias(`${block}sa.v_bias`, C);
    put(`${block}sa.zero_k_bias`, [C], 0);
    put(`${block}sa.mat_qkv.weight`, [3 * C, C]);
    linear(`${block}sa.proj`, C, C);
    bias(`${block}ca.v_bias`, C);
    put(`${block}ca.zero_k_bias`, [C], 0);
    linear(`${block}ca.mat_q`, C, C);
    put(`${block}ca.mat_kv.weight`, [2 * C, C]);
    linear(`${block}ca.proj`, C, C);
    put(`${block}ca_norm.weight`, [C], 0.1, 1);
    bias(`${block}ca_norm.bias`, C);
    linear(`${block}ffn.fc1`, C, ffn);
    linear(`${block}ffn.fc2`, ffn, C);
  }
  linear("head_nm.ada_lin.1", C, 2 * C);
  linear("head", C, 2 * tokenDim);
  return tensors;
}

/**
 * Tensors of a VAE's decoder, `decoder.` before their names (infinity.md §6).
 *
 * @example
 * ```ts
 * import { decoderTensors } from "@stagevar/stagevar/models/infinity/fake_tensors.ts";
 * import assert from "node:assert/strict";
 * const [first] = decoderTensors({ codeDim: 32, widths: [32, 64], blocks: 3 });
 * assert.deepEqual(first!.shape, [64, 32, 3, 3]);
 * ```
 */
export function decoderTensors(dims: DecoderDims): FakeTensor[] {
  return Object.entries(decoderShapes(dims)).map(([name, shape]) => ({
    name: `decoder.${name}`,
    shape,
    mean: name.endsWith(".norm.weight") ? 1 : 0,
    std: shape.length === 4 ? 1 / Math.sqrt(shape[1]! * shape[2]! * shape[3]!) : 0.1,
  }));
}

/**
 * Tensors of a T5 encoder (infinity.md §2.2), scaled as T5 is initialised: queries are small because scores are not divided.
 *
 * @example
 * ```ts
 * import { t5Tensors } from "@stagevar/stagevar/models/infinity/fake_tensors.ts";
 * import assert from "node:assert/strict";
 * const dims = { width: 64, vocabulary: 99, depth: 2, heads: 2, inner: 32, ffn: 128, buckets: 32, maxDistance: 128, epsilon: 1e-6 };
 * assert.equal(t5Tensors(dims).length, 3 + 9 * 2);
 * ```
 */
export function t5Tensors({ width, vocabulary, depth, heads, inner, ffn, buckets }: T5Dims): FakeTensor[] {
  const tensors: FakeTensor[] = [];
  const put = (name: string, shape: readonly number[], std: number, mean = 0): void => {
    tensors.push({ name, shape, mean, std });
  };
  const ofWidth = 1 / Math.sqrt(width);
  put("shared.weight", [vocabulary, width], 1);
  for (let layer = 0; layer < depth; layer++) {
    const attention = `encoder.block.${layer}.layer.0.`;
    const dense = `encoder.block.${layer}.layer.1.`;
    put(`${attention}SelfAttention.q.weight`, [inner, width], 1 / Math.sqrt(width * inner / heads));
    put(`${attention}SelfAttention.k.weight`, [inner, width], ofWidth);
    put(`${attention}SelfAttention.v.weight`, [inner, width], ofWidth);
    put(`${attention}SelfAttention.o.weight`, [width, inner], 1 / Math.sqrt(inner));
    if (layer === 0) put(`${attention}SelfAttention.relative_attention_bias.weight`, [buckets, heads], ofWidth);
    put(`${attention}layer_norm.weight`, [width], 0.1, 1);
    put(`${dense}DenseReluDense.wi_0.weight`, [ffn, width], ofWidth);
    put(`${dense}DenseReluDense.wi_1.weight`, [ffn, width], ofWidth);
    put(`${dense}DenseReluDense.wo.weight`, [width, ffn], 1 / Math.sqrt(ffn));
    put(`${dense}layer_norm.weight`, [width], 0.1, 1);
  }
  put("encoder.final_layer_norm.weight", [width], 0.1, 1);
  return tensors;
}
