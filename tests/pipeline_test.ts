import assert from "node:assert/strict";
import * as core from "../src/core.ts";
import { type HostIndices, HostKernels } from "../src/kernels/host.ts";
import {
  cacheCapacity,
  drawScales,
  type LoopRequest,
  NotANumberError,
  type ScaleTransformer,
} from "../src/pipeline.ts";
import type { ReducedStep, Step } from "../src/plan.ts";
import { type Grid, schedule } from "../src/schedule.ts";

const C = 6, D = 4, CHUNKS = 2;
const DIMS = { width: C, chunks: CHUNKS, codeDim: D, tokenDim: D, patchify: false };
const FULL: Step = { kind: "full", rows: "both", guidance: 3, tau: 0.7 };
const UNGUIDED: Step = { kind: "full", rows: "null", guidance: 0, tau: 0.7 };
const SKIP: Step = { kind: "skip" };

function reduced(ranks: number[], change: Partial<ReducedStep> = {}): Step {
  return {
    kind: "reduced",
    rows: "null",
    guidance: 0,
    tau: 0.7,
    reduce: "project",
    ranks,
    projection: "gaussian",
    rope: "first",
    addUnselected: true,
    ...change,
  };
}

/** A transformer of fixed arithmetic: a chunk scales tokens and adds the row, logits mix channels; it writes down its calls. */
class FakeTransformer implements ScaleTransformer<Float32Array, HostIndices> {
  readonly calls: string[] = [];
  rows: number[];

  constructor(readonly images: number, rows: number[]) {
    this.rows = rows;
  }

  start(): Float32Array {
    return Float32Array.from(
      { length: this.rows.length * C },
      (_, i) => Math.sin(i % C + this.rows[Math.floor(i / C)]!),
    );
  }

  embed(u: Float32Array, scale: number): Promise<Float32Array> {
    const L = u.length / D;
    const size = L * C / this.images;
    const x = Float32Array.from(
      { length: L * C },
      (_, i) => u[Math.floor(i / C) * D + i % D]! + Math.cos(i % size * scale),
    );
    return Promise.resolve(this.rows.length > this.images ? Float32Array.of(...x, ...x) : x);
  }

  chunk(c: number, x: Float32Array, grid: Grid, positions?: HostIndices): Promise<Float32Array> {
    const L = x.length / C / this.rows.length;
    const placed = positions ? ` at ${positions.map((row) => Array.from(row).join(",")).join(";")}` : "";
    this.calls.push(`chunk ${c}: ${this.rows.length} rows x ${L} of ${grid.h}x${grid.w}${placed}`);
    this.rows.forEach((row, r) => {
      for (let i = 0; i < L * C; i++) x[r * L * C + i] = x[r * L * C + i]! * 0.9 + row * 0.1 + c;
    });
    return Promise.resolve(x);
  }

  logits(x: Float32Array): Promise<Float32Array> {
    return Promise.resolve(Float32Array.from({ length: x.length / C * D }, (_, i) => {
      const at = Math.floor(i / D) * C;
      return 3 * Math.sin(7 * x[at + i % D]! + x[at + D]!);
    }));
  }

  keepRows(from: number, to: number): void {
    this.calls.push(`keep ${from} to ${to}`);
    this.rows = this.rows.slice(from, to);
  }
}

type HostRequest = LoopRequest<Float32Array, HostIndices>;

function request(
  steps: Step[],
  images = 1,
  extra: Partial<Omit<HostRequest, "transformer">> = {},
): HostRequest & { transformer: FakeTransformer } {
  const grids = schedule(1, "0.06M").grids.slice(0, steps.length);
  const both = steps.find((step) => step.kind !== "skip")?.rows === "both";
  const rows = Array.from({ length: images * (both ? 2 : 1) }, (_, r) => Math.floor(r / images));
  return {
    plan: {
      model: "fake",
      schedule: { ...schedule(1, "0.06M"), grids },
      stages: steps.map(() => "structure" as const),
      steps,
      topP: 0.97,
    },
    dims: DIMS,
    transformer: new FakeTransformer(images, rows),
    kernels: new HostKernels(DIMS, { images, last: grids.at(-1)! }),
    seeds: Array.from({ length: images }, (_, i) => 5 + i),
    ...extra,
  };
}

