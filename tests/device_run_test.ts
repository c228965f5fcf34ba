import assert from "node:assert/strict";
import { join } from "node:path";
import type { DeviceRows } from "../src/kernels/device_batch.ts";
import { HostKernels } from "../src/kernels/host.ts";
import { beginRun } from "../src/models/infinity/device_run.ts";
import { DeviceError } from "../src/errors.ts";
import { Decoder } from "../src/models/infinity/decoder.ts";
import { openInfinity } from "../src/models/infinity/model.ts";
import { InfinityTransformer } from "../src/models/infinity/transformer.ts";
import { DeviceMemory } from "../src/runtime/device_memory.ts";
import { type NativeOptions, openNative } from "../src/runtime/native.ts";
import {
  type DeviceSession,
  type DeviceTensor,
  floatTensor,
  type Runtime,
  type Tensor,
} from "../src/runtime/runtime.ts";
import { drawScales } from "../src/pipeline.ts";
import { schedule } from "../src/schedule.ts";
import type { Step } from "../src/step.ts";
import { distance } from "./attention.ts";
import { REFERENCE } from "./fused_reference.ts";
import { MODELS } from "./mini_models.ts";

/** A device that computes nothing, and counts what is alive on it. */
class FakeDevice implements Runtime {
  readonly device = "fake";
  readonly form = { attention: "plain", norms: "apart", half: "products" } as const;
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

  chunks(): Readonly<Record<string, Tensor | DeviceTensor>>[] {
    return this.runs.filter(({ graph }) => graph.startsWith("chunk")).map(({ inputs }) => inputs);
  }

  #tensor(dims: readonly number[]): DeviceTensor {
    const tensor: DeviceTensor = { dims, [Symbol.dispose]: () => void this.alive.delete(tensor) };
    this.alive.add(tensor);
    return tensor;
  }

  [Symbol.dispose](): void {}
}

const GRID = { h: 2, w: 2 };
const TEXT_TENSORS = (depth: number): number => 4 + 3 * depth;

/** One picture with a conditional text of 3 tokens and a null text of 5, or of other lengths. */
async function begin(device: Runtime, half = false, lengths: readonly number[] = [3, 5]) {
  const model = await openInfinity(join(MODELS, "mini-2b"));
  const { width, depth, chunks, textDim } = model.transformer.dims;
  const transformer = await InfinityTransformer.open(model.transformer, device, { half });
  const texts = lengths.map((tokens, row) =>
    Float32Array.from({ length: tokens * textDim }, (_, i) => Math.sin(i + 7 * tokens + row))
  );
  const request = { dims: model.dims, images: 1, last: GRID, last1M: { h: 64, w: 64 }, capacity: [] };
  const run = await beginRun(transformer, texts, request);
  assert(!(run.kernels instanceof HostKernels));
  /** A chunk on as many copies of a token row as there are batch rows. */
  const scale = async (tensors: number): Promise<DeviceRows> => {
    const start = run.start() as DeviceRows;
    assert.equal(start.length, tensors);
    return await run.chunk(1, start, GRID) as DeviceRows;
  };
  return { model, transformer, run, scale, width, depth, per: depth / chunks };
}

Deno.test("a run on a device feeds its caches back and frees what they replace", async () => {
  const device = new FakeDevice();
  const { run, scale, depth, per } = await begin(device);
  const texts = 2 * TEXT_TENSORS(depth), tables = 2, caches = 2 * 2 * per;
  assert.equal(device.alive.size, texts);
  const first = await scale(2);
  assert.equal(device.alive.size, texts + tables + caches + 2);
  run.kernels.free(first);
  run.kernels.free(await scale(2));
  assert.equal(device.alive.size, texts + tables + caches, "the first scale's caches and tokens are gone");
  const [cond, nul, condAgain] = device.chunks();
  assert.deepEqual(cond!["keys.0"]!.dims, [1, 0, 32], "no past yet");
  assert.deepEqual(condAgain!["keys.0"]!.dims, [1, 1, 32]);
  assert.deepEqual(cond!["textKeys.0"]!.dims, [1, 3, 32]);
  assert.deepEqual(nul!["textKeys.0"]!.dims, [1, 5, 32]);
  const sent = Object.values(cond!).map((tensor) => "data" in tensor ? tensor.data.length : 0);
  assert(sent.every((length) => length <= 3), "nothing larger than a shape comes from the host");

  // the null row alone goes on, with its own cache and text
  await run.keepRows(1, 2);
  run.kernels.free(await scale(1));
  assert.equal(device.alive.size, texts + tables + caches / 2);
  const last = device.chunks().at(-1)!;
  assert.deepEqual(last["values.1"]!.dims, [1, 2, 32]);
  assert.deepEqual(last["textKeys.0"]!.dims, [1, 5, 32]);

  run.freeCache();
  assert.equal(device.alive.size, tables, "texts and caches go before the decoder runs");
  run[Symbol.dispose]();
  assert.equal(device.alive.size, 0);
});

