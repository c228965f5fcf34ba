import assert from "node:assert/strict";
import { join } from "node:path";
import { ModelError } from "../src/errors.ts";
import { openNative } from "../src/runtime/native.ts";
import { distanceBuckets, readT5Weights, T5Encoder } from "../src/text/t5_encoder.ts";

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
