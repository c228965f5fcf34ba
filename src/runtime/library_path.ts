/**
 * Where ONNX Runtime's native library is.
 *
 * @module
 */
import { existsSync } from "node:fs";
import { createRequire } from "node:module";
import { basename, dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { DeviceError } from "../errors.ts";

/**
 * The native library's path inside npm:onnxruntime-node, for a system and processor as `Deno.build` names them.
 *
 * @throws {DeviceError} when no such library is made for the system
 * @example
 * ```ts
 * import { libraryFile } from "@stagevar/stagevar/runtime/library_path.ts";
 * import assert from "node:assert/strict";
 * assert.equal(libraryFile("windows", "x86_64"), "bin/napi-v6/win32/x64/onnxruntime.dll");
 * ```
 */
export function libraryFile(os: string, arch: string): string {
  const processor = arch === "aarch64" ? "arm64" : "x64";
  switch (os) {
    case "linux":
      return `bin/napi-v6/linux/${processor}/libonnxruntime.so.1`;
    case "darwin":
      return `bin/napi-v6/darwin/${processor}/libonnxruntime.1.dylib`;
    case "windows":
      return `bin/napi-v6/win32/${processor}/onnxruntime.dll`;
    default:
      throw new DeviceError(`No native ONNX Runtime for "${os}"`);
  }
}

/**
 * Where npm:onnxruntime-node keeps its native library for this platform.
 *
 * `STAGEVAR_ORT_LIBS` names a folder to take it from instead.
 *
 * @throws {DeviceError} when the package is not installed
 * @example
 * ```ts
 * import { libraryPath } from "@stagevar/stagevar/runtime/library_path.ts";
 * import assert from "node:assert/strict";
 * assert.match(libraryPath(), /onnxruntime/);
 * ```
 */
export function libraryPath(): string {
  const file = libraryFile(Deno.build.os, Deno.build.arch);
  const folder = Deno.env.get("STAGEVAR_ORT_LIBS");
  if (folder) return join(folder, basename(file));
  // A compiled program carries this file and nothing else of the package, so there is no package to resolve.
  const local = new URL(`../../node_modules/onnxruntime-node/${file}`, import.meta.url);
  if (existsSync(local)) return fileURLToPath(local);
  try {
    return join(dirname(createRequire(import.meta.url).resolve("onnxruntime-node")), "..", file);
  } catch (cause) {
    throw new DeviceError("Cannot find the npm package onnxruntime-node", {
      cause,
      hint: "Run deno install, or use --device wasm",
    });
  }
}
