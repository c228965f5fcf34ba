/**
 * ONNX Runtime's native library, called in the background so that the event loop stays alive and a run can be stopped: on
 * this machine's CPU, or on a GPU (webgpu.ts).
 *
 * One environment holds one thread pool and one memory arena for all sessions: a model is some forty small sessions, and a
 * pool or an arena each would cost cores (specs/onnxruntime.md C) and gigabytes.
 *
 * @module
 */
import { DeviceError, ModelError } from "../errors.ts";
import { externalRoot, type Graph } from "../graph/graph.ts";
import { ELEMENT } from "../graph/onnx_proto.ts";
import { libraryPath } from "./library_path.ts";
import { address, cString, type Handle, OrtApi, OrtError, pinned } from "./ort_api.ts";
import type { DeviceSession, DeviceTensor, Residency, Runtime, Tensor, Tensors } from "./runtime.ts";

/** Without these two passes an f16 or bf16 weight stays mapped and is widened as it is used (specs/onnxruntime.md A). */
const FOLDING = "ConstantFolding;FuseFp16InitializerToFp32NodeTransformer";

/** What the library says when the system gives it no memory, or no room to map a file. */
const OUT_OF_MEMORY = /alloc|mmap|out of memory/i;

/** Settings of the CPU runtime. */
export interface NativeOptions {
  /** Threads of the shared pool; 0 or none for one a core. */
  threads?: number;
  /** Offer sessions that keep tensors, as a GPU does: what runs there can be tried where there is none. */
  resident?: boolean;
}

/**
 * Opens the native runtime on the CPU.
 *
 * @throws {DeviceError} when the library cannot be loaded
 * @example
 * ```ts
 * import { Graph } from "@stagevar/stagevar/graph/graph.ts";
 * import { openNative } from "@stagevar/stagevar/runtime/native.ts";
 * import { floatTensor } from "@stagevar/stagevar/runtime/runtime.ts";
 * import assert from "node:assert/strict";
 * const graph = new Graph("double");
 * const x = graph.input("x", "F32", ["n"]);
 * graph.output("y", graph.op("Add", [x, x]), "F32", ["n"]);
 * using runtime = openNative();
 * using session = await runtime.createSession(graph);
 * const y = new Float32Array(2);
 * await session.run({ x: floatTensor(Float32Array.of(1, 2), [2]) }, { y: floatTensor(y, [2]) });
 * assert.deepEqual([...y], [2, 4]);
 * ```
 */
export function openNative(options: NativeOptions = {}): Runtime {
  return new NativeRuntime("cpu", options);
}

/**
 * What went wrong when a graph did not load: no memory is the machine's fault, anything else the model's.
 *
 * @example
 * ```ts
 * import { DeviceError } from "@stagevar/stagevar/errors.ts";
 * import { loadFailure } from "@stagevar/stagevar/runtime/native.ts";
 * import assert from "node:assert/strict";
 * assert(loadFailure("text", new Error("std::bad_alloc")) instanceof DeviceError);
 * ```
 */
export function loadFailure(graph: string, cause: Error): DeviceError | ModelError {
  if (!OUT_OF_MEMORY.test(cause.message)) {
    return new ModelError(`Cannot load graph "${graph}": ${cause.message}`, { cause });
  }
  return new DeviceError(`Not enough memory to load graph "${graph}": ${cause.message}`, {
    cause,
    hint: "Take --low-memory or a smaller model, or raise the limit (ulimit -v and -d count mapped weights as well)",
  });
}

/** The library on one device; see {@linkcode openNative} and webgpu.ts. */
export class NativeRuntime implements Runtime {
  /** Name of the device. */
  readonly device: "cpu" | "webgpu";
  /** On a GPU `plain` until somebody has seen that `fused` is right. */
  attention: "fused" | "plain";
  /** Name and version. */
  readonly version: string;
  readonly #api: OrtApi;
  readonly #env: Handle;
  readonly #memory: Handle;
  readonly #deviceMemory: Handle | undefined;
  /** See {@linkcode Runtime}; the CPU has no memory of its own, and does it only for tests. */
  readonly createDeviceSession: ((graph: Graph) => Promise<DeviceSession>) | undefined;
  #open = 0; // sessions that are loading or not yet released
  #disposed = false;

