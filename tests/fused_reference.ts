/** What the fused operators compute, by their definitions, in float64 over host memory: a reference, and their stand-in on the CPU. */
import { LOOP_REFERENCE } from "./fused_reference_loop.ts";
import { gelu, TEXT_REFERENCE } from "./fused_reference_text.ts";
import { Tensors } from "./fused_reference_tensors.ts";
import type { OpContext } from "../src/runtime/custom_ops.ts";
import { type FusedComputes, type FusedOpName, GROUP_EPSILON, LAYER_EPSILON } from "../src/runtime/fused_ops.ts";

function norms(
  name: FusedOpName,
  context: OpContext,
  { gate, add, norm }: { gate?: boolean; add?: boolean; norm?: "affine" | number },
): void {
  const t = new Tensors(name, context);
  const [R, L, C] = t.dims(0) as [number, number, number];
  const sum = Float64Array.from(t.in(0));
  if (add) {
    const [product, bias] = [t.in(1), t.in(2)];
    const headroom = gate ? context.attribute("headroom") : 1;
    const gates = gate ? t.in(3).subarray() : undefined;
    for (let i = 0; i < sum.length; i++) {
      const [row, c] = [Math.floor(i / C / L), i % C];
      const factor = gates ? gates[(row * 6 + context.attribute("gate")) * C + c]! : 1;
      sum[i]! += factor * (product[i]! + bias[c]! / headroom);
    }
    t.out(0, [R, L, C]).set(sum);
  }
  if (norm === undefined) return;
  const y = t.out(add ? 1 : 0, [R * L, C]);
  for (let m = 0; m < R * L; m++) {
    const row = sum.subarray(m * C, (m + 1) * C);
    const mean = row.reduce((a, b) => a + b, 0) / C;
    const variance = row.reduce((a, b) => a + (b - mean) ** 2, 0) / C;
    for (let c = 0; c < C; c++) {
      const of = (input: number, vector: string): number =>
        t.in(input)[(Math.floor(m / L) * 6 + context.attribute(vector)) * C + c]!;
      const [scale, shift] = norm === "affine" ? [t.in(4)[c]!, t.in(5)[c]!] : [of(norm, "scale"), of(norm, "shift")];
      y[m * C + c] = (row[c]! - mean) / Math.sqrt(variance + LAYER_EPSILON) * scale + shift;
    }
  }
}

function enterCache(context: OpContext): void {
  const t = new Tensors("EnterCache", context);
  const [R, H, P, hd] = t.dims(7) as [number, number, number, number];
  const L = t.dims(0)[0]! / R, C = H * hd;
  const [qkv, qBias, vBias, temperature, positions, cos, sin, pastK, pastV] = Array.from(
    { length: 9 },
    (_, i) => t.in(i),
  );
  const q = t.out(0, [R, L, C]), k = t.out(1, [R, H, P + L, hd]), v = t.out(2, [R, H, P + L, hd]);
  const places = positions as unknown as BigInt64Array;
  for (let r = 0; r < R; r++) {
    for (let h = 0; h < H; h++) {
      const head = (r * H + h) * (P + L) * hd;
      k.set(pastK!.subarray((r * H + h) * P * hd, (r * H + h + 1) * P * hd), head);
      v.set(pastV!.subarray((r * H + h) * P * hd, (r * H + h + 1) * P * hd), head);
      for (let l = 0; l < L; l++) {
        const at = (third: number, i: number): number => qkv![(r * L + l) * 3 * C + third * C + h * hd + i]!;
        const place = places.length === 1 ? Number(places[0]) + l : Number(places[r * L + l]);
        const turned = (third: number, scale: number, to: Float32Array, start: number): void => {
          const values = Array.from({ length: hd }, (_, i) => at(third, i) + (third === 0 ? qBias![h * hd + i]! : 0));
          const length = Math.max(Math.hypot(...values), 1e-12);
          for (let pair = 0; pair < hd / 2; pair++) {
            const [a, b] = [values[2 * pair]!, values[2 * pair + 1]!];
            const [c, s] = [cos![place * hd / 2 + pair]!, sin![place * hd / 2 + pair]!];
            to[start + 2 * pair] = (a * c - b * s) * scale / length;
            to[start + 2 * pair + 1] = (a * s + b * c) * scale / length;
          }
        };
        turned(0, temperature![h]!, q, (r * L + l) * C + h * hd);
        turned(1, 1, k, head + (P + l) * hd);
        for (let i = 0; i < hd; i++) v[head + (P + l) * hd + i] = at(2, i) + vBias![h * hd + i]!;
      }
    }
  }
}

