/**
 * Memory and the one queue of a CUDA device, through the CUDA runtime that ONNX Runtime's provider links.
 *
 * All work goes to one stream: what is freed may be handed out again at once, since whatever writes there comes later in the
 * queue.
 *
 * @module
 */
import { DeviceError } from "../errors.ts";
import { Blocks } from "./blocks.ts";

/** Least bytes fetched from the device at a time. */
const BLOCK = 256 * 2 ** 20;

/** Bytes of page-locked host memory that copies to the device go through: from other memory they would wait for the queue. */
const STAGING = 16 * 2 ** 20;

const HOST_TO_DEVICE = 1, DEVICE_TO_HOST = 2;

/** Room for a cudaDeviceProp of any release: it begins with the name, and has about a kilobyte. */
const PROPERTIES = 8192;

const SYMBOLS = {
  cudaGetErrorString: { parameters: ["i32"], result: "pointer" },
  cudaGetDeviceCount: { parameters: ["buffer"], result: "i32" },
  cudaGetDeviceProperties: { parameters: ["buffer", "i32"], result: "i32" },
  cudaMalloc: { parameters: ["buffer", "usize"], result: "i32" },
  cudaFree: { parameters: ["usize"], result: "i32" },
  cudaMallocHost: { parameters: ["buffer", "usize"], result: "i32" },
  cudaFreeHost: { parameters: ["usize"], result: "i32" },
  cudaMemcpyAsync: { parameters: ["usize", "usize", "usize", "i32", "usize"], result: "i32" },
  cudaStreamCreate: { parameters: ["buffer"], result: "i32" },
  cudaStreamSynchronize: { parameters: ["usize"], result: "i32" },
  cudaStreamDestroy: { parameters: ["usize"], result: "i32" },
} as const;

/** The memory of the first CUDA device. */
export class CudaMemory implements Disposable {
  /** The queue, as the library's options want it: a cudaStream_t. It waits for copies that the library makes by itself. */
  readonly stream: bigint;
  /** What the device calls itself, as `NVIDIA H200`. */
  readonly name: string;
  readonly #library: Deno.DynamicLibrary<typeof SYMBOLS>;
  readonly #blocks: Blocks;
  readonly #fetched: bigint[] = [];
  readonly #staging: bigint;
  readonly #stagingBytes: Uint8Array<ArrayBuffer>;
  #staged = 0; // bytes in use since the queue was last empty

  /**
   * Opens the device.
   *
   * @param library name or path of the CUDA runtime, as `libcudart.so.13`
   * @throws {DeviceError} when it does not load, or finds no device
   */
  constructor(library: string) {
    try {
      this.#library = Deno.dlopen(library, SYMBOLS);
    } catch (cause) {
      throw new DeviceError(`Cannot load "${library}": ${(cause as Error).message}`, { cause });
    }
    const { symbols } = this.#library;
    const count = new Int32Array(1);
    this.#check(symbols.cudaGetDeviceCount(count), "find a device");
    if (count[0] === 0) throw new DeviceError("The CUDA driver finds no device");
    const properties = new Uint8Array(PROPERTIES);
    this.#check(symbols.cudaGetDeviceProperties(properties, 0), "ask the device for its name");
    this.name = new TextDecoder().decode(properties.subarray(0, properties.indexOf(0)));
    this.stream = this.#create((out) => symbols.cudaStreamCreate(out), "make a stream");
    this.#staging = this.#create((out) => symbols.cudaMallocHost(out, BigInt(STAGING)), "allocate page-locked memory");
    const view = new Deno.UnsafePointerView(Deno.UnsafePointer.create(this.#staging)!);
    this.#stagingBytes = new Uint8Array(view.getArrayBuffer(STAGING));
    this.#blocks = new Blocks(BLOCK, (bytes) => {
      const block = this.#create((out) => symbols.cudaMalloc(out, BigInt(bytes)), `allocate ${bytes} bytes`);
      this.#fetched.push(block);
      return Number(block); // addresses have 48 bits
    });
  }

  /**
   * Address of so many bytes.
   *
   * @throws {DeviceError} when the device has no more
   */
  allocate(bytes: number): number {
    return this.#blocks.allocate(bytes);
  }

  /** Takes memory back, as soon as the queue is done with it. */
  free(address: number): void {
    this.#blocks.free(address);
  }

  /** Queues a copy of an array's bytes to an address; the array may change at once. */
  write(address: number, data: ArrayBufferView<ArrayBuffer>): void {
    const bytes = new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
    for (let done = 0; done < bytes.length; done += STAGING) {
      const part = bytes.subarray(done, done + STAGING);
      if (this.#staged + part.length > STAGING) this.synchronize();
      this.#stagingBytes.set(part, this.#staged);
      const from = this.#staging + BigInt(this.#staged);
      const { cudaMemcpyAsync } = this.#library.symbols;
      const status = cudaMemcpyAsync(
        BigInt(address + done),
        from,
        BigInt(part.length),
        HOST_TO_DEVICE,
        this.stream,
      );
      this.#check(status, "copy to the device");
      this.#staged += part.length;
    }
  }

  /** Waits until the queue is empty, and fills an array with the bytes at an address. */
  read(address: number, data: ArrayBufferView<ArrayBuffer>): void {
    const bytes = new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
    for (let done = 0; done < bytes.length; done += STAGING) {
      const length = Math.min(STAGING, bytes.length - done);
      if (this.#staged + length > STAGING) this.synchronize();
      const at = this.#staged;
      const { cudaMemcpyAsync } = this.#library.symbols;
      const [from, to] = [BigInt(address + done), this.#staging + BigInt(at)];
      this.#check(cudaMemcpyAsync(to, from, BigInt(length), DEVICE_TO_HOST, this.stream), "copy from the device");
      this.synchronize();
      bytes.set(this.#stagingBytes.subarray(at, at + length), done);
    }
  }

  /** Waits until the queue is empty. */
  synchronize(): void {
    this.#check(this.#library.symbols.cudaStreamSynchronize(this.stream), "run");
    this.#staged = 0;
  }

  /** Gives everything back. */
  [Symbol.dispose](): void {
    const { symbols } = this.#library;
    symbols.cudaStreamSynchronize(this.stream); // whatever it says, everything goes
    for (const block of this.#fetched) symbols.cudaFree(block);
    symbols.cudaFreeHost(this.#staging);
    symbols.cudaStreamDestroy(this.stream);
  }

  #create(construct: (out: BigUint64Array<ArrayBuffer>) => number, what: string): bigint {
    const out = new BigUint64Array(1);
    this.#check(construct(out), what);
    return out[0]!;
  }

  #check(status: number, what: string): void {
    if (status === 0) return;
    const text = this.#library.symbols.cudaGetErrorString(status);
    const message = text ? new Deno.UnsafePointerView(text).getCString() : `error ${status}`;
    const OUT_OF_MEMORY = 2;
    throw new DeviceError(`Cannot ${what} on the CUDA device: ${message}`, {
      ...status === OUT_OF_MEMORY && {
        hint: "Take a smaller --pixels or --batch, --method stagevar or --dtype f16, or end what else uses the GPU",
      },
    });
  }
}
