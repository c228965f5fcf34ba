import assert from "node:assert/strict";
import { join } from "node:path";
import { openCheckpoint } from "../src/checkpoint/open.ts";
import { readIntegers, readTensor, type TensorSource } from "../src/checkpoint/source.ts";
import type { FakeTensor } from "../src/models/fake_values.ts";
import { FAKE_STAR_MODELS, fakeStarFiles, type FakeStarModel, writeFakeStar } from "../src/models/star/fake.ts";
import { clipTensors, starTensors, vaeTensors } from "../src/models/star/fake_tensors.ts";
import { fakeClipTokenizer } from "../src/models/star/fake_tokenizer.ts";
import { tempFolder } from "./checkpoint_forge.ts";
import { cli, names } from "./cli_fakes.ts";

const GOLDEN = "tests/golden-star/models/mini-star";
const TEXT = "CLIP/text_encoder";

/** A model in the files of a released one, small enough to write. */
const TINY: FakeStarModel = {
  ...FAKE_STAR_MODELS["star-1.7b"],
  transformer: { ...FAKE_STAR_MODELS["star-1.7b"].transformer, width: 64, depth: 2, heads: 1, textDim: 32 },
  vae: { ...FAKE_STAR_MODELS["star-1.7b"].vae, widths: [32, 32, 32, 64, 32] },
  text: { width: 32, depth: 2, heads: 2, ffn: 64, vocabulary: 2000, positions: 77 },
};

type Shapes = [name: string, shape: readonly number[]][];

const planned = (tensors: readonly FakeTensor[]): Shapes => tensors.map(({ name, shape }) => [name, shape]);
const found = (source: TensorSource): Shapes => source.names().map((name) => [name, source.get(name).shape]);
const size = ([, shape]: Shapes[number]): number => shape.reduce((product, extent) => product * extent, 1);
const total = (shapes: Shapes): number => shapes.map(size).reduce((sum, count) => sum + count, 0);

Deno.test("starTensors() has the names, shapes and order that upstream's trainer saves", async () => {
  const dims = { width: 32, depth: 6, heads: 2, sides: [1, 2, 4, 7, 9, 12], vocabulary: 256, codeDim: 32, textDim: 64 };
  const source = await openCheckpoint(join(GOLDEN, "star.pth"));
  assert.deepEqual(planned(starTensors(dims)), found(source.under("trainer.var_wo_ddp.")));
});

Deno.test("vaeTensors() has the names, shapes and order of the VAE's file but for its encoder", async () => {
  const golden = found(await openCheckpoint(join(GOLDEN, "vae.pth")));
  const tensors = vaeTensors({ vocabulary: 256, codeDim: 32, widths: [32, 32, 32, 64, 32] });
  assert.deepEqual(planned(tensors), golden.filter(([name]) => !name.startsWith("encoder.")));
});

Deno.test("clipTensors() has the names and shapes of a published text tower but for its table of positions", async () => {
  const golden = found(await openCheckpoint(join(GOLDEN, TEXT)));
  const vocabulary = golden.find(([name]) => name.endsWith("token_embedding.weight"))![1][0]!;
  const dims = { width: 64, depth: 3, heads: 4, ffn: 256, vocabulary, positions: 77 };
  const weights = golden.filter(([name]) => !name.endsWith("position_ids"));
  assert.deepEqual(Object.fromEntries(planned(clipTensors(dims))), Object.fromEntries(weights));
});

/** The table of star.md §3, the tensors of block 29 for all blocks. */
const D30: Record<string, number[]> = {
  "pos_start": [1, 1, 1920],
  "word_embed.weight": [1920, 32],
  "word_embed.bias": [1920],
  "encoder_proj.weight": [1920, 1024],
  "encoder_proj.bias": [1920],
  "class_emb.weight": [1001, 1920],
  "lvl_embed.weight": [14, 1920],
  "blocks.29.attn.mat_qkv.weight": [5760, 1920],
  "blocks.29.attn.q_bias": [1920],
  "blocks.29.attn.v_bias": [1920],
  "blocks.29.attn.zero_k_bias": [1920],
  "blocks.29.attn.scale_mul_1H11": [1, 30, 1, 1],
  "blocks.29.attn.proj.weight": [1920, 1920],
  "blocks.29.attn.proj.bias": [1920],
  "blocks.29.cross_attn.mat_q.weight": [1920, 1920],
  "blocks.29.cross_attn.mat_kv.weight": [3840, 1024],
  "blocks.29.cross_attn.q_bias": [1920],
  "blocks.29.cross_attn.v_bias": [1920],
  "blocks.29.cross_attn.zero_k_bias": [1920],
  "blocks.29.cross_attn.scale_mul_1H11": [1, 30, 1, 1],
  "blocks.29.cross_attn.proj.weight": [1920, 1920],
  "blocks.29.cross_attn.proj.bias": [1920],
  "blocks.29.ffn.fc1.weight": [7680, 1920],
  "blocks.29.ffn.fc1.bias": [7680],
  "blocks.29.ffn.fc2.weight": [1920, 7680],
  "blocks.29.ffn.fc2.bias": [1920],
  "head_logits.weight": [4096, 1920],
  "head_logits.bias": [4096],
};

