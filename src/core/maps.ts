/**
 * From logits to pixels: guidance, bits, codes and the running latent, resized from scale to scale.
 *
 * @module
 */
import * as wasm from "../../core_rs/pkg/core.js";
import { countValues, expectShape, expectSides } from "./checks.ts";
import { pack, type Stream } from "./streams.ts";

/** Adaptive average pooling, or torch's interpolation by two or four taps (align_corners=False, no antialias). */
export type ResizeKind = "area" | "linear" | "cubic";

const KINDS: Record<ResizeKind, wasm.ResizeKind> = {
  area: wasm.ResizeKind.Area,
  linear: wasm.ResizeKind.Linear,
  cubic: wasm.ResizeKind.Cubic,
};

/**
 * Token grid x [h*w, C] resized to [outH*outW, C].
 *
 * @example
 * ```ts
 * import { resizeTokens } from "@stagevar/stagevar/core.ts";
 * import assert from "node:assert/strict";
 * const x = Float32Array.of(0, 4); // 1 x 2 tokens of width 1
 * assert.deepEqual(resizeTokens(x, 1, 2, 1, 4, 1, "area"), Float32Array.of(0, 0, 4, 4));
 * assert.deepEqual(resizeTokens(x, 1, 2, 1, 4, 1, "linear"), Float32Array.of(0, 1, 3, 4));
 * ```
 *
 * @throws {RangeError} If `x` does not hold its shape or a size is out of range.
 */
export function resizeTokens(
  x: Float32Array,
  h: number,
  w: number,
  outH: number,
  outW: number,
  C: number,
  kind: ResizeKind,
): Float32Array {
  expectSides("resizeTokens", h, w, outH, outW);
  expectShape("resizeTokens", "x", x, [h, w, C]);
  countValues("resizeTokens", "result", [outH, outW, C]);
  return wasm.resize_tokens(x, h, w, outH, outW, KINDS[kind]);
}

/**
 * Map x [d, h, w] resized to [d, outH, outW], computed in float64 and rounded once.
 *
 * @example
 * ```ts
 * import { resizeMap } from "@stagevar/stagevar/core.ts";
 * import assert from "node:assert/strict";
 * assert.deepEqual(resizeMap(Float32Array.of(1, 2, 3, 6), 1, 2, 2, 1, 1, "area"), Float32Array.of(3));
 * ```
 *
 * @throws {RangeError} If `x` does not hold its shape or a size is out of range.
 */
export function resizeMap(
  x: Float32Array,
  d: number,
  h: number,
  w: number,
  outH: number,
  outW: number,
  kind: ResizeKind,
): Float32Array {
  expectSides("resizeMap", h, w, outH, outW);
  expectShape("resizeMap", "x", x, [d, h, w]);
  countValues("resizeMap", "result", [d, outH, outW]);
  return wasm.resize_map(x, h, w, outH, outW, KINDS[kind]);
}

/**
 * Guided, tempered logits (g * cond + (1 - g) * null) / tau, element by element (infinity.md §4.2).
 *
 * @example
 * ```ts
 * import { guide } from "@stagevar/stagevar/core.ts";
 * import assert from "node:assert/strict";
 * assert.deepEqual(guide(Float32Array.of(2), Float32Array.of(1), 3, 0.5), Float32Array.of(8));
 * ```
 *
 * @throws {RangeError} If the lengths differ or `tau` is not positive.
 */
export function guide(cond: Float32Array, nul: Float32Array, guidance: number, tau: number): Float32Array {
  expectShape("guide", "nul", nul, [cond.length]);
  if (!(tau > 0)) throw new RangeError(`Cannot call guide(): "tau" is ${tau}, wanted a positive number`);
  // One pass over memory: in wasm the copies would cost more than the arithmetic.
  return cond.map((logit, i) => (guidance * logit + (1 - guidance) * nul[i]!) / tau);
}

/**
 * Bits [n] from logit differences z [n] (1 over 0), with top-p on two classes in closed form (infinity.md §4.3).
 *
 * Where |z| >= ln(p / (1 - p)) the bit is the sign; elsewhere it is 1 with probability sigmoid(z), decided by position i of
 * the stream. `topP` 0 filters nothing, as in the official code; any value in (0, 0.5] is greedy.
 *
 * @example
 * ```ts
 * import { sampleBits } from "@stagevar/stagevar/core.ts";
 * import assert from "node:assert/strict";
 * const z = Float32Array.of(-4, 4); // both beyond ln(0.97 / 0.03) = 3.476
 * assert.deepEqual(sampleBits({ seed: 1, purpose: "bits" }, z, 0.97), Uint8Array.of(0, 1));
 * ```
 *
 * @throws {RangeError} If a logit is NaN, `topP` is not in 0..1, or a field of the stream is out of range.
 */
