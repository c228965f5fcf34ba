/**
 * STAR from prompts to pictures, on a device that works in host memory: CLIP features, transformer, decoder, each loaded
 * when it is first needed.
 *
 * @module
 */
import { readTensor } from "../../checkpoint/source.ts";
import type { ModelError } from "../../errors.ts";
import type { NotANumberError } from "../../pipeline.ts";
import type { RgbImage } from "../../png.ts";
import type { Residency, Runtime } from "../../runtime/runtime.ts";
import type { Grid } from "../../schedule.ts";
import type { RowKind } from "../../step.ts";
import { ClipEncoder } from "../../text/clip_encoder.ts";
import { loadClipTokenizer } from "../../text/clip_tokenizer.ts";
import { Prompts } from "../../text/prompts.ts";
import { blame } from "../damage.ts";
import type { LoopIndices, LoopTensor, Painter, PictureRun, Prompted, PromptTokens, RunRequest } from "../painter.ts";
import { VqDecoder } from "./decoder.ts";
import type { StarModel } from "./model.ts";
import { StarRun } from "./run.ts";
import { type StarText, StarTransformer } from "./transformer.ts";

/** What the null row is told (star.md §4). */
const NULL_PROMPT = "";

/** A STAR model on a device; each method is {@linkcode Painter}'s. */
export class StarPainter implements Painter {
  readonly #model: StarModel;
  readonly #runtime: Runtime;
  readonly #residency: Residency | undefined;
  readonly #prompts: Prompts;
  #transformer: Promise<StarTransformer> | undefined;
  #codebook: Promise<Float32Array> | undefined;
  #decoder: VqDecoder | undefined;

  /** Nothing is loaded at first; weights are packed where they are few unless `residency` says otherwise. */
  constructor(model: StarModel, runtime: Runtime, residency?: Residency) {
    this.#model = model;
    this.#runtime = runtime;
    this.#residency = residency;
    this.#prompts = new Prompts({
      tokenizer: () => loadClipTokenizer(model.textFolder),
      encoder: () => ClipEncoder.open(model.text, runtime, residency),
    });
  }

  /** CLIP's, its start and end included. */
  tokens(prompt: string): Promise<PromptTokens> {
    return this.#prompts.tokens(prompt);
  }

  /** CLIP features of the prompt and of what the null row is told. */
  encode({ prompt, negativePrompt = NULL_PROMPT }: Prompted, signal?: AbortSignal): Promise<void> {
    return this.#prompts.encode([prompt, negativePrompt], signal);
  }

  /** The transformer. */
  load(): Promise<StarTransformer> {
    return this.#transformer ??= StarTransformer.open(this.#model.transformer, this.#runtime, {
      residency: this.#residency,
    });
  }

  /** In host memory. */
  async begin(
    { prompt, negativePrompt = NULL_PROMPT }: Prompted,
    rows: "both" | RowKind,
    batch: RunRequest,
    signal?: AbortSignal,
  ): Promise<PictureRun<LoopTensor, LoopIndices>> {
    const transformer = await this.load();
    const { codebook, phi } = this.#model.decoder;
    this.#codebook ??= readTensor(codebook);
    const told = rows === "cond" ? [prompt] : rows === "null" ? [negativePrompt] : [prompt, negativePrompt];
    const texts: StarText[] = [];
    for (const text of told) {
      const { features, ids } = this.#prompts.of(text);
      const end = ids.indexOf(ids.at(-1)!); // the first end of text (§4), which a prompt may spell out
      const { textDim } = this.#model.shape;
      const pooled = features.subarray(end * textDim, (end + 1) * textDim);
      texts.push(await transformer.encodeText({ features, pooled }, signal));
    }
    return new StarRun(transformer, texts, { codebook: await this.#codebook, phi }, batch);
  }

  /** By the VQ-VAE's decoder. */
  async decode(latent: LoopTensor, { h, w }: Grid, signal: AbortSignal): Promise<RgbImage> {
    this.#decoder ??= new VqDecoder(this.#model.decoder, this.#runtime);
    const { stride } = this.#model.decoder;
    const own = latent as Float32Array; // no device keeps it
    return { width: w * stride, height: h * stride, data: await this.#decoder.pixels(own, h, w, signal) };
  }

  /** The transformer's sessions. */
  unload(): void {
    this.#transformer?.then((open) => open[Symbol.dispose](), () => {});
    this.#transformer = undefined;
  }

  /** Looks at every weight, those that codes go through between scales, too. */
  blame(error: NotANumberError): Promise<ModelError> {
    const { transformer: { outer, blocks }, text, decoder: { codebook, phi } } = this.#model;
    return blame([outer, ...blocks, text.tensors, { codebook }, ...phi.map((own) => ({ ...own }))], error);
  }

  /** Frees every session. */
  [Symbol.dispose](): void {
    this.unload();
    this.#prompts[Symbol.dispose]();
    this.#decoder?.[Symbol.dispose]();
  }
}
