/**
 * Tensors of one picture in a device's own memory: who holds them, and the graphs that make new ones of them.
 *
 * @module
 */
import { Graph } from "../graph/graph.ts";
import { type DeviceSession, type DeviceTensor, floatTensor, type Runtime, type Tensor } from "./runtime.ts";

/** Gives the session of a graph, loaded when it is first asked for; the key names the graph. */
export type DeviceSessions = (key: string, graph: () => Graph, repeated: boolean) => Promise<DeviceSession>;

/** How a graph is run. */
export interface DeviceRunOptions {
  /** Arrays on the host to write outputs to that do not stay on the device. */
  readonly outputs?: Readonly<Record<string, Tensor>>;
  /** Stops the run. */
  readonly signal?: AbortSignal | undefined;
  /** Whether the graph is run again and again on tensors in the same places. */
  readonly repeated?: boolean;
}

/**
 * Keeps count of tensors, so that each is freed when its last holder lets go, and all that are left with this object.
 *
 * @example
 * ```ts
 * import { DeviceMemory } from "@stagevar/stagevar/runtime/device_memory.ts";
 * import { openNative } from "@stagevar/stagevar/runtime/native.ts";
 * import { floatTensor } from "@stagevar/stagevar/runtime/runtime.ts";
 * import assert from "node:assert/strict";
 * using runtime = openNative({ resident: "webgpu" });
 * using memory = new DeviceMemory((_key, graph) => runtime.createDeviceSession!(graph()));
 * const x = await memory.upload(floatTensor(Float32Array.of(1, 2, 3), [3]));
 * assert.deepEqual([...await memory.read(x)], [1, 2, 3]);
 * memory.free(x);
 * ```
 */
export class DeviceMemory implements Disposable {
  readonly #sessions: DeviceSessions;
  readonly #upload: Runtime["upload"];
  readonly #download: Runtime["download"];
  readonly #rows: Runtime["rows"];
  readonly #holders = new Map<DeviceTensor, number>();

  /**
   * Nothing is held at first.
   *
   * @param device how tensors are copied to it and back, and rows taken; by graphs, where it has no other way
   */
  constructor(
    sessions: DeviceSessions,
    { upload, download, rows }: Pick<Runtime, "upload" | "download" | "rows"> = {},
  ) {
    this.#sessions = sessions;
    this.#upload = upload;
    this.#download = download;
    this.#rows = rows;
  }

  /** Runs a graph; its outputs named in `kept` (with their shapes) stay on the device, held once. */
  async run(
    key: string,
    graph: () => Graph,
    inputs: Readonly<Record<string, Tensor | DeviceTensor>>,
    kept: Readonly<Record<string, readonly number[]>>,
    { outputs = {}, signal, repeated = false }: DeviceRunOptions = {},
  ): Promise<Record<string, DeviceTensor>> {
    const session = await this.#sessions(key, graph, repeated);
    const copies: DeviceTensor[] = []; // the library's own copies of host tensors wait for the device
    const placed: Record<string, Tensor | DeviceTensor> = {};
    for (const name in inputs) {
      let tensor = inputs[name]!;
      if (this.#upload && "data" in tensor && tensor.element !== "I64") copies.push(tensor = this.#upload(tensor));
      placed[name] = tensor;
    }
    try {
      const made = await session.runKeeping(placed, outputs, kept, signal);
      for (const tensor of Object.values(made)) this.#holders.set(tensor, 1);
      return made;
    } finally {
      for (const copy of copies) copy[Symbol.dispose]();
    }
  }

  /** A copy on the device. WebGPU takes int64 only as an argument of operators: {@linkcode DeviceMemory.place} leaves it where it is. */
  async upload(tensor: Tensor, signal?: AbortSignal): Promise<DeviceTensor> {
    if (this.#upload) return this.hold(this.#upload(tensor));
    const { dims, element } = tensor;
    const graph = () => copyGraph(element);
    return (await this.run(`copy ${element}`, graph, { x: tensor }, { y: dims }, { signal }))["y"]!;
  }

  /** A copy on the device where that takes no graph, to be read by every run; else the tensor itself. */
  place(tensor: Tensor): DeviceTensor | Tensor {
    return this.#upload ? this.hold(this.#upload(tensor)) : tensor;
  }

  /** The values of a float32 tensor on the host. */
  async read(tensor: DeviceTensor): Promise<Float32Array> {
    const { dims } = tensor;
    const data = new Float32Array(dims.reduce((product, dim) => product * dim, 1));
    if (this.#download) {
      this.#download(tensor, data);
      return data;
    }
    const outputs = { y: floatTensor(data, dims) };
    await this.run("copy F32", () => copyGraph("F32"), { x: tensor }, {}, { outputs });
    return data;
  }

  /** Rows `from` to `to` of a tensor [R, ...], which is held as long; undefined where that takes a graph. */
  rows(tensor: DeviceTensor, element: Tensor["element"], from: number, to: number): DeviceTensor | undefined {
    if (!this.#rows) return undefined;
    const view = this.#rows(tensor, element, [from, to], () => this.free(tensor));
    this.hold(tensor);
    return this.hold(view);
  }

  /** One more holder of a tensor. */
  hold(tensor: DeviceTensor): DeviceTensor {
    this.#holders.set(tensor, (this.#holders.get(tensor) ?? 0) + 1);
    return tensor;
  }

  /** One holder less; the last one frees it. */
  free(tensor: DeviceTensor): void {
    const holders = this.#holders.get(tensor);
    if (holders === undefined) return; // freed with everything else
    if (holders > 1) this.#holders.set(tensor, holders - 1);
    else {
      this.#holders.delete(tensor);
      tensor[Symbol.dispose]();
    }
  }

  /** Frees whatever is left. */
  [Symbol.dispose](): void {
    for (const tensor of this.#holders.keys()) tensor[Symbol.dispose]();
    this.#holders.clear();
  }
}

/** y = x, of any rank. */
function copyGraph(element: Tensor["element"]): Graph {
  const graph = new Graph("copy");
  graph.output("y", graph.input("x", element), element);
  return graph;
}