export function sampleBits(stream: Stream, z: Float32Array, topP: number): Uint8Array {
  expectShape("sampleBits", "z", z, [z.length]);
  if (!(topP >= 0 && topP <= 1)) {
    throw new RangeError(`Cannot call sampleBits(): "topP" is ${topP}, wanted a number in 0..1`);
  }
  const bits = wasm.sample_bits(pack("sampleBits", stream), z, topP);
  if (bits === undefined) throw new RangeError(`Cannot call sampleBits(): "z[${z.findIndex(Number.isNaN)}]" is NaN`);
  return bits;
}

/** Latent cells along a side of a token. */
function cellsPerToken(patchify: boolean): number {
  return patchify ? 2 : 1;
}

/**
 * The running latent [d, H, W] plus the codes of one scale, two-tap resized to it (infinity.md §5.2-5.4).
 *
 * `bits` [h*w, d_tok] are the scale's, 0 or 1; code = (2*bit - 1) / sqrt(d). With `patchify` a token covers 2 x 2 latent cells
 * and d_tok = 4*d in pixel-shuffle order, else d_tok = d. A token whose `mask` [h*w] is 0 adds no code. Returns a new array.
 *
 * @example
 * ```ts
 * import { addCodes } from "@stagevar/stagevar/core.ts";
 * import assert from "node:assert/strict";
 * const latent = addCodes(new Float32Array(4), Uint8Array.of(1), 1, 1, 2, 2, 1, false);
 * assert.deepEqual(latent, Float32Array.of(1, 1, 1, 1));
 * ```
 *
 * @throws {RangeError} If an array does not hold its shape.
 */
export function addCodes(
  latent: Float32Array,
  bits: Uint8Array,
  h: number,
  w: number,
  H: number,
  W: number,
  d: number,
  patchify: boolean,
  mask?: Uint8Array,
): Float32Array {
  expectSides("addCodes", h, w, H, W);
  expectShape("addCodes", "latent", latent, [d, H, W]);
  expectShape("addCodes", "bits", bits, [h, w, d * cellsPerToken(patchify) ** 2]);
  if (mask !== undefined) expectShape("addCodes", "mask", mask, [h, w]);
  return wasm.add_codes(latent, bits, mask, h, w, H, W, patchify);
}

/**
 * Input tokens [h*w, d_tok] of the scale with token grid h x w: the latent [d, H, W], two-tap resized to its cells
 * (infinity.md §5.4; d_tok and `patchify` as in `addCodes()`).
 *
 * @example
 * ```ts
 * import { nextInput } from "@stagevar/stagevar/core.ts";
 * import assert from "node:assert/strict";
 * const latent = Float32Array.of(1, 2, 3, 4); // d = 1, 2 x 2 cells: one token when patchified
 * assert.deepEqual(nextInput(latent, 1, 2, 2, 1, 1, true), latent);
 * assert.deepEqual(nextInput(latent, 1, 2, 2, 1, 1, false), Float32Array.of(2.5));
 * ```
 *
 * @throws {RangeError} If the latent does not hold its shape or a size is out of range.
 */
export function nextInput(
  latent: Float32Array,
  d: number,
  H: number,
  W: number,
  h: number,
  w: number,
  patchify: boolean,
): Float32Array {
  expectSides("nextInput", H, W, h, w);
  expectShape("nextInput", "latent", latent, [d, H, W]);
  countValues("nextInput", "result", [h, w, d * cellsPerToken(patchify) ** 2]);
  return wasm.next_input(latent, H, W, h, w, patchify);
}

/**
 * Pixels [H, W, 3] of rgb [3, H, W]: clamped to [-1, 1], mapped to 0..255 and truncated (infinity.md §6.3); NaN becomes 0.
 *
 * @example
 * ```ts
 * import { toUint8 } from "@stagevar/stagevar/core.ts";
 * import assert from "node:assert/strict";
 * assert.deepEqual(toUint8(Float32Array.of(-1, 0, 7), 1, 1), Uint8Array.of(0, 127, 255));
 * ```
 *
 * @throws {RangeError} If `rgb` does not hold its shape.
 */
export function toUint8(rgb: Float32Array, H: number, W: number): Uint8Array {
  expectShape("toUint8", "rgb", rgb, [3, H, W]);
  const pixels = new Uint8Array(3 * H * W);
  for (let channel = 0, from = 0; channel < 3; channel++) {
    for (let to = channel; to < pixels.length; to += 3) {
      pixels[to] = (Math.min(Math.max(rgb[from++]!, -1), 1) + 1) * 127.5;
    }
  }
  return pixels;
}
