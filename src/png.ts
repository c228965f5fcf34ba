/**
 * PNG files of 8-bit RGB pictures with text entries: a writer, and readers that trust nothing.
 *
 * Own code by measurement (bench/LOG.md, "PNG encoder"): fast-png is slower and larger and image-js drops the text.
 * Knows chunks and filters only; what the entries mean is metadata.ts. Section numbers are those of the W3C PNG
 * specification, third edition.
 *
 * @module
 */

import { setImmediate } from "node:timers/promises";
import { crc32, inflateSync } from "node:zlib";
import { IntegrityError, type StageVarError, UsageError } from "./errors.ts";
import type { DeflatedBand } from "./png_band.ts";
import type { Workers } from "./workers.ts";

/** A picture: rows from the top, pixels from the left, three bytes a pixel. */
export interface RgbImage {
  /** Pixels a row. */
  readonly width: number;
  /** Rows. */
  readonly height: number;
  /** [height, width, 3], sRGB. */
  readonly data: Uint8Array;
}

const SIGNATURE = Uint8Array.of(0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a);
/** 67 megapixels: twice 8192 x 4096, and far above what any schedule draws. */
const MAX_PIXELS = 1 << 26;
/** Bytes of text a file may unfold to, all entries together, and how many entries. */
const MAX_TEXT_BYTES = 4 << 20;
const MAX_ENTRIES = 1024;
/** Bytes of pixels from which on it is worth to ask a thread, which may have to be started. */
const LARGE = 1 << 20;
const HINT = "The file is damaged or not a PNG: export it again";

/**
 * Writes a PNG, giving the event loop a turn between bands of rows. The same picture and text give the same file on every
 * machine.
 *
 * Text goes into tEXt where Latin-1 holds it and into iTXt (UTF-8) otherwise (§11.3.3); lone surrogates become U+FFFD.
 *
 * @param image The picture.
 * @param text Entries by keyword: 1 to 79 printable Latin-1 characters; no text may hold NUL.
 * @param workers One of their threads deflates a large picture: no sooner, but this thread may do something else meanwhile.
 * @param here This thread has nothing else to do: it deflates a large picture together with those threads that wait for work.
 * @throws {UsageError} The sizes do not fit the data, or a keyword or text cannot be stored.
 *
 * @example
 * ```ts
 * import { encodePng, readPngText } from "@stagevar/stagevar/png.ts";
 * import assert from "node:assert/strict";
 * const red = { width: 1, height: 1, data: Uint8Array.of(255, 0, 0) };
 * const bytes = await encodePng(red, { Title: "rød 🦊" });
 * assert.deepEqual(readPngText(bytes), { Title: "rød 🦊" });
 * ```
 */
export async function encodePng(
  image: RgbImage,
  text: Record<string, string> = {},
  workers?: Workers,
  here = false,
): Promise<Uint8Array> {
  const { width, height, data } = image;
  if (!isSize(width, height) || data.length !== width * height * 3) {
    throw new UsageError(
      `Cannot encode a picture of ${width} x ${height} with ${data.length} bytes: wanted width * height * 3 bytes, at most ${MAX_PIXELS} pixels`,
    );
  }
  const header = new Uint8Array(13); // §11.2.1: 8 bits, colour type 2 (RGB), deflate, adaptive filters, not interlaced
  new DataView(header.buffer).setUint32(0, width);
  new DataView(header.buffer).setUint32(4, height);
  header.set([8, 2], 8);
  const entries = Object.entries(text).map(([keyword, value]) => textChunk(keyword, value));
  const pixels = chunk("IDAT", ...await deflated(image, workers, here));
  return concat([SIGNATURE, ...chunk("IHDR", header), ...entries.flat(), ...pixels, ...chunk("IEND")]);
}

/**
 * Reads the pixels of a PNG of 8 bits a channel, RGB or RGBA, not interlaced; transparency is ignored.
 *
 * @param bytes The whole file.
 * @throws {UsageError} Another kind of PNG, or more than 2^26 pixels.
 * @throws {IntegrityError} The file is damaged, cut short or no PNG.
 *
 * @example
 * ```ts
 * import { decodePng, encodePng } from "@stagevar/stagevar/png.ts";
 * import assert from "node:assert/strict";
 * const image = { width: 2, height: 1, data: Uint8Array.of(1, 2, 3, 4, 5, 6) };
 * assert.deepEqual(decodePng(await encodePng(image)), image);
 * ```
 */
