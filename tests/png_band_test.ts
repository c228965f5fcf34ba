import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { createHash } from "node:crypto";
import { inflateRawSync, inflateSync } from "node:zlib";
import { decodePng, encodePng, readPngText, type RgbImage } from "../src/png.ts";
import { paethRows } from "./core_oracles.ts";
import { concat } from "../src/png.ts";
import { bandsOf, deflateBand, joinBands } from "../src/png_band.ts";

const BLOCK = 1 << 16; // filtered bytes that share their codes, in core_rs/src/deflate.rs

/** Whole numbers below n, the same ones in every run. */
function seeded(seed: number): (n: number) => number {
  return (n) => Math.floor((seed = Math.imul(seed, 1103515245) + 12345 >>> 0) / 2 ** 32 * n);
}

/** A row of pixels that is filtered into these bytes, which become whole pixels: no row is above, so Paeth takes the left. */
function rowOf(filtered: readonly number[]): { row: Uint8Array; bytes: Uint8Array } {
  const bytes = Uint8Array.from([...filtered, ...new Array((3 - filtered.length % 3) % 3).fill(77)]);
  const row = new Uint8Array(bytes.length);
  for (let i = 0; i < row.length; i++) row[i] = bytes[i]! + (i < 3 ? 0 : row[i - 3]!);
  return { row, bytes };
}

function shuffled(bytes: number[], random: (n: number) => number): number[] {
  for (let i = bytes.length - 1; i > 0; i--) {
    const j = random(i + 1);
    [bytes[i], bytes[j]] = [bytes[j]!, bytes[i]!];
  }
  return bytes;
}

Deno.test("deflateBand() makes a stream that zlib inflates to the filtered rows, whatever they are", () => {
  const random = seeded(1);
  const fibonacci = (n: number): number => Math.round(1.618034 ** n / 2.236068);
  const cases: Record<string, number[]> = {
    "one pixel": [1, 2, 3],
    "zeros": new Array(3 * BLOCK).fill(0),
    "noise": Array.from({ length: BLOCK }, () => random(256)),
    "two values": Array.from({ length: 5000 }, () => random(2) * 255),
    "every value once": Array.from({ length: 256 }, (_, i) => i),
    // Codes of the rarest would be longer than 14 bits
    "counts of Fibonacci": shuffled(
      Array.from({ length: 23 }, (_, i) => new Array(fibonacci(i + 1)).fill(11 * i)).flat(),
      random,
    ),
    // ... and the code for lengths longer than 7
    "lengths of all kinds": shuffled(
      Array.from({ length: 256 }, (_, i) => new Array(Math.ceil(2 ** (14 * (i / 255) ** 3))).fill(i)).flat(),
      random,
    ).slice(0, BLOCK - 4),
    "runs of every length": Array.from({ length: 600 }, (_, i) => [...new Array(i).fill(i % 251), 255, i % 7]).flat(),
    "runs of a few bytes": Array.from({ length: 9000 }, () => new Array(1 + random(20)).fill(random(3))).flat(),
    ...Object.fromEntries([-3, 0, 3].map((more) => [
      `a block and ${more}`,
      Array.from({ length: BLOCK - 1 + more }, (_, i) => i % 3000 < 2000 ? 9 : random(30)), // the filter is a byte, too
    ])),
  };
  for (const [name, filtered] of Object.entries(cases)) {
    const { row, bytes } = rowOf(filtered);
    const band = deflateBand({ rows: row, stride: row.length, first: true, last: true });
    const wanted = 1 + bytes.length; // the filter comes first
    const inflated = inflateRawSync(band.bytes);
    assert.equal(inflated.length, wanted, name);
    assert(inflated[0] === 4 && Buffer.compare(inflated.subarray(1), bytes) === 0, name);
    assert.equal(band.length, wanted);
    assert.deepEqual(inflateSync(concat(joinBands([band]))), inflated); // which compares the checksum
    assert(band.bytes.length < wanted * 1.002 + 200, `${name}: ${band.bytes.length} of ${wanted} bytes`);
  }
});

Deno.test("bands are filtered and deflated apart, and inflate as one stream", () => {
  const random = seeded(2);
  const image = { width: 50, height: 40, data: Uint8Array.from({ length: 6000 }, (_, i) => i / 30 + random(9)) };
  const stride = 150;
  const wanted = paethRows(image.data, 50);
  for (const edges of [[0, 40], [0, 1, 40], [0, 39, 40], [0, 7, 8, 30, 40]]) {
    const bands = edges.slice(1).map((to, i) => {
      const from = edges[i]!;
      const rows = image.data.subarray(Math.max(0, from - 1) * stride, to * stride);
      return deflateBand({ rows, stride, first: from === 0, last: to === 40 });
    });
    assert.deepEqual(new Uint8Array(inflateSync(concat(joinBands(bands)))), wanted, edges.join());
  }
});

Deno.test("deflateBand() refuses what are no rows", () => {
  for (
    const [length, stride, first] of [[0, 3, true], [3, 3, false], [4, 3, true], [4, 4, true], [0, 0, true]] as const
  ) {
    const band = { rows: new Uint8Array(length), stride, first, last: true };
    assert.throws(() => deflateBand(band), RangeError, `${length} bytes, rows of ${stride}`);
  }
});

Deno.test("encodePng() keeps pictures and text whose rows are around the edge of a band", async () => {
  const random = seeded(3);
  const rows = Math.floor((1 << 18) / (512 * 3));
  for (const height of [1, rows - 1, rows, rows + 1, 2 * rows, 2 * rows + 1, 4 * rows + 3]) {
    const data = Uint8Array.from({ length: 512 * 3 * height }, (_, i) => i / 700 + random(6));
    const image = { width: 512, height, data };
    assert.equal(bandsOf(image).length, Math.ceil(height / rows));
    const file = await encodePng(image, { Title: "bands" });
    assert.deepEqual(decodePng(file), image, `${height} rows`);
    assert.deepEqual(readPngText(file), { Title: "bands" });
  }
});

Deno.test("encodePng() gives the same file on every machine", async () => {
  const random = seeded(4);
  const image: RgbImage = {
    width: 300,
    height: 600,
    data: Uint8Array.from({ length: 540_000 }, (_, i) => i % 3000 < 900 ? 40 : i / 90 + random(1 + i / 40_000)),
  };
  const hash = createHash("sha256").update(await encodePng(image)).digest("hex");
  // Changes when the encoder does, and then on purpose.
  assert.equal(hash.slice(0, 16), "4b0e733f656d0851");
});
