/**
 * One band of a PNG's rows, filtered and deflated so that bands can be made in any order and joined: each ends on a byte, the
 * last one ends the stream.
 *
 * @module
 */
import { Buffer } from "node:buffer";
import { constants, deflateRawSync } from "node:zlib";

/** Level of every picture: bench/LOG.md, "PNG encoder". */
const LEVEL = 3;
const FILTER_UP = 2;
const ADLER = 65_521;

/** Rows to deflate. */
export interface Band {
  /** Rows of pixels, the row above the band first unless the band is the first. */
  readonly rows: Uint8Array<ArrayBuffer>;
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
  readonly bytes: Uint8Array<ArrayBuffer>;
  /** Adler-32 of the filtered rows. */
  readonly adler: number;
  /** Filtered bytes. */
  readonly length: number;
}

/**
 * Filters rows with Up and deflates them.
 *
 * @example
 * ```ts
 * import { deflateBand } from "@stagevar/stagevar/png_band.ts";
 * import { inflateRawSync } from "node:zlib";
 * import assert from "node:assert/strict";
 * const rows = Uint8Array.of(5, 6, 5, 7); // two rows of two bytes, the first above the band
 * const { bytes } = deflateBand({ rows, stride: 2, first: false, last: true });
 * assert.deepEqual([...inflateRawSync(bytes)], [2, 0, 1]);
 * ```
 */
export function deflateBand({ rows, stride, first, last }: Band): DeflatedBand {
  const from = first ? 0 : 1;
  const height = rows.length / stride - from;
  const filtered = new Uint8Array((stride + 1) * height);
  for (let row = 0; row < height; row++) {
    const out = row * (stride + 1);
    const at = (row + from) * stride;
    filtered[out] = FILTER_UP;
    if (at === 0) filtered.set(rows.subarray(0, stride), 1);
    else for (let i = 0; i < stride; i++) filtered[out + 1 + i] = rows[at + i]! - rows[at - stride + i]!;
  }
  const finishFlush = last ? constants.Z_FINISH : constants.Z_SYNC_FLUSH;
  const deflated = deflateRawSync(Buffer.from(filtered.buffer), { level: LEVEL, finishFlush });
  return { bytes: Uint8Array.from(deflated), adler: adler32(filtered), length: filtered.length };
}

/** RFC 1950, section 9. */
function adler32(data: Uint8Array): number {
  let a = 1, b = 0;
  for (let at = 0; at < data.length;) {
    for (const end = Math.min(at + 3800, data.length); at < end; at++) { // sums stay below 2^31
      a += data[at]!;
      b += a;
    }
    a %= ADLER;
    b %= ADLER;
  }
  return (b << 16 | a) >>> 0;
}

/**
 * Bands as one zlib stream (RFC 1950), in parts.
 *
 * @example
 * ```ts
 * import { deflateBand, joinBands } from "@stagevar/stagevar/png_band.ts";
 * import { Buffer } from "node:buffer";
 * import { inflateSync } from "node:zlib";
 * import assert from "node:assert/strict";
 * const band = deflateBand({ rows: Uint8Array.of(5, 6), stride: 2, first: true, last: true });
 * assert.deepEqual([...inflateSync(Buffer.concat(joinBands([band])))], [2, 5, 6]);
 * ```
 */
export function joinBands(bands: readonly DeflatedBand[]): Uint8Array[] {
  let a = 1, b = 0; // of nothing
  for (const { adler, length } of bands) {
    const [ownA, ownB] = [adler & 0xffff, adler >>> 16];
    b = (b + ownB + (length % ADLER) * (a - 1 + ADLER)) % ADLER; // every byte's sum is larger by what came before
    a = (a + ownA - 1) % ADLER;
  }
  const end = new DataView(new ArrayBuffer(4));
  end.setUint32(0, (b << 16 | a) >>> 0);
  const HEADER = Uint8Array.of(0x78, 0x5e); // deflate with a window of 32 KiB, fast
  return [HEADER, ...bands.map(({ bytes }) => bytes), new Uint8Array(end.buffer)];
}
