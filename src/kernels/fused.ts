/**
 * Kernels in the memory of a device that has operators of our own: all images of a batch are one tensor, random numbers are drawn
 * there, and every kernel can be recorded. What goes there a scale are names of streams and a few numbers.
 *
 * @module
 */
import * as core from "../core.ts";
import type { Stream } from "../core.ts";
import type { DeviceMemory } from "../runtime/device_memory.ts";
import { type DeviceTensor, floatTensor, intTensor, type Tensor } from "../runtime/runtime.ts";
import type { Grid } from "../schedule.ts";
import type { RowKind } from "../step.ts";
import { DeviceBatch, type DeviceIndices, type DeviceRows, NEVER } from "./device_batch.ts";
import {
  drawBitsGraph,
  drawProjectGraph,
  drawRowsGraph,
  gatherRowsGraph,
  guideBatchGraph,
  latentRowGraph,
  projectGivenGraph,
  restoreRowsGraph,
} from "./fused_graphs.ts";
import { keptRowsGraph, nextInputGraph, rowsOf } from "./graphs.ts";
import type {
  BitRequest,
  ForcedTokens,
  GuidedLogits,
  LoopBatch,
  LoopDims,
  ProjectionRequest,
  ScaleKernels,
} from "./kernels.ts";

/** A logit that leaves no doubt. */
const CERTAIN = 1e30;

/**
 * Kernels on a batch in one tensor: [2 B, L, C] with both rows of every image, conditional ones first, or [B, L, C]; or two of [B, L, C]
 * where the rows' texts differ in length. Each method is {@linkcode ScaleKernels}'s.
 */
export class FusedKernels extends DeviceBatch implements ScaleKernels<DeviceRows, DeviceIndices> {
  readonly #images: number;
  #views: DeviceTensor[] = []; // of the latents that were last asked for one by one

  /** Kernels for one batch, whose tensors `memory` keeps. */
  constructor(
    memory: DeviceMemory,
    dims: LoopDims,
    { images, last }: LoopBatch,
  ) {
    super(memory, dims, { last }, images, true);
    this.#images = images;
  }

  /** [B, d, H, W]. */
  async zeros(): Promise<DeviceRows> {
    const dims = this.latentDims();
    return [await this.memory.upload(floatTensor(new Float32Array(dims.reduce((a, b) => a * b)), dims))];
  }

