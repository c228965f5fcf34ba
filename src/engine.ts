/**
 * One model on one device, from a request to pictures: plan, text, scales, decoder, PNG.
 *
 * Composes the modules below it and owns their lifetimes: the text encoder is freed before the transformer runs, the
 * key/value cache before the decoder does. The scale loop itself is pipeline.ts.
 *
 * @module
 */
import { Clock } from "./clock.ts";
import { UsageError } from "./errors.ts";
import { pngText } from "./metadata.ts";
import { InfinityPainter } from "./models/infinity/painter.ts";
import { openQuantised } from "./models/infinity/quantised.ts";
import { type Model, openModel } from "./models/open.ts";
import type { LoopTensor, Painter } from "./models/painter.ts";
import { DEFAULT_MODEL, findModel } from "./models/registry.ts";
import { StarPainter } from "./models/star/painter.ts";
import { cacheCapacity, drawScales, NotANumberError, type Tap } from "./pipeline.ts";
import type { Plan } from "./plan.ts";
import { encodePng, type RgbImage } from "./png.ts";
import type { DeviceName, DtypeName, GenerateEvent, GenerateRequest } from "./request.ts";
import { type DeviceChoice, openDevice } from "./runtime/device.ts";
import { memoryUse } from "./runtime/memory.ts";
import { slowInSixteenBits } from "./runtime/processor.ts";
import { type Trace, tracedRuntime } from "./runtime/trace.ts";
import { pictureRecord } from "./record.ts";
import { checkRequest, type EngineRequest, MAX_SEED, planRequest } from "./prepare.ts";
import { Workers } from "./workers.ts";

/** Threads beside this one that deflate a picture: with it, two bands of a megapixel each. */
const PNG_THREADS = 5;

/** Said of `u16` where it gains nothing. */
const SLOW_U16 =
  "On this processor, which has no instructions for products of bytes (VNNI), u16 takes longer than f32: " +
  "take f32, or u8, which is less exact";

/** What an engine is opened with. */
export interface EngineOptions {
  /** Model name or folder. Default: `shapes`. */
  model?: string;
  /** Where to run. Default `auto`. */
  device?: DeviceName;
  /** CPU threads. Default: all cores. */
  threads?: number;
  /**
   * Arithmetic of the blocks' linear layers; on CUDA `f16` is that of attention and the decoder, too. Default `f16` on CUDA,
   * else `f32`. `u16` and `u8` make a copy beside the model the first time.
   */
  dtype?: DtypeName;
  /** Leave all weights in their files, and give the transformer's memory back before decoding: smaller and slower. */
  lowMemory?: boolean;
  /** Told how long phases, scales, and the loading and running of graphs took. */
  trace?: Trace;
  /** Called while copies are made, with the number of weights done and their total. */
  progress?: (done: number, total: number) => void;
}

/** What a run takes besides its request. */
export interface GenerateOptions {
  /** Stops the run, also in the middle of a scale. */
  signal?: AbortSignal | undefined;
  /** Sees intermediates or replaces random draws: analysis and calibration. */
  tap?: Tap | undefined;
}

/**
 * A model held ready on a device, for more than one request.
 *
 * @example
 * ```ts
 * import { Engine } from "@stagevar/stagevar/engine.ts";
 * import assert from "node:assert/strict";
 * using engine = await Engine.open({ model: "shapes" });
 * const pictures: number[] = [];
 * for await (const event of engine.generate({ prompt: "a red circle", seed: 1, batch: 2 })) {
 *   if (event.type === "image") pictures.push(event.image.width);
 * }
 * assert.deepEqual(pictures, [128, 128]);
 * ```
 */
export class Engine implements Disposable {
  /** The opened model: names, shapes, references. */
  readonly model: Model;
  readonly #device: DeviceChoice;
  readonly #dtype: DtypeName;
  readonly #asked: DtypeName | undefined; // what a picture of this engine is to be drawn with again
  readonly #frugal: boolean; // gives the transformer's memory back before it decodes
  readonly #trace: Trace | undefined;
  readonly #loadMs: number;
  readonly #painter: Painter;
  readonly #workers = new Workers();
  #decoding: Promise<unknown> | undefined; // a picture that was begun while the one before it is given away

  private constructor(
    model: Model,
    device: DeviceChoice,
    painter: Painter,
    options: EngineOptions & { readonly chosen: DtypeName; readonly loadMs: number },
  ) {
    this.model = model;
    this.#device = device;
    this.#painter = painter;
    this.#trace = options.trace;
    this.#dtype = options.chosen;
    this.#asked = options.dtype === "f32" ? undefined : options.dtype;
    this.#frugal = options.lowMemory ?? false;
    this.#loadMs = options.loadMs;
  }

