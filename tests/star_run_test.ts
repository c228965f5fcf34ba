/** STAR's blocks over a cache: texts, rows, reduced scales that are whole ones, and parts (star.md §6, §15). */
import assert from "node:assert/strict";
import { readTensor } from "../src/checkpoint/source.ts";
import type { HostIndices } from "../src/kernels/host.ts";
import { openStar, type StarModel } from "../src/models/star/model.ts";
import { StarRun } from "../src/models/star/run.ts";
import { type StarText, StarTransformer } from "../src/models/star/transformer.ts";
import { cacheCapacity, drawScales, type ScaleTransformer, type Tap } from "../src/pipeline.ts";
import { openNative } from "../src/runtime/native.ts";
import type { Residency, Runtime } from "../src/runtime/runtime.ts";
import { ownSchedule } from "../src/schedule.ts";
import type { ReducedStep, RowKind, Step } from "../src/step.ts";
import { distance } from "./attention.ts";
import { MINI_STAR } from "./mini_star.ts";

const BOTH: Step = { kind: "full", rows: "both", guidance: 3, tau: 1 };
/** Tokens of mini-star's last two scales, sides 9 and 12. */
const N = 81, M = 144;

function alone(rows: RowKind): Step {
  return { kind: "full", rows, guidance: rows === "null" ? 0 : 1, tau: 1 };
}

function reduced(rows: RowKind, rank: number, change: Partial<ReducedStep> = {}): Step {
  return {
    kind: "reduced",
    rows,
    guidance: rows === "null" ? 0 : 1,
    tau: 1,
    reduce: "project",
    ranks: new Array<number>(6).fill(rank),
    projection: "gaussian",
    rope: "indices",
    addUnselected: true,
    ...change,
  };
}

/** Four guided scales, then two of a test's own. */
function steps(...last: readonly [Step, Step]): Step[] {
  return [BOTH, BOTH, BOTH, BOTH, ...last];
}

interface Opened extends Disposable {
  readonly model: StarModel;
  readonly transformer: StarTransformer;
  readonly codebook: Float32Array;
  /** A prompt's text of some tokens, another one for every seed. */
  text(tokens: number, seed: number): Promise<StarText>;
}

async function open(options: { rowsAtOnce?: number; residency?: Residency } = {}): Promise<Opened> {
  const model = await openStar(MINI_STAR);
  const runtime: Runtime = openNative();
  const transformer = await StarTransformer.open(model.transformer, runtime, options);
  const wave = (length: number, seed: number): Float32Array =>
    Float32Array.from({ length }, (_, i) => Math.sin(i * 12.9898 + seed));
  return {
    model,
    transformer,
    codebook: await readTensor(model.decoder.codebook),
    text: (tokens, seed) => {
      const { textDim } = model.shape;
      return transformer.encodeText({ features: wave(tokens * textDim, seed), pooled: wave(textDim, seed + 0.5) });
    },
    [Symbol.dispose]: () => {
      transformer[Symbol.dispose]();
      runtime[Symbol.dispose]();
    },
  };
}

/** What a run gave: logits of image 0 after guidance, all rows' before it, and the latents at its end. */
interface Drawn {
  readonly guided: readonly Float32Array[];
  readonly raw: readonly Float32Array[];
  readonly latents: readonly Float32Array[];
}

