/**
 * The prompts of an engine: their tokens, and their features, which the last few keep.
 *
 * @module
 */
import type { Tokenizer } from "./tokenizer.ts";

/** Prompts whose features are kept. */
const KEPT_PROMPTS = 16;

/** What a prompt comes to. */
export interface PromptFeatures {
  /** Its tokens. */
  readonly tokens: number;
  /** Their ids, [tokens]. */
  readonly ids: readonly number[];
  /** Whether it had more than the encoder takes. */
  readonly truncated: boolean;
  /** Features [tokens, Dt]. */
  readonly features: Float32Array;
}

/** A text encoder that is loaded, or loads itself when it is first used. */
export interface TextEncoder extends Disposable {
  /** Features [T, Dt] of token ids [T]. */
  encode(ids: readonly number[], signal?: AbortSignal): Promise<Float32Array>;
}

/** Where the tokens and features of prompts come from. */
export interface PromptsSource {
  /** Reads the tokenizer. */
  tokenizer(): Promise<Tokenizer>;
  /** Opens the encoder. */
  encoder(): TextEncoder;
  /** Whether it stays loaded after its last prompt: large, but quicker than loading it again. */
  readonly stays?: boolean;
}

/**
 * Encodes prompts, each once while it is among the last few.
 *
 * @example
 * ```ts
 * import { openNative } from "@stagevar/stagevar/runtime/native.ts";
 * import { Prompts } from "@stagevar/stagevar/text/prompts.ts";
 * import { readT5Weights, T5Encoder } from "@stagevar/stagevar/text/t5_encoder.ts";
 * import { loadTokenizer } from "@stagevar/stagevar/text/tokenizer.ts";
 * import assert from "node:assert/strict";
 * const folder = "tests/golden/models/mini-t5";
 * const weights = await readT5Weights(folder);
 * using runtime = openNative();
 * using prompts = new Prompts({
 *   tokenizer: () => loadTokenizer(folder),
 *   encoder: () => T5Encoder.open(weights, runtime),
 * });
 * await prompts.encode(["a red circle"]);
 * const { tokens, features } = prompts.of("a red circle");
 * assert.equal(features.length, tokens * 256);
 * ```
 */
export class Prompts implements Disposable {
  readonly #source: PromptsSource;
  readonly #known = new Map<string, PromptFeatures>();
  #tokenizer: Promise<Tokenizer> | undefined;
  #encoder: TextEncoder | undefined;

  /** Nothing is loaded at first. */
  constructor(source: PromptsSource) {
    this.#source = source;
  }

  /** Tokens of a text, as many as the encoder takes. */
  async tokens(text: string): Promise<Pick<PromptFeatures, "tokens" | "truncated">> {
    const { ids, truncated } = (await this.#loaded()).encode(text);
    return { tokens: ids.length, truncated };
  }

  /** Makes features of the texts that are not at hand. */
  async encode(texts: readonly string[], signal?: AbortSignal): Promise<void> {
    const missing = texts.filter((text) => !this.#known.has(text));
    if (missing.length > 0) {
      const encoder = this.#encoder ??= this.#source.encoder();
      try {
        for (const text of missing) {
          const { ids, truncated } = (await this.#loaded()).encode(text);
          const features = await encoder.encode(ids, signal);
          this.#known.set(text, { tokens: ids.length, ids, truncated, features });
        }
      } finally {
        if (!this.#source.stays) this[Symbol.dispose]();
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
    return this.#tokenizer ??= this.#source.tokenizer();
  }
}