Deno.test("both rows of a picture whose texts are of one length run as one, until one row goes on alone", async () => {
  const device = new FakeDevice();
  const { run, scale, depth, per } = await begin(device, false, [4, 4]);
  const apart = 2 * TEXT_TENSORS(depth), joined = TEXT_TENSORS(depth) - 2, tables = 2, caches = 2 * per;
  assert.equal(device.alive.size, apart + joined, "cond and ctx are not joined: nothing reads them");
  for (let chunk = 0; chunk < 2; chunk++) run.kernels.free(await scale(1));
  const [first, second] = device.chunks();
  assert.deepEqual([first!["x"]!.dims, first!["keys.0"]!.dims], [[2, 1, 32], [2, 0, 32]]);
  assert.deepEqual([second!["keys.0"]!.dims, second!["textKeys.0"]!.dims], [[2, 1, 32], [2, 4, 32]]);
  assert.equal(device.alive.size, apart + joined + tables + caches);

  // what is kept for later, and guided, is the null row's alone
  const both = await scale(1);
  const [kept] = await run.kernels.keep(both, GRID, "null") as DeviceRows;
  assert.deepEqual([both[0]!.dims, kept!.dims], [[2, 1, 32], [1, 1, 32]]);
  run.kernels.free([kept!]);
  run.kernels.free(both);
  run.freeCache();
  run[Symbol.dispose]();
  assert.equal(device.alive.size, 0);
});

Deno.test("a cache is cut where it lies, on a device that can", async () => {
  const device = new FakeDevice();
  const rows: number[] = [];
  const row: Runtime["rows"] = (whole, _element, [from, to], freed) => {
    rows.push(from);
    const view = {
      dims: [to - from, ...whole.dims.slice(1)],
      [Symbol.dispose]: () => void (device.alive.delete(view) && freed()),
    };
    device.alive.add(view);
    return view;
  };
  const { run, depth, model: { dims: { chunks } } } = await begin(Object.assign(device, { rows: row }), false, [4, 4]);
  const scale = async (): Promise<void> => {
    let x = run.start() as DeviceRows;
    for (let chunk = 0; chunk < chunks; chunk++) x = await run.chunk(chunk, x, GRID) as DeviceRows;
    run.kernels.free(x);
  };
  await scale();
  const graphs = device.runs.length;
  await run.keepRows(1, 2);
  assert.equal(device.runs.length, graphs, "no graph ran");
  assert.deepEqual(rows, new Array(2 * depth).fill(1));
  await scale();
  assert.deepEqual(device.chunks().at(-1)!["keys.0"]!.dims, [1, 1, 32]);
  const [texts, tables] = [2 * TEXT_TENSORS(depth), 2];
  assert.equal(device.alive.size, texts + tables + 2 * depth, "what was cut is gone with its next scale");
  run[Symbol.dispose]();
  assert.equal(device.alive.size, 0);
});

Deno.test("a cache of two rows is cut to one, and the text with it", async () => {
  const outputs: Float32Array[] = [];
  for (const lengths of [[4, 4], [4, 5]]) { // joined, and apart: the null row must not notice
    for (const row of [0, 1]) {
      using runtime = openNative({ resident: "webgpu" });
      const { run, transformer, width, model } = await begin(runtime, false, lengths);
      const whole = async (): Promise<DeviceRows> => {
        let x: unknown = run.start();
        for (let chunk = 0; chunk < model.dims.chunks; chunk++) x = await run.chunk(chunk, x as DeviceRows, GRID);
        return x as DeviceRows;
      };
      run.kernels.free(await whole());
      await run.keepRows(row, row + 1);
      const alone = await run.kernels.read(await whole());
      assert.equal(alone.length, width);
      outputs.push(alone);
      run[Symbol.dispose]();
      transformer[Symbol.dispose]();
    }
  }
  const [cond, nul, condApart, nulApart] = outputs as [Float32Array, Float32Array, Float32Array, Float32Array];
  assert(distance(cond, condApart) < 1e-6);
  assert(distance(nul, nulApart) > 1e-3, "the null texts differ in length");
  assert(distance(cond, nul) > 1e-3, "and the rows in their texts");
});

