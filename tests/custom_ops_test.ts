import assert from "node:assert/strict";
import { DeviceError } from "../src/errors.ts";
import { Graph } from "../src/graph/graph.ts";
import type { OpContext } from "../src/runtime/custom_ops.ts";
import { cudaComputes } from "../src/runtime/cuda_computes.ts";
import { FUSED_DOMAIN, FUSED_OPS, type FusedComputes, type FusedOpName } from "../src/runtime/fused_ops.ts";
import type { CudaKernels } from "../src/runtime/cuda_kernels.ts";
import { openNative } from "../src/runtime/native.ts";
import { floatTensor } from "../src/runtime/runtime.ts";
import { REFERENCE } from "./fused_reference.ts";

/** A graph of one ModulatedNorm, x [1, 2, 4], modulation [1, 6, 4]. */
function normGraph(): Graph {
  const graph = new Graph("norm", { fused: true });
  const inputs = [graph.input("x", "F32", [1, "L", 4]), graph.input("modulation", "F32", [1, 6, 4])];
  const [y] = graph.ops("ModulatedNorm", inputs, 1, { scale: 2, shift: 5 }, FUSED_DOMAIN);
  graph.output("y", graph.cast(y!, "F32"), "F32", ["M", 4]);
  return graph;
}

async function run(computes: FusedComputes): Promise<number[]> {
  using runtime = openNative({ resident: "cuda", fused: computes });
  using session = await runtime.createDeviceSession!(normGraph());
  const y = new Float32Array(8);
  const modulation = Float32Array.from({ length: 24 }, (_, i) => i);
  await session.runKeeping(
    {
      x: floatTensor(Float32Array.of(1, -1, 1, -1, 3, 5, 3, 5), [1, 2, 4]),
      modulation: floatTensor(modulation, [1, 6, 4]),
    },
    { y: floatTensor(y, [2, 4]) },
    {},
  );
  return [...y];
}

Deno.test("an operator of our own gets its attributes and shapes, and makes outputs of shapes of its own", async () => {
  const seen: unknown[] = [];
  const y = await run({
    ...REFERENCE,
    ModulatedNorm: (context) => {
      seen.push([context.attribute("scale"), context.attribute("shift")], context.input(0).dims, context.input(1).dims);
      REFERENCE.ModulatedNorm(context);
    },
  });
  assert.deepEqual(seen, [[2, 5], [1, 2, 4], [1, 6, 4]]);
  // scale 8 .. 11, shift 20 .. 23; both rows are alternating signs
  assert.deepEqual(y.map(Math.round), [28, 12, 32, 12, 12, 30, 12, 34]);
});

Deno.test("what an operator of our own throws is the run's error, and the next run works", async () => {
  let fail = true;
  using runtime = openNative({
    resident: "cuda",
    fused: {
      ...REFERENCE,
      ModulatedNorm: (context) => {
        if (fail) throw new RangeError("no such row");
        REFERENCE.ModulatedNorm(context);
      },
    },
  });
  using session = await runtime.createDeviceSession!(normGraph());
  const go = async () =>
    await session.runKeeping(
      { x: floatTensor(new Float32Array(8), [1, 2, 4]), modulation: floatTensor(new Float32Array(24), [1, 6, 4]) },
      { y: floatTensor(new Float32Array(8), [2, 4]) },
      {},
    );
  await assert.rejects(go, (error) => error instanceof DeviceError && /no such row/.test(error.message));
  fail = false;
  await go();
});

Deno.test("a runtime without the operators refuses their graphs, and says which", async () => {
  using runtime = openNative({ resident: "cuda" });
  await assert.rejects(() => runtime.createDeviceSession!(normGraph()), /ModulatedNorm/);
});

