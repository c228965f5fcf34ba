import assert from "node:assert/strict";
import { gaussianProjection, gaussians, type Stream } from "../src/core.ts";
import { DeviceKernels } from "../src/kernels/device.ts";
import { FusedKernels } from "../src/kernels/fused.ts";
import { HostKernels } from "../src/kernels/host.ts";
import type { GuidedLogits, LoopBatch, LoopDims } from "../src/kernels/kernels.ts";
import { DeviceMemory } from "../src/runtime/device_memory.ts";
import { openNative } from "../src/runtime/native.ts";
import { type DeviceSession, type DeviceTensor, floatTensor, type Runtime } from "../src/runtime/runtime.ts";
import { distance } from "./attention.ts";
import { REFERENCE } from "./fused_reference.ts";

// Every kernel of a device against the wasm core, on the CPU as if it had memory of its own.

const C = 12;
const PLAIN: LoopDims = { width: C, chunks: 1, codeDim: 5, tokenDim: 5, patchify: false };
const PATCHED: LoopDims = { width: C, chunks: 1, codeDim: 3, tokenDim: 12, patchify: true };
const BATCH: LoopBatch = { images: 2, last: { h: 6, w: 8 } };

function values(count: number, seed: number): Float32Array {
  return gaussians({ seed, purpose: "weights" }, count);
}

function streams(purpose: Stream["purpose"], scale = 3): Stream[] {
  return [{ seed: 11, purpose, scale }, { seed: 12, purpose, scale }];
}

/** Tensors of a batch: one an image, or all in one on devices with operators of our own. */
type Form = "an image a tensor" | "all images in one";

function open(form: Form): Runtime {
  return form === "all images in one"
    ? openNative({ resident: "cuda", fused: REFERENCE })
    : openNative({ resident: "webgpu" });
}

/** Both sets of kernels on one runtime, and the same batch tensor for both. */
function both(runtime: Runtime, dims: LoopDims, form: Form) {
  const Kernels = form === "all images in one" ? FusedKernels : DeviceKernels;
  const sessions = new Map<string, Promise<DeviceSession>>();
  const memory = new DeviceMemory((key, graph) => {
    if (!sessions.has(key)) sessions.set(key, runtime.createDeviceSession!(graph()));
    return sessions.get(key)!;
  });
  return {
    host: new HostKernels(dims, BATCH),
    device: new Kernels(memory, dims, BATCH) as DeviceKernels,
    /** Image rows, each with its shape. */
    put: async (data: Float32Array, shape: readonly number[]): Promise<DeviceTensor[]> => {
      if (form === "all images in one") return [await memory.upload(floatTensor(data, [2, ...shape.slice(1)]))];
      const size = data.length / BATCH.images;
      return await Promise.all(
        [0, 1].map((i) => memory.upload(floatTensor(data.slice(i * size, (i + 1) * size), shape))),
      );
    },
    [Symbol.dispose](): void {
      memory[Symbol.dispose]();
      for (const session of sessions.values()) session.then((open) => open[Symbol.dispose]());
    },
  };
}

const FORMS: readonly Form[] = ["an image a tensor", "all images in one"];
const KINDS = [["tokens of one cell", PLAIN], ["tokens of 2x2 cells", PATCHED]] as const;
for (const [name, dims, form] of KINDS.flatMap((kind) => FORMS.map((form) => [...kind, form] as const))) {
  Deno.test(`device kernels give what the core gives: latent and bits, ${name}, ${form}`, async () => {
    using runtime = open(form);
    using pair = both(runtime, dims, form);
    const { host, device, put } = pair;
    const { codeDim, tokenDim } = dims;
    const cell = dims.patchify ? 2 : 1;
    const [H, W] = [BATCH.last.h * cell, BATCH.last.w * cell];
    const latent = values(2 * codeDim * H * W, 1);
    const there = await put(latent, [1, codeDim, H, W]);
    assert.deepEqual(await device.read(await device.zeros()), await host.zeros());
    for (const grid of [{ h: 1, w: 1 }, { h: 3, w: 5 }, BATCH.last]) {
      const found = await device.read(await device.nextInput(there, grid));
      assert(distance(found, await host.nextInput(latent, grid)) < 1e-6, `input ${grid.h}x${grid.w}`);

      const L = grid.h * grid.w;
      const z = values(2 * L * tokenDim, 2).map((value) => 3 * value);
      const zThere = await put(z, [1, L, tokenDim]);
      for (const topP of [0, 0.5, 0.97]) {
        const request = { scale: 0, grid, streams: streams("bits"), topP };
        const sum = await device.read(await device.addBits(there, zThere, request));
        assert(distance(sum, await host.addBits(latent, z, request)) < 1e-6, `top-p ${topP}, ${grid.h}x${grid.w}`);
      }
      const forced = [1, 2].map((seed) => Uint8Array.from(values(L * tokenDim, seed), (value) => Number(value > 0)));
      const request = { scale: 0, grid, streams: streams("bits"), topP: 0.97, forced };
      const rows = [Uint32Array.of(L - 1), Uint32Array.of(0)];
      const sum = await device.read(await device.addBits(there, zThere, request, device.indices(rows)));
      assert(distance(sum, await host.addBits(latent, z, request, rows)) < 1e-6, `masked, ${grid.h}x${grid.w}`);
    }
  });
}

async function isFinite({ finite }: GuidedLogits<unknown>): Promise<boolean> {
  return typeof finite === "boolean" ? finite : await finite();
}

