/**
 * What differs between STAR's loop and Infinity's: a token is a code of a codebook, drawn with top-k and top-p, and what it
 * adds to the running latent goes through a convolution (star.md §8).
 *
 * @module
 */
import { resizeMap, sampleCodes } from "../../core.ts";
import { type HostIndices, HostKernels } from "../../kernels/host.ts";
import type { BitRequest, LoopBatch, LoopDims } from "../../kernels/kernels.ts";
import type { Grid } from "../../schedule.ts";

/** The codebook, and the convolution of what a scale adds. */
export interface Quantiser {
  /** Codes [V, d]. */
  readonly codebook: Float32Array;
  /** The running latents with what codes at full size, u [B, d, H, W], add to them by the convolution of a scale. */
  add(latent: Float32Array, u: Float32Array, scale: number): Promise<Float32Array>;
}

/** Kernels in host memory; each method is the interface's. */
export class StarKernels extends HostKernels {
  readonly #quantiser: Quantiser;
  readonly #images: number;
  readonly #codeDim: number;
  readonly #last: Grid;

  /** Kernels for one batch. */
  constructor(dims: LoopDims, batch: LoopBatch, quantiser: Quantiser) {
    super(dims, batch);
    this.#quantiser = quantiser;
    this.#images = batch.images;
    this.#codeDim = dims.codeDim;
    this.#last = batch.last;
  }

  /** u [B L, d]: area averages of the latents. */
  override nextInput(latent: Float32Array, { h, w }: Grid): Promise<Float32Array> {
    const d = this.#codeDim;
    const { h: H, w: W } = this.#last;
    const small = resizeMap(latent, this.#images * d, H, W, h, w, "area"); // [B d, h, w]
    const L = h * w;
    const u = new Float32Array(small.length);
    for (let plane = 0; plane < this.#images * d; plane++) {
      const [image, channel] = [Math.floor(plane / d), plane % d];
      for (let token = 0; token < L; token++) u[(image * L + token) * d + channel] = small[plane * L + token]!;
    }
    return Promise.resolve(u);
  }

  /** [B, d, H, W]. */
  override async addBits(
    latent: Float32Array,
    z: Float32Array,
    { scale, grid: { h, w }, streams, topP, topK = 0, forced }: BitRequest,
    only?: HostIndices,
  ): Promise<Float32Array> {
    const { codebook } = this.#quantiser;
    const d = this.#codeDim;
    const L = h * w;
    const vocabulary = codebook.length / d;
    const maps = new Float32Array(this.#images * d * L);
    for (let image = 0; image < this.#images; image++) {
      const own = z.subarray(image * L * vocabulary, (image + 1) * L * vocabulary);
      const codes = forced?.[image] ?? sampleCodes(streams[image]!, own, vocabulary, topK, topP);
      for (const token of only?.[image] ?? codes.keys()) {
        for (let channel = 0; channel < d; channel++) {
          maps[(image * d + channel) * L + token] = codebook[codes[token]! * d + channel]!;
        }
      }
    }
    const { h: H, w: W } = this.#last;
    return await this.#quantiser.add(latent, resizeMap(maps, this.#images * d, h, w, H, W, "cubic"), scale);
  }
}

/** Which of the four convolutions each scale's codes go through, by number of scales (§8): a table, because of exact ties. */
const PHI: Readonly<Record<number, readonly number[]>> = {
  10: [0, 0, 1, 1, 1, 2, 2, 3, 3, 3],
  14: [0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3],
};

/**
 * The convolution of a scale's codes: the tick 1/12, 13/36, 23/36, 11/12 nearest to k / (S - 1), the lower one of two (§8).
 *
 * @example
 * ```ts
 * import { phiOf } from "@stagevar/stagevar/models/star/kernels.ts";
 * import assert from "node:assert/strict";
 * assert.deepEqual([0, 1, 2, 3, 4, 5].map((k) => phiOf(k, 6)), [0, 0, 1, 2, 3, 3]);
 * ```
 */
export function phiOf(scale: number, scales: number): number {
  const known = PHI[scales]?.[scale];
  if (known !== undefined) return known;
  const gaps = [3, 13, 23, 33].map((tick) => Math.abs(tick * (scales - 1) - 36 * scale)); // in whole numbers
  return gaps.indexOf(Math.min(...gaps));
}
