/** Machines that do not exist: files by path, libraries by what they claim, and devices that add as told. */
import { join } from "node:path";
import { outside, type RandomAccess } from "../src/checkpoint/random_access.ts";
import { DeviceError, ModelError } from "../src/errors.ts";
import type { Runtime } from "../src/runtime/runtime.ts";
import type { System } from "../src/runtime/system.ts";

/** A machine; what is left out is an ordinary x86_64 Linux without files. */
export interface World {
  readonly os?: string;
  readonly arch?: string;
  readonly files?: Readonly<Record<string, string | Uint8Array<ArrayBuffer>>>;
  readonly env?: Readonly<Record<string, string>>;
  /** Path of ONNX Runtime's library. */
  readonly library?: string;
  /** Why that does not load. */
  readonly fails?: string;
  /** Execution providers in it, by their short names. */
  readonly providers?: readonly string[];
  /** What the CUDA driver answers. */
  readonly cudaVersion?: number | DeviceError;
  readonly native?: () => Runtime;
  readonly cuda?: () => Promise<Runtime>;
  readonly portable?: () => Promise<Runtime>;
}

/** A file in memory, called lib.so. */
export function inMemory(bytes: Uint8Array<ArrayBuffer>, path = "lib.so"): RandomAccess {
  const size = bytes.length;
  return {
    path,
    file: path,
    size,
    async read(offset, length) {
      const error = outside({ path, size }, offset, length);
      if (error !== undefined) throw error;
      return await Promise.resolve(bytes.slice(offset, offset + length));
    },
  };
}

/** A device whose sum of x and x is `factor` times x, whatever the graph. */
export function fakeRuntime(device: string, factor = 2): Runtime {
  return {
    device,
    version: "fake 1.0",
    form: { attention: "fused", norms: "rowwise" },
    createSession: () =>
      Promise.resolve({
        run: (inputs, outputs) => {
          const x = inputs.x!.data as Float32Array;
          (outputs.y!.data as Float32Array).set(x.map((value) => value * factor));
          return Promise.resolve();
        },
        [Symbol.dispose]: () => {},
      }),
    [Symbol.dispose]: () => {},
  };
}

/** The system of a world. */
export function machine(world: World): System {
  const files = new Map(
    Object.entries(world.files ?? {}).map(([path, data]) => [
      path,
      typeof data === "string" ? new TextEncoder().encode(data) : data,
    ]),
  );
  const env = world.env ?? {};
  return {
    os: world.os ?? "linux",
    arch: world.arch ?? "x86_64",
    deno: "2.9.6",
    processor: () => ({ model: "Fake CPU", threads: 8 }),
    memory: () => ({ total: 16e9, available: 8e9 }),
    env: (name) => env[name],
    isFile: (path) => Promise.resolve(files.has(path)),
    list(folder) {
      const inside = [...files.keys()].filter((path) => path.startsWith(`${folder}/`));
      const names = new Set(inside.map((path) => path.slice(folder.length + 1).split("/")[0]!));
      return Promise.resolve([...names].sort());
    },
    read: (path, limit) => Promise.resolve(files.get(path)?.subarray(0, limit)),
    withFile(path, use) {
      const bytes = files.get(path);
      return bytes ? use(inMemory(bytes, path)) : Promise.reject(new ModelError(`Cannot read "${path}"`));
    },
    freeBytes: () => Promise.resolve(12e9),
    libraryPath: () =>
      world.library ??
        join("/usr/local/ann/stagevar/node_modules/onnxruntime-node/bin/napi-v6/linux/x64/libonnxruntime.so.1"),
    loadLibrary() {
      if (world.fails !== undefined) throw new DeviceError(world.fails);
      const providers = (world.providers ?? ["CUDA", "WebGpu", "CPU"]).map((name) => `${name}ExecutionProvider`);
      return { version: "1.30.0", providers };
    },
    cudaVersion() {
      if (typeof world.cudaVersion === "number") return world.cudaVersion;
      throw world.cudaVersion ?? new Error("Nobody should ask a driver that is not there");
    },
    openers: {
      native: world.native ?? (() => {
        if (world.fails !== undefined) throw new DeviceError(world.fails);
        return fakeRuntime("cpu");
      }),
      webgpu: () => Promise.reject(new DeviceError("No WebGPU device: no adapter")),
      cuda: world.cuda ?? (() => Promise.reject(new DeviceError("No CUDA device: no driver"))),
      cudaInstalled: () => world.cuda !== undefined,
      portable: world.portable ?? (() => Promise.resolve(fakeRuntime("wasm"))),
    },
  };
}

