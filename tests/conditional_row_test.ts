/**
 * Infinity's fidelity stage on the conditional row (star.md §15, V-cond): its logits are those that it has beside the null
 * row, and what a device keeps to restore from are the conditional rows, as in host memory.
 */
import assert from "node:assert/strict";
import { join } from "node:path";
import { Engine } from "../src/engine.ts";
import { beginRun } from "../src/models/infinity/device_run.ts";
import { openInfinity } from "../src/models/infinity/model.ts";
import { InfinityTransformer } from "../src/models/infinity/transformer.ts";
import { cacheCapacity, drawScales, type Tap } from "../src/pipeline.ts";
import { openNative } from "../src/runtime/native.ts";
import type { Runtime } from "../src/runtime/runtime.ts";
import { schedule } from "../src/schedule.ts";
import type { ReducedStep, RowKind, Step } from "../src/step.ts";
import { distance } from "./attention.ts";
import { REFERENCE } from "./fused_reference.ts";
import { MODELS } from "./mini_models.ts";

const MODEL = await openInfinity(join(MODELS, "mini-2b"));
const SIZES = schedule(1, "0.06M");
const BOTH: Step = { kind: "full", rows: "both", guidance: 3, tau: 0.5 };
const SKIP: Step = { kind: "skip" };

function alone(rows: RowKind): Step {
  return { kind: "full", rows, guidance: rows === "null" ? 0 : 1, tau: 0.5 };
}

function reduced(rows: RowKind, change: Partial<ReducedStep> = {}): Step {
  return {
    kind: "reduced",
    rows,
    guidance: rows === "null" ? 0 : 1,
    tau: 0.5,
    reduce: "project",
    ranks: new Array<number>(MODEL.dims.chunks).fill(9),
    projection: "gaussian",
    rope: "first",
    addUnselected: true,
    ...change,
  };
}

/** Values without a pattern, the same every time; the host's and the devices' streams are of no concern here. */
function wave(length: number, seed: number): Float32Array {
  return Float32Array.from({ length }, (_, i) => Math.sin(i * (12.9898 + seed) + seed * 78.233));
}

/** Bits, projections and rows that are told, so that every runtime computes the same. */
const TAP: Required<Pick<Tap, "tokens" | "projection" | "indices">> = {
  tokens: (k) => {
    const { h, w } = SIZES.grids[k]!;
    return Uint8Array.from(wave(h * w * MODEL.dims.tokenDim, k), (value) => Number(value > 0));
  },
  projection: (k, c) => {
    const { h, w } = SIZES.grids[k]!;
    return wave(h * w * 9, 100 * k + c).map((value) => value / 3);
  },
  indices: (k, c) => {
    const { h, w } = SIZES.grids[k]!;
    const key = (i: number): number => Math.sin(i * 78.233 + c);
    return Uint32Array.from({ length: h * w }, (_, i) => i).sort((a, b) => key(a) - key(b)).slice(0, 9);
  },
};

function open(runtime: Runtime, half = false): Promise<InfinityTransformer> {
  return InfinityTransformer.open(MODEL.transformer, runtime, { half });
}

/** Guided logits of image 0 at every scale that runs. */
async function logits(
  transformer: InfinityTransformer,
  steps: readonly Step[],
  { images = 1, lengths = [4, 4] }: { readonly images?: number; readonly lengths?: readonly number[] } = {},
): Promise<Float32Array[]> {
  const { dims } = MODEL;
  const { grids, last1M } = SIZES;
  const texts = lengths.map((tokens, row) => wave(tokens * MODEL.transformer.dims.textDim, row));
  const capacity = cacheCapacity({ steps, grids, chunks: dims.chunks });
  using run = await beginRun(transformer, texts, { dims, images, last: grids.at(-1)!, last1M, capacity });
  const seen: Float32Array[] = [];
  const observe = (_: number, name: string, data: Float32Array): void => {
    if (name === "logits") seen.push(data.slice());
  };
  const stages = steps.map(() => "structure" as const);
  const plan = { model: "mini-2b", schedule: SIZES, stages, steps: [...steps], topP: 0.97 };
  const seeds = Array.from({ length: images }, (_, image) => image);
  const { kernels } = run;
  await Array.fromAsync(drawScales({ plan, dims, transformer: run, kernels, seeds, tap: { ...TAP, observe } }));
  return seen;
}

