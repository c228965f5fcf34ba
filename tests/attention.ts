import type { GraphForm } from "../src/graph/form.ts";
import { Graph } from "../src/graph/graph.ts";
import { floatTensor, type Runtime } from "../src/runtime/runtime.ts";

const [HEADS, WIDTH, KEYS] = [2, 32, 70];

function values(count: number): Float32Array {
  return Float32Array.from({ length: count }, (_, i) => Math.sin(i * 12.9898));
}

/** Attention of some queries to 70 keys, two heads of 16, in one of its forms; with a bias where asked. */
export async function attend(
  runtime: Runtime,
  attention: NonNullable<GraphForm["attention"]>,
  queries: number,
  biased = false,
): Promise<Float32Array> {
  const graph = new Graph("attention", { attention });
  const [q, k, v] = ["q", "k", "v"].map((name) => graph.input(name, "F32", [1, name, WIDTH]));
  const bias = graph.floats(values(biased ? HEADS * queries * KEYS : 1), biased ? [1, HEADS, queries, KEYS] : [1]);
  const y = graph.attention(q!, k!, v!, { heads: HEADS, width: WIDTH, scale: 3, ...biased && { bias } });
  graph.output("y", y, "F32", [1, "q", WIDTH]);
  using session = await runtime.createSession(graph);
  const result = new Float32Array(queries * WIDTH);
  await session.run({
    q: floatTensor(values(queries * WIDTH), [1, queries, WIDTH]),
    k: floatTensor(values(KEYS * WIDTH), [1, KEYS, WIDTH]),
    v: floatTensor(values(KEYS * WIDTH).reverse(), [1, KEYS, WIDTH]),
  }, { y: floatTensor(result, [1, queries, WIDTH]) });
  return result;
}

/** Norm of the difference over the norm of what was wanted. */
export function distance(found: Float32Array, wanted: Float32Array): number {
  return Math.hypot(...found.map((value, i) => value - wanted[i]!)) / Math.hypot(...wanted);
}
