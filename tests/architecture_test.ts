import assert from "node:assert/strict";
import { dirname, join, relative } from "node:path";

// Imports point one way (DESIGN.md §3): a file may import from its own layer or from a lower one.
const ROOT = join(import.meta.dirname!, "..");
const LAYERS: readonly [RegExp, number][] = [
  [/^(cli\/|stagevar\.ts$)/, 6],
  [/^mod\.ts$/, 5],
  [/^src\/(evaluate\/|benchmark\/|calibrate\.ts$)/, 4],
  [/^src\/(engine|prompts|prepare|clock|record)\.ts$/, 4],
  [/^src\/models\//, 3],
  [/^src\/(pipeline|plan|cost|presets|step|schedule|request|metadata|output|png|workers)\.ts$/, 2],
  [/^src\/(png_band|tasks|worker)\.ts$/, 2],
  [/^src\/(kernels|methods|text|runtime)\//, 2],
  [/^src\/(graph|checkpoint)\//, 1],
  [/^(src\/core(\.ts$|\/)|core_rs\/)/, 1],
  [/^src\/errors\.ts$/, 0],
];

/** Files that only describe data, which any layer may name as a type. */
const TYPE_ONLY = new Set(["src/request.ts"]);

async function sources(folder: string): Promise<string[]> {
  const files: string[] = [];
  for await (const entry of Deno.readDir(folder)) {
    const path = join(folder, entry.name);
    if (entry.isDirectory) files.push(...await sources(path));
    else if (entry.name.endsWith(".ts")) files.push(path);
  }
  return files;
}

/** Relative imports of a file, doc comments left out. */
function imports(code: string): { target: string; typeOnly: boolean }[] {
  const bare = code.replace(/\/\*\*[\s\S]*?\*\//g, "");
  return [...bare.matchAll(/^(?:import|export)\s+(type\s)?[^;]*?from\s+"(\.[^"]+)"|import\("(\.[^"]+)"\)/gm)]
    .map((match) => ({ target: match[2] ?? match[3]!, typeOnly: match[1] !== undefined }));
}

async function importGraph(): Promise<Map<string, { path: string; typeOnly: boolean }[]>> {
  const files = [...await sources(join(ROOT, "src")), ...await sources(join(ROOT, "cli")), join(ROOT, "mod.ts")];
  const graph = new Map<string, { path: string; typeOnly: boolean }[]>();
  for (const file of files) {
    const edges = imports(await Deno.readTextFile(file)).map(({ target, typeOnly }) => ({
      path: relative(ROOT, join(dirname(file), target)),
      typeOnly,
    }));
    graph.set(relative(ROOT, file), edges);
  }
  return graph;
}

const layerOf = (path: string): number | undefined => LAYERS.find(([pattern]) => pattern.test(path))?.[1];

Deno.test("imports point from the command line down to the formats", async () => {
  const upward: string[] = [];
  const graph = await importGraph();
  assert(graph.size > 30, "the walk must see the sources");
  for (const [from, edges] of graph) {
    const own = layerOf(from);
    assert(own !== undefined, `"${from}" has no layer: name it in this test`);
    for (const { path, typeOnly } of edges) {
      const other = layerOf(path);
      if (other === undefined || (typeOnly && TYPE_ONLY.has(path))) continue;
      if (other > own) upward.push(`${from} -> ${path}`);
    }
  }
  assert.deepEqual(upward, []);
});

Deno.test("imports have no cycle", async () => {
  const graph = await importGraph();
  const done = new Set<string>();
  const walk = (path: string, trail: readonly string[]): void => {
    assert(!trail.includes(path), `Cycle: ${[...trail.slice(trail.indexOf(path)), path].join(" -> ")}`);
    if (done.has(path)) return;
    for (const edge of graph.get(path) ?? []) if (!edge.typeOnly) walk(edge.path, [...trail, path]);
    done.add(path);
  };
  for (const path of graph.keys()) walk(path, []);
});

Deno.test("only the runtime names ONNX Runtime", async () => {
  const graph = await sources(join(ROOT, "src"));
  for (const file of graph) {
    const code = (await Deno.readTextFile(file)).replace(/\/\*\*[\s\S]*?\*\/|\/\/.*/g, "");
    if (relative(ROOT, file).startsWith("src/runtime/")) continue;
    assert(!/["']((npm:)?onnxruntime)/.test(code), `"${relative(ROOT, file)}" imports ONNX Runtime`);
  }
});
