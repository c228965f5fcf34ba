/**
 * Which runs of a graph a device records, to replay them as one launch: those whose tensors lie where they often lay.
 *
 * @module
 */

/**
 * How often a run must have come before it is recorded, which takes as long as a few hundred replays save: pictures of one size,
 * method and prompt length are then drawn by the dozen.
 */
const BEFORE = 8;

/** Recordings at most: each takes some hundred kilobytes of the device. */
const MOST = 256;

/** Runs that are told apart at most. */
const MOST_SEEN = 1024;

/** Says that a run is not to be recorded. */
export const NOT_RECORDED = "-1";

/**
 * Counts the runs of one graph.
 *
 * @example
 * ```ts
 * import { NOT_RECORDED, Recordings } from "@stagevar/stagevar/runtime/recordings.ts";
 * import assert from "node:assert/strict";
 * const recordings = new Recordings();
 * for (let run = 1; run < 8; run++) assert.equal(recordings.idOf("x at 0"), NOT_RECORDED);
 * assert.equal(recordings.idOf("x at 0"), "0"); // recorded now, and replayed from the next time on
 * assert.equal(recordings.idOf("x at 256"), NOT_RECORDED);
 * ```
 */
export class Recordings {
  readonly #seen = new Map<string, { times: number; id: string }>();
  #count = 0;

  /** The number that a run is recorded or replayed under; `places` says where all its tensors lie, and their shapes. */
  idOf(places: string): string {
    let seen = this.#seen.get(places);
    if (!seen) {
      if (this.#seen.size === MOST_SEEN) return NOT_RECORDED;
      this.#seen.set(places, seen = { times: 0, id: NOT_RECORDED });
    }
    if (++seen.times === BEFORE && this.#count < MOST) seen.id = `${this.#count++}`;
    return seen.id;
  }
}
