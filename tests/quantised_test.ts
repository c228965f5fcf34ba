import assert from "node:assert/strict";
import { join } from "node:path";
import { openSafetensors } from "../src/checkpoint/safetensors.ts";
import { readBytes, readTensor, type TensorRef } from "../src/checkpoint/source.ts";
import { IntegrityError } from "../src/errors.ts";
import { Graph } from "../src/graph/graph.ts";
import { openInfinity } from "../src/models/infinity/model.ts";
import { openQuantised, planeFile } from "../src/models/infinity/quantised.ts";
import { openNative } from "../src/runtime/native.ts";
import { sumsSignedBytes } from "../src/runtime/processor.ts";
import { floatTensor } from "../src/runtime/runtime.ts";
import { withCopyOfMini2B } from "./mini_models.ts";

Deno.test("openQuantised() makes planes within half a step of the weights, once", async () => {
  for (const signed of [true, false]) {
    await withCopyOfMini2B(async (folder) => {
      const model = await openInfinity(folder);
      let made = 0;
      const progress = (): number => made++;
      await openQuantised(model, "u8", { signed, progress });
      assert.equal(made, 16 * 8);
      made = 0;
      const lookup = await openQuantised(model, "u16", { signed, progress });
      assert.equal(made, 16 * 8, "the upper plane is there: only the lower one is made");
      const ref = model.transformer.blocks[5]!["ffn.fc1.weight"]!;
      const copy = lookup(ref)!;
      const [wanted, high, low, scales] = await Promise.all([
        readTensor(ref),
        readPlane(copy.weight, signed),
        readPlane(copy.low!, signed),
        readTensor(copy.scale),
      ]);
      const [out, input] = ref.shape as [number, number];
      for (let o = 0; o < out; o++) {
        const step = scales[o]!;
        for (let i = 0; i < input; i++) {
          const weight = wanted[o * input + i]!;
          const upper = high[i * out + o]! * step;
          const both = upper + low[i * out + o]! * step / 254;
          assert(Math.abs(upper - weight) <= step * 0.5001, `row ${o}, column ${i}`);
          assert(Math.abs(both - weight) <= step / 254 * 0.501, `row ${o}, column ${i}`);
        }
      }
      assert.equal(lookup(model.transformer.outer["head.weight"]!), undefined, "only the blocks have copies");
      made = 0;
      await openQuantised(model, "u16", { signed, progress });
      assert.equal(made, 0);
    });
  }
});

async function readPlane(ref: TensorRef, signed: boolean): Promise<number[]> {
  const bytes = await readBytes(ref);
  return signed
    ? [...new Int8Array(bytes.buffer, bytes.byteOffset, bytes.length)]
    : [...bytes].map((byte) => byte - 128);
}

Deno.test("openQuantised() makes them anew for another checkpoint, and refuses a damaged file", async () => {
  await withCopyOfMini2B(async (folder) => {
    const signed = false;
    await openQuantised(await openInfinity(folder), "u8", { signed });
    const path = join(folder, planeFile("high", signed));
    const before = (await openSafetensors(path)).names().find((name) => name.startsWith("stagevar"));
    const model = await openInfinity(folder);
    const other = { ...model, hash: "0123456789" };
    await openQuantised(other, "u8", { signed });
    const after = (await openSafetensors(path)).names().find((name) => name.startsWith("stagevar"));
    assert.notEqual(before, after);
    await Deno.truncate(path, 1000);
    await assert.rejects(openQuantised(other, "u8", { signed }), (error) => {
      assert(error instanceof IntegrityError);
      assert.match(error.message, /stagevar-u8\.safetensors/);
      assert.match(error.hint!, /Delete the file/);
      return true;
    });
  });
});

Deno.test("openQuantised() refuses signed bytes where unsigned ones are wanted", async () => {
  await withCopyOfMini2B(async (folder) => {
    const model = await openInfinity(folder);
    await openQuantised(model, "u8", { signed: true });
    await Deno.rename(join(folder, planeFile("high", true)), join(folder, planeFile("high", false)));
    await assert.rejects(openQuantised(model, "u8", { signed: false }), /is I8 with scales F32/);
  });
});

// Integer sums are exact, so that a picture does not depend on the processor. Signed bytes saturate on old ones.
const saturates = !sumsSignedBytes();
Deno.test({ name: "signed and unsigned copies give the same numbers", ignore: saturates }, async () => {
  await withCopyOfMini2B(async (folder) => {
    const model = await openInfinity(folder);
    using runtime = openNative();
    const block = model.transformer.blocks[3]!;
    const [weight, bias] = [block["ffn.fc1.weight"]!, block["ffn.fc1.bias"]!];
    const [out, input] = weight.shape as [number, number];
    const x = floatTensor(Float32Array.from({ length: 5 * input }, (_, i) => Math.sin(i)), [5, input]);
    const results: Float32Array[] = [];
    for (const signed of [true, false]) {
      const copy = (await openQuantised(model, "u16", { signed }))(weight)!;
      const graph = new Graph("linear");
      graph.output("y", graph.quantisedLinear(graph.input("x", "F32", ["M", input]), copy, bias), "F32", ["M", out]);
      using session = await runtime.createSession(graph);
      const y = new Float32Array(5 * out);
      await session.run({ x }, { y: floatTensor(y, [5, out]) });
      results.push(y);
    }
    assert(results[0]!.some((value) => value !== 0));
    assert.deepEqual(results[0], results[1]);
  });
});
