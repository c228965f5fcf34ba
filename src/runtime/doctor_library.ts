/**
 * The doctor's look at ONNX Runtime's native library: where it is, what it is built with, and why it does not load.
 *
 * @module
 */
import { basename, join } from "node:path";
import { DeviceError, IntegrityError, ModelError } from "../errors.ts";
import type { Links, Loader } from "./loader.ts";
import type { System } from "./system.ts";

/** One thing looked at. */
export interface Finding {
  /** What it belongs to. */
  readonly part: "machine" | "onnxruntime" | "cuda" | "webgpu" | "wasm" | "devices" | "models";
  /** Its name within the part. */
  readonly name: string;
  /** What was found. */
  readonly found: string;
  /** There; not there or not working; or something to know. */
  readonly status: "ok" | "missing" | "note";
  /** What to do about it. */
  readonly next?: string;
}

/**
 * Puts a finding together; without `next` there is nothing to do.
 *
 * @example
 * ```ts
 * import { finding } from "@stagevar/stagevar/runtime/doctor_library.ts";
 * import assert from "node:assert/strict";
 * const { status, next } = finding("machine", "memory", "ok", "16.0 GB");
 * assert.deepEqual([status, next], ["ok", undefined]);
 * ```
 */
export function finding(
  part: Finding["part"],
  name: string,
  status: Finding["status"],
  found: string,
  next?: string,
): Finding {
  return { part, name, found, status, ...next === undefined ? {} : { next } };
}

/** The native library, as far as it is there. */
export interface Library {
  /** Undefined where the package is not installed. */
  readonly path: string | undefined;
  /** Execution providers that it was built with; none where it does not load. */
  readonly providers: readonly string[];
}

/**
 * Loads the library and says what it is, or why it does not load.
 *
 * @example
 * ```ts
 * import { checkLibrary } from "@stagevar/stagevar/runtime/doctor_library.ts";
 * import { openLoader } from "@stagevar/stagevar/runtime/loader.ts";
 * import { thisSystem } from "@stagevar/stagevar/runtime/system.ts";
 * import assert from "node:assert/strict";
 * const system = thisSystem();
 * const { library } = await checkLibrary(system, await openLoader(system));
 * assert(library.providers.includes("CPUExecutionProvider"));
 * ```
 */
export async function checkLibrary(
  system: System,
  loader: Loader,
): Promise<{ readonly library: Library; readonly findings: readonly Finding[] }> {
  let path: string | undefined;
  try {
    path = system.libraryPath();
    const { version, providers } = system.loadLibrary(path);
    const names = providers.map((provider) => provider.replace(/ExecutionProvider$/, "")).join(", ");
    return {
      library: { path, providers },
      findings: [
        finding("onnxruntime", "library", "ok", `onnxruntime ${version} in "${path}"${origin(system)}`),
        finding("onnxruntime", "providers", "ok", `built for ${names}`),
      ],
    };
  } catch (error) {
    if (!(error instanceof DeviceError)) throw error;
    const next = path === undefined ? error.hint : await whyNotLoaded(system, loader, path);
    return {
      library: { path, providers: [] },
      findings: [finding("onnxruntime", "library", "missing", error.message, next)],
    };
  }
}

/** What to do about a native library that does not load. */
async function whyNotLoaded(system: System, loader: Loader, path: string): Promise<string> {
  if (!await system.isFile(path)) {
    if (origin(system)) return `Put "${basename(path)}" into that folder, or unset STAGEVAR_ORT_LIBS`;
    const installed = await system.isFile(join(packageOf(path), "package.json"));
    return installed
      ? `The package has none for ${system.os} ${system.arch}: use --device wasm, or name a folder with one in STAGEVAR_ORT_LIBS`
      : "Run deno install in the project's folder, or use --device wasm";
  }
  const links = await linksOf(system, loader, path);
  if (typeof links === "string") return `${links}: install it again, or use --device wasm`;
  const libraries = links.absent.length === 0 ? "the libraries that it links" : links.absent.join(", ");
  return `Install ${libraries}, or use --device wasm`;
}

/**
 * What the library at a path links, or a clause about why that cannot be read or used.
 *
 * @example
 * ```ts
 * import { linksOf } from "@stagevar/stagevar/runtime/doctor_library.ts";
 * import { openLoader } from "@stagevar/stagevar/runtime/loader.ts";
 * import { thisSystem } from "@stagevar/stagevar/runtime/system.ts";
 * import assert from "node:assert/strict";
 * const system = { ...thisSystem(), os: "linux" };
 * const links = await linksOf(system, await openLoader(system), "no-such-file");
 * assert.match(String(links), /"no-such-file": no such file/);
 * ```
 */
export async function linksOf(system: System, loader: Loader, path: string): Promise<Links | string> {
  if (system.os !== "linux") return `"${path}" does not load`;
  try {
    const links = await loader.links(path);
    return links.arch === system.arch ? links : `"${path}" is for ${links.arch}, this machine is ${system.arch}`;
  } catch (error) {
    if (error instanceof ModelError || error instanceof IntegrityError) return error.message;
    throw error;
  }
}

/**
 * The folder of npm:onnxruntime-node that a library is in, by the path that it has there.
 *
 * @example
 * ```ts
 * import { packageOf } from "@stagevar/stagevar/runtime/doctor_library.ts";
 * import { libraryFile } from "@stagevar/stagevar/runtime/library_path.ts";
 * import { basename } from "node:path";
 * import assert from "node:assert/strict";
 * assert.equal(basename(packageOf(`/p/${libraryFile("linux", "x86_64")}`)), "p");
 * ```
 */
export function packageOf(library: string): string {
  return join(library, "../../../../.."); // bin/napi-v6/OS/PROCESSOR/FILE
}

/**
 * Where the libraries' folder comes from, for behind a path: empty for the npm package.
 *
 * @example
 * ```ts
 * import { origin } from "@stagevar/stagevar/runtime/doctor_library.ts";
 * import { thisSystem } from "@stagevar/stagevar/runtime/system.ts";
 * import assert from "node:assert/strict";
 * const system = { ...thisSystem(), env: () => "/usr/local/ort" };
 * assert.equal(origin(system), " (STAGEVAR_ORT_LIBS)");
 * ```
 */
export function origin(system: System): string {
  return system.env("STAGEVAR_ORT_LIBS") ? " (STAGEVAR_ORT_LIBS)" : "";
}
