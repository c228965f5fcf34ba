/**
 * Kernels of our own on a CUDA device (core_cuda), queued through the driver. It compiles their PTX for its device when
 * they are loaded, and keeps the result for the next process.
 *
 * @module
 */
import { DeviceError } from "../errors.ts";
import { address, cString, pinned } from "./ort_api.ts";

/** Name of a kernel. */
export type KernelName =
  | "add_norm"
  | "enter_cache"
  | "add_bias"
  | "bias_gelu"
  | "sum_moments"
  | "merge_moments"
  | "norm_swish"
  | "sum_half"
  | "add_root_norm"
  | "gated_gelu"
  | "biased_attention"
  | "enter_text"
  | "modulate"
  | "draw_projection"
  | "row_keys"
  | "draw_codes"
  | "restore_rows";

/** Parameters of each kernel: `p`ointer, `i`nt, `l`ong long or `f`loat. */
const PARAMETERS: Readonly<Record<KernelName, string>> = {
  add_norm: "pppfpppiiiifpp",
  enter_cache: "pppppippppiiiiippp",
  add_bias: "ppilp",
  bias_gelu: "ppilp",
  sum_moments: "pppppiilpp",
  merge_moments: "ppiiiffp",
  norm_swish: "pppppilp",
  sum_half: "pppilp",
  add_root_norm: "ppppifpp",
  gated_gelu: "ppipp",
  biased_attention: "pppppiiip",
  enter_text: "pppilpp",
  modulate: "ppfip",
  draw_projection: "pifiiip",
  row_keys: "ppiip",
  draw_codes: "ppppifiiiilp",
  restore_rows: "pppiiiiiip",
};

/** How a kernel is cut. */
export interface Launch {
  /** Blocks. */
  readonly blocks: number;
  /** Threads of a block. */
  readonly threads: number;
  /** Bytes that the threads of a block share, beyond those that the kernel has by itself. */
  readonly shared?: number;
}

const SYMBOLS = {
  cuModuleLoadData: { parameters: ["buffer", "buffer"], result: "i32" },
  cuModuleGetFunction: { parameters: ["buffer", "usize", "buffer"], result: "i32" },
  cuModuleUnload: { parameters: ["usize"], result: "i32" },
  cuLaunchKernel: {
    parameters: ["usize", "u32", "u32", "u32", "u32", "u32", "u32", "u32", "usize", "buffer", "usize"],
    result: "i32",
  },
  cuGetErrorString: { parameters: ["i32", "buffer"], result: "i32" },
} as const;

/** Loads kernels into the device whose context is this thread's, and queues them. */
export class CudaKernels implements Disposable {
  readonly #library: Deno.DynamicLibrary<typeof SYMBOLS>;
  readonly #stream: bigint;
  readonly #module: bigint;
  readonly #functions: Readonly<Record<string, bigint>>;
  readonly #values = new DataView(pinned(new Uint8Array(8 * 32)).buffer); // of one launch: the driver copies them
  readonly #places: BigUint64Array<ArrayBuffer>;

  /**
   * Compiles and loads them.
   *
   * @param stream the queue
   * @param ptx core_cuda/kernels.ptx
   * @param driver name or path of the driver's library
   * @throws {DeviceError} when the driver is missing, too old, or cannot compile them
   */
  constructor(stream: bigint, ptx: string, driver = "libcuda.so.1") {
    try {
      this.#library = Deno.dlopen(driver, SYMBOLS);
    } catch (cause) {
      throw new DeviceError(`Cannot load the CUDA driver: ${(cause as Error).message}`, { cause });
    }
    const { cuModuleLoadData, cuModuleGetFunction } = this.#library.symbols;
    this.#stream = stream;
    const out = new BigUint64Array(1);
    this.#check(cuModuleLoadData(out, cString(ptx)), "load kernels");
    this.#module = out[0]!;
    this.#functions = Object.fromEntries(
      Object.keys(PARAMETERS).map((name) => {
        this.#check(cuModuleGetFunction(out, this.#module, cString(name)), `find kernel ${name}`);
        return [name, out[0]!];
      }),
    );
    const start = address(new Uint8Array(this.#values.buffer));
    this.#places = BigUint64Array.from({ length: 32 }, (_, i) => start + BigInt(8 * i));
  }

  /** Queues a kernel; `values` are its parameters in order, addresses among them, 0 for none. */
  launch(name: KernelName, { blocks, threads, shared = 0 }: Launch, values: readonly number[]): void {
    const kinds = PARAMETERS[name];
    if (values.length !== kinds.length) throw new TypeError(`Kernel ${name} wants ${kinds.length} parameters`);
    values.forEach((value, i) => {
      if (kinds[i] === "f") this.#values.setFloat32(8 * i, value, true);
      else this.#values.setBigInt64(8 * i, BigInt(value), true); // an int reads its lower half
    });
    const status = this.#library.symbols.cuLaunchKernel(
      this.#functions[name]!,
      ...[blocks, 1, 1, threads, 1, 1, shared] as const,
      this.#stream,
      this.#places,
      0n,
    );
    this.#check(status, `run kernel ${name}`);
  }

  /** Unloads them, when the queue is empty. */
  [Symbol.dispose](): void {
    this.#library.symbols.cuModuleUnload(this.#module);
  }

  #check(status: number, what: string): void {
    if (status === 0) return;
    const out = new BigUint64Array(1);
    this.#library.symbols.cuGetErrorString(status, out);
    const text = Deno.UnsafePointer.create(out[0]!);
    const message = text ? new Deno.UnsafePointerView(text).getCString() : `error ${status}`;
    throw new DeviceError(`Cannot ${what} on the CUDA device: ${message}`);
  }
}
