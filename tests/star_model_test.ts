/** Folders of STAR models: what is recognised, what a model.json may say, one clear error for all that does not fit. */
import assert from "node:assert/strict";
import { join } from "node:path";
import { openCheckpoint } from "../src/checkpoint/open.ts";
import { byteLength } from "../src/checkpoint/tensor.ts";
import { writeSafetensors } from "../src/checkpoint/safetensors_writer.ts";
import { writeTorch } from "../src/checkpoint/torch_pth_writer.ts";
import { generate } from "../src/engine.ts";
import { ModelError } from "../src/errors.ts";
import { openInfinity } from "../src/models/infinity/model.ts";
import { openModel } from "../src/models/open.ts";
import { FAKE_STAR_MODELS, type FakeStarModel, writeFakeStar } from "../src/models/star/fake.ts";
import { openStar } from "../src/models/star/model.ts";
import { tempFolder } from "./checkpoint_forge.ts";
import { MINI_STAR, withCopyOfMiniStar } from "./mini_star.ts";

const PATCH_NUMS = "trainer.config.patch_nums";
const SIDES = [1, 2, 4, 7, 9, 12];

/** A model in the files of a released one, small enough to write. */
function tiny(release: keyof typeof FAKE_STAR_MODELS): FakeStarModel {
  const { transformer, transformerFile, vae } = FAKE_STAR_MODELS[release];
  return {
    transformer: { ...transformer, width: 64, depth: 2, heads: 1, textDim: 32 },
    transformerFile,
    vae: { ...vae, widths: [32, 32, 32, 32, 32] },
    text: { width: 32, depth: 1, heads: 2, ffn: 32, vocabulary: 2000, positions: 77 },
  };
}

/** Writes one, and gives the folder to `work`. */
async function withTiny(model: FakeStarModel, work: (folder: string) => Promise<void>): Promise<void> {
  await using folder = await tempFolder();
  const path = join(folder.path, "model");
  await writeFakeStar(path, model, { dtype: "BF16", seed: 1 });
  await work(path);
}

async function refused(opening: Promise<unknown>, message: RegExp, what = String(message)): Promise<void> {
  await assert.rejects(opening, (error) => {
    assert(error instanceof ModelError, `${what}: ${(error as Error).stack}`);
    assert.match(error.message, message, what);
    assert(error.message.length < 1000 && !error.message.includes("\n"), `${what}: one clear sentence`);
    return true;
  });
}

interface Loose {
  readonly name: string;
  readonly dtype: "F32";
  readonly shape: readonly number[];
  readonly bytes: Uint8Array;
}

/** The tensors of mini-star's transformer, by the names that they have in a bare state dict. */
async function looseTensors(): Promise<Loose[]> {
  const source = (await openCheckpoint(join(MINI_STAR, "star.pth"))).under("trainer.var_wo_ddp.");
  const tensors: Loose[] = [];
  for (const name of source.names()) {
    const ref = source.get(name);
    assert(ref.dtype === "F32");
    using file = await Deno.open(ref.file);
    await file.seek(ref.offset, Deno.SeekMode.Start);
    const bytes = new Uint8Array(byteLength(ref));
    for (let at = 0; at < bytes.length;) at += (await file.read(bytes.subarray(at)))!;
    tensors.push({ name, dtype: "F32", shape: ref.shape, bytes });
  }
  return tensors;
}

/** Changes fields of a folder's model.json; undefined takes one out. */
async function describe(folder: string, change: Record<string, unknown>): Promise<void> {
  const path = join(folder, "model.json");
  await Deno.writeTextFile(path, JSON.stringify({ ...JSON.parse(await Deno.readTextFile(path)), ...change }));
}