  /**
   * Opens a model's checkpoints (headers only) and the device, and makes the copies that a dtype wants.
   *
   * @throws {ModelError} when the model is missing or does not fit together
   * @throws {IntegrityError} when a file is damaged
   * @throws {DeviceError} when the device is not there
   * @throws {UsageError} when the device cannot do the dtype, or copies cannot be written
   */
  static async open(options: EngineOptions = {}): Promise<Engine> {
    const started = performance.now();
    const { folder } = await findModel(options.model ?? DEFAULT_MODEL);
    const model = await openModel(folder);
    const { lowMemory, progress, threads, trace } = options;
    const integers = options.dtype === "u16" || options.dtype === "u8";
    const wished = options.device ?? "auto";
    if (model.family === "star") checkStar(model.shape.name, wished, options.dtype);
    if (integers && (wished === "webgpu" || wished === "cuda")) {
      throw new UsageError(
        `Device "${wished}" has no integer products: found dtype "${options.dtype}", wanted f32 or f16`,
        {
          hint: "Use --dtype f16, or --device cpu",
        },
      );
    }
    const gpu = !integers && model.family !== "star";
    const device = await openDevice(wished, threads, undefined, { gpu });
    const dtype = options.dtype ?? (device.runtime.device === "cuda" ? "f16" : "f32");
    if (dtype === "f16" && !device.runtime.createDeviceSession) {
      device.runtime[Symbol.dispose]();
      throw new UsageError(`Device "${device.runtime.device}" has no half precision: found dtype "f16"`, {
        hint: "Use --dtype u8, which is faster there than f32, or --device webgpu",
      });
    }
    const runtime = trace ? tracedRuntime(device.runtime, trace) : device.runtime;
    const residency = lowMemory ? "mapped" as const : undefined;
    let painter: Painter;
    if (model.family === "star") painter = new StarPainter(model, runtime, residency);
    else {
      const quantised = dtype === "u16" || dtype === "u8" ? await openQuantised(model, dtype, { progress }) : undefined;
      painter = new InfinityPainter(model, runtime, { quantised, half: dtype === "f16", residency, threads });
    }
    return new Engine(model, { ...device, runtime }, painter, {
      ...options,
      chosen: dtype,
      loadMs: performance.now() - started,
    });
  }

  /** Name of the device that graphs run on. */
  get device(): string {
    return this.#device.runtime.device;
  }

  /** Arithmetic of the blocks' linear layers. */
  get dtype(): DtypeName {
    return this.#dtype;
  }

  /** What a request would run, without running it. */
  plan(request: Omit<EngineRequest, "prompt">, textTokens?: number): Plan {
    return planRequest(this.model, request, textTokens);
  }

