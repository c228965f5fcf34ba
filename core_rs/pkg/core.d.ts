/* tslint:disable */
/* eslint-disable */

/**
 * How `resize_map` and `resize_tokens` weigh the cells along an axis.
 */
export enum ResizeKind {
    Area = 0,
    Linear = 1,
    Cubic = 2,
}

/**
 * latent [d, H, W] plus the two-tap resize of the codes of bits [h*w, d_tok]; a token whose mask is 0 has code 0.
 */
export function add_codes(latent: Float32Array | number[], bits: Uint8Array | number[], mask: Uint8Array | number[] | null | undefined, h: number, w: number, h_full: number, w_full: number, patchify: boolean): Float32Array;

/**
 * Smallest ranks r, one for each alpha, with (s_1^2 + .. + s_r^2) >= alpha * (sum of all s_i^2), s the singular values of
 * x [M, C]. They are the eigenvalues of the Gram matrix of the smaller side. `None` when a value is not finite.
 */
export function energy_ranks(x: Float32Array | number[], rows: number, width: number, alphas: Float64Array | number[]): Uint32Array | undefined;

/**
 * Standard normals, [count].
 */
export function gaussians(stream: Uint32Array | number[], count: number, offset: number): Float32Array;

/**
 * Standard Gumbel numbers [count]: the noise of `sample_rows`, for a device that samples rows in its own memory.
 */
export function gumbels(stream: Uint32Array | number[], count: number, offset: number): Float32Array;

/**
 * Input tokens [h*w, d_tok] of the next scale: latent [d, H, W] resized to its grid, two taps an axis.
 */
export function next_input(latent: Float32Array | number[], h_full: number, w_full: number, h: number, w: number, patchify: boolean): Float32Array;

/**
 * Rows of `stride` bytes, the first one only the row above the band unless `first`. Gives the Adler-32 of the filtered
 * rows, four bytes from the lowest, and then the rows as a part of a deflate stream that ends on a byte, or as its `last`.
 */
export function png_band(rows: Uint8Array | number[], stride: number, first: boolean, last: boolean): Uint8Array;

/**
 * Q^T X [r, C] of q [M, r] and x [M, C].
 */
export function project(q: Float32Array | number[], x: Float32Array | number[], rank: number, width: number): Float32Array;

/**
 * `project(projection(..), x)` bit for bit, with BLOCK_ROWS rows of Q alive at a time.
 */
export function project_stream(stream: Uint32Array | number[], sign: boolean, x: Float32Array | number[], rank: number, width: number): Float32Array;

/**
 * Q [M, r] as a dense array.
 */
export function projection(stream: Uint32Array | number[], sign: boolean, rows: number, rank: number): Float32Array;

/**
 * x [d, h, w] -> [d, h_out, w_out].
 */
export function resize_map(x: Float32Array | number[], h: number, w: number, h_out: number, w_out: number, kind: ResizeKind): Float32Array;

/**
 * x [h*w, C] -> [h_out*w_out, C].
 */
export function resize_tokens(x: Float32Array | number[], h: number, w: number, h_out: number, w_out: number, kind: ResizeKind): Float32Array;

/**
 * Z [h_out*w_out, C]: y [r, C] at `indices` [r], the area upsample of `cached` [h*w, C] elsewhere (stagevar.md §3.5).
 */
export function restore(cached: Float32Array | number[], h: number, w: number, h_out: number, w_out: number, y: Float32Array | number[], indices: Uint32Array | number[]): Float32Array;

/**
 * Bits [n] of z [n], the logit of 1 over 0: the sign where the weaker class has probability at most 1 - top_p, else
 * Bernoulli(sigmoid(z)) from position i of the stream. top_p = 0 filters nothing. `None` when a logit is NaN.
 */
export function sample_bits(stream: Uint32Array | number[], z: Float32Array | number[], top_p: number): Uint8Array | undefined;

/**
 * Ids [L] of logits [L, vocabulary], row i by position i of the stream: from the softmax of what `top_k`, then `top_p`,
 * leave; 0 switches either off. `None` when a logit is NaN or infinite, or a row has only minus infinities.
 */
export function sample_codes(stream: Uint32Array | number[], logits: Float32Array | number[], vocabulary: number, top_k: number, top_p: number): Uint32Array | undefined;

/**
 * Indices [r] of the rows with the largest log||x_i||^2 + Gumbel noise, largest first: the order of r sequential draws.
 *
 * Zero rows come after all others, in the order of their noise. `None` when a value is not finite.
 */
export function sample_rows(stream: Uint32Array | number[], x: Float32Array | number[], width: number, rank: number): Uint32Array | undefined;

/**
 * Uniforms in [0, 1), [count].
 */
export function uniforms(stream: Uint32Array | number[], count: number, offset: number): Float32Array;