const RELEASES = [
  ["star-1.7b", 1024, "1M", 14],
  ["star-512", 512, "0.25M", 10],
  ["star-256", 256, "0.06M", 10],
] as const;
for (const [release, side, pixels, scales] of RELEASES) {
  Deno.test(`openModel() knows ${release} by the names of its files`, async () => {
    await withTiny(tiny(release), async (folder) => {
      const model = await openModel(folder);
      assert(model.family === "star");
      assert.deepEqual(model.sides, FAKE_STAR_MODELS[release].transformer.sides);
      assert.deepEqual([model.shape.name, model.config.pixels, model.sides.length], [release, pixels, scales]);
      assert.equal(model.sides.at(-1)! * model.shape.pixelsPerToken, side);
      assert.deepEqual(
        [model.config.cfg, model.config.tau, model.config.topP, model.config.topK],
        [4.5, 1, 0.8, 600],
        "upstream's sample.py",
      );
      assert.equal(model.textFolder, join(folder, "CLIP/tokenizer"));
    });
  });
}

Deno.test("a folder of release files draws a picture without a model.json", async () => {
  await withTiny(tiny("star-256"), async (model) => {
    const kinds: string[] = [];
    for await (const event of generate({ prompt: "a fox", model, seed: 1 })) {
      kinds.push(event.type);
      if (event.type !== "image") continue;
      assert.deepEqual([event.image.width, event.image.height, event.record.model], [256, 256, "star-256"]);
      assert(new Set(event.image.data).size > 50);
    }
    assert.deepEqual(kinds.slice(-2), ["image", "done"]);
  });
});

Deno.test("release files of two models or families in one folder are refused, and a model.json decides", async () => {
  await withTiny(tiny("star-256"), async (folder) => {
    const other = join(folder, FAKE_STAR_MODELS["star-512"].transformerFile);
    await Deno.writeTextFile(other, "");
    await refused(openModel(folder), /no model\.json and more than one released transformer/);
    await Deno.remove(other);
    await Deno.writeTextFile(join(folder, "infinity_2b_reg.pth"), "");
    await refused(openModel(folder), /no model\.json and released transformers of several families/);
    const { transformerFile } = FAKE_STAR_MODELS["star-256"];
    const files = { transformer: transformerFile, vae: "vae_ch160v4096z32.pth", text_encoder: "CLIP" };
    await Deno.writeTextFile(join(folder, "model.json"), JSON.stringify({ family: "star", name: "mine", ...files }));
    assert.equal((await openModel(folder)).shape.name, "mine");
  });
  await using empty = await tempFolder();
  await refused(openModel(empty.path), /no model\.json and no released transformer/);
  await refused(openStar(empty.path), /no model\.json and no released transformer/);
});

Deno.test("weights without upstream's nesting are taken, with the sides that model.json says", async () => {
  const tensors = await looseTensors();
  const draw = async (model: string): Promise<Uint8Array> => {
    for await (const event of generate({ prompt: "a red circle", model, seed: 3, method: "vanilla" })) {
      if (event.type === "image") return event.image.data;
    }
    throw new Error("No picture");
  };
  const wanted = await draw(MINI_STAR);
  await withCopyOfMiniStar(async (folder) => {
    await writeTorch(join(folder, "bare.pth"), tensors);
    await writeSafetensors(join(folder, "bare.safetensors"), tensors);
    for (const transformer of ["bare.pth", "bare.safetensors"]) {
      await describe(folder, { transformer, sides: SIDES });
      const model = await openStar(folder);
      assert.deepEqual([model.sides, model.dims.chunks], [SIDES, 6]);
      assert.deepEqual(await draw(folder), wanted, transformer);
    }
  });
});