  /**
   * Draws the pictures of a request, event by event.
   *
   * @throws {UsageError} when the request cannot be
   * @throws {ModelError} when the model gives no numbers, naming the tensor at fault where there is one
   */
  async *generate(request: EngineRequest, options: GenerateOptions = {}): AsyncGenerator<GenerateEvent> {
    await this.#decoding; // of a request that was left there: a device does one thing at a time
    const clock = new Clock(this.#trace);
    const { signal, tap } = options;
    const { model } = this;
    const seed = checkRequest(request);
    const batch = request.batch ?? 1;
    const painter = this.#painter;
    const { tokens, truncated } = await painter.tokens(request.prompt);
    const plan = this.plan(request, tokens);
    const { hash, folder, shape: { name } } = model;
    yield {
      type: "start",
      plan,
      seed,
      device: this.device,
      model: { name, hash, folder },
      notices: [
        ...this.#device.notices,
        ...this.device === "cpu" && this.#dtype === "u16" && slowInSixteenBits() ? [SLOW_U16] : [],
        ...plan.notes,
      ],
    };

    // text: the encoder is freed before the transformer is opened
    const rows = plan.steps.find((step) => step.kind !== "skip")!.rows;
    await clock.time("text", () => painter.encode(request, signal));
    await clock.time("load", () => painter.load());
    const { dims } = model;
    const { grids, last1M } = plan.schedule;
    const last = grids.at(-1)!;
    const capacity = cacheCapacity({ steps: plan.steps, grids, chunks: dims.chunks });
    // a GPU draws its random numbers itself, or threads do that would otherwise start when the picture is to be deflated
    using _threads = this.#besides?.ready(PNG_THREADS);
    const begun = { dims, images: batch, last, last1M, capacity, workers: this.#workers };
    using run = await clock.time("text", () => painter.begin(request, rows, begun, signal));
    yield { type: "text", tokens, truncated, ms: clock.spent.text };

    // scales
    const ended = new AbortController();
    const stopping = AbortSignal.any(signal ? [signal, ended.signal] : [ended.signal]);
    const decode = (latent: LoopTensor, queued?: () => void): Promise<RgbImage> =>
      clock.time("decode", () => painter.decode(latent, last, stopping, (own) => run.kernels.read([own]), queued));
    const seeds = Array.from({ length: batch }, (_, i) => (seed + i) % (MAX_SEED + 1));
    const stop = clock.watch("transformer");
    let latent: LoopTensor | undefined;
    try {
      const loop = drawScales({ plan, dims, transformer: run, kernels: run.kernels, seeds, signal, tap });
      for await (const scale of loop) {
        latent = scale.latent;
        clock.spent.transformer += scale.ms;
        const name = `scale ${scale.index + 1}: ${scale.grid.h}x${scale.grid.w} ${scale.step.kind}`;
        this.#trace?.({ name, kind: "scale", start: performance.now() - scale.ms, ms: scale.ms });
        const previews: RgbImage[] = [];
        if (request.preview && scale.step.kind !== "skip") {
          for (const each of await run.kernels.images(latent)) previews.push(await decode(each));
        }
        const { index, grid, stage, step, tokensRun, ms } = scale;
        const event = { type: "scale", index, grid, stage, step, tokensRun, ms } as const;
        yield previews.length > 0 ? { ...event, previews } : event;
      }
    } catch (error) {
      throw error instanceof NotANumberError ? await painter.blame(error) : error;
    } finally {
      stop();
      run.freeCache();
      if (this.#frugal) painter.unload();
    }

    // pixels: a picture is encoded, and given away, while the next one is decoded
    const latents = await run.kernels.images(latent!);
    const begin = (index: number, queued?: () => void): Promise<RgbImage> | undefined => {
      const own = latents[index];
      const decoding = own && decode(own, queued);
      this.#decoding = decoding?.catch(() => {}); // heard when its turn comes
      return decoding;
    };
    try {
      let decoding = begin(0);
      for (let index = 0; decoding; index++) {
        const image = await decoding;
        const record = pictureRecord(model, {
          request: { ...request, seed, batch, ...this.#asked === undefined ? {} : { dtype: this.#asked } },
          plan,
          seed: seeds[index]!,
          image,
        });
        const last = index + 1 === batch;
        let encoding: Promise<Uint8Array> | undefined;
        const encode = (): void => {
          encoding ??= clock.time("encode", () => encodePng(image, pngText(record), this.#besides, last));
        };
        if (!this.#besides) encode();
        decoding = begin(index + 1, encode);
        if (this.#besides) await this.#decoding; // it takes this thread, and said when the device had its work
        encode();
        yield { type: "image", index, seed: seeds[index]!, image, png: await encoding!, record };
      }
    } finally {
      ended.abort(); // what was begun for nobody
      await this.#decoding;
    }
    yield {
      type: "done",
      timings: clock.finish(this.#loadMs),
      peakMemory: memoryUse().peak,
      memory: clock.memory,
      tokenLayers: plan.cost.tokenLayers,
      vanillaTokenLayers: plan.vanillaCost.tokenLayers,
    };
  }

  /** Frees every session and the device. */
  [Symbol.dispose](): void {
    this.#painter[Symbol.dispose]();
    this.#workers[Symbol.dispose]();
    this.#device.runtime[Symbol.dispose]();
  }

  /** Who encodes while a picture is decoded: on CUDA a run takes all of this thread's time. */
  get #besides(): Workers | undefined {
    return this.device === "cuda" ? this.#workers : undefined;
  }
}

/** STAR runs in host memory, in float32. */
function checkStar(name: string, device: DeviceName, dtype: DtypeName | undefined): void {
  if (device === "cuda" || device === "webgpu") {
    throw new UsageError(`Model "${name}" is of the family star, which does not run on device "${device}"`, {
      hint: "Use --device cpu or wasm",
    });
  }
  if (dtype !== undefined && dtype !== "f32") {
    throw new UsageError(`Model "${name}" is of the family star, which has no dtype "${dtype}": wanted f32`, {
      hint: "Leave --dtype out",
    });
  }
}

/**
 * Draws the pictures of one request, event by event: start, text, scale..., image..., done.
 *
 * Opens the model, and frees it at the end; hold an {@linkcode Engine} to run several requests.
 *
 * @throws {StageVarError} one of its four classes, see errors.ts
 * @example
 * ```ts
 * import { generate } from "@stagevar/stagevar";
 * import assert from "node:assert/strict";
 * for await (const event of generate({ prompt: "a red circle left of a blue square", seed: 7 })) {
 *   if (event.type === "scale") console.log(`${event.grid.h}x${event.grid.w} ${event.stage} ${event.ms.toFixed(0)} ms`);
 *   if (event.type === "image") assert.equal(event.png[1], 0x50); // the P of PNG
 * }
 * ```
 */
export async function* generate(
  request: GenerateRequest,
  options: GenerateOptions = {},
): AsyncGenerator<GenerateEvent> {
  checkRequest(request);
  using engine = await Engine.open(request);
  yield* engine.generate(request, options);
}
