/**
 * The arithmetic of the scale loop around the transformer: what a tensor of the loop is, and all that is done to one.
 *
 * The loop is written once; where its tensors live is the transformer's affair. Host memory is served by the wasm core
 * (host.ts), a device with memory of its own by small graphs (device.ts). Random numbers are drawn on the host in both, by
 * the same streams, so that both draw the same picture.
 *
 * Letters: B images, d channels of the latent, H x W its size, L or M tokens of a grid, C width, r rank.
 *
 * @module
 */
import type { ProjectionKind, Stream } from "../core.ts";
import type { Grid } from "../schedule.ts";
import type { RowKind } from "../step.ts";

/** What the kernels of one batch of pictures need to know of it. */
export interface LoopDims {
  /** Width C. */
  readonly width: number;
  /** Number of chunks. */
  readonly chunks: number;
  /** Channels of the latent, d. */
  readonly codeDim: number;
  /** Bits a token, d_tok. */
  readonly tokenDim: number;
  /** Whether a token is a patch of 2x2 latent cells. */
  readonly patchify: boolean;
}

/** A batch of pictures: how many, and how large their last grid is. */
export interface LoopBatch {
  /** Images B. */
  readonly images: number;
  /** Last grid of the schedule, in tokens. */
  readonly last: Grid;
}

/** Guided logits of a batch. */
export interface GuidedLogits<T> {
  /** z [B, L, d_tok]: logit of 1 over 0, guided and tempered. */
  readonly z: T;
  /** Whether all of them are finite numbers; where the device is still at it, a question, to be asked once, that waits for it. */
  readonly finite: boolean | (() => Promise<boolean>);
}

/** What turns guided logits into bits, or into codes of a codebook, one entry an image. */
export interface BitRequest {
  /** Scale index k. */
  readonly scale: number;
  /** Grid of the scale. */
  readonly grid: Grid;
  /** Random stream of each image. */
  readonly streams: readonly Stream[];
  /** Nucleus share; 0.5 is greedy for bits. */
  readonly topP: number;
  /** Most likely codes that may be drawn, of codebooks; 0 = all, 1 is greedy. Bits have but two. */
  readonly topK?: number | undefined;
  /** Bits to take instead, [L, d_tok] of 0 and 1, or codes [L] of a codebook: golden cases. */
  readonly forced?: readonly ForcedTokens[] | undefined;
}

/** Tokens of a scale: bits [L, d_tok] of 0 and 1, or codes [L]. */
export type ForcedTokens = Uint8Array | Uint32Array;

/** How rows of X are mixed, one entry an image. */
export interface ProjectionRequest {
  /** Rank r. */
  readonly rank: number;
  /** How Q is drawn. */
  readonly kind: ProjectionKind;
  /** Random stream of each image. */
  readonly streams: readonly Stream[];
  /** Q [M, r] to take instead: golden cases. */
  readonly forced?: readonly Float32Array[] | undefined;
}

/** A projection that will be asked for: of how many rows, and the request's part that is known. */
export interface ForeseenProjection extends Omit<ProjectionRequest, "forced"> {
  /** Rows M of what is projected. */
  readonly rows: number;
}

/**
 * Kernels on tensors T and row indices I of one batch. A tensor belongs to the loop, which frees it; no kernel writes into
 * its arguments.
 */
export interface ScaleKernels<T, I> {
  /** Running latents of nothing, [B, d, H, W]. */
  zeros(): Promise<T>;
  /** Says what will be projected, so that Q can be drawn while the scales before are computed. */
  foresee?(projections: readonly ForeseenProjection[]): void;
  /** Input of a scale, u [B, L, d_tok]: the latents at its grid (infinity.md §5.4). */
  nextInput(latent: T, grid: Grid): Promise<T>;
  /** Conditional or null rows of x [R, L, C], kept to be restored from: the first B or the last, [B, L, C]. */
  keep(x: T, grid: Grid, rows: RowKind): Promise<T>;
  /** Rows I of x [B, M, C] by energy, r an image (stagevar.md §3.2). */
  sampleRows(x: T, rank: number, streams: readonly Stream[]): Promise<I>;
  /** Given rows as I. */
  indices(rows: readonly Uint32Array[]): I;
  /** The rows themselves, X[I] [B, r, C]. */
  selectRows(x: T, chosen: I): Promise<T>;
  /** Mixtures of the rows, Q^T X [B, r, C] (stagevar.md §3.3), which will take the places I. */
  project(x: T, chosen: I, request: ProjectionRequest): Promise<T>;
  /** Cached rows of one grid at another, area averages (stagevar.md §3.5). */
  upsample(cached: T, from: Grid, to: Grid): Promise<T>;
  /** The same with y [B, r, C] in the places I. */
  restore(cached: T, from: Grid, to: Grid, y: T, chosen: I): Promise<T>;
  /**
   * Guidance and temperature on logits (infinity.md §4.2): [2B, L, d_tok], conditional rows first, or [B, L, d_tok] of one
   * kind of row, which no guidance weighs.
   */
  guide(logits: T, guidance: number | undefined, tau: number): Promise<GuidedLogits<T>>;
  /** Bits of z, and their codes on the running latents; of the rows I alone where given (infinity.md §4.3, §5.2). */
  addBits(latent: T, z: T, request: BitRequest, only?: I): Promise<T>;
  /** All values in host memory; of an array itself, not a copy. */
  read(x: T): Promise<Float32Array>;
  /** The parts of a batch of latents, one an image, good until they are asked for again. */
  images(x: T): readonly T[] | Promise<readonly T[]>;
  /** Gives a tensor's memory back where that is not the garbage collector's work. */
  free(x: T): void;
  /** The same for indices. */
  freeIndices(chosen: I): void;
}