/** Reduced right after both rows ran, so that a half of what they left is kept; and after the one row alone. */
const ARMS: readonly (readonly Step[])[] = [
  [BOTH, BOTH, reduced("cond"), reduced("cond", { reduce: "select", rope: "indices" }), SKIP, SKIP, SKIP],
  [BOTH, alone("cond"), reduced("cond"), reduced("cond", { reduce: "cache", ranks: [] }), SKIP, SKIP, SKIP],
];

/** Batches whose rows of an image run as one, or apart because of their texts. */
const BATCHES = [
  { images: 1, lengths: [4, 4] },
  { images: 2, lengths: [4, 4] },
  { images: 2, lengths: [4, 6] },
] as const;

const DEVICES = [
  ["webgpu", { resident: "webgpu" }, false],
  ["cuda", { resident: "cuda" }, false],
  ["cuda, fused", { resident: "cuda", fused: REFERENCE }, true],
] as const;

for (const [name, options, half] of DEVICES) {
  Deno.test(`reduced scales of the conditional row on ${name} are those of the host`, async () => {
    using host = openNative();
    using device = openNative(options);
    using there = await open(host);
    using here = await open(device, half);
    for (const [arm, steps] of ARMS.entries()) {
      for (const batch of BATCHES) {
        const [wanted, found] = [await logits(there, steps, batch), await logits(here, steps, batch)];
        assert.equal(found.length, 4);
        for (const scale of found.keys()) {
          const error = distance(found[scale]!, wanted[scale]!);
          assert(error < (half ? 2e-3 : 1e-5), `arm ${arm}, ${JSON.stringify(batch)}, scale ${scale}: ${error}`);
        }
      }
    }
  });
}

Deno.test("the conditional row alone has Infinity's logits of the unguided pair", async () => {
  using host = openNative();
  using transformer = await open(host);
  const unguided: Step = { ...BOTH, guidance: 1 };
  for (const lengths of [[4, 4], [4, 6]]) {
    const last = (step: Step): Promise<Float32Array[]> =>
      logits(transformer, [BOTH, BOTH, BOTH, step, step, SKIP, SKIP], { lengths });
    const two = await last(unguided);
    const one = await last(alone("cond"));
    const nul = await last(alone("null"));
    for (const scale of [0, 1, 2]) assert.deepEqual(one[scale], two[scale]);
    for (const scale of [3, 4]) {
      const error = distance(one[scale]!, two[scale]!);
      assert(error < 1e-5, `scale ${scale}: relative error ${error}`);
      assert(distance(nul[scale]!, two[scale]!) > 0.1, "the null row's are others");
    }
  }
});

Deno.test("what a reduced scale is restored from is the row's own, of Infinity", async () => {
  using host = openNative();
  using transformer = await open(host);
  const cached = (row: RowKind): Promise<Float32Array[]> =>
    logits(transformer, [BOTH, BOTH, reduced(row, { reduce: "cache", ranks: [] }), SKIP, SKIP, SKIP, SKIP]);
  assert(distance((await cached("cond"))[2]!, (await cached("null"))[2]!) > 0.1);
});

Deno.test("option row decides which picture Infinity draws, and stays in the plan", async () => {
  using engine = await Engine.open({ model: join(MODELS, "mini-2b") });
  const draw = async (row: RowKind): Promise<Uint8Array> => {
    const request = { prompt: "a dog", pixels: "0.06M", seed: 3, method: "unguided", methodOptions: { row } } as const;
    const { steps, methodOptions } = engine.plan(request);
    assert.equal(methodOptions["row"], row);
    const guidance = row === "null" ? 0 : 1;
    for (const step of steps.slice(4)) assert.deepEqual(step, { kind: "full", rows: row, guidance, tau: 0.5 });
    let data = new Uint8Array();
    for await (const event of engine.generate(request)) {
      if (event.type === "image") data = event.image.data as Uint8Array<ArrayBuffer>;
    }
    return data;
  };
  assert.notDeepEqual(await draw("cond"), await draw("null"));
});
