/**
 * A batch of pictures on a device with memory of its own: nothing leaves it between the texts' features and the decoder's
 * bytes. A chunk of blocks is one graph, run on both batch rows of an image at a time, or on those of all images where the device
 * has operators of our own.
 *
 * @module
 */
import { DeviceKernels } from "../../kernels/device.ts";
import type { DeviceIndices, DeviceRows } from "../../kernels/device_batch.ts";
import { FusedKernels } from "../../kernels/fused.ts";
import type { DeviceMemory } from "../../runtime/device_memory.ts";
import { type DeviceTensor, intTensor, type Tensor } from "../../runtime/runtime.ts";
import type { Grid } from "../../schedule.ts";
import { cacheDims, cacheElement, cutGraph, embedGraph } from "./graphs.ts";
import type { LoopIndices, LoopTensor, PictureRun, RunRequest } from "../painter.ts";
import { InfinityRun } from "./run.ts";
import type { EncodedText, InfinityTransformer } from "./transformer.ts";

/** Keys and values of one block. */
interface Pair {
  readonly keys: DeviceTensor;
  readonly values: DeviceTensor;
  /** Tokens of all scales so far. */
  readonly tokens: number;
}

/** What runs as one: both batch rows of an image or of all, or one of them. Its cache is a pair a block, empty at first. */
interface Unit {
  readonly text: EncodedText<DeviceTensor>;
  readonly cache: (Pair | undefined)[];
}

/** The texts of a run, on the device. */
export interface DeviceTexts {
  /** One a batch row of an image, the conditional one first. */
  readonly apart: readonly EncodedText<DeviceTensor>[];
  /** What units read: both as one where they are two of the same length, with a row for every image that runs with them. */
  readonly units: readonly EncodedText<DeviceTensor>[];
}

/** Rotation tables of a scale. */
interface Rotation {
  readonly grid: Grid;
  readonly cos: DeviceTensor;
  readonly sin: DeviceTensor;
}

/** The state of one batch of pictures between scales, on a device. */
export class DeviceRun implements PictureRun<DeviceRows, DeviceIndices> {
  /** Small graphs. */
  readonly kernels: DeviceKernels | FusedKernels;
  readonly #transformer: InfinityTransformer;
  readonly #memory: DeviceMemory;
  readonly #request: RunRequest;
  readonly #inOrder: DeviceTensor | Tensor; // the first tokens of a grid, in their order
  readonly #images: number; // that run as one
  #texts: DeviceTexts;
  #units: Unit[];
  #joined: boolean; // whether both rows of an image run as one
  #rotation: Rotation | undefined; // of the scale at hand

  /**
   * Starts a picture.
   *
   * @param memory where the texts lie; freed with this object
   */
  constructor(transformer: InfinityTransformer, memory: DeviceMemory, texts: DeviceTexts, request: RunRequest) {
    const { dims, images, workers } = request;
    this.kernels = transformer.together
      ? new FusedKernels(memory, dims, request)
      : new DeviceKernels(memory, dims, request, workers);
    this.#images = transformer.together ? images : 1;
    this.#transformer = transformer;
    this.#memory = memory;
    this.#request = request;
    this.#inOrder = memory.place(intTensor([0], [1]));
    this.#texts = texts;
    this.#joined = texts.units.length < texts.apart.length;
    const copies = images / this.#images;
    this.#units = texts.units.flatMap((text) => Array.from({ length: copies }, () => ({ text, cache: [] })));
  }

