/**
 * Opens a model of any family: the one that its model.json names, or whose released files a folder holds.
 *
 * @module
 */
import { ModelError } from "../errors.ts";
import { holdsInfinity, type InfinityModel, openInfinity } from "./infinity/model.ts";
import { FAMILIES, type FamilyName, readModelJson } from "./model_json.ts";
import { holdsStar, openStar, type StarModel } from "./star/model.ts";

/** A model of any family, its checkpoints checked. */
export type Model = InfinityModel | StarModel;

const OPENERS: Readonly<Record<FamilyName, (folder: string) => Promise<Model>>> = {
  infinity: openInfinity,
  star: openStar,
};

/**
 * Opens a model folder: reads headers and checks every tensor by name and shape, reads no weights.
 *
 * @throws {ModelError} when files are missing or do not fit together
 * @throws {IntegrityError} when a file is damaged
 * @example
 * ```ts
 * import { openModel } from "@stagevar/stagevar/models/open.ts";
 * import assert from "node:assert/strict";
 * assert.equal((await openModel("tests/golden/models/mini-2b")).family, "infinity");
 * assert.equal((await openModel("tests/golden-star/models/mini-star")).family, "star");
 * ```
 */
export async function openModel(folder: string): Promise<Model> {
  const family = (await readModelJson(folder))?.family ?? await recognised(folder);
  return await OPENERS[family](folder);
}

async function recognised(folder: string): Promise<FamilyName> {
  const held = await Promise.all([holdsInfinity(folder), holdsStar(folder)]);
  const [family, other] = FAMILIES.filter((_, i) => held[i]);
  if (family && !other) return family;
  const found = family ? "released transformers of several families" : "no released transformer";
  throw new ModelError(`"${folder}" has no model.json and ${found}`, {
    hint: `Write a model.json: {"family": ${FAMILIES.map((name) => `"${name}"`).join(" or ")}, "transformer": FILE, ` +
      `"vae": FILE, "text_encoder": FOLDER}`,
  });
}
