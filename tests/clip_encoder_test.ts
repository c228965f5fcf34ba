import assert from "node:assert/strict";
import { join } from "node:path";
import { openCheckpoint } from "../src/checkpoint/open.ts";
import { type TensorData, writeSafetensors } from "../src/checkpoint/safetensors.ts";
import { readIntegers, readTensor } from "../src/checkpoint/source.ts";
import { ModelError } from "../src/errors.ts";
import { openNative } from "../src/runtime/native.ts";
import type { Residency } from "../src/runtime/runtime.ts";
import { ClipEncoder, clipGraph, type ClipWeights, readClipWeights } from "../src/text/clip_encoder.ts";
import { distance } from "./attention.ts";

const STAR = join(import.meta.dirname!, "golden-star");
const MINI = join(STAR, "models", "mini-star", "CLIP", "text_encoder");
const CASES = ["star-vanilla", "star-stagevar", "star-cond", "star-skip"];

/** Tensors and settings of a copy of the mini encoder. */
interface Copy {
  /** Changes to config.json; undefined takes a key out. */
  readonly config?: Readonly<Record<string, unknown>>;
  /** Name of a tensor in the copy; undefined leaves it out. */
  readonly rename?: (name: string) => string | undefined;
  readonly shape?: (name: string, shape: readonly number[]) => readonly number[];
  readonly dtype?: "F32" | "F16";
  readonly more?: readonly TensorData[];
}