async function lastLatents(loop: HostRequest): Promise<readonly Float32Array[]> {
  return loop.kernels.images((await Array.fromAsync(drawScales(loop))).at(-1)!.latent);
}

Deno.test("drawScales() guides, samples and accumulates as written down by hand", async () => {
  const loop = request([FULL, FULL, FULL]);
  const found = await lastLatents(loop);
  const twin = new FakeTransformer(1, [0, 1]);
  let latent: Float32Array = new Float32Array(D * 16);
  for (const [k, side] of [1, 2, 4].entries()) {
    const u = core.nextInput(latent, D, 4, 4, side, side, false);
    let x = k === 0 ? twin.start() : await twin.embed(u, k);
    for (let c = 0; c < CHUNKS; c++) x = await twin.chunk(c, x, { h: side, w: side });
    const z = await twin.logits(x);
    const half = z.length / 2;
    const guided = Float32Array.from({ length: half }, (_, i) => (3 * z[i]! - 2 * z[half + i]!) / 0.7);
    const bits = core.sampleBits({ seed: 5, purpose: "bits", scale: k }, guided, 0.97);
    latent = core.addCodes(latent, bits, side, side, 4, 4, D, false);
  }
  assert.deepEqual(found[0], latent);
});

Deno.test("drawScales() cuts the batch to the null row once and for all", async () => {
  const loop = request([FULL, FULL, UNGUIDED, UNGUIDED], 2);
  await lastLatents(loop);
  assert.deepEqual(loop.transformer.calls.filter((call) => call.startsWith("keep")), ["keep 2 to 4"]);
  assert(loop.transformer.calls.includes("chunk 0: 4 rows x 4 of 2x2"));
  assert(loop.transformer.calls.includes("chunk 1: 2 rows x 16 of 4x4"));
});

Deno.test("drawScales() sends r pseudo-tokens through the blocks of a reduced scale", async () => {
  const loop = request([FULL, FULL, reduced([3, 5])]);
  const scales = await Array.fromAsync(drawScales(loop));
  assert.deepEqual(loop.transformer.calls.slice(-2), ["chunk 0: 1 rows x 3 of 4x4", "chunk 1: 1 rows x 5 of 4x4"]);
  assert.deepEqual(scales.map(({ tokensRun }) => tokensRun), [1, 4, 5]);
});

Deno.test("a reduced scale with all rows and Q = I is the unguided scale", async () => {
  // r = M, Q = identity, I = 0..M-1: restoration writes every row over the cache, so nothing of the reduction may remain.
  const grids = schedule(1, "0.06M").grids;
  const M = grids[2]!.h * grids[2]!.w, N = grids[3]!.h * grids[3]!.w;
  const tap = {
    projection: (k: number): Float32Array => {
      const size = k === 2 ? M : N;
      return Float32Array.from({ length: size * size }, (_, i) => Number(i % (size + 1) === 0));
    },
    indices: (k: number): Uint32Array => Uint32Array.from({ length: k === 2 ? M : N }, (_, i) => i),
  };
  const plain = await lastLatents(request([FULL, FULL, UNGUIDED, UNGUIDED]));
  const twice = await lastLatents(request([FULL, FULL, reduced([M, M]), reduced([N, N])], 1, { tap }));
  assert.deepEqual(twice, plain);
});

Deno.test("a reduced scale places selected rows at their own tokens", async () => {
  const loop = request([FULL, FULL, reduced([2, 2], { reduce: "select", rope: "indices" })], 1, {
    tap: { indices: (_, c) => c === 0 ? Uint32Array.of(7, 2) : Uint32Array.of(15, 0) },
  });
  await lastLatents(loop);
  assert.deepEqual(loop.transformer.calls.slice(-2), [
    "chunk 0: 1 rows x 2 of 4x4 at 7,2",
    "chunk 1: 1 rows x 2 of 4x4 at 15,0",
  ]);
});

