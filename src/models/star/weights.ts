/**
 * Which checkpoint name feeds which part of a STAR transformer, and the dimensions that the shapes imply (star.md §1-3).
 *
 * @module
 */
import { type Expected, matchTensors, type TensorRef, type TensorSource } from "../../checkpoint/source.ts";
import { ModelError } from "../../errors.ts";

/** Dimensions of a STAR transformer, all read off its tensors (star.md §2). */
export interface StarDims {
  /** Model width C. */
  readonly width: number;
  /** Number of blocks D. */
  readonly depth: number;
  /** Attention heads H. */
  readonly heads: number;
  /** Width of the feed-forward layer. */
  readonly ffn: number;
  /** Codes of the codebook, V. */
  readonly vocabulary: number;
  /** Channels of a code. */
  readonly codeDim: number;
  /** Width of the text features. */
  readonly textDim: number;
  /** Rows of the level embedding: the scales there are, S. */
  readonly levels: number;
}

/** Tensors of one block by their name inside the block, as `attn.mat_qkv.weight`. */
export type StarBlockWeights = Readonly<Record<string, TensorRef>>;

/** A transformer checkpoint that has been checked name by name. */
export interface StarWeights {
  /** Dimensions. */
  readonly dims: StarDims;
  /** Tensors outside the blocks, by their checkpoint name. */
  readonly outer: Readonly<Record<string, TensorRef>>;
  /** Blocks in order. */
  readonly blocks: readonly StarBlockWeights[];
}

/** Names that a released file has and nothing reads (star.md §3). */
const IGNORED = /(^|\.)zero_k_bias$|^class_emb\.weight$/;

/** Names that only the sampler model of star.md §9 has. */
const SAMPLER =
  /^(word_embed_head\.|feat_extract_blocks\.|head_logits2\.|encoder_proj2\.|head_proj\.|lvl_embed_2\.|pos_start_last)/;

/** Where a training checkpoint keeps the transformer's weights (star.md §1). */
const NESTED = "trainer.var_wo_ddp.";

/**
 * Checks a transformer checkpoint, bare or inside upstream's training checkpoint, and derives its dimensions (star.md §1-3).
 *
 * @throws {ModelError} listing every name that is missing, misshapen or left over
 * @example
 * ```ts
 * import { openCheckpoint } from "@stagevar/stagevar/checkpoint/open.ts";
 * import { readStarWeights } from "@stagevar/stagevar/models/star/weights.ts";
 * import assert from "node:assert/strict";
 * const { dims } = readStarWeights(await openCheckpoint("tests/golden-star/models/mini-star/star.pth"));
 * assert.deepEqual([dims.width, dims.depth, dims.heads, dims.vocabulary, dims.levels], [32, 6, 2, 256, 6]);
 * ```
 */
export function readStarWeights(source: TensorSource): StarWeights {
  const nested = source.under(NESTED);
  const own = nested.size > 0 ? nested : source;
  const sampler = own.names().find((name) => SAMPLER.test(name));
  if (sampler !== undefined) {
    throw new ModelError(`"${source.path}" is a sampler model of STAR ("${sampler}"), which is not supported`, {
      hint: "Take a base model: star_rope_d30_1024_drop_3-ar-ckpt-ep1-iter21000.pth, or the one of 256 or 512",
    });
  }
  const depth = new Set(own.names().flatMap((name) => /^blocks\.(\d{1,4})\./.exec(name)?.[1] ?? [])).size;
  if (depth === 0) {
    throw new ModelError(`"${source.path}" is no STAR transformer: it has no tensor named blocks.0...`, {
      hint: "Give the file whose tensors are named trainer.var_wo_ddp.blocks.0... or blocks.0...",
    });
  }
  const size = (name: string, axis: number): number => own.get(name).shape[axis] ?? 0;
  const dims: StarDims = {
    width: size("word_embed.weight", 0),
    depth,
    heads: own.get("blocks.0.attn.scale_mul_1H11").shape.reduce((product, n) => product * n, 1),
    ffn: size("blocks.0.ffn.fc1.weight", 0),
    vocabulary: size("head_logits.weight", 0),
    codeDim: size("word_embed.weight", 1),
    textDim: size("encoder_proj.weight", 1),
    levels: size("lvl_embed.weight", 0),
  };
  const zero = Object.entries(dims).find(([, value]) => !Number.isSafeInteger(value) || value < 1);
  if (zero) throw new ModelError(`"${source.path}" has an impossible "${zero[0]}": ${zero[1]}`);
  if (dims.width % (4 * dims.heads) !== 0) {
    throw new ModelError(
      `"${source.path}" has width ${dims.width}, which ${dims.heads} heads of a multiple of 4 must divide`,
    );
  }
  const outer = outerShapes(dims);
  const inner = blockShapes(dims);
  const expected: Record<string, readonly number[]> = { ...outer };
  for (let layer = 0; layer < depth; layer++) {
    for (const [name, shape] of Object.entries(inner)) expected[`blocks.${layer}.${name}`] = shape;
  }
  const found = matchTensors(own, expected, { ignore: (name) => IGNORED.test(name) });
  const pick = (prefix: string, shapes: Expected): Record<string, TensorRef> =>
    Object.fromEntries(Object.keys(shapes).map((name) => [name, found[prefix + name]!]));
  return { dims, outer: pick("", outer), blocks: Array.from({ length: depth }, (_, l) => pick(`blocks.${l}.`, inner)) };
}

function outerShapes({ width: C, vocabulary, codeDim, textDim, levels }: StarDims): Record<string, readonly number[]> {
  return {
    "pos_start": [1, 1, C],
    "word_embed.weight": [C, codeDim],
    "word_embed.bias": [C],
    "encoder_proj.weight": [C, textDim],
    "encoder_proj.bias": [C],
    "lvl_embed.weight": [levels, C],
    "head_logits.weight": [vocabulary, C],
    "head_logits.bias": [vocabulary],
  };
}

function blockShapes({ width: C, heads, ffn, textDim }: StarDims): Record<string, readonly number[]> {
  return {
    "attn.mat_qkv.weight": [3 * C, C],
    "attn.q_bias": [C],
    "attn.v_bias": [C],
    "attn.scale_mul_1H11": [1, heads, 1, 1],
    "attn.proj.weight": [C, C],
    "attn.proj.bias": [C],
    "cross_attn.mat_q.weight": [C, C],
    "cross_attn.mat_kv.weight": [2 * C, textDim],
    "cross_attn.q_bias": [C],
    "cross_attn.v_bias": [C],
    "cross_attn.scale_mul_1H11": [1, heads, 1, 1],
    "cross_attn.proj.weight": [C, C],
    "cross_attn.proj.bias": [C],
    "ffn.fc1.weight": [ffn, C],
    "ffn.fc1.bias": [ffn],
    "ffn.fc2.weight": [C, ffn],
    "ffn.fc2.bias": [C],
  };
}
