/** Tensors of a fused operator at work in host memory, as arrays. */
import type { OpContext, OpTensor } from "../src/runtime/custom_ops.ts";
import { FUSED_OPS, type FusedOpName } from "../src/runtime/fused_ops.ts";

type Values = Float32Array | Float16Array | BigInt64Array | Int32Array;

function view({ address, dims }: OpTensor, element: "F32" | "F16" | "I64" | "I32"): Values {
  const size = dims.reduce((product, dim) => product * dim, 1);
  const make = { F32: Float32Array, F16: Float16Array, I64: BigInt64Array, I32: Int32Array }[element];
  if (size === 0) return new Float32Array(0);
  const pointer = Deno.UnsafePointer.create(BigInt(address))!;
  const buffer = Deno.UnsafePointerView.getArrayBuffer(pointer, size * make.BYTES_PER_ELEMENT);
  return new make(buffer) as Values;
}

/** Inputs and outputs of a run as arrays. */
export class Tensors {
  readonly #inputs: Float32Array[] = [];
  constructor(readonly name: FusedOpName, readonly context: OpContext) {}
  in(index: number): Float32Array {
    return this.#inputs[index] ??= view(
      this.context.input(index),
      FUSED_OPS[this.name].inputs[index]!,
    ) as Float32Array;
  }
  dims(index: number): number[] {
    return [...this.context.input(index).dims];
  }
  out(index: number, dims: readonly number[]): Float32Array {
    return view(this.context.output(index, dims), FUSED_OPS[this.name].outputs[index]!) as Float32Array;
  }
}
