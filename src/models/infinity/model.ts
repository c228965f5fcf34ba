/**
 * An Infinity model as it lies on disk: which files make it up, what it was released with, and its checked checkpoints.
 *
 * @module
 */
import { join, resolve } from "node:path";
import { openCheckpoint } from "../../checkpoint/open.ts";
import type { TensorRef, TensorSource } from "../../checkpoint/source.ts";
import { sampleHash } from "../fingerprint.ts";
import { folderName, type ModelConfig, readModelJson, readRanks } from "../model_json.ts";
import { decoderFlopsPerPixel, type ModelShape } from "../../cost.ts";
import { ModelError } from "../../errors.ts";
import type { LoopDims } from "../../kernels/kernels.ts";
import type { RankTable } from "../../presets.ts";
import { PIXEL_BUDGETS } from "../../schedule.ts";
import { readT5Weights, type T5Weights } from "../../text/t5_encoder.ts";
import { type DecoderWeights, readDecoderWeights } from "./decoder.ts";
import { type InfinityWeights, readInfinityWeights } from "./weights.ts";

/** A model whose checkpoints have been opened and checked; holds references, no weights. */
export interface InfinityModel {
  /** Its folder. */
  readonly folder: string;
  /** Its files and settings. */
  readonly config: ModelConfig;
  /** What a plan needs to know. */
  readonly shape: ModelShape;
  /** What the scale loop needs to know. */
  readonly dims: LoopDims;
  /** Discriminator of the families. */
  readonly family: "infinity";
  /** Transformer. */
  readonly transformer: InfinityWeights;
  /** Decoder. */
  readonly decoder: DecoderWeights;
  /** Text encoder. */
  readonly text: T5Weights;
  /** Folder of the text encoder and its tokenizer. */
  readonly textFolder: string;
  /** First ten hex digits of a hash of the checkpoints. */
  readonly hash: string;
  /** Calibrated ranks, when the folder has them. */
  readonly ranks: RankTable | undefined;
}

/** Files and settings of the released models, so that a plain download works without a model.json (infinity.md §1). */
const RELEASES: readonly (Omit<ModelConfig, "textEncoder">)[] = [
  {
    name: "infinity-2b",
    transformer: "infinity_2b_reg.pth",
    vae: "infinity_vae_d32reg.pth",
    pixels: "1M",
    cfg: 3,
    tau: 0.5,
  },
  {
    name: "infinity-8b",
    transformer: "infinity_8b_weights",
    vae: "infinity_vae_d56_f8_14_patchify.pth",
    pixels: "1M",
    cfg: 3,
    tau: 1,
  },
  {
    name: "infinity-8b-512",
    transformer: "infinity_8b_512x512_weights",
    vae: "infinity_vae_d56_f8_14_patchify.pth",
    pixels: "0.25M",
    cfg: 3,
    tau: 1,
  },
  {
    name: "infinity-125m",
    transformer: "infinity_125M_256x256.pth",
    vae: "infinity_vae_d16.pth",
    pixels: "0.06M",
    cfg: 4,
    tau: 0.5,
  },
];

/** Folders that a released model's text encoder is looked for in. */
const TEXT_FOLDERS = ["flan-t5-xl", "text", "../flan-t5-xl"];

/**
 * Opens a model folder: reads model.json (or knows a release by its file names), then every checkpoint's header, and
 * checks each tensor by name and shape. Reads no weights.
 *
 * @throws {ModelError} when files are missing or do not fit together
 * @throws {IntegrityError} when a file is damaged
 * @example
 * ```ts
 * import { openInfinity } from "@stagevar/stagevar/models/infinity/model.ts";
 * import assert from "node:assert/strict";
 * const model = await openInfinity("tests/golden/models/mini-8b");
 * assert.deepEqual([model.shape.patchify, model.shape.pixelsPerToken, model.dims.codeDim], [true, 16, 14]);
 * ```
 */
