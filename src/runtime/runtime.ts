/**
 * What the engine asks of a device: sessions that run a graph on caller-owned buffers.
 *
 * Inputs and outputs are plain typed arrays that the caller allocates once and reuses: a key/value cache is a large array,
 * its past a sub-array fed as input, its next rows a sub-array bound as output, so nothing is copied that grows with it.
 *
 * @module
 */
import type { GraphForm } from "../graph/form.ts";
import type { Graph } from "../graph/graph.ts";

/** A float32 tensor in host memory. */
export interface FloatTensor {
  /** Discriminator. */
  readonly element: "F32";
  /** Extent of each axis. */
  readonly dims: readonly number[];
  /** Values, row-major. */
  readonly data: Float32Array;
}

/** A dense tensor in host memory: `data` holds the product of `dims` elements, row-major. */
export type Tensor =
  | FloatTensor
  | { readonly element: "F16"; readonly dims: readonly number[]; readonly data: Float16Array }
  | { readonly element: "I32"; readonly dims: readonly number[]; readonly data: Int32Array }
  | { readonly element: "I64"; readonly dims: readonly number[]; readonly data: BigInt64Array };

/** Tensors by input or output name. */
export type Tensors = Readonly<Record<string, Tensor>>;

/** A tensor in a device's own memory, until it is disposed. */
export interface DeviceTensor extends Disposable {
  /** Extent of each axis. */
  readonly dims: readonly number[];
}

/** A graph that is loaded on a device with memory of its own. */
export interface DeviceSession extends Session {
  /**
   * Runs the graph on tensors of either memory: `outputs` are written to the host, and those of `kept` stay on the device,
   * as tensors that are the caller's to dispose.
   */
  runKeeping(
    inputs: Readonly<Record<string, Tensor | DeviceTensor>>,
    outputs: Tensors,
    kept: Readonly<Record<string, readonly number[]>>,
    signal?: AbortSignal,
  ): Promise<Record<string, DeviceTensor>>;
}

/** A graph that is loaded and can run. */
export interface Session extends Disposable {
  /**
   * Runs the graph, writing into the arrays of `outputs`. The event loop stays alive where the device allows.
   * Rejects with the signal's reason when aborted (native devices stop in the middle of a run).
   */
  run(inputs: Tensors, outputs: Tensors, signal?: AbortSignal): Promise<void>;
}

/**
 * Where weights live while a session is open: `packed` copies them into memory in the layout that kernels like best;
 * `mapped` leaves them in their files, read by page, and widens half precision as it is used (specs/onnxruntime.md A).
 */
export type Residency = "packed" | "mapped";

/** Models whose weights, widened to float32, take at most this many bytes are packed; larger ones stay mapped. */
const PACK_LIMIT = 512 * 2 ** 20;

/**
 * Packed for a small model, mapped for one that would not want to be in memory twice.
 *
 * @param weights of the whole model part, all its graphs together
 * @example
 * ```ts
 * import { residencyOf } from "@stagevar/stagevar/runtime/runtime.ts";
 * import assert from "node:assert/strict";
 * assert.equal(residencyOf([{ shape: [1000, 3000] }]), "packed");
 * assert.equal(residencyOf([{ shape: [2000, 1_000_000] }, { shape: [7] }]), "mapped");
 * ```
 */
export function residencyOf(weights: readonly { readonly shape: readonly number[] }[]): Residency {
  const elements = weights.reduce((sum, { shape }) => sum + shape.reduce((product, extent) => product * extent, 1), 0);
  return elements * 4 <= PACK_LIMIT ? "packed" : "mapped";
}

/** What a device wants of graphs: see {@linkcode GraphForm}. No `half` where it has no half precision. */
export type DeviceForm = Readonly<
  Required<Pick<GraphForm, "attention" | "norms">> & Pick<GraphForm, "half" | "maps" | "fused">
>;

/** A device that can load graphs. Dispose it after its sessions. */
export interface Runtime extends Disposable {
  /** `cpu`, `cuda`, `webgpu` or `wasm`. */
  readonly device: string;
  /** Forms of graphs that this device computes right, and fastest. */
  readonly form: DeviceForm;
  /** Human-readable engine and version, as `onnxruntime 1.30.0`. */
  readonly version: string;
  /** Loads a graph; its weights are packed unless said otherwise. Devices that cannot map files always pack. */
  createSession(graph: Graph, residency?: Residency): Promise<Session>;
  /**
   * Loads a graph whose tensors can stay on the device; absent where the device works in host memory. A `repeated` graph is run
   * again and again on tensors in the same places, which a device may record and replay.
   */
  readonly createDeviceSession?: ((graph: Graph, repeated?: boolean) => Promise<DeviceSession>) | undefined;
  /** Copies a tensor into the device's memory; absent where only graphs can. */
  readonly upload?: ((tensor: Tensor) => DeviceTensor) | undefined;
  /** Copies a tensor to the host, into an array of its length; absent where only graphs can. */
  readonly download?: ((tensor: DeviceTensor, data: Tensor["data"]) => void) | undefined;
  /**
   * Rows `from` to `to` of a tensor [R, ...], where they lie: the tensor must stay until `freed` is called. Absent where only graphs
   * can make them.
   */
  readonly rows?:
    | ((
      tensor: DeviceTensor,
      element: Tensor["element"],
      rows: readonly [from: number, to: number],
      freed: () => void,
    ) => DeviceTensor)
    | undefined;
}

/**
 * Wraps an array as a float32 tensor.
 *
 * @throws {RangeError} when the array's length is not the product of dims
 * @example
 * ```ts
 * import { floatTensor } from "@stagevar/stagevar/runtime/runtime.ts";
 * import assert from "node:assert/strict";
 * assert.deepEqual(floatTensor(new Float32Array(6), [2, 3]).dims, [2, 3]);
 * ```
 */
export function floatTensor(data: Float32Array, dims: readonly number[]): FloatTensor {
  checkLength(data.length, dims);
  return { element: "F32", dims, data };
}

/**
 * Wraps whole numbers as an int64 tensor.
 *
 * @throws {RangeError} when the array's length is not the product of dims
 * @example
 * ```ts
 * import { intTensor } from "@stagevar/stagevar/runtime/runtime.ts";
 * import assert from "node:assert/strict";
 * assert.equal(intTensor([1, 2], [2]).data[1], 2n);
 * ```
 */
export function intTensor(values: readonly number[], dims: readonly number[]): Tensor {
  checkLength(values.length, dims);
  return { element: "I64", dims, data: BigInt64Array.from(values, BigInt) };
}

function checkLength(length: number, dims: readonly number[]): void {
  const wanted = dims.reduce((product, dim) => product * dim, 1);
  if (length !== wanted) throw new RangeError(`Tensor [${dims}] wants ${wanted} elements: ${length} given`);
}
