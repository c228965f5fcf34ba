/**
 * Infinity from prompts to pictures, on one device: T5 features, transformer, decoder, each loaded when it is first needed.
 *
 * @module
 */
import type { ModelError } from "../../errors.ts";
import type { NotANumberError } from "../../pipeline.ts";
import type { RgbImage } from "../../png.ts";
import { openNative } from "../../runtime/native.ts";
import type { DeviceTensor, Residency, Runtime } from "../../runtime/runtime.ts";
import type { Grid } from "../../schedule.ts";
import type { RowKind } from "../../step.ts";
import { Prompts } from "../../text/prompts.ts";
import { T5Encoder } from "../../text/t5_encoder.ts";
import { loadTokenizer } from "../../text/tokenizer.ts";
import type { LoopIndices, LoopTensor, Painter, PictureRun, Prompted, PromptTokens, RunRequest } from "../painter.ts";
import { blame } from "../damage.ts";
import { Decoder } from "./decoder.ts";
import { beginRun } from "./device_run.ts";
import type { InfinityModel } from "./model.ts";
import type { QuantisedLookup } from "./quantised.ts";
import { InfinityTransformer } from "./transformer.ts";

/** How a model is loaded. */
export interface InfinityPainterOptions {
  /** Products in half precision. */
  readonly half: boolean;
  /** Copies of the blocks' linear weights to run in integer arithmetic. */
  readonly quantised?: QuantisedLookup | undefined;
  /** Where weights live. Default: packed where they are few. */
  readonly residency?: Residency | undefined;
  /** CPU threads of what a device hands to the CPU. Default: all cores. */
  readonly threads?: number | undefined;
}

/** An Infinity model on a device; each method is {@linkcode Painter}'s. */
export class InfinityPainter implements Painter {
  readonly #model: InfinityModel;
  readonly #runtime: Runtime;
  readonly #options: InfinityPainterOptions;
  readonly #prompts: Prompts;
  #transformer: Promise<InfinityTransformer> | undefined;
  #decoder: Decoder | undefined;

  /** Nothing is loaded at first. */
  constructor(model: InfinityModel, runtime: Runtime, options: InfinityPainterOptions) {
    this.#model = model;
    this.#runtime = runtime;
    this.#options = options;
    const { residency, half } = options;
    this.#prompts = new Prompts({
      tokenizer: () => loadTokenizer(model.textFolder),
      encoder: () => T5Encoder.open(model.text, runtime, residency, half),
      // A GPU with memory to spare is fed faster than host memory is: there the encoder stays beside the transformer.
      stays: runtime.device === "cuda" && residency !== "mapped",
    });
  }

  /** T5's. */
  tokens(prompt: string): Promise<PromptTokens> {
    return this.#prompts.tokens(prompt);
  }

  /** T5 features of the prompts; the learned null prompt has its own. */
  encode({ prompt, negativePrompt }: Prompted, signal?: AbortSignal): Promise<void> {
    return this.#prompts.encode(negativePrompt === undefined ? [prompt] : [prompt, negativePrompt], signal);
  }

  /** The transformer. */
  load(): Promise<InfinityTransformer> {
    return this.#transformer ??= InfinityTransformer.open(this.#model.transformer, this.#runtime, this.#options);
  }

  /** On the device, or in host memory. */
  async begin(
    { prompt, negativePrompt }: Prompted,
    rows: "both" | RowKind,
    batch: RunRequest,
    signal?: AbortSignal,
  ): Promise<PictureRun<LoopTensor, LoopIndices>> {
    const transformer = await this.load();
    const { features, tokens } = this.#prompts.of(prompt);
    const nul = async (): Promise<Float32Array> =>
      negativePrompt === undefined ? await transformer.nullFeatures(tokens) : this.#prompts.of(negativePrompt).features;
    const segments = rows === "cond" ? [features] : rows === "null" ? [await nul()] : [features, await nul()];
    return await beginRun(transformer, segments, batch, signal);
  }

  /** By the VAE's decoder. */
  async decode(
    latent: LoopTensor,
    { h, w }: Grid,
    signal: AbortSignal,
    read: (latent: DeviceTensor) => Promise<Float32Array>,
    queued?: () => void,
  ): Promise<RgbImage> {
    const { half, threads } = this.#options;
    this.#decoder ??= new Decoder(this.#model.decoder, this.#runtime, {
      half,
      fallback: () => openNative(threads === undefined ? {} : { threads }),
    });
    const cell = this.#model.dims.patchify ? 2 : 1;
    const side = cell * this.#model.decoder.stride;
    const own = latent instanceof Float32Array ? latent : latent[0]!;
    return {
      width: w * side,
      height: h * side,
      data: await this.#decoder.pixels(own, h * cell, w * cell, signal, read, queued),
    };
  }

  /** The transformer's sessions. */
  unload(): void {
    this.#transformer?.then((open) => open[Symbol.dispose](), () => {});
    this.#transformer = undefined;
  }

  /** Looks at every weight. */
  blame(error: NotANumberError): Promise<ModelError> {
    const { transformer: { outer, blocks }, text } = this.#model;
    return blame([outer, ...blocks, text.tensors], error);
  }

  /** Frees every session. */
  [Symbol.dispose](): void {
    this.unload();
    this.#prompts[Symbol.dispose]();
    this.#decoder?.[Symbol.dispose]();
  }
}
