/**
 * What kernels in a device's memory share, however a batch lies there: its tensors, and how they are read, made and let go.
 *
 * @module
 */
import type { DeviceMemory } from "../runtime/device_memory.ts";
import type { DeviceTensor, Tensor } from "../runtime/runtime.ts";
import type { Grid } from "../schedule.ts";
import type { LatentShape } from "./graphs.ts";
import type { LoopBatch, LoopDims } from "./kernels.ts";

/**
 * A tensor of the loop: one an image, [2, L, C] with both of its batch rows or [1, L, C] with one; or one a batch row where an
 * image's rows cannot lie in one tensor, conditional rows first; or one of the whole batch (fused.ts).
 */
export type DeviceRows = readonly DeviceTensor[];

/** Row indices I, [1, r] of every image or [B, r] of int64: those drawn lie on the device, given ones on the host. */
export type DeviceIndices = readonly (DeviceTensor | Tensor)[];

/** A bit is certain from here on when nothing is filtered: no logit is as large. */
export const NEVER = 3e38;

/** The tensors of one batch in a device's memory. */
export abstract class DeviceBatch {
  /** Where they lie. */
  protected readonly memory: DeviceMemory;
  /** Width C. */
  protected readonly width: number;
  /** Latent of an image. */
  protected readonly shape: LatentShape;
  readonly #images: number;
  readonly #repeated: boolean;

  /**
   * For one batch.
   *
   * @param images of a tensor
   * @param repeated whether runs may be recorded
   */
  constructor(
    memory: DeviceMemory,
    { width, codeDim, tokenDim, patchify }: LoopDims,
    { last }: Pick<LoopBatch, "last">,
    images: number,
    repeated: boolean,
  ) {
    const cell = patchify ? 2 : 1;
    this.memory = memory;
    this.width = width;
    this.shape = { codeDim, tokenDim, cell, height: last.h * cell, width: last.w * cell };
    this.#images = images;
    this.#repeated = repeated;
  }

  /** Rows behind each other: for golden cases and calibration. */
  async read(x: DeviceRows): Promise<Float32Array> {
    const parts: Float32Array[] = [];
    for (const part of x) parts.push(await this.memory.read(part));
    const all = new Float32Array(parts.reduce((sum, part) => sum + part.length, 0));
    parts.reduce((at, part) => (all.set(part, at), at + part.length), 0);
    return all;
  }

  /** Lets go of every tensor. */
  free(x: DeviceRows): void {
    for (const tensor of x) this.memory.free(tensor);
  }

  /** Lets go of those on the device. */
  freeIndices(chosen: DeviceIndices): void {
    for (const rows of chosen) if (!("data" in rows)) this.memory.free(rows);
  }

  /** Shape of latents. */
  protected latentDims(): number[] {
    const { codeDim, height, width } = this.shape;
    return [this.#images, codeDim, height, width];
  }

  /** Shape of one batch row's tokens, of each image. */
  protected tokenDims({ h, w }: Grid): number[] {
    return [this.#images, h * w, this.width];
  }

  /** Names a grid inside latents: what a graph's constants depend on. */
  protected key({ h, w }: Grid): string {
    return `${h}x${w} of ${this.latentDims()}`;
  }

  /** What a graph of one output makes. */
  protected async one(
    key: string,
    graph: Parameters<DeviceMemory["run"]>[1],
    inputs: Readonly<Record<string, Tensor | DeviceTensor>>,
    output: string,
    dims: readonly number[],
  ): Promise<DeviceTensor> {
    const made = await this.memory.run(key, graph, inputs, { [output]: dims }, { repeated: this.#repeated });
    return made[output]!;
  }
}
