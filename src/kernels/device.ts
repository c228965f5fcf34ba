/**
 * Kernels in a device's memory: a batch tensor is a list of tensors, and every kernel a small graph.
 *
 * Only random numbers, and what a scale is told by (guidance, temperature, rank), go to the device; only whether logits are
 * finite comes back.
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
import type { Workers } from "../workers.ts";
import {
  addBitsGraph,
  guideGraph,
  keptRowsGraph,
  nextInputGraph,
  projectGraph,
  restoreGraph,
  rowsOf,
  sampleRowsGraph,
  selectRowsGraph,
  upsampleGraph,
} from "./graphs.ts";
import type {
  BitRequest,
  ForeseenProjection,
  GuidedLogits,
  LoopBatch,
  LoopDims,
  ProjectionRequest,
  ScaleKernels,
} from "./kernels.ts";

/** Entries from which on a thread of its own is worth a projection: about a millisecond. */
const LARGE_PROJECTION = 2 ** 15;

/** Kernels on tensors of a device; each method is {@linkcode ScaleKernels}'s. */
export class DeviceKernels extends DeviceBatch implements ScaleKernels<DeviceRows, DeviceIndices> {
  readonly #images: number;
  readonly #workers: Workers | undefined;
  readonly #drawn = new Map<string, Promise<Float32Array>>(); // projections that workers draw

  /**
   * Kernels for one batch, whose tensors `memory` keeps.
   *
   * @param workers draw what is foreseen
   */
  constructor(
    memory: DeviceMemory,
    dims: LoopDims,
    { images, last }: LoopBatch,
    workers?: Workers,
  ) {
    super(memory, dims, { last }, 1, false);
    this.#workers = workers;
    this.#images = images;
  }

  /** [1, d, H, W] an image. */
  async zeros(): Promise<DeviceRows> {
    const dims = this.latentDims();
    const zeros = floatTensor(new Float32Array(dims.reduce((product, dim) => product * dim)), dims);
    const latent = await this.memory.upload(zeros);
    return Array.from({ length: this.#images }, (_, image) => image === 0 ? latent : this.memory.hold(latent));
  }

  /** Hands large ones to the workers. */
  foresee(projections: readonly ForeseenProjection[]): void {
    for (const { rows, rank, kind, streams } of projections) {
      if (!this.#workers || rows * rank < LARGE_PROJECTION) continue;
      for (const stream of streams) {
        const q = this.#workers.run({ type: "projection", kind, stream, rows, rank });
        q.catch(() => {}); // heard when it is asked for
        this.#drawn.set(JSON.stringify(stream), q);
      }
    }
  }

  /** u [L, d_tok] an image. */
  nextInput(latent: DeviceRows, grid: Grid): Promise<DeviceRows> {
    const dims = [grid.h * grid.w, this.shape.tokenDim];
    const graph = () => nextInputGraph(this.shape, grid);
    return this.#each(latent, (own) => this.one(`input ${this.key(grid)}`, graph, { latent: own }, "u", dims));
  }

  /** The same tensors, held once more, or one kind of their rows where a tensor has both of an image. */
  keep(x: DeviceRows, _grid: Grid, kind: RowKind): Promise<DeviceRows> {
    const own = kind === "null" ? x.slice(-this.#images) : x.slice(0, this.#images);
    return this.#each(own, (own) => {
      const [rows, L] = own.dims as [number, number];
      if (rows === 1) return Promise.resolve(this.memory.hold(own));
      const [from, to] = rowsOf(kind, 1);
      const row = this.memory.rows(own, "F32", from, to);
      if (row) return Promise.resolve(row);
      const graph = () => keptRowsGraph(this.width, kind);
      return this.one(`${kind} ${this.width}`, graph, { x: own }, "y", [1, L, this.width]);
    });
  }

  /** I [1, r] an image, drawn on the device. */
  sampleRows(x: DeviceRows, rank: number, streams: readonly Stream[]): Promise<DeviceRows> {
    return this.#each(x, (own, image) => {
      const M = own.dims[1]!;
      const noise = floatTensor(core.gumbels(streams[image]!, M), [1, M]);
      const inputs = { x: own, noise, rank: intTensor([rank], [1]) };
      return this.one(`sample ${this.width}`, () => sampleRowsGraph(this.width), inputs, "chosen", [1, rank]);
    });
  }

  /** I [1, r] an image, on the host until a graph reads it. */
  indices(rows: readonly Uint32Array[]): Tensor[] {
    return rows.map((row) => intTensor([...row], [1, row.length]));
  }

