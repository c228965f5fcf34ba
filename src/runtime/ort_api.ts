/**
 * ONNX Runtime's C API through Deno's foreign functions: the library of npm:onnxruntime-node, without its JS binding.
 *
 * The binding blocks the event loop, ignores terminate and copies outputs (specs/onnxruntime.md F, G); these calls do none
 * of that. `OrtApi` is an append-only struct of function pointers: an index below is a position in it
 * (onnxruntime_c_api.h, struct OrtApi), stable across releases.
 *
 * @module
 */
import { DeviceError } from "../errors.ts";

/** Version of the function table asked for; every later library serves it. */
const API_VERSION = 18;

const INDEX = {
  CreateStatus: 0,
  GetErrorMessage: 2,
  CreateSessionFromArray: 8,
  Run: 9,
  CreateSessionOptions: 10,
  DisableMemPattern: 17,
  SetSessionGraphOptimizationLevel: 23,
  CreateCustomOpDomain: 26,
  CustomOpDomain_Add: 27,
  AddCustomOpDomain: 28,
  CreateRunOptions: 39,
  RunOptionsSetTerminate: 46,
  CreateTensorWithDataAsOrtValue: 49,
  GetTensorMutableData: 51,
  GetDimensionsCount: 61,
  GetDimensions: 62,
  GetTensorTypeAndShape: 65,
  CreateMemoryInfo: 68,
  CreateCpuMemoryInfo: 69,
  AllocatorFree: 76,
  GetAllocatorWithDefaultOptions: 78,
  KernelInfoGetAttribute_float: 85,
  KernelInfoGetAttribute_int64: 86,
  KernelContext_GetInput: 90,
  KernelContext_GetOutput: 91,
  ReleaseEnv: 92,
  ReleaseStatus: 93,
  ReleaseMemoryInfo: 94,
  ReleaseSession: 95,
  ReleaseValue: 96,
  ReleaseRunOptions: 97,
  ReleaseTensorTypeAndShapeInfo: 99,
  ReleaseSessionOptions: 100,
  ReleaseCustomOpDomain: 101,
  CreateEnvWithGlobalThreadPools: 119,
  DisablePerSessionThreads: 120,
  CreateThreadingOptions: 121,
  ReleaseThreadingOptions: 122,
  GetAvailableProviders: 125,
  ReleaseAvailableProviders: 126,
  AddSessionConfigEntry: 130,
  RunWithBinding: 133,
  CreateIoBinding: 134,
  ReleaseIoBinding: 135,
  BindInput: 136,
  BindOutput: 137,
  BindOutputToDevice: 138,
  GetBoundOutputValues: 140,
  CreateAndRegisterAllocator: 144,
  SetGlobalIntraOpNumThreads: 147,
  SetGlobalSpinControl: 149,
  CreateArenaCfg: 156,
  ReleaseArenaCfg: 157,
  AddRunConfigEntry: 165,
  SessionOptionsAppendExecutionProvider_CUDA_V2: 204,
  CreateCUDAProviderOptions: 205,
  UpdateCUDAProviderOptions: 206,
  ReleaseCUDAProviderOptions: 208,
  SessionOptionsAppendExecutionProvider: 216,
} as const;

/** An opaque pointer owned by the library. */
export type Handle = Deno.PointerValue;

/** Bytes of a NUL-terminated string, to be kept alive by the caller for as long as the library may read them. */
export function cString(text: string): Uint8Array<ArrayBuffer> {
  return new TextEncoder().encode(`${text}\0`);
}

/**
 * The same array, at an address that will not change: V8 keeps a small typed array inside its moving heap until its
 * buffer is asked for. Everything that a background call reads or writes must go through here.
 */
export function pinned<View extends ArrayBufferView<ArrayBuffer>>(data: View): View {
  if (data.buffer.detached) throw new TypeError("Cannot hand a detached array to ONNX Runtime");
  return data;
}

/** Address of the first byte of an array, for tables of pointers. */
export function address(data: ArrayBufferView<ArrayBuffer>): bigint {
  return Deno.UnsafePointer.value(Deno.UnsafePointer.of(pinned(data)));
}

/**
 * The functions of a table, typed; those in the background return promises and keep the event loop alive.
 *
 * @ignore its type is what TypeScript infers of the table
 */
