import assert from "node:assert/strict";
import { join } from "node:path";
import { Engine, generate } from "../src/engine.ts";
import { DeviceError, IntegrityError, ModelError, StageVarError, UsageError } from "../src/errors.ts";
import { openInfinity } from "../src/models/infinity/model.ts";
import { InfinityRun } from "../src/models/infinity/run.ts";
import { InfinityTransformer } from "../src/models/infinity/transformer.ts";
import { openNative } from "../src/runtime/native.ts";
import { slowInSixteenBits } from "../src/runtime/processor.ts";
import { planFor } from "../src/prepare.ts";
import type { GenerateEvent } from "../src/request.ts";
import type { Span } from "../src/runtime/trace.ts";
import { openCheckpoint } from "../src/checkpoint/open.ts";
import { MODELS, withCopyOfMini2B } from "./mini_models.ts";

const MINI = join(MODELS, "mini-2b");
const SMALL = { pixels: "0.06M", prompt: "a red circle left of a blue square" } as const;

type Picture = Extract<GenerateEvent, { type: "image" }>;

async function pictures(events: AsyncIterable<GenerateEvent>): Promise<Picture[]> {
  const all: Picture[] = [];
  for await (const event of events) if (event.type === "image") all.push(event);
  return all;
}

Deno.test("generate() yields start, text, scales, images, done, in that order", async () => {
  const events = await Array.fromAsync(generate({ ...SMALL, model: MINI, seed: 3 }));
  const kinds = events.map(({ type }) => type);
  assert.deepEqual(kinds, ["start", "text", ...new Array(7).fill("scale"), "image", "done"]);
  const [start] = events, image = events.at(-2)!, done = events.at(-1)!;
  assert(start?.type === "start" && image.type === "image" && done.type === "done");
  assert.equal(start.model.name, "mini-2b");
  assert.match(start.model.hash, /^[0-9a-f]{10}$/);
  assert.equal(image.image.data.length, 256 * 256 * 3);
  assert.equal(image.record.seed, 3);
  assert.equal(done.tokenLayers, 521 * 2 * 16);
  assert(done.timings.total > done.timings.transformer && done.peakMemory > 0);
});

Deno.test("generate() repeats itself exactly, also from the request in its metadata", async () => {
  const first = await pictures(generate({ ...SMALL, model: MINI, seed: 11, batch: 2 }));
  const request = first[1]!.record.request as Parameters<typeof generate>[0];
  const again = await pictures(generate({ ...request, model: MINI }));
  assert.deepEqual(again.map(({ png }) => png), first.map(({ png }) => png));
  assert.notDeepEqual(first[0]!.png, first[1]!.png);
  assert.deepEqual(first.map(({ seed }) => seed), [11, 12]);
});

Deno.test("generate() draws other pictures for another prompt, negative prompt or guidance", async () => {
  using engine = await Engine.open({ model: MINI });
  const draw = async (change: object): Promise<string> => {
    const [picture] = await pictures(engine.generate({ ...SMALL, seed: 5, ...change }));
    return picture!.image.data.join();
  };
  const all = [
    await draw({}),
    await draw({ prompt: "three dogs" }),
    await draw({ negativePrompt: "dark city" }),
    await draw({ cfgScale: 1 }),
    await draw({ cfgScale: [1, 1, 2, 3, 3, 3, 3] }),
    await draw({ tau: 0 }),
  ];
  assert.equal(new Set(all).size, all.length);
  assert.equal(await draw({}), all[0]);
});

Deno.test("low memory draws the same picture, again after the transformer was freed", async () => {
  const [wanted] = await pictures(generate({ ...SMALL, model: MINI, seed: 6 }));
  using engine = await Engine.open({ model: MINI, lowMemory: true });
  for (let time = 0; time < 2; time++) {
    const [picture] = await pictures(engine.generate({ ...SMALL, seed: 6 }));
    // weights in their files are multiplied in another order: a rounding may tip a bit, not more
    const off = picture!.image.data.filter((value, i) => Math.abs(value - wanted!.image.data[i]!) > 1).length;
    assert(off < 0.01 * wanted!.image.data.length, `${off} values differ`);
  }
});

