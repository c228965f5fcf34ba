/**
 * What queues the operators of a text on a CUDA device (core_cuda/text.cu).
 *
 * @module
 */
import type { CudaKernels } from "./cuda_kernels.ts";
import { NONE, rowwise, size, spread } from "./cuda_launch.ts";
import type { OpContext } from "./custom_ops.ts";
import type { FusedComputes } from "./fused_ops.ts";

/** Operators of a text. */
export type TextOp =
  | "RootNorm"
  | "AddRootNorm"
  | "ScaledAddRootNorm"
  | "ScaledAdd"
  | "GatedGelu"
  | "BiasedAttention"
  | "EnterText"
  | "Modulation";

/** Queries of a head that a block of biased_attention takes. */
const QUERIES = 8;

/** What queues them. */
export function textComputes(kernels: CudaKernels): Pick<FusedComputes, TextOp> {
  const rootNorm = (
    context: OpContext,
    { product, peak, weight }: { product?: number; peak?: number; weight?: number },
  ): void => {
    const x = context.input(0);
    const [T, C] = x.dims as [number, number];
    const at = (index: number | undefined): number => index === undefined ? NONE : context.input(index).address;
    const sum = product === undefined ? NONE : context.output(0, x.dims).address;
    const normed = weight === undefined ? NONE : context.output(product === undefined ? 0 : 1, x.dims).address;
    kernels.launch("add_root_norm", rowwise(T, C), [
      ...[x.address, at(product), at(peak), at(weight), C / 4],
      ...[weight === undefined ? 0 : context.attribute("epsilon_float"), sum, normed],
    ]);
  };
  return {
    RootNorm: (context) => rootNorm(context, { weight: 1 }),
    AddRootNorm: (context) => rootNorm(context, { product: 1, weight: 2 }),
    ScaledAddRootNorm: (context) => rootNorm(context, { product: 1, peak: 2, weight: 3 }),
    ScaledAdd: (context) => rootNorm(context, { product: 1, peak: 2 }),
    GatedGelu: (context) => {
      const gate = context.input(0);
      const [T, F] = gate.dims as [number, number];
      const [y, peak] = [context.output(0, gate.dims), context.output(1, [T])];
      kernels.launch("gated_gelu", { blocks: T, threads: 256 }, [
        ...[gate.address, context.input(1).address, F / 2, y.address, peak.address],
      ]);
    },
    BiasedAttention: (context) => {
      const at = (index: number): number => context.input(index).address;
      const { dims } = context.input(0);
      const [T, inner] = dims as [number, number];
      const H = context.input(3).dims[1]!;
      kernels.launch("biased_attention", { blocks: H * Math.ceil(T / QUERIES), threads: 256 }, [
        ...[at(0), at(1), at(2), at(3), at(4), T, H, inner / H / 2, context.output(0, dims).address],
      ]);
    },
    EnterText: (context) => {
      const product = context.input(0);
      const [T, both] = product.dims as [number, number];
      const [C, count] = [both / 2, T * both / 4];
      const [keys, values] = [context.output(0, [1, T, C]), context.output(1, [1, T, C])];
      kernels.launch("enter_text", spread(count), [
        ...[product.address, context.input(1).address, context.input(2).address, C / 2, count],
        ...[keys.address, values.address],
      ]);
    },
    Modulation: (context) => {
      const shared = context.input(0);
      const C = size(shared.dims) / 6;
      kernels.launch("modulate", spread(6 * C), [
        ...[shared.address, context.input(1).address, context.attribute("headroom"), C],
        context.output(0, [1, 6, C]).address,
      ]);
    },
  };
}
