/**
 * model.json: which files make up a model, and what it was released with. Untrusted, as all that comes with a checkpoint.
 *
 * @module
 */
import { basename, join, resolve } from "node:path";
import { ModelError } from "../errors.ts";
import { parseRankTable, RANK_FILE, type RankTable } from "../presets.ts";
import type { PixelBudget } from "../schedule.ts";
import { readFileBytes } from "./fingerprint.ts";

/** Families of models that there is code for. */
export const FAMILIES = ["infinity", "star"] as const;

/** A family of models. */
export type FamilyName = typeof FAMILIES[number];

/** Largest model.json and ranks.json that are read. */
const MAX_BYTES = 1 << 20;

/** The files of a model, relative to its folder, and the settings it was released with. */
export interface ModelConfig {
  /** Name shown to people. */
  readonly name: string;
  /** Transformer checkpoint: a file, a shard index or a folder; of STAR, upstream's training checkpoint or its weights alone. */
  readonly transformer: string;
  /** VAE checkpoint. */
  readonly vae: string;
  /** Folder of the text encoder and its tokenizer. */
  readonly textEncoder: string;
  /** Size it was trained for, or nearest to. */
  readonly pixels: PixelBudget;
  /** Guidance where a request names none; of STAR, t in (1 + t k / (S - 1)) (star.md §8.3). */
  readonly cfg: number | number[];
  /** Temperature where a request names none. */
  readonly tau: number | number[];
}

/** The checked fields of a model.json. */
export class ModelJson {
  /** Family that it names. */
  readonly family: FamilyName;
  readonly #path: string;
  readonly #fields: Readonly<Record<string, unknown>>;

  /** Checks the family; `path` is for messages. */
  constructor(path: string, fields: Readonly<Record<string, unknown>>) {
    this.#path = path;
    this.#fields = fields;
    const names = FAMILIES.map((name) => `"${name}"`).join(" or ");
    this.family = FAMILIES.find((name) => name === fields["family"]) ?? this.fail("family", names);
  }

  /** Whether a field is there. */
  has(key: string): boolean {
    return this.#fields[key] !== undefined;
  }

  /** A text that is not empty. */
  text(key: string): string {
    const value = this.#fields[key];
    return typeof value === "string" && value !== "" ? value : this.fail(key, "a file name");
  }

  /** One of some words. */
  choice<T extends string>(key: string, names: readonly T[], fallback: T): T {
    const value = this.#fields[key] ?? fallback;
    return names.find((name) => name === value) ?? this.fail(key, `one of ${names.join(", ")}`);
  }

  /** A number that `fits`. */
  number(key: string, fallback: number, wanted: string, fits: (value: number) => boolean): number {
    const value = this.#fields[key] ?? fallback;
    return typeof value === "number" && Number.isFinite(value) && fits(value) ? value : this.fail(key, wanted);
  }

  /** A number, or one a scale. */
  setting(key: string, fallback: number): number | number[] {
    const value = this.#fields[key] ?? fallback;
    const fits = (item: unknown): item is number => typeof item === "number" && Number.isFinite(item);
    return fits(value) || (Array.isArray(value) && value.length > 0 && value.every(fits))
      ? value
      : this.fail(key, "a number or a list of numbers");
  }

  /** Whole numbers from 1 on, or nothing where the field is not there. */
  sides(key: string): readonly number[] | undefined {
    const value = this.#fields[key];
    if (value === undefined) return undefined;
    const fits = (item: unknown): item is number => Number.isSafeInteger(item) && (item as number) >= 1;
    return Array.isArray(value) && value.length > 0 && value.length <= MAX_SCALES && value.every(fits)
      ? value
      : this.fail(key, "a list of whole numbers");
  }

  /** Says what is wrong with a field. */
  fail(key: string, wanted: string): never {
    const found = JSON.stringify(this.#fields[key])?.slice(0, 80) ?? "missing";
    throw new ModelError(`"${this.#path}" has "${key}" ${found}: ${wanted} is wanted`);
  }
}

/** Far above any schedule. */
const MAX_SCALES = 64;

/**
 * Reads the model.json of a folder; nothing where it has none.
 *
 * @throws {ModelError} when it is no JSON object, or names no known family
 * @example
 * ```ts
 * import { readModelJson } from "@stagevar/stagevar/models/model_json.ts";
 * import assert from "node:assert/strict";
 * const json = await readModelJson("tests/golden/models/mini-2b");
 * assert.deepEqual([json?.family, json?.text("vae")], ["infinity", "vae.pth"]);
 * ```
 */
export async function readModelJson(folder: string): Promise<ModelJson | undefined> {
  const path = join(folder, "model.json");
  const bytes = await readFileBytes(path, MAX_BYTES);
  if (bytes === undefined) return undefined;
  let json: unknown;
  try {
    json = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes));
  } catch (cause) {
    throw new ModelError(`Cannot read "${path}": ${(cause as Error).message}`, { cause });
  }
  if (typeof json !== "object" || json === null || Array.isArray(json)) {
    throw new ModelError(`"${path}" is no JSON object`);
  }
  return new ModelJson(path, json as Record<string, unknown>);
}

/** Name of a model without one of its own: its folder's. */
export function folderName(folder: string): string {
  return basename(resolve(folder));
}

/** The ranks that were calibrated for a model, where its folder has them. */
export async function readRanks(folder: string): Promise<RankTable | undefined> {
  const path = join(folder, RANK_FILE);
  const bytes = await readFileBytes(path, MAX_BYTES);
  return bytes && parseRankTable(new TextDecoder().decode(bytes), path);
}
