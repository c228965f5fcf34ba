/**
 * Operators of our own in ONNX Runtime's graphs: OrtCustomOp (onnxruntime_c_api.h), whose functions are ours, called back through
 * Deno's foreign functions.
 *
 * A run calls `compute`, which queues what the operator does; a recorded run never does again. Shapes are computed there, and
 * nowhere else: graphs have to say those of their outputs.
 *
 * @module
 */
import { ELEMENT } from "../graph/onnx_proto.ts";
import { address, cString, type Handle, type OrtApi, OrtError, pinned } from "./ort_api.ts";
import type { Tensor } from "./runtime.ts";

/** A tensor of an operator at work. */
export interface OpTensor {
  /** Address of the first value, in the memory of the device that computes it. */
  readonly address: number;
  /** Extent of each axis. */
  readonly dims: readonly number[];
}

/** What an operator is given when it runs. */
export interface OpContext {
  /** An input. */
  input(index: number): OpTensor;
  /** Makes an output of such a shape. */
  output(index: number, dims: readonly number[]): OpTensor;
  /** An attribute, as the graph has it. */
  attribute(name: string): number;
}

/** An operator. */
export interface CustomOp {
  /** Its type in graphs. */
  readonly name: string;
  /** Element types of its inputs. */
  readonly inputs: readonly Tensor["element"][];
  /** Element types of its outputs. */
  readonly outputs: readonly Tensor["element"][];
  /** Names of its attributes: integers, or floats where a name ends so. */
  readonly attributes?: readonly string[];
  /** Computes the outputs, or queues that. */
  compute(context: OpContext): void;
}

/** Version of OrtCustomOp that is filled in below. */
const OP_VERSION = 18;

/** Places of function pointers in OrtCustomOp behind its version; the rest stays null. */
const SLOT = {
  GetName: 1,
  GetExecutionProviderType: 2,
  GetInputType: 3,
  GetInputTypeCount: 4,
  GetOutputType: 5,
  GetOutputTypeCount: 6,
  KernelDestroy: 8,
  GetInputCharacteristic: 9,
  GetOutputCharacteristic: 10,
  GetInputMemoryType: 11,
  CreateKernelV2: 16,
  KernelComputeV2: 17,
} as const;
const SLOTS = 25;

/** A node of a loaded graph. */
interface Kernel {
  readonly op: CustomOp;
  readonly attributes: Readonly<Record<string, number>>;
}

/**
 * A set of operators under a domain, for sessions to know.
 *
 * @example
 * ```ts
 * import { OrtApi } from "@stagevar/stagevar/runtime/ort_api.ts";
 * import { CustomOps } from "@stagevar/stagevar/runtime/custom_ops.ts";
 * import { libraryPath } from "@stagevar/stagevar/runtime/library_path.ts";
 * const nothing = { name: "Nothing", inputs: ["F32"], outputs: [], compute: () => {} } as const;
 * using ops = new CustomOps(new OrtApi(libraryPath()), "example", "CPUExecutionProvider", [nothing]);
 * ```
 */
export class CustomOps implements Disposable {
  readonly #api: OrtApi;
  readonly #ops: readonly CustomOp[];
  readonly #kernels = new Map<bigint, Kernel>();
  readonly #callbacks: Deno.UnsafeCallback[] = [];
  readonly #kept: ArrayBufferView<ArrayBuffer>[] = []; // what the library reads for as long as it likes
  readonly #places: bigint[]; // of the operators' structs
  readonly #domain: Handle;
  #count = 0n;