  /** u [B L, d_tok]. */
  async nextInput([latent]: DeviceRows, grid: Grid): Promise<DeviceRows> {
    const dims = [this.#images * grid.h * grid.w, this.shape.tokenDim];
    const graph = () => nextInputGraph(this.shape, grid, this.#images);
    return [await this.one(`input ${this.key(grid)}`, graph, { latent: latent! }, "u", dims)];
  }

  /** The same tensor, held once more, or one kind of its rows. */
  async keep(x: DeviceRows, _grid: Grid, kind: RowKind): Promise<DeviceRows> {
    const own = kind === "null" ? x.at(-1)! : x[0]!;
    const [R, L, C] = own.dims as [number, number, number];
    const B = this.#images;
    if (R === B) return [this.memory.hold(own)];
    const [from, to] = rowsOf(kind, B);
    const rows = this.memory.rows(own, "F32", from, to);
    const graph = () => keptRowsGraph(C, kind, B);
    return [rows ?? await this.one(`${kind} ${C} of ${B}`, graph, { x: own }, "y", [B, L, C])];
  }

  /** I [B, r]. */
  async sampleRows([x]: DeviceRows, rank: number, streams: readonly Stream[]): Promise<DeviceRows> {
    const inputs = { x: x!, streams: words(streams), rank: intTensor([rank], [1]) };
    const graph = () => drawRowsGraph(this.width);
    return [await this.one(`draw rows ${this.width}`, graph, inputs, "chosen", [this.#images, rank])];
  }

  /** I [B, r], on the host until a graph reads it. */
  indices(rows: readonly Uint32Array[]): Tensor[] {
    return [intTensor(rows.flatMap((row) => [...row]), [rows.length, rows[0]!.length])];
  }

  /** X[I] [B, r, C]. */
  async selectRows([x]: DeviceRows, [chosen]: DeviceIndices): Promise<DeviceRows> {
    const [B, M, C] = x!.dims as [number, number, number];
    const graph = () => gatherRowsGraph(C, M, B);
    const dims = [B, chosen!.dims[1]!, C];
    return [await this.one(`select ${B}x${M}x${C}`, graph, { x: x!, chosen: chosen! }, "y", dims)];
  }

  /** Q^T X [B, r, C]. */
  async project(
    [x]: DeviceRows,
    [chosen]: DeviceIndices,
    { rank, kind, streams, forced }: ProjectionRequest,
  ): Promise<DeviceRows> {
    const [B, M, C] = x!.dims as [number, number, number];
    const dims = [B, rank, C];
    if (forced) {
      const q = new Float32Array(B * rank * M);
      forced.forEach((entries, image) =>
        entries.forEach((entry, i) => q[(image * rank + i % rank) * M + Math.floor(i / rank)] = entry)
      );
      const inputs = { x: x!, q: floatTensor(q, [B, rank, M]) };
      return [await this.one(`project given ${C}`, () => projectGivenGraph(C), inputs, "y", dims)];
    }
    const inputs = { x: x!, chosen: chosen!, streams: words(streams) };
    const graph = () => drawProjectGraph(C, kind === "sign");
    return [await this.one(`project ${kind} ${C}`, graph, inputs, "y", dims)];
  }

  /** [B, L, C]. */
  async upsample([cached]: DeviceRows, from: Grid, to: Grid): Promise<DeviceRows> {
    const graph = () => restoreRowsGraph(this.width, from, to, false);
    const key = `upsample ${this.key(from)} ${this.key(to)}`;
    return [await this.one(key, graph, { cached: cached! }, "z", this.tokenDims(to))];
  }

  /** [B, L, C]. */
  async restore(
    [cached]: DeviceRows,
    from: Grid,
    to: Grid,
    [y]: DeviceRows,
    [chosen]: DeviceIndices,
  ): Promise<DeviceRows> {
    const graph = () => restoreRowsGraph(this.width, from, to, true);
    const inputs = { cached: cached!, y: y!, chosen: chosen! };
    const key = `restore ${this.key(from)} ${this.key(to)}`;
    return [await this.one(key, graph, inputs, "z", this.tokenDims(to))];
  }

  /** z [B, L, d_tok]. */
  async guide(logits: DeviceRows, guidance: number | undefined, tau: number): Promise<GuidedLogits<DeviceRows>> {
    const { tokenDim } = this.shape;
    const [first] = logits as [DeviceTensor];
    const [rows, L] = first.dims as [number, number];
    const joined = rows === 2 * this.#images;
    const g = guidance ?? 1;
    const factors = floatTensor(Float32Array.of(g, 1 - g, 1 / tau), [3]);
    const nul = guidance === undefined ? first : logits.at(-1)!;
    const inputs = joined ? { both: first, factors } : { own: first, nul, factors };
    const kept = { z: [this.#images, L, tokenDim], check: [1] };
    const graph = () => guideBatchGraph(tokenDim, joined);
    const made = await this.memory.run(`guide ${tokenDim} ${joined}`, graph, inputs, kept, { repeated: true });
    const check = made["check"]!;
    return {
      z: [made["z"]!],
      finite: async () => {
        const [zero] = await this.memory.read(check);
        this.memory.free(check);
        return zero === 0;
      },
    };
  }

  /** [B, d, H, W]. */
  async addBits(
    [latent]: DeviceRows,
    [z]: DeviceRows,
    { grid, streams, topP, forced }: BitRequest,
    only?: DeviceIndices,
  ): Promise<DeviceRows> {
    const certain = (bits: readonly ForcedTokens[]): Tensor =>
      floatTensor(Float32Array.from(bits.flatMap((own) => [...own]), (bit) => bit ? CERTAIN : -CERTAIN), z!.dims);
    const threshold = topP === 0 ? NEVER : Math.min(Math.log(topP / (1 - topP)), NEVER);
    const inputs = {
      latent: latent!,
      z: forced ? certain(forced) : z!,
      streams: words(streams),
      threshold: floatTensor(Float32Array.of(threshold), [1]),
      ...only && { chosen: only[0]! },
    };
    const graph = () => drawBitsGraph(this.shape, grid, only !== undefined, this.#images);
    const key = `draw ${this.key(grid)} ${only !== undefined}`;
    return [await this.one(key, graph, inputs, "sum", this.latentDims())];
  }

  /** Latents one by one, good until they are asked for again. */
  async images([x]: DeviceRows): Promise<DeviceRows[]> {
    for (const view of this.#views) this.memory.free(view);
    this.#views = [];
    if (this.#images === 1) return [[x!]];
    const dims = [1, ...x!.dims.slice(1)];
    for (let image = 0; image < this.#images; image++) {
      const rows = this.memory.rows(x!, "F32", image, image + 1);
      const graph = () => latentRowGraph(this.latentDims(), image);
      const key = `image ${image} of ${this.latentDims()}`;
      this.#views.push(rows ?? await this.one(key, graph, { x: x! }, "y", dims));
    }
    return this.#views.map((view) => [view]);
  }
}

/** Streams as the operators read them, [B, 5]. */
function words(streams: readonly Stream[]): Tensor {
  const data = new Int32Array(5 * streams.length);
  streams.forEach((stream, image) => data.set(core.streamWords(stream), 5 * image));
  return { element: "I32", dims: [streams.length, 5], data };
}