  /**
   * Loads the library and starts its threads.
   *
   * @throws {DeviceError} when it cannot be loaded
   */
  constructor(device: "cpu" | "webgpu", { threads = 0, resident = false }: NativeOptions = {}) {
    const api = new OrtApi(libraryPath());
    this.#api = api;
    this.device = device;
    this.attention = device === "cpu" ? "fused" : "plain";
    this.version = `onnxruntime ${api.version}`;
    const { call } = api;
    const threading = api.create((out) => call.CreateThreadingOptions(out));
    api.check(call.SetGlobalIntraOpNumThreads(threading, threads));
    api.check(call.SetGlobalSpinControl(threading, 0));
    const SILENT = 4; // failures come back as statuses; nothing is to write on the caller's terminal
    this.#env = api.create((out) => call.CreateEnvWithGlobalThreadPools(SILENT, cString("stagevar"), threading, out));
    call.ReleaseThreadingOptions(threading);
    const ARENA = 1, DEFAULT = 0, SAME_AS_REQUESTED = 1;
    this.#memory = api.create((out) => call.CreateCpuMemoryInfo(ARENA, DEFAULT, out));
    const arena = api.create((out) => call.CreateArenaCfg(0n, SAME_AS_REQUESTED, -1, -1, out));
    api.check(call.CreateAndRegisterAllocator(this.#env, this.#memory, arena));
    call.ReleaseArenaCfg(arena);
    if (device === "cpu" && !resident) return;
    this.#deviceMemory = device === "cpu"
      ? api.create((out) => call.CreateCpuMemoryInfo(ARENA, DEFAULT, out))
      : api.create((out) => call.CreateMemoryInfo(cString("WebGPU_Buf"), 0, 0, DEFAULT, out));
    this.createDeviceSession = (graph) => this.createSession(graph, "packed", true);
  }

  /** With `whole`, every operator must be the device's own: one on the CPU would copy its tensors there and back unseen. */
  async createSession(graph: Graph, residency: Residency = "packed", whole = false): Promise<DeviceSession> {
    this.#open++;
    try {
      const session = await this.#load(graph, residency, whole);
      return new NativeSession(this.#api, [this.#memory, this.#deviceMemory], session, graph, () => this.#close());
    } catch (error) {
      this.#close();
      throw error;
    }
  }

  async #load(graph: Graph, residency: Residency, whole: boolean): Promise<Handle> {
    const { call } = this.#api;
    const bytes = await graph.encode("external") as Uint8Array<ArrayBuffer>;
    const options = this.#api.create((out) => call.CreateSessionOptions(out));
    try {
      const config = (key: string, value: string): void =>
        this.#api.check(call.AddSessionConfigEntry(options, cString(key), cString(value)));
      this.#api.check(call.DisablePerSessionThreads(options));
      this.#api.check(call.DisableMemPattern(options)); // shapes change every scale
      config("session.use_env_allocators", "1");
      if (this.device === "webgpu") {
        if (whole) config("session.disable_cpu_ep_fallback", "1");
        const name = cString("WebGPU");
        this.#api.check(call.SessionOptionsAppendExecutionProvider(options, name, null, null, 0n));
      }
      const root = externalRoot(graph.files()[0] ?? "");
      config("session.model_external_initializers_file_folder_path", root);
      if (residency === "mapped") {
        config("session.disable_prepacking", "1");
        config("optimization.disable_specified_optimizers", FOLDING);
      }
      const out = pinned(new BigUint64Array(1));
      this.#api.check(await call.CreateSessionFromArray(this.#env, bytes, BigInt(bytes.length), options, out));
      return Deno.UnsafePointer.create(out[0]!);
    } catch (cause) {
      if (!(cause instanceof OrtError)) throw cause;
      throw loadFailure(graph.name, cause);
    } finally {
      call.ReleaseSessionOptions(options);
    }
  }

  /** Frees the environment when the last session is gone. */
  [Symbol.dispose](): void {
    if (this.#disposed) return;
    this.#disposed = true;
    this.#open++;
    this.#close();
  }

  /** An environment must outlive its sessions, some of which may still be loading or running. */
  #close(): void {
    this.#open--;
    if (!this.#disposed || this.#open > 0) return;
    this.#api.call.ReleaseMemoryInfo(this.#memory);
    if (this.#deviceMemory) this.#api.call.ReleaseMemoryInfo(this.#deviceMemory);
    this.#api.call.ReleaseEnv(this.#env);
  }
}

class NativeSession implements DeviceSession {
  readonly #api: OrtApi;
  readonly #memory: Handle;
  readonly #deviceMemory: Handle | undefined;
  #session: Handle;
  readonly #graph: string;
  readonly #inputs: NameTable;
  readonly #outputs: NameTable;
  readonly #released: () => void;
  #running = 0;
  #disposed = false;

  constructor(
    api: OrtApi,
    [memory, deviceMemory]: readonly [Handle, Handle | undefined],
    session: Handle,
    graph: Graph,
    released: () => void,
  ) {
    this.#api = api;
    this.#memory = memory;
    this.#deviceMemory = deviceMemory;
    this.#session = session;
    this.#released = released;
    this.#graph = graph.name;
    this.#inputs = new NameTable(graph.inputs.map(({ name }) => name));
    this.#outputs = new NameTable(graph.outputs.map(({ name }) => name));
  }

  async run(inputs: Tensors, outputs: Tensors, signal?: AbortSignal): Promise<void> {
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
      this.#api.check(
        await call.Run(
          this.#session,
          options,
          from,
          values,
          BigInt(values.length),
          to,
          BigInt(results.length),
          results,
        ),
      );
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
    signal?.throwIfAborted();
    const { call } = this.#api;
    const host: bigint[] = []; // values over host memory, released after the run; those of the device are their owners'
    const options = this.#api.create((out) => call.CreateRunOptions(out));
    const stop = (): void => this.#api.check(call.RunOptionsSetTerminate(options));
    const binding = this.#api.create((out) => call.CreateIoBinding(this.#session, out));
    const wrap = (name: string, tensor: Tensor | undefined): Handle => {
      const value = this.#wrap(name, tensor);
      host.push(value);
      return Deno.UnsafePointer.create(value);
    };
    this.#running++;
    try {
      for (const name of this.#inputs.names) {
        const tensor = inputs[name];
        const value = tensor instanceof NativeTensor ? tensor.value : wrap(name, tensor as Tensor | undefined);
        this.#api.check(call.BindInput(binding, cString(name), value));
      }
      for (const name of this.#outputs.names) {
        this.#api.check(
          kept[name]
            ? call.BindOutputToDevice(binding, cString(name), this.#deviceMemory!)
            : call.BindOutput(binding, cString(name), wrap(name, outputs[name])),
        );
      }
      signal?.addEventListener("abort", stop);
      this.#api.check(await call.RunWithBinding(this.#session, options, binding));
      return this.#boundOutputs(binding, kept);
    } catch (cause) {
      signal?.throwIfAborted();
      throw this.#runFailure(cause);
    } finally {
      signal?.removeEventListener("abort", stop);
      call.ReleaseIoBinding(binding);
      for (const value of host) call.ReleaseValue(Deno.UnsafePointer.create(value));
      call.ReleaseRunOptions(options);
      this.#running--;
      if (this.#disposed) this.#release();
    }
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
      if (kept[name]) tensors[name] = new NativeTensor(this.#api, value, kept[name]);
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
        : this.#deviceMemory
        ? "The GPU may not bear graphs of this size: take a smaller --pixels, or --device cpu, and please report it"
        : "This is a fault of the program or the model: please report it",
    });
  }

  [Symbol.dispose](): void {
    this.#disposed = true;
    this.#release();
  }

  /** A session must outlive its runs: one that is disposed while running is released by the run's end. */
  #release(): void {
    if (this.#running > 0 || this.#session === null) return;
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
      this.#memory,
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

/** A value that the library keeps on the device. */
class NativeTensor implements DeviceTensor {
  readonly #api: OrtApi;
  #value: Handle;

  constructor(api: OrtApi, value: Handle, readonly dims: readonly number[]) {
    this.#api = api;
    this.#value = value;
  }

  /** The library's handle. */
  get value(): Handle {
    if (this.#value === null) throw new TypeError("Cannot run on a device tensor that was disposed");
    return this.#value;
  }

  [Symbol.dispose](): void {
    if (this.#value !== null) this.#api.call.ReleaseValue(this.#value);
    this.#value = null;
  }
}

/** A char*[] of names that lives as long as this object. */
class NameTable {
  readonly pointers: BigUint64Array<ArrayBuffer>;
  readonly #strings: Uint8Array<ArrayBuffer>[];

  constructor(readonly names: readonly string[]) {
    this.#strings = names.map(cString);
    this.pointers = pinned(BigUint64Array.from(this.#strings, address));
  }
}