  /**
   * Makes the operators known under a domain.
   *
   * @param provider execution provider that they run on, as `CUDAExecutionProvider`
   */
  constructor(api: OrtApi, domain: string, provider: string, ops: readonly CustomOp[]) {
    this.#api = api;
    this.#ops = ops;
    const functions = this.#functions(provider);
    this.#domain = api.create((out) => api.call.CreateCustomOpDomain(this.#keep(cString(domain)), out));
    this.#places = ops.map(() => {
      const struct = this.#keep(new BigUint64Array(1 + SLOTS));
      new Uint32Array(struct.buffer)[0] = OP_VERSION;
      for (const [slot, pointer] of functions) struct[1 + slot] = pointer;
      return address(struct);
    });
    for (const place of this.#places) {
      api.check(api.call.CustomOpDomain_Add(this.#domain, Deno.UnsafePointer.create(place)));
    }
  }

  /** Lets a session know the operators. */
  addTo(options: Handle): void {
    this.#api.check(this.#api.call.AddCustomOpDomain(options, this.#domain));
  }

  /** Forgets them, after the last session. */
  [Symbol.dispose](): void {
    this.#api.call.ReleaseCustomOpDomain(this.#domain);
    for (const callback of this.#callbacks) callback.close();
  }

  /** The functions that all operators share, by their places; the library calls some of them in threads of its own. */
  #functions(provider: string): [slot: number, pointer: bigint][] {
    const make = <const P extends Deno.NativeType[], const R extends Deno.NativeResultType>(
      parameters: P,
      result: R,
      body: Deno.UnsafeCallbackFunction<P, R>,
    ): bigint => {
      const callback = new Deno.UnsafeCallback({ parameters, result }, body);
      this.#callbacks.push(callback as unknown as Deno.UnsafeCallback);
      return Deno.UnsafePointer.value(callback.pointer);
    };
    const op = (pointer: Handle): CustomOp => this.#ops[this.#places.indexOf(Deno.UnsafePointer.value(pointer))]!;
    const names = this.#ops.map(({ name }) => address(this.#keep(cString(name))));
    const ofProvider = Deno.UnsafePointer.create(address(this.#keep(cString(provider))));
    const REQUIRED = 0, DEFAULT_MEMORY = 0;
    return [
      [SLOT.GetName, make(["pointer"], "pointer", (p) => Deno.UnsafePointer.create(names[this.#ops.indexOf(op(p))]!))],
      [SLOT.GetExecutionProviderType, make(["pointer"], "pointer", () => ofProvider)],
      [SLOT.GetInputTypeCount, make(["pointer"], "usize", (p) => BigInt(op(p).inputs.length))],
      [SLOT.GetInputType, make(["pointer", "usize"], "i32", (p, i) => ELEMENT[op(p).inputs[Number(i)]!])],
      [SLOT.GetOutputTypeCount, make(["pointer"], "usize", (p) => BigInt(op(p).outputs.length))],
      [SLOT.GetOutputType, make(["pointer", "usize"], "i32", (p, i) => ELEMENT[op(p).outputs[Number(i)]!])],
      [SLOT.GetInputCharacteristic, make(["pointer", "usize"], "i32", () => REQUIRED)],
      [SLOT.GetOutputCharacteristic, make(["pointer", "usize"], "i32", () => REQUIRED)],
      [SLOT.GetInputMemoryType, make(["pointer", "usize"], "i32", () => DEFAULT_MEMORY)],
      [
        SLOT.CreateKernelV2,
        make(["pointer", "pointer", "pointer", "pointer"], "pointer", (p, _api, info, out) =>
          this.#answer(() => {
            const id = ++this.#count;
            this.#kernels.set(id, { op: op(p), attributes: this.#attributes(op(p), info) });
            new BigUint64Array(Deno.UnsafePointerView.getArrayBuffer(out!, 8))[0] = id;
          })),
      ],
      [
        SLOT.KernelComputeV2,
        make(["pointer", "pointer"], "pointer", (kernel, context) =>
          this.#answer(() => {
            const { op, attributes } = this.#kernels.get(Deno.UnsafePointer.value(kernel))!;
            op.compute(new Context(this.#api, context, attributes));
          })),
      ],
      [
        SLOT.KernelDestroy,
        make(["pointer"], "void", (kernel) => {
          this.#kernels.delete(Deno.UnsafePointer.value(kernel));
        }),
      ],
    ];
  }

  #attributes(op: CustomOp, info: Handle): Record<string, number> {
    const { call } = this.#api;
    return Object.fromEntries((op.attributes ?? []).map((name) => {
      const out = pinned(new DataView(new ArrayBuffer(8)));
      if (name.endsWith("float")) this.#api.check(call.KernelInfoGetAttribute_float(info, cString(name), out));
      else this.#api.check(call.KernelInfoGetAttribute_int64(info, cString(name), out));
      return [name, name.endsWith("float") ? out.getFloat32(0, true) : Number(out.getBigInt64(0, true))];
    }));
  }

  /** An exception must not leave a callback: it becomes a status, which the library hands on. */
  #answer(work: () => void): Handle {
    try {
      work();
      return null;
    } catch (error) {
      const FAIL = 1;
      return this.#api.call.CreateStatus(FAIL, cString(error instanceof OrtError ? error.message : String(error)));
    }
  }

  #keep<View extends ArrayBufferView<ArrayBuffer>>(data: View): View {
    this.#kept.push(pinned(data));
    return data;
  }
}

/** A run of one node. */
class Context implements OpContext {
  readonly #api: OrtApi;
  readonly #context: Handle;
  readonly #attributes: Readonly<Record<string, number>>;

  constructor(api: OrtApi, context: Handle, attributes: Readonly<Record<string, number>>) {
    this.#api = api;
    this.#context = context;
    this.#attributes = attributes;
  }

  input(index: number): OpTensor {
    const { call } = this.#api;
    const value = this.#api.create((out) => call.KernelContext_GetInput(this.#context, BigInt(index), out));
    const info = this.#api.create((out) => call.GetTensorTypeAndShape(value, out));
    const rank = pinned(new BigUint64Array(1));
    this.#api.check(call.GetDimensionsCount(info, rank));
    const dims = pinned(new BigInt64Array(Number(rank[0]!)));
    this.#api.check(call.GetDimensions(info, dims, rank[0]!));
    call.ReleaseTensorTypeAndShapeInfo(info);
    return { address: this.#data(value), dims: Array.from(dims, Number) };
  }

  output(index: number, dims: readonly number[]): OpTensor {
    const shape = pinned(BigInt64Array.from(dims, BigInt));
    const value = this.#api.create((out) =>
      this.#api.call.KernelContext_GetOutput(this.#context, BigInt(index), shape, BigInt(shape.length), out)
    );
    return { address: this.#data(value), dims };
  }

  attribute(name: string): number {
    return this.#attributes[name]!;
  }

  #data(value: Handle): number {
    return Number(Deno.UnsafePointer.value(this.#api.create((out) => this.#api.call.GetTensorMutableData(value, out))));
  }
}
