/**
 * What an evaluation found, kept in the model's folder, so that whoever measures speed can say what it costs in quality.
 *
 * @module
 */
import { join } from "node:path";
import { IntegrityError } from "../errors.ts";
import { writeFileAtomic } from "../output.ts";
import type { DtypeName, GenerateRequest } from "../request.ts";
import type { EvaluateReport } from "./run.ts";

/** Its file. */
export const QUALITY_FILE = "quality.json";

/** Percent of pictures that follow their prompts, mean of the tasks. */
export interface StoredQuality {
  /** Arithmetic of the linear layers. */
  readonly dtype: DtypeName;
  /** Acceleration method. */
  readonly method: string;
  /** Mean of the tasks, percent. */
  readonly mean: number;
  /** Its standard error; 0 where too few prompts gave one. */
  readonly error: number;
  /** Prompts. */
  readonly prompts: number;
  /** Seeds a prompt. */
  readonly seeds: number;
}

interface QualityFile {
  readonly modelHash: string;
  readonly results: readonly StoredQuality[];
}

/**
 * Adds an evaluation to what is stored; of one dtype and method the last counts, and another model's are dropped.
 *
 * @throws {IntegrityError} when what is there cannot be read
 * @throws {UsageError} when the folder cannot be written
 * @example
 * ```ts
 * import { qualityOf, storeQuality } from "@stagevar/stagevar/evaluate/stored.ts";
 * import assert from "node:assert/strict";
 * const folder = await Deno.makeTempDir();
 * const accuracy = { tasks: {}, mean: { value: 0.5, standardError: 0.01 } };
 * const arms = [{ name: "vanilla", geneval: accuracy, strict: accuracy }];
 * await storeQuality(folder, "abc", "f32", { prompts: 2, seeds: [0], arms });
 * assert.equal((await qualityOf(folder, "abc", { method: "vanilla" }))?.mean, 50);
 * assert.equal(await qualityOf(folder, "another", { method: "vanilla" }), undefined);
 * ```
 */
export async function storeQuality(
  folder: string,
  modelHash: string,
  dtype: DtypeName,
  { prompts, seeds, arms }: EvaluateReport,
): Promise<void> {
  const path = join(folder, QUALITY_FILE);
  const before = await read(path);
  const results: StoredQuality[] = arms.map(({ name, geneval: { mean } }) => ({
    dtype,
    method: name,
    mean: Math.round(1000 * mean.value) / 10,
    error: Math.round(1000 * (mean.standardError ?? 0)) / 10,
    prompts,
    seeds: seeds.length,
  }));
  const kept = before?.modelHash !== modelHash
    ? []
    : before.results.filter((old) =>
      !results.some(({ dtype, method }) => dtype === old.dtype && method === old.method)
    );
  const file: QualityFile = { modelHash, results: [...kept, ...results] };
  const bytes = new TextEncoder().encode(`${JSON.stringify(file, null, 1)}\n`);
  await writeFileAtomic(path, bytes, { force: true });
}

/** What was stored for settings that an evaluation leaves at the model's own; undefined where nothing was. */
export async function qualityOf(
  folder: string,
  modelHash: string,
  { method, dtype = "f32", ...others }: Partial<GenerateRequest>,
): Promise<StoredQuality | undefined> {
  if (others.pixels ?? others.aspect ?? others.width ?? others.height) return undefined;
  const file = await read(join(folder, QUALITY_FILE));
  if (file?.modelHash !== modelHash) return undefined;
  return file.results.find((result) => result.method === method && result.dtype === dtype);
}

async function read(path: string): Promise<QualityFile | undefined> {
  let text: string;
  try {
    text = await Deno.readTextFile(path);
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return undefined;
    throw error;
  }
  try {
    const file = JSON.parse(text) as QualityFile;
    if (Array.isArray(file.results) && file.results.every(({ mean }) => Number.isFinite(mean))) return file;
  } catch {
    // said below
  }
  throw new IntegrityError(`"${path}" is no stored evaluation`, { hint: "Delete it, and run stagevar eval --save" });
}
