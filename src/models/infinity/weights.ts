/**
 * Which checkpoint name feeds which part of an Infinity transformer, and the dimensions that the shapes imply.
 *
 * @module
 */
import { type Expected, matchTensors, type TensorRef, type TensorSource } from "../../checkpoint/source.ts";
import { ModelError } from "../../errors.ts";

/** Dimensions of an Infinity transformer, all read off its tensors (infinity.md §0). */
export interface InfinityDims {
  /** Model width C. */
  readonly width: number;
  /** Number of blocks D. */
  readonly depth: number;
  /** Number of chunks; a chunk is `depth / chunks` blocks. */
  readonly chunks: number;
  /** Attention heads H. */
  readonly heads: number;
  /** Width of the feed-forward layer. */
  readonly ffn: number;
  /** Bits a token, d_tok. */
  readonly tokenDim: number;
  /** Width of the text features. */
  readonly textDim: number;
  /** Heads of the text attention pool. */
  readonly poolHeads: number;
  /** Longest prompt, the rows of `cfg_uncond`. */
  readonly maxTokens: number;
  /** Rows of the level embedding: the most scales a schedule may have. */
  readonly levels: number;
}

/** Tensors of one block by their name inside the block, as `sa.mat_qkv.weight`. */
export type BlockWeights = Readonly<Record<string, TensorRef>>;

/** A transformer checkpoint that has been checked name by name. */
export interface InfinityWeights {
  /** Dimensions. */
  readonly dims: InfinityDims;
  /** Tensors outside the blocks, by their checkpoint name. */
  readonly outer: Readonly<Record<string, TensorRef>>;
  /** Blocks in order. */
  readonly blocks: readonly BlockWeights[];
}

/** Names rebuilt or obsolete in every released file (infinity.md §3, G11, G25). */
const IGNORED = /(^|\.)zero_k_bias$|^lvl_1L$|^attn_bias_for_masking$|^Infinity_(in)?visible_/;

/**
 * Checks a transformer checkpoint against the architecture and derives its dimensions (infinity.md §3, §11).
 *
 * @throws {ModelError} listing every name that is missing, misshapen or left over
 * @example
 * ```ts
 * import { openCheckpoint } from "@stagevar/stagevar/checkpoint/open.ts";
 * import { readInfinityWeights } from "@stagevar/stagevar/models/infinity/weights.ts";
 * import assert from "node:assert/strict";
 * const { dims } = readInfinityWeights(await openCheckpoint("tests/golden/models/mini-2b/infinity.pth"));
 * assert.deepEqual([dims.width, dims.depth, dims.chunks, dims.heads], [32, 16, 8, 2]);
 * ```
 */
export function readInfinityWeights(source: TensorSource): InfinityWeights {
  const layout = blockLayout(source);
  const first = "block_chunks.0.module.0.";
  const textDim = source.get("text_norm.weight").shape[0]!;
  const width = source.get("pos_start").shape[2]!;
  const poolHeads = source.get("text_proj_for_sos.ca.mat_q").shape[1]!;
  const dims: InfinityDims = {
    ...layout,
    width,
    heads: source.get(`${first}sa.scale_mul_1H11`).shape.reduce((product, n) => product * n, 1),
    ffn: source.get(`${first}ffn.fc1.weight`).shape[0]!,
    tokenDim: source.get("word_embed.weight").shape[1]!,
    textDim,
    poolHeads,
    maxTokens: source.get("cfg_uncond").shape[0]!,
    levels: source.get("lvl_embed.weight").shape[0]!,
  };
  const zero = Object.entries(dims).find(([, value]) => !Number.isSafeInteger(value) || value < 1);
  if (zero) throw new ModelError(`"${source.path}" has an impossible "${zero[0]}": ${zero[1]}`);
  if (width % (4 * dims.heads) !== 0 || width % poolHeads !== 0) {
    throw new ModelError(
      `"${source.path}" has width ${width}, which ${dims.heads} heads of a multiple of 4 and ${poolHeads} pool heads must divide`,
    );
  }
  const outer = outerShapes(dims);
  const inner = blockShapes(dims);
  const expected: Record<string, readonly number[]> = { ...outer };
  const names = Array.from({ length: dims.depth }, (_, layer) => {
    const per = dims.depth / dims.chunks;
    return `block_chunks.${Math.floor(layer / per)}.module.${layer % per}.`;
  });
  // A build with flash attention stores the head scales as [1, 1, H, 1] (infinity.md G7): the order of the heads is the same.
  const scaleShape = source.get(`${first}sa.scale_mul_1H11`).shape;
  for (const prefix of names) {
    for (const [name, shape] of Object.entries(inner)) expected[prefix + name] = shape;
    expected[`${prefix}sa.scale_mul_1H11`] = scaleShape;
  }
  const found = matchTensors(source, expected, { ignore: (name) => IGNORED.test(name) });
  const pick = (prefix: string, shapes: Expected): Record<string, TensorRef> =>
    Object.fromEntries(Object.keys(shapes).map((name) => [name, found[prefix + name]!]));
  return { dims, outer: pick("", outer), blocks: names.map((prefix) => pick(prefix, inner)) };
}