/**
 * An ELF library of two segments: all of the file loaded at 0x10000, and its dynamic section at byte 176, whose entries are
 * DT_STRTAB, DT_STRSZ, the DT_NEEDEDs, DT_RUNPATH and DT_NULL.
 */
export function forgeElf(
  { needed = [], runpath, machine = 62 }: { needed?: readonly string[]; runpath?: string; machine?: number },
): Uint8Array<ArrayBuffer> {
  const BASE = 0x10000, DYNAMIC = 64 + 2 * 56;
  const names = [...needed, ...runpath === undefined ? [] : [runpath]];
  const entries = names.length + 3;
  const table = DYNAMIC + entries * 16;
  const strings = new TextEncoder().encode(`\0${names.map((name) => `${name}\0`).join("")}`);
  const bytes = new Uint8Array(table + strings.length);
  bytes.set(strings, table);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, 0x7f454c46);
  view.setUint8(4, 2);
  view.setUint8(5, 1);
  view.setUint16(18, machine, true);
  view.setBigUint64(32, 64n, true);
  view.setUint16(54, 56, true);
  view.setUint16(56, 2, true);
  const segment = (at: number, type: number, offset: number, size: number): void => {
    view.setUint32(at, type, true);
    view.setBigUint64(at + 8, BigInt(offset), true);
    view.setBigUint64(at + 16, BigInt(BASE + offset), true);
    view.setBigUint64(at + 32, BigInt(size), true);
  };
  segment(64, 1, 0, bytes.length);
  segment(64 + 56, 2, DYNAMIC, entries * 16);
  let at = DYNAMIC;
  const entry = (tag: number, value: number): void => {
    view.setBigUint64(at, BigInt(tag), true);
    view.setBigUint64(at + 8, BigInt(value), true);
    at += 16;
  };
  entry(5, BASE + table);
  entry(10, strings.length);
  let name = 1;
  for (const text of names) {
    entry(text === runpath ? 29 : 1, name);
    name += text.length + 1;
  }
  return bytes;
}

/** A loader's cache of names and paths; `old` puts an empty cache of the older format before it. */
export function forgeCache(
  entries: readonly (readonly [string, string])[],
  { flags = 0x0303, old = false } = {},
): Uint8Array<ArrayBuffer> {
  const start = old ? 32 : 0;
  const table = 48 + entries.length * 24;
  const strings = new TextEncoder().encode(entries.map(([name, path]) => `${name}\0${path}\0`).join(""));
  const bytes = new Uint8Array(start + table + strings.length);
  if (old) bytes.set(new TextEncoder().encode("ld.so-1.7.0"));
  bytes.set(new TextEncoder().encode("glibc-ld.so.cache1.1"), start);
  bytes.set(strings, start + table);
  const view = new DataView(bytes.buffer, start);
  view.setUint32(20, entries.length, true);
  view.setUint32(24, strings.length, true);
  let offset = table;
  entries.forEach(([name, path], i) => {
    view.setUint32(48 + i * 24, flags, true);
    view.setUint32(48 + i * 24 + 4, offset, true);
    view.setUint32(48 + i * 24 + 8, offset + name.length + 1, true);
    offset += name.length + path.length + 2;
  });
  return bytes;
}