export function bindFunctions(table: Deno.UnsafePointerView) {
  const at = <const Parameters extends Deno.NativeType[], const Result extends Deno.NativeResultType>(
    name: keyof typeof INDEX,
    parameters: Parameters,
    result: Result,
  ) => {
    const pointer = table.getPointer(INDEX[name] * 8) as Deno.PointerObject<{ parameters: Parameters; result: Result }>;
    const call = new Deno.UnsafeFnPointer(pointer, { parameters, result });
    return call.call.bind(call) as typeof call.call;
  };
  const background = <const Parameters extends Deno.NativeType[], const Result extends Deno.NativeResultType>(
    name: keyof typeof INDEX,
    parameters: Parameters,
    result: Result,
  ) => {
    const definition = { parameters, result, nonblocking: true } as const;
    const pointer = table.getPointer(INDEX[name] * 8) as Deno.PointerObject<typeof definition>;
    const call = new Deno.UnsafeFnPointer(pointer, definition);
    return call.call.bind(call) as typeof call.call;
  };
  const P = "pointer", B = "buffer";
  return {
    GetErrorMessage: at("GetErrorMessage", [P], P),
    ReleaseStatus: at("ReleaseStatus", [P], "void"),
    CreateThreadingOptions: at("CreateThreadingOptions", [B], P),
    SetGlobalIntraOpNumThreads: at("SetGlobalIntraOpNumThreads", [P, "i32"], P),
    SetGlobalSpinControl: at("SetGlobalSpinControl", [P, "i32"], P),
    ReleaseThreadingOptions: at("ReleaseThreadingOptions", [P], "void"),
    GetAvailableProviders: at("GetAvailableProviders", [B, B], P),
    ReleaseAvailableProviders: at("ReleaseAvailableProviders", [P, "i32"], P),
    CreateEnvWithGlobalThreadPools: at("CreateEnvWithGlobalThreadPools", ["i32", B, P, B], P),
    ReleaseEnv: at("ReleaseEnv", [P], "void"),
    CreateArenaCfg: at("CreateArenaCfg", ["usize", "i32", "i32", "i32", B], P),
    ReleaseArenaCfg: at("ReleaseArenaCfg", [P], "void"),
    CreateAndRegisterAllocator: at("CreateAndRegisterAllocator", [P, P, P], P),
    CreateMemoryInfo: at("CreateMemoryInfo", [B, "i32", "i32", "i32", B], P),
    AllocatorFree: at("AllocatorFree", [P, P], P),
    GetAllocatorWithDefaultOptions: at("GetAllocatorWithDefaultOptions", [B], P),
    CreateIoBinding: at("CreateIoBinding", [P, B], P),
    ReleaseIoBinding: at("ReleaseIoBinding", [P], "void"),
    BindInput: at("BindInput", [P, B, P], P),
    BindOutput: at("BindOutput", [P, B, P], P),
    BindOutputToDevice: at("BindOutputToDevice", [P, B, P], P),
    GetBoundOutputValues: at("GetBoundOutputValues", [P, P, B, B], P),
    RunWithBinding: background("RunWithBinding", [P, P, P], P),
    RunWithBindingNow: at("RunWithBinding", [P, P, P], P),
    CreateCpuMemoryInfo: at("CreateCpuMemoryInfo", ["i32", "i32", B], P),
    ReleaseMemoryInfo: at("ReleaseMemoryInfo", [P], "void"),
    CreateSessionOptions: at("CreateSessionOptions", [B], P),
    DisableMemPattern: at("DisableMemPattern", [P], P),
    SetSessionGraphOptimizationLevel: at("SetSessionGraphOptimizationLevel", [P, "i32"], P),
    DisablePerSessionThreads: at("DisablePerSessionThreads", [P], P),
    AddSessionConfigEntry: at("AddSessionConfigEntry", [P, B, B], P),
    SessionOptionsAppendExecutionProvider: at("SessionOptionsAppendExecutionProvider", [P, B, P, P, "usize"], P),
    SessionOptionsAppendExecutionProvider_CUDA_V2: at("SessionOptionsAppendExecutionProvider_CUDA_V2", [P, P], P),
    CreateCUDAProviderOptions: at("CreateCUDAProviderOptions", [B], P),
    UpdateCUDAProviderOptions: at("UpdateCUDAProviderOptions", [P, B, B, "usize"], P),
    ReleaseCUDAProviderOptions: at("ReleaseCUDAProviderOptions", [P], "void"),
    ReleaseSessionOptions: at("ReleaseSessionOptions", [P], "void"),
    CreateSessionFromArray: background("CreateSessionFromArray", [P, B, "usize", P, B], P),
    ReleaseSession: at("ReleaseSession", [P], "void"),
    CreateRunOptions: at("CreateRunOptions", [B], P),
    RunOptionsSetTerminate: at("RunOptionsSetTerminate", [P], P),
    AddRunConfigEntry: at("AddRunConfigEntry", [P, B, B], P),
    ReleaseRunOptions: at("ReleaseRunOptions", [P], "void"),
    CreateTensorWithDataAsOrtValue: at("CreateTensorWithDataAsOrtValue", [P, B, "usize", B, "usize", "i32", B], P),
    CreateTensorAt: at("CreateTensorWithDataAsOrtValue", [P, "usize", "usize", B, "usize", "i32", B], P),
    ReleaseValue: at("ReleaseValue", [P], "void"),
    CreateStatus: at("CreateStatus", ["i32", B], P),
    CreateCustomOpDomain: at("CreateCustomOpDomain", [B, B], P),
    CustomOpDomain_Add: at("CustomOpDomain_Add", [P, P], P),
    AddCustomOpDomain: at("AddCustomOpDomain", [P, P], P),
    ReleaseCustomOpDomain: at("ReleaseCustomOpDomain", [P], "void"),
    KernelInfoGetAttribute_float: at("KernelInfoGetAttribute_float", [P, B, B], P),
    KernelInfoGetAttribute_int64: at("KernelInfoGetAttribute_int64", [P, B, B], P),
    KernelContext_GetInput: at("KernelContext_GetInput", [P, "usize", B], P),
    KernelContext_GetOutput: at("KernelContext_GetOutput", [P, "usize", B, "usize", B], P),
    GetTensorMutableData: at("GetTensorMutableData", [P, B], P),
    GetTensorTypeAndShape: at("GetTensorTypeAndShape", [P, B], P),
    GetDimensionsCount: at("GetDimensionsCount", [P, B], P),
    GetDimensions: at("GetDimensions", [P, B, "usize"], P),
    ReleaseTensorTypeAndShapeInfo: at("ReleaseTensorTypeAndShapeInfo", [P], "void"),
    RunNow: at("Run", [P, P, B, B, "usize", B, "usize", B], P),
    Run: background("Run", [P, P, B, B, "usize", B, "usize", B], P),
  };
}

