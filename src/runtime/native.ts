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
import type { CudaKernels } from "./cuda_kernels.ts";
import type { CudaMemory } from "./cuda_memory.ts";
import { CustomOps } from "./custom_ops.ts";
import { cudaComputes } from "./cuda_computes.ts";
import { FUSED_DOMAIN, type FusedComputes, fusedOps } from "./fused_ops.ts";
import { libraryPath } from "./library_path.ts";
import { type NativeMemory, NativeSession, OUT_OF_MEMORY, releasedError } from "./native_session.ts";
import { type NativeTensor, newTensor, rowsOf } from "./native_tensor.ts";
import { address, cString, type Handle, OrtApi, OrtError, pinned } from "./ort_api.ts";
import type { DeviceForm, DeviceSession, DeviceTensor, Residency, Runtime, Tensor } from "./runtime.ts";

/** Without these two passes an f16 or bf16 weight stays mapped and is widened as it is used (specs/onnxruntime.md A). */
const FOLDING = "ConstantFolding;FuseFp16InitializerToFp32NodeTransformer";
/**
 * Bytes of packed weights after which the heap is trimmed: packing leaves as much again on it, half a gigabyte of a decoder. After
 * every session loading would take half as long again, in pages taken anew (bench/LOG.md).
 */
const TRIM_EVERY = 2 ** 26;

/** Settings of the CPU runtime. */
export interface NativeOptions {
  /** Threads of the shared pool; 0 or none for one a core. */
  threads?: number;
  /** Offer sessions that keep tensors, with graphs in the form of that GPU: what runs there can be tried where there is none. */
  resident?: "webgpu" | "cuda";
  /** Computes CUDA's own operators in its place, in host memory. */
  fused?: FusedComputes;
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

/** Forms of graphs. On WebGPU attention is `plain` until somebody has seen that `fused` is right. */
const FORMS: Readonly<Record<"cpu" | "webgpu" | "cuda", DeviceForm>> = {
  cpu: { attention: "fused", norms: "rowwise" },
  webgpu: { attention: "plain", norms: "apart", half: "products" },
  cuda: { attention: "fused", norms: "rowwise", half: "block", maps: "channels last" },
};

/** The library on one device; see {@linkcode openNative}, webgpu.ts and cuda.ts. */
export class NativeRuntime implements Runtime {
  /** Name of the device. */
  readonly device: "cpu" | "webgpu" | "cuda";
  /** See {@linkcode Runtime}. */
  form: DeviceForm;
  /** Name and version. */
  readonly version: string;
  readonly #api: OrtApi;
  readonly #env: Handle;
  readonly #memory: NativeMemory;
  readonly #kernels: CudaKernels | undefined;
  readonly #ops: CustomOps | undefined;
  /** See {@linkcode Runtime}; the CPU has no memory of its own, and does it only for tests. */
  readonly createDeviceSession: ((graph: Graph, repeated?: boolean) => Promise<DeviceSession>) | undefined;
  /** See {@linkcode Runtime}. */
  readonly upload: ((tensor: Tensor) => DeviceTensor) | undefined;
  /** See {@linkcode Runtime}. */
  readonly download: Runtime["download"];
  /** See {@linkcode Runtime}. */
  readonly rows: Runtime["rows"];
  #untrimmed = 0; // bytes of weights packed since the heap was trimmed
  #open = 0; // sessions that are loading or not yet released
  #disposed = false;

