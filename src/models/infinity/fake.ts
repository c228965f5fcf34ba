/**
 * Models of the released sizes with random weights: same names, shapes and files, so that all but the look of the pictures can
 * be tried without the downloads. Speed does not depend on the values.
 *
 * Left out is what is never read: a VAE's encoder, T5's decoder, training state.
 *
 * @module
 */
import { dirname } from "node:path";
import type { TensorData } from "../../checkpoint/safetensors_writer.ts";
import type { T5Dims } from "../../text/t5_encoder.ts";
import type { FakeDType, FakeTensor } from "../fake_values.ts";
import { type FakeFile, type FakeOptions, weightBytes, writeFakeFiles } from "../fake_writer.ts";
import { type DecoderDims, decoderTensors, t5Tensors, transformerTensors } from "./fake_tensors.ts";
import { fakeTokenizer } from "./fake_tokenizer.ts";
import type { InfinityDims } from "./weights.ts";

/** A model to make up: its sizes, and the files that a release of it consists of. */
export interface FakeModel {
  /** Sizes of the transformer. */
  readonly transformer: InfinityDims;
  /** A torch archive, or a folder of `shards` safetensors files. */
  readonly transformerFile: string;
  /** Number of files of a transformer in shards. */
  readonly shards?: number;
  /** Sizes of the VAE's decoder. */
  readonly vae: DecoderDims;
  /** A torch archive. */
  readonly vaeFile: string;
  /** Sizes of the text encoder, at least 32 128 rows of vocabulary for its tokenizer. */
  readonly text: T5Dims;
}

/** flan-t5-xl (infinity.md §2.2). */
const T5_XL: T5Dims = {
  width: 2048,
  vocabulary: 32_128,
  depth: 24,
  heads: 32,
  inner: 2048,
  ffn: 5120,
  buckets: 32,
  maxDistance: 128,
  epsilon: 1e-6,
};
const TEXT_FOLDER = "flan-t5-xl";
const INDEX = "model.safetensors.index.json";
/** What is common to the transformers (infinity.md §2). */
const COMMON = { textDim: 2048, poolHeads: 16, maxTokens: 512, levels: 15 } as const;
/** Channels of the decoders from full resolution down (infinity.md §6.1). */
const STRIDE_16 = [128, 256, 512, 512, 512], STRIDE_8 = [128, 256, 512, 512];

/** The released models that can be made up (infinity.md §0, §1). */
export const FAKE_MODELS: Readonly<Record<"infinity-2b" | "infinity-8b" | "infinity-125m", FakeModel>> = {
  "infinity-2b": {
    transformer: { ...COMMON, width: 2048, depth: 32, chunks: 8, heads: 16, ffn: 8192, tokenDim: 32 },
    transformerFile: "infinity_2b_reg.pth",
    vae: { codeDim: 32, widths: STRIDE_16, blocks: 3 },
    vaeFile: "infinity_vae_d32reg.pth",
    text: T5_XL,
  },
  "infinity-8b": {
    transformer: { ...COMMON, width: 3584, depth: 40, chunks: 8, heads: 28, ffn: 14_336, tokenDim: 56 },
    transformerFile: "infinity_8b_weights",
    shards: 4,
    vae: { codeDim: 14, widths: STRIDE_8, blocks: 3 },
    vaeFile: "infinity_vae_d56_f8_14_patchify.pth",
    text: T5_XL,
  },
  "infinity-125m": {
    transformer: { ...COMMON, width: 768, depth: 12, chunks: 4, heads: 8, ffn: 3072, tokenDim: 16 },
    transformerFile: "infinity_125M_256x256.pth",
    vae: { codeDim: 16, widths: STRIDE_16, blocks: 3 },
    vaeFile: "infinity_vae_d16.pth",
    text: T5_XL,
  },
};

/**
 * The files of weights of a model and the tensors in them; nothing is drawn.
 *
 * @example
 * ```ts
 * import { FAKE_MODELS, fakeFiles } from "@stagevar/stagevar/models/infinity/fake.ts";
 * import assert from "node:assert/strict";
 * const [transformer] = fakeFiles(FAKE_MODELS["infinity-2b"]);
 * assert.equal(transformer!.path, "infinity_2b_reg.pth");
 * assert.equal(transformer!.tensors.length, 694);
 * ```
 */
