import assert from "node:assert/strict";
import { join } from "node:path";
import { openCheckpoint } from "../src/checkpoint/open.ts";
import { writeSafetensors } from "../src/checkpoint/safetensors.ts";
import { readTensor } from "../src/checkpoint/source.ts";
import { ModelError } from "../src/errors.ts";
import { openNative } from "../src/runtime/native.ts";
import { REFERENCE } from "./fused_reference.ts";
import { distanceBuckets, readT5Weights, T5Encoder } from "../src/text/t5_encoder.ts";

import { distance } from "./attention.ts";

const MINI_T5 = join(import.meta.dirname!, "golden", "models", "mini-t5");

Deno.test("distanceBuckets() changes bucket where transformers' T5 does, up to 512 tokens", () => {
  const buckets = distanceBuckets(512, 32, 128);
  const row = buckets.slice(0, 512); // keys after the query
  const edges = row.flatMap((bucket, key) => key > 0 && bucket !== row[key - 1] ? [key] : []);
  assert.deepEqual(edges, [1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 23, 32, 46, 64, 91]);
  assert.equal(row.at(-1), 31);
  const column = Array.from({ length: 512 }, (_, query) => buckets[query * 512]!);
  assert.deepEqual(column.map((bucket, i) => i === 0 ? bucket : bucket + 16), row);
});

Deno.test("T5Encoder.encode() refuses a token outside its vocabulary", async () => {
  using runtime = openNative();
  using encoder = T5Encoder.open(await readT5Weights(MINI_T5), runtime);
  await assert.rejects(
    encoder.encode([3, 32_000]),
    (error) => error instanceof ModelError && /32000/.test(error.message),
  );
});

Deno.test("readT5Weights() names what is wrong with a folder", async () => {
  const folder = await Deno.makeTempDir();
  try {
    await assert.rejects(readT5Weights(folder), /config\.json/);
    const config = JSON.parse(await Deno.readTextFile(join(MINI_T5, "config.json")));
    const write = (change: object): Promise<void> =>
      Deno.writeTextFile(join(folder, "config.json"), JSON.stringify({ ...config, ...change }));
    await write({ feed_forward_proj: "relu" });
    await assert.rejects(readT5Weights(folder), /feed_forward_proj "relu": "gated-gelu" is wanted/);
    await write({ layer_norm_epsilon: -1 });
    await assert.rejects(readT5Weights(folder), /layer_norm_epsilon/);
    await write({});
    await assert.rejects(readT5Weights(folder), ModelError); // no weights
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});

/** Features of a folder's encoder in half precision, as CUDA computes it, and in float32. */
async function bothFeatures(folder: string): Promise<[half: Float32Array, single: Float32Array]> {
  const weights = await readT5Weights(folder);
  using runtime = openNative({ resident: "cuda", fused: REFERENCE });
  using half = T5Encoder.open(weights, runtime, undefined, true);
  using single = T5Encoder.open(weights, runtime);
  const ids = [3, 9, 171, 8, 5, 1];
  const found = await half.encode(ids);
  assert.deepEqual(await half.encode(ids), found, "the second time, on sessions that are there");
  assert.equal((await half.encode(ids.slice(2))).length, 4 * weights.dims.width);
  return [found, await single.encode(ids)];
}

Deno.test("T5Encoder in half precision is near float32, and bears products beyond float16", async () => {
  const plain = distance(...await bothFeatures(MINI_T5));
  assert(plain > 1e-6 && plain < 2e-3, `relative error ${plain}`);

  const folder = await Deno.makeTempDir();
  try {
    const source = await openCheckpoint(MINI_T5);
    const tensors = await Promise.all(
      source.names().map(async (name) => {
        const ref = source.get(name);
        const values = await readTensor(ref);
        if (/wi_[01]/.test(name)) values.forEach((value, i) => values[i] = 300 * value);
        return { name, dtype: "F32", shape: ref.shape, bytes: new Uint8Array(values.buffer) } as const;
      }),
    );
    await writeSafetensors(join(folder, "model.safetensors"), tensors);
    await Deno.copyFile(join(MINI_T5, "config.json"), join(folder, "config.json"));
    const [half, single] = await bothFeatures(folder);
    assert(half.every(Number.isFinite));
    const error = distance(half, single);
    assert(error < 4e-3, `relative error ${error}`);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});