/** The functions of the C API that this project calls, with status handling. */
export class OrtApi {
  /** Version string of the library, as `1.30.0`. */
  readonly version: string;
  /** The raw functions; those that return a status go through {@linkcode OrtApi.check}. */
  readonly call: ReturnType<typeof bindFunctions>;
  /** Gives what the C library's heap holds in reserve back to the system; does nothing where it has no such function. */
  readonly trimHeap: () => Promise<void>;

  /**
   * Opens the library.
   *
   * @throws {DeviceError} when it is not there, is not ONNX Runtime, or is older than the table this file knows
   */
  constructor(path: string) {
    const symbols = {
      OrtGetApiBase: { parameters: [], result: "pointer" },
      // not of the library itself, but of the glibc that it is linked with on Linux
      malloc_trim: { parameters: ["usize"], result: "i32", nonblocking: true, optional: true },
    } as const;
    let base: Handle;
    try {
      const library = Deno.dlopen(path, symbols).symbols;
      base = library.OrtGetApiBase();
      this.trimHeap = async () => void await library.malloc_trim?.(0n);
    } catch (cause) {
      throw new DeviceError(`Cannot load ONNX Runtime from "${path}": ${(cause as Error).message}`, { cause });
    }
    const view = new Deno.UnsafePointerView(base!);
    const text = new Deno.UnsafeFnPointer(
      view.getPointer(8)! as Deno.PointerObject<{ parameters: []; result: "pointer" }>,
      { parameters: [], result: "pointer" },
    ).call();
    this.version = new Deno.UnsafePointerView(text!).getCString();
    const table = new Deno.UnsafeFnPointer(
      view.getPointer(0)! as Deno.PointerObject<{ parameters: ["u32"]; result: "pointer" }>,
      { parameters: ["u32"], result: "pointer" },
    ).call(API_VERSION);
    if (table === null) {
      throw new DeviceError(`ONNX Runtime "${this.version}" is too old: function table ${API_VERSION} is wanted`);
    }
    this.call = bindFunctions(new Deno.UnsafePointerView(table));
  }

  /** Execution providers that the library was built with, best first, as `CPUExecutionProvider`. */
  providers(): string[] {
    const length = pinned(new Int32Array(1));
    const names = this.create((out) => this.call.GetAvailableProviders(out, length));
    const table = new Deno.UnsafePointerView(names!);
    try {
      return Array.from(
        { length: length[0]! },
        (_, i) => new Deno.UnsafePointerView(table.getPointer(i * 8)!).getCString(),
      );
    } finally {
      this.check(this.call.ReleaseAvailableProviders(names, length[0]!));
    }
  }

  /** Throws what a status says; null is success. */
  check(status: Handle): void {
    if (status === null) return;
    const message = new Deno.UnsafePointerView(this.call.GetErrorMessage(status)!).getCString();
    this.call.ReleaseStatus(status);
    throw new OrtError(message);
  }

  /** Calls a constructor whose last parameter receives the new handle. */
  create(construct: (out: BigUint64Array<ArrayBuffer>) => Handle): Handle {
    const out = pinned(new BigUint64Array(1));
    this.check(construct(out));
    return Deno.UnsafePointer.create(out[0]!);
  }
}

/** What the library said of a failed call, before the caller knows which of our errors it is. */
export class OrtError extends Error {
  /** Tells it apart in messages. */
  override name = "OrtError";
}
