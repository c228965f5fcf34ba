/** Definitions of the operators of a text. */
import type { TextOp } from "../src/runtime/cuda_text_computes.ts";
import type { OpContext } from "../src/runtime/custom_ops.ts";
import type { FusedComputes } from "../src/runtime/fused_ops.ts";
import { Tensors } from "./fused_reference_tensors.ts";

function rootNorm(
  name: TextOp,
  context: OpContext,
  { product, peak, weight }: { product?: number; peak?: number; weight?: number },
): void {
  const t = new Tensors(name, context);
  const [T, C] = t.dims(0) as [number, number];
  const sum = Float64Array.from(
    t.in(0),
    (x, i) =>
      x + (product === undefined ? 0 : t.in(product)[i]! * (peak === undefined ? 1 : t.in(peak)[Math.floor(i / C)]!)),
  );
  if (product !== undefined) t.out(0, [T, C]).set(sum);
  if (weight === undefined) return;
  const y = t.out(product === undefined ? 0 : 1, [T, C]);
  for (let row = 0; row < T; row++) {
    const own = sum.subarray(row * C, (row + 1) * C);
    const square = own.reduce((total, value) => total + value ** 2, 0) / C;
    own.forEach((value, c) =>
      y[row * C + c] = value / Math.sqrt(square + context.attribute("epsilon_float")) * t.in(weight)[c]!
    );
  }
}

/** By its hyperbolic tangent. */
export function gelu(x: number): number {
  return x / 2 * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3)));
}

/** The definitions. */
export const TEXT_REFERENCE: Pick<FusedComputes, TextOp> = {
  RootNorm: (context) => rootNorm("RootNorm", context, { weight: 1 }),
  AddRootNorm: (context) => rootNorm("AddRootNorm", context, { product: 1, weight: 2 }),
  ScaledAddRootNorm: (context) => rootNorm("ScaledAddRootNorm", context, { product: 1, peak: 2, weight: 3 }),
  ScaledAdd: (context) => rootNorm("ScaledAdd", context, { product: 1, peak: 2 }),
  GatedGelu: (context) => {
    const t = new Tensors("GatedGelu", context);
    const [T, F] = t.dims(0) as [number, number];
    const product = Array.from(t.in(0), (gate, i) => gelu(gate) * t.in(1)[i]!);
    const peaks = Array.from(
      { length: T },
      (_, row) => product.slice(row * F, (row + 1) * F).reduce((most, value) => Math.max(most, Math.abs(value)), 1e-30),
    );
    t.out(1, [T]).set(peaks);
    const y = t.out(0, [T, F]);
    product.forEach((value, i) => y[i] = value / peaks[Math.floor(i / F)]!);
  },
  BiasedAttention: (context) => {
    const t = new Tensors("BiasedAttention", context);
    const [T, inner] = t.dims(0) as [number, number];
    const H = t.dims(3)[1]!, hd = inner / H;
    const [q, k, v, table] = [t.in(0), t.in(1), t.in(2), t.in(3)];
    const buckets = t.in(4) as unknown as BigInt64Array;
    const y = t.out(0, [T, inner]);
    const axis = Array.from({ length: hd }, (_, i) => i), tokens = Array.from({ length: T }, (_, i) => i);
    for (let h = 0; h < H; h++) {
      for (const i of tokens) {
        const scores = tokens.map((j) =>
          axis.reduce((sum, d) => sum + q[i * inner + h * hd + d]! * k[j * inner + h * hd + d]!, 0) +
          table[Number(buckets[i * T + j]) * H + h]!
        );
        const most = Math.max(...scores);
        const weights = scores.map((score) => Math.exp(score - most));
        const total = weights.reduce((sum, weight) => sum + weight);
        for (const d of axis) {
          y[i * inner + h * hd + d] = tokens.reduce((sum, j) => sum + weights[j]! * v[j * inner + h * hd + d]!, 0) /
            total;
        }
      }
    }
  },
  EnterText: (context) => {
    const t = new Tensors("EnterText", context);
    const [T, both] = t.dims(0) as [number, number];
    const C = both / 2;
    const [product, peak, bias, keys, values] = [t.in(0), t.in(1), t.in(2), t.out(0, [1, T, C]), t.out(1, [1, T, C])];
    for (let i = 0; i < T * C; i++) {
      const [row, c] = [Math.floor(i / C), i % C];
      keys[i] = product[row * both + c]! * peak[row]!;
      values[i] = product[row * both + C + c]! * peak[row]! + bias[c]!;
    }
  },
  Modulation: (context) => {
    const t = new Tensors("Modulation", context);
    const [shared, own] = [t.in(0), t.in(1)], C = shared.length / 6, y = t.out(0, [1, 6, C]);
    for (let i = 0; i < 6 * C; i++) {
      const vector = Math.floor(i / C);
      const sum = shared[i]! + own[i]!;
      y[i] = vector < 2 ? sum * context.attribute("headroom") : vector < 4 ? sum + 1 : sum;
    }
  },
};
