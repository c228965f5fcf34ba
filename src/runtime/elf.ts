/**
 * Which other libraries a Linux library links, read from the dynamic section of its ELF file without loading it.
 *
 * A partial reader: 64-bit little-endian files only, and of those only the names of other libraries.
 *
 * @module
 */
import { outside, quote, type RandomAccess } from "../checkpoint/random_access.ts";
import { IntegrityError } from "../errors.ts";

/** What a library asks of the loader. */
export interface ElfLibrary {
  /** Processor it is for, as `Deno.build.arch` names it, or `machine 8` for others. */
  readonly arch: string;
  /** Names of the libraries it links (DT_NEEDED), as `libcudart.so.13`. */
  readonly needed: readonly string[];
  /** Folders to look in for them (DT_RUNPATH, or the older DT_RPATH); may start with `$ORIGIN`. */
  readonly runpath: readonly string[];
}

const MACHINES: Readonly<Record<number, string>> = { 62: "x86_64", 183: "aarch64" };

const PT_LOAD = 1, PT_DYNAMIC = 2;
const DT_NULL = 0, DT_NEEDED = 1, DT_STRTAB = 5, DT_STRSZ = 10, DT_RPATH = 15, DT_RUNPATH = 29;

/** Real libraries have some ten segments, forty dynamic entries and names of twenty bytes; beyond these a file lies. */
const MAX_SEGMENTS = 256, MAX_ENTRIES = 4096, MAX_NEEDED = 512, MAX_NAME = 4096;

/**
 * Reads the dynamic section of a library; at most a few kilobytes for a well-formed one.
 *
 * @throws {IntegrityError} when it is no 64-bit little-endian ELF library, is truncated, or points outside itself
 * @example
 * ```ts
 * import { withFile } from "@stagevar/stagevar/checkpoint/random_access.ts";
 * import { readElf } from "@stagevar/stagevar/runtime/elf.ts";
 * import { libraryPath } from "@stagevar/stagevar/runtime/library_path.ts";
 * import assert from "node:assert/strict";
 * if (Deno.build.os === "linux") {
 *   const { arch, needed } = await withFile(libraryPath(), readElf);
 *   assert.equal(arch, Deno.build.arch);
 *   assert(needed.includes("libc.so.6"));
 * }
 * ```
 */
export async function readElf(file: RandomAccess): Promise<ElfLibrary> {
  const damaged = (what: string): IntegrityError =>
    new IntegrityError(`${quote(file.path)} is not an ELF library that can be read: ${what}`, {
      hint: "Install the library again",
    });
  const view = async (offset: number, length: number): Promise<DataView> =>
    new DataView((await file.read(offset, length)).buffer);
  /** Offsets and sizes are 64-bit; one that a double cannot hold is outside any file. */
  const wide = (data: DataView, at: number): number => Number(data.getBigUint64(at, true));

  const header = await view(0, Math.min(64, file.size));
  if (header.byteLength < 64 || header.getUint32(0) !== 0x7f454c46) throw damaged("it does not start as one");
  if (header.getUint8(4) !== 2 || header.getUint8(5) !== 1) throw damaged("64 bits, little-endian are wanted");
  const machine = header.getUint16(18, true);
  const segmentCount = header.getUint16(56, true);
  if (header.getUint16(54, true) !== 56) throw damaged("its program headers have an unknown size");
  if (segmentCount > MAX_SEGMENTS) throw damaged(`it claims ${segmentCount} segments`);

  const segments = await view(wide(header, 32), segmentCount * 56);
  const loads: { address: number; offset: number; size: number }[] = [];
  let dynamic: { offset: number; size: number } | undefined;
  for (let at = 0; at < segments.byteLength; at += 56) {
    const offset = wide(segments, at + 8), address = wide(segments, at + 16), size = wide(segments, at + 32);
    const type = segments.getUint32(at, true);
    if (type === PT_LOAD) loads.push({ address, offset, size });
    if (type === PT_DYNAMIC) dynamic = { offset, size };
  }
  if (dynamic === undefined) throw damaged("it has no dynamic section");

  const error = outside(file, dynamic.offset, dynamic.size);
  if (error !== undefined) throw error;
  const entries = await view(dynamic.offset, Math.min(dynamic.size, MAX_ENTRIES * 16) & ~15);
  const values = new Map<number, number[]>();
  for (let at = 0; at < entries.byteLength; at += 16) {
    const tag = wide(entries, at);
    if (tag === DT_NULL) break;
    values.set(tag, [...values.get(tag) ?? [], wide(entries, at + 8)]);
    if ((values.get(tag)?.length ?? 0) > MAX_NEEDED) throw damaged(`it repeats an entry more than ${MAX_NEEDED} times`);
  }

  // The string table is given by the address it is loaded at: find the segment that brings it there.
  const table = values.get(DT_STRTAB)?.[0];
  const tableSize = values.get(DT_STRSZ)?.[0] ?? 0;
  const strings = loads.find(({ address, size }) => table !== undefined && table >= address && table - address < size);
  const name = async (at: number): Promise<string> => {
    if (strings === undefined || at >= tableSize) throw damaged("a name lies outside its strings");
    const start = strings.offset + (table! - strings.address) + at;
    const bytes = await file.read(start, Math.min(MAX_NAME, tableSize - at, Math.max(0, file.size - start)));
    const end = bytes.indexOf(0);
    if (end === -1) throw damaged("a name has no end");
    return new TextDecoder().decode(bytes.subarray(0, end));
  };
  const needed: string[] = [];
  for (const at of values.get(DT_NEEDED) ?? []) needed.push(await name(at));
  const path = values.get(DT_RUNPATH)?.[0] ?? values.get(DT_RPATH)?.[0];
  const runpath = path === undefined ? [] : (await name(path)).split(":").filter((folder) => folder !== "");
  return { arch: MACHINES[machine] ?? `machine ${machine}`, needed, runpath };
}
