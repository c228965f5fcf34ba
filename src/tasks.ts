/**
 * Work that needs no device and can be done beside it: random projections, bands of PNG files.
 *
 * @module
 */
import { gaussianProjection, type ProjectionKind, signProjection, type Stream } from "./core.ts";
import { type Band, deflateBand, type DeflatedBand } from "./png_band.ts";

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

/** Deflates a band of rows. */
export interface BandTask {
  /** Discriminator. */
  readonly type: "band";
  /** The rows. */
  readonly band: Band;
}

/** Something to do. */
export type Task = ProjectionTask | BandTask;

/** What comes of a task. */
export type ResultOf<T extends Task> = T extends ProjectionTask ? Float32Array<ArrayBuffer> : DeflatedBand;

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
  if (task.type === "band") return deflateBand(task.band);
  const draw = task.kind === "gaussian" ? gaussianProjection : signProjection;
  return draw(task.stream, task.rows, task.rank) as Float32Array<ArrayBuffer>;
}
