/**
 * A STAR model as it lies on disk: which files make it up, what it was released with, and its checked checkpoints (star.md §1).
 *
 * @module
 */
import { join, resolve } from "node:path";
import { openCheckpoint } from "../../checkpoint/open.ts";
import type { TensorSource } from "../../checkpoint/source.ts";
import type { ModelShape } from "../../cost.ts";
import { ModelError } from "../../errors.ts";
import type { LoopDims } from "../../kernels/kernels.ts";
import type { RankTable } from "../../presets.ts";
import type { PixelBudget } from "../../schedule.ts";
import { type ClipWeights, readClipWeights } from "../../text/clip_encoder.ts";
import { sampleHash } from "../fingerprint.ts";
import { folderName, type ModelConfig, readModelJson, readRanks } from "../model_json.ts";
import { readVqWeights, vqDecoderFlopsPerPixel, type VqWeights } from "./decoder.ts";
import { readStarWeights, type StarWeights } from "./weights.ts";

/** The same with how codes are drawn. */
export interface StarConfig extends ModelConfig {
  /** Nucleus threshold where a request names none. */
  readonly topP: number;
  /** Most likely codes that are drawn from where a request names none. */
  readonly topK: number;
}

/** A model whose checkpoints have been opened and checked; holds references, no weights. */
export interface StarModel {
  /** Discriminator of the families. */
  readonly family: "star";
  /** Its folder. */
  readonly folder: string;
  /** Its files and settings. */
  readonly config: StarConfig;
  /** What a plan needs to know. */
  readonly shape: ModelShape;
  /** What the scale loop needs to know: a chunk is one block. */
  readonly dims: LoopDims;
  /** Transformer. */
  readonly transformer: StarWeights;
  /** Codebook, its convolutions, and decoder. */
  readonly decoder: VqWeights;
  /** Text encoder. */
  readonly text: ClipWeights;
  /** Folder of the tokenizer. */
  readonly textFolder: string;
  /** First ten hex digits of a hash of the checkpoints. */
  readonly hash: string;
  /** Calibrated ranks, when the folder has them. */
  readonly ranks: RankTable | undefined;
  /** Tokens along a side at every scale. */
  readonly sides: readonly number[];
}

/** Released transformers by the names of their files (star.md §1). */
const RELEASES: readonly { readonly name: string; readonly transformer: string; readonly side: number }[] = [
  { name: "star-1.7b", transformer: "star_rope_d30_1024_drop_3-ar-ckpt-ep1-iter21000.pth", side: 1024 },
  { name: "star-512", transformer: "star_rope_d30_512-ar-ckpt-ep1-iter30000.pth", side: 512 },
  { name: "star-256", transformer: "star_rope_d30_256-ar-ckpt-ep3-iter20000.pth", side: 256 },
];
const RELEASED_VAE = "vae_ch160v4096z32.pth";
const RELEASED_TEXT = "CLIP";

/** Where upstream's training checkpoint says its scales. */
const PATCH_NUMS = "trainer.config.patch_nums";

/** Settings of upstream's sample.py (star.md §8.4). */
const DEFAULTS = { cfg: 4.5, tau: 1, topP: 0.8, topK: 600 };

/** Pixels that a budget's name stands for. */
const BUDGETS: readonly (readonly [PixelBudget, number])[] = [
  ["0.06M", 256],
  ["0.25M", 512],
  ["0.60M", 768],
  ["1M", 1024],
];

/**
 * Opens a model folder: reads model.json (or knows a release by its file names), then every checkpoint's header, and
 * checks each tensor by name and shape. Reads no weights.
 *
 * @throws {ModelError} when files are missing or do not fit together
 * @throws {IntegrityError} when a file is damaged
 * @example
 * ```ts
 * import { openStar } from "@stagevar/stagevar/models/star/model.ts";
 * import assert from "node:assert/strict";
 * const model = await openStar("tests/golden-star/models/mini-star");
 * assert.deepEqual([model.sides.at(-1), model.dims.chunks, model.shape.tokenDim], [12, 6, 256]);
 * ```
 */