export function fakeFiles(model: FakeModel): FakeFile[] {
  const { transformer: dims, transformerFile, shards } = model;
  const tensors = transformerTensors(dims);
  // Chunks in order over the shards; the tensors outside the blocks lie in the last one (infinity.md §1.1).
  const shardOf = ({ name }: FakeTensor): number => {
    const chunk = /^block_chunks\.(\d+)\./.exec(name)?.[1];
    return chunk === undefined ? shards! - 1 : Math.floor(Number(chunk) * shards! / dims.chunks);
  };
  const half = ({ name }: FakeTensor): number => {
    const layer = /^encoder\.block\.(\d+)\./.exec(name)?.[1];
    return name === "shared.weight" || Number(layer) < model.text.depth / 2 ? 0 : 1;
  };
  return [
    ...shards === undefined
      ? [{ path: transformerFile, tensors, torch: {} }]
      : shardFiles(transformerFile, shards, tensors, shardOf),
    {
      path: model.vaeFile,
      tensors: decoderTensors(model.vae),
      tables: [codeMask(model.vae.codeDim)],
      torch: { under: "vae" },
    },
    ...shardFiles(TEXT_FOLDER, 2, t5Tensors(model.text), half),
  ];
}

function shardFiles(
  folder: string,
  count: number,
  tensors: readonly FakeTensor[],
  shardOf: (tensor: FakeTensor) => number,
): FakeFile[] {
  const padded = (number: number): string => String(number).padStart(5, "0");
  return Array.from({ length: count }, (_, i) => ({
    path: `${folder}/model-${padded(i + 1)}-of-${padded(count)}.safetensors`,
    tensors: tensors.filter((tensor) => shardOf(tensor) === i),
  }));
}

/**
 * Writes a model with random weights into a folder, as its official downloads would lie there with google/flan-t5-xl beside
 * them. Needs the memory of one piece, not of a model. When it fails, what it wrote is removed.
 *
 * @throws {UsageError} The folder holds something and `force` is off, or cannot be written to.
 * @throws {DeviceError} The disk has too little space.
 *
 * @example
 * ```ts
 * import { FAKE_MODELS, writeFake } from "@stagevar/stagevar/models/infinity/fake.ts";
 * import { openInfinity } from "@stagevar/stagevar/models/infinity/model.ts";
 * import assert from "node:assert/strict";
 * const released = FAKE_MODELS["infinity-2b"];
 * const small = {
 *   ...released,
 *   transformer: { ...released.transformer, width: 64, depth: 2, chunks: 1, heads: 2, ffn: 64, textDim: 32, poolHeads: 1 },
 *   vae: { ...released.vae, widths: [32, 32] },
 *   text: { ...released.text, width: 32, depth: 1, heads: 2, inner: 32, ffn: 32 },
 * };
 * const folder = await Deno.makeTempDir();
 * await writeFake(folder, small, { dtype: "BF16", seed: 1 });
 * assert.equal((await openInfinity(folder)).shape.name, "infinity-2b");
 * await Deno.remove(folder, { recursive: true });
 * ```
 */
export async function writeFake(folder: string, model: FakeModel, options: FakeOptions): Promise<void> {
  const files = fakeFiles(model);
  await writeFakeFiles(folder, files, smallFiles(model, files, options.dtype), options);
}

/** The buffer beside the decoder in every VAE file, which turns bits into a number (infinity.md §6.2). */
function codeMask(codeDim: number): TensorData {
  const mask = BigInt64Array.from({ length: codeDim }, (_, bit) => 1n << BigInt(codeDim - 1 - bit));
  return { name: "quantizer.lfq.mask", dtype: "I64", shape: [codeDim], bytes: new Uint8Array(mask.buffer) };
}

/** Path and text of what lies beside the weights: indices of shards, configuration, tokenizer. */
function smallFiles(model: FakeModel, files: readonly FakeFile[], dtype: FakeDType): [string, string][] {
  const json = (value: unknown): string => `${JSON.stringify(value, null, 2)}\n`;
  const sharded = Map.groupBy(files.filter(({ path }) => dirname(path) !== "."), ({ path }) => dirname(path));
  const { text } = model;
  const config = {
    architectures: ["T5EncoderModel"],
    model_type: "t5",
    d_model: text.width,
    d_kv: text.inner / text.heads,
    d_ff: text.ffn,
    num_layers: text.depth,
    num_heads: text.heads,
    vocab_size: text.vocabulary,
    feed_forward_proj: "gated-gelu",
    layer_norm_epsilon: text.epsilon,
    relative_attention_num_buckets: text.buckets,
    relative_attention_max_distance: text.maxDistance,
    pad_token_id: 0,
    eos_token_id: 1,
  };
  return [
    ...[...sharded].map(([folder, shards]): [string, string] => [
      `${folder}/${INDEX}`,
      json({
        metadata: { total_size: weightBytes(shards, dtype) },
        weight_map: Object.fromEntries(
          shards.flatMap(({ path, tensors }) => tensors.map(({ name }) => [name, path.slice(folder.length + 1)])),
        ),
      }),
    ]),
    [`${TEXT_FOLDER}/config.json`, json(config)],
    [`${TEXT_FOLDER}/tokenizer.json`, fakeTokenizer()],
    [`${TEXT_FOLDER}/tokenizer_config.json`, json({ tokenizer_class: "T5Tokenizer", model_max_length: 512 })],
  ];
}