Deno.test("a null text is encoded once for all pictures with so many tokens, and stays with the transformer", async () => {
  const device = new FakeDevice();
  const { transformer, width } = await begin(device);
  device.alive.clear();
  device.runs.length = 0;
  const request = { dims: { width, chunks: 8, codeDim: 4, tokenDim: 4, patchify: false }, images: 1 };
  const picture = async (tokens: number): Promise<void> => {
    const nul = await transformer.nullFeatures(tokens);
    const own = new Float32Array(nul.length);
    const grids = { last: GRID, last1M: { h: 64, w: 64 }, capacity: [] };
    const run = await beginRun(transformer, [own, nul], { ...request, ...grids });
    run.freeCache();
    run[Symbol.dispose]();
  };
  const encoded = (): number => device.runs.filter(({ graph }) => graph === "text").length;
  await picture(4);
  const kept = device.alive.size;
  assert(kept > 0);
  assert.equal(encoded(), 2);
  await picture(4);
  assert.equal(encoded(), 3, "only the prompt's own");
  assert.equal(device.alive.size, kept);
  await picture(5);
  assert.equal(encoded(), 5);
  for (const tokens of [500, 512]) await picture(tokens);
  const full = device.alive.size;
  await picture(511);
  assert.equal(device.alive.size, full, "no room for more lengths");
  transformer[Symbol.dispose]();
  assert.equal(device.alive.size, 0);
});

Deno.test("a run that fails on a device keeps its cache, and all of it is freed at the end", async () => {
  const device = new FakeDevice();
  const { run, scale, depth, per } = await begin(device);
  run.kernels.free(await scale(2));
  device.failAt = device.runs.length;
  await assert.rejects(scale(2), /out of memory/);
  assert(device.alive.size >= 2 * TEXT_TENSORS(depth) + 2 * 2 * per);
  run[Symbol.dispose]();
  assert.equal(device.alive.size, 0);
});

Deno.test("a text that does not fit on a device leaves nothing behind", async () => {
  const device = new FakeDevice();
  device.failAt = 1;
  await assert.rejects(begin(device), /out of memory/);
  assert.equal(device.alive.size, 0);
});

Deno.test("images of a batch that run as one are those that run alone", async () => {
  const model = await openInfinity(join(MODELS, "mini-2b"));
  const { dims } = model;
  using runtime = openNative({ resident: "cuda", fused: REFERENCE });
  using transformer = await InfinityTransformer.open(model.transformer, runtime, { half: true });
  assert(transformer.together);
  const { schedule: sizes, ...settings } = { schedule: schedule(1, "0.06M"), guidance: 3, tau: 0.5 };
  const full = { kind: "full", rows: "both", guidance: settings.guidance, tau: settings.tau } as const;
  const reduced = {
    ...{ kind: "reduced", rows: "null", guidance: 0, tau: settings.tau, reduce: "project" } as const,
    ...{ ranks: new Array(dims.chunks).fill(9), projection: "gaussian", addUnselected: false } as const,
  };
  const skip = { kind: "skip" } as const;
  const steps: Step[] = [full, full, full, full, { ...reduced, rope: "indices" }, skip, skip];
  const plan = { model: "mini", schedule: sizes, stages: steps.map(() => "structure" as const), steps, topP: 0.97 };
  const text = (tokens: number, row: number): Float32Array =>
    Float32Array.from({ length: tokens * model.transformer.dims.textDim }, (_, i) => Math.sin(i * 0.37 + row));
  for (const lengths of [[4, 4], [4, 6]] as const) { // rows of an image as one, and apart
    const draw = async (seeds: readonly number[]): Promise<Float32Array[]> => {
      const last = sizes.grids.at(-1)!;
      const request = { dims, images: seeds.length, last, last1M: sizes.last1M, capacity: [] };
      using run = await beginRun(transformer, lengths.map(text), request);
      const { kernels } = run;
      let latents: Float32Array[] = [];
      for await (const { latent } of drawScales({ plan, dims, transformer: run, kernels, seeds })) {
        const images = await kernels.images(latent);
        latents = [];
        for (const image of images) latents.push(await kernels.read(image));
      }
      return latents;
    };
    const together = await draw([5, 6]);
    assert.equal(together.length, 2);
    for (const [image, seed] of [5, 6].entries()) {
      const [alone] = await draw([seed]);
      assert(distance(together[image]!, alone!) < 1e-6, `seed ${seed}`);
    }
    assert(distance(together[0]!, together[1]!) > 0.1);
  }
});

