/**
 * Runs the VAE decoder layer by layer on strips of rows, so that no temporary is larger than a strip and the peak of memory
 * is the three maps that a residual block needs.
 *
 * Group norms want the mean and variance of whole maps: every strip reports those of its own values, and the host puts them
 * together in float64 (Chan, Golub, LeVeque 1983), so that normalising takes no pass over a map either.
 *
 * @module
 */
import { readTensor } from "../../checkpoint/source.ts";
import { floatTensor, intTensor, type Runtime, type Session, type Tensor } from "../../runtime/runtime.ts";
import type { DecoderWeights } from "./decoder.ts";
import { type DecoderLayer, decoderLayers, layerGraph, layerMixtures } from "./decoder_layers.ts";

/** Values of a strip at most: 16 MB. Half of it takes the same time (bench/LOG.md). */
const STRIP_VALUES = 2 ** 22;
/** Maps of at most this many values are one strip: small levels want all the rows that a convolution can get. */
const WHOLE_VALUES = 2 ** 22;

/** Rows of a map, [C, rows, W], with copies of its first and last row, [C, W] each. */
interface Strip {
  readonly rows: number;
  readonly body: Float32Array;
  readonly first: Float32Array;
  readonly last: Float32Array;
}

/** What a strip's values are like, channel by channel. */
export interface Moments {
  /** Values of a channel. */
  readonly count: number;
  /** Mean of each channel. */
  readonly mean: Float32Array;
  /** Sum of the squares of deviations from it. */
  readonly squares: Float32Array;
}

/** A map of the decoder, cut into strips. */
interface StripMap {
  readonly channels: number;
  readonly width: number;
  readonly strips: readonly Strip[];
  readonly moments: readonly Moments[];
}

/**
 * Rows of a strip on every level of a decoder, finest first: a power of two, at most twice that of the coarser level, so
 * that a strip's rows always come from one strip of the level below; or the whole map.
 *
 * @param channels most channels of a map on each level, finest first
 * @param height rows of the picture
 * @param width columns of the picture
 * @example
 * ```ts
 * import { stripRows } from "@stagevar/stagevar/models/infinity/decoder_strips.ts";
 * import assert from "node:assert/strict";
 * assert.deepEqual(stripRows([256, 512, 512, 512, 512], 1024, 1024), [16, 16, 32, 64, 64]);
 * ```
 */
export function stripRows(
  channels: readonly number[],
  height: number,
  width: number,
  values: { strip: number; whole: number } = { strip: STRIP_VALUES, whole: WHOLE_VALUES },
): number[] {
  const rows: number[] = [];
  for (let level = channels.length - 1; level >= 0; level--) {
    const [h, w] = [height / 2 ** level, width / 2 ** level];
    const coarser = rows.at(-1);
    // the coarsest level is the latent's, which comes in one piece
    if (coarser === undefined || (channels[level]! * h * w <= values.whole && coarser * 2 === h)) {
      rows.push(h);
      continue;
    }
    const wanted = 2 ** Math.floor(Math.log2(Math.max(2, values.strip / (channels[level]! * w))));
    // a coarser map in one piece can be cut anywhere, on even rows
    const most = coarser * 2 === h ? h : coarser * 2;
    rows.push(Math.min(wanted, most));
  }
  return rows.reverse();
}

/** A decoder that runs on strips; layers are loaded when they are first run. */
export class StripDecoder implements Disposable {
  readonly #weights: DecoderWeights;
  readonly #runtime: Runtime;
  readonly #layers: readonly DecoderLayer[];
  readonly #rows: typeof stripRows;
  readonly #sessions = new Map<string, Promise<Session>>();
  readonly #normWeights = new Map<string, Promise<Float32Array>>();

  /**
   * Takes other strips than {@linkcode stripRows} chooses, for tests, and only the last layers, for a decoder whose first ones
   * are no layers of strips: it then begins with an upsampling, and decodes what comes before that.
   */
  constructor(
    weights: DecoderWeights,
    runtime: Runtime,
    rows: typeof stripRows = stripRows,
    layers: readonly DecoderLayer[] = decoderLayers(weights),
  ) {
    this.#weights = weights;
    this.#runtime = runtime;
    this.#layers = layers;
    this.#rows = rows;
  }

