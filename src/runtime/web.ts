/**
 * ONNX Runtime compiled to WebAssembly, for machines that the native library does not run on.
 *
 * The package is imported when this device is opened, by a name the module graph does not see, so that a default install
 * does not carry it. Weights are copied into the module's memory (4 GiB at most): small models only.
 *
 * @module
 */
import { DeviceError, ModelError } from "../errors.ts";
import type { Graph } from "../graph/graph.ts";
import type { Runtime, Session, Tensor, Tensors } from "./runtime.ts";

const PACKAGE = "npm:onnxruntime-web@1.30.0";

/** Weights beyond this do not fit a 32-bit WebAssembly memory together with activations. */
const WEIGHT_LIMIT = 2 * 2 ** 30;

/** The part of onnxruntime-web's interface used here. */
interface OrtWeb {
  readonly env: { wasm: { numThreads?: number }; logLevel?: string; readonly versions: { readonly web?: string } };
  readonly Tensor: new (type: string, data: Tensor["data"], dims: readonly number[]) => WebTensor;
  readonly InferenceSession: {
    create(model: Uint8Array, options: Record<string, unknown>): Promise<WebSession>;
  };
}

interface WebTensor {
  readonly data: Tensor["data"];
}

interface WebSession {
  run(feeds: Record<string, WebTensor>): Promise<Record<string, WebTensor>>;
  release(): Promise<void>;
}

/**
 * Opens the portable runtime. The first time, Deno fetches the package from npm.
 *
 * @throws {DeviceError} when the package cannot be had
 * @example
 * ```ts ignore
 * import { openWeb } from "@stagevar/stagevar/runtime/web.ts";
 * using runtime = await openWeb();
 * console.log(runtime.version);
 * ```
 */
export async function openWeb(): Promise<Runtime> {
  try {
    const ort: OrtWeb = await import(PACKAGE);
    ort.env.wasm.numThreads = 1; // its threads need workers of a page
    ort.env.logLevel = "fatal";
    return new WebRuntime(ort);
  } catch (cause) {
    throw new DeviceError(`Cannot load "${PACKAGE}": ${(cause as Error).message}`, {
      cause,
      hint: "Run deno cache npm:onnxruntime-web@1.30.0 once with a network, or use --device cpu",
    });
  }
}

class WebRuntime implements Runtime {
  readonly device = "wasm";
  readonly form = { attention: "fused", norms: "rowwise" } as const;
  readonly version: string;
  readonly #ort: OrtWeb;

  constructor(ort: OrtWeb) {
    this.#ort = ort;
    this.version = `onnxruntime-web ${ort.env.versions.web ?? ""}`.trim();
  }

  async createSession(graph: Graph): Promise<Session> {
    if (graph.weightBytes() > WEIGHT_LIMIT) {
      throw new DeviceError(
        `Graph "${graph.name}" has ${graph.weightBytes()} bytes of weights: device wasm takes ${WEIGHT_LIMIT}`,
        { hint: "Run this model on a machine with a native ONNX Runtime, with --device cpu" },
      );
    }
    try {
      const model = await graph.encode("inline");
      const session = await this.#ort.InferenceSession.create(model, { executionProviders: ["wasm"] });
      return new WebSessionAdapter(this.#ort, session, graph.name);
    } catch (cause) {
      throw new ModelError(`Cannot load graph "${graph.name}": ${(cause as Error).message}`, { cause });
    }
  }

  [Symbol.dispose](): void {
    // The module is shared by the process and has no end of its own.
  }
}

class WebSessionAdapter implements Session {
  readonly #ort: OrtWeb;
  readonly #session: WebSession;
  readonly #graph: string;

  constructor(ort: OrtWeb, session: WebSession, graph: string) {
    this.#ort = ort;
    this.#session = session;
    this.#graph = graph;
  }

  async run(inputs: Tensors, outputs: Tensors, signal?: AbortSignal): Promise<void> {
    // A run holds the only thread: let timers and aborts through before it.
    await new Promise((resolve) => setTimeout(resolve, 0));
    signal?.throwIfAborted();
    const type = { F16: "float16", F32: "float32", I32: "int32", I64: "int64" } as const;
    const feeds = Object.fromEntries(
      Object.entries(inputs).map(([name, tensor]) => [
        name,
        new this.#ort.Tensor(type[tensor.element], tensor.data, tensor.dims),
      ]),
    );
    let results: Record<string, WebTensor>;
    try {
      results = await this.#session.run(feeds);
    } catch (cause) {
      throw new DeviceError(`Cannot run graph "${this.#graph}" on device wasm: ${(cause as Error).message}`, {
        cause,
        hint: "A 32-bit WebAssembly memory may be full: take a smaller size, batch or model",
      });
    }
    for (const [name, tensor] of Object.entries(outputs)) {
      (tensor.data as Float32Array).set(results[name]!.data as Float32Array);
    }
  }

  [Symbol.dispose](): void {
    this.#session.release().catch(() => {});
  }
}
