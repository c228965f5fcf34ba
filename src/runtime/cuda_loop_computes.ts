/**
 * What queues the operators of the scale loop on a CUDA device (core_cuda/loop.cu).
 *
 * @module
 */
import type { CudaKernels } from "./cuda_kernels.ts";
import { NONE, size, spread } from "./cuda_launch.ts";
import type { OpContext } from "./custom_ops.ts";
import type { FusedComputes } from "./fused_ops.ts";

/** Operators of the scale loop. */
export type LoopOp = "Projection" | "RowKeys" | "Codes" | "ChosenCodes" | "UpsampleRows" | "RestoreRows";

/** What queues them. */
export function loopComputes(kernels: CudaKernels): Pick<FusedComputes, LoopOp> {
  const codes = (context: OpContext, masked: boolean): void => {
    const z = context.input(0);
    const [B, , bits] = z.dims as [number, number, number];
    const [height, width, cell] = (["height", "width", "cell"] as const).map((name) => context.attribute(name)) as [
      number,
      number,
      number,
    ];
    const d = bits / cell ** 2;
    const chosen = masked ? context.input(3) : { address: NONE, dims: [0, 0] };
    const count = size(z.dims);
    kernels.launch("draw_codes", spread(count), [
      ...[z.address, context.input(1).address, context.input(2).address, chosen.address, chosen.dims[1]!],
      ...[1 / Math.sqrt(d), height, width, bits, cell, count],
      context.output(0, [B, d, height * cell, width * cell]).address,
    ]);
  };
  const restore = (context: OpContext, fresh: boolean): void => {
    const cached = context.input(0);
    const [B, , C] = cached.dims as [number, number, number];
    const [h, w, height, width] = (["h", "w", "height", "width"] as const).map((name) => context.attribute(name)) as [
      number,
      number,
      number,
      number,
    ];
    const [y, chosen] = fresh ? [context.input(1).address, context.input(2)] : [NONE, { address: NONE, dims: [0, 0] }];
    kernels.launch("restore_rows", { blocks: B * height * width, threads: 256 }, [
      ...[cached.address, y, chosen.address, chosen.dims[1]!, h, w, height, width, C / 4],
      context.output(0, [B, height * width, C]).address,
    ]);
  };
  return {
    Projection: (context) => {
      const [B, M] = context.input(0).dims as [number, number];
      const r = context.input(1).dims[1]!;
      const sign = context.attribute("sign");
      const deviation = Math.sqrt((sign ? 3 : 1) / r); // of an entry (stagevar.md §3.3), of which two in six signs are not 0
      const q = context.output(0, [B, r, M]).address;
      kernels.launch("draw_projection", spread(B * Math.ceil(M * r / 4)), [
        ...[context.input(2).address, sign, deviation, M, r, B, q],
      ]);
    },
    RowKeys: (context) => {
      const x = context.input(0);
      const [B, M, C] = x.dims as [number, number, number];
      kernels.launch("row_keys", { blocks: B * M, threads: 256 }, [
        ...[x.address, context.input(1).address, M, C / 2, context.output(0, [B, M]).address],
      ]);
    },
    Codes: (context) => codes(context, false),
    ChosenCodes: (context) => codes(context, true),
    UpsampleRows: (context) => restore(context, false),
    RestoreRows: (context) => restore(context, true),
  };
}