export async function openInfinity(folder: string): Promise<InfinityModel> {
  const config = await readConfig(folder);
  const at = (path: string): string => resolve(folder, path);
  const [transformerSource, vaeSource, text] = await Promise.all([
    openCheckpoint(at(config.transformer)),
    openCheckpoint(at(config.vae)),
    readT5Weights(at(config.textEncoder)),
  ]);
  const transformer = readInfinityWeights(transformerSource);
  const decoder = readDecoderWeights(vaeSource);
  const { dims } = transformer;
  const { codeDim } = decoder;
  const patchify = dims.tokenDim === 4 * codeDim;
  if (!patchify && dims.tokenDim !== codeDim) {
    throw new ModelError(
      `"${config.vae}" codes a cell in ${codeDim} bits, which do not fit the ${dims.tokenDim} bits of a token of "${config.transformer}"`,
      { hint: "Take the VAE that the transformer was trained with: d32reg for 2B, d56_f8_14_patchify for 8B" },
    );
  }
  if (text.dims.width !== dims.textDim) {
    throw new ModelError(
      `Text encoder "${config.textEncoder}" gives features of width ${text.dims.width}: the transformer wants ${dims.textDim}`,
      { hint: "Released models want google/flan-t5-xl" },
    );
  }
  const hash = await sampleHash([...sources(transformerSource), ...sources(vaeSource)]);
  const shape: ModelShape = {
    name: config.name,
    family: "infinity",
    width: dims.width,
    depth: dims.depth,
    chunks: dims.chunks,
    heads: dims.heads,
    ffn: dims.ffn,
    codeDim,
    tokenDim: dims.tokenDim,
    textDim: dims.textDim,
    patchify,
    pixelsPerToken: decoder.stride * (patchify ? 2 : 1),
    decoderFlopsPerPixel: decoderFlopsPerPixel({ codeDim, channels: decoder.widths, blocks: decoder.blocks }),
    hash,
  };
  return {
    family: "infinity",
    folder,
    config,
    shape,
    dims: { width: dims.width, chunks: dims.chunks, codeDim, tokenDim: dims.tokenDim, patchify },
    transformer,
    decoder,
    text,
    textFolder: at(config.textEncoder),
    hash,
    ranks: await readRanks(folder),
  };
}

function sources(source: TensorSource): TensorRef[] {
  return source.names().map((name) => source.get(name));
}

async function readConfig(folder: string): Promise<ModelConfig> {
  const json = await readModelJson(folder);
  if (!json) return await recognise(folder);
  if (json.family !== "infinity") json.fail("family", '"infinity"');
  return {
    name: json.has("name") ? json.text("name") : folderName(folder),
    transformer: json.text("transformer"),
    vae: json.text("vae"),
    textEncoder: json.text("text_encoder"),
    pixels: json.choice("pixels", PIXEL_BUDGETS, "1M"),
    cfg: json.setting("cfg", 3),
    tau: json.setting("tau", 0.5),
  };
}

/** Whether a folder without a model.json holds a released model of this family, by the names of its files. */
export async function holdsInfinity(folder: string): Promise<boolean> {
  for (const { transformer } of RELEASES) {
    if (await Deno.stat(join(folder, transformer)).then(() => true, () => false)) return true;
  }
  return false;
}

/** A folder of official downloads: known by the names of its files. */
async function recognise(folder: string): Promise<ModelConfig> {
  const exists = (name: string): Promise<boolean> => Deno.stat(join(folder, name)).then(() => true, () => false);
  const found: Omit<ModelConfig, "textEncoder">[] = [];
  for (const release of RELEASES) if (await exists(release.transformer)) found.push(release);
  const [release] = found;
  if (!release || found.length > 1) {
    throw new ModelError(
      `"${folder}" has no model.json and ${found.length === 0 ? "no" : "more than one"} released transformer`,
      {
        hint:
          'Write a model.json: {"family": "infinity", "transformer": FILE, "vae": FILE, "text_encoder": FOLDER, "pixels": "1M"}',
      },
    );
  }
  for (const textEncoder of TEXT_FOLDERS) if (await exists(textEncoder)) return { ...release, textEncoder };
  throw new ModelError(`"${folder}" has no text encoder`, {
    hint: `Put google/flan-t5-xl (config.json, tokenizer.json, safetensors) into "${join(folder, TEXT_FOLDERS[0]!)}"`,
  });
}
