/**
 * One band of a PNG's rows, filtered and deflated apart from the others: each ends on a byte, the last one ends the stream.
 *
 * The work is done in wasm (core_rs/src/png.rs, deflate.rs), in a fraction of zlib's time and with the same bytes on every
 * machine (bench/LOG.md, "PNG encoder in wasm").
 *
 * @module
 */
import { png_band } from "../core_rs/pkg/core.js";
import type { RgbImage } from "./png.ts";

/** Bytes of a band, which takes about 1 ms. */
const BAND_BYTES = 1 << 18;
const ADLER = 65_521;

/** Rows to deflate. */
export interface Band {
  /** Rows of pixels of three bytes, the row above the band first unless the band is the first. */
  readonly rows: Uint8Array;
  /** Bytes a row. */
  readonly stride: number;
  /** Whether no row is above. */
  readonly first: boolean;
  /** Whether no band follows. */
  readonly last: boolean;
}

/** A band's part of the stream. */
export interface DeflatedBand {
  /** Raw deflate. */
  readonly bytes: Uint8Array;
  /** Adler-32 of the filtered rows. */
  readonly adler: number;
  /** Filtered bytes. */
  readonly length: number;
}

/**
 * The rows of a picture in bands, which are views: the file depends on where they begin, so it is always here.
 *
 * @example
 * ```ts
 * import { bandsOf } from "@stagevar/stagevar/png_band.ts";
 * import assert from "node:assert/strict";
 * const [band, ...others] = bandsOf({ width: 2, height: 2, data: new Uint8Array(12) });
 * assert(band!.stride === 6 && band!.first && band!.last && others.length === 0);
 * ```
 */
export function bandsOf({ width, height, data }: RgbImage): Band[] {
  const stride = width * 3;
  const rows = Math.max(1, Math.floor(BAND_BYTES / stride));
  return Array.from({ length: Math.ceil(height / rows) }, (_, i) => {
    const [from, to] = [i * rows, Math.min((i + 1) * rows, height)];
    return {
      rows: data.subarray(Math.max(0, from - 1) * stride, to * stride),
      stride,
      first: i === 0,
      last: to === height,
    };
  });
}

/**
 * Filters rows with Paeth and deflates them.
 *
 * @throws {RangeError} If the rows are not whole rows of whole pixels, or none.
 *
 * @example
 * ```ts
 * import { deflateBand } from "@stagevar/stagevar/png_band.ts";
 * import { inflateRawSync } from "node:zlib";
 * import assert from "node:assert/strict";
 * const rows = Uint8Array.of(5, 6, 7, 5, 8, 6); // two rows of one pixel, the first above the band
 * const { bytes } = deflateBand({ rows, stride: 3, first: false, last: true });
 * assert.deepEqual([...inflateRawSync(bytes)], [4, 0, 2, 255]);
 * ```
 */
export function deflateBand(band: Band): DeflatedBand {
  return unpackBand(band, packBand(band));
}

/**
 * The same in one array, as threads hand it on: Adler-32, four bytes, and raw deflate.
 *
 * @throws {RangeError} If the rows are not whole rows of whole pixels, or none.
 *
 * @example
 * ```ts
 * import { deflateBand, packBand, unpackBand } from "@stagevar/stagevar/png_band.ts";
 * import assert from "node:assert/strict";
 * const band = { rows: Uint8Array.of(5, 6, 7), stride: 3, first: true, last: true };
 * assert.deepEqual(unpackBand(band, packBand(band)), deflateBand(band));
 * ```
 */
export function packBand({ rows, stride, first, last }: Band): Uint8Array<ArrayBuffer> {
  const height = rows.length / stride - (first ? 0 : 1);
  if (!Number.isInteger(stride / 3) || !Number.isInteger(height) || stride < 3 || height < 1) {
    throw new RangeError(`Cannot call deflateBand(): "rows" has ${rows.length} bytes, wanted rows of ${stride}`);
  }
  return png_band(rows, stride, first, last) as Uint8Array<ArrayBuffer>;
}

/** A band's part of the stream, of what {@linkcode packBand} made of it. */
export function unpackBand({ rows, stride, first }: Band, packed: Uint8Array): DeflatedBand {
  const adler = new DataView(packed.buffer, packed.byteOffset).getUint32(0, true);
  const height = rows.length / stride - (first ? 0 : 1);
  return { bytes: packed.subarray(4), adler, length: (stride + 1) * height };
}

/**
 * Bands as one zlib stream (RFC 1950), in parts: fresh memory for megabytes takes longer than their checksum.
 *
 * @example
 * ```ts
 * import { deflateBand, joinBands } from "@stagevar/stagevar/png_band.ts";
 * import { inflateSync } from "node:zlib";
 * import assert from "node:assert/strict";
 * const band = deflateBand({ rows: Uint8Array.of(5, 6, 7), stride: 3, first: true, last: true });
 * const stream = joinBands([band]).flatMap((part) => [...part]);
 * assert.deepEqual([...inflateSync(Uint8Array.from(stream))], [4, 5, 6, 7]);
 * ```
 */
export function joinBands(bands: readonly DeflatedBand[]): Uint8Array[] {
  let a = 1, b = 0; // Adler-32 of nothing
  for (const { adler, length } of bands) {
    const [ownA, ownB] = [adler & 0xffff, adler >>> 16];
    b = (b + ownB + (length % ADLER) * (a - 1 + ADLER)) % ADLER; // every byte's sum is larger by what came before
    a = (a + ownA - 1 + ADLER) % ADLER;
  }
  const end = new Uint8Array(4);
  new DataView(end.buffer).setUint32(0, (b << 16 | a) >>> 0);
  return [Uint8Array.of(0x78, 0x01), ...bands.map(({ bytes }) => bytes), end]; // a window of 32 KiB, fastest
}