  /** latent [d, h, w], or the first layer's input, -> RGB [3, H, W], about -1 to 1 and not clamped. */
  async decode(latent: Float32Array, h: number, w: number, signal?: AbortSignal): Promise<Float32Array> {
    const { stride, widths } = this.#weights;
    const [H, W] = [h * stride, w * stride];
    const channels = widths.map((_, level) =>
      Math.max(0, ...this.#layers.filter((layer) => layer.level === level).flatMap(({ from, to }) => [from, to]))
    );
    const rows = this.#rows(channels, H, W);
    const rgb = new Float32Array(3 * H * W);
    const { from } = this.#layers[0]!;
    let x: StripMap = { channels: from, width: w, strips: [wholeStrip(latent, from, h, w)], moments: [] };
    let input: StripMap | undefined; // of the residual block at hand
    for (const [i, layer] of this.#layers.entries()) {
      // the next layer's weights are packed while this one runs; what fails is reported when its turn comes
      if (this.#layers[i + 1]) this.#session(this.#layers[i + 1]!).catch(() => {});
      if (layer.name.endsWith(".conv1")) input = x;
      const shortcut = layer.shortcut && input;
      const y = await this.#run(layer, x, shortcut, {
        rows: rows[layer.level]!,
        height: H / 2 ** layer.level,
        rgb,
        signal,
      });
      // What nobody reads any more goes before the next layer takes more: conv1 leaves its input for the shortcut, but for
      // the rows that only neighbours read.
      for (const { first, last } of x.strips) release(first, last);
      if (x !== input) { for (const { body } of x.strips) release(body); }
      if (shortcut) {
        for (const { body } of shortcut.strips) release(body);
        input = undefined;
      }
      x = y;
    }
    return rgb;
  }

  /** Runs a layer strip by strip; the last one writes the picture. */
  async #run(
    layer: DecoderLayer,
    map: StripMap,
    shortcut: StripMap | undefined,
    { rows, height, rgb, signal }: { rows: number; height: number; rgb: Float32Array; signal: AbortSignal | undefined },
  ): Promise<StripMap> {
    const { from, to, norm, upsample } = layer;
    const scale = upsample ? 2 : 1;
    const width = map.width * scale;
    const [centre, gain] = norm ? await this.#normalise(norm, map) : [];
    const session = await this.#session(layer);
    const strips: Strip[] = [];
    const moments: Moments[] = [];
    const none = floatTensor(new Float32Array(0), [1, from, 0, map.width]);
    const zeros = floatTensor(new Float32Array(from * map.width), [1, from, 1, map.width]);
    const halo = (row: Float32Array): Tensor => floatTensor(row, [1, from, 1, map.width]);
    for (let begin = 0; begin < height; begin += rows) {
      const count = Math.min(rows, height - begin);
      const { at, offset } = locate(map.strips, begin / scale);
      const strip = map.strips[at]!;
      const [start, end] = [begin / scale - offset, (begin + count) / scale - offset];
      const [inner, outer] = [start > 0, end < strip.rows]; // rows above and below lie in this same strip
      const [above, below] = [map.strips[at - 1], map.strips[at + 1]];
      const inputs: Record<string, Tensor> = {
        body: floatTensor(strip.body, [1, from, strip.rows, map.width]),
        top: inner || !above ? none : halo(above.last),
        bottom: outer || !below ? none : halo(below.first),
        zeroTop: inner || above ? none : zeros,
        zeroBottom: outer || below ? none : zeros,
      };
      if (centre && gain) {
        inputs.centre = floatTensor(centre, [1, from, 1, 1]);
        inputs.gain = floatTensor(gain, [1, from, 1, 1]);
      }
      if (upsample) {
        inputs.start = intTensor([inner ? start - 1 : start], [1]);
        inputs.end = intTensor([outer ? end + 1 : end], [1]);
      }
      const mixtures = layerMixtures(layer, count);
      if (mixtures) {
        inputs.into = floatTensor(mixtures.into, [mixtures.mixed, count / scale + 2]);
        inputs.outOf = floatTensor(mixtures.outOf, [count, mixtures.mixed]);
      }
      if (shortcut) {
        const x = shortcut.strips[strips.length]!;
        inputs.x = floatTensor(x.body, [1, shortcut.channels, x.rows, width]);
      }
      const y = {
        rows: count,
        body: new Float32Array(to * count * width),
        first: new Float32Array(to * width),
        last: new Float32Array(to * width),
      };
      const moment = { count: count * width, mean: new Float32Array(to), squares: new Float32Array(to) };
      await session.run(inputs, {
        y: floatTensor(y.body, [1, to, count, width]),
        first: floatTensor(y.first, [1, to, 1, width]),
        last: floatTensor(y.last, [1, to, 1, width]),
        mean: floatTensor(moment.mean, [to]),
        squares: floatTensor(moment.squares, [to]),
      }, signal);
      if (to === 3) {
        for (let c = 0; c < 3; c++) {
          rgb.set(y.body.subarray(c * count * width, (c + 1) * count * width), (c * height + begin) * width);
        }
        continue;
      }
      strips.push(y);
      moments.push(moment);
    }
    return { channels: to, width, strips, moments };
  }

  /** Centre and gain of every channel that carry out a group norm of the map. */
  async #normalise(norm: string, map: StripMap): Promise<[Float32Array, Float32Array]> {
    let weight = this.#normWeights.get(norm);
    if (!weight) {
      weight = readTensor(this.#weights.tensors[`${norm}.norm.weight`]!);
      this.#normWeights.set(norm, weight);
    }
    return groupNorm(map.moments, await weight, this.#weights.groups);
  }

  #session(layer: DecoderLayer): Promise<Session> {
    let session = this.#sessions.get(layer.name);
    if (!session) {
      session = this.#runtime.createSession(layerGraph(this.#weights, layer));
      this.#sessions.set(layer.name, session);
    }
    return session;
  }

  /** Frees the weights. */
  [Symbol.dispose](): void {
    for (const session of this.#sessions.values()) session.then((open) => open[Symbol.dispose](), () => {});
    this.#sessions.clear();
  }
}

