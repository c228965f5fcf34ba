/** Definitions of the operators of the scale loop: the core's own random words, by the core's own formulas. */
import * as wasm from "../core_rs/pkg/core.js";
import { resizeTokens } from "../src/core.ts";
import type { LoopOp } from "../src/runtime/cuda_loop_computes.ts";
import type { OpContext } from "../src/runtime/custom_ops.ts";
import type { FusedComputes } from "../src/runtime/fused_ops.ts";
import { Tensors } from "./fused_reference_tensors.ts";

/** The stream of an image, as the core wants it. */
function words(streams: ArrayLike<number>, image: number): Uint32Array {
  return Uint32Array.from({ length: 5 }, (_, i) => streams[image * 5 + i]! >>> 0);
}

function codes(name: "Codes" | "ChosenCodes", context: OpContext): void {
  const t = new Tensors(name, context);
  const [B, L, bits] = t.dims(0) as [number, number, number];
  const [h, w, cell] = [context.attribute("height"), context.attribute("width"), context.attribute("cell")];
  const d = bits / cell ** 2;
  const chosen = name === "ChosenCodes" ? t.in(3) as unknown as BigInt64Array : undefined;
  const y = t.out(0, [B, d, h * cell, w * cell]);
  for (let image = 0; image < B; image++) {
    const uniforms = wasm.uniforms(words(t.in(1), image), L * bits, 0);
    const r = chosen ? chosen.length / B : 0;
    const own = chosen && new Set(Array.from(chosen.subarray(image * r, (image + 1) * r), Number));
    for (let token = 0; token < L; token++) {
      for (let bit = 0; bit < bits; bit++) {
        const z = t.in(0)[(image * L + token) * bits + bit]!;
        const one = Math.abs(z) >= t.in(2)[0]! ? z > 0 : uniforms[token * bits + bit]! < 1 / (1 + Math.exp(-z));
        const [c, dy, dx] = [Math.floor(bit / cell ** 2), Math.floor(bit / cell) % cell, bit % cell];
        const [row, column] = [Math.floor(token / w) * cell + dy, token % w * cell + dx];
        const code = own && !own.has(token) ? 0 : (one ? 1 : -1) / Math.sqrt(d);
        y[((image * d + c) * h * cell + row) * w * cell + column] = code;
      }
    }
  }
}

function restored(name: "UpsampleRows" | "RestoreRows", context: OpContext): void {
  const t = new Tensors(name, context);
  const [B, , C] = t.dims(0) as [number, number, number];
  const [h, w, height, width] = ["h", "w", "height", "width"].map((key) => context.attribute(key)) as [
    number,
    number,
    number,
    number,
  ];
  const z = t.out(0, [B, height * width, C]);
  for (let image = 0; image < B; image++) {
    const cached = Float32Array.from(t.in(0).subarray(image * h * w * C, (image + 1) * h * w * C));
    z.set(resizeTokens(cached, h, w, height, width, C, "area"), image * height * width * C);
    if (name === "UpsampleRows") continue;
    const y = t.in(1), chosen = t.in(2) as unknown as BigInt64Array, r = chosen.length / B;
    for (let j = 0; j < r; j++) {
      const place = image * height * width + Number(chosen[image * r + j]);
      z.set(y.subarray((image * r + j) * C, (image * r + j + 1) * C), place * C);
    }
  }
}

/** The definitions. */
export const LOOP_REFERENCE: Pick<FusedComputes, LoopOp> = {
  Projection: (context) => {
    const t = new Tensors("Projection", context);
    const [B, M] = t.dims(0) as [number, number], r = t.dims(1)[1]!;
    const q = t.out(0, [B, r, M]);
    for (let image = 0; image < B; image++) {
      const entries = wasm.projection(words(t.in(2), image), context.attribute("sign") === 1, M, r);
      entries.forEach((entry, i) => q[(image * r + i % r) * M + Math.floor(i / r)] = entry);
    }
  },
  RowKeys: (context) => {
    const t = new Tensors("RowKeys", context);
    const [B, M, C] = t.dims(0) as [number, number, number];
    const keys = t.out(0, [B, M]);
    for (let image = 0; image < B; image++) {
      const noise = wasm.gumbels(words(t.in(1), image), M, 0);
      for (let row = 0; row < M; row++) {
        const own = t.in(0).subarray((image * M + row) * C, (image * M + row + 1) * C);
        const energy = own.reduce((sum, value) => sum + value ** 2, 0);
        keys[image * M + row] = (energy > 0 ? Math.log(energy) : -1e4) + noise[row]!;
      }
    }
  },
  Codes: (context) => codes("Codes", context),
  ChosenCodes: (context) => codes("ChosenCodes", context),
  UpsampleRows: (context) => restored("UpsampleRows", context),
  RestoreRows: (context) => restored("RestoreRows", context),
};