async function draw(
  { model, transformer, codebook }: Opened,
  texts: readonly StarText[],
  steps: readonly Step[],
  { seeds = [3], tap = {} }: { readonly seeds?: readonly number[]; readonly tap?: Tap } = {},
): Promise<Drawn> {
  const { dims } = model;
  const { schedule } = ownSchedule({}, { ...model.config, sides: model.sides }, model.shape.pixelsPerToken);
  const { grids, last1M } = schedule;
  const capacity = cacheCapacity({ steps, grids, chunks: dims.chunks });
  const request = { dims, images: seeds.length, last: grids.at(-1)!, last1M, capacity };
  using run = new StarRun(transformer, texts, { codebook, phi: model.decoder.phi }, request);
  const raw: Float32Array[] = [], guided: Float32Array[] = [];
  const spied: ScaleTransformer<Float32Array, HostIndices> = {
    start: () => run.start(),
    embed: (...args) => run.embed(...args),
    chunk: (...args) => run.chunk(...args),
    keepRows: (...args) => run.keepRows(...args),
    logits: async (...args) => {
      const logits = await run.logits(...args);
      raw.push(logits.slice());
      return logits;
    },
  };
  const observe = (scale: number, name: string, data: Float32Array): void => {
    if (name === "logits") guided.push(data.slice());
    tap.observe?.(scale, name, data);
  };
  const stages = steps.map(() => "structure" as const);
  const plan = { model: "mini-star", schedule, stages, steps: [...steps], topP: 0.8 };
  const { kernels } = run;
  let latents: readonly Float32Array[] = [];
  const loop = drawScales({ plan, dims, transformer: spied, kernels, seeds, tap: { ...tap, observe } });
  for await (const { latent } of loop) latents = kernels.images(latent);
  return { guided, raw, latents };
}

/** 0, 1, 2, ... in an order without a pattern. */
function shuffled(count: number, seed: number): Uint32Array {
  const key = (i: number): number => Math.sin(i * 78.233 + seed);
  return Uint32Array.from({ length: count }, (_, i) => i).sort((a, b) => key(a) - key(b));
}

/** Q [M, r] that takes row I[j] as its j-th mixture. */
function selecting(I: Uint32Array, tokens: number): Float32Array {
  const Q = new Float32Array(tokens * I.length);
  I.forEach((token, j) => Q[token * I.length + j] = 1);
  return Q;
}

for (const row of ["cond", "null"] as const) {
  Deno.test(`all rows through a reduced scale are the scale in full, in order or not: ${row} row (§15 a)`, async () => {
    using opened = await open();
    const texts = [await opened.text(6, 1), await opened.text(3, 2)];
    const full = await draw(opened, texts, steps(alone(row), alone(row)));
    const ordered = (tokens: number): Uint32Array => Uint32Array.from({ length: tokens }, (_, i) => i);
    const orders = { ordered, permuted: (tokens: number, c: number) => shuffled(tokens, c) };
    for (const [name, order] of Object.entries(orders)) {
      const of = (scale: number): number => scale === 4 ? N : M;
      const tap = {
        indices: (scale: number, c: number) => order(of(scale), c),
        projection: (scale: number, c: number) => selecting(order(of(scale), c), of(scale)),
      };
      const twice = await draw(opened, texts, steps(reduced(row, N), reduced(row, M)), { tap });
      for (const scale of [4, 5]) {
        const error = distance(twice.guided[scale]!, full.guided[scale]!);
        assert(error < 1e-5, `${name}, scale ${scale}: relative error ${error}`);
      }
      assert(distance(twice.latents[0]!, full.latents[0]!) < 1e-5);
    }
    // a permuted Q with rows put back in order is wrong, and seen to be
    const tap = {
      indices: () => ordered(M),
      projection: (_: number, c: number) => selecting(shuffled(M, c), M),
    };
    const wrong = await draw(opened, texts, steps(alone(row), reduced(row, M)), { tap });
    assert(distance(wrong.guided[5]!, full.guided[5]!) > 0.01);
    const misplaced = await draw(opened, texts, steps(alone(row), reduced(row, M, { rope: "first" })), {
      tap: { ...tap, indices: (_, c) => shuffled(M, c) },
    });
    assert(distance(misplaced.guided[5]!, full.guided[5]!) > 1e-3, "positions are those of I");
  });
}

