import assert from "node:assert/strict";
import { join } from "node:path";
import { beginRun } from "../src/models/infinity/device_run.ts";
import { openInfinity } from "../src/models/infinity/model.ts";
import { type EncodedText, InfinityTransformer } from "../src/models/infinity/transformer.ts";
import type { DeviceSession, DeviceTensor, Runtime, Tensor } from "../src/runtime/runtime.ts";
import { MODELS } from "./mini_models.ts";

/** A device that computes nothing, and counts what is alive on it. */
class FakeDevice implements Runtime {
  readonly device = "fake";
  readonly attention = "plain";
  readonly version = "fake 1.0";
  readonly alive = new Set<DeviceTensor>();
  readonly runs: { graph: string; inputs: Readonly<Record<string, Tensor | DeviceTensor>> }[] = [];
  /** Fails the run of this number, counted from 0. */
  failAt = Infinity;

  createSession(): Promise<DeviceSession> {
    return Promise.reject(new Error("Nobody should work in host memory"));
  }

  createDeviceSession = (graph: { name: string }): Promise<DeviceSession> =>
    Promise.resolve({
      run: () => Promise.reject(new Error("Nobody should take all outputs to the host")),
      runKeeping: (inputs, _outputs, kept) => {
        for (const tensor of Object.values(inputs)) {
          if (!("data" in tensor)) assert(this.alive.has(tensor), `"${graph.name}" reads a tensor that was freed`);
        }
        if (this.runs.length === this.failAt) return Promise.reject(new Error("out of memory"));
        this.runs.push({ graph: graph.name, inputs });
        return Promise.resolve(
          Object.fromEntries(Object.entries(kept).map(([name, dims]) => [name, this.#tensor(dims)])),
        );
      },
      [Symbol.dispose]: () => {},
    });

  #tensor(dims: readonly number[]): DeviceTensor {
    const tensor: DeviceTensor = { dims, [Symbol.dispose]: () => void this.alive.delete(tensor) };
    this.alive.add(tensor);
    return tensor;
  }

  [Symbol.dispose](): void {}
}

const GRID = { h: 2, w: 2 };

async function begin(device: FakeDevice) {
  const { transformer: weights } = await openInfinity(join(MODELS, "mini-2b"));
  const { width, depth } = weights.dims;
  const text = (tokens: number): EncodedText => {
    const zeros = (count: number): Float32Array => new Float32Array(count);
    const each = Array.from({ length: depth }, () => zeros(tokens * width));
    return {
      ...{ tokens, cond: zeros(width), start: zeros(width), ada: zeros(6 * width), head: zeros(2 * width) },
      ...{ ctx: zeros(tokens * width), keys: each, values: each },
    };
  };
  const transformer = await InfinityTransformer.open(weights, device);
  const run = beginRun(transformer, [text(3), text(5)], [], { h: 64, w: 64 });
  const scale = (tokens: number) => run.chunk(1, new Float32Array(run.rows * tokens * width), GRID);
  return { run, scale, depth, per: depth / weights.dims.chunks };
}

Deno.test("a run on a device uploads texts once, feeds its caches back and frees what they replace", async () => {
  const device = new FakeDevice();
  const { run, scale, depth, per } = await begin(device);
  await scale(1);
  const texts = 2 * 2 * depth, caches = 2 * 2 * per;
  assert.equal(device.runs.filter(({ graph }) => graph === "upload").length, texts);
  assert.equal(device.alive.size, texts + caches);
  await scale(4);
  assert.equal(device.alive.size, texts + caches, "the first scale's caches are gone");
  const [first, second] = device.runs.filter(({ graph }) => graph.startsWith("chunk"));
  assert.deepEqual(first!.inputs["keys.0.1"]!.dims, [1, 0, 32], "no past yet");
  assert.deepEqual(second!.inputs["keys.0.1"]!.dims, [1, 1, 32]);
  assert.deepEqual(second!.inputs["textKeys.0.0"]!.dims, [1, 3, 32]);
  assert.deepEqual(second!.inputs["textKeys.0.1"]!.dims, [1, 5, 32]);

  // the null row alone goes on, with its own cache and text
  run.keepRows(1, 2);
  await scale(2);
  assert.equal(device.alive.size, (texts + caches) / 2);
  const third = device.runs.at(-1)!;
  assert.deepEqual(third.inputs["values.1.0"]!.dims, [1, 5, 32]);
  assert.deepEqual(third.inputs["textKeys.0.0"]!.dims, [1, 5, 32]);
  run[Symbol.dispose]();
  await new Promise((resolve) => setTimeout(resolve, 0));
  assert.equal(device.alive.size, 0);
});

Deno.test("a run that fails on a device keeps its cache, and all of it is freed at the end", async () => {
  const device = new FakeDevice();
  const { run, scale, depth, per } = await begin(device);
  await scale(1);
  device.failAt = device.runs.length;
  await assert.rejects(scale(4), /out of memory/);
  assert.equal(device.alive.size, 2 * 2 * (depth + per));
  run[Symbol.dispose]();
  await new Promise((resolve) => setTimeout(resolve, 0));
  assert.equal(device.alive.size, 0);
});

Deno.test("a text that does not fit on a device leaves nothing behind", async () => {
  const device = new FakeDevice();
  const { run, scale } = await begin(device);
  device.failAt = 7;
  await assert.rejects(scale(1), /out of memory/);
  run[Symbol.dispose]();
  await new Promise((resolve) => setTimeout(resolve, 0));
  assert.equal(device.alive.size, 0);
});