Deno.test("sides that no model can have are refused, said by model.json or by the checkpoint", async () => {
  const tensors = await looseTensors();
  await withCopyOfMiniStar(async (folder) => {
    await writeSafetensors(join(folder, "bare.safetensors"), tensors);
    const cases: [unknown, RegExp][] = [
      [undefined, /"bare\.safetensors" does not say the sides of its scales/],
      [[1, 2, 4, 7, 9], /6 level embeddings for 5 scales/],
      [[1, 2, 4, 7, 9, 12, 16], /6 level embeddings for 7 scales/],
      [[1, 2, 4, 7, 9, 9], /sides that grow from 1/],
      [[1, 2, 4, 9, 7, 12], /sides that grow from 1/],
      [[2, 3, 4, 7, 9, 12], /sides that grow from 1/],
      [[1], /sides that grow from 1/],
      [[1, 2, 4, 7, 9, 1e9], /to at most 512 are wanted/],
      [[1, 2, 4, 7, 9, 1e300], /"sides".*a list of whole numbers is wanted/],
      [[1, 2, 4, 7, 9, 12.5], /"sides" \[1,2,4,7,9,12\.5\]: a list of whole numbers/],
      [[1, 2, 4, 7, 9, -12], /"sides"/],
      [[1, 2, 4, 7, 9, "12"], /"sides"/],
      [[1, 2, 4, 7, 9, null], /"sides"/],
      [[], /"sides" \[\]/],
      [12, /"sides" 12/],
      ["1,2,4", /"sides" "1,2,4"/],
      [{ length: 6 }, /"sides"/],
      [Array.from({ length: 100_000 }, (_, k) => k + 1), /"sides"/],
    ];
    for (const [sides, message] of cases) {
      await describe(folder, { transformer: "bare.safetensors", sides });
      await refused(openModel(folder), message, JSON.stringify(sides)?.slice(0, 40));
    }
    for (const [sides, message] of cases.slice(1, 8) as [number[], RegExp][]) {
      const options = { under: "trainer.var_wo_ddp", numbers: { [PATCH_NUMS]: sides } };
      await writeTorch(join(folder, "nested.pth"), tensors, options);
      await describe(folder, { transformer: "nested.pth", sides: SIDES }); // what the checkpoint says counts
      await refused(openModel(folder), message, JSON.stringify(sides));
      await Deno.remove(join(folder, "nested.pth"));
    }
  });
});

Deno.test("parts of other models are refused with both sizes", async () => {
  const whole = tiny("star-256");
  const cases: [FakeStarModel, RegExp][] = [
    [
      { ...whole, vae: { ...whole.vae, vocabulary: 1024 } },
      /"vae_ch160v4096z32\.pth" has 1024 codes of 32 channels.*wants 4096 of 32/,
    ],
    [{ ...whole, vae: { ...whole.vae, codeDim: 16 } }, /has 4096 codes of 16 channels.*wants 4096 of 32/],
    [{ ...whole, text: { ...whole.text, width: 64 } }, /Text encoder "CLIP" gives features of width 64.*wants 32/],
  ];
  for (const [model, message] of cases) {
    await withTiny(model, async (folder) => {
      await refused(openModel(folder), message);
    });
  }
});

