/**
 * STAR models of the released sizes with random weights: same names, shapes and files, so that all but the look of the pictures
 * can be tried without the downloads. Speed does not depend on the values.
 *
 * Left out is what is never read: of the training checkpoint the second copy of the VAE and the optimiser's state, and the VAE's
 * encoder.
 *
 * @module
 */
import type { TensorData } from "../../checkpoint/safetensors_writer.ts";
import { type FakeFile, type FakeOptions, writeFakeFiles } from "../fake_writer.ts";
import {
  clipTensors,
  type FakeClipDims,
  type FakeStarDims,
  type FakeVaeDims,
  starTensors,
  vaeTensors,
} from "./fake_tensors.ts";
import { fakeClipTokenizer } from "./fake_tokenizer.ts";

/** A STAR model to make up: its sizes, and the files that a release of it consists of. */
export interface FakeStarModel {
  /** Sizes of the transformer. */
  readonly transformer: FakeStarDims;
  /** A torch archive. */
  readonly transformerFile: string;
  /** Sizes of the VQ-VAE; codebook as the transformer's. */
  readonly vae: FakeVaeDims;
  /** Sizes of the text encoder, at least 1866 rows of vocabulary for its tokenizer. */
  readonly text: FakeClipDims;
}

const VAE_FILE = "vae_ch160v4096z32.pth";
const TEXT_FOLDER = "CLIP/text_encoder", TOKENIZER_FOLDER = "CLIP/tokenizer";

/** What is common to the released models: the transformer but for its sides (star.md §2), the VAE (§10), the text tower of SD-2.1 (§4). */
const D30 = { width: 1920, depth: 30, heads: 30, vocabulary: 4096, codeDim: 32, textDim: 1024 } as const;
const COMMON = {
  vae: { vocabulary: 4096, codeDim: 32, widths: [160, 160, 320, 320, 640] },
  text: { width: 1024, depth: 23, heads: 16, ffn: 4096, vocabulary: 49_408, positions: 77 },
} as const;

/** The released models that can be made up (star.md §1, §2). */
export const FAKE_STAR_MODELS: Readonly<Record<"star-1.7b" | "star-512" | "star-256", FakeStarModel>> = {
  "star-1.7b": {
    ...COMMON,
    transformer: { ...D30, sides: [1, 2, 3, 4, 5, 7, 9, 12, 16, 21, 27, 36, 48, 64] },
    transformerFile: "star_rope_d30_1024_drop_3-ar-ckpt-ep1-iter21000.pth",
  },
  "star-512": {
    ...COMMON,
    transformer: { ...D30, sides: [1, 2, 3, 4, 6, 9, 13, 18, 24, 32] },
    transformerFile: "star_rope_d30_512-ar-ckpt-ep1-iter30000.pth",
  },
  "star-256": {
    ...COMMON,
    transformer: { ...D30, sides: [1, 2, 3, 4, 5, 6, 8, 10, 13, 16] },
    transformerFile: "star_rope_d30_256-ar-ckpt-ep3-iter20000.pth",
  },
};

/**
 * The files of weights of a model and the tensors in them; nothing is drawn.
 *
 * @example
 * ```ts
 * import { FAKE_STAR_MODELS, fakeStarFiles } from "@stagevar/stagevar/models/star/fake.ts";
 * import assert from "node:assert/strict";
 * const [transformer] = fakeStarFiles(FAKE_STAR_MODELS["star-1.7b"]);
 * assert.equal(transformer!.path, "star_rope_d30_1024_drop_3-ar-ckpt-ep1-iter21000.pth");
 * assert.equal(transformer!.tensors.length, 579);
 * ```
 */
export function fakeStarFiles({ transformer, transformerFile, vae, text }: FakeStarModel): FakeFile[] {
  return [
    {
      path: transformerFile,
      tensors: starTensors(transformer),
      torch: { under: "trainer.var_wo_ddp", numbers: { "trainer.config.patch_nums": transformer.sides } },
    },
    { path: VAE_FILE, tensors: vaeTensors(vae), torch: {} },
    { path: `${TEXT_FOLDER}/model.safetensors`, tensors: clipTensors(text), tables: [positionIds(text.positions)] },
  ];
}

/** The buffer beside the weights of a published CLIP: 0, 1, 2, ... */
function positionIds(count: number): TensorData {
  const ids = BigInt64Array.from({ length: count }, (_, i) => BigInt(i));
  return {
    name: "text_model.embeddings.position_ids",
    dtype: "I64",
    shape: [1, count],
    bytes: new Uint8Array(ids.buffer),
  };
}

/**
 * Writes a STAR model with random weights into a folder, as its official downloads would lie there: the training checkpoint
 * with the transformer in it, the VAE, and CLIP/ with tokenizer and text encoder. When it fails, what it wrote is removed.
 *
 * @throws {UsageError} The folder holds something and `force` is off, or cannot be written to.
 * @throws {DeviceError} The disk has too little space.
 *
 * @example
 * ```ts
 * import { openCheckpoint } from "@stagevar/stagevar/checkpoint/open.ts";
 * import { FAKE_STAR_MODELS, writeFakeStar } from "@stagevar/stagevar/models/star/fake.ts";
 * import assert from "node:assert/strict";
 * const released = FAKE_STAR_MODELS["star-256"];
 * const small = {
 *   ...released,
 *   transformer: { ...released.transformer, width: 64, depth: 2, heads: 1, textDim: 32 },
 *   vae: { ...released.vae, widths: [32, 32] },
 *   text: { ...released.text, width: 32, depth: 1, heads: 2, ffn: 32, vocabulary: 2000 },
 * };
 * const folder = await Deno.makeTempDir();
 * await writeFakeStar(folder, small, { dtype: "BF16", seed: 1 });
 * const checkpoint = await openCheckpoint(`${folder}/${released.transformerFile}`);
 * assert.deepEqual(checkpoint.numbers("trainer.config.patch_nums"), [1, 2, 3, 4, 5, 6, 8, 10, 13, 16]);
 * await Deno.remove(folder, { recursive: true });
 * ```
 */
export async function writeFakeStar(folder: string, model: FakeStarModel, options: FakeOptions): Promise<void> {
  const { text } = model;
  const texts = [
    [`${TEXT_FOLDER}/config.json`, textConfig(text)] as const,
    ...Object.entries(fakeClipTokenizer(text.vocabulary, text.positions))
      .map(([name, content]) => [`${TOKENIZER_FOLDER}/${name}`, content] as const),
  ];
  await writeFakeFiles(folder, fakeStarFiles(model), texts, options);
}

/** config.json as Stable Diffusion 2.1 has it: its ids of BOS, EOS and padding are not the tokenizer's (star.md §4). */
function textConfig({ width, depth, heads, ffn, vocabulary, positions }: FakeClipDims): string {
  const config = {
    architectures: ["CLIPTextModel"],
    model_type: "clip_text_model",
    hidden_size: width,
    num_hidden_layers: depth,
    num_attention_heads: heads,
    intermediate_size: ffn,
    hidden_act: "gelu",
    layer_norm_eps: 1e-5,
    max_position_embeddings: positions,
    vocab_size: vocabulary,
    bos_token_id: 0,
    eos_token_id: 2,
    pad_token_id: 1,
  };
  return `${JSON.stringify(config, null, 2)}\n`;
}