  /**
   * Loads the library and starts its threads.
   *
   * @param cuda memory of the CUDA device and kernels on it, taken over
   * @throws {DeviceError} when it cannot be loaded
   */
  constructor(
    device: "cpu" | "webgpu" | "cuda",
    { threads = 0, resident, fused }: NativeOptions = {},
    { memory: cuda, kernels }: { readonly memory?: CudaMemory; readonly kernels?: CudaKernels } = {},
  ) {
    const api = new OrtApi(libraryPath());
    this.#api = api;
    this.device = device;
    // CUDA's maps have no operators on the CPU
    const form = resident ? { ...FORMS[resident], maps: undefined } : FORMS[device];
    this.form = { ...form, fused: kernels !== undefined || fused !== undefined };
    this.version = `onnxruntime ${api.version}${cuda ? ` on ${cuda.name}` : ""}`;
    const { call } = api;
    const threading = api.create((out) => call.CreateThreadingOptions(out));
    api.check(call.SetGlobalIntraOpNumThreads(threading, threads));
    api.check(call.SetGlobalSpinControl(threading, 0));
    const SILENT = 4; // failures come back as statuses; nothing is to write on the caller's terminal
    this.#env = api.create((out) => call.CreateEnvWithGlobalThreadPools(SILENT, cString("stagevar"), threading, out));
    call.ReleaseThreadingOptions(threading);
    const ARENA = 1, DEFAULT = 0, SAME_AS_REQUESTED = 1;
    const host = api.create((out) => call.CreateCpuMemoryInfo(ARENA, DEFAULT, out));
    const arena = api.create((out) => call.CreateArenaCfg(0n, SAME_AS_REQUESTED, -1, -1, out));
    api.check(call.CreateAndRegisterAllocator(this.#env, host, arena));
    call.ReleaseArenaCfg(arena);
    this.#memory = { host, device: resident ? host : this.#deviceMemory(), cuda };
    this.#kernels = kernels;
    const computes = kernels ? cudaComputes(kernels) : fused;
    const provider = cuda ? "CUDAExecutionProvider" : "CPUExecutionProvider";
    if (computes) this.#ops = new CustomOps(api, FUSED_DOMAIN, provider, fusedOps(computes));
    if (!this.#memory.device) return;
    this.createDeviceSession = (graph, repeated) => this.createSession(graph, "packed", true, repeated);
    if (!cuda) return;
    this.upload = (tensor) => this.#upload(cuda, tensor);
    this.download = (tensor, data) => cuda.read((tensor as NativeTensor).address, data as ArrayBufferView<ArrayBuffer>);
    this.rows = (tensor, element, rows, freed) =>
      rowsOf(api, this.#memory.device!, element, tensor as NativeTensor, rows, freed);
  }

  #deviceMemory(): Handle | undefined {
    if (this.device === "cpu") return undefined;
    const name = this.device === "webgpu" ? "WebGPU_Buf" : "Cuda";
    const DEVICE_ALLOCATOR = 0, DEFAULT = 0;
    return this.#api.create((out) => this.#api.call.CreateMemoryInfo(cString(name), DEVICE_ALLOCATOR, 0, DEFAULT, out));
  }

  #upload(cuda: CudaMemory, { element, dims, data }: Tensor): DeviceTensor {
    const tensor = newTensor(this.#api, this.#memory.device!, cuda, element, dims);
    cuda.write(tensor.address, data as ArrayBufferView<ArrayBuffer>);
    return tensor;
  }

  /**
   * With `whole`, every operator must be the device's own: one on the CPU would copy its tensors there and back unseen. With
   * `repeated`, runs can be recorded.
   */
  async createSession(
    graph: Graph,
    residency: Residency = "packed",
    whole = false,
    repeated = false,
  ): Promise<DeviceSession> {
    if (this.#disposed) throw releasedError(graph.name);
    this.#open++;
    try {
      const recorded = repeated && this.#memory.cuda !== undefined;
      const session = await this.#load(graph, residency, whole, recorded);
      return new NativeSession(this.#api, this.#memory, session, graph, recorded, () => this.#close());
    } catch (error) {
      this.#close();
      throw error;
    }
  }

  async #load(graph: Graph, residency: Residency, whole: boolean, recorded: boolean): Promise<Handle> {
    const { call } = this.#api;
    const bytes = await graph.encode("external") as Uint8Array<ArrayBuffer>;
    const options = this.#api.create((out) => call.CreateSessionOptions(out));
    try {
      const config = (key: string, value: string): void =>
        this.#api.check(call.AddSessionConfigEntry(options, cString(key), cString(value)));
      this.#api.check(call.DisablePerSessionThreads(options));
      this.#api.check(call.DisableMemPattern(options)); // shapes change every scale
      config("session.use_env_allocators", "1");
      if (whole && this.device !== "cpu") config("session.disable_cpu_ep_fallback", "1");
      if (this.#memory.cuda) this.#useCuda(options, this.#memory.cuda, graph, recorded);
      if (graph.form.fused) this.#ops?.addTo(options);
      if (this.device === "webgpu") {
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
      if (residency === "packed") this.#untrimmed += graph.weightBytes() + bytes.length;
      if (this.#untrimmed > TRIM_EVERY) {
        this.#untrimmed = 0;
        await this.#api.trimHeap();
      }
      return Deno.UnsafePointer.create(out[0]!);
    } catch (cause) {
      if (!(cause instanceof OrtError)) throw cause;
      throw loadFailure(graph.name, cause);
    } finally {
      call.ReleaseSessionOptions(options);
    }
  }

  /** Half precision may round what float32 products and convolutions read to ten bits as well. */
  #useCuda(options: Handle, cuda: CudaMemory, graph: Graph, recorded: boolean): void {
    const { call } = this.#api;
    const settings = {
      device_id: "0",
      has_user_compute_stream: "1",
      user_compute_stream: String(cuda.stream),
      arena_extend_strategy: "kSameAsRequested", // the default takes twice what is left of a gigabyte
      use_tf32: graph.form.half ? "1" : "0",
      enable_cuda_graph: recorded ? "1" : "0",
    };
    const strings = Object.entries(settings).map((pair) => pair.map(cString));
    const table = (column: number): BigUint64Array<ArrayBuffer> =>
      BigUint64Array.from(strings, (pair) => address(pair[column]!));
    const provider = this.#api.create((out) => call.CreateCUDAProviderOptions(out));
    try {
      const [keys, values] = [table(0), table(1)];
      this.#api.check(call.UpdateCUDAProviderOptions(provider, keys, values, BigInt(strings.length)));
      this.#api.check(call.SessionOptionsAppendExecutionProvider_CUDA_V2(options, provider));
    } finally {
      call.ReleaseCUDAProviderOptions(provider);
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
    const { host, device, cuda } = this.#memory;
    for (const memory of new Set([host, device ?? host])) this.#api.call.ReleaseMemoryInfo(memory);
    this.#api.call.ReleaseEnv(this.#env);
    this.#ops?.[Symbol.dispose]();
    this.#kernels?.[Symbol.dispose]();
    cuda?.[Symbol.dispose]();
  }
}