Deno.test("transformers that are no base model of STAR are refused", async () => {
  const tensors = await looseTensors();
  const one = (name: string, shape: number[] = [1]): Loose => {
    const size = shape.reduce((product, extent) => product * extent, 1);
    return { name, dtype: "F32", shape, bytes: new Uint8Array(4 * size) };
  };
  const without = (name: string): Loose[] => tensors.filter((tensor) => tensor.name !== name);
  const reshaped = (name: string, shape: number[]): Loose[] => [...without(name), one(name, shape)];
  const cases: [string, Loose[], RegExp][] = [
    ["sampler", [...tensors, one("pos_start_last", [1, 1, 32])], /sampler model of STAR \("pos_start_last"\)/],
    ["sampler", [...tensors, one("feat_extract_blocks.0.attn.q_bias", [32])], /sampler model/],
    ["nothing", [one("weight")], /is no STAR transformer/],
    ["missing", without("blocks.4.cross_attn.mat_kv.weight"), /1 missing \("blocks\.4\.cross_attn\.mat_kv\.weight"\)/],
    ["left over", [...tensors, one("blocks.4.ada_lin.1.weight")], /1 not expected \("blocks\.4\.ada_lin/],
    ["a block more", [...tensors, one("blocks.9999.attn.q_bias", [32])], /missing/],
    ["misshapen", reshaped("blocks.2.attn.proj.weight", [32, 31]), /"blocks\.2\.attn\.proj\.weight" is \[32, 31\]/],
    ["no heads", reshaped("blocks.0.attn.scale_mul_1H11", [1, 0, 1, 1]), /impossible "heads"/],
    ["three heads", reshaped("blocks.0.attn.scale_mul_1H11", [1, 3, 1, 1]), /width 32, which 3 heads/],
    ["no width", reshaped("word_embed.weight", [0, 32]), /impossible "width"/],
    ["no head at all", without("head_logits.weight"), /head_logits\.weight/],
  ];
  await withCopyOfMiniStar(async (folder) => {
    await describe(folder, { transformer: "other.safetensors" });
    for (const [what, own, message] of cases) {
      await writeSafetensors(join(folder, "other.safetensors"), own);
      await refused(openModel(folder), message, what);
      await Deno.remove(join(folder, "other.safetensors"));
    }
  });
});

Deno.test("damaged, missing and foreign files of a STAR model give one clear error", async () => {
  const swap = async (folder: string, a: string, b: string): Promise<void> => {
    await Deno.rename(join(folder, a), join(folder, "x"));
    await Deno.rename(join(folder, b), join(folder, a));
    await Deno.rename(join(folder, "x"), join(folder, b));
  };
  const json = (text: string) => (folder: string): Promise<void> =>
    Deno.writeTextFile(join(folder, "model.json"), text);
  const remove = (path: string) => (folder: string): Promise<void> =>
    Deno.remove(join(folder, path), { recursive: true });
  const cases: [string, (folder: string) => Promise<void>, RegExp][] = [
    ["no transformer", remove("star.pth"), /star\.pth/],
    ["no VAE", remove("vae.pth"), /vae\.pth/],
    ["no text encoder", remove("CLIP"), /CLIP/],
    ["no text weights", remove("CLIP/text_encoder/model.safetensors"), /text_encoder/],
    ["no text config", remove("CLIP/text_encoder/config.json"), /config\.json/],
    ["no tokenizer", remove("CLIP/tokenizer"), /tokenizer/],
    ["swapped", (folder) => swap(folder, "vae.pth", "star.pth"), /star\.pth|vae\.pth/],
    [
      "VAE of Infinity",
      (folder) => Deno.copyFile("tests/golden/models/mini-2b/vae.pth", join(folder, "vae.pth")),
      /vae/,
    ],
    ["a list", json("[]"), /model\.json/],
    ["cut short", json('{"family": "st'), /model\.json/],
    ["no family", json("{}"), /"family" missing: "infinity" or "star" is wanted/],
    ["unknown family", json('{"family": "var"}'), /"family" "var": "infinity" or "star" is wanted/],
    ["family of no text", json('{"family": ["star"]}'), /"family" \["star"\]/],
    ["no files", json('{"family": "star"}'), /"transformer" missing: a file name is wanted/],
    ["other family", (folder) => describe(folder, { family: "infinity" }), /star\.pth|CLIP/],
    ["cfg", (folder) => describe(folder, { cfg: "4" }), /"cfg" "4"/],
    ["top_k", (folder) => describe(folder, { top_k: 1.5 }), /"top_k" 1\.5: a whole number is wanted/],
    ["top_k below", (folder) => describe(folder, { top_k: -1 }), /"top_k" -1/],
    ["top_p", (folder) => describe(folder, { top_p: 2 }), /"top_p" 2: a number from 0 to 1 is wanted/],
  ];
  for (const [what, change, message] of cases) {
    await withCopyOfMiniStar(async (folder) => {
      await change(folder);
      await refused(Array.fromAsync(generate({ prompt: "a fox", model: folder, seed: 1 })), message, what);
    });
  }
  await refused(openStar("tests/golden/models/mini-2b"), /"family" "infinity": "star" is wanted/);
  await refused(openInfinity(MINI_STAR), /"family" "star": "infinity" is wanted/);
});

Deno.test("settings of a STAR model.json are those of its pictures", async () => {
  await withCopyOfMiniStar(async (folder) => {
    await describe(folder, { name: "mine", cfg: [0, 1, 2, 3, 4, 5], tau: 0.5, top_k: 7, top_p: 0 });
    const { config, shape } = await openStar(folder);
    assert.deepEqual(
      [shape.name, config.cfg, config.tau, config.topK, config.topP],
      ["mine", [0, 1, 2, 3, 4, 5], 0.5, 7, 0],
    );
  });
});
