/**
 * What queues the fused operators (fused_ops.ts) on a CUDA device: shapes, addresses and the sizes of launches. The kernels are
 * core_cuda's.
 *
 * @module
 */
import type { CudaKernels } from "./cuda_kernels.ts";
import { loopComputes, type LoopOp } from "./cuda_loop_computes.ts";
import { NONE, rowwise, size, spread } from "./cuda_launch.ts";
import { textComputes, type TextOp } from "./cuda_text_computes.ts";
import type { OpContext } from "./custom_ops.ts";
import { type FusedComputes, GROUP_EPSILON, LAYER_EPSILON } from "./fused_ops.ts";

/** Most blocks that sum a map's moments: eight for each multiprocessor of a large device. */
const MOST_SUMS = 1056;

/** What queues all operators. */
export function cudaComputes(kernels: CudaKernels): FusedComputes {
  return { ...blockComputes(kernels), ...textComputes(kernels), ...loopComputes(kernels) };
}

/** Those of transformer blocks and of the decoder. */
function blockComputes(kernels: CudaKernels): Omit<FusedComputes, TextOp | LoopOp> {
  const FLOAT = 4;

  const addNorm = (context: OpContext, inputs: {
    readonly gated: boolean;
    readonly product: boolean;
    readonly norm?: { readonly scale: number; readonly shift: number; readonly stride: number };
    readonly keep: boolean;
  }): void => {
    const x = context.input(0);
    const [R, L, C] = x.dims as [number, number, number];
    const at = (index: number): number => context.input(index).address;
    const vector = (number: number): number => number * C * FLOAT;
    const sum = inputs.keep ? context.output(0, x.dims).address : NONE;
    const normed = inputs.norm ? context.output(inputs.keep ? 1 : 0, [R * L, C]).address : NONE;
    if (R * L === 0) return;
    kernels.launch("add_norm", rowwise(R * L, C), [
      x.address,
      ...inputs.product ? [at(1), at(2)] : [NONE, NONE],
      inputs.gated ? context.attribute("headroom") : 1,
      inputs.gated ? at(3) + vector(context.attribute("gate")) : NONE,
      inputs.norm?.scale ?? NONE,
      inputs.norm?.shift ?? NONE,
      ...[6 * C, inputs.norm?.stride ?? 0, L, C / 4, LAYER_EPSILON, sum, normed],
    ]);
  };
  /** Scale and shift of a norm, rows of a modulation. */
  const modulated = (context: OpContext, index: number): { scale: number; shift: number; stride: number } => {
    const { address, dims } = context.input(index);
    const vector = (name: string): number => address + context.attribute(name) * dims[2]! * FLOAT;
    return { scale: vector("scale"), shift: vector("shift"), stride: 6 * dims[2]! };
  };

  const sumMoments = (
    context: OpContext,
    { other, x, weight, keep, quad }: { other?: number; x?: number; weight: number; keep: boolean; quad?: boolean },
  ): void => {
    const map = context.input(0);
    const at = (index: number | undefined): number => index === undefined ? NONE : context.input(index).address;
    const [, h, w, wide] = map.dims as [number, number, number, number];
    const dims = quad ? [1, 2 * h - 2, 2 * w - 2, wide / 4] : map.dims;
    const C = dims[3]!;
    const count = size(dims) / 4;
    const groups = context.attribute("groups");
    const blocks = Math.min(Math.ceil(count / 256), MOST_SUMS);
    const sum = keep ? context.output(0, dims).address : NONE;
    const moments = context.output(keep ? 1 : 0, [2, C]).address;
    const partials = context.output(keep ? 2 : 1, [(2 * blocks + 1) * C]).address;
    kernels.launch("sum_moments", { blocks, threads: 256, shared: 2 * 256 * 16 }, [
      ...[
        map.address,
        at(1),
        at(other),
        at(other && other + 1),
        at(x),
        C / 4,
        quad ? dims[2]! : 0,
        count,
        sum,
        partials,
      ],
    ]);
    kernels.launch("merge_moments", { blocks: groups, threads: 256 }, [
      ...[partials, at(weight), blocks, C, C / groups, size(dims) / C, GROUP_EPSILON, moments],
    ]);
  };
  const swish = (context: OpContext, map: boolean): void => {
    const x = context.input(0);
    const [moments, shift] = map ? [2, 3] as const : [1, 2] as const;
    const count = size(x.dims) / 4;
    kernels.launch("norm_swish", spread(count), [
      ...map ? [x.address, context.input(1).address, NONE] : [NONE, NONE, x.address],
      ...[context.input(moments).address, context.input(shift).address, x.dims[3]! / 4, count],
      context.output(0, x.dims).address,
    ]);
  };

  return {
    ModulatedNorm: (context) =>
      addNorm(context, { gated: false, product: false, norm: modulated(context, 1), keep: false }),
    GatedAddNorm: (context) => {
      const norm = { scale: context.input(4).address, shift: context.input(5).address, stride: 0 };
      addNorm(context, { gated: true, product: true, norm, keep: true });
    },
    AddModulatedNorm: (context) =>
      addNorm(context, { gated: false, product: true, norm: modulated(context, 3), keep: true }),
    GatedAddModulatedNorm: (context) =>
      addNorm(context, { gated: true, product: true, norm: modulated(context, 4), keep: true }),
    GatedAdd: (context) => addNorm(context, { gated: true, product: true, keep: true }),
    EnterCache: (context) => {
      const at = (index: number): number => context.input(index).address;
      const [R, H, P, hd] = context.input(7).dims as [number, number, number, number];
      const L = context.input(0).dims[0]! / R;
      const [query, keys, values] = [
        context.output(0, [R, L, H * hd]),
        context.output(1, [R, H, P + L, hd]),
        context.output(2, [R, H, P + L, hd]),
      ];
      const positions = context.input(4);
      const threads = 32 * H;
      const copies = Math.min(Math.ceil(R * H * P * hd / 8 / threads), 1 << 12); // 16 bytes a thread
      kernels.launch("enter_cache", { blocks: R * L + copies, threads }, [
        ...[
          at(0),
          at(1),
          at(2),
          at(3),
          positions.address,
          Number(size(positions.dims) === 1),
          at(5),
          at(6),
          at(7),
          at(8),
        ],
        ...[R, L, H, hd / 2, P, query.address, keys.address, values.address],
      ]);
    },
    AddBias: (context) => {
      const x = context.input(0);
      const count = size(x.dims) / 2;
      const y = context.output(0, x.dims).address;
      kernels.launch("add_bias", spread(count), [x.address, context.input(1).address, x.dims.at(-1)! / 2, count, y]);
    },
    BiasGelu: (context) => {
      const x = context.input(0);
      const count = size(x.dims) / 4;
      const y = context.output(0, x.dims).address;
      kernels.launch("bias_gelu", spread(count), [x.address, context.input(1).address, x.dims.at(-1)! / 4, count, y]);
    },
    MapMoments: (context) => sumMoments(context, { weight: 2, keep: false }),
    BiasMoments: (context) => sumMoments(context, { weight: 2, keep: true }),
    SumMoments: (context) => sumMoments(context, { x: 2, weight: 3, keep: true }),
    MapsMoments: (context) => sumMoments(context, { other: 2, weight: 4, keep: true }),
    MapNormSwish: (context) => swish(context, true),
    NormSwish: (context) => swish(context, false),
    QuadMoments: (context) => sumMoments(context, { weight: 2, keep: true, quad: true }),
    SumHalf: (context) => {
      const map = context.input(0);
      const count = size(map.dims) / 4;
      const y = context.output(0, map.dims).address;
      kernels.launch("sum_half", spread(count), [
        ...[map.address, context.input(1).address, context.input(2).address, map.dims[3]! / 4, count, y],
      ]);
    },
  };
}
