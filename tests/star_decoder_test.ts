import assert from "node:assert/strict";
import { join } from "node:path";
import { openCheckpoint } from "../src/checkpoint/open.ts";
import { writeSafetensors } from "../src/checkpoint/safetensors_writer.ts";
import { readBytes, readTensor, type TensorRef, TensorSource } from "../src/checkpoint/source.ts";
import { gaussians } from "../src/core.ts";
import { decoderFlopsPerPixel } from "../src/cost.ts";
import { ModelError } from "../src/errors.ts";
import { stripRows } from "../src/models/infinity/decoder_strips.ts";
import { readVqWeights, VqDecoder, vqDecoderFlopsPerPixel, type VqDims, vqShapes } from "../src/models/star/decoder.ts";
import { openNative } from "../src/runtime/native.ts";

const GOLDEN = join(import.meta.dirname!, "golden-star");
const VAE = join(GOLDEN, "models", "mini-star", "vae.pth");

/** Every level cut at two rows, and strips of mixed heights. */
const CUTS = [{ strip: 1, whole: 0 }, { strip: 2 ** 13, whole: 2 ** 13 }].map((values) => ({
  oneGraph: 0,
  rows: (channels: readonly number[], H: number, W: number) => stripRows(channels, H, W, values),
}));

function latentOf(length: number): Float32Array {
  return Float32Array.from({ length }, (_, i) => 1.3 * Math.sin(i * 12.9898));
}

/** The mini model's state dict with some tensors changed; undefined takes one out. */
async function changed(changes: Record<string, Partial<TensorRef> | undefined>): Promise<TensorSource> {
  const source = await openCheckpoint(VAE);
  const tensors = new Map(source.names().map((name) => [name, source.get(name)]));
  for (const [name, change] of Object.entries(changes)) {
    if (change) tensors.set(name, { ...source.get("post_quant_conv.bias"), ...tensors.get(name), ...change });
    else assert(tensors.delete(name), name);
  }
  return new TensorSource(source.path, source.files, tensors);
}

/** A state dict of any widths, each layer about as large as its input. */
async function writeVae(path: string, dims: VqDims): Promise<void> {
  const tensors = Object.entries(vqShapes(dims)).map(([name, shape], i) => {
    const length = shape.reduce((product, extent) => product * extent, 1);
    const values = gaussians({ seed: i, purpose: "weights" }, length);
    const fan = length / shape[0]!;
    const norm = /norm\w*\.weight$/.test(name);
    const bytes = new Uint8Array(
      values.map((x) => norm ? 1 + x / 4 : shape.length === 1 ? x / 4 : x / Math.sqrt(fan)).buffer,
    );
    return { name, dtype: "F32", shape, bytes } as const;
  });
  await writeSafetensors(path, tensors);
}

Deno.test("readVqWeights() reads the sizes off the state dict and leaves the encoder alone", async () => {
  const source = await openCheckpoint(VAE);
  assert(source.has("quantize.ema_vocab_hit_SV") && source.has("quant_conv.weight"));
  const weights = readVqWeights(await changed({ "encoder.conv_in.weight": {} }));
  const { codeDim, vocabulary, widths, blocks, stride, phis } = weights;
  assert.deepEqual(
    { codeDim, vocabulary, widths, blocks, stride, phis },
    { codeDim: 32, vocabulary: 256, widths: [32, 32, 32, 64, 32], blocks: 3, stride: 16, phis: 4 },
  );
  assert.equal(weights.codebook.name, "quantize.embedding.weight");
  assert.deepEqual(
    weights.phi.flatMap(({ weight, bias }) => [weight.name, bias.name]),
    [0, 1, 2, 3].flatMap((i) => ["weight", "bias"].map((part) => `quantize.quant_resi.qresi_ls.${i}.${part}`)),
  );
});

for (const name of ["star-vanilla", "star-stagevar"]) {
  Deno.test(`VqDecoder paints the picture of ${name}, in one graph and in strips`, async () => {
    const stored = await openCheckpoint(join(GOLDEN, "cases", `${name}.safetensors`));
    const [latent, wanted] = [await readTensor(stored.get("f_hat")), await readBytes(stored.get("image"))];
    const [, h, w] = stored.get("f_hat").shape as [number, number, number];
    const weights = readVqWeights(await openCheckpoint(VAE));
    using runtime = openNative();
    for (const decoding of [{}, ...CUTS]) {
      using decoder = new VqDecoder(weights, runtime, decoding);
      const pixels = await decoder.pixels(latent, h, w);
      assert.equal(pixels.length, wanted.length);
      const off = pixels.map((value, i) => Math.abs(value - wanted[i]!));
      assert(off.every((levels) => levels <= 1), `off by ${off.reduce((a, b) => Math.max(a, b))} levels`);
      const share = off.filter((levels) => levels > 0).length / off.length;
      assert(share <= 1e-3, `${share} of the values are off`);
    }
  });
}