export function decodePng(bytes: Uint8Array): RgbImage {
  let header: Uint8Array | undefined;
  const parts: Uint8Array[] = [];
  for (const { type, data } of chunks(bytes)) {
    if (type === "IHDR") header ??= data;
    else if (type === "IDAT") parts.push(data);
  }
  if (header?.length !== 13) throw damaged(`header has ${header?.length ?? 0} bytes, wanted 13`);
  const view = new DataView(header.buffer, header.byteOffset);
  const width = view.getUint32(0);
  const height = view.getUint32(4);
  const [depth, colour, , , interlace] = header.subarray(8);
  const channels = colour === 2 ? 3 : colour === 6 ? 4 : undefined;
  if (!isSize(width, height) || depth !== 8 || channels === undefined || interlace !== 0) {
    throw new UsageError(
      `Cannot decode a PNG of ${width} x ${height} with bit depth ${depth}, colour type ${colour}, interlace ${interlace}: wanted depth 8, colour type 2 or 6, interlace 0, at most ${MAX_PIXELS} pixels`,
      { hint: "Convert it to a plain 8-bit RGB PNG" },
    );
  }
  const stride = width * channels;
  const rows = inflate(concat(parts), (stride + 1) * height, "pixels");
  if (rows.length !== (stride + 1) * height) {
    throw damaged(`pixels have ${rows.length} bytes, wanted ${(stride + 1) * height}`);
  }
  const samples = unfilter(rows, stride, channels);
  return { width, height, data: channels === 3 ? samples : samples.filter((_, i) => i % 4 !== 3) };
}

/**
 * Reads the text entries of a PNG: tEXt, zTXt and iTXt; the last of two equal keywords stands.
 *
 * @param bytes The whole file; every checksum in it is verified.
 * @throws {IntegrityError} The file is damaged, cut short or no PNG, or its text unfolds to more than 4 MiB.
 *
 * @example
 * ```ts
 * import { readPngText } from "@stagevar/stagevar/png.ts";
 * import { IntegrityError } from "@stagevar/stagevar/errors.ts";
 * import assert from "node:assert/strict";
 * assert.throws(() => readPngText(new Uint8Array(8)), IntegrityError);
 * ```
 */
export function readPngText(bytes: Uint8Array): Record<string, string> {
  const entries: [string, string][] = [];
  let room = MAX_TEXT_BYTES;
  for (const { type, data } of chunks(bytes)) {
    if (type !== "tEXt" && type !== "zTXt" && type !== "iTXt") continue;
    const { keyword, text, packed } = splitText(type, data);
    const what = `text ${JSON.stringify(keyword)}`;
    const plain = packed ? inflate(text, room, what) : text;
    room -= plain.length;
    if (room < 0 || entries.length === MAX_ENTRIES) {
      throw damaged(`text unfolds to more than ${MAX_TEXT_BYTES} bytes or ${MAX_ENTRIES} entries`);
    }
    entries.push([keyword, type === "iTXt" ? utf8(plain, what) : latin1(plain)]);
  }
  return Object.fromEntries(entries); // defines "__proto__" as an entry, too
}

function isSize(width: number, height: number): boolean {
  return Number.isInteger(width) && Number.isInteger(height) && width > 0 && height > 0 &&
    width * height <= MAX_PIXELS;
}

function damaged(what: string, cause?: unknown): StageVarError {
  return new IntegrityError(`Cannot read PNG: ${what}`, { hint: HINT, cause });
}

/** Arrays behind each other, as one. */
export function concat(parts: readonly Uint8Array[]): Uint8Array<ArrayBuffer> {
  const out = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    out.set(part, at);
    at += part.length;
  }
  return out;
}

/** §5.3, in parts: length, type, data, CRC over type and data. */
function chunk(type: string, ...data: Uint8Array[]): Uint8Array[] {
  const start = new Uint8Array(8), end = new Uint8Array(4);
  new DataView(start.buffer).setUint32(0, data.reduce((sum, part) => sum + part.length, 0));
  for (let i = 0; i < 4; i++) start[4 + i] = type.charCodeAt(i);
  const crc = data.reduce((crc, part) => crc32(part, crc), crc32(start.subarray(4)));
  new DataView(end.buffer).setUint32(0, crc);
  return [start, ...data, end];
}

/** Walks the chunks of a file up to IEND; every length and checksum holds, or IntegrityError. */
function* chunks(bytes: Uint8Array): Generator<{ type: string; data: Uint8Array }> {
  if (SIGNATURE.some((byte, i) => bytes[i] !== byte)) throw damaged("it does not start as a PNG");
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  for (let at = SIGNATURE.length; at + 12 <= bytes.length;) {
    const length = view.getUint32(at);
    const type = latin1(bytes.subarray(at + 4, at + 8));
    const end = at + 8 + length;
    if (end + 4 > bytes.length) {
      throw damaged(`chunk ${JSON.stringify(type)} claims ${length} bytes, found ${bytes.length - at - 12}`);
    }
    if (crc32(bytes.subarray(at + 4, end)) !== view.getUint32(end)) {
      throw damaged(`chunk ${JSON.stringify(type)} has a wrong checksum`);
    }
    if (type === "IEND") return;
    yield { type, data: bytes.subarray(at + 8, end) };
    at = end + 4;
  }
  throw damaged("it ends before its last chunk");
}

