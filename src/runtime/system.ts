/**
 * What the doctor asks of a machine, so that tests can make one up.
 *
 * Everything here only looks: nothing is written, started or fetched, and what is not there is undefined or empty.
 *
 * @module
 */
import { readdir, stat, statfs } from "node:fs/promises";
import { cpus } from "node:os";
import { type RandomAccess, withFile } from "../checkpoint/random_access.ts";
import { DeviceError } from "../errors.ts";
import type { DeviceOpeners } from "./device.ts";
import { cudaInstalled, openCuda } from "./cuda.ts";
import { libraryPath } from "./library_path.ts";
import { openWebGpu } from "./webgpu.ts";
import { openNative } from "./native.ts";
import { OrtApi } from "./ort_api.ts";
import { openWeb } from "./web.ts";

/** A machine, as the doctor sees it. */
export interface System {
  /** As `Deno.build.os` names it. */
  readonly os: string;
  /** As `Deno.build.arch` names it. */
  readonly arch: string;
  /** Version of Deno. */
  readonly deno: string;
  /** What the processor calls itself, and how many threads run at once. */
  processor(): { readonly model: string; readonly threads: number };
  /** Bytes of memory. */
  memory(): { readonly total: number; readonly available: number };
  /** One variable of the environment. */
  env(name: string): string | undefined;
  /** Whether there is a regular file, links followed. */
  isFile(path: string): Promise<boolean>;
  /** Names in a folder, sorted; none where it cannot be read. */
  list(folder: string): Promise<readonly string[]>;
  /** The first `limit` bytes of a regular file; undefined where it cannot be read. */
  read(path: string, limit: number): Promise<Uint8Array | undefined>;
  /** Runs `use` with a file open for reading; throws ModelError where it cannot be opened. */
  withFile<T>(path: string, use: (file: RandomAccess) => Promise<T>): Promise<T>;
  /** Bytes free for this user on the disk of a folder; undefined where the system does not say. */
  freeBytes(folder: string): Promise<number | undefined>;
  /** Where ONNX Runtime's native library should be; throws DeviceError where there is none for this machine. */
  libraryPath(): string;
  /** Loads ONNX Runtime; throws DeviceError where that fails. */
  loadLibrary(path: string): { readonly version: string; readonly providers: readonly string[] };
  /** Newest CUDA that the driver library serves, as 12040 for 12.4; throws DeviceError where it does not answer. */
  cudaVersion(path: string): number;
  /** Opens devices. */
  readonly openers: DeviceOpeners;
}

/**
 * The first `limit` bytes of a small file as text; empty where it cannot be read.
 *
 * @example
 * ```ts
 * import { readText, thisSystem } from "@stagevar/stagevar/runtime/system.ts";
 * import assert from "node:assert/strict";
 * assert.equal(await readText(thisSystem(), "deno.json", 1), "{");
 * assert.equal(await readText(thisSystem(), "no-such-file", 1), "");
 * ```
 */
export async function readText(system: System, path: string, limit: number): Promise<string> {
  return new TextDecoder().decode(await system.read(path, limit));
}

/**
 * This machine.
 *
 * @example
 * ```ts
 * import { thisSystem } from "@stagevar/stagevar/runtime/system.ts";
 * import assert from "node:assert/strict";
 * const system = thisSystem();
 * assert.equal(system.os, Deno.build.os);
 * assert.deepEqual(await system.list("no-such-folder"), []);
 * ```
 */
export function thisSystem(): System {
  return {
    os: Deno.build.os,
    arch: Deno.build.arch,
    deno: Deno.version.deno,
    processor: () => ({ model: cpus()[0]?.model.trim() ?? "", threads: navigator.hardwareConcurrency }),
    memory: () => Deno.systemMemoryInfo(),
    env: (name) => Deno.env.get(name),
    isFile: (path) => stat(path).then((found) => found.isFile(), () => false),
    list: (folder) => readdir(folder).then((names) => names.sort(), () => []),
    read: readStart,
    withFile,
    freeBytes: (folder) => statfs(folder).then(({ bavail, bsize }) => bavail * bsize, () => undefined),
    libraryPath,
    loadLibrary(path) {
      const api = new OrtApi(path);
      return { version: api.version, providers: api.providers() };
    },
    cudaVersion,
    openers: {
      native: openNative,
      webgpu: openWebGpu,
      cuda: openCuda,
      cudaInstalled,
      portable: openWeb,
    },
  };
}

/** Files of /proc say that they are empty, so the size is no guide. */
async function readStart(path: string, limit: number): Promise<Uint8Array | undefined> {
  try {
    if (!(await Deno.stat(path)).isFile) return undefined; // opening a pipe would wait for ever
    using file = await Deno.open(path);
    const bytes = new Uint8Array(limit);
    let filled = 0;
    for (let count: number | null = 0; count !== null && filled < limit; filled += count ?? 0) {
      count = await file.read(bytes.subarray(filled));
    }
    return bytes.subarray(0, filled);
  } catch {
    return undefined;
  }
}

function cudaVersion(path: string): number {
  const symbols = { cuDriverGetVersion: { parameters: ["buffer"], result: "i32" } } as const;
  const version = new Int32Array(1);
  let status: number;
  try {
    status = Deno.dlopen(path, symbols).symbols.cuDriverGetVersion(version); // never closed: drivers leave threads behind
  } catch (cause) {
    throw new DeviceError(`Cannot load the CUDA driver from "${path}": ${(cause as Error).message}`, { cause });
  }
  if (status !== 0) throw new DeviceError(`The CUDA driver "${path}" answers with error ${status}`);
  return version[0]!;
}