function blockLayout(source: TensorSource): { depth: number; chunks: number } {
  const names = new Set<string>();
  let chunks = 0;
  for (const name of source.names()) {
    const match = /^block_chunks\.(\d{1,4})\.module\.(\d{1,4})\./.exec(name);
    if (!match) continue;
    names.add(`${match[1]}.${match[2]}`);
    chunks = Math.max(chunks, Number(match[1]) + 1);
  }
  const depth = names.size;
  if (depth === 0 || depth % chunks !== 0) {
    throw new ModelError(`"${source.path}" is no Infinity transformer: ${depth} blocks found in ${chunks} chunks`, {
      hint:
        "Give the file whose tensors are named block_chunks.0.module.0... (infinity_2b_reg.pth, or an index of shards)",
    });
  }
  return { depth, chunks };
}

function outerShapes(d: InfinityDims): Record<string, readonly number[]> {
  const { width: C, textDim: D } = d;
  const pool = "text_proj_for_sos.ca.";
  return {
    "cfg_uncond": [d.maxTokens, D],
    "pos_start": [1, 1, C],
    "text_norm.weight": [D],
    [`${pool}mat_q`]: [1, d.poolHeads, C / d.poolHeads],
    [`${pool}v_bias`]: [C],
    [`${pool}mat_kv.weight`]: [2 * C, D],
    [`${pool}proj.weight`]: [C, C],
    [`${pool}proj.bias`]: [C],
    "text_proj_for_ca.0.weight": [C, D],
    "text_proj_for_ca.0.bias": [C],
    "text_proj_for_ca.2.weight": [C, C],
    "text_proj_for_ca.2.bias": [C],
    "lvl_embed.weight": [d.levels, C],
    "word_embed.weight": [C, d.tokenDim],
    "word_embed.bias": [C],
    "shared_ada_lin.1.weight": [6 * C, C],
    "shared_ada_lin.1.bias": [6 * C],
    "head_nm.ada_lin.1.weight": [2 * C, C],
    "head_nm.ada_lin.1.bias": [2 * C],
    "head.weight": [2 * d.tokenDim, C],
    "head.bias": [2 * d.tokenDim],
  };
}

function blockShapes({ width: C, ffn }: InfinityDims): Record<string, readonly number[]> {
  return {
    "ada_gss": [1, 1, 6, C],
    "sa.scale_mul_1H11": [-1, -1, -1, -1],
    "sa.q_bias": [C],
    "sa.v_bias": [C],
    "sa.mat_qkv.weight": [3 * C, C],
    "sa.proj.weight": [C, C],
    "sa.proj.bias": [C],
    "ca_norm.weight": [C],
    "ca_norm.bias": [C],
    "ca.mat_q.weight": [C, C],
    "ca.mat_q.bias": [C],
    "ca.mat_kv.weight": [2 * C, C],
    "ca.v_bias": [C],
    "ca.proj.weight": [C, C],
    "ca.proj.bias": [C],
    "ffn.fc1.weight": [ffn, C],
    "ffn.fc1.bias": [ffn],
    "ffn.fc2.weight": [C, ffn],
    "ffn.fc2.bias": [C],
  };
}
