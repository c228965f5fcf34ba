/**
 * The fused operators on a GPU against their definitions, each by itself on random tensors:
 *
 *     deno run -A tests/fused_ops.ts
 *
 * Prints the relative error of every output, and fails above 1e-6 (float32) or 1e-3 (float16).
 */
import { type Attributes, Graph, type Value } from "../src/graph/graph.ts";
import type { ElementName } from "../src/graph/onnx_proto.ts";
import { openCuda } from "../src/runtime/cuda.ts";
import { FUSED_DOMAIN, FUSED_OPS, type FusedOpName } from "../src/runtime/fused_ops.ts";
import { openNative } from "../src/runtime/native.ts";
import type { Runtime, Tensor } from "../src/runtime/runtime.ts";
import { REFERENCE } from "./fused_reference.ts";

type Dims = readonly number[];
type Values = Float32Array | Float16Array;

/** Inputs by their shapes, attributes, and shapes of the outputs that are compared. */
export interface Trial {
  op: FusedOpName;
  inputs: readonly Dims[];
  attributes?: Attributes;
  outputs: readonly (Dims | undefined)[];
}

/** Batch rows, tokens, width and heads. */
const BLOCKS = [[2, 5, 64, 2], [2, 4, 768, 8], [1, 3, 2048, 16], [1, 2, 3584, 28]] as const;
/** Tokens, heads, their values and width of the feed-forward layer. */
const TEXTS = [[3, 4, 8, 48], [37, 2, 64, 640], [9, 32, 64, 5120], [130, 4, 128, 1024]] as const;
/** Images, height, width, channels and cells along a token's side. */
const GRIDS = [[1, 2, 3, 16, 1], [2, 3, 5, 64, 2], [2, 7, 6, 2048, 1], [1, 40, 40, 2048, 2]] as const;
/** Height, width, channels and groups of maps. */
const MAPS = [[3, 5, 32, 16], [20, 33, 128, 32], [9, 8, 512, 32], [65, 70, 256, 32]] as const;

/** Every operator, on the first so many shapes of each kind. */
export function fusedTrials(shapes: number): Trial[] {
  const trials: Trial[] = [];
  for (const [R, L, C, H] of BLOCKS.slice(0, shapes)) {
    const x = [R, L, C], product = [R * L, C], modulation = [R, 6, C], vector = [C];
    const gate = { gate: 1, headroom: 64 }, norm = { scale: 3, shift: 5 };
    trials.push(
      { op: "ModulatedNorm", inputs: [x, modulation], attributes: norm, outputs: [product] },
      {
        op: "GatedAddNorm",
        inputs: [x, product, vector, modulation, vector, vector],
        attributes: gate,
        outputs: [x, product],
      },
      { op: "AddModulatedNorm", inputs: [x, product, vector, modulation], attributes: norm, outputs: [x, product] },
      {
        op: "GatedAddModulatedNorm",
        inputs: [x, product, vector, modulation, modulation],
        attributes: { ...gate, ...norm },
        outputs: [x, product],
      },
      { op: "GatedAdd", inputs: [x, product, vector, modulation], attributes: gate, outputs: [x] },
      { op: "AddBias", inputs: [product, vector], outputs: [product] },
      { op: "BiasGelu", inputs: [product, vector], outputs: [product] },
    );
    for (const [P, places] of [[0, [1]], [7, [1]], [3, [R, L]]] as const) {
      const past = [R, H, P, C / H], all = [R, H, P + L, C / H], table = [L + 4, C / H / 2];
      trials.push({
        op: "EnterCache",
        inputs: [[R * L, 3 * C], vector, vector, [H], places, table, table, past, past],
        outputs: [x, all, all],
      });
    }
  }
  for (const [T, H, hd, F] of TEXTS.slice(0, shapes)) {
    const C = H * hd, x = [T, C], hidden = [T, F];
    const attributes = { epsilon_float: { float: 1e-6 } };
    trials.push(
      { op: "RootNorm", inputs: [x, [C]], attributes, outputs: [x] },
      { op: "AddRootNorm", inputs: [x, x, [C]], attributes, outputs: [x, x] },
      { op: "ScaledAddRootNorm", inputs: [x, x, [T], [C]], attributes, outputs: [x, x] },
      { op: "ScaledAdd", inputs: [x, x, [T]], outputs: [x] },
      { op: "GatedGelu", inputs: [hidden, hidden], outputs: [hidden, [T]] },
      { op: "BiasedAttention", inputs: [x, x, x, [4, H], [T, T]], outputs: [x] },
      { op: "EnterText", inputs: [[T, 2 * C], [T], [C]], outputs: [[1, T, C], [1, T, C]] },
      { op: "Modulation", inputs: [[1, 6 * C], [6, C]], attributes: { headroom: 64 }, outputs: [[1, 6, C]] },
    );
  }
  for (const [B, h, w, C, cell] of GRIDS.slice(0, shapes)) {
    const r = 4, bits = 8 * cell ** 2; // all rows that the random numbers below name
    const [x, chosen, streams, y] = [[B, h * w, C], [B, r], [B, 5], [B, r, C]];
    const z = [B, h * w, bits], codes = [B, 8, h * cell, w * cell];
    const attributes = { height: h, width: w, cell }, large = { h, w, height: h + 2, width: w + 3 };
    const all = [B, (h + 2) * (w + 3), C];
    trials.push(
      { op: "Projection", inputs: [x, chosen, streams], attributes: { sign: 0 }, outputs: [[B, r, h * w]] },
      { op: "Projection", inputs: [x, chosen, streams], attributes: { sign: 1 }, outputs: [[B, r, h * w]] },
      { op: "RowKeys", inputs: [x, streams], outputs: [[B, h * w]] },
      { op: "Codes", inputs: [z, streams, [1]], attributes, outputs: [codes] },
      { op: "ChosenCodes", inputs: [z, streams, [1], chosen], attributes, outputs: [codes] },
      { op: "UpsampleRows", inputs: [x], attributes: large, outputs: [all] },
      { op: "RestoreRows", inputs: [x, y, chosen], attributes: large, outputs: [all] },
    );
  }
  for (const [h, w, C, groups] of MAPS.slice(0, shapes)) {
    const map = [1, h, w, C], vector = [C], moments = [2, C];
    const attributes = { groups };
    trials.push(
      { op: "MapMoments", inputs: [map, vector, vector], attributes, outputs: [moments, undefined] },
      { op: "BiasMoments", inputs: [map, vector, vector], attributes, outputs: [map, moments, undefined] },
      { op: "SumMoments", inputs: [map, vector, map, vector], attributes, outputs: [map, moments, undefined] },
      { op: "MapsMoments", inputs: [map, vector, map, vector, vector], attributes, outputs: [map, moments, undefined] },
      { op: "MapNormSwish", inputs: [map, vector, moments, vector], outputs: [map] },
      { op: "NormSwish", inputs: [map, moments, vector], outputs: [map] },
      {
        op: "QuadMoments",
        inputs: [[1, h + 1, w + 1, 4 * C], vector, vector],
        attributes,
        outputs: [[1, 2 * h, 2 * w, C], moments, undefined],
      },
      { op: "SumHalf", inputs: [map, vector, map], outputs: [map] },
    );
  }
  return trials;
}

