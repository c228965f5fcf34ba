/**
 * What all families' rotary positions come down to: a cosine and a sine for every pair of a head, a row a token.
 *
 * @module
 */

/** Rotation tables, a row a token. */
export interface RopeTable {
  /** Tokens L. */
  readonly rows: number;
  /** Pairs a head, head_dim / 2. */
  readonly pairs: number;
  /** Cosines, [L, head_dim/2]. */
  readonly cos: Float32Array;
  /** Sines, [L, head_dim/2]. */
  readonly sin: Float32Array;
}