Deno.test("VqDecoder decodes other widths, levels and sizes in strips as in one graph", async () => {
  const folder = await Deno.makeTempDir();
  try {
    const path = join(folder, "vae.safetensors");
    await writeVae(path, { codeDim: 16, vocabulary: 8, widths: [64, 64, 96, 128], blocks: 2 });
    const weights = readVqWeights(await openCheckpoint(path));
    assert.equal(weights.stride, 8);
    using runtime = openNative();
    using whole = new VqDecoder(weights, runtime);
    for (const { h, w } of [{ h: 16, w: 16 }, { h: 5, w: 7 }, { h: 1, w: 3 }]) {
      const latent = latentOf(weights.codeDim * h * w);
      const wanted = await whole.decode(latent, h, w);
      for (const cut of CUTS) {
        using strips = new VqDecoder(weights, runtime, cut);
        const found = await strips.decode(latent, h, w);
        const largest = found.reduce((most, value, i) => Math.max(most, Math.abs(value - wanted[i]!)), 0);
        assert(largest < 5e-5 && largest > 0, `${h}x${w}: off by ${largest}`);
      }
      assert.deepEqual(latent, latentOf(latent.length), "the latent is the caller's");
    }
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});

Deno.test("a decoder graph without the attention operator is the same decoder", async () => {
  const weights = readVqWeights(await openCheckpoint(VAE));
  using runtime = openNative();
  using fused = new VqDecoder(weights, runtime);
  const plainly = Object.create(runtime, {
    form: { value: { ...runtime.form, attention: "plain" } },
    device: { value: runtime.device },
    createSession: { value: runtime.createSession.bind(runtime) },
  });
  using plain = new VqDecoder(weights, plainly);
  const latent = latentOf(32 * 6 * 5);
  const [found, wanted] = [await plain.decode(latent, 6, 5), await fused.decode(latent, 6, 5)];
  const largest = found.reduce((most, value, i) => Math.max(most, Math.abs(value - wanted[i]!)), 0);
  assert(largest < 2e-5, `off by ${largest}`);
});

Deno.test("readVqWeights() names what is missing, misshapen or unknown", async () => {
  const attention = "decoder.up.4.attn.1.proj_out.weight";
  const phi = "quantize.quant_resi.qresi_ls.3.bias";
  const refuses = async (changes: Parameters<typeof changed>[0], message: RegExp): Promise<void> => {
    const source = await changed(changes);
    assert.throws(
      () => readVqWeights(source),
      (error: Error) => error instanceof ModelError && message.test(error.message),
    );
  };
  await refuses({ [attention]: undefined }, /1 missing \("decoder\.up\.4\.attn\.1\.proj_out\.weight"\)/);
  await refuses({ [phi]: undefined }, /1 missing \("quantize\.quant_resi\.qresi_ls\.3\.bias"\)/);
  await refuses(
    { [attention]: { shape: [32, 32] } },
    /"decoder\.up\.4\.attn\.1\.proj_out\.weight" is \[32, 32\], wanted/,
  );
  await refuses({ "quantize.embedding.weight": { shape: [256, 16] } }, /"quantize\.embedding\.weight" is \[256, 16\]/);
  await refuses({ "quantize.embedding.weight": { shape: [] } }, /"quantize\.embedding\.weight" .* no values/);
  await refuses({ "post_quant_conv.weight": undefined }, /"post_quant_conv\.weight" is not in/);
  await refuses(
    { "decoder.up.3.attn.0.norm.weight": {} },
    /1 not expected \("decoder\.up\.3\.attn\.0\.norm\.weight"\)/,
  );
  await refuses({ "decoder.up.2.block.0.conv1.weight": { shape: [48, 64, 3, 3] } }, /widths 32,32,48,64,32/);
  const mini = join(import.meta.dirname!, "golden", "models", "mini-2b");
  const other = await openCheckpoint(join(mini, "infinity.pth"));
  assert.throws(
    () => readVqWeights(other),
    (error) => error instanceof ModelError && /holds no VQ-VAE/.test(error.message),
  );
});

Deno.test("VqDecoder stops when aborted, and can go on", async () => {
  const weights = readVqWeights(await openCheckpoint(VAE));
  using runtime = openNative();
  const latent = latentOf(32 * 8 * 8);
  for (const decoding of [{}, CUTS[0]!]) {
    using decoder = new VqDecoder(weights, runtime, decoding);
    const controller = new AbortController();
    const stopped = decoder.pixels(latent, 8, 8, controller.signal);
    controller.abort(new Error("enough"));
    await assert.rejects(stopped, /enough/);
    assert.equal((await decoder.pixels(latent, 8, 8)).length, 128 * 128 * 3);
    await assert.rejects(decoder.pixels(latent, 8, 7), RangeError);
  }
});

Deno.test("vqDecoderFlopsPerPixel() counts attention, which grows with the latent", () => {
  const dims = { codeDim: 32, widths: [160, 160, 320, 320, 640], blocks: 3 };
  const of = (side: number) => vqDecoderFlopsPerPixel(dims, side * side) * (16 * side) ** 2;
  assert.equal((of(64) / 1e12).toFixed(2), "6.46"); // star.md §10
  const convolutions = decoderFlopsPerPixel({ codeDim: 32, channels: dims.widths, blocks: 3 }) * 1024 ** 2;
  const scores = 4 * 2 * 2 * 640 * 4096 ** 2, projections = 4 * 2 * 4 * 640 ** 2 * 4096, quant = 2 * 9 * 32 ** 2 * 4096;
  assert(Math.abs(of(64) / (convolutions + scores + projections + quant) - 1) < 1e-12);
  assert(of(64) > 4 * of(32));
});