/** Uses the weights of a copy of the mini encoder while its files are there. */
async function withCopy<T>(copy: Copy, use: (weights: ClipWeights) => T | Promise<T>): Promise<T> {
  const folder = await Deno.makeTempDir();
  try {
    const source = await openCheckpoint(MINI);
    const tensors: TensorData[] = [...copy.more ?? []];
    for (const old of source.names()) {
      const name = old.endsWith("position_ids") ? undefined : (copy.rename ?? ((same) => same))(old);
      if (name === undefined) continue;
      const ref = source.get(old);
      const values = await readTensor(ref);
      const { dtype = "F32" } = copy;
      const data = dtype === "F16" ? Float16Array.from(values) : values;
      const bytes = new Uint8Array(data.buffer);
      tensors.push({ name, dtype, shape: copy.shape?.(old, ref.shape) ?? ref.shape, bytes });
    }
    await writeSafetensors(join(folder, "model.safetensors"), tensors);
    const config = JSON.parse(await Deno.readTextFile(join(MINI, "config.json")));
    await Deno.writeTextFile(join(folder, "config.json"), JSON.stringify({ ...config, ...copy.config }));
    return await use(await readClipWeights(folder));
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

async function encode(weights: ClipWeights, ids: readonly number[], residency?: Residency): Promise<Float32Array> {
  using runtime = openNative();
  using encoder = ClipEncoder.open(weights, runtime, residency);
  return await encoder.encode(ids);
}

/** Ids and features of a text of a golden case. */
async function golden(name: string, text: "text" | "null"): Promise<{ ids: number[]; features: Float32Array }> {
  const source = await openCheckpoint(join(STAR, "cases", `${name}.safetensors`));
  return {
    ids: [...await readIntegers(source.get(`${text}.input_ids`))].map(Number),
    features: await readTensor(source.get(`${text}.features`)),
  };
}

Deno.test("ClipEncoder.encode() is within 1e-5 of the float64 reference, in every form and residency", async () => {
  const weights = await readClipWeights(MINI);
  let compared = 0;
  for (const options of [{}, { resident: "webgpu" }] as const) {
    using runtime = openNative(options);
    const fused = clipGraph(weights, { attention: runtime.form.attention }).has("MultiHeadAttention");
    assert.equal(fused, !("resident" in options));
    for (const residency of ["mapped", "packed"] as const) {
      using encoder = ClipEncoder.open(weights, runtime, residency);
      for (const name of CASES) {
        const source = await openCheckpoint(join(STAR, "cases", `${name}.safetensors`));
        for (const text of ["text", "null"] as const) {
          const { ids, features } = await golden(name, text);
          const found = await encoder.encode(ids);
          const error = distance(found, features);
          assert(error < 1e-5, `${name} ${text}: relative error ${error}`);
          const pooled = distance(
            found.subarray(-weights.dims.width),
            await readTensor(source.get(`${text}.pooled`)),
          );
          assert(pooled < 1e-5, `${name} ${text}: relative error ${pooled} of the pooled row`);
          compared++;
        }
      }
    }
  }
  assert.equal(compared, 32);
});

/** The tower in float64, one number after another (star.md §4), with the activation of OpenAI's. */
async function reference({ dims, tensors }: ClipWeights, ids: readonly number[]): Promise<Float32Array> {
  const { width, heads, ffn, depth, epsilon } = dims;
  const stored: Record<string, Float32Array> = {};
  for (const [name, ref] of Object.entries(tensors)) stored[name] = await readTensor(ref);
  const at = (name: string, i: number): number => stored[name]![i]!;
  const linear = (x: number[], name: string, rows: number): number[] => {
    const [matrix, bias] = [stored[`${name}.weight`]!, stored[`${name}.bias`]!];
    return Array.from(
      { length: rows },
      (_, row) => x.reduce((sum, value, i) => sum + value * matrix[row * x.length + i]!, bias[row]!),
    );
  };
  const norm = (x: number[], name: string): number[] => {
    const mean = x.reduce((sum, value) => sum + value, 0) / width;
    const variance = x.reduce((sum, value) => sum + (value - mean) ** 2, 0) / width;
    return x.map((value, i) =>
      (value - mean) / Math.sqrt(variance + epsilon) * at(`${name}.weight`, i) + at(`${name}.bias`, i)
    );
  };
  const add = (a: number[], b: number[]): number[] => a.map((value, i) => value + b[i]!);
  let x = ids.map((id, t) =>
    Array.from({ length: width }, (_, i) =>
      at("embeddings.token_embedding.weight", id * width + i) +
      at("embeddings.position_embedding.weight", t * width + i))
  );
  for (let layer = 0; layer < depth; layer++) {
    const block = `encoder.layers.${layer}.`;
    const rows = x.map((row) => norm(row, `${block}layer_norm1`));
    const [q, k, v] = ["q", "k", "v"].map((part) =>
      rows.map((row) => linear(row, `${block}self_attn.${part}_proj`, width))
    ) as [number[][], number[][], number[][]];
    const size = width / heads;
    const attended = q.map((query, t) =>
      query.flatMap((_, first) => {
        if (first % size !== 0) return [];
        const head = (row: number[]): number[] => row.slice(first, first + size);
        const scores = k.slice(0, t + 1).map((key) =>
          Math.exp(head(key).reduce((sum, value, i) => sum + value * query[first + i]!, 0) / Math.sqrt(size))
        );
        const total = scores.reduce((sum, score) => sum + score, 0);
        return Array.from(
          { length: size },
          (_, i) => scores.reduce((sum, score, s) => sum + score / total * v[s]![first + i]!, 0),
        );
      })
    );
    x = x.map((row, t) => add(row, linear(attended[t]!, `${block}self_attn.out_proj`, width)));
    x = x.map((row) => {
      const hidden = linear(norm(row, `${block}layer_norm2`), `${block}mlp.fc1`, ffn);
      return add(row, linear(hidden.map((h) => h / (1 + Math.exp(-1.702 * h))), `${block}mlp.fc2`, width));
    });
  }
  return Float32Array.from(x.flatMap((row) => norm(row, "final_layer_norm")));
}

Deno.test("ClipEncoder.encode() is near a float64 tower with quick_gelu, on as many tokens as it takes", async () => {
  const ids = Array.from({ length: 77 }, (_, i) => (i * 331) % 716);
  // Another epsilon as well, large enough to be seen.
  await withCopy({ config: { hidden_act: "quick_gelu", layer_norm_eps: 0.1 } }, async (weights) => {
    const wanted = await reference(weights, ids);
    for (const residency of ["mapped", "packed"] as const) {
      const error = distance(await encode(weights, ids, residency), wanted);
      assert(error < 1e-5, `${residency}: relative error ${error}`);
    }
    const short = distance(await encode(weights, ids.slice(0, 9), "mapped"), wanted.subarray(0, 9 * 64));
    assert(short < 1e-5, `relative error ${short} of the first nine, alone`);
  });
  const { ids: few } = await golden("star-vanilla", "text");
  const weights = await readClipWeights(MINI);
  const gelu = distance(await encode(weights, few), await reference(weights, few));
  assert(gelu > 1e-3, `the reference must tell the activations apart: ${gelu}`);
});

Deno.test("readClipWeights() takes names without prefix, and leaves other parts of the model alone", async () => {
  const { ids, features } = await golden("star-vanilla", "text");
  const others = ["text_projection.weight", "logit_scale", "vision_model.encoder.layers.0.mlp.fc1.weight"];
  const more = others.map((name) => ({ name, dtype: "F32", shape: [1], bytes: new Uint8Array(4) }) as const);
  const bare = (name: string): string => name.replace("text_model.", "");
  for (const copy of [{ rename: bare }, { more }, { rename: bare, more }]) {
    const found = await withCopy(copy, (weights) => encode(weights, ids));
    assert(distance(found, features) < 1e-5);
  }
});

Deno.test("ClipEncoder.encode() widens weights in half precision as it uses them", async () => {
  const { ids, features } = await golden("star-vanilla", "text");
  await withCopy({ dtype: "F16" }, async (weights) => {
    for (const residency of ["mapped", "packed"] as const) {
      const error = distance(await encode(weights, ids, residency), features);
      assert(error > 1e-5 && error < 3e-3, `${residency}: relative error ${error}`);
    }
  });
});

Deno.test("ClipEncoder.encode() refuses tokens outside its vocabulary, and too many", async () => {
  using runtime = openNative();
  using encoder = ClipEncoder.open(await readClipWeights(MINI), runtime);
  const refused = (ids: number[], message: RegExp): Promise<void> =>
    assert.rejects(encoder.encode(ids), (error) => error instanceof ModelError && message.test(error.message));
  await refused([714, 716], /Token 716 is outside the text encoder's vocabulary of 716/);
  await refused([714, -1], /Token -1 is outside/);
  await refused(Array(78).fill(0), /78 tokens is longer than the text encoder's 77 positions/);
  assert.equal((await encoder.encode(Array(77).fill(0))).length, 77 * 64);
});

Deno.test("ClipEncoder.encode() stops when it is told to", async () => {
  using runtime = openNative();
  using encoder = ClipEncoder.open(await readClipWeights(MINI), runtime);
  await assert.rejects(encoder.encode([714, 715], AbortSignal.abort(new Error("enough"))), /enough/);
});

Deno.test("readClipWeights() names what is wrong with a folder", async () => {
  const refused = (copy: Copy, message: RegExp): Promise<void> =>
    assert.rejects(withCopy(copy, () => {}), (error) => {
      assert(error instanceof ModelError, String(error));
      assert.match(error.message, message);
      return true;
    });
  await assert.rejects(readClipWeights(join(STAR, "cases")), /config\.json/);
  const folder = await Deno.makeTempDir();
  await Deno.writeTextFile(join(folder, "config.json"), "null");
  await assert.rejects(readClipWeights(folder), /config\.json" is no JSON object/);
  await Deno.remove(folder, { recursive: true });
  const layer = "text_model.encoder.layers.2.";
  const cases: [Copy, RegExp][] = [
    [{ config: { hidden_act: "relu" } }, /hidden_act "relu": "gelu" or "quick_gelu" is wanted/],
    [{ config: { hidden_act: { x: 1 } } }, /hidden_act {"x":1}/],
    [{ config: { layer_norm_eps: -1 } }, /impossible layer_norm_eps: -1/],
    [{ config: { num_attention_heads: undefined } }, /impossible num_attention_heads: undefined/],
    [{ config: { num_attention_heads: 1.5 } }, /impossible num_attention_heads: 1.5/],
    [{ config: { num_attention_heads: 5 } }, /5 heads, which do not divide 64/],
    [{ config: { hidden_size: 1024 } }, /hidden_size 1024, but the tensors have 64/],
    [{ config: { vocab_size: 49408 } }, /vocab_size 49408, but the tensors have 716/],
    [{ config: { max_position_embeddings: "77" } }, /max_position_embeddings "77", but the tensors have 77/],
    [{ config: { num_hidden_layers: 23 } }, /num_hidden_layers 23, but the tensors have 3/],
    [{ config: { intermediate_size: 128 } }, /intermediate_size 128, but the tensors have 256/],
    [{ rename: (name) => name.startsWith(layer + "mlp.fc2") ? undefined : name }, /2 missing/],
    [{ rename: (name) => name.replace("layers.2.", "layers.7.") }, /missing .*not expected/],
    [{ rename: (name) => name.replace("token_embedding", "tokens") }, /token_embedding\.weight" is not in/],
    [
      { shape: (name, shape) => name.endsWith("fc2.weight") ? shape.toReversed() : shape },
      /"encoder\.layers\.0\.mlp\.fc2\.weight" is \[256, 64\], wanted \[64, 256\]/,
    ],
    [
      { shape: (name, shape) => name.endsWith("position_embedding.weight") ? [77 * 64] : shape },
      /"embeddings\.position_embedding\.weight" in ".*" is no matrix/,
    ],
  ];
  for (const [copy, message] of cases) await refused(copy, message);
});
