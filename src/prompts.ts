/**
 * The prompts of an engine: their tokens, and their T5 features, which the last few keep.
 *
 * @module
 */
import type { Residency, Runtime } from "./runtime/runtime.ts";
import { T5Encoder, type T5Weights } from "./text/t5_encoder.ts";
import { loadTokenizer, type Tokenizer } from "./text/tokenizer.ts";

/** Prompts whose features are kept. */
const KEPT_PROMPTS = 16;

/** What a prompt comes to. */
export interface PromptFeatures {
  /** Its tokens. */
  readonly tokens: number;
  /** Whether it had more than the encoder takes. */
  readonly truncated: boolean;
  /** T5 features [tokens, Dt]. */
  readonly features: Float32Array;
}

/** How the encoder is run. */
export interface PromptsOptions {
  /** Where its weights live. Default: packed where they are few. */
  readonly residency?: Residency | undefined;
  /** Products in half precision, on devices that take whole blocks in it. */
  readonly half?: boolean;
  /** Whether it stays loaded after its last prompt: large, but quicker than loading it again. */
  readonly stays?: boolean;
}

/**
 * Encodes prompts, each once while it is among the last few.
 *
 * @example
 * ```ts
 * import { Prompts } from "@stagevar/stagevar/prompts.ts";
 * import { openNative } from "@stagevar/stagevar/runtime/native.ts";
 * import { readT5Weights } from "@stagevar/stagevar/text/t5_encoder.ts";
 * import assert from "node:assert/strict";
 * const folder = "tests/golden/models/mini-t5";
 * using runtime = openNative();
 * using prompts = new Prompts(await readT5Weights(folder), folder, runtime);
 * await prompts.encode(["a red circle"]);
 * const { tokens, features } = prompts.of("a red circle");
 * assert.equal(features.length, tokens * 256);
 * ```
 */
export class Prompts implements Disposable {
  readonly #weights: T5Weights;
  readonly #folder: string;
  readonly #runtime: Runtime;
  readonly #options: PromptsOptions;
  readonly #known = new Map<string, PromptFeatures>();
  #tokenizer: Promise<Tokenizer> | undefined;
  #encoder: T5Encoder | undefined;

  /** Nothing is loaded at first. `folder` holds the tokenizer. */
  constructor(weights: T5Weights, folder: string, runtime: Runtime, options: PromptsOptions = {}) {
    this.#weights = weights;
    this.#folder = folder;
    this.#runtime = runtime;
    this.#options = options;
  }

  /** Tokens of a text, as many as the encoder takes. */
  async tokens(text: string): Promise<number> {
    return (await this.#loaded()).encode(text).ids.length;
  }

  /** Makes features of the texts that are not at hand. */
  async encode(texts: readonly string[], signal?: AbortSignal): Promise<void> {
    const missing = texts.filter((text) => !this.#known.has(text));
    if (missing.length > 0) {
      const { residency, half, stays } = this.#options;
      const encoder = this.#encoder ??= T5Encoder.open(this.#weights, this.#runtime, residency, half);
      try {
        for (const text of missing) {
          const { ids, truncated } = (await this.#loaded()).encode(text);
          const features = await encoder.encode(ids, signal);
          this.#known.set(text, { tokens: ids.length, truncated, features });
        }
      } finally {
        if (!stays) this[Symbol.dispose]();
      }
    }
    // Prompts of a long session come and go; the last few are what seeds are tried on.
    for (const text of [...this.#known.keys()].slice(0, -KEPT_PROMPTS)) {
      if (!texts.includes(text)) this.#known.delete(text);
    }
  }

  /** What a text that was encoded last comes to. */
  of(text: string): PromptFeatures {
    return this.#known.get(text)!;
  }

  /** Frees the encoder; it is loaded again when it is next needed. */
  [Symbol.dispose](): void {
    this.#encoder?.[Symbol.dispose]();
    this.#encoder = undefined;
  }

  #loaded(): Promise<Tokenizer> {
    return this.#tokenizer ??= loadTokenizer(this.#folder);
  }
}
