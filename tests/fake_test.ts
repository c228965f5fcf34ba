import assert from "node:assert/strict";
import { join } from "node:path";
import { TensorSource } from "../src/checkpoint/source.ts";
import { DTYPE_BYTES, readIntegers, readTensor, rowMajor, type TensorRef } from "../src/checkpoint/tensor.ts";
import { openCheckpoint } from "../src/checkpoint/open.ts";
import { Engine } from "../src/engine.ts";
import { DeviceError, UsageError } from "../src/errors.ts";
import { readDecoderWeights } from "../src/models/infinity/decoder.ts";
import { type FakeDType, type FakeTensor, FakeValues } from "../src/models/fake_values.ts";
import type { FakeFile } from "../src/models/fake_writer.ts";
import { FAKE_MODELS, fakeFiles, type FakeModel, writeFake } from "../src/models/infinity/fake.ts";
import { fakeTokenizer } from "../src/models/infinity/fake_tokenizer.ts";
import { openInfinity } from "../src/models/infinity/model.ts";
import { readInfinityWeights } from "../src/models/infinity/weights.ts";
import { parseTokenizer } from "../src/text/tokenizer.ts";
import { tempFolder } from "./checkpoint_forge.ts";
import { cli, names } from "./cli_fakes.ts";

type Released = keyof typeof FAKE_MODELS;

/** A model in the files of a released one, small enough to draw with. */
function tiny(name: Released): FakeModel {
  const { transformer, vae, text, ...files } = FAKE_MODELS[name];
  const small = { width: 32, depth: 4, chunks: 4, heads: 2, ffn: 64, textDim: 64, poolHeads: 2 };
  return {
    ...files,
    transformer: { ...transformer, ...small },
    vae: { ...vae, widths: vae.widths.map((_, level) => level < 2 ? 32 : 64) },
    text: { ...text, width: 64, depth: 3, heads: 4, inner: 64, ffn: 96 },
  };
}

const elements = ({ shape }: FakeTensor): number => shape.reduce((product, extent) => product * extent, 1);
const sum = (numbers: readonly number[]): number => numbers.reduce((total, number) => total + number, 0);

/** What a plan says of a model, without a byte of it: tensors and parameters by part, the zero buffers not counted. */
function planned(name: Released): { keys: number; transformer: number; vae: number; text: number } {
  const all = fakeFiles(FAKE_MODELS[name]);
  const transformer = all.filter(({ path }) => path.startsWith(FAKE_MODELS[name].transformerFile));
  const count = (files: readonly FakeFile[]): number =>
    sum(files.flatMap(({ tensors }) => tensors).filter(({ name }) => !name.endsWith("zero_k_bias")).map(elements));
  return {
    keys: sum(transformer.map(({ tensors }) => tensors.length)),
    transformer: count(transformer),
    vae: count(all.filter(({ path }) => path === FAKE_MODELS[name].vaeFile)),
    text: count(all.filter(({ path }) => path.startsWith("flan-t5-xl/"))),
  };
}

Deno.test("fakeFiles() plans the keys and parameters of the released models", () => {
  const text = 1_223_527_424;
  assert.deepEqual(planned("infinity-2b"), { keys: 694, transformer: 2_204_564_032, vae: 65_092_355, text });
  assert.deepEqual(planned("infinity-8b"), { keys: 862, transformer: 8_375_791_824, vae: 48_484_611, text });
  const { keys, transformer } = planned("infinity-125m");
  assert.deepEqual([keys, transformer], [274, 125_148_800]);
});

Deno.test("fakeFiles() gives names and shapes that the readers of the model want", () => {
  for (const [name, { transformer, transformerFile, vae, vaeFile }] of Object.entries(FAKE_MODELS)) {
    const files = fakeFiles(FAKE_MODELS[name as Released]);
    const source = (start: string): TensorSource => {
      const tensors = files.filter(({ path }) => path.startsWith(start)).flatMap(({ tensors }) => tensors);
      const refs = tensors.map(({ name, shape }, i): [string, TensorRef] => {
        return [name, { name, dtype: "F32", shape, strides: rowMajor(shape), file: "/none", offset: 64 * i }];
      });
      return new TensorSource(start, ["/none"], new Map(refs));
    };
    assert.deepEqual(readInfinityWeights(source(transformerFile)).dims, transformer);
    const { codeDim, widths, blocks } = readDecoderWeights(source(vaeFile));
    assert.deepEqual({ codeDim, widths, blocks }, vae);
  }
});

