/**
 * A batch of pictures on a device with memory of its own: nothing leaves it between the texts' features and the decoder's
 * bytes. A chunk of blocks is one graph, run a batch row at a time.
 *
 * @module
 */
import { type DeviceIndices, DeviceKernels, type DeviceRows } from "../../kernels/device.ts";
import type { HostIndices } from "../../kernels/host.ts";
import { DeviceMemory } from "../../runtime/device_memory.ts";
import { type DeviceTensor, floatTensor, intTensor, type Tensor } from "../../runtime/runtime.ts";
import type { Grid } from "../../schedule.ts";
import { embedGraph } from "./graphs.ts";
import { ropeTable } from "./rope.ts";
import { InfinityRun, type PictureRun, type RunRequest } from "./run.ts";
import type { EncodedText, InfinityTransformer } from "./transformer.ts";

/** A tensor of the loop in either memory. */
export type LoopTensor = Float32Array | DeviceRows;

/** Row indices of the loop in either memory. */
export type LoopIndices = HostIndices | DeviceIndices;

/** Keys and values of one block. */
interface Pair {
  readonly keys: DeviceTensor;
  readonly values: DeviceTensor;
}

/** One batch row: its text, and its cache, a pair a block, empty before the first scale. */
interface DeviceRow {
  readonly text: EncodedText<DeviceTensor>;
  readonly cache: (Pair | undefined)[];
}

/** Rotation tables of a scale. */
interface Rotation {
  readonly grid: Grid;
  readonly cos: DeviceTensor;
  readonly sin: DeviceTensor;
}

/** The first tokens of a grid, in their order. */
const IN_ORDER = intTensor([0], [1]);

/** The state of one batch of pictures between scales, on a device. */
export class DeviceRun implements PictureRun<DeviceRows, DeviceIndices> {
  /** Small graphs. */
  readonly kernels: DeviceKernels;
  readonly #transformer: InfinityTransformer;
  readonly #memory: DeviceMemory;
  readonly #request: RunRequest;
  readonly #texts: Set<EncodedText<DeviceTensor>>; // rows share them
  #rows: DeviceRow[];
  #rotation: Rotation | undefined; // of the scale at hand

  /**
   * Starts a picture.
   *
   * @param memory where the texts lie; freed with this object
   * @param texts one encoded text a row, conditional rows first
   */
  constructor(
    transformer: InfinityTransformer,
    memory: DeviceMemory,
    texts: readonly EncodedText<DeviceTensor>[],
    request: RunRequest,
  ) {
    this.kernels = new DeviceKernels(memory, request.dims, request);
    this.#transformer = transformer;
    this.#memory = memory;
    this.#request = request;
    this.#texts = new Set(texts);
    this.#rows = texts.map((text) => ({ text, cache: [] }));
  }

