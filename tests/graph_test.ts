import assert from "node:assert/strict";
import { join } from "node:path";
import { writeSafetensors } from "../src/checkpoint/safetensors.ts";
import { openCheckpoint } from "../src/checkpoint/open.ts";
import type { TensorRef } from "../src/checkpoint/source.ts";
import { Graph } from "../src/graph/graph.ts";
import { openNative } from "../src/runtime/native.ts";
import { floatTensor } from "../src/runtime/runtime.ts";
import { attend, distance } from "./attention.ts";

async function withWeights(work: (ref: TensorRef) => Promise<void>): Promise<void> {
  const folder = await Deno.makeTempDir();
  try {
    const path = join(folder, "w.safetensors");
    const bytes = new Uint8Array(Float32Array.from({ length: 6 }, (_, i) => i + 1).buffer);
    await writeSafetensors(path, [{ name: "w", dtype: "F32", shape: [2, 3], bytes }]);
    await work((await openCheckpoint(path)).get("w"));
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

async function run(graph: Graph, x: Float32Array, dims: number[], out: number[]): Promise<number[]> {
  using runtime = openNative();
  using session = await runtime.createSession(graph);
  const y = new Float32Array(out.reduce((product, n) => product * n, 1));
  await session.run({ x: floatTensor(x, dims) }, { y: floatTensor(y, out) });
  return [...y];
}

Deno.test("Graph.linear() multiplies by a weight that stays in its file", async () => {
  await withWeights(async (ref) => {
    const graph = new Graph("linear");
    graph.output("y", graph.linear(graph.input("x", "F32", [1, 3]), ref), "F32", [1, 2]);
    assert.deepEqual(await run(graph, Float32Array.of(1, 10, 100), [1, 3], [1, 2]), [321, 654]);
    const external = await graph.encode("external"), inline = await graph.encode("inline");
    const text = new TextDecoder().decode(external);
    assert(text.includes("w.safetensors"), "the file is referenced");
    assert(!new TextDecoder().decode(inline).includes("w.safetensors"), "an inline model stands alone");
    assert.deepEqual(graph.files(), [ref.file]);
    assert.equal(graph.weightBytes(), 24);
  });
});

Deno.test("Graph.weight() takes a transposed view as what it shows", async () => {
  await withWeights(async (ref) => {
    const transposed: TensorRef = { ...ref, shape: [3, 2], strides: [1, 3] };
    const graph = new Graph("transposed");
    graph.output("y", graph.linear(graph.input("x", "F32", [1, 2]), transposed), "F32", [1, 3]);
    assert.deepEqual(await run(graph, Float32Array.of(1, 10), [1, 2], [1, 3]), [41, 52, 63]);
  });
});

Deno.test("Graph.gather() takes rows of a table", async () => {
  await withWeights(async (ref) => {
    const graph = new Graph("gather");
    const x = graph.input("x", "F32", [1, 3]);
    const row = graph.gather(ref, graph.ints([1]));
    graph.output("y", graph.op("Add", [x, row]), "F32", [1, 3]);
    assert.deepEqual(await run(graph, new Float32Array(3), [1, 3], [1, 3]), [4, 5, 6]);
  });
});

Deno.test("Graph.linear() gives the same for few rows, with and without a bias", async () => {
  await withWeights(async (ref) => {
    const bias: TensorRef = { ...ref, shape: [2], strides: [1] };
    const x = Float32Array.of(1, 2, 3, -1, 0.5, 4);
    for (const added of [undefined, bias]) {
      const results = [];
      for (const rows of ["many", "few"] as const) {
        const graph = new Graph("linear", { rows });
        graph.output("y", graph.linear(graph.input("x", "F32", ["M", 3]), ref, added), "F32", ["M", 2]);
        results.push(await run(graph, x, [2, 3], [2, 2]));
      }
      assert.deepEqual(results[0], added ? [15, 34, 13, 24.5] : [14, 32, 12, 22.5]);
      assert.deepEqual(results[1], results[0]);
    }
  });
});

Deno.test("Graph.attention() is the same in both forms, with and without a bias", async () => {
  using runtime = openNative();
  for (const biased of [false, true]) {
    for (const queries of [1, 40]) {
      const [fused, plain] = [
        await attend(runtime, "fused", queries, biased),
        await attend(runtime, "plain", queries, biased),
      ];
      assert(distance(plain, fused) < 1e-6, `${queries} queries: ${distance(plain, fused)}`);
    }
  }
  assert(distance(await attend(runtime, "plain", 40), await attend(runtime, "plain", 40, true)) > 0.01);
});

Deno.test("Graph.output() may name a value that others read, an input, or one value twice", async () => {
  const graph = new Graph("outputs");
  const x = graph.input("x", "F32", ["n"]);
  const doubled = graph.op("Add", [x, x]);
  graph.output("first", doubled, "F32", ["n"]);
  graph.output("again", doubled, "F32", ["n"]);
  graph.output("same", x, "F32", ["n"]);
  graph.output("after", graph.op("Neg", [doubled]), "F32", ["n"]);
  using runtime = openNative();
  using session = await runtime.createSession(graph);
  const names = ["first", "again", "same", "after"];
  const results = Object.fromEntries(names.map((name) => [name, floatTensor(new Float32Array(1), [1])]));
  await session.run({ x: floatTensor(Float32Array.of(3), [1]) }, results);
  assert.deepEqual(names.map((name) => results[name]!.data[0]), [6, 6, 3, -6]);
});

Deno.test("a file that shrank after its header was read is an error, not a crash", async () => {
  await withWeights(async (ref) => {
    const graph = new Graph("gone");
    graph.output("y", graph.linear(graph.input("x", "F32", [1, 3]), ref), "F32", [1, 2]);
    await Deno.truncate(ref.file, 40);
    using runtime = openNative();
    await assert.rejects(runtime.createSession(graph), /Cannot load graph "gone"/);
  });
});
