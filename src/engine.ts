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
import { beginRun, type LoopTensor } from "./models/infinity/device_run.ts";
import { Decoder } from "./models/infinity/decoder.ts";
import { type InfinityModel, openInfinity } from "./models/infinity/model.ts";
import { openQuantised, type QuantisedLookup } from "./models/infinity/quantised.ts";
import { InfinityTransformer } from "./models/infinity/transformer.ts";
import { DEFAULT_MODEL, findModel } from "./models/registry.ts";
import { cacheCapacity, drawScales, NotANumberError, type Tap } from "./pipeline.ts";
import type { Plan } from "./plan.ts";
import { encodePng, type RgbImage } from "./png.ts";
import type { DeviceName, DtypeName, GenerateEvent, GenerateRequest } from "./request.ts";
import { type DeviceChoice, openDevice } from "./runtime/device.ts";
import { memoryUse } from "./runtime/memory.ts";
import { openNative } from "./runtime/native.ts";
import { slowInSixteenBits } from "./runtime/processor.ts";
import type { DeviceTensor, Residency } from "./runtime/runtime.ts";
import { type Trace, tracedRuntime } from "./runtime/trace.ts";
import type { Grid } from "./schedule.ts";
import { blame } from "./models/infinity/damage.ts";
import { pictureRecord } from "./record.ts";
import { checkRequest, type EngineRequest, MAX_SEED, planRequest } from "./prepare.ts";
import { Prompts } from "./prompts.ts";
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
  readonly model: InfinityModel;
  readonly #device: DeviceChoice;
  readonly #dtype: DtypeName;
  readonly #asked: DtypeName | undefined; // what a picture of this engine is to be drawn with again
  readonly #quantised: QuantisedLookup | undefined;
  readonly #residency: Residency | undefined;
  readonly #trace: Trace | undefined;
  readonly #threads: number | undefined;
  readonly #loadMs: number;
  readonly #prompts: Prompts;
  #transformer: Promise<InfinityTransformer> | undefined;
  readonly #workers = new Workers();
  #decoder: Decoder | undefined;
  #decoding: Promise<unknown> | undefined; // a picture that was begun while the one before it is given away

  private constructor(
    model: InfinityModel,
    device: DeviceChoice,
    { lowMemory, trace, threads, ...options }: EngineOptions,
    dtype: DtypeName,
    quantised: QuantisedLookup | undefined,
    loadMs: number,
  ) {
    this.model = model;
    this.#device = trace ? { ...device, runtime: tracedRuntime(device.runtime, trace) } : device;
    this.#trace = trace;
    this.#threads = threads;
    this.#dtype = dtype;
    this.#asked = options.dtype === "f32" ? undefined : options.dtype;
    this.#quantised = quantised;
    this.#residency = lowMemory ? "mapped" : undefined;
    this.#loadMs = loadMs;
    // A GPU with memory to spare is fed faster than host memory is: there the text encoder stays beside the transformer.
    this.#prompts = new Prompts(model.text, model.textFolder, this.#device.runtime, {
      residency: this.#residency,
      half: dtype === "f16",
      stays: this.device === "cuda" && !lowMemory,
    });
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
    const model = await openInfinity(folder);
    const { progress } = options;
    const integers = options.dtype === "u16" || options.dtype === "u8";
    const wished = options.device ?? "auto";
    if (integers && (wished === "webgpu" || wished === "cuda")) {
      throw new UsageError(
        `Device "${wished}" has no integer products: found dtype "${options.dtype}", wanted f32 or f16`,
        {
          hint: "Use --dtype f16, or --device cpu",
        },
      );
    }
    const device = await openDevice(wished, options.threads, undefined, { gpu: !integers });
    const dtype = options.dtype ?? (device.runtime.device === "cuda" ? "f16" : "f32");
    if (dtype === "f16" && !device.runtime.createDeviceSession) {
      device.runtime[Symbol.dispose]();
      throw new UsageError(`Device "${device.runtime.device}" has no half precision: found dtype "f16"`, {
        hint: "Use --dtype u8, which is faster there than f32, or --device webgpu",
      });
    }
    const quantised = dtype === "u16" || dtype === "u8" ? await openQuantised(model, dtype, { progress }) : undefined;
    return new Engine(model, device, options, dtype, quantised, performance.now() - started);
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
    const plan = this.plan(request, await this.#prompts.tokens(request.prompt));
    const { name, config: _, hash, folder } = { ...model, name: model.shape.name };
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
    const { prompt, negativePrompt } = request;
    const texts = negativePrompt === undefined ? [prompt] : [prompt, negativePrompt];
    await clock.time("text", () => this.#prompts.encode(texts, signal));
    const transformer = await clock.time("load", () => this.#open());
    const { dims } = model;
    const { grids, last1M } = plan.schedule;
    const last = grids.at(-1)!;
    const capacity = cacheCapacity({ steps: plan.steps, grids, chunks: dims.chunks });
    // a GPU draws its random numbers itself, or threads do that would otherwise start when the picture is to be deflated
    using _threads = this.#besides?.ready(PNG_THREADS);
    const begun = { dims, images: batch, last, last1M, capacity, workers: this.#workers };
    using run = await clock.time("text", async () => {
      return await beginRun(transformer, await this.#segments(transformer, request, rows), begun, signal);
    });
    const { tokens, truncated } = this.#prompts.of(prompt);
    yield { type: "text", tokens, truncated, ms: clock.spent.text };

    // scales
    const ended = new AbortController();
    const stopping = AbortSignal.any(signal ? [signal, ended.signal] : [ended.signal]);
    const decode = (latent: LoopTensor, queued?: () => void): Promise<RgbImage> =>
      clock.time("decode", () => this.#decode(latent, last, stopping, (own) => run.kernels.read([own]), queued));
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
      throw error instanceof NotANumberError ? await blame(model, error) : error;
    } finally {
      stop();
      run.freeCache();
      if (this.#residency === "mapped") this.#closeTransformer();
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
    this.#closeTransformer();
    this.#prompts[Symbol.dispose]();
    this.#workers[Symbol.dispose]();
    this.#decoder?.[Symbol.dispose]();
    this.#device.runtime[Symbol.dispose]();
  }

  /** Who encodes while a picture is decoded: on CUDA a run takes all of this thread's time. */
  get #besides(): Workers | undefined {
    return this.device === "cuda" ? this.#workers : undefined;
  }

  /** Frees the transformer's sessions; it is opened again when it is next needed. */
  #closeTransformer(): void {
    this.#transformer?.then((open) => open[Symbol.dispose](), () => {});
    this.#transformer = undefined;
  }

  /** T5 features of the conditional and of the null rows, or of those alone that will run. */
  async #segments(
    transformer: InfinityTransformer,
    { prompt, negativePrompt }: EngineRequest,
    rows: string,
  ): Promise<Float32Array[]> {
    const { features, tokens } = this.#prompts.of(prompt);
    if (rows === "cond") return [features];
    const nul = negativePrompt === undefined
      ? await transformer.nullFeatures(tokens)
      : this.#prompts.of(negativePrompt).features;
    return rows === "null" ? [nul] : [features, nul];
  }

  #open(): Promise<InfinityTransformer> {
    return this.#transformer ??= InfinityTransformer.open(this.model.transformer, this.#device.runtime, {
      quantised: this.#quantised,
      half: this.#dtype === "f16",
      residency: this.#residency,
    });
  }

  /** The picture of one image's latent, whose last grid is given. */
  async #decode(
    latent: LoopTensor,
    { h, w }: Grid,
    signal: AbortSignal,
    read: (latent: DeviceTensor) => Promise<Float32Array>,
    queued?: () => void,
  ): Promise<RgbImage> {
    this.#decoder ??= new Decoder(this.model.decoder, this.#device.runtime, {
      half: this.#dtype === "f16",
      fallback: () => openNative(this.#threads === undefined ? {} : { threads: this.#threads }),
    });
    const cell = this.model.dims.patchify ? 2 : 1;
    const side = cell * this.model.decoder.stride;
    const own = latent instanceof Float32Array ? latent : latent[0]!;
    return {
      width: w * side,
      height: h * side,
      data: await this.#decoder.pixels(own, h * cell, w * cell, signal, read, queued),
    };
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