/**
 * Group norm as a centre and a gain of every channel, y = (x - centre) gain + bias, from the moments of pieces of a map.
 *
 * @example
 * ```ts
 * import { groupNorm } from "@stagevar/stagevar/models/infinity/decoder_strips.ts";
 * import assert from "node:assert/strict";
 * const piece = { count: 2, mean: Float32Array.of(1, 3), squares: Float32Array.of(2, 2) }; // 0 2 and 2 4: mean 2, variance 2
 * const [centre, gain] = groupNorm([piece], Float32Array.of(1, 4), 1);
 * assert(centre[1] === 2 && Math.abs(gain[1]! - 4 * Math.SQRT1_2) < 1e-5);
 * ```
 */
export function groupNorm(
  pieces: readonly Moments[],
  weight: Float32Array,
  groups: number,
): [centre: Float32Array, gain: Float32Array] {
  const EPSILON = 1e-6;
  const channels = weight.length;
  const size = channels / groups;
  const centre = new Float32Array(channels), gain = new Float32Array(channels);
  for (let group = 0; group < groups; group++) {
    let count = 0, mean = 0, squares = 0;
    for (const piece of pieces) {
      for (let c = group * size; c < (group + 1) * size; c++) {
        const delta = piece.mean[c]! - mean;
        const total = count + piece.count;
        squares += piece.squares[c]! + delta * delta * count * piece.count / total;
        mean += delta * piece.count / total;
        count = total;
      }
    }
    const deviation = Math.sqrt(squares / count + EPSILON);
    for (let c = group * size; c < (group + 1) * size; c++) {
      centre[c] = mean;
      gain[c] = weight[c]! / deviation;
    }
  }
  return [centre, gain];
}

/** The strip that a row lies in, and the row that it begins with. */
function locate(strips: readonly Strip[], row: number): { at: number; offset: number } {
  let offset = 0;
  let at = 0;
  while (row >= offset + strips[at]!.rows) offset += strips[at++]!.rows;
  return { at, offset };
}

function wholeStrip(body: Float32Array, channels: number, rows: number, width: number): Strip {
  const row = (y: number): Float32Array => {
    const values = new Float32Array(channels * width);
    for (let c = 0; c < channels; c++) {
      values.set(body.subarray((c * rows + y) * width, (c * rows + y + 1) * width), c * width);
    }
    return values;
  };
  return { rows, body: body.slice(), first: row(0), last: row(rows - 1) };
}

/** Detaching an ArrayBuffer gives its memory back. */
function release(...arrays: readonly Float32Array[]): void {
  for (const { buffer } of arrays) (buffer as ArrayBuffer).transfer(0);
}
