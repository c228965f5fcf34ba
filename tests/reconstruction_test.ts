import assert from "node:assert/strict";
import { join } from "node:path";
import { addCodes, toUint8 } from "../src/core.ts";
import { scoreScene } from "../src/evaluate/checker.ts";
import type { Scene } from "../src/evaluate/world.ts";
import { Decoder } from "../src/models/infinity/decoder.ts";
import { openInfinity } from "../src/models/infinity/model.ts";
import { findModel } from "../src/models/registry.ts";
import { openNative } from "../src/runtime/native.ts";
import { schedule } from "../src/schedule.ts";

// models/shapes/reconstructions.py wrote the bits that the tokenizer makes of a hundred scenes.
const FIXTURE = join(import.meta.dirname!, "fixtures", "shapes");
const D = 16;
const SIDE = 16;

/** The running sum of a scene's bits after some scales, [16, 16, 16]. */
function latentOf(packed: Uint8Array, scales: number): Float32Array {
  let latent: Float32Array = new Float32Array(D * SIDE * SIDE);
  let at = 0;
  for (const { h, w } of schedule(1, "0.06M").grids.slice(0, scales)) {
    const bits = Uint8Array.from({ length: h * w * D }, (_, i) => packed[(at + i) >> 3]! >> (7 - (at + i) % 8) & 1);
    at += bits.length;
    latent = addCodes(latent, bits, h, w, SIDE, SIDE, D, false);
  }
  return latent;
}

for (const [scales, least] of [[7, 0.99], [5, 0.95]] as const) {
  Deno.test(`the checker reads the shipped decoder's reconstructions after ${scales} scales`, async () => {
    const scenes: Scene[] = JSON.parse(await Deno.readTextFile(join(FIXTURE, "scenes.json")));
    const bits = await Deno.readFile(join(FIXTURE, "bits.bin"));
    const size = bits.length / scenes.length;
    const model = await openInfinity((await findModel("shapes")).folder);
    using runtime = openNative();
    using decoder = new Decoder(model.decoder, runtime);
    let right = 0;
    for (const [i, scene] of scenes.entries()) {
      const latent = latentOf(bits.subarray(i * size, (i + 1) * size), scales);
      const rgb = await decoder.decode(latent, SIDE, SIDE);
      const image = { width: 128, height: 128, data: toUint8(rgb, 128, 128) };
      if (scoreScene(image, scene).correct) right++;
    }
    assert(scenes.length >= 100 && right / scenes.length >= least, `${right} of ${scenes.length} right`);
  });
}