Deno.test("fakeFiles() cuts the 8B into the four released shards", () => {
  const shards = fakeFiles(FAKE_MODELS["infinity-8b"]).filter(({ path }) => path.startsWith("infinity_8b_weights/"));
  assert.equal(shards[3]!.path, "infinity_8b_weights/model-00004-of-00004.safetensors");
  const gigabytes = shards.map(({ tensors }) => (4 * sum(tensors.map(elements)) / 1e9).toFixed(2));
  assert.deepEqual(gigabytes, ["8.22", "8.22", "8.22", "8.83"]); // infinity.md §1.1
});

const ANY = { aspect: "1:1", pixels: "0.06M", prompt: "A red fox, close-up (35mm)", seed: 3 } as const;

for (const [name, dtype] of [["infinity-2b", "F32"], ["infinity-8b", "BF16"], ["infinity-125m", "F16"]] as const) {
  Deno.test(`writeFake() makes an ${name} of ${dtype} that draws with activations in range`, async () => {
    await using folder = await tempFolder();
    const wanted = tiny(name);
    const steps: [string, number, number][] = [];
    await writeFake(folder.path, wanted, {
      dtype,
      seed: 5,
      progress: (file, done, total) => steps.push([file, done, total]),
    });
    assert.equal(steps.at(-1)![1], steps.at(-1)![2]);
    assert.equal(new Set(steps.map(([file]) => file)).size, fakeFiles(wanted).length);

    const model = await openInfinity(folder.path);
    assert.equal(model.shape.name, name);
    assert.deepEqual(model.transformer.dims, wanted.transformer);
    assert.deepEqual(model.text.dims, wanted.text);
    const refs = [
      ...model.transformer.blocks.flatMap((block) => Object.values(block)),
      ...Object.values(model.text.tensors),
    ];
    assert(refs.every((ref) => ref.dtype === dtype));
    const mask = (await openCheckpoint(join(folder.path, wanted.vaeFile))).get("vae.quantizer.lfq.mask");
    assert.deepEqual((await readIntegers(mask)).slice(-3), [4, 2, 1]);

    const sizes: number[] = [];
    const observe = (_: number, what: string, data: Float32Array): void => {
      if (what.startsWith("chunk.") || what === "logits") {
        sizes.push(Math.sqrt(sum([...data].map((value) => value * value)) / data.length));
      }
    };
    using engine = await Engine.open({ model: folder.path });
    let drawn = false;
    for await (const event of engine.generate(ANY, { tap: { observe } })) {
      if (event.type !== "image") continue;
      drawn = true;
      assert.deepEqual([event.image.width, event.image.height], [256, 256]);
      const mean = sum([...event.image.data]) / event.image.data.length;
      const spread = Math.sqrt(
        sum([...event.image.data].map((value) => (value - mean) ** 2)) / event.image.data.length,
      );
      assert(spread > 20 && mean > 60 && mean < 190, `mean ${mean}, spread ${spread}`); // of 255: neither flat nor all clamped
    }
    assert(drawn);
    assert.equal(sizes.length, 7 * 5); // four chunks and the logits at seven scales
    assert(sizes.every((size) => size > 0.1 && size < 30), `${sizes}`);
  });
}

Deno.test("writeFake() gives the same bytes for the same seed, and others for another", async () => {
  const read = async (seed: number): Promise<Uint8Array[]> => {
    await using folder = await tempFolder();
    await writeFake(folder.path, tiny("infinity-125m"), { dtype: "BF16", seed });
    return fakeFiles(tiny("infinity-125m")).map(({ path }) => Deno.readFileSync(join(folder.path, path)));
  };
  const first = await read(1);
  assert.deepEqual(await read(1), first);
  assert.notDeepEqual(await read(2), first);
});