export async function openStar(folder: string): Promise<StarModel> {
  const { sides: told, ...files } = await readConfig(folder);
  const at = (...path: string[]): string => resolve(folder, ...path);
  const [transformerSource, vaeSource, text] = await Promise.all([
    openCheckpoint(at(files.transformer)),
    openCheckpoint(at(files.vae)),
    readClipWeights(at(files.textEncoder, "text_encoder")),
  ]);
  const transformer = readStarWeights(transformerSource);
  const decoder = readVqWeights(vaeSource);
  const { dims } = transformer;
  const sides = sidesOf(transformerSource, told, dims.levels, files.transformer);
  if (decoder.codeDim !== dims.codeDim || decoder.vocabulary !== dims.vocabulary) {
    throw new ModelError(
      `"${files.vae}" has ${decoder.vocabulary} codes of ${decoder.codeDim} channels: ` +
        `"${files.transformer}" wants ${dims.vocabulary} of ${dims.codeDim}`,
      { hint: `Take the VQ-VAE that the transformer was trained with: ${RELEASED_VAE}` },
    );
  }
  if (text.dims.width !== dims.textDim) {
    throw new ModelError(
      `Text encoder "${files.textEncoder}" gives features of width ${text.dims.width}: the transformer wants ${dims.textDim}`,
      { hint: "Released models want the text encoder of stable-diffusion-2-1, in the folder CLIP of their download" },
    );
  }
  const hash = await sampleHash(
    [transformerSource, vaeSource].flatMap((source) => source.names().map((name) => source.get(name))),
  );
  const side = sides.at(-1)! * decoder.stride;
  const shape: ModelShape = {
    name: files.name,
    family: "star",
    width: dims.width,
    depth: dims.depth,
    chunks: dims.depth,
    heads: dims.heads,
    ffn: dims.ffn,
    codeDim: dims.codeDim,
    tokenDim: dims.vocabulary,
    textDim: dims.textDim,
    patchify: false,
    pixelsPerToken: decoder.stride,
    decoderFlopsPerPixel: vqDecoderFlopsPerPixel(decoder, sides.at(-1)! ** 2),
    sides,
    hash,
  };
  const nearest = BUDGETS.reduce((a, b) => Math.abs(Math.log(b[1] / side)) < Math.abs(Math.log(a[1] / side)) ? b : a);
  return {
    family: "star",
    folder,
    config: { ...files, pixels: nearest[0] },
    shape,
    dims: { width: dims.width, chunks: dims.depth, codeDim: dims.codeDim, tokenDim: dims.vocabulary, patchify: false },
    transformer,
    decoder,
    text,
    textFolder: at(files.textEncoder, "tokenizer"),
    hash,
    ranks: await readRanks(folder),
    sides,
  };
}

/** Whether a folder without a model.json holds a released model of this family, by the names of its files. */
export async function holdsStar(folder: string): Promise<boolean> {
  return (await released(folder)).length > 0;
}

async function released(folder: string): Promise<typeof RELEASES[number][]> {
  const found: typeof RELEASES[number][] = [];
  for (const release of RELEASES) {
    if (await Deno.stat(join(folder, release.transformer)).then(() => true, () => false)) found.push(release);
  }
  return found;
}

/** The sides of the scales: what the checkpoint says, else model.json or the release. */
function sidesOf(
  source: TensorSource,
  told: readonly number[] | undefined,
  levels: number,
  file: string,
): readonly number[] {
  const sides = source.numbers(PATCH_NUMS) ?? told;
  if (!sides) {
    throw new ModelError(`"${file}" does not say the sides of its scales, as upstream's training checkpoint does`, {
      hint: 'Add them to model.json: "sides": [1, 2, 3, 4, 5, 7, 9, 12, 16, 21, 27, 36, 48, 64] for 1024x1024 pixels',
    });
  }
  const grows = sides.every((side, k) =>
    Number.isSafeInteger(side) && side <= MAX_SIDE && (k === 0 ? side === 1 : side > sides[k - 1]!)
  );
  if (!grows || sides.length < 2) {
    throw new ModelError(
      `"${file}" has the scales ${sides.join(", ")}: sides that grow from 1 to at most ${MAX_SIDE} are wanted`,
    );
  }
  if (sides.length !== levels) {
    throw new ModelError(`"${file}" has ${levels} level embeddings for ${sides.length} scales`);
  }
  return sides;
}

/** Far above any release; a picture of it would be 8192 pixels wide. */
const MAX_SIDE = 512;

async function readConfig(
  folder: string,
): Promise<Omit<StarConfig, "pixels"> & { sides: readonly number[] | undefined }> {
  const json = await readModelJson(folder);
  if (json) {
    if (json.family !== "star") json.fail("family", '"star"');
    return {
      name: json.has("name") ? json.text("name") : folderName(folder),
      transformer: json.text("transformer"),
      vae: json.text("vae"),
      textEncoder: json.text("text_encoder"),
      cfg: json.setting("cfg", DEFAULTS.cfg),
      tau: json.setting("tau", DEFAULTS.tau),
      topP: json.number("top_p", DEFAULTS.topP, "a number from 0 to 1", (p) => p >= 0 && p <= 1),
      topK: json.number("top_k", DEFAULTS.topK, "a whole number", (k) => Number.isSafeInteger(k) && k >= 0),
      sides: json.sides("sides"),
    };
  }
  const found = await released(folder);
  const [release] = found;
  if (!release || found.length > 1) {
    throw new ModelError(`"${folder}" has no model.json and ${release ? "more than one" : "no"} released transformer`, {
      hint: 'Write a model.json: {"family": "star", "transformer": FILE, "vae": FILE, "text_encoder": FOLDER}',
    });
  }
  return {
    name: release.name,
    transformer: release.transformer,
    vae: RELEASED_VAE,
    textEncoder: RELEASED_TEXT,
    ...DEFAULTS,
    sides: undefined,
  };
}