Deno.test("the conditional row alone has the logits that it has beside the null row (§15 b)", async () => {
  using opened = await open();
  const texts = [await opened.text(6, 1), await opened.text(3, 2)];
  const codes = [1, 4, 16, 49, N, M].map((tokens) => shuffled(tokens, 9).map((i) => i % 256));
  const tap = { tokens: (scale: number) => codes[scale] };
  const two = await draw(opened, texts, steps(BOTH, BOTH), { tap });
  const one = await draw(opened, texts, steps(alone("cond"), alone("cond")), { tap });
  const never = await draw(opened, texts.slice(0, 1), new Array<Step>(6).fill(alone("cond")), { tap });
  const none = await draw(opened, texts, steps(alone("null"), alone("null")), { tap });
  for (const [scale, both] of two.raw.entries()) {
    const [cond, nul] = [both.subarray(0, both.length / 2), both.subarray(both.length / 2)];
    assert(distance(never.raw[scale]!, cond) < 1e-5, `scale ${scale}, no null row at all`);
    if (scale < 4) {
      assert.deepEqual(one.raw[scale], both);
      continue;
    }
    const error = distance(one.raw[scale]!, cond);
    assert(error < 1e-5, `scale ${scale}: relative error ${error}`);
    assert.deepEqual(one.guided[scale], one.raw[scale], "its own logits are taken as they are");
    // §15 c: alone, the null row is told its own text, beside the conditional one that one's
    assert(distance(none.raw[scale]!, nul) > 0.01, `scale ${scale}: ${distance(none.raw[scale]!, nul)}`);
    assert(distance(one.raw[scale]!, nul) > 0.01, "rows differ at all");
  }
});

Deno.test("both rows of an image are told the conditional text; the null row alone is told its own (§6, Q1)", async () => {
  using opened = await open();
  const [cond, nul, other] = [await opened.text(6, 1), await opened.text(3, 2), await opened.text(9, 3)];
  const mixed = { ...other, start: nul.start }; // the null row begins as it did, and would read another text
  const [guided, null2] = [steps(BOTH, BOTH), steps(alone("null"), alone("null"))];
  assert.deepEqual((await draw(opened, [cond, mixed], guided)).raw, (await draw(opened, [cond, nul], guided)).raw);
  const [plain, told] = [await draw(opened, [cond, nul], null2), await draw(opened, [cond, mixed], null2)];
  assert.deepEqual(told.raw.slice(0, 4), plain.raw.slice(0, 4));
  for (const scale of [4, 5]) assert(distance(told.raw[scale]!, plain.raw[scale]!) > 1e-3, `scale ${scale}`);
  const again = await draw(opened, [{ ...other, start: cond.start }, nul], guided);
  const half = again.raw[0]!.length / 2;
  for (const part of [0, half]) {
    const of = ({ raw }: Drawn): Float32Array => raw[0]!.subarray(part, part + half);
    assert(distance(of(again), of(plain)) > 1e-3, "another conditional text changes both rows");
  }
});

Deno.test("images of a batch depend on their own seed alone, reduced and on either row", async () => {
  using opened = await open();
  const texts = [await opened.text(6, 1), await opened.text(3, 2)];
  const arms: Step[][] = [
    steps(BOTH, BOTH),
    steps(alone("cond"), reduced("cond", 9)),
    steps(alone("null"), reduced("null", 9, { addUnselected: false, projection: "sign" })),
    steps(reduced("cond", 5, { reduce: "select" }), { kind: "skip" }),
    steps({ kind: "skip" }, reduced("null", 9, { reduce: "cache", ranks: [] })),
  ];
  for (const [arm, all] of arms.entries()) {
    const together = await draw(opened, texts, all, { seeds: [3, 8, 5] });
    for (const [image, seed] of [3, 8, 5].entries()) {
      const single = await draw(opened, texts, all, { seeds: [seed] });
      assert(distance(together.latents[image]!, single.latents[0]!) < 1e-5, `arm ${arm}, seed ${seed}`);
    }
    assert(distance(together.latents[0]!, together.latents[1]!) > 0.1);
  }
});