  /** Cuts the batch to some rows, for good: all conditional ones or all null ones; texts may be shared and stay. */
  async keepRows(from: number, to: number): Promise<void> {
    const B = this.#images;
    if (!this.#joined) {
      const [first, end] = [from / B, to / B];
      for (const { cache } of [...this.#units.slice(0, first), ...this.#units.slice(end)]) this.#freeCache(cache);
      this.#units = this.#units.slice(first, end);
      return;
    }
    const row = from === 0 ? 0 : 1;
    const own = this.#texts.apart[row]!;
    const text = B === 1 ? own : await this.#transformer.joinTexts([own], B, this.#memory);
    for (const [i, { cache }] of this.#units.entries()) {
      this.#units[i] = { text, cache: await this.#cut(cache, [row * B, (row + 1) * B]) };
    }
    this.#freeJoined();
    this.#texts = { apart: this.#texts.apart, units: [text] };
    this.#joined = false;
  }

  /** Frees what no picture needs after its last scale. */
  freeCache(): void {
    for (const { cache } of this.#units) this.#freeCache(cache);
    this.#units = [];
    this.#freeJoined();
    for (const tensor of this.#texts.apart.flatMap(tensorsOf)) this.#memory.free(tensor);
    this.#texts = { apart: [], units: [] };
  }

  /** Frees texts that are not one row's own. */
  #freeJoined(): void {
    const { apart, units } = this.#texts;
    for (const tensor of units.filter((text) => !apart.includes(text)).flatMap(tensorsOf)) this.#memory.free(tensor);
  }

  /** Frees all that is on the device. */
  [Symbol.dispose](): void {
    this.#memory[Symbol.dispose]();
    this.#units = [];
  }

  /** Tokens of scale 0, [R, 1, C] a unit. */
  start(): DeviceRows {
    return this.#units.map(({ text }) => this.#memory.hold(text.start));
  }

  /** Tokens of a later scale, [R, L, C] a unit, the same for both rows of an image; takes u [B L, d_tok] over. */
  async embed(u: DeviceRows, scale: number, signal?: AbortSignal): Promise<DeviceRows> {
    const { weights } = this.#transformer;
    const [copies, images] = [this.#joined ? 2 : 1, this.#images];
    const repeated = this.#transformer.together;
    const made: DeviceTensor[] = [];
    for (const own of u) {
      const inputs = { u: own, scale: intTensor([scale], [1]) };
      const dims = { x: [copies * images, own.dims[0]! / images, weights.dims.width] };
      const graph = () => embedGraph(weights, copies, images);
      const key = `embed ${copies} of ${images}`;
      made.push((await this.#memory.run(key, graph, inputs, dims, { signal, repeated }))["x"]!);
      this.#memory.free(own);
    }
    return this.#units.map((_, unit) =>
      unit < made.length ? made[unit]! : this.#memory.hold(made[unit - made.length]!)
    );
  }

  /** Runs the blocks of one chunk on each unit, [R, L, C]; their keys and values join the cache. */
  async chunk(
    chunk: number,
    x: DeviceRows,
    grid: Grid,
    positions?: DeviceIndices,
    signal?: AbortSignal,
  ): Promise<DeviceRows> {
    const { weights: { dims }, form } = this.#transformer;
    const { width: C } = dims;
    const graph = () => this.#transformer.chunkGraph(chunk);
    const repeated = form.half === "block"; // other graphs read tables from host memory
    const out: DeviceTensor[] = [];
    for (const [unit, { text, cache }] of this.#units.entries()) {
      const own = x[unit]!;
      const [R, L] = own.dims as [number, number];
      const { cos, sin } = await this.#tables(grid, signal);
      const placed = { positions: positions?.[unit] ?? this.#inOrder, cos, sin };
      const inputs: Record<string, DeviceTensor | Tensor> = { x: own, shape: intTensor([R, L, C], [3]), ...placed };
      const kept: Record<string, readonly number[]> = { x_out: [R, L, C] };
      for (const [layer, block] of this.#layers(chunk)) {
        const past = cache[block];
        inputs[`modulation.${layer}`] = text.modulations[block]!;
        inputs[`keys.${layer}`] = past?.keys ?? this.#empty(R);
        inputs[`values.${layer}`] = past?.values ?? this.#empty(R);
        inputs[`textKeys.${layer}`] = text.keys[block]!;
        inputs[`textValues.${layer}`] = text.values[block]!;
        kept[`newKeys.${layer}`] = kept[`newValues.${layer}`] = cacheDims(dims, form, R, (past?.tokens ?? 0) + L);
      }
      const made = await this.#memory.run(`chunk ${chunk}`, graph, inputs, kept, { signal, repeated });
      for (const [layer, block] of this.#layers(chunk)) {
        const tokens = (cache[block]?.tokens ?? 0) + L;
        this.#replace(cache, block, { keys: made[`newKeys.${layer}`]!, values: made[`newValues.${layer}`]!, tokens });
      }
      this.#memory.free(own);
      out.push(made["x_out"]!);
    }
    return out;
  }

  /** Logits of every bit, class 1 minus class 0, [R, L, d_tok] a unit. */
  async logits(x: DeviceRows, signal?: AbortSignal): Promise<DeviceRows> {
    const { tokenDim } = this.#transformer.weights.dims;
    const out: DeviceTensor[] = [];
    for (const [unit, own] of x.entries()) {
      const inputs = { x: own, head: this.#units[unit]!.text.head };
      const dims = { logits: [own.dims[0]!, own.dims[1]!, tokenDim] };
      const graph = () => this.#transformer.headGraph();
      const repeated = this.#transformer.together;
      out.push((await this.#memory.run("head", graph, inputs, dims, { signal, repeated }))["logits"]!);
      this.#memory.free(own);
    }
    return out;
  }

  /** Layers of a chunk and their blocks. */
  #layers(chunk: number): [layer: number, block: number][] {
    const { depth, chunks } = this.#transformer.weights.dims;
    const per = depth / chunks;
    return Array.from({ length: per }, (_, layer) => [layer, chunk * per + layer]);
  }

  /** No past. */
  #empty(rows: number): Tensor {
    const { weights, form } = this.#transformer;
    const dims = cacheDims(weights.dims, form, rows, 0);
    return cacheElement(form) === "F16"
      ? { element: "F16", data: new Float16Array(0), dims }
      : { element: "F32", data: new Float32Array(0), dims };
  }

  /** Some rows of a cache, which is freed. */
  async #cut(cache: (Pair | undefined)[], rows: readonly [number, number]): Promise<(Pair | undefined)[]> {
    const { weights: { dims }, form } = this.#transformer;
    const graph = () => cutGraph(dims, rows, form);
    const cut: (Pair | undefined)[] = [];
    for (let chunk = 0; chunk < dims.chunks; chunk++) {
      if (this.#takeRows(cache, chunk, rows, cut)) continue;
      const inputs: Record<string, DeviceTensor> = {};
      const kept: Record<string, readonly number[]> = {};
      for (const [layer, block] of this.#layers(chunk)) {
        const { keys, values, tokens } = cache[block]!;
        inputs[`keys.${layer}`] = keys;
        inputs[`values.${layer}`] = values;
        kept[`cutKeys.${layer}`] = kept[`cutValues.${layer}`] = cacheDims(dims, form, rows[1] - rows[0], tokens);
      }
      const made = await this.#memory.run(`cut ${rows}`, graph, inputs, kept);
      for (const [layer, block] of this.#layers(chunk)) {
        const { tokens } = cache[block]!;
        this.#replace(cache, block, undefined);
        cut[block] = { keys: made[`cutKeys.${layer}`]!, values: made[`cutValues.${layer}`]!, tokens };
      }
    }
    return cut;
  }

  /** The same without a graph, where tensors need not be copied for it: says whether. */
  #takeRows(
    cache: (Pair | undefined)[],
    chunk: number,
    [from, to]: readonly [number, number],
    cut: (Pair | undefined)[],
  ): boolean {
    const element = cacheElement(this.#transformer.form);
    for (const [, block] of this.#layers(chunk)) {
      const { keys, values, tokens } = cache[block]!;
      const [ownKeys, ownValues] = [keys, values].map((all) => this.#memory.rows(all, element, from, to));
      if (!ownKeys || !ownValues) return false;
      cut[block] = { keys: ownKeys, values: ownValues, tokens };
      this.#replace(cache, block, undefined);
    }
    return true;
  }

  #replace(cache: (Pair | undefined)[], block: number, pair: Pair | undefined): void {
    const old = cache[block];
    if (old) { for (const tensor of [old.keys, old.values]) this.#memory.free(tensor); }
    cache[block] = pair;
  }

  #freeCache(cache: (Pair | undefined)[]): void {
    for (const block of cache.keys()) this.#replace(cache, block, undefined);
  }

  /** Rotation tables of a grid, copied to the device once a scale. */
  async #tables(grid: Grid, signal?: AbortSignal): Promise<Rotation> {
    if (this.#rotation?.grid !== grid) {
      const [cos, sin] = this.#transformer.rotation(grid, this.#request.last1M);
      const old = this.#rotation;
      this.#rotation = {
        grid,
        cos: await this.#memory.upload(cos, signal),
        sin: await this.#memory.upload(sin, signal),
      };
      if (old) { for (const tensor of [old.cos, old.sin]) this.#memory.free(tensor); }
    }
    return this.#rotation;
  }
}

function tensorsOf({ cond, start, head, ctx, modulations, keys, values }: EncodedText<DeviceTensor>): DeviceTensor[] {
  return [cond, start, head, ctx, ...modulations, ...keys, ...values];
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
  const memory = transformer.deviceMemory();
  try {
    const apart: EncodedText<DeviceTensor>[] = [];
    for (const features of segments) apart.push(await transformer.encodeTextThere(features, memory, signal));
    const [own, nul] = apart;
    const images = transformer.together ? request.images : 1;
    const units: EncodedText<DeviceTensor>[] = [];
    if (own && nul && own.tokens === nul.tokens) {
      units.push(await transformer.joinTexts([own, nul], images, memory, signal));
    } else if (images > 1) {
      for (const text of apart) units.push(await transformer.joinTexts([text], images, memory, signal));
    } else units.push(...apart);
    return new DeviceRun(transformer, memory, { apart, units }, request);
  } catch (error) {
    memory[Symbol.dispose]();
    throw error;
  }
}
