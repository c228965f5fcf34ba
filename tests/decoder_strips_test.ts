import assert from "node:assert/strict";
import { join } from "node:path";
import { Decoder } from "../src/models/infinity/decoder.ts";
import { groupNorm, StripDecoder, stripRows } from "../src/models/infinity/decoder_strips.ts";
import { openInfinity } from "../src/models/infinity/model.ts";
import { openNative } from "../src/runtime/native.ts";
import { MODELS } from "./mini_models.ts";

function latentOf(channels: number, h: number, w: number): Float32Array {
  return Float32Array.from({ length: channels * h * w }, (_, i) => 1.3 * Math.sin(i * 12.9898));
}

const SIZES = [{ h: 5, w: 3 }, { h: 4, w: 6 }, { h: 1, w: 1 }];
// values of a strip, and of a map that stays whole: every level cut at two rows; mixed heights; everything whole
const BUDGETS = [{ strip: 1, whole: 0 }, { strip: 2 ** 11, whole: 2 ** 9 }, { strip: 2 ** 30, whole: 2 ** 30 }];

for (const name of ["mini-2b", "mini-8b"]) {
  Deno.test(`StripDecoder decodes ${name} as one graph does, whatever the strips`, async () => {
    const { decoder: weights } = await openInfinity(join(MODELS, name));
    using runtime = openNative();
    using whole = new Decoder(weights, runtime);
    for (const { h, w } of SIZES) {
      const latent = latentOf(weights.codeDim, h, w);
      const wanted = await whole.decode(latent, h, w);
      const cuts = new Set<string>();
      for (const values of BUDGETS) {
        using strips = new StripDecoder(weights, runtime, (channels, H, W) => {
          const rows = stripRows(channels, H, W, values);
          cuts.add(rows.join());
          return rows;
        });
        const found = await strips.decode(latent, h, w);
        const largest = found.reduce((most, value, i) => Math.max(most, Math.abs(value - wanted[i]!)), 0);
        // one pixel's group norms amplify rounding: the one graph itself is 3e-5 from float64 there
        assert(largest < (h * w === 1 ? 1e-4 : 2e-5), `${h}x${w}, strip ${values.strip}: off by ${largest}`);
      }
      if (h > 1) assert(cuts.size >= 2, `all budgets gave the strips ${[...cuts]}`);
      assert.deepEqual(latent, latentOf(weights.codeDim, h, w), "the latent is the caller's");
    }
  });
}

Deno.test("StripDecoder stops when aborted, and can go on", async () => {
  const { decoder: weights } = await openInfinity(join(MODELS, "mini-2b"));
  using runtime = openNative();
  using decoder = new StripDecoder(weights, runtime);
  const latent = latentOf(weights.codeDim, 8, 8);
  const controller = new AbortController();
  const stopped = decoder.decode(latent, 8, 8, controller.signal);
  controller.abort(new Error("enough"));
  await assert.rejects(stopped, /enough/);
  assert.equal((await decoder.decode(latent, 8, 8)).length, 3 * 128 * 128);
});

Deno.test("stripRows() keeps the rows of a strip inside one strip of the coarser level", () => {
  for (const [height, width] of [[1024, 1024], [1776, 592], [592, 1776], [720, 1440], [48, 80]] as const) {
    for (const strip of [1, 2 ** 12, 2 ** 16, 2 ** 20, 2 ** 22]) {
      for (const whole of [0, 2 ** 14, 2 ** 22]) {
        const rows = stripRows([256, 512, 512, 512, 512], height, width, { strip, whole });
        rows.slice(0, -1).forEach((fine, level) => {
          const coarse = rows[level + 1]!;
          const coarseHeight = height / 2 ** (level + 1);
          assert(fine >= 2 && fine % 2 === 0, `level ${level} has ${fine} rows`);
          for (let begin = 0; begin < 2 * coarseHeight; begin += fine) {
            const end = Math.min(begin + fine, 2 * coarseHeight);
            const first = Math.floor(begin / 2 / coarse), last = Math.floor((end / 2 - 1) / coarse);
            assert.equal(first, last, `rows ${begin} to ${end} of level ${level} lie in two strips`);
          }
        });
      }
    }
  }
});

Deno.test("groupNorm() puts pieces together as if they were one", () => {
  // far from zero, where a difference of mean squares would lose the variance
  const values = Array.from({ length: 60 }, (_, i) => 1000 + Math.sin(i * 7.1));
  const piece = (from: number, to: number) => {
    const part = values.slice(from, to);
    const mean = part.reduce((sum, value) => sum + value, 0) / part.length;
    const squares = part.reduce((sum, value) => sum + (value - mean) ** 2, 0);
    return { count: part.length, mean: Float32Array.of(mean), squares: Float32Array.of(squares) };
  };
  const one = groupNorm([piece(0, 60)], Float32Array.of(1), 1);
  const three = groupNorm([piece(0, 7), piece(7, 8), piece(8, 60)], Float32Array.of(1), 1);
  const mean = values.reduce((sum, value) => sum + value, 0) / 60;
  const gain = 1 / Math.sqrt(values.reduce((sum, value) => sum + (value - mean) ** 2, 0) / 60);
  assert(Math.abs(one[0][0]! - mean) < 1e-4 && Math.abs(one[1][0]! / gain - 1) < 1e-4);
  assert(Math.abs(three[0][0]! - mean) < 1e-4 && Math.abs(three[1][0]! / gain - 1) < 1e-3);
});