/** Where a value of a map of so many channels and such a width lies in one of its four kinds of pixels. */
function quadPlace(i: number, width: number, C: number): number {
  const [row, column, c] = [Math.floor(i / C / width), Math.floor(i / C) % width, i % C];
  const [oddRow, oddColumn] = [row % 2, column % 2];
  const cell = ((row + oddRow) / 2) * (width / 2 + 1) + (column + oddColumn) / 2;
  return (cell * 4 + oddRow * 2 + oddColumn) * C + c;
}

function moments(
  name: FusedOpName,
  context: OpContext,
  { other, x, weight, keep, quad }: { other?: number; x?: number; weight: number; keep: boolean; quad?: boolean },
): void {
  const t = new Tensors(name, context);
  const own = t.dims(0) as [number, number, number, number];
  const dims = quad ? [1, 2 * own[1] - 2, 2 * own[2] - 2, own[3] / 4] : own;
  const C = dims[3]!, groups = context.attribute("groups"), width = C / groups;
  const [map, bias] = [t.in(0), t.in(1)] as const;
  const sum = Float64Array.from({ length: dims.reduce((a, b) => a * b) }, (_, i) => {
    let total = map[quad ? quadPlace(i, dims[2]!, C) : i]! + bias[i % C]!;
    if (other !== undefined) total += t.in(other)[i]! + t.in(other + 1)[i % C]!;
    if (x !== undefined) total += t.in(x)[i]!;
    return total;
  });
  if (keep) t.out(0, dims).set(sum);
  const result = t.out(keep ? 1 : 0, [2, C]);
  t.out(keep ? 2 : 1, [1]);
  for (let g = 0; g < groups; g++) {
    const own = sum.filter((_, i) => Math.floor(i % C / width) === g);
    const mean = own.reduce((a, b) => a + b, 0) / own.length;
    const variance = own.reduce((a, b) => a + (b - mean) ** 2, 0) / own.length;
    for (let c = g * width; c < (g + 1) * width; c++) {
      result[c] = mean;
      result[C + c] = t.in(weight)[c]! / Math.sqrt(variance + GROUP_EPSILON);
    }
  }
}

function swish(name: FusedOpName, context: OpContext, map: boolean): void {
  const t = new Tensors(name, context);
  const dims = t.dims(0), C = dims[3]!;
  const bias = map ? t.in(1) : undefined;
  const [mean, shift] = map ? [t.in(2), t.in(3)] : [t.in(1), t.in(2)];
  const y = t.out(0, dims);
  t.in(0).forEach((value, i) => {
    const c = i % C;
    const z = (value + (bias ? bias[c]! : 0) - mean[c]!) * mean[C + c]! + shift[c]!;
    y[i] = z / (1 + Math.exp(-z));
  });
}

/** The definitions. */
export const REFERENCE: FusedComputes = {
  ...TEXT_REFERENCE,
  ...LOOP_REFERENCE,
  ModulatedNorm: (context) => norms("ModulatedNorm", context, { norm: 1 }),
  GatedAddNorm: (context) => norms("GatedAddNorm", context, { gate: true, add: true, norm: "affine" }),
  AddModulatedNorm: (context) => norms("AddModulatedNorm", context, { add: true, norm: 3 }),
  GatedAddModulatedNorm: (context) => norms("GatedAddModulatedNorm", context, { gate: true, add: true, norm: 4 }),
  GatedAdd: (context) => norms("GatedAdd", context, { gate: true, add: true }),
  EnterCache: enterCache,
  AddBias: (context) => {
    const t = new Tensors("AddBias", context);
    const C = t.dims(0).at(-1)!;
    const [bias, y] = [t.in(1), t.out(0, t.dims(0))];
    t.in(0).forEach((value, i) => y[i] = value + bias[i % C]!);
  },
  BiasGelu: (context) => {
    const t = new Tensors("BiasGelu", context);
    const F = t.dims(0).at(-1)!;
    const [bias, y] = [t.in(1), t.out(0, t.dims(0))];
    t.in(0).forEach((value, i) => y[i] = gelu(value + bias[i % F]!));
  },
  MapMoments: (context) => moments("MapMoments", context, { weight: 2, keep: false }),
  BiasMoments: (context) => moments("BiasMoments", context, { weight: 2, keep: true }),
  SumMoments: (context) => moments("SumMoments", context, { x: 2, weight: 3, keep: true }),
  MapsMoments: (context) => moments("MapsMoments", context, { other: 2, weight: 4, keep: true }),
  MapNormSwish: (context) => swish("MapNormSwish", context, true),
  NormSwish: (context) => swish("NormSwish", context, false),
  QuadMoments: (context) => moments("QuadMoments", context, { weight: 2, keep: true, quad: true }),
  SumHalf: (context) => {
    const t = new Tensors("SumHalf", context);
    const [map, bias, x, y] = [t.in(0), t.in(1), t.in(2), t.out(0, t.dims(0))];
    map.forEach((value, i) => y[i] = value + bias[i % bias.length]! + x[i]!);
  },
};