Deno.test("writeFake() wants an empty folder, or force, which leaves other files alone", async () => {
  await using folder = await tempFolder();
  const kept = join(folder.path, "notes.txt");
  Deno.writeTextFileSync(kept, "mine");
  const model = tiny("infinity-125m");
  await assert.rejects(writeFake(folder.path, model, { dtype: "F32", seed: 1 }), (error) => {
    assert(error instanceof UsageError);
    assert.match(error.message, /it holds "notes\.txt"/);
    return true;
  });
  assert.deepEqual(names(folder.path), ["notes.txt"]);
  await assert.rejects(writeFake(kept, model, { dtype: "F32", seed: 1 }), UsageError);
  Deno.removeSync(kept);
  Deno.mkdirSync(join(folder.path, "flan-t5-xl"));
  await assert.rejects(writeFake(folder.path, model, { dtype: "F32", seed: 1 }), /it holds "flan-t5-xl"/);
  assert.deepEqual(names(folder.path), ["flan-t5-xl"]);
  Deno.writeTextFileSync(kept, "mine");
  for (const seed of [1, 2]) await writeFake(folder.path, model, { dtype: "F32", seed, force: true });
  const files = ["flan-t5-xl", "infinity_125M_256x256.pth", "infinity_vae_d16.pth", "notes.txt"];
  assert.deepEqual(names(folder.path), files);
  assert.equal(Deno.readTextFileSync(kept), "mine");
});

Deno.test("writeFake() removes what it wrote when it is stopped", async () => {
  await using folder = await tempFolder();
  const model = tiny("infinity-8b");
  const controller = new AbortController();
  const progress = (file: string): void => {
    if (file.startsWith("flan-t5-xl/model-00002")) controller.abort(new Error("enough"));
  };
  const { signal } = controller;
  await assert.rejects(writeFake(folder.path, model, { dtype: "F32", seed: 1, signal, progress }), /enough/);
  assert.deepEqual(names(folder.path), []);
});

Deno.test("writeFake() says before it starts that a disk is too small", async () => {
  await using folder = await tempFolder();
  const model = tiny("infinity-2b");
  const huge = { ...model, transformer: { ...model.transformer, width: 2 ** 20 } };
  await assert.rejects(writeFake(folder.path, huge, { dtype: "F32", seed: 1 }), (error) => {
    assert(error instanceof DeviceError);
    assert.match(error.message, /[0-9]{5,}\.\d GB are wanted, its disk has \d+\.\d GB free/);
    return true;
  });
  assert.deepEqual(names(folder.path), []);
});

async function drawn(values: FakeValues, tensor: FakeTensor, index: number, dtype: FakeDType): Promise<Float32Array> {
  const pieces = await Array.fromAsync(values.bytes(tensor, index), (piece) => piece.slice());
  const bytes = new Uint8Array(sum(pieces.map(({ length }) => length)));
  pieces.reduce((at, piece) => (bytes.set(piece, at), at + piece.length), 0);
  await using folder = await tempFolder();
  const file = join(folder.path, "values");
  Deno.writeFileSync(file, bytes);
  assert.equal(bytes.length, elements(tensor) * DTYPE_BYTES[dtype]);
  return await readTensor({
    name: "values",
    dtype,
    shape: tensor.shape,
    strides: rowMajor(tensor.shape),
    file,
    offset: 0,
  });
}

Deno.test("FakeValues has the wanted mean and deviation, and no two rows alike", async () => {
  const tensor = { name: "w", shape: [4096, 512], mean: 2, std: 0.25 }; // twice the table
  const data = await drawn(new FakeValues(1, "F32"), tensor, 0, "F32");
  const mean = data.reduce((total, value) => total + value, 0) / data.length;
  const std = Math.sqrt(data.reduce((total, value) => total + (value - mean) ** 2, 0) / data.length);
  // A million independent values stray 0.25 / 1000 from their mean.
  assert(Math.abs(mean - 2) < 0.001 && Math.abs(std - 0.25) < 0.001, `${mean} ${std}`);
  const rows = new Set(Array.from({ length: 4096 }, (_, row) => data.subarray(row * 512, row * 512 + 4).join()));
  assert.equal(rows.size, 4096);
});

