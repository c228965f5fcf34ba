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

/** A run that is recorded, and from then on replayed. */
export interface Recording<Bound> {
  /** Its number. */
  readonly id: string;
  /** What was bound when it was recorded. */
  bound?: Bound;
}

/**
 * Counts the runs of one graph.
 *
 * @example
 * ```ts
 * import { Recordings } from "@stagevar/stagevar/runtime/recordings.ts";
 * import assert from "node:assert/strict";
 * const recordings = new Recordings();
 * for (let run = 1; run < 8; run++) assert.equal(recordings.of("x at 0"), undefined);
 * assert.equal(recordings.of("x at 0")?.id, "0"); // recorded now, and replayed from the next time on
 * assert.equal(recordings.of("x at 256"), undefined);
 * ```
 */
export class Recordings<Bound> {
  readonly #seen = new Map<string, { times: number; recording?: Recording<Bound> }>();
  #count = 0;

  /** The recording that a run belongs to, if any; `places` says where all its tensors lie, and their shapes. */
  of(places: string): Recording<Bound> | undefined {
    let seen = this.#seen.get(places);
    if (!seen) {
      if (this.#seen.size === MOST_SEEN) return undefined;
      this.#seen.set(places, seen = { times: 0 });
    }
    if (++seen.times === BEFORE && this.#count < MOST) seen.recording = { id: `${this.#count++}` };
    return seen.recording;
  }

  /** What was bound for recordings, to be given back with them. */
  bound(): Bound[] {
    return [...this.#seen.values()].flatMap(({ recording }) => recording?.bound ? [recording.bound] : []);
  }
}
