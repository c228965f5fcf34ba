/**
 * From logits over a vocabulary to ids of a codebook, which is how a vector-quantised model draws its tokens.
 *
 * @module
 */
import * as wasm from "../../core_rs/pkg/core.js";
import { expectInteger, expectShape, MAX_VALUES } from "./checks.ts";
import { pack, type Stream } from "./streams.ts";

/**
 * Ids [L], each in 0..V-1, from logits [L, V] of a vocabulary of V (star.md §8.4).
 *
 * Top-k keeps the logits of a row that are not below its k-th largest, ties included. Of what is left top-p drops, from the
 * smallest on, the entries up to which the cumulative softmax is at most 1 - p, of equal ones the lower id first, and never
 * the largest. The id of row i is then drawn from the softmax of what is left, by position i of the stream, whatever the
 * other rows hold. `topK` 0 or at least V, and `topP` 0 or 1, switch a filter off; a logit of minus infinity is never drawn.
 *
 * @example
 * ```ts
 * import { sampleCodes } from "@stagevar/stagevar/core.ts";
 * import assert from "node:assert/strict";
 * const logits = Float32Array.of(0, 3, 1, 5, 4, 0); // two rows of a vocabulary of three
 * assert.deepEqual(sampleCodes({ seed: 1, purpose: "bits" }, logits, 3, 1, 0), Uint32Array.of(1, 0)); // greedy
 * ```
 *
 * @throws {RangeError} If `logits` is not whole rows, one is NaN or infinity or a row holds none but minus infinity, `topP`
 * is not in 0..1, or `topK` or a field of the stream is out of range.
 */
export function sampleCodes(
  stream: Stream,
  logits: Float32Array,
  vocabulary: number,
  topK: number,
  topP: number,
): Uint32Array {
  expectShape("sampleCodes", "logits", logits, [Math.ceil(logits.length / vocabulary), vocabulary]);
  expectInteger("sampleCodes", "topK", topK, 0, MAX_VALUES);
  if (!(topP >= 0 && topP <= 1)) {
    throw new RangeError(`Cannot call sampleCodes(): "topP" is ${topP}, wanted a number in 0..1`);
  }
  const ids = wasm.sample_codes(pack("sampleCodes", stream), logits, vocabulary, topK, topP);
  if (ids === undefined) throw noDraw(logits, vocabulary);
  return ids;
}

/** The error for logits with a row that is no distribution. */
function noDraw(logits: Float32Array, vocabulary: number): RangeError {
  const i = logits.findIndex((logit) => Number.isNaN(logit) || logit === Infinity);
  if (i >= 0) {
    return new RangeError(`Cannot call sampleCodes(): "logits[${i}]" is ${logits[i]}, wanted less than infinity`);
  }
  const rows = Array.from({ length: logits.length / vocabulary }, (_, row) => row * vocabulary);
  const row = rows.findIndex((start) =>
    logits.subarray(start, start + vocabulary).every((logit) => logit === -Infinity)
  );
  return new RangeError(`Cannot call sampleCodes(): row ${row} of "logits" is all -Infinity`);
}