Deno.test("a dtype other than f32 makes its copies once, tells how far, and draws nearly the same", async () => {
  await withCopyOfMini2B(async (model) => {
    const told: string[] = [];
    const progress = (done: number, total: number): number => told.push(`${done}/${total}`);
    const notices = new Map<string, string[]>();
    const logits = async (dtype: "f32" | "u16"): Promise<Float32Array> => {
      using engine = await Engine.open({ model, dtype, progress });
      let first = new Float32Array();
      const tap = {
        observe(k: number, name: string, data: Float32Array): void {
          if (k === 0 && name === "logits") first = data.slice();
        },
      };
      const events = await Array.fromAsync(engine.generate({ ...SMALL, seed: 1 }, { tap }));
      const start = events.find((event) => event.type === "start")!;
      notices.set(dtype, start.notices.filter((notice) => notice.includes("u16 takes longer")));
      return first;
    };
    const [exact, close] = [await logits("f32"), await logits("u16")];
    assert.deepEqual([told.length, told.at(-1)], [256, "256/256"]);
    await logits("u16");
    assert.equal(told.length, 256);
    assert.deepEqual(
      [notices.get("f32")!.length, notices.get("u16")!.length],
      [0, Number(slowInSixteenBits())],
      "said where it gains nothing",
    );
    const error = Math.hypot(...exact.map((value, i) => value - close[i]!)) / Math.hypot(...exact);
    assert(error > 1e-6 && error < 2.5e-4, `relative error ${error}`);
  });
});

Deno.test("a dtype that a device cannot do is refused before copies are made", async () => {
  await withCopyOfMini2B(async (model) => {
    await assert.rejects(Engine.open({ model, device: "webgpu", dtype: "u8" }), UsageError);
    await assert.rejects(Engine.open({ model, device: "cuda", dtype: "u16" }), UsageError);
    const files = [...Deno.readDirSync(model)].map(({ name }) => name);
    assert(files.length > 0 && !files.some((name) => name.startsWith("stagevar-")), `${files}`);
  });
});

Deno.test("a cache larger than the memory there is is refused before it is touched", async () => {
  const model = await openInfinity(MINI);
  using runtime = openNative();
  using transformer = await InfinityTransformer.open(model.transformer, runtime);
  const text = await transformer.encodeText(new Float32Array(model.transformer.dims.textDim));
  const last = { h: 64, w: 64 };
  const request = { dims: model.dims, images: 1, last, last1M: last, capacity: new Array(model.dims.chunks).fill(1e9) };
  assert.throws(() => new InfinityRun(transformer, [text], request), (error) => {
    assert(error instanceof DeviceError);
    assert.match(
      error.message,
      /^Cannot allocate \d+\.\d GiB for keys and values: \d+\.\d GiB of memory are available$/,
    );
    return true;
  });
});

Deno.test("generate() draws the aspect that was asked for, with the nearest schedule", async () => {
  const [picture] = await pictures(generate({ ...SMALL, model: MINI, seed: 1, aspect: "3:2" }));
  assert.deepEqual([picture!.image.width, picture!.image.height], [336, 224]);
});

Deno.test("generate() gives previews that grow into the picture", async () => {
  const previews: Uint8Array[] = [];
  let last = new Uint8Array();
  for await (const event of generate({ ...SMALL, model: MINI, seed: 1, preview: true })) {
    if (event.type === "scale") previews.push(...event.previews!.map(({ data }) => data));
    if (event.type === "image") last = event.image.data as Uint8Array<ArrayBuffer>;
  }
  assert.equal(previews.length, 7);
  assert.deepEqual(previews.at(-1), last);
  assert.notDeepEqual(previews[0], last);
});

Deno.test("generate() stops inside a scale when aborted, and the engine can go on", async () => {
  using engine = await Engine.open({ model: MINI });
  const controller = new AbortController();
  let scales = 0;
  await assert.rejects(async () => {
    for await (const event of engine.generate({ ...SMALL, seed: 1 }, { signal: controller.signal })) {
      if (event.type !== "scale") continue;
      scales++;
      if (scales === 3) setTimeout(() => controller.abort(new Error("enough")), 1);
    }
  }, /enough/);
  assert(scales >= 3 && scales < 7, `${scales} scales ran`);
  assert.equal((await pictures(engine.generate({ ...SMALL, seed: 1 }))).length, 1);
});

