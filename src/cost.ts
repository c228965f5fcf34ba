/**
 * What a plan costs: token-layers and floating point operations, from shapes alone (infinity.md §7.2).
 *
 * A multiply-add counts two. Counted: the linear layers of every block, attention, the projection Q^T X, word embedding
 * and head, and the decoder's convolutions where the shape tells them. Cross-attention keys and values depend on the
 * prompt alone and are counted once an image and row, as this engine runs them; the tables of §7.2 count them at every
 * scale as the official code does. Not counted: the text encoder, norms, activations, resizing, sampling.
 *
 * @module
 */
import type { Grid } from "./schedule.ts";
import type { Step } from "./step.ts";

/** The sizes of a model that a plan depends on. */
export interface ModelShape {
  /** Name shown to people, as in model.json. */
  name: string;
  /** Model family. */
  family: "infinity" | "star";
  /** C, channels of a token. */
  width: number;
  /** Blocks. */
  depth: number;
  /** Groups of consecutive blocks whose outputs are cached and reduced as one; divides depth. */
  chunks: number;
  /** Attention heads. */
  heads: number;
  /** Hidden channels of the feed-forward layer. */
  ffn: number;
  /** d, bits of a cell of the latent. */
  codeDim: number;
  /** d_tok, bits of a token: d, or 4d with patchify; of STAR, codes of the codebook. */
  tokenDim: number;
  /** Channels of the text encoder's output. */
  textDim: number;
  /** A token covers 2x2 cells of the latent. */
  patchify: boolean;
  /** Side of a token in pixels. */
  pixelsPerToken: number;
  /** Sides of the scales where the checkpoint fixes them. */
  sides?: readonly number[];
  /** Decoder operations a pixel, from {@linkcode decoderFlopsPerPixel}; absent when unknown. */
  decoderFlopsPerPixel?: number;
  /** Hash of the checkpoint, compared with that of calibrated ranks; absent when unknown. */
  hash?: string;
}

/** Operations of one scale by what they are spent on, all rows together. */
export interface ScaleFlops {
  /** Linear layers of the blocks, without cross-attention keys and values. */
  linear: number;
  /** Q K^T and the weighted sum of V over all cached and own tokens. */
  selfAttention: number;
  /** The same over the text tokens. */
  crossAttention: number;
  /** Q^T X of every chunk. */
  projection: number;
  /** Word embedding and head. */
  ends: number;
}

/** What one scale costs. */
export interface ScaleCost {
  /** Batch rows that run: 2, 1, or 0. */
  rows: number;
  /** Tokens a row that pass the blocks of each chunk; empty when none does. */
  tokens: number[];
  /** Rows x tokens x blocks. */
  tokenLayers: number;
  /** Operations by kind. */
  flops: ScaleFlops;
}

/** What a picture costs. */
export interface Cost {
  /** Every scale, skipped ones too. */
  scales: ScaleCost[];
  /** Rows x tokens x blocks over all scales: the work in the unit that no shape changes. */
  tokenLayers: number;
  /** Cross-attention keys and values of the rows that run at all, once an image. */
  textKeysValues: number;
  /** All operations of the transformer, text keys and values included. */
  transformer: number;
  /** Operations of the decoder; absent when the model does not tell. */
  decoder?: number;
}

/** What {@linkcode planCost} counts. */
export interface CostRequest {
  /** The model. */
  shape: ModelShape;
  /** Token grid of every scale. */
  grids: readonly Grid[];
  /** What happens at every scale. */
  steps: readonly Step[];
  /** Tokens of the prompt, </s> included. */
  textTokens: number;
}

/**
 * Counts the work of a list of steps, one a grid; infinity.md §7.2 with any width, feed-forward and depth.
 *
 * @example
 * ```ts
 * import { type ModelShape, planCost } from "@stagevar/stagevar/cost.ts";
 * import assert from "node:assert/strict";
 * const shape: ModelShape = {
 *   name: "tiny", family: "infinity", width: 8, depth: 4, chunks: 2, heads: 2, ffn: 32,
 *   codeDim: 4, tokenDim: 4, textDim: 8, patchify: false, pixelsPerToken: 16,
 * };
 * const grids = [{ h: 1, w: 1 }, { h: 2, w: 2 }];
 * const full = { kind: "full", rows: "both", guidance: 3, tau: 1 } as const;
 * const cost = planCost({ shape, grids, steps: [full, { kind: "skip" }], textTokens: 6 });
 * assert.equal(cost.tokenLayers, 2 * 1 * 4);
 * assert.equal(cost.scales[0]?.flops.linear, 2 * 4 * (12 * 8 * 8 + 4 * 8 * 32));
 * ```
 */