for (const form of FORMS) {
  Deno.test(`device kernels give what the core gives: sampling, projection, restoration, ${form}`, async () => {
    using runtime = open(form);
    using pair = both(runtime, PLAIN, form);
    const { host, device, put } = pair;
    const [from, to] = [{ h: 4, w: 5 }, BATCH.last];
    const M = to.h * to.w, r = 7;
    const x = values(2 * M * C, 3);
    x.fill(0, 0, 5 * C); // rows without energy come last
    const there = await put(x, [1, M, C]);
    const cached = values(2 * from.h * from.w * C, 4);
    const cachedThere = await put(cached, [1, from.h * from.w, C]);

    for (const rank of [1, r, M]) {
      const chosen = await device.sampleRows(there, rank, streams("rows"));
      const wanted = await host.sampleRows(x, rank, streams("rows"));
      const picked = await device.read(await device.selectRows(there, chosen));
      assert.deepEqual(picked, await host.selectRows(x, wanted), `${rank} rows`);

      const y = values(2 * rank * C, 5);
      const restored = await device.restore(cachedThere, from, to, await put(y, [1, rank, C]), chosen);
      assert(distance(await device.read(restored), await host.restore(cached, from, to, y, wanted)) < 1e-6);
      for (const kind of ["gaussian", "sign"] as const) {
        const request = { rank, kind, streams: streams("projection") };
        const found = await device.read(
          await device.project(there, device.indices(await host.sampleRows(x, request.rank, streams("rows"))), request),
        );
        assert(distance(found, await host.project(x, [], request)) < 1e-6, `${kind}, rank ${rank}`);
      }
    }
    const forced = [1, 2].map((seed) => gaussianProjection({ seed, purpose: "projection" }, M, r));
    const request = { rank: r, kind: "gaussian", streams: streams("projection"), forced } as const;
    const found = await device.read(
      await device.project(there, device.indices(await host.sampleRows(x, request.rank, streams("rows"))), request),
    );
    assert(distance(found, await host.project(x, [], request)) < 1e-6);
    const up = await device.read(await device.upsample(cachedThere, from, to));
    assert(distance(up, await host.upsample(cached, from, to)) < 1e-6);
  });

  Deno.test(`device kernels guide, and see logits that are not finite, ${form}`, async () => {
    using runtime = open(form);
    using pair = both(runtime, PLAIN, form);
    const { host, device, put } = pair;
    const L = 6, d = PLAIN.tokenDim;
    const logits = values(4 * L * d, 6);
    const there = [
      ...await put(logits.slice(0, 2 * L * d), [1, L, d]),
      ...await put(logits.slice(2 * L * d), [1, L, d]),
    ];
    const both4 = await device.guide(there, 3, 0.7);
    assert(distance(await device.read(both4.z), (await host.guide(logits, 3, 0.7)).z) < 1e-6);
    assert.equal(await isFinite(both4), true);
    const own = await device.guide(there.slice(there.length / 2), undefined, 0.5);
    assert(distance(await device.read(own.z), (await host.guide(logits.slice(2 * L * d), undefined, 0.5)).z) < 1e-6);
    for (const wrong of [NaN, Infinity]) {
      const broken = logits.slice(0, 2 * L * d).fill(wrong, 2 * L * d - 1);
      assert.equal(await isFinite(await device.guide(await put(broken, [1, L, d]), undefined, 1)), false);
      assert.equal(await isFinite(await host.guide(broken, undefined, 1)), false);
    }
  });
}

Deno.test("DeviceMemory frees a tensor with its last holder, and the rest with itself", async () => {
  let alive = 0;
  const memory = new DeviceMemory(() =>
    Promise.resolve({
      run: () => Promise.reject(new Error("nobody asks for this")),
      runKeeping: (_inputs, _outputs, kept) =>
        Promise.resolve(Object.fromEntries(
          Object.entries(kept).map(([name, dims]) => {
            alive++;
            return [name, { dims, [Symbol.dispose]: () => void alive-- }];
          }),
        )),
      [Symbol.dispose]: () => {},
    })
  );
  const first = await memory.upload(floatTensor(new Float32Array(2), [2]));
  const second = await memory.upload(floatTensor(new Float32Array(3), [3]));
  memory.hold(first);
  memory.free(first);
  assert.equal(alive, 2, "one holder is left");
  memory.free(first);
  assert.equal(alive, 1);
  memory.free(first);
  assert.equal(alive, 1, "freed once");
  assert.deepEqual(second.dims, [3]);
  memory[Symbol.dispose]();
  assert.equal(alive, 0);
});

Deno.test("DeviceMemory keeps a tensor as long as a row of it, and takes rows by graphs where it has to", async () => {
  const alive = new Set<string>();
  const tensor = (name: string, dims: readonly number[], freed?: () => void) => {
    alive.add(name);
    const dispose = () => {
      if (alive.delete(name)) freed?.();
    };
    return { dims, [Symbol.dispose]: dispose };
  };
  const memory = new DeviceMemory(() => Promise.reject(new Error("nobody asks for this")), {
    upload: ({ dims }) => tensor("whole", dims),
    rows: (whole, _element, [from, to], freed) => tensor(`row ${from}`, [to - from, ...whole.dims.slice(1)], freed),
  });
  const whole = await memory.upload(floatTensor(new Float32Array(6), [2, 3]));
  const row = memory.rows(whole, "F32", 1, 2)!;
  assert.deepEqual(row.dims, [1, 3]);
  memory.free(whole);
  assert.deepEqual([...alive], ["whole", "row 1"]);
  memory.free(row);
  assert.equal(alive.size, 0);
  memory.rows(await memory.upload(floatTensor(new Float32Array(6), [2, 3])), "F32", 0, 1);
  memory[Symbol.dispose]();
  assert.equal(alive.size, 0);
  assert.equal(new DeviceMemory(() => Promise.reject(new Error("none"))).rows(whole, "F32", 0, 1), undefined);
});
