/**
 * Writes files of random weights, and the small files beside them, into a folder: checks its disk first, tells of progress, and
 * leaves nothing when it fails. Knows no model.
 *
 * @module
 */
import { dirname, join } from "node:path";
import { rmdir, statfs } from "node:fs/promises";
import { type TensorData, writeSafetensors } from "../checkpoint/safetensors_writer.ts";
import { DTYPE_BYTES } from "../checkpoint/tensor.ts";
import { type TorchOptions, writeTorch } from "../checkpoint/torch_pth_writer.ts";
import { DeviceError, StageVarError, UsageError } from "../errors.ts";
import { writeFileAtomic } from "../output.ts";
import { type FakeDType, type FakeTensor, FakeValues } from "./fake_values.ts";

/** A file of weights. */
export interface FakeFile {
  /** Path in the model's folder. */
  readonly path: string;
  /** Its tensors, in order. */
  readonly tensors: readonly FakeTensor[];
  /** Tables of integers after them. */
  readonly tables?: readonly TensorData[];
  /** Layout of a torch archive; left out, the file is safetensors. */
  readonly torch?: TorchOptions;
}

/** How weights are made, and who hears about it. */
export interface FakeOptions {
  /** Element type of all weights. */
  readonly dtype: FakeDType;
  /** Integer in 0..2^53-1; the same seed gives the same bytes. */
  readonly seed: number;
  /** Write into a folder that holds something already, over files of the same names. */
  readonly force?: boolean;
  /** Stops the writing; the files written so far are removed. */
  readonly signal?: AbortSignal;
  /** Called now and then with the file being written and the bytes of weights done, in all files together. */
  readonly progress?: (file: string, done: number, total: number) => void;
}

/**
 * Bytes of weights in files, all of one element type; tables not counted.
 *
 * @example
 * ```ts
 * import { weightBytes } from "@stagevar/stagevar/models/fake_writer.ts";
 * import assert from "node:assert/strict";
 * const w = { name: "w", shape: [3, 5], mean: 0, std: 1 };
 * assert.equal(weightBytes([{ path: "w.safetensors", tensors: [w, { ...w, name: "v" }] }], "BF16"), 60);
 * ```
 */
export function weightBytes(files: readonly FakeFile[], dtype: FakeDType): number {
  const elements = files.flatMap(({ tensors }) => tensors).reduce((sum, { shape }) => sum + product(shape), 0);
  return elements * DTYPE_BYTES[dtype];
}

function product(shape: readonly number[]): number {
  return shape.reduce((product, extent) => product * extent, 1);
}

/**
 * Writes files of weights, then `texts` (path and content), into a folder. Needs the memory of one piece, not of a model.
 * When it fails, what it wrote is removed.
 *
 * @throws {UsageError} The folder holds something and `force` is off, or cannot be written to.
 * @throws {DeviceError} The disk has too little space.
 *
 * @example
 * ```ts
 * import { openCheckpoint } from "@stagevar/stagevar/checkpoint/open.ts";
 * import { writeFakeFiles } from "@stagevar/stagevar/models/fake_writer.ts";
 * import assert from "node:assert/strict";
 * const folder = await Deno.makeTempDir();
 * const w = { name: "w", shape: [3, 5], mean: 0, std: 1 };
 * const files = [{ path: "sub/w.pth", tensors: [w], torch: { under: "trainer.net" } }];
 * await writeFakeFiles(folder, files, [["note.txt", "made up"]], { dtype: "F16", seed: 1 });
 * assert.deepEqual((await openCheckpoint(`${folder}/sub/w.pth`)).get("trainer.net.w").shape, [3, 5]);
 * assert.equal(await Deno.readTextFile(`${folder}/note.txt`), "made up");
 * await Deno.remove(folder, { recursive: true });
 * ```
 */
export async function writeFakeFiles(
  folder: string,
  files: readonly FakeFile[],
  texts: readonly (readonly [path: string, content: string])[],
  options: FakeOptions,
): Promise<void> {
  const { dtype, seed, force = false, signal, progress } = options;
  const total = weightBytes(files, dtype);
  const values = new FakeValues(seed, dtype);
  const written: string[] = [];
  const made = new Set<string>(); // folders inside the folder
  let done = 0;
  let index = 0;
  try {
    await checkFolder(folder, force);
    await checkSpace(folder, total);
    const take = async (path: string, write: (path: string) => Promise<void>): Promise<void> => {
      const target = join(folder, path);
      for (let inner = dirname(path); inner !== "."; inner = dirname(inner)) made.add(join(folder, inner));
      await Deno.mkdir(dirname(target), { recursive: true });
      await write(target);
      written.push(target);
    };
    for (const { path, tensors, tables = [], torch } of files) {
      const counted = async function* (tensor: FakeTensor, number: number): AsyncGenerator<Uint8Array> {
        for await (const piece of values.bytes(tensor, number)) {
          signal?.throwIfAborted();
          yield piece;
          done += piece.length;
          progress?.(path, done, total);
        }
      };
      const data = tensors.map((tensor): TensorData => {
        const { name, shape } = tensor;
        return { name, dtype, shape, bytes: counted(tensor, index++) };
      });
      const all = [...data, ...tables];
      await take(path, (target) => {
        return torch === undefined ? writeSafetensors(target, all, { format: "pt" }) : writeTorch(target, all, torch);
      });
    }
    for (const [path, text] of texts) {
      await take(path, (target) => writeFileAtomic(target, new TextEncoder().encode(text), { force }));
    }
  } catch (error) {
    for (const path of written) await Deno.remove(path).catch(() => {});
    // The innermost first; takes nothing but empty folders.
    for (const path of [...made].sort((a, b) => b.length - a.length)) await rmdir(path).catch(() => {});
    throw explain(folder, error);
  }
}

async function checkFolder(folder: string, force: boolean): Promise<void> {
  await Deno.mkdir(folder, { recursive: true });
  if (force) return;
  for await (const { name } of Deno.readDir(folder)) {
    throw new UsageError(`Will not write into "${folder}": it holds "${name}"`, {
      hint: "Choose an empty folder, or add --force to overwrite files of the same names",
    });
  }
}

async function checkSpace(folder: string, wanted: number): Promise<void> {
  const { bavail, bsize } = await statfs(folder);
  if (bavail * bsize >= wanted) return;
  const [needed, free] = [wanted, bavail * bsize].map((bytes) => `${(bytes / 1e9).toFixed(1)} GB`);
  throw new DeviceError(`Cannot write into "${folder}": ${needed} are wanted, its disk has ${free} free`, {
    hint: "Free some space, choose another disk, or take --dtype bf16, which is half of f32",
  });
}

function explain(folder: string, error: unknown): unknown {
  const code = error instanceof Error && "code" in error ? error.code : undefined;
  // Only the system's errors have a code in letters: an abort goes on as it is.
  if (error instanceof StageVarError || typeof code !== "string") return error;
  if (code === "ENOSPC" || code === "EDQUOT" || code === "EFBIG") {
    return new DeviceError(`Cannot write into "${folder}": the disk is full`, {
      cause: error,
      hint: "Free some space, or choose another disk",
    });
  }
  return new UsageError(`Cannot write into "${folder}": ${(error as Error).message}`, {
    cause: error,
    hint: "Choose a folder that may be written to",
  });
}
