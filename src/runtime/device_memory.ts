/**
 * Tensors of one picture in a device's own memory: who holds them, and the graphs that make new ones of them.
 *
 * @module
 */
import { Graph } from "../graph/graph.ts";
import { type DeviceSession, type DeviceTensor, type FloatTensor, floatTensor, type Tensor } from "./runtime.ts";

/** Gives the session of a graph, loaded when it is first asked for; the key names the graph. */
export type DeviceSessions = (key: string, graph: () => Graph) => Promise<DeviceSession>;

/**
 * Keeps count of tensors, so that each is freed when its last holder lets go, and all that are left with this object.
 *
 * @example
 * ```ts
 * import { DeviceMemory } from "@stagevar/stagevar/runtime/device_memory.ts";
 * import { openNative } from "@stagevar/stagevar/runtime/native.ts";
 * import { floatTensor } from "@stagevar/stagevar/runtime/runtime.ts";
 * import assert from "node:assert/strict";
 * using runtime = openNative({ resident: true });
 * using memory = new DeviceMemory((_key, graph) => runtime.createDeviceSession!(graph()));
 * const x = await memory.upload(floatTensor(Float32Array.of(1, 2, 3), [3]));
 * assert.deepEqual([...await memory.read(x)], [1, 2, 3]);
 * memory.free(x);
 * ```
 */
export class DeviceMemory implements Disposable {
  readonly #sessions: DeviceSessions;
  readonly #holders = new Map<DeviceTensor, number>();

  /** Nothing is held at first. */
  constructor(sessions: DeviceSessions) {
    this.#sessions = sessions;
  }

  /**
   * Runs a graph; its outputs named in `kept` (with their shapes) stay on the device, held once.
   *
   * @param outputs arrays on the host to write other outputs to
   */
  async run(
    key: string,
    graph: () => Graph,
    inputs: Readonly<Record<string, Tensor | DeviceTensor>>,
    kept: Readonly<Record<string, readonly number[]>>,
    { outputs = {}, signal }: { outputs?: Readonly<Record<string, Tensor>>; signal?: AbortSignal | undefined } = {},
  ): Promise<Record<string, DeviceTensor>> {
    const session = await this.#sessions(key, graph);
    const made = await session.runKeeping(inputs, outputs, kept, signal);
    for (const tensor of Object.values(made)) this.#holders.set(tensor, 1);
    return made;
  }

  /** A copy on the device, of a float32 tensor: WebGPU takes int64 only as an argument of operators. */
  async upload(tensor: FloatTensor, signal?: AbortSignal): Promise<DeviceTensor> {
    const { dims } = tensor;
    return (await this.run("upload", () => copyGraph("upload"), { x: tensor }, { y: dims }, { signal }))["y"]!;
  }

  /** The values of a float32 tensor on the host. */
  async read(tensor: DeviceTensor): Promise<Float32Array> {
    const { dims } = tensor;
    const data = new Float32Array(dims.reduce((product, dim) => product * dim, 1));
    const outputs = { y: floatTensor(data, dims) };
    await this.run("read", () => copyGraph("read"), { x: tensor }, {}, { outputs });
    return data;
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
function copyGraph(name: string): Graph {
  const graph = new Graph(name);
  graph.output("y", graph.input("x", "F32"), "F32");
  return graph;
}
