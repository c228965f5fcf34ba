/**
 * Tensors on a device, as ONNX Runtime's native library knows them.
 *
 * @module
 */
import { ELEMENT } from "../graph/onnx_proto.ts";
import type { CudaMemory } from "./cuda_memory.ts";
import type { Handle, OrtApi } from "./ort_api.ts";
import type { DeviceTensor, Tensor } from "./runtime.ts";

/** Bytes of an element. */
const BYTES: Readonly<Record<Tensor["element"], number>> = { F32: 4, F16: 2, I32: 4, I64: 8 };

/** A tensor on the device. */
export class NativeTensor implements DeviceTensor {
  readonly #api: OrtApi;
  readonly #make: (() => Handle) | undefined;
  readonly #freed: (() => void) | undefined;
  #value: Handle;
  #disposed = false;
  /** Address and shape: two tensors of one place are the same to a recorded run. */
  readonly place: string;

  /**
   * Takes a value over, or makes it when the library first wants it: a run that is replayed does not.
   *
   * @param address where it lies, where that is known
   * @param freed called when the tensor is disposed
   */
  constructor(
    api: OrtApi,
    value: Handle | (() => Handle),
    readonly dims: readonly number[],
    readonly address: number,
    freed?: () => void,
  ) {
    this.#api = api;
    this.place = `${address} ${dims}`;
    this.#value = typeof value === "function" ? null : value;
    this.#make = typeof value === "function" ? value : undefined;
    this.#freed = freed;
  }

  /** The library's handle. */
  get value(): Handle {
    if (this.#disposed) throw new TypeError("Cannot run on a device tensor that was disposed");
    return this.#value ??= this.#make!();
  }

  /** Gives the memory back. */
  [Symbol.dispose](): void {
    if (this.#disposed) return;
    this.#disposed = true;
    if (this.#value) this.#api.call.ReleaseValue(this.#value);
    this.#freed?.();
  }
}

/**
 * A tensor in CUDA's memory; its values are whatever lay there.
 *
 * @throws {DeviceError} when there is no room
 */
export function newTensor(
  api: OrtApi,
  device: Handle,
  cuda: CudaMemory,
  element: Tensor["element"],
  dims: readonly number[],
): NativeTensor {
  const bytes = dims.reduce((product, dim) => product * dim, BYTES[element]);
  const place = cuda.allocate(bytes);
  return new NativeTensor(api, () => valueAt(api, device, element, dims, place), dims, place, () => cuda.free(place));
}

function valueAt(
  api: OrtApi,
  device: Handle,
  element: Tensor["element"],
  dims: readonly number[],
  place: number,
): Handle {
  const bytes = dims.reduce((product, dim) => product * dim, BYTES[element]);
  const shape = BigInt64Array.from(dims, BigInt);
  const sizes = [BigInt(place), BigInt(bytes)] as const;
  return api.create((out) =>
    api.call.CreateTensorAt(device, ...sizes, shape, BigInt(shape.length), ELEMENT[element], out)
  );
}

/** Some rows of a tensor [R, ...] in CUDA's memory, where they lie. */
export function rowsOf(
  api: OrtApi,
  device: Handle,
  element: Tensor["element"],
  tensor: NativeTensor,
  [from, to]: readonly [number, number],
  freed: () => void,
): NativeTensor {
  const row = tensor.dims.slice(1);
  const dims = [to - from, ...row];
  const place = tensor.address + from * row.reduce((product, dim) => product * dim, BYTES[element]);
  return new NativeTensor(api, () => valueAt(api, device, element, dims, place), dims, place, freed);
}