Deno.test("generate() begins to decode the next picture of a batch before it gives one away", async () => {
  const spans: Span[] = [];
  using engine = await Engine.open({ model: MINI, trace: (span) => spans.push(span) });
  const events = await Array.fromAsync(engine.generate({ ...SMALL, seed: 1, batch: 3 }));
  const indices = events.map((event) => event.type === "image" ? event.index : event.type).slice(-4);
  assert.deepEqual(indices, [0, 1, 2, "done"]);
  const begun = spans.filter(({ name }) => name === "decode" || name === "encode").toSorted((a, b) =>
    a.start - b.start
  );
  assert.deepEqual(begun.map(({ name }) => name), ["decode", "encode", "decode", "encode", "decode", "encode"]);
  const ends = begun.map(({ start, ms }) => start + ms);
  assert(
    begun[2]!.start < ends[1]! && begun[4]!.start < ends[3]!,
    "a picture was decoded after the one before was encoded",
  );
  const done = events.at(-1)!;
  assert(done.type === "done" && done.timings.encode > 0 && done.timings.decode > 0);
});

Deno.test("generate() can be left at any picture of a batch, and the engine can go on", async () => {
  const spans: Span[] = [];
  const engine = await Engine.open({ model: MINI, trace: (span) => spans.push(span) });
  const decoded = (): number => spans.filter(({ name }) => name === "decode").length;
  const request = { ...SMALL, seed: 1, batch: 4 };
  const wanted = await pictures(engine.generate(request));
  for (const last of [0, 2, 3]) {
    spans.length = 0;
    for await (const event of engine.generate(request)) if (event.type === "image" && event.index === last) break;
    assert.equal(decoded(), Math.min(last + 2, 4), "what was begun has ended");
  }
  const controller = new AbortController();
  let images = 0;
  await assert.rejects(async () => {
    for await (const event of engine.generate(request, { signal: controller.signal })) {
      if (event.type === "image" && ++images === 2) controller.abort(new Error("enough"));
    }
  }, /enough/);
  assert.equal(images, 2);
  // One that nobody ends: what it has begun is over before the next request begins, and before memory is freed.
  const toFirst = async (events: AsyncGenerator<GenerateEvent>): Promise<void> => {
    let event: IteratorResult<GenerateEvent>;
    do event = await events.next(); while (event.value?.type !== "image");
  };
  await toFirst(engine.generate(request));
  assert.deepEqual((await pictures(engine.generate(request))).map(({ png }) => png), wanted.map(({ png }) => png));
  const left = engine.generate(request);
  await toFirst(left);
  engine[Symbol.dispose]();
  await left.return(undefined);
});

Deno.test("a picture whose engine was disposed ends with one clear error", async () => {
  const engine = await Engine.open({ model: MINI });
  const events = engine.generate({ ...SMALL, seed: 1 });
  for (let scales = 0; scales < 2;) if ((await events.next()).value?.type === "scale") scales++;
  engine[Symbol.dispose]();
  await assert.rejects(Array.fromAsync(events), (error) => {
    assert(error instanceof DeviceError && /released with its engine/.test(error.message), String(error));
    return true;
  });
});

Deno.test("generate() refuses requests that cannot be, before loading a model", async () => {
  const refused: [object, RegExp][] = [
    [{ prompt: "" }, /Empty prompt/],
    [{ prompt: " \n" }, /Empty prompt/],
    [{ prompt: "x".repeat(100_001) }, /100001 characters/],
    [{ negativePrompt: "y".repeat(200_000) }, /Negative prompt has 200000/],
    [{ seed: -1 }, /Seed is -1/],
    [{ seed: 2 ** 32 }, /Seed is 4294967296/],
    [{ seed: 1.5 }, /Seed is 1.5/],
    [{ batch: 0 }, /Batch is 0/],
    [{ batch: 1e9 }, /Batch is 1000000000/],
  ];
  for (const [change, message] of refused) {
    await assert.rejects(Array.fromAsync(generate({ ...SMALL, model: "no-such-model", ...change })), (error) => {
      assert(error instanceof UsageError, String(error));
      assert.match(error.message, message);
      return true;
    });
  }
});

