/**
 * What the engine asks of a family of models: a batch of pictures that the loop runs on, and the way there and back.
 *
 * @module
 */
import type { DeviceIndices, DeviceRows } from "../kernels/device_batch.ts";
import type { HostIndices } from "../kernels/host.ts";
import type { LoopBatch, LoopDims, ScaleKernels } from "../kernels/kernels.ts";
import type { ModelError } from "../errors.ts";
import type { NotANumberError, ScaleTransformer } from "../pipeline.ts";
import type { RgbImage } from "../png.ts";
import type { DeviceTensor } from "../runtime/runtime.ts";
import type { Grid } from "../schedule.ts";
import type { RowKind } from "../step.ts";
import type { Workers } from "../workers.ts";

/** A tensor of the loop in either memory. */
export type LoopTensor = Float32Array | DeviceRows;

/** Row indices of the loop in either memory. */
export type LoopIndices = HostIndices | DeviceIndices;

/** One batch of pictures, on tensors T and row indices I: what the loop runs on. */
export interface PictureRun<T, I> extends ScaleTransformer<T, I>, Disposable {
  /** The arithmetic around the transformer. */
  readonly kernels: ScaleKernels<T, I>;
  /** Frees texts, keys and values at once, which can be gigabytes, and leaves the running latent. */
  freeCache(): void;
}

/** What a batch of pictures is begun with. */
export interface RunRequest extends LoopBatch {
  /** Dimensions of the loop. */
  readonly dims: LoopDims;
  /** Last grid of the 1M schedule of this aspect ratio, which Infinity's positions are stretched to (infinity.md §3.4). */
  readonly last1M: Grid;
  /** Tokens each chunk will execute over all scales, [chunks]. */
  readonly capacity: readonly number[];
  /** Threads that a device's random numbers may be drawn in. */
  readonly workers?: Workers | undefined;
}

/** What there is to say about a prompt. */
export interface PromptTokens {
  /** Its tokens, as many as the encoder takes. */
  readonly tokens: number;
  /** Whether it had more. */
  readonly truncated: boolean;
}

/** What is to be drawn. */
export interface Prompted {
  /** What to draw. */
  readonly prompt: string;
  /** What to steer away from. */
  readonly negativePrompt?: string | undefined;
}

/** A model of some family on a device: from prompts to what the loop runs on, and from its latent to a picture. */
export interface Painter extends Disposable {
  /** Tokens of a prompt, of a tokenizer that is loaded the first time. */
  tokens(prompt: string): Promise<PromptTokens>;
  /** Makes the text features of a request where they are not at hand; frees the encoder where memory is short. */
  encode(request: Prompted, signal?: AbortSignal): Promise<void>;
  /** Loads the transformer where it is not. */
  load(): Promise<unknown>;
  /** Begins a batch of pictures of a request whose text is encoded, with the rows that run first. */
  begin(
    request: Prompted,
    rows: "both" | RowKind,
    batch: RunRequest,
    signal?: AbortSignal,
  ): Promise<PictureRun<LoopTensor, LoopIndices>>;
  /** The picture of one image's latent, whose last grid is given. */
  decode(
    latent: LoopTensor,
    grid: Grid,
    signal: AbortSignal,
    read: (latent: DeviceTensor) => Promise<Float32Array>,
    queued?: () => void,
  ): Promise<RgbImage>;
  /** Frees the transformer; it is loaded again when it is next needed. */
  unload(): void;
  /** The error with the tensor at fault, or as it was where all weights are numbers: slow, but it only happens once. */
  blame(error: NotANumberError): Promise<ModelError>;
}