  /** X[I] [1, r, C] an image. */
  selectRows(x: DeviceRows, chosen: DeviceIndices): Promise<DeviceRows> {
    const graph = () => selectRowsGraph(this.width);
    return this.#each(x, (own, image) => {
      const I = chosen[image]!;
      return this.one(`select ${this.width}`, graph, { x: own, chosen: I }, "y", [1, I.dims[1]!, this.width]);
    });
  }

  /** Q^T X [1, r, C] an image. */
  project(
    x: DeviceRows,
    _chosen: DeviceIndices,
    { rank, kind, streams, forced }: ProjectionRequest,
  ): Promise<DeviceRows> {
    const draw = kind === "gaussian" ? core.gaussianProjection : core.signProjection;
    const graph = () => projectGraph(this.width);
    return this.#each(x, async (own, image) => {
      const M = own.dims[1]!;
      const stream = streams[image]!;
      const entries = forced?.[image] ?? await this.#drawn.get(JSON.stringify(stream)) ?? draw(stream, M, rank);
      const q = floatTensor(entries, [M, rank]);
      return this.one(`project ${this.width}`, graph, { x: own, q }, "y", [1, rank, this.width]);
    });
  }

  /** [1, L, C] an image. */
  upsample(cached: DeviceRows, from: Grid, to: Grid): Promise<DeviceRows> {
    const key = `upsample ${this.key(from)} ${this.key(to)}`;
    const graph = () => upsampleGraph(this.width, from, to);
    return this.#each(cached, (own) => this.one(key, graph, { cached: own }, "z", this.tokenDims(to)));
  }

  /** [1, L, C] an image. */
  restore(cached: DeviceRows, from: Grid, to: Grid, y: DeviceRows, chosen: DeviceIndices): Promise<DeviceRows> {
    const key = `restore ${this.key(from)} ${this.key(to)}`;
    const graph = () => restoreGraph(this.width, from, to);
    return this.#each(cached, (own, image) => {
      const inputs = { cached: own, y: y[image]!, chosen: chosen[image]! };
      return this.one(key, graph, inputs, "z", this.tokenDims(to));
    });
  }

  /** z [1, L, d_tok] an image. */
  async guide(logits: DeviceRows, guidance: number | undefined, tau: number): Promise<GuidedLogits<DeviceRows>> {
    const { tokenDim } = this.shape;
    const factor = (value: number): Tensor => floatTensor(Float32Array.of(value), [1]);
    const nul = guidance === undefined ? logits : logits.slice(this.#images);
    const g = guidance ?? 1;
    let finite = true;
    const z = await this.#each(logits.slice(0, this.#images), async (own, image) => {
      const [rows, L] = own.dims as [number, number];
      const joined = rows === 2;
      const both = joined ? { both: own } : { own, nul: nul[image]! };
      const inputs = { ...both, guidance: factor(g), rest: factor(1 - g), tau: factor(tau) };
      const check = new Float32Array(1);
      const outputs = { check: floatTensor(check, []) };
      const graph = () => guideGraph(tokenDim, joined);
      const made = await this.memory.run(`guide ${tokenDim} ${joined}`, graph, inputs, { z: [1, L, tokenDim] }, {
        outputs,
      });
      finite &&= check[0] === 0;
      return made["z"]!;
    });
    return { z, finite };
  }

  /** [1, d, H, W] an image. */
  addBits(
    latent: DeviceRows,
    z: DeviceRows,
    { grid, streams, topP, forced }: BitRequest,
    only?: DeviceIndices,
  ): Promise<DeviceRows> {
    const graph = () => addBitsGraph(this.shape, grid, only !== undefined);
    const key = `bits ${this.key(grid)} ${only !== undefined}`;
    return this.#each(latent, (own, image) => {
      const { dims } = z[image]!;
      const bits = forced?.[image];
      // a forced bit is drawn with certainty: 2 is above every sigmoid, -1 below
      const u = bits
        ? Float32Array.from(bits, (bit) => bit ? -1 : 2)
        : core.uniforms(streams[image]!, dims[1]! * dims[2]!);
      const threshold = bits || topP === 0 ? NEVER : Math.min(Math.log(topP / (1 - topP)), NEVER);
      const inputs = {
        latent: own,
        z: z[image]!,
        u: floatTensor(u, dims),
        threshold: floatTensor(Float32Array.of(threshold), [1]),
        ...only && { chosen: only[image]! },
      };
      return this.one(key, graph, inputs, "sum", this.latentDims());
    });
  }

  /** One list an image. */
  images(x: DeviceRows): DeviceRows[] {
    return x.map((own) => [own]);
  }

  /** What a kernel makes of each row, one after the other: a device has one queue. */
  async #each(
    x: DeviceRows,
    kernel: (own: DeviceTensor, row: number) => Promise<DeviceTensor>,
  ): Promise<DeviceTensor[]> {
    const made: DeviceTensor[] = [];
    for (const [row, own] of x.entries()) made.push(await kernel(own, row));
    return made;
  }
}
