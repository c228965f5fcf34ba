/**
 * Work that needs no device and can be done beside it: random projections, the pixels of a PNG.
 *
 * @module
 */
import { gaussianProjection, type ProjectionKind, signProjection, type Stream } from "./core.ts";
import { concat, type RgbImage } from "./png.ts";
import { type Band, bandsOf, deflateBand, joinBands, packBand } from "./png_band.ts";

/** Draws Q [M, r]. */
export interface ProjectionTask {
  /** Discriminator. */
  readonly type: "projection";
  /** How entries are drawn. */
  readonly kind: ProjectionKind;
  /** Random stream. */
  readonly stream: Stream;
  /** Rows M. */
  readonly rows: number;
  /** Rank r. */
  readonly rank: number;
}

/** Makes a zlib stream of a picture's filtered rows, as `encodePng` does. */
export interface PixelsTask {
  /** Discriminator. */
  readonly type: "pixels";
  /** The picture. */
  readonly image: RgbImage;
}

/** Makes a part of one: see `packBand`. */
export interface BandTask {
  /** Discriminator. */
  readonly type: "band";
  /** Its rows. */
  readonly band: Band;
}

/** Something to do. */
export type Task = ProjectionTask | PixelsTask | BandTask;

/** What comes of a task. */
export type ResultOf<T extends Task> = T extends ProjectionTask ? Float32Array<ArrayBuffer> : Uint8Array<ArrayBuffer>;

/**
 * Does a task in this thread.
 *
 * @example
 * ```ts
 * import { runTask } from "@stagevar/stagevar/tasks.ts";
 * import assert from "node:assert/strict";
 * const stream = { seed: 1, purpose: "projection", scale: 0, chunk: 0 } as const;
 * assert.equal(runTask({ type: "projection", kind: "sign", stream, rows: 4, rank: 2 }).length, 8);
 * ```
 */
export function runTask<T extends Task>(task: T): ResultOf<T>;
export function runTask(task: Task): ResultOf<Task> {
  if (task.type === "band") return packBand(task.band);
  if (task.type === "pixels") return concat(joinBands(bandsOf(task.image).map(deflateBand)));
  const draw = task.kind === "gaussian" ? gaussianProjection : signProjection;
  return draw(task.stream, task.rows, task.rank) as Float32Array<ArrayBuffer>;
}