/** The filtered rows as a zlib stream, in parts. */
async function deflated(image: RgbImage, workers: Workers | undefined, here: boolean): Promise<Uint8Array[]> {
  const large = image.data.length > LARGE;
  if (workers && large && !here) return [await workers.run({ type: "pixels", image })];
  const { bandsOf, deflateBand, joinBands, unpackBand } = await import("./png_band.ts"); // readers do without its wasm
  const bands = bandsOf(image);
  const made: DeflatedBand[] = [];
  let next = 0; // whoever is done takes the next one
  const others = Array.from({ length: large ? workers?.idle ?? 0 : 0 }, async () => {
    while (next < bands.length) {
      const index = next++;
      const band = { ...bands[index]!, rows: bands[index]!.rows.slice() }; // a view would take the whole picture along
      made[index] = unpackBand(band, await workers!.run({ type: "band", band }));
    }
  });
  while (next < bands.length) {
    const index = next++;
    made[index] = deflateBand(bands[index]!);
    await setImmediate();
  }
  await Promise.all(others);
  return joinBands(made);
}

/** Inflates a zlib stream to at most `most` bytes, or throws IntegrityError. */
function inflate(data: Uint8Array, most: number, what: string): Uint8Array {
  try {
    return inflateSync(data, { maxOutputLength: Math.max(most, 1) });
  } catch (cause) {
    throw damaged(`${what} cannot be inflated into ${most} bytes`, cause);
  }
}

/** Undoes the filters of §9.2 row by row. */
function unfilter(rows: Uint8Array, stride: number, pixel: number): Uint8Array {
  const height = rows.length / (stride + 1);
  const out = new Uint8Array(stride * height);
  for (let row = 0; row < height; row++) {
    const from = row * (stride + 1) + 1;
    const to = row * stride;
    const filter = rows[from - 1]!;
    if (filter > 4) throw damaged(`row ${row} has filter ${filter}, wanted 0 to 4`);
    for (let i = 0; i < stride; i++) {
      const left = i < pixel ? 0 : out[to + i - pixel]!;
      const up = row === 0 ? 0 : out[to + i - stride]!;
      const corner = row === 0 || i < pixel ? 0 : out[to + i - stride - pixel]!;
      const guess = filter === 0
        ? 0
        : filter === 1
        ? left
        : filter === 2
        ? up
        : filter === 3
        ? (left + up) >> 1
        : paeth(left, up, corner);
      out[to + i] = rows[from + i]! + guess;
    }
  }
  return out;
}

/** §9.4: the neighbour nearest to left + up - corner, in this order. */
function paeth(left: number, up: number, corner: number): number {
  const toLeft = Math.abs(up - corner), toUp = Math.abs(left - corner), toCorner = Math.abs(left + up - 2 * corner);
  if (toLeft <= toUp && toLeft <= toCorner) return left;
  return toUp <= toCorner ? up : corner;
}

function textChunk(keyword: string, text: string): Uint8Array[] {
  // §11.3.3.1: printable Latin-1, single spaces inside only.
  if (!/^[!-~\u00a1-\u00ff]+(?: [!-~\u00a1-\u00ff]+)*$/.test(keyword) || keyword.length > 79) {
    throw new UsageError(
      `Cannot write PNG text: ${JSON.stringify(keyword)} is no keyword of 1 to 79 Latin-1 characters`,
    );
  }
  if (text.includes("\0")) throw new UsageError(`Cannot write PNG text "${keyword}": it holds NUL`);
  if (/^[\n -~\u00a0-\u00ff]*$/.test(text)) return chunk("tEXt", bytesOf(`${keyword}\0${text}`));
  // iTXt: keyword, not compressed, method 0, no language tag, no translated keyword, UTF-8
  return chunk("iTXt", concat([bytesOf(`${keyword}\0\0\0\0\0`), new TextEncoder().encode(text)]));
}

/** Splits a text chunk into keyword and text as stored (§11.3.3). */
function splitText(type: string, data: Uint8Array): { keyword: string; text: Uint8Array; packed: boolean } {
  const name = data.indexOf(0);
  if (name < 1 || name > 79) throw damaged(`${type} has no keyword of 1 to 79 bytes`);
  const keyword = latin1(data.subarray(0, name));
  const refuse = (what: string): StageVarError => damaged(`text ${JSON.stringify(keyword)} has ${what}`);
  if (type === "tEXt") return { keyword, text: data.subarray(name + 1), packed: false };
  if (type === "zTXt") {
    if (data[name + 1] !== 0) throw refuse("an unknown compression method");
    return { keyword, text: data.subarray(name + 2), packed: true };
  }
  const flag = data[name + 1];
  if ((flag !== 0 && flag !== 1) || data[name + 2] !== 0) throw refuse("an unknown compression method");
  const language = data.indexOf(0, name + 3);
  const translated = language < 0 ? -1 : data.indexOf(0, language + 1);
  if (translated < 0) throw refuse("no language tag or translated keyword");
  return { keyword, text: data.subarray(translated + 1), packed: flag === 1 };
}

/** True Latin-1; TextDecoder's "latin1" is Windows-1252. */
function latin1(bytes: Uint8Array): string {
  let out = "";
  for (const byte of bytes) out += String.fromCharCode(byte);
  return out;
}

function bytesOf(text: string): Uint8Array {
  return Uint8Array.from(text, (char) => char.charCodeAt(0));
}

function utf8(bytes: Uint8Array, what: string): string {
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch (cause) {
    throw damaged(`${what} is not UTF-8`, cause);
  }
}