Deno.test("generate() refuses plans that cannot be", async () => {
  using engine = await Engine.open({ model: MINI });
  for (
    const change of [
      { method: "no-such-method" },
      { cfgScale: NaN },
      { cfgScale: [1, 2] },
      { tau: -1 },
      { topP: 2 },
      { width: 3, height: 100_000 },
      { aspect: "0:1" },
      { method: "stagevar" }, // no ranks known for this model
    ]
  ) {
    const run = Array.fromAsync(engine.generate({ ...SMALL, seed: 1, ...change }));
    await assert.rejects(
      run,
      (error) => error instanceof StageVarError,
      JSON.stringify(change),
    );
  }
});

Deno.test("planFor() reads headers only and agrees with the plan that runs", async () => {
  const plan = await planFor({ ...SMALL, model: MINI, method: "skip-fidelity" });
  const [start] = await Array.fromAsync(generate({ ...SMALL, model: MINI, method: "skip-fidelity", seed: 1 }));
  assert(start?.type === "start");
  assert.deepEqual(start.plan, plan);
});

Deno.test("a weight that is not a number is named", async () => {
  await withCopyOfMini2B(async (folder) => {
    const source = await openCheckpoint(join(folder, "infinity.pth"));
    const ref = source.get("block_chunks.2.module.1.ffn.fc1.weight");
    using file = await Deno.open(ref.file, { read: true, write: true });
    await file.seek(ref.offset + 4 * 17, Deno.SeekMode.Start);
    await file.write(new Uint8Array(Float32Array.of(NaN).buffer));
    await assert.rejects(Array.fromAsync(generate({ ...SMALL, model: folder, seed: 1 })), (error) => {
      assert(error instanceof ModelError);
      assert.match(error.message, /"block_chunks\.2\.module\.1\.ffn\.fc1\.weight".*element 17/);
      return true;
    });
  });
});

Deno.test("damaged and missing files of a model give one clear error", async () => {
  const spoil: [string, (folder: string) => Promise<void>, RegExp][] = [
    ["truncated transformer", (folder) => Deno.truncate(join(folder, "infinity.pth"), 100_000), /infinity\.pth/],
    ["missing VAE", (folder) => Deno.remove(join(folder, "vae.pth")), /vae\.pth/],
    ["missing encoder", (folder) => Deno.remove(join(folder, "../mini-t5"), { recursive: true }), /mini-t5/],
    ["model.json of another kind", (folder) => Deno.writeTextFile(join(folder, "model.json"), "[]"), /model\.json/],
    [
      "model.json cut short",
      (folder) => Deno.writeTextFile(join(folder, "model.json"), '{"family": "inf'),
      /model\.json/,
    ],
    [
      "unknown family",
      (folder) => Deno.writeTextFile(join(folder, "model.json"), '{"family": "flux"}'),
      /"family".*"flux"/,
    ],
    ["no model.json", (folder) => Deno.remove(join(folder, "model.json")), /no model\.json/],
    ["swapped files", async (folder) => {
      await Deno.rename(join(folder, "vae.pth"), join(folder, "x"));
      await Deno.rename(join(folder, "infinity.pth"), join(folder, "vae.pth"));
      await Deno.rename(join(folder, "x"), join(folder, "infinity.pth"));
    }, /infinity\.pth|vae\.pth/],
    ["foreign ranks", (folder) => Deno.writeTextFile(join(folder, "ranks.json"), '{"version": 9}'), /ranks\.json/],
  ];
  for (const [what, change, message] of spoil) {
    await withCopyOfMini2B(async (folder) => {
      await change(folder);
      await assert.rejects(Array.fromAsync(generate({ ...SMALL, model: folder, seed: 1 })), (error) => {
        assert(error instanceof ModelError || error instanceof IntegrityError, `${what}: ${(error as Error).stack}`);
        assert.match(error.message, message, what);
        return true;
      });
    });
  }
});

Deno.test("a VAE of another model is refused with both widths", async () => {
  await withCopyOfMini2B(async (folder) => {
    await Deno.copyFile(join(MODELS, "mini-8b", "vae.pth"), join(folder, "vae.pth"));
    await assert.rejects(Array.fromAsync(generate({ ...SMALL, model: folder, seed: 1 })), /14 bits.*32 bits/);
  });
});