function random(element: ElementName, dims: Dims, seed: number): Tensor {
  const size = dims.reduce((product, dim) => product * dim, 1);
  if (element === "I64") {
    const data = BigInt64Array.from({ length: size }, (_, i) => BigInt((i * 3 + seed) % 4));
    return { element, dims, data };
  }
  if (element === "I32") {
    return { element, dims, data: Int32Array.from({ length: size }, (_, i) => Math.imul(i + seed, 0x9E3779B1)) };
  }
  const value = (i: number): number =>
    2 + Math.sin((i + 1) * 12.9898 + seed * 78.233) * 3 + Math.cos(i * 4.1414 * seed);
  if (element === "F16") return { element, dims, data: Float16Array.from({ length: size }, (_, i) => value(i)) };
  return { element: "F32", dims, data: Float32Array.from({ length: size }, (_, i) => value(i)) };
}

async function run(runtime: Runtime, { op, inputs, attributes = {}, outputs }: Trial): Promise<Values[]> {
  const types = FUSED_OPS[op];
  const graph = new Graph(op, { fused: true, half: "block" });
  const values: Value[] = inputs.map((dims, i) => graph.input(`i${i}`, types.inputs[i]!, dims));
  const made = graph.ops(op, values, outputs.length, attributes, FUSED_DOMAIN);
  outputs.forEach((dims, i) => {
    if (dims) graph.output(`o${i}`, made[i]!, types.outputs[i]!, dims);
  });
  using session = await runtime.createDeviceSession!(graph);
  const from: Record<string, Tensor> = {}, to: Record<string, Tensor> = {};
  inputs.forEach((dims, i) => from[`i${i}`] = random(types.inputs[i]!, dims, i));
  outputs.forEach((dims, i) => {
    if (dims) to[`o${i}`] = random(types.outputs[i]!, dims, 0); // to be written over
  });
  await session.runKeeping(from, to, {});
  return Object.values(to).map(({ data }) => data as Values);
}

function distance(found: Values, wanted: Values): number {
  let error = 0, size = 0;
  for (const [i, value] of wanted.entries()) {
    error += (found[i]! - value) ** 2;
    size += value ** 2;
  }
  return Math.sqrt(error / size);
}

/** Relative error of each output that is compared, and whether all are near enough. */
export async function trialErrors(runtime: Runtime, trial: Trial): Promise<{ errors: number[]; right: boolean }> {
  using cpu = openNative({ resident: "cuda", fused: REFERENCE });
  const [wanted, found] = [await run(cpu, trial), await run(runtime, trial)];
  const halves = trial.outputs.flatMap((dims, i) => dims ? [FUSED_OPS[trial.op].outputs[i] === "F16"] : []);
  const errors = wanted.map((values, i) => distance(found[i]!, values));
  return { errors, right: errors.every((error, i) => error < (halves[i] ? 1e-3 : 1e-6)) };
}

if (import.meta.main) {
  using cuda = await openCuda();
  const trials = fusedTrials(Infinity);
  let failed = 0;
  for (const trial of trials) {
    const { errors, right } = await trialErrors(cuda, trial);
    if (!right) failed++;
    const [verdict, shape] = [right ? "ok  " : "FAIL", `[${trial.inputs[0]}]`.padEnd(18)];
    console.log(verdict, trial.op.padEnd(22), shape, errors.map((error) => error.toExponential(1)).join("  "));
  }
  console.log(failed === 0 ? "All operators within tolerance" : `${failed} of ${trials.length} wrong`);
  if (failed > 0) Deno.exit(1);
}
