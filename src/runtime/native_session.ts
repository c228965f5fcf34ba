/**
 * A graph that ONNX Runtime's native library has loaded, and its runs on tensors in host memory or on a device.
 *
 * @module
 */
import { DeviceError } from "../errors.ts";
import type { Graph } from "../graph/graph.ts";
import { ELEMENT, type ElementName } from "../graph/onnx_proto.ts";
import type { CudaMemory } from "./cuda_memory.ts";
import { address, cString, type Handle, type OrtApi, OrtError, pinned } from "./ort_api.ts";
import { NativeTensor, newTensor } from "./native_tensor.ts";
import { NOT_RECORDED, Recordings } from "./recordings.ts";
import type { DeviceSession, DeviceTensor, Tensor, Tensors } from "./runtime.ts";

/** What the library says when the system gives it no memory, or no room to map a file. */
export const OUT_OF_MEMORY = /alloc|mmap|out of memory/i;

/** Where tensors of a session lie. */
export interface NativeMemory {
  /** The host. */
  readonly host: Handle;
  /** The device's own; none on the CPU. */
  readonly device?: Handle | undefined;
  /** Places for its tensors, where the library does not find them itself. */
  readonly cuda?: CudaMemory | undefined;
}

/** What is wrong when somebody goes on with an engine that was disposed. */
export function releasedError(graph: string): DeviceError {
  return new DeviceError(`Cannot run graph "${graph}": it was released with its engine`, {
    hint: "Dispose an engine after the last picture it draws",
  });
}

/** A run with all its tensors. */
interface BoundRun {
  readonly options: Handle;
  readonly binding: Handle;
  /** Values over host memory. */
  readonly host: readonly bigint[];
  /** That memory, which must stay as long as they do. */
  readonly arrays: readonly Tensor["data"][];
}

/** Where all tensors of a run lie, and their shapes. */
function placesOf(
  inputs: Readonly<Record<string, Tensor | DeviceTensor>>,
  placed: Readonly<Record<string, NativeTensor>>,
): string {
  let places = "";
  for (const tensors of [inputs, placed]) {
    for (const name in tensors) {
      const tensor = tensors[name];
      places += tensor instanceof NativeTensor ? tensor.place : (tensor as Tensor).data;
      places += ";";
    }
  }
  return places;
}

/** A loaded graph. */
export class NativeSession implements DeviceSession {
  readonly #api: OrtApi;
  readonly #memory: NativeMemory;
  #session: Handle;
  readonly #graph: string;
  readonly #inputs: NameTable;
  readonly #outputs: NameTable;
  readonly #elements: Readonly<Record<string, ElementName>>; // of the outputs
  readonly #recordings: Recordings<BoundRun> | undefined;
  readonly #waits: boolean;
  readonly #released: () => void;
  #running = 0;
  #disposed = false;

  /**
   * Takes a loaded session over.
   *
   * @param repeated whether the session was loaded to record runs
   * @param released called when the session is gone
   */
  constructor(
    api: OrtApi,
    memory: NativeMemory,
    session: Handle,
    graph: Graph,
    repeated: boolean,
    released: () => void,
  ) {
    this.#api = api;
    this.#memory = memory;
    this.#elements = Object.fromEntries(graph.outputs.map(({ name, element }) => [name, element]));
    this.#recordings = repeated ? new Recordings() : undefined;
    this.#waits = graph.has("Concat") && !repeated; // those recorded join parts of one size
    this.#session = session;
    this.#released = released;
    this.#graph = graph.name;
    this.#inputs = new NameTable(graph.inputs.map(({ name }) => name));
    this.#outputs = new NameTable(graph.outputs.map(({ name }) => name));
  }