  /** Cuts the batch to some rows, for good; texts may be shared and stay. */
  keepRows(from: number, to: number): void {
    for (const { cache } of [...this.#rows.slice(0, from), ...this.#rows.slice(to)]) {
      for (const pair of cache) if (pair) this.#free(pair);
    }
    this.#rows = this.#rows.slice(from, to);
  }

  /** Frees what no picture needs after its last scale. */
  freeCache(): void {
    this.keepRows(0, 0);
    for (const text of this.#texts) {
      const { cond, start, ada, head, ctx, keys, values } = text;
      for (const tensor of [cond, start, ada, head, ctx, ...keys, ...values]) this.#memory.free(tensor);
    }
    this.#texts.clear();
  }

  /** Frees all that is on the device. */
  [Symbol.dispose](): void {
    this.#memory[Symbol.dispose]();
    this.#rows = [];
  }

  /** Tokens of scale 0, [1, 1, C] a row. */
  start(): DeviceRows {
    return this.#rows.map(({ text }) => this.#memory.hold(text.start));
  }

  /** Tokens of a later scale, [1, L, C] a row, the same for both rows of an image; takes u [L, d_tok] over. */
  async embed(u: DeviceRows, scale: number, signal?: AbortSignal): Promise<DeviceRows> {
    const { weights } = this.#transformer;
    const made: DeviceTensor[] = [];
    for (const own of u) {
      const inputs = { u: own, scale: intTensor([scale], [1]) };
      const dims = { x: [1, own.dims[0]!, weights.dims.width] };
      made.push((await this.#memory.run("embed", () => embedGraph(weights), inputs, dims, { signal }))["x"]!);
      this.#memory.free(own);
    }
    return this.#rows.map((_, row) => row < made.length ? made[row]! : this.#memory.hold(made[row - made.length]!));
  }

  /** Runs the blocks of one chunk on each row, [1, L, C]; their keys and values join the cache. */
  async chunk(
    chunk: number,
    x: DeviceRows,
    grid: Grid,
    positions?: DeviceIndices,
    signal?: AbortSignal,
  ): Promise<DeviceRows> {
    const { width: C, depth, chunks } = this.#transformer.weights.dims;
    const per = depth / chunks;
    const none = { dims: [1, 0, C] } as const;
    const empty: Tensor = this.#transformer.cacheElement === "F16"
      ? { element: "F16", data: new Float16Array(0), ...none }
      : { element: "F32", data: new Float32Array(0), ...none };
    const layers = Array.from({ length: per }, (_, layer) => [layer, chunk * per + layer] as const);
    const out: DeviceTensor[] = [];
    for (const [row, { text, cache }] of this.#rows.entries()) {
      const own = x[row]!;
      const L = own.dims[1]!;
      const { cos, sin } = await this.#tables(grid, signal);
      const inputs = { x: own, ada: text.ada, positions: positions?.[row] ?? IN_ORDER, cos, sin };
      const caches: Record<string, DeviceTensor | Tensor> = {};
      const kept: Record<string, readonly number[]> = { x_out: [1, L, C] };
      for (const [layer, block] of layers) {
        const past = cache[block];
        caches[`keys.${layer}`] = past?.keys ?? empty;
        caches[`values.${layer}`] = past?.values ?? empty;
        caches[`textKeys.${layer}`] = text.keys[block]!;
        caches[`textValues.${layer}`] = text.values[block]!;
        kept[`newKeys.${layer}`] = kept[`newValues.${layer}`] = [1, (past?.keys.dims[1] ?? 0) + L, C];
      }
      const graph = () => this.#transformer.chunkGraph(chunk);
      const made = await this.#memory.run(`chunk ${chunk}`, graph, { ...inputs, ...caches }, kept, { signal });
      for (const [layer, block] of layers) {
        if (cache[block]) this.#free(cache[block]);
        cache[block] = { keys: made[`newKeys.${layer}`]!, values: made[`newValues.${layer}`]! };
      }
      this.#memory.free(own);
      out.push(made["x_out"]!);
    }
    return out;
  }

  /** Logits of every bit, class 1 minus class 0, [1, L, d_tok] a row. */
  async logits(x: DeviceRows, signal?: AbortSignal): Promise<DeviceRows> {
    const { tokenDim } = this.#transformer.weights.dims;
    const out: DeviceTensor[] = [];
    for (const [row, own] of x.entries()) {
      const inputs = { x: own, head: this.#rows[row]!.text.head };
      const dims = { logits: [1, own.dims[1]!, tokenDim] };
      const graph = () => this.#transformer.headGraph();
      out.push((await this.#memory.run("head", graph, inputs, dims, { signal }))["logits"]!);
      this.#memory.free(own);
    }
    return out;
  }

  #free({ keys, values }: Pair): void {
    this.#memory.free(keys);
    this.#memory.free(values);
  }

  /** Rotation tables of a grid, copied to the device once a scale. */
  async #tables(grid: Grid, signal?: AbortSignal): Promise<Rotation> {
    if (this.#rotation?.grid !== grid) {
      const { width, heads } = this.#transformer.weights.dims;
      const { cos, sin, rows, pairs } = ropeTable(grid, this.#request.last1M, width / heads);
      const table = (data: Float32Array) => this.#memory.upload(floatTensor(data, [rows, pairs]), signal);
      const old = this.#rotation;
      this.#rotation = { grid, cos: await table(cos), sin: await table(sin) };
      if (old) { for (const tensor of [old.cos, old.sin]) this.#memory.free(tensor); }
    }
    return this.#rotation;
  }
}

/**
 * Starts a batch of pictures where its tensors belong: on the device, or in host memory.
 *
 * @param segments T5 features of the conditional rows, then of the null rows, or of those alone that will run, [T, Dt] each
 * @throws {DeviceError} when the cache does not fit in memory
 */
export async function beginRun(
  transformer: InfinityTransformer,
  segments: readonly Float32Array[],
  request: RunRequest,
  signal?: AbortSignal,
): Promise<PictureRun<LoopTensor, LoopIndices>> {
  const rows = <Text>(texts: readonly Text[]): Text[] =>
    texts.flatMap((text) => Array.from({ length: request.images }, () => text));
  if (!transformer.keepsTensors) {
    const texts: EncodedText[] = [];
    for (const features of segments) texts.push(await transformer.encodeText(features, signal));
    return new InfinityRun(transformer, rows(texts), request);
  }
  const memory = new DeviceMemory((key, graph) => transformer.deviceSession(key, graph));
  try {
    const texts: EncodedText<DeviceTensor>[] = [];
    for (const features of segments) texts.push(await transformer.encodeTextThere(features, memory, signal));
    return new DeviceRun(transformer, memory, rows(texts), request);
  } catch (error) {
    memory[Symbol.dispose]();
    throw error;
  }
}