Deno.test("fakeStarFiles() plans the tensors of the released models", () => {
  const [transformer, vae, text] = fakeStarFiles(FAKE_STAR_MODELS["star-1.7b"]).map(({ tensors }) => planned(tensors));
  assert.equal(transformer!.length, 579);
  const parameters = transformer!.filter(([name]) => !name.endsWith("zero_k_bias")); // which are buffers
  assert.equal((total(parameters) / 1e6).toFixed(1), "1678.7");
  const outside = transformer!.filter(([name]) => !/^blocks\.(?!29\.)/.test(name));
  assert.deepEqual(Object.fromEntries(outside), D30);
  for (let layer = 0; layer < 30; layer++) {
    const block = transformer!.filter(([name]) => name.startsWith(`blocks.${layer}.`));
    assert.equal(block.length, 19);
    for (const [name, shape] of block) assert.deepEqual(shape, D30[name.replace(/\d+/, "29")], name);
  }
  const decoder = vae!.filter(([name]) => name.startsWith("decoder."));
  assert.equal((total(decoder) / 1e6).toFixed(2), "64.65"); // star.md §10
  const shapes = Object.fromEntries(vae!);
  assert.deepEqual(shapes["quantize.embedding.weight"], [4096, 32]);
  assert.deepEqual(shapes["quantize.quant_resi.qresi_ls.3.weight"], [32, 32, 3, 3]);
  assert.deepEqual(shapes["decoder.up.4.attn.2.qkv.weight"], [1920, 640, 1, 1]);
  assert.deepEqual(shapes["decoder.up.3.block.0.nin_shortcut.weight"], [320, 640, 1, 1]);
  assert.equal(total(text!), 340_387_840); // the text tower of Stable Diffusion 2.1
});

Deno.test("fakeStarFiles() gives each released model its sides and file", () => {
  const released = Object.entries(FAKE_STAR_MODELS).map(([name, model]) => {
    const [{ path, tensors, torch }] = fakeStarFiles(model) as [ReturnType<typeof fakeStarFiles>[0]];
    const sides = torch!.numbers!["trainer.config.patch_nums"]!;
    const levels = tensors.find(({ name }) => name === "lvl_embed.weight")!.shape[0];
    assert.equal(sides.length, levels);
    return [name, path, levels, sides.reduce((sum, side) => sum + side * side, 0), sides.at(-1)];
  });
  assert.deepEqual(released, [ // tokens of all scales: star.md §2
    ["star-1.7b", "star_rope_d30_1024_drop_3-ar-ckpt-ep1-iter21000.pth", 14, 9451, 64],
    ["star-512", "star_rope_d30_512-ar-ckpt-ep1-iter30000.pth", 10, 2240, 32],
    ["star-256", "star_rope_d30_256-ar-ckpt-ep3-iter20000.pth", 10, 680, 16],
  ]);
});