Deno.test("FakeValues rounds to nearest in half precision", async () => {
  const tensor = { name: "w", shape: [100_000], mean: 0.1, std: 1 };
  const exact = await drawn(new FakeValues(3, "F32"), tensor, 4, "F32");
  for (const [dtype, bits] of [["BF16", 8], ["F16", 11]] as const) {
    const rounded = await drawn(new FakeValues(3, dtype), tensor, 4, dtype);
    assert(rounded.some((value, i) => value !== exact[i]));
    // Half a unit in the last of 8 or 11 binary digits; below 2^-14, F16 has no more exponents.
    const wrong = rounded.findIndex((value, i) =>
      Math.abs(value - exact[i]!) > Math.max(Math.abs(exact[i]!), 2 ** -14) * 2 ** -bits
    );
    assert.equal(wrong, -1, `${exact[wrong]} became ${rounded[wrong]}`);
  }
});

Deno.test("FakeValues draws a tensor by its number, whatever was drawn before", async () => {
  const tensor = { name: "w", shape: [64], mean: 0, std: 1 };
  const values = new FakeValues(3, "F32");
  const first = await drawn(values, tensor, 7, "F32");
  assert.notDeepEqual(await drawn(values, tensor, 8, "F32"), first);
  assert.deepEqual(await drawn(values, tensor, 7, "F32"), first);
  assert.notDeepEqual(await drawn(new FakeValues(4, "F32"), tensor, 7, "F32"), first);
});

Deno.test("fakeTokenizer() knows every character of an English prompt, and keeps to the rows of the embedding", () => {
  const tokenizer = parseTokenizer(fakeTokenizer(), "fake", 512);
  const ascii = Array.from({ length: 0x7f - 0x21 }, (_, i) => String.fromCharCode(0x21 + i)).join("");
  for (
    const prompt of [ascii, [...ascii].join(" "), "Déjà vu: “naïve” café – 24°, it’s £3…", "an astronaut at 1280x720"]
  ) {
    const { ids } = tokenizer.encode(prompt);
    assert(!ids.includes(2), `"${prompt}" has an unknown piece: ${ids}`);
    assert(ids.every((id) => id >= 0 && id < 32_128) && ids.at(-1) === 1);
  }
  assert.equal(tokenizer.encode("a painting of a red dog under the table").ids.length, 10); // a word, an id; and </s>
  assert.deepEqual(tokenizer.encode("<extra_id_0>").ids, [32_099, 1]);
  assert.deepEqual(tokenizer.encode("<extra_id_99>").ids, [32_000, 1]);
});

Deno.test("main() refuses models, types and folders that fake cannot take, and stops when told to", async () => {
  await using folder = await tempFolder();
  const refused: [string[], number, RegExp][] = [
    [["infinity-20b", folder.path], 2, /Model is "infinity-20b".*\nDid you mean "infinity-2b"\?/],
    [["infinity-2b", folder.path, "--dtype", "fp8"], 2, /"--dtype" is "fp8", wanted one of f32, bf16, f16/],
    [["infinity-2b"], 2, /wants 2 MODEL and DIR, found 1/],
    [["infinity-2b", folder.path, "--seed", "-1"], 2, /seed/],
  ];
  for (const [args, code, message] of refused) {
    const run = await cli(["fake", ...args]);
    assert.equal(run.code, code, run.context.errText);
    assert.match(run.context.errText, message);
  }
  const stopped = await cli(["fake", "infinity-125m", folder.path], { signal: AbortSignal.abort() });
  assert.equal(stopped.code, 130, stopped.context.errText);
  assert.equal(stopped.context.outText, "");
  assert.deepEqual(names(folder.path), []);
});