/** Shapes of the inputs of each operator: R 2, L 3, C 64, H 2, P 5; maps of 4x6 with 64 channels. */
const [X, PRODUCT, MODULATION, VECTOR, MAP] = [[2, 3, 64], [6, 64], [2, 6, 64], [64], [1, 4, 6, 64]];
const SHAPES: Readonly<Record<FusedOpName, readonly (readonly number[])[]>> = {
  ModulatedNorm: [X, MODULATION],
  GatedAddNorm: [X, PRODUCT, VECTOR, MODULATION, VECTOR, VECTOR],
  AddModulatedNorm: [X, PRODUCT, VECTOR, MODULATION],
  GatedAddModulatedNorm: [X, PRODUCT, VECTOR, MODULATION, MODULATION],
  GatedAdd: [X, PRODUCT, VECTOR, MODULATION],
  EnterCache: [[6, 192], VECTOR, VECTOR, [2], [1], [9, 16], [9, 16], [2, 2, 5, 32], [2, 2, 5, 32]],
  AddBias: [PRODUCT, VECTOR],
  BiasGelu: [PRODUCT, VECTOR],
  MapMoments: [MAP, VECTOR, VECTOR],
  BiasMoments: [MAP, VECTOR, VECTOR],
  SumMoments: [MAP, VECTOR, MAP, VECTOR],
  MapsMoments: [MAP, VECTOR, MAP, VECTOR, VECTOR],
  MapNormSwish: [MAP, VECTOR, [2, 64], VECTOR],
  NormSwish: [MAP, [2, 64], VECTOR],
  QuadMoments: [[1, 3, 4, 256], VECTOR, VECTOR],
  SumHalf: [MAP, VECTOR, MAP],
  RootNorm: [[6, 64], VECTOR],
  AddRootNorm: [[6, 64], PRODUCT, VECTOR],
  ScaledAddRootNorm: [[6, 64], PRODUCT, [6], VECTOR],
  ScaledAdd: [[6, 64], PRODUCT, [6]],
  GatedGelu: [PRODUCT, PRODUCT],
  BiasedAttention: [PRODUCT, PRODUCT, PRODUCT, [32, 2], [6, 6]],
  EnterText: [PRODUCT, [6], [32]],
  Modulation: [[1, 384], [6, 64]],
  Projection: [X, [2, 2], [2, 5]],
  RowKeys: [X, [2, 5]],
  Codes: [[2, 1, 64], [2, 5], [1]],
  ChosenCodes: [[2, 1, 64], [2, 5], [1], [2, 1]],
  UpsampleRows: [[2, 1, 64]],
  RestoreRows: [[2, 1, 64], [2, 1, 64], [2, 1]],
};

for (const name of Object.keys(FUSED_OPS) as FusedOpName[]) {
  Deno.test(`${name} on CUDA makes the outputs of its definition, and launches kernels within their limits`, () => {
    const outputsOf = (computes: FusedComputes): Map<number, readonly number[]> => {
      const made = new Map<number, readonly number[]>();
      const buffers: Uint8Array<ArrayBuffer>[] = [];
      const tensor = (dims: readonly number[]) => {
        const buffer = new Uint8Array(8 * dims.reduce((a, b) => a * b, 1) + 1);
        buffers.push(buffer);
        return { address: Number(Deno.UnsafePointer.value(Deno.UnsafePointer.of(buffer))), dims };
      };
      const inputs = SHAPES[name].map(tensor);
      const context: OpContext = {
        input: (i) => inputs[i]!,
        output: (i, dims) => {
          made.set(i, dims);
          return tensor(dims);
        },
        attribute: (key) => ({ groups: 32, headroom: 64 })[key] ?? 1,
      };
      computes[name](context);
      return made;
    };
    const launches: { blocks: number; threads: number; shared?: number }[] = [];
    const kernels = {
      launch: (_name: string, launch: typeof launches[number], values: readonly number[]) => {
        launches.push(launch);
        assert(values.every(Number.isFinite) && values.filter((value) => value % 1 !== 0).length <= 1, `${values}`);
      },
    };
    const [found, wanted] = [outputsOf(cudaComputes(kernels as unknown as CudaKernels)), outputsOf(REFERENCE)];
    assert.deepEqual([...found.keys()], FUSED_OPS[name].outputs.map((_, i) => i));
    for (const [i, dims] of wanted) {
      const sums = name.endsWith("Moments") && i === FUSED_OPS[name].outputs.length - 1; // the kernels' own affair
      if (!sums) assert.deepEqual(found.get(i), dims);
    }
    assert(launches.length > 0);
    for (const { blocks, threads } of launches) {
      assert(Number.isInteger(blocks) && blocks > 0 && threads % 32 === 0 && threads <= 1024);
    }
  });
}