const RESIDENTS = [
  { resident: "webgpu" },
  { resident: "cuda" },
  { resident: "cuda", fused: REFERENCE },
] as const satisfies NativeOptions[];
for (const options of RESIDENTS) {
  const { resident } = options;
  const name = resident + ("fused" in options ? ", fused," : "");
  Deno.test(`half precision of ${name} bears activations a hundred times as large as usual`, async () => {
    using runtime = openNative(options);
    using memory = new DeviceMemory((_key, graph) => runtime.createDeviceSession!(graph()));
    const outputs: Float32Array[] = [];
    for (const half of [false, true]) {
      const { run, transformer, width } = await begin(runtime, half);
      const x = Float32Array.from(
        { length: 4 * width },
        (_, i) => 100 * (Math.sin(i * 12.9898) + Number(i % width === 3)),
      );
      const large = await memory.upload(floatTensor(x, [1, 4, width]));
      const y = await run.chunk(0, [large, memory.hold(large)], GRID) as DeviceRows;
      outputs.push(await memory.read(y[0]!));
      run[Symbol.dispose]();
      transformer[Symbol.dispose]();
    }
    const [single, half] = outputs as [Float32Array, Float32Array];
    assert(half.every(Number.isFinite));
    const error = distance(half, single);
    assert(error > 1e-7 && error < 2e-3, `relative error ${error}`);
  });
}

Deno.test("a latent on a device becomes the pixels that it becomes on the host", async () => {
  const model = await openInfinity(join(MODELS, "mini-2b"));
  using runtime = openNative({ resident: "webgpu" });
  using memory = new DeviceMemory((_key, graph) => runtime.createDeviceSession!(graph()));
  using decoder = new Decoder(model.decoder, runtime);
  const { codeDim, stride } = model.decoder;
  for (const [h, w] of [[2, 3], [1, 1], [2, 3]] as const) {
    const latent = Float32Array.from({ length: codeDim * h * w }, (_, i) => Math.sin(i * 78.233));
    const wanted = await decoder.pixels(latent, h, w);
    const found = await decoder.pixels(await memory.upload(floatTensor(latent, [1, codeDim, h, w])), h, w);
    assert.equal(found.length, 3 * h * w * stride ** 2);
    const off = found.filter((value, i) => value !== wanted[i]);
    assert(found.every((value, i) => Math.abs(value - wanted[i]!) <= 1) && off.length <= found.length / 1000);
    assert(new Set(found).size > 20, "a picture, not a plain one");
  }
});

Deno.test("what a device cannot decode is decoded on the host, and not tried again", async () => {
  const model = await openInfinity(join(MODELS, "mini-2b"));
  const { codeDim } = model.decoder;
  const [h, w] = [2, 3];
  const latent = Float32Array.from({ length: codeDim * h * w }, (_, i) => Math.sin(i * 78.233));
  using host = openNative();
  using plain = new Decoder(model.decoder, host);
  const wanted = await plain.pixels(latent, h, w);

  const tried: string[] = [];
  const device = new FakeDevice();
  device.createDeviceSession = (graph) => {
    tried.push(graph.name);
    return Promise.reject(new DeviceError("Cannot load: maps are larger than what is bound"));
  };
  const there: DeviceTensor = { dims: [1, codeDim, h, w], [Symbol.dispose]: () => {} };
  const read = () => Promise.resolve(latent);
  {
    using decoder = new Decoder(model.decoder, device, { fallback: () => openNative() });
    for (let picture = 0; picture < 2; picture++) {
      assert.deepEqual(await decoder.pixels(there, h, w, undefined, read), wanted);
    }
    assert.equal(tried.length, 1);
  }
  using alone = new Decoder(model.decoder, device);
  await assert.rejects(alone.pixels(there, h, w, undefined, read), /larger than what is bound/);
  device.createDeviceSession = () => Promise.reject(new TypeError("a fault of the program"));
  using faulty = new Decoder(model.decoder, device, { fallback: () => openNative() });
  await assert.rejects(faulty.pixels(there, h, w, undefined, read), TypeError);
});