for (const dtype of ["F32", "BF16", "F16"] as const) {
  Deno.test(`writeFakeStar() writes a model of ${dtype} as the downloads would lie there`, async () => {
    await using folder = await tempFolder();
    await writeFakeStar(folder.path, TINY, { dtype, seed: 5 });
    assert.deepEqual(names(folder.path), ["CLIP", TINY.transformerFile, "vae_ch160v4096z32.pth"]);
    assert.deepEqual(names(join(folder.path, "CLIP")), ["text_encoder", "tokenizer"]);
    const tokenizer = ["merges.txt", "special_tokens_map.json", "tokenizer_config.json", "vocab.json"];
    assert.deepEqual(names(join(folder.path, "CLIP/tokenizer")), tokenizer);

    const checkpoint = await openCheckpoint(join(folder.path, TINY.transformerFile));
    assert.deepEqual(checkpoint.numbers("trainer.config.patch_nums"), TINY.transformer.sides);
    const transformer = checkpoint.under("trainer.var_wo_ddp.");
    assert.equal(transformer.size, checkpoint.size);
    assert.deepEqual(found(transformer), planned(starTensors(TINY.transformer)));
    const vae = await openCheckpoint(join(folder.path, "vae_ch160v4096z32.pth"));
    assert.deepEqual(found(vae), planned(vaeTensors(TINY.vae)));
    const text = await openCheckpoint(join(folder.path, TEXT));
    const ids = await readIntegers(text.get("text_model.embeddings.position_ids"));
    assert.deepEqual([...ids], Array.from({ length: 77 }, (_, i) => i));
    for (const source of [transformer, vae, text]) {
      const weights = source.names().filter((name) => !name.endsWith("position_ids"));
      assert(weights.every((name) => source.get(name).dtype === dtype));
    }

    const scales = await readTensor(transformer.get("blocks.1.attn.scale_mul_1H11"));
    assert(scales.every((scale) => Math.abs(Math.exp(scale) - 10) < 20));
    assert((await readTensor(transformer.get("blocks.0.cross_attn.zero_k_bias"))).every((value) => value === 0));
    const config = JSON.parse(Deno.readTextFileSync(join(folder.path, TEXT, "config.json")));
    const golden = JSON.parse(Deno.readTextFileSync(join(GOLDEN, TEXT, "config.json")));
    for (const [key, value] of Object.entries(config)) assert.equal(typeof value, typeof golden[key], key);
    for (const key of ["model_type", "hidden_act", "layer_norm_eps", "bos_token_id", "eos_token_id"]) {
      assert.equal(config[key], golden[key], key);
    }
    assert.deepEqual(
      [config.hidden_size, config.num_hidden_layers, config.num_attention_heads, config.intermediate_size],
      [32, 2, 2, 64],
    );
    assert.deepEqual([config.vocab_size, config.max_position_embeddings], [2000, 77]);
  });
}

Deno.test("writeFakeStar() removes what it wrote when it is stopped, inner folders too", async () => {
  await using folder = await tempFolder();
  const controller = new AbortController();
  const progress = (file: string): void => {
    if (file.startsWith("CLIP/")) controller.abort(new Error("enough"));
  };
  const options = { dtype: "BF16", seed: 1, signal: controller.signal, progress } as const;
  await assert.rejects(writeFakeStar(folder.path, TINY, options), /enough/);
  assert.deepEqual(names(folder.path), []);
});

Deno.test("fakeClipTokenizer() fills the vocabulary in CLIP's layout, and merges make words of it", () => {
  const files = fakeClipTokenizer(49_408, 77);
  const vocab: Record<string, number> = JSON.parse(files["vocab.json"]!);
  const ids = Object.values(vocab).sort((a, b) => a - b);
  assert.equal(ids.length, 49_408);
  assert(ids.every((id, i) => id === i));
  assert.deepEqual([vocab["<|startoftext|>"], vocab["<|endoftext|>"]], [49_406, 49_407]);

  // The first 512 are the golden tokenizer's, which Python's libraries built: bytes, and bytes that end a word.
  const golden: Record<string, number> = JSON.parse(Deno.readTextFileSync(join(GOLDEN, "CLIP/tokenizer/vocab.json")));
  const bytes = Object.entries(golden).filter(([, id]) => id < 512);
  assert.equal(bytes.length, 512);
  for (const [token, id] of bytes) assert.equal(vocab[token], id, token);

  const [version, ...merges] = files["merges.txt"]!.trimEnd().split("\n");
  assert.equal(version, "#version: 0.2");
  assert.equal(new Set(merges).size, 2 * 26 * 26);
  for (const merge of merges) {
    const parts = merge.split(" ");
    assert.equal(parts.length, 2);
    for (const token of [...parts, parts.join("")]) assert(vocab[token] !== undefined, token);
  }
  for (const name of ["special_tokens_map.json", "tokenizer_config.json"]) {
    const wanted = JSON.parse(Deno.readTextFileSync(join(GOLDEN, "CLIP/tokenizer", name)));
    const made = JSON.parse(files[name]!);
    assert.deepEqual(Object.keys(made).sort(), Object.keys(wanted).sort(), name);
    assert.equal(made.pad_token, "!");
    assert.equal(made.eos_token.content, wanted.eos_token.content);
  }
  assert.equal(JSON.parse(files["tokenizer_config.json"]!).model_max_length, 77);
});

Deno.test("main() knows the names of STAR, and stops when told to", async () => {
  await using folder = await tempFolder();
  const help = await cli(["fake", "--help"]);
  for (const name of Object.keys(FAKE_STAR_MODELS)) assert(help.context.outText.includes(name), help.context.outText);
  const near = await cli(["fake", "star-1.7", folder.path]);
  assert.equal(near.code, 2);
  assert.match(near.context.errText, /Model is "star-1\.7".*\nDid you mean "star-1\.7b"\?/);
  const stopped = await cli(["fake", "star-256", folder.path], { signal: AbortSignal.abort() });
  assert.equal(stopped.code, 130, stopped.context.errText);
  assert.deepEqual(names(folder.path), []);
});