export function planCost({ shape, grids, steps, textTokens }: CostRequest): Cost {
  const { width: C, depth, chunks, ffn, codeDim, tokenDim, textDim } = shape;
  const star = shape.family === "star"; // cross attention of one row serves both (star.md §6, Q1)
  const layers = depth / chunks;
  const keys = new Array<number>(chunks).fill(0); // cached self-attention tokens of each chunk's blocks, a row
  const scales = grids.map((grid, k): ScaleCost => {
    const L = grid.h * grid.w;
    const step = steps[k]!;
    const flops: ScaleFlops = { linear: 0, selfAttention: 0, crossAttention: 0, projection: 0, ends: 0 };
    if (step.kind === "skip") return { rows: 0, tokens: [], tokenLayers: 0, flops };
    const rows = step.rows === "both" ? 2 : 1;
    const embedded = step.kind === "reduced" && step.reduce === "cache" ? 0 : L;
    // Infinity's head has two outputs a bit
    flops.ends = rows * 2 * C * (star ? codeDim * embedded + tokenDim * L : tokenDim * (embedded + 2 * L));
    const tokens = step.kind === "full" ? keys.map(() => L) : step.ranks;
    tokens.forEach((n, chunk) => {
      keys[chunk]! += n;
      // qkv 6, proj 2, cross q 2, cross proj 2 times C^2; the feed-forward layer 4 C ffn
      const crossing = star ? 1 : rows;
      flops.linear += layers * n * (rows * (8 * C * C + 4 * C * ffn) + crossing * 4 * C * C);
      flops.selfAttention += rows * layers * 4 * C * n * keys[chunk]!;
      flops.crossAttention += crossing * layers * 4 * C * n * textTokens;
      if (step.kind === "reduced" && step.reduce === "project") flops.projection += rows * 2 * n * L * C;
    });
    return { rows, tokens, tokenLayers: rows * layers * sum(tokens), flops };
  });
  const texts = Math.max(0, ...scales.map(({ rows }) => rows)) * depth * textTokens;
  const textKeysValues = texts * 4 * C * (star ? textDim : C);
  const last = grids.at(-1)!;
  const pixels = last.h * last.w * shape.pixelsPerToken ** 2;
  return {
    scales,
    tokenLayers: sum(scales.map(({ tokenLayers }) => tokenLayers)),
    textKeysValues,
    transformer: textKeysValues + sum(scales.map(({ flops }) => scaleFlops(flops))),
    ...(shape.decoderFlopsPerPixel === undefined ? {} : { decoder: shape.decoderFlopsPerPixel * pixels }),
  };
}

/**
 * All operations of one scale, text keys and values excluded.
 *
 * @example
 * ```ts
 * import { scaleFlops } from "@stagevar/stagevar/cost.ts";
 * import assert from "node:assert/strict";
 * assert.equal(scaleFlops({ linear: 4, selfAttention: 3, crossAttention: 2, projection: 1, ends: 1 }), 11);
 * ```
 */
export function scaleFlops(flops: ScaleFlops): number {
  return flops.linear + flops.selfAttention + flops.crossAttention + flops.projection + flops.ends;
}

/** What the decoder's convolutions are made of (infinity.md §6.1). */
export interface DecoderShape {
  /** Bits of a cell of the latent. */
  codeDim: number;
  /** Channels of every level, full resolution first: 128, 256, 512, 512, 512. */
  channels: readonly number[];
  /** Residual blocks a level: 3 in the official decoders. */
  blocks: number;
}

/**
 * Operations of the decoder's convolutions a pixel of the picture (infinity.md §6.1).
 *
 * @example
 * ```ts
 * import { decoderFlopsPerPixel } from "@stagevar/stagevar/cost.ts";
 * import assert from "node:assert/strict";
 * const perPixel = decoderFlopsPerPixel({ codeDim: 32, channels: [128, 256, 512, 512, 512], blocks: 3 });
 * assert.equal((perPixel * 1024 * 1024 / 1e12).toFixed(2), "9.85");
 * ```
 */
export function decoderFlopsPerPixel({ codeDim, channels, blocks }: DecoderShape): number {
  const top = channels.length - 1;
  const area = (level: number) => 4 ** -level; // cells of a level a pixel
  const conv = (level: number, from: number, to: number, taps = 9) => 2 * taps * from * to * area(level);
  const widest = channels[top]!;
  let flops = conv(top, codeDim, widest) + 4 * conv(top, widest, widest); // conv_in and two middle blocks
  let from = widest;
  for (let level = top; level >= 0; level--) {
    const to = channels[level]!;
    flops += conv(level, from, to) + (2 * blocks - 1) * conv(level, to, to);
    if (from !== to) flops += conv(level, from, to, 1); // nin_shortcut
    if (level > 0) flops += conv(level - 1, to, to); // upsample, then convolve
    from = to;
  }
  return flops + conv(0, from, 3);
}

function sum(values: readonly number[]): number {
  return values.reduce((a, b) => a + b, 0);
}
