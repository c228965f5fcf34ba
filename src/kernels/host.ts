/**
 * Kernels in host memory: batch tensors are row-major arrays, the arithmetic is the wasm core's, image by image.
 *
 * @module
 */
import * as core from "../core.ts";
import type { Stream } from "../core.ts";
import type { Grid } from "../schedule.ts";
import type { RowKind } from "../step.ts";
import type { BitRequest, GuidedLogits, LoopBatch, LoopDims, ProjectionRequest, ScaleKernels } from "./kernels.ts";

/** Row indices of every image, [r]. */
export type HostIndices = readonly Uint32Array[];

/**
 * Kernels on plain arrays; each method is {@linkcode ScaleKernels}'s.
 *
 * @example
 * ```ts
 * import { HostKernels } from "@stagevar/stagevar/kernels/host.ts";
 * import assert from "node:assert/strict";
 * const dims = { width: 2, chunks: 1, codeDim: 1, tokenDim: 1, patchify: false };
 * const kernels = new HostKernels(dims, { images: 1, last: { h: 1, w: 1 } });
 * const { z } = await kernels.guide(Float32Array.of(2, 1), 3, 0.5); // conditional row, null row
 * assert.deepEqual(z, Float32Array.of(8));
 * ```
 */
export class HostKernels implements ScaleKernels<Float32Array, HostIndices> {
  readonly #dims: LoopDims;
  readonly #batch: readonly number[]; // 0..B-1
  readonly #height: number; // of the latent, in cells
  readonly #width: number;

  /** Kernels for one batch. */
  constructor(dims: LoopDims, { images, last }: LoopBatch) {
    const cell = dims.patchify ? 2 : 1;
    this.#dims = dims;
    this.#batch = Array.from({ length: images }, (_, image) => image);
    this.#height = last.h * cell;
    this.#width = last.w * cell;
  }

  /** [B, d, H, W]. */
  zeros(): Promise<Float32Array> {
    return Promise.resolve(new Float32Array(this.#batch.length * this.#dims.codeDim * this.#height * this.#width));
  }

  /** u [B, L, d_tok]. */
  nextInput(latent: Float32Array, { h, w }: Grid): Promise<Float32Array> {
    const { codeDim, patchify } = this.#dims;
    return this.#each((image) =>
      core.nextInput(this.#part(latent, image), codeDim, this.#height, this.#width, h, w, patchify)
    );
  }

  /** A copy: chunks overwrite what they are given. */
  keep(x: Float32Array, { h, w }: Grid, rows: RowKind): Promise<Float32Array> {
    const size = this.#batch.length * h * w * this.#dims.width;
    return Promise.resolve(rows === "null" ? x.slice(x.length - size) : x.slice(0, size));
  }

  /** I, [r] an image. */
  sampleRows(x: Float32Array, rank: number, streams: readonly Stream[]): Promise<HostIndices> {
    const { width } = this.#dims;
    const sample = (image: number): Uint32Array => {
      const X = this.#part(x, image);
      return core.sampleRows(streams[image]!, X, X.length / width, width, rank);
    };
    return Promise.resolve(this.#batch.map(sample));
  }

  /** The same rows. */
  indices(rows: readonly Uint32Array[]): HostIndices {
    return rows;
  }

  /** X[I], [B, r, C]. */
  selectRows(x: Float32Array, chosen: HostIndices): Promise<Float32Array> {
    return this.#each((image) => core.selectRows(this.#part(x, image), this.#dims.width, chosen[image]!));
  }

  /** Q^T X, [B, r, C]. */
  project(
    x: Float32Array,
    _chosen: HostIndices,
    { rank, kind, streams, forced }: ProjectionRequest,
  ): Promise<Float32Array> {
    const { width } = this.#dims;
    return this.#each((image) => {
      const X = this.#part(x, image);
      const M = X.length / width;
      const Q = forced?.[image];
      return Q ? core.project(Q, X, M, rank, width) : core.projectStream(streams[image]!, kind, X, M, rank, width);
    });
  }

  /** [B, L, C]. */
  upsample(cached: Float32Array, from: Grid, to: Grid): Promise<Float32Array> {
    const { width } = this.#dims;
    return this.#each((image) =>
      core.resizeTokens(this.#part(cached, image), from.h, from.w, to.h, to.w, width, "area")
    );
  }

  /** [B, L, C]. */
  restore(
    cached: Float32Array,
    from: Grid,
    to: Grid,
    y: Float32Array,
    chosen: HostIndices,
  ): Promise<Float32Array> {
    const { width } = this.#dims;
    return this.#each((image) => {
      const [old, fresh] = [this.#part(cached, image), this.#part(y, image)];
      return core.restore(old, from.h, from.w, to.h, to.w, width, fresh, chosen[image]!);
    });
  }

  /** z [B, L, d_tok]. */
  guide(logits: Float32Array, guidance: number | undefined, tau: number): Promise<GuidedLogits<Float32Array>> {
    const half = guidance === undefined ? 0 : logits.length / 2; // where the null rows begin
    const z = core.guide(logits.subarray(0, logits.length - half), logits.subarray(half), guidance ?? 1, tau);
    return Promise.resolve({ z, finite: z.every(Number.isFinite) });
  }

  /** [B, d, H, W]. */
  addBits(
    latent: Float32Array,
    z: Float32Array,
    { grid: { h, w }, streams, topP, forced }: BitRequest,
    only?: HostIndices,
  ): Promise<Float32Array> {
    const { codeDim, patchify } = this.#dims;
    return this.#each((image) => {
      const bits = (forced?.[image] as Uint8Array | undefined) ??
        core.sampleBits(streams[image]!, this.#part(z, image), topP);
      const mask = only && maskOf(only[image]!, h * w);
      const own = this.#part(latent, image);
      return core.addCodes(own, bits, h, w, this.#height, this.#width, codeDim, patchify, mask);
    });
  }

  /** The array itself. */
  read(x: Float32Array): Promise<Float32Array> {
    return Promise.resolve(x);
  }

  /** Sub-arrays. */
  images(x: Float32Array): Float32Array[] {
    return this.#batch.map((image) => this.#part(x, image));
  }

  /** The garbage collector's work. */
  free(): void {}

  /** The garbage collector's work. */
  freeIndices(): void {}

  #part(x: Float32Array, image: number): Float32Array {
    const size = x.length / this.#batch.length;
    return x.subarray(image * size, (image + 1) * size);
  }

  /** What a kernel makes of each image, as one array. */
  #each(kernel: (image: number) => Float32Array): Promise<Float32Array> {
    const parts = this.#batch.map(kernel);
    if (parts.length === 1) return Promise.resolve(parts[0]!);
    const all = new Float32Array(parts.reduce((sum, part) => sum + part.length, 0));
    parts.reduce((at, part) => (all.set(part, at), at + part.length), 0);
    return Promise.resolve(all);
  }
}

/** 1 for the tokens whose code is added, 0 for the others (control d). */
function maskOf(chosen: Uint32Array, tokens: number): Uint8Array {
  const mask = new Uint8Array(tokens);
  for (const token of chosen) mask[token] = 1;
  return mask;
}
