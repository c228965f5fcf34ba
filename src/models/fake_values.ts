/**
 * Seeded normal values as the bytes of a tensor, fast enough to fill a disk.
 *
 * @module
 */
import { gaussians, uniforms } from "../core.ts";

/** A tensor of independent normal values. */
export interface FakeTensor {
  /** Checkpoint name. */
  readonly name: string;
  /** Extent of each axis. */
  readonly shape: readonly number[];
  /** Mean of the values. */
  readonly mean: number;
  /** Standard deviation of the values. */
  readonly std: number;
}

/** Element types that weights can be written in. */
export type FakeDType = "F32" | "BF16" | "F16";

/**
 * Normal values drawn once and used again, a tensor from its own seeded place: a draw costs twenty times a copy, and no
 * speed depends on the values. A prime, so that no two rows of a matrix begin at the same place of the table.
 */
const TABLE = 1_048_573;
const PIECE = 1 << 20; // elements

/**
 * The values of a whole model: the same for the same seed, whatever is read in between.
 *
 * @example
 * ```ts
 * import { FakeValues } from "@stagevar/stagevar/models/fake_values.ts";
 * import assert from "node:assert/strict";
 * const values = new FakeValues(7, "F32");
 * const bias = { name: "bias", shape: [1000], mean: 5, std: 0.1 };
 * const pieces = await Array.fromAsync(values.bytes(bias, 0), (piece) => piece.slice());
 * const floats = new Float32Array(pieces[0]!.buffer);
 * assert(floats.length === 1000 && floats.every((value) => Math.abs(value - 5) < 0.6));
 * ```
 */
export class FakeValues {
  readonly #seed: number;
  readonly #dtype: FakeDType;
  readonly #table: Float32Array;
  readonly #floats = new Float32Array(PIECE);
  readonly #halves = new Uint16Array(PIECE);

  /** Draws the table; `seed` is an integer in 0..2^53-1. */
  constructor(seed: number, dtype: FakeDType) {
    this.#seed = seed;
    this.#dtype = dtype;
    this.#table = gaussians({ seed, purpose: "weights" }, TABLE);
  }

  /**
   * Row-major elements of tensor number `index` of a model, in pieces of at most 4 MiB; a piece is overwritten by the next
   * one asked for.
   */
  async *bytes({ shape, mean, std }: FakeTensor, index: number): AsyncGenerator<Uint8Array> {
    const count = shape.reduce((product, extent) => product * extent, 1);
    const [place] = uniforms({ seed: this.#seed, purpose: "weights", chunk: 1 }, 1, index);
    let at = Math.floor(place! * TABLE);
    const [table, floats] = [this.#table, this.#floats];
    for (let done = 0; done < count; done += PIECE) {
      const length = Math.min(PIECE, count - done);
      for (let i = 0; i < length;) {
        const end = Math.min(length, i + TABLE - at);
        while (i < end) floats[i++] = table[at++]! * std + mean;
        if (at === TABLE) at = 0;
      }
      yield this.#packed(length);
    }
  }

  /** The first floats in the wanted type, rounded to nearest. */
  #packed(length: number): Uint8Array {
    if (this.#dtype === "F32") return new Uint8Array(this.#floats.buffer, 0, 4 * length);
    if (this.#dtype === "F16") new Float16Array(this.#halves.buffer).set(this.#floats.subarray(0, length));
    else {
      const bits = new Uint32Array(this.#floats.buffer, 0, length);
      // A bfloat16 is the upper half of a float32; ties go to even.
      for (let i = 0; i < length; i++) this.#halves[i] = (bits[i]! + 0x7fff + (bits[i]! >>> 16 & 1)) >>> 16;
    }
    return new Uint8Array(this.#halves.buffer, 0, 2 * length);
  }
}
