/**
 * A batch of pictures on a device with memory of its own: keys, values and texts stay there between scales, and a chunk of
 * blocks is one graph.
 *
 * What crosses is the hidden state at the ends of a chunk and the logits; the cache, which grows to gigabytes, does not.
 *
 * @module
 */
import type { Grid } from "../../schedule.ts";
import { type DeviceTensor, floatTensor, type Tensor } from "../../runtime/runtime.ts";
import { InfinityRun } from "./run.ts";
import type { EncodedText, InfinityTransformer } from "./transformer.ts";

/** Keys and values of one block for one batch row. */
interface Pair {
  readonly keys: DeviceTensor;
  readonly values: DeviceTensor;
}

/** One batch row: its cache and its text, a pair a block; the cache is empty before the first scale. */
interface DeviceRow {
  readonly cache: (Pair | undefined)[];
  readonly text: Pair[];
}

/** The state of one batch of pictures between scales, on a device. */
export class DeviceRun extends InfinityRun {
  readonly #transformer: InfinityTransformer;
  readonly #texts: readonly EncodedText[];
  #state: Promise<DeviceRow[]> | undefined;
  #from = 0; // rows that are still wanted, of those at the beginning
  #to: number;

  /** Starts a picture; see {@linkcode beginRun}. */
  constructor(transformer: InfinityTransformer, texts: readonly EncodedText[], last1M: Grid) {
    const { chunks } = transformer.weights.dims;
    super(transformer, texts, new Array(chunks).fill(0), last1M);
    this.#transformer = transformer;
    this.#texts = texts;
    this.#to = texts.length;
  }

  /** Cuts the batch to some rows, for good. */
  override keepRows(from: number, to: number): void {
    super.keepRows(from, to);
    const [first, end] = [this.#from + from, this.#from + to];
    const [before, after] = [this.#from, this.#to];
    this.#from = first;
    this.#to = end;
    this.#state = this.#state?.then((rows) => {
      free(rows.slice(0, first - before));
      free(rows.slice(end - before, after - before));
      return rows.slice(first - before, end - before);
    });
  }

  /** Frees what is on the device. */
  override [Symbol.dispose](): void {
    super[Symbol.dispose]();
    this.#state?.then(free, () => {});
    this.#state = undefined;
  }

  /** As {@linkcode InfinityRun.chunk}. */
  override async chunk(
    chunk: number,
    x: Float32Array,
    grid: Grid,
    positions?: readonly ArrayLike<number>[],
    signal?: AbortSignal,
  ): Promise<Float32Array> {
    const { width: C, depth, chunks } = this.#transformer.weights.dims;
    const R = this.rows;
    const L = x.length / (R * C);
    const per = depth / chunks;
    const rows = await (this.#state ??= this.#upload(signal));
    const session = await this.#transformer.chunkSession(chunk, R);
    const inputs: Record<string, Tensor | DeviceTensor> = {
      x: floatTensor(x, [R, L, C]),
      ...this.placement(grid, L, positions),
    };
    const kept: Record<string, number[]> = {};
    const empty = floatTensor(new Float32Array(0), [1, 0, C]);
    rows.forEach(({ cache, text }, r) => {
      for (let layer = 0; layer < per; layer++) {
        const past = cache[chunk * per + layer];
        const tokens = (past?.keys.dims[1] ?? 0) + L;
        inputs[`keys.${layer}.${r}`] = past?.keys ?? empty;
        inputs[`values.${layer}.${r}`] = past?.values ?? empty;
        inputs[`textKeys.${layer}.${r}`] = text[chunk * per + layer]!.keys;
        inputs[`textValues.${layer}.${r}`] = text[chunk * per + layer]!.values;
        kept[`newKeys.${layer}.${r}`] = kept[`newValues.${layer}.${r}`] = [1, tokens, C];
      }
    });
    const out = new Float32Array(x.length); // the device may still read x while it writes
    const fresh = await session.runKeeping(inputs, { x_out: floatTensor(out, [R, L, C]) }, kept, signal);
    rows.forEach(({ cache }, r) => {
      for (let layer = 0; layer < per; layer++) {
        free([{ cache: [cache[chunk * per + layer]], text: [] }]);
        const [keys, values] = [fresh[`newKeys.${layer}.${r}`]!, fresh[`newValues.${layer}.${r}`]!];
        cache[chunk * per + layer] = { keys, values };
      }
    });
    return out;
  }

  /** Copies the texts' keys and values to the device, once. */
  async #upload(signal?: AbortSignal): Promise<DeviceRow[]> {
    const { width: C } = this.#transformer.weights.dims;
    const session = await this.#transformer.uploadSession();
    const put = async (data: Float32Array): Promise<DeviceTensor> => {
      const dims = [1, data.length / C, C];
      const { y } = await session.runKeeping({ x: floatTensor(data, dims) }, {}, { y: dims }, signal);
      return y!;
    };
    const rows: DeviceRow[] = this.#texts.slice(this.#from, this.#to).map(() => ({ cache: [], text: [] }));
    try {
      for (const [r, { text }] of rows.entries()) {
        const { keys, values } = this.#texts[this.#from + r]!;
        for (const [layer, own] of keys.entries()) {
          const first = await put(own);
          text.push({ keys: first, values: first }); // so that it is freed should the second fail
          text[layer] = { keys: first, values: await put(values[layer]!) };
        }
      }
    } catch (error) {
      free(rows);
      throw error;
    }
    return rows;
  }
}

/**
 * Starts a batch of pictures where its cache belongs: on the device, or in host memory. See {@linkcode InfinityRun}.
 *
 * @throws {DeviceError} when the cache does not fit in memory
 */
export function beginRun(
  transformer: InfinityTransformer,
  texts: readonly EncodedText[],
  capacity: readonly number[],
  last1M: Grid,
): InfinityRun {
  return transformer.keepsTensors
    ? new DeviceRun(transformer, texts, last1M)
    : new InfinityRun(transformer, texts, capacity, last1M);
}

function free(rows: readonly DeviceRow[]): void {
  for (const { cache, text } of rows) {
    for (const pair of [...cache, ...text]) {
      pair?.keys[Symbol.dispose]();
      pair?.values[Symbol.dispose]();
    }
  }
}