Deno.test("control (d) adds the codes of the rows that the last block drew, and no others", async () => {
  using opened = await open();
  const texts = [await opened.text(6, 1), await opened.text(3, 2)];
  const drawn = (c: number): Uint32Array => shuffled(M, c).slice(0, 9);
  const latent = async (addUnselected: boolean, change: (token: number) => boolean): Promise<Float32Array> => {
    const tap = {
      indices: (_: number, c: number) => drawn(c),
      tokens: (scale: number) => {
        const tokens = [1, 4, 16, 49, N, M][scale]!;
        return Uint32Array.from({ length: tokens }, (_, i) => (7 * i + (scale === 5 && change(i) ? 1 : 0)) % 256);
      },
    };
    const all = steps(alone("null"), reduced("null", 9, { addUnselected }));
    return (await draw(opened, texts, all, { tap })).latents[0]!;
  };
  const own = new Set(drawn(5));
  const [inside, outside] = [(token: number) => own.has(token), (token: number) => !own.has(token)];
  const wanted = await latent(false, () => false);
  assert.deepEqual(await latent(false, outside), wanted);
  assert(distance(await latent(false, inside), wanted) > 1e-3);
  const plain = await latent(true, () => false);
  assert(distance(plain, wanted) > 0.01);
  assert(distance(await latent(true, outside), plain) > 0.01);
});

Deno.test("mapped weights of STAR are gone through in parts by default, packed ones at once", async () => {
  for (const [residency, rows] of [["mapped", 1024], ["packed", Infinity]] as const) {
    using opened = await open({ residency });
    assert.equal(opened.transformer.rowsAtOnce, rows);
  }
});

Deno.test("STAR's blocks give the same in parts as at once: whole scales, chosen tokens, and the cache that both leave", async () => {
  const wave = (length: number, from: number): Float32Array =>
    Float32Array.from({ length }, (_, i) => Math.sin(from + i * 0.37));
  const grids = [{ h: 4, w: 4 }, { h: 7, w: 7 }, { h: 9, w: 9 }] as const;
  const chosen = [Uint32Array.of(40, 3, 17, 9, 21, 33, 0), Uint32Array.of(5, 4, 47, 30, 2, 11, 12)];
  for (const images of [1, 2]) {
    const results: Float32Array[][] = [];
    for (const rowsAtOnce of [Infinity, 40, 9, 1]) { // 1: less than a token of every row, which go through together all the same
      using opened = await open({ rowsAtOnce });
      const { model, transformer, codebook } = opened;
      const { dims } = model;
      const texts = [await opened.text(6, 1), await opened.text(3, 2)];
      const capacity = new Array<number>(dims.chunks).fill(16 + 49 + 7 + 7);
      const request = { dims, images, last: grids[2], last1M: grids[2], capacity };
      using run = new StarRun(transformer, texts, { codebook, phi: model.decoder.phi }, request);
      const x = (tokens: number, rows = 2 * images): Float32Array => wave(rows * tokens * dims.width, tokens);
      const own = chosen.slice(0, images);
      const result = [
        await run.chunk(1, x(16), grids[0]),
        await run.chunk(1, x(49), grids[1]),
        await run.chunk(1, x(7), grids[1], own), // attends to all that the ones before have left
        await run.chunk(3, x(16), grids[0]), // a block of its own cache
      ];
      run.keepRows(images, 2 * images);
      result.push(await run.chunk(1, x(7, images), grids[2], own));
      results.push(result);
    }
    const [whole, ...parted] = results;
    assert(whole!.every((values) => values.every(Number.isFinite)));
    for (const parts of parted) {
      for (const [step, values] of parts.entries()) {
        const error = distance(values, whole![step]!);
        assert(error < 1e-6, `${images} images, step ${step}: relative error ${error}`);
      }
    }
  }
});

Deno.test("a STAR cache larger than the memory there is is refused before it is touched", async () => {
  using opened = await open();
  const { model, transformer, codebook } = opened;
  const last = { h: 12, w: 12 };
  const request = { dims: model.dims, images: 1, last, last1M: last, capacity: new Array<number>(6).fill(1e9) };
  const texts = [await opened.text(3, 1)];
  assert.throws(
    () => new StarRun(transformer, texts, { codebook, phi: model.decoder.phi }, request),
    /Cannot allocate \d+\.\d GiB for keys and values/,
  );
});