  async run(inputs: Tensors, outputs: Tensors, signal?: AbortSignal): Promise<void> {
    this.#expectOpen();
    signal?.throwIfAborted();
    const { call } = this.#api;
    const values = pinned(new BigUint64Array(this.#inputs.names.length));
    const results = pinned(new BigUint64Array(this.#outputs.names.length));
    const options = this.#api.create((out) => call.CreateRunOptions(out));
    const stop = (): void => this.#api.check(call.RunOptionsSetTerminate(options));
    this.#running++;
    try {
      this.#inputs.names.forEach((name, i) => values[i] = this.#wrap(name, inputs[name]));
      this.#outputs.names.forEach((name, i) => results[i] = this.#wrap(name, outputs[name]));
      signal?.addEventListener("abort", stop);
      const { pointers: from } = this.#inputs, { pointers: to } = this.#outputs;
      const sizes = [BigInt(values.length), BigInt(results.length)] as const;
      const run = this.#memory.cuda ? call.RunNow : call.Run; // see #runQueued
      this.#api.check(await run(this.#session, options, from, values, sizes[0], to, sizes[1], results));
    } catch (cause) {
      signal?.throwIfAborted();
      throw this.#runFailure(cause);
    } finally {
      signal?.removeEventListener("abort", stop);
      for (const value of [...values, ...results]) if (value) call.ReleaseValue(Deno.UnsafePointer.create(value));
      call.ReleaseRunOptions(options);
      this.#running--;
      if (this.#disposed) this.#release();
    }
  }

  async runKeeping(
    inputs: Readonly<Record<string, Tensor | DeviceTensor>>,
    outputs: Tensors,
    kept: Readonly<Record<string, readonly number[]>>,
    signal?: AbortSignal,
  ): Promise<Record<string, DeviceTensor>> {
    this.#expectOpen();
    signal?.throwIfAborted();
    const { call } = this.#api;
    const { device, cuda } = this.#memory;
    const placed: Record<string, NativeTensor> = {}; // outputs that have their places before the run
    let bound: BoundRun | undefined;
    const stop = (): void => this.#api.check(call.RunOptionsSetTerminate(bound!.options));
    this.#running++;
    try {
      if (cuda) {
        for (const name in kept) {
          placed[name] = newTensor(this.#api, device!, cuda, this.#elements[name] as Tensor["element"], kept[name]!);
        }
        this.#runQueued(inputs, outputs, placed);
        return placed;
      }
      bound = this.#bind(inputs, outputs, placed, kept);
      signal?.addEventListener("abort", stop);
      this.#api.check(await call.RunWithBinding(this.#session, bound.options, bound.binding));
      return this.#boundOutputs(bound.binding, kept);
    } catch (cause) {
      for (const tensor of Object.values(placed)) tensor[Symbol.dispose]();
      signal?.throwIfAborted();
      throw this.#runFailure(cause);
    } finally {
      signal?.removeEventListener("abort", stop);
      if (bound) this.#unbind(bound);
      this.#running--;
      if (this.#disposed) this.#release();
    }
  }

  /**
   * Runs on CUDA, in this thread: the library keeps handles and recordings a thread. Nobody waits for the device unless outputs
   * go to the host, or the graph has an operator that reads tables from host memory: the library gives them back when it has
   * waited, and must have done so before the session is released.
   *
   * A run whose tensors lie where those of several earlier runs lay is recorded, and from then on replayed: launched as one, with
   * what was bound for the recording, since binding takes longer than all else.
   */
  #runQueued(
    inputs: Readonly<Record<string, Tensor | DeviceTensor>>,
    outputs: Tensors,
    placed: Readonly<Record<string, NativeTensor>>,
  ): void {
    const { call } = this.#api;
    const run = ({ options, binding }: BoundRun): void =>
      this.#api.check(call.RunWithBindingNow(this.#session, options, binding));
    const toHost = Object.keys(outputs).length > 0;
    const recording = toHost ? undefined : this.#recordings?.of(placesOf(inputs, placed));
    if (recording?.bound) return run(recording.bound);
    const bound = this.#bind(inputs, outputs, placed, {});
    try {
      const config = (key: string, value: string): void =>
        this.#api.check(call.AddRunConfigEntry(bound.options, cString(key), cString(value)));
      if (!toHost && !this.#waits) config("disable_synchronize_execution_providers", "1");
      if (this.#recordings) config("gpu_graph_id", recording?.id ?? NOT_RECORDED);
      run(bound);
      if (recording) recording.bound = bound;
    } finally {
      if (!recording?.bound) this.#unbind(bound);
    }
  }

  /** Binds all tensors of a run; outputs without a place get one by the library. */
  #bind(
    inputs: Readonly<Record<string, Tensor | DeviceTensor>>,
    outputs: Tensors,
    placed: Readonly<Record<string, NativeTensor>>,
    kept: Readonly<Record<string, readonly number[]>>,
  ): BoundRun {
    const { call } = this.#api;
    const host: bigint[] = []; // values over host memory; those of the device are their owners'
    const arrays: Tensor["data"][] = [];
    const wrap = (name: string, tensor: Tensor | undefined): Handle => {
      const value = this.#wrap(name, tensor);
      host.push(value);
      arrays.push(tensor!.data);
      return Deno.UnsafePointer.create(value);
    };
    const options = this.#api.create((out) => call.CreateRunOptions(out));
    const binding = this.#api.create((out) => call.CreateIoBinding(this.#session, out));
    const bound = { options, binding, host, arrays };
    try {
      for (const [i, name] of this.#inputs.names.entries()) {
        const tensor = inputs[name];
        const value = tensor instanceof NativeTensor ? tensor.value : wrap(name, tensor as Tensor | undefined);
        this.#api.check(call.BindInput(binding, this.#inputs.strings[i]!, value));
      }
      for (const [i, name] of this.#outputs.names.entries()) {
        const value = placed[name]?.value ?? (kept[name] ? undefined : wrap(name, outputs[name]));
        this.#api.check(
          value === undefined
            ? call.BindOutputToDevice(binding, this.#outputs.strings[i]!, this.#memory.device!)
            : call.BindOutput(binding, this.#outputs.strings[i]!, value),
        );
      }
      return bound;
    } catch (error) {
      this.#unbind(bound);
      throw error;
    }
  }

  #unbind({ options, binding, host }: BoundRun): void {
    const { call } = this.#api;
    call.ReleaseIoBinding(binding);
    for (const value of host) call.ReleaseValue(Deno.UnsafePointer.create(value));
    call.ReleaseRunOptions(options);
  }

  /** The outputs of a run that stay on the device; all of them come back in the order they were bound. */
  #boundOutputs(binding: Handle, kept: Readonly<Record<string, readonly number[]>>): Record<string, DeviceTensor> {
    const { call } = this.#api;
    const allocator = this.#api.create((out) => call.GetAllocatorWithDefaultOptions(out)); // the library's own
    const values = pinned(new BigUint64Array(1)), count = pinned(new BigUint64Array(1));
    this.#api.check(call.GetBoundOutputValues(binding, allocator, values, count));
    const list = Deno.UnsafePointer.create(values[0]!);
    const view = new Deno.UnsafePointerView(list!);
    const tensors: Record<string, DeviceTensor> = {};
    this.#outputs.names.forEach((name, i) => {
      const value = view.getPointer(i * 8);
      if (kept[name]) tensors[name] = new NativeTensor(this.#api, value, kept[name], 0);
      else call.ReleaseValue(value);
    });
    this.#api.check(call.AllocatorFree(allocator, list));
    return tensors;
  }

  #runFailure(cause: unknown): unknown {
    if (!(cause instanceof OrtError)) return cause;
    return new DeviceError(`Cannot run graph "${this.#graph}": ${cause.message}`, {
      cause,
      hint: OUT_OF_MEMORY.test(cause.message)
        ? "Not enough memory: take a smaller size or batch, --method stagevar or --low-memory"
        : this.#memory.device
        ? "The GPU may not bear graphs of this size: take a smaller --pixels, or --device cpu, and please report it"
        : "This is a fault of the program or the model: please report it",
    });
  }

  /** The library would take a released session at its word. */
  #expectOpen(): void {
    if (this.#disposed) throw releasedError(this.#graph);
  }

  /** Releases the graph, after its last run. */
  [Symbol.dispose](): void {
    this.#disposed = true;
    this.#release();
  }

  /** A session must outlive its runs: one that is disposed while running is released by the run's end. */
  #release(): void {
    if (this.#running > 0 || this.#session === null) return;
    this.#memory.cuda?.synchronize(); // the queue may still read what the session holds
    for (const bound of this.#recordings?.bound() ?? []) this.#unbind(bound);
    this.#api.call.ReleaseSession(this.#session);
    this.#session = null;
    this.#released();
  }

  #wrap(name: string, tensor: Tensor | undefined): bigint {
    if (!tensor) throw new TypeError(`Graph "${this.#graph}" wants a tensor for "${name}"`);
    const data = pinned(tensor.data as ArrayBufferView<ArrayBuffer>);
    const dims = BigInt64Array.from(tensor.dims, BigInt);
    const out = new BigUint64Array(1);
    this.#api.check(this.#api.call.CreateTensorWithDataAsOrtValue(
      this.#memory.host,
      data,
      BigInt(data.byteLength),
      dims,
      BigInt(dims.length),
      ELEMENT[tensor.element],
      out,
    ));
    return out[0]!;
  }
}

/** A char*[] of names that lives as long as this object. */
class NameTable {
  readonly pointers: BigUint64Array<ArrayBuffer>;
  readonly strings: readonly Uint8Array<ArrayBuffer>[];

  constructor(readonly names: readonly string[]) {
    this.strings = names.map((name) => pinned(cString(name)));
    this.pointers = pinned(BigUint64Array.from(this.strings, address));
  }
}
