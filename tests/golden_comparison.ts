/** How far what was computed is from what a golden case stores. */
import { readTensor, type TensorSource } from "../src/checkpoint/source.ts";

/** Share of pixel values that may be off, by one level at most. */
export const PIXEL_SHARE = 1e-3;

/** Relative errors allowed. */
export interface Tolerances {
  /** Of features and logits. */
  readonly features: number;
  /** Of the running latent, which comes of stored tokens. */
  readonly latent: number;
}

/** Largest relative error of each kind of intermediate in one case. */
export interface CaseReport {
  name: string;
  /** Kind (text, input, chunk, reduced, logits, latent) -> norm of the difference over norm of the expected. */
  errors: Record<string, number>;
  /** Token ids of prompt and negative prompt equal. */
  tokensEqual: boolean;
  /** Largest difference of a pixel value, in levels. */
  pixelLevels: number;
  /** Share of pixel values that differ. */
  pixelShare: number;
  /** Stored tensors that were compared. */
  compared: number;
  passed: boolean;
}

/** Compares what a case stores with what was computed. */
export class Comparison {
  readonly #stored: TensorSource;
  readonly #tolerances: Tolerances;
  readonly #errors: Record<string, number> = {};
  readonly #pending: [string, Float32Array][] = [];
  #tokensEqual = true;
  #levels = 0;
  #share = 0;
  #compared = 0;

  constructor(stored: TensorSource, tolerances: Tolerances) {
    this.#stored = stored;
    this.#tolerances = tolerances;
  }

  tokens(found: readonly number[], wanted: readonly number[]): void {
    this.#tokensEqual &&= found.length === wanted.length && found.every((id, i) => id === wanted[i]);
  }

  async compare(key: string, found: Float32Array): Promise<void> {
    this.difference(key, found, await readTensor(this.#stored.get(key)));
  }

  difference(key: string, found: Float32Array, wanted: Float32Array): void {
    if (wanted.length !== found.length) throw new Error(`"${key}" has ${found.length} values, wanted ${wanted.length}`);
    let difference = 0, size = 0;
    found.forEach((value, i) => {
      difference += (value - wanted[i]!) ** 2;
      size += wanted[i]! ** 2;
    });
    const kind = key.replace(/^(negative|null|text)\..*/, "text").replace(/^scale\.\d+\./, "").replace(/\.\d+$/, "");
    const error = Math.sqrt(difference / size);
    this.#errors[kind] = Math.max(this.#errors[kind] ?? 0, Number.isNaN(error) ? Infinity : error);
    this.#compared++;
  }

  /** Copies what the loop will overwrite; tensors that the case does not store are passed over. */
  later(key: string, data: Float32Array): void {
    if (this.#stored.has(key)) this.#pending.push([key, data.slice()]);
  }

  async settle(): Promise<void> {
    for (const [key, data] of this.#pending.splice(0)) await this.compare(key, data);
  }

  picture(found: Uint8Array, wanted: Uint8Array): void {
    if (wanted.length !== found.length) throw new Error(`image has ${found.length} values, wanted ${wanted.length}`);
    let off = 0;
    found.forEach((value, i) => {
      const levels = Math.abs(value - wanted[i]!);
      this.#levels = Math.max(this.#levels, levels);
      if (levels > 0) off++;
    });
    this.#share = off / wanted.length;
  }

  finish(name: string): CaseReport {
    const within = Object.entries(this.#errors).every(([kind, error]) =>
      error <= (kind === "latent" || kind === "f_hat" ? this.#tolerances.latent : this.#tolerances.features)
    );
    return {
      name,
      errors: this.#errors,
      tokensEqual: this.#tokensEqual,
      pixelLevels: this.#levels,
      pixelShare: this.#share,
      compared: this.#compared,
      passed: within && this.#tokensEqual && this.#levels <= 1 && this.#share <= PIXEL_SHARE,
    };
  }
}