Deno.test("control (b) runs no block and takes logits from the upsampled cache", async () => {
  const loop = request([FULL, FULL, reduced([], { reduce: "cache" })]);
  const seen: Float32Array[] = [];
  const observe = (k: number, name: string, data: Float32Array): void => {
    if (name === "chunk.1" && k > 0) seen.push(data.slice());
  };
  await lastLatents({ ...loop, tap: { observe } });
  const [before, after] = seen as [Float32Array, Float32Array];
  assert.equal(loop.transformer.calls.filter((call) => call.includes("4x4")).length, 0);
  assert.deepEqual(after, core.resizeTokens(before.subarray(4 * C), 2, 2, 4, 4, C, "area")); // null row of scale 1
});

Deno.test("control (d) adds codes at the chosen rows of the last chunk only", async () => {
  const steps = (addUnselected: boolean): Step[] => [FULL, FULL, reduced([2, 3], { addUnselected })];
  const tap = { indices: (_: number, c: number) => c === 0 ? Uint32Array.of(1, 4) : Uint32Array.of(0, 5, 15) };
  const without = await Array.fromAsync(drawScales(request(steps(false), 1, { tap })));
  const withAll = await lastLatents(request(steps(true), 1, { tap }));
  const before = without[1]!.latent, after = without[2]!.latent;
  const changed = new Set<number>();
  after.forEach((value, i) => value !== before[i] && changed.add(i % 16));
  assert.deepEqual([...changed].sort((a, b) => a - b), [0, 5, 15]);
  for (const cell of changed) assert.equal(after[cell], withAll[0]![cell]);
});

Deno.test("a skipped scale runs nothing and adds nothing", async () => {
  const loop = request([FULL, FULL, SKIP]);
  const scales = await Array.fromAsync(drawScales(loop));
  assert.deepEqual(scales[2]!.latent, scales[1]!.latent);
  assert.equal(loop.transformer.calls.some((call) => call.includes("4x4")), false);
  assert.equal(scales[2]!.latent.length, D * 16, "the running sum has the full size from the start");
});

Deno.test("images of a batch depend on their own seed alone", async () => {
  for (const steps of [[FULL, FULL, UNGUIDED], [FULL, FULL, reduced([3, 3])]]) {
    const together = await lastLatents(request(steps, 2));
    const alone = await lastLatents({ ...request(steps, 1), seeds: [6] });
    assert.deepEqual(together[1], alone[0]);
    assert.notDeepEqual(together[0], together[1]);
  }
});

Deno.test("temperature 0 is greedy", async () => {
  let z = new Float32Array();
  const greedy: Step = { kind: "full", rows: "cond", guidance: 1, tau: 0 };
  const tap = {
    observe: (_: number, name: string, data: Float32Array) => void (name === "logits" && (z = data.slice())),
  };
  const [latent] = await lastLatents(request([greedy], 1, { tap }));
  assert.deepEqual(latent, z.map((value) => value > 0 ? 0.5 : -0.5));
});

Deno.test("drawScales() names the scale whose logits are not numbers", async () => {
  const loop = request([FULL, FULL]);
  loop.transformer.logits = (x) => Promise.resolve(new Float32Array(x.length / C * D).fill(NaN));
  await assert.rejects(lastLatents(loop), (error) => error instanceof NotANumberError && /scale 1/.test(error.message));
});

Deno.test("drawScales() stops between scales when aborted", async () => {
  const controller = new AbortController();
  const loop = drawScales({ ...request([FULL, FULL, FULL]), signal: controller.signal });
  await loop.next();
  controller.abort(new Error("enough"));
  await assert.rejects(loop.next(), /enough/);
});

Deno.test("cacheCapacity() counts what each chunk executes", () => {
  const grids = [{ h: 1, w: 1 }, { h: 2, w: 2 }, { h: 4, w: 4 }, { h: 6, w: 6 }];
  const steps = [FULL, FULL, reduced([3, 7]), SKIP];
  assert.deepEqual(cacheCapacity({ steps, grids, chunks: 2 }), [8, 12]);
  assert.deepEqual(cacheCapacity({ steps: [FULL, reduced([], { reduce: "cache" })], grids, chunks: 2 }), [1, 1]);
});
