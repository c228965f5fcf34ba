/**
 * What a caller asks for and what comes back: plain JSON-able words shared by the command line, the library and metadata.
 *
 * @module
 */
import type { Plan, Stage, Step } from "./plan.ts";
import type { MemoryPeak } from "./runtime/memory.ts";
import type { Grid, PixelBudget } from "./schedule.ts";
import type { RgbImage } from "./png.ts";
import type { ImageRecord } from "./metadata.ts";

/** Where the graphs run: `auto` takes the best device that works. */
export type DeviceName = "auto" | "cpu" | "cuda" | "webgpu" | "wasm";

/**
 * Arithmetic of the blocks' linear layers: float32; half precision, on a GPU; or, on a CPU, integer products of sixteen- or
 * eight-bit weights and activations with a float32 result.
 */
export type DtypeName = "f32" | "f16" | "u16" | "u8";

/** A request for one picture or a batch that differs by seed. Everything but `prompt` has a default. */
export interface GenerateRequest {
  /** What to draw. Cut to the tokens that the text encoder takes (512, of STAR 77), with a notice. */
  prompt: string;
  /** What to steer away from; without it the model's learned null prompt is used (infinity.md §2.3). */
  negativePrompt?: string;
  /** Name of a model in the models folders, or the folder itself. Default: `shapes`. */
  model?: string;
  /** 32-bit seed; image i of a batch uses seed + i. Default: random. */
  seed?: number;
  /** Number of pictures. Default 1. */
  batch?: number;
  /** Width to height, as `16:9`. Default: square, or what width and height say. */
  aspect?: string;
  /** Wanted width in pixels; the nearest schedule is taken, with a notice. */
  width?: number;
  /** Wanted height in pixels. */
  height?: number;
  /** Pixel budget: how many scales run. Default: the one the model was trained for. */
  pixels?: PixelBudget;
  /** Guidance, one number or one a scale. Default: the model's. */
  cfgScale?: number | number[];
  /** Temperature, one number or one a scale. Default: the model's. */
  tau?: number | number[];
  /** Nucleus threshold on the two classes of a bit (infinity.md §4.3), or on the codes (star.md §8.4). Default: the model's. */
  topP?: number;
  /** Most likely codes that are drawn from, of models with a codebook; 0 = all (star.md §8.4). Default: the model's. */
  topK?: number;
  /** Acceleration method by name. Default: `stagevar` where ranks are known, else `vanilla`. */
  method?: string;
  /** Options of the method, by name. */
  methodOptions?: Record<string, unknown>;
  /** Where to run. Default `auto`. */
  device?: DeviceName;
  /** CPU threads. Default: all cores. */
  threads?: number;
  /** Arithmetic of the blocks' linear layers. Default `f32`. */
  dtype?: DtypeName;
  /** Leave all weights in their files and free the transformer before decoding: less memory, more time. */
  lowMemory?: boolean;
  /** Decode a preview after every scale. */
  preview?: boolean;
}

/** Facts of the model that served a request. */
export interface ModelFacts {
  /** Name, as in model.json or the folder's. */
  name: string;
  /** First ten hex digits of the SHA-256 over names, shapes, sizes and samples of the checkpoint (metadata, presets). */
  hash: string;
  /** The model's folder. */
  folder: string;
}

/** What a picture's time is spent on, in order. */
export type Phase = "load" | "text" | "transformer" | "decode" | "encode";

/** Milliseconds a phase took. Of a batch, a picture is encoded while the next one is decoded: the two overlap in the total. */
export interface Timings {
  /** Opening checkpoints and building graphs. */
  load: number;
  /** Tokenizer and text encoder. */
  text: number;
  /** All scales, without previews. */
  transformer: number;
  /** Latent to pixels, previews included. */
  decode: number;
  /** Pixels to PNG. */
  encode: number;
  /** From request to last byte. */
  total: number;
}

/** What a generation yields, in order: start, text, scale..., image..., done. */
export type GenerateEvent =
  | { type: "start"; plan: Plan; seed: number; device: string; model: ModelFacts; notices: string[] }
  | { type: "text"; tokens: number; truncated: boolean; ms: number }
  | {
    type: "scale";
    index: number;
    grid: Grid;
    stage: Stage;
    step: Step;
    /** Tokens (or pseudo-tokens, the largest chunk's) that went through the blocks, a row. */
    tokensRun: number;
    ms: number;
    /** One picture an image of the batch, under `preview`. */
    previews?: RgbImage[];
  }
  | { type: "image"; index: number; seed: number; image: RgbImage; png: Uint8Array; record: ImageRecord }
  | {
    type: "done";
    timings: Timings;
    /** Bytes of the largest resident set so far, mapped weights included. */
    peakMemory: number;
    /** Peaks of every phase that ran. */
    memory: Partial<Record<Phase, MemoryPeak>>;
    tokenLayers: number;
    vanillaTokenLayers: number;
  };
