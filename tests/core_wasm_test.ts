import assert from "node:assert/strict";
import { memory } from "../core_rs/pkg/core_bg.wasm";
import { builtHash, sourceHash } from "../core_rs/build.ts";
import { addCodes, gaussians, project, projectStream, restore, sampleRows, type Stream } from "../src/core.ts";
import { deflateBand } from "../src/png_band.ts";

Deno.test("the committed wasm was built from the sources beside it", () => {
  assert.equal(builtHash(), sourceHash(), "run `deno task wasm` and commit core_rs/pkg");
});

Deno.test("the wasm memory does not grow over repeated calls", () => {
  const stream: Stream = { seed: 1, purpose: "projection" };
  const [M, r, C] = [400, 77, 512];
  const round = () => {
    const x = gaussians(stream, M * C);
    project(gaussians(stream, M * r), x, M, r, C);
    const y = projectStream(stream, "gaussian", x, M, r, C);
    restore(x.subarray(0, 256 * C), 16, 16, 20, 20, C, y, sampleRows(stream, x, M, C, r));
    addCodes(x, new Uint8Array(C), 1, 1, 20, 20, C, false);
    deflateBand({ rows: new Uint8Array(3 * 512 * 40), stride: 3 * 512, first: true, last: true });
    // Refusals after the copy in must free it too.
    assert.throws(() => sampleRows(stream, x.fill(NaN), M, C, r), RangeError);
  };
  for (let i = 0; i < 5; i++) round();
  const settled = memory.buffer.byteLength;
  for (let i = 0; i < 40; i++) round();
  assert.equal(memory.buffer.byteLength, settled);
});
