import assert from "node:assert/strict";
import { join } from "node:path";
import { openCheckpoint } from "../src/checkpoint/open.ts";
import type { GraphForm } from "../src/graph/form.ts";
import { type Attributes, Graph, type Value } from "../src/graph/graph.ts";
import { decoderGraph, readDecoderWeights } from "../src/models/infinity/decoder.ts";
import { decodedFused, fitsFusedDecoder } from "../src/models/infinity/decoder_fused.ts";
import { decodedNhwc, fitsNhwc } from "../src/models/infinity/decoder_nhwc.ts";
import { openNative } from "../src/runtime/native.ts";
import { floatTensor } from "../src/runtime/runtime.ts";
import { distance } from "./attention.ts";
import { REFERENCE } from "./fused_reference.ts";
import { MODELS } from "./mini_models.ts";

/** CUDA's own operators by the standard ones that define them, for a machine without a GPU. */
class Standard extends Graph {
  override op(type: string, inputs: readonly (Value | null)[], attributes: Attributes = {}, domain = ""): Value {
    const first = (x: Value): Value => super.op("Transpose", [x], { perm: [0, 3, 1, 2] });
    const last = (x: Value): Value => super.op("Transpose", [x], { perm: [0, 2, 3, 1] });
    if (type === "NhwcConv") {
      const [x, weight, bias] = inputs as [Value, Value, Value?];
      return last(super.op("Conv", bias ? [first(x), first(weight), bias] : [first(x), first(weight)], attributes));
    }
    if (type === "GroupNorm") {
      const [x, weight, bias] = inputs as [Value, Value, Value];
      assert.deepEqual([attributes.activation, attributes.channels_last], [1, 1]);
      const { groups, epsilon } = attributes as { groups: number; epsilon: { float: number } };
      const affine = { num_groups: groups, epsilon };
      // in float32, as the operator computes inside, whatever its maps are
      const y = super.op("GroupNormalization", [this.cast(first(x), "F32"), weight, bias], affine);
      return last(super.op("Mul", [y, super.op("Sigmoid", [y])]));
    }
    return super.op(type, inputs, attributes, domain);
  }
}

const FORMS = [[{}, 1e-5], [{ half: "block" }, 5e-3], [{ half: "block", fused: true }, 5e-3]] as const;
for (const [form, most] of FORMS satisfies readonly (readonly [GraphForm, number])[]) {
  Deno.test(`the decoder of CUDA is the decoder, channels last ${JSON.stringify(form)}`, async () => {
    using runtime = openNative({ resident: "cuda", fused: REFERENCE });
    for (const model of ["mini-2b", "mini-8b"]) {
      const weights = readDecoderWeights(await openCheckpoint(join(MODELS, model, "vae.pth")));
      const { codeDim, stride } = weights;
      const [h, w] = [2, 3];
      const latent = floatTensor(
        Float32Array.from({ length: codeDim * h * w }, (_, i) => Math.sin(i * 78.233)),
        [1, codeDim, h, w],
      );
      const planes = 3 * h * w * stride ** 2;
      const wanted = new Float32Array(planes), found = new Float32Array(planes);
      const dims = [1, 3, h * stride, w * stride];
      using plain = await runtime.createSession(decoderGraph(weights));
      await plain.run({ latent }, { rgb: floatTensor(wanted, dims) });
      const graph = new Standard("vae decoder, channels last", form);
      assert(fitsFusedDecoder(weights));
      const last = "fused" in form ? await decodedFused(graph, weights) : decodedNhwc(graph, weights);
      const rgb = graph.op("Transpose", [last], { perm: [0, 3, 1, 2] });
      graph.output("rgb", rgb, "F32", [1, 3, "H", "W"]);
      using nhwc = await runtime.createSession(graph);
      await nhwc.run({ latent }, { rgb: floatTensor(found, dims) });
      const error = distance(found, wanted);
      assert(error < most && ("half" in form ? error > 1e-6 : true), `${model}: relative error ${error}`);
    }
  });
}

Deno.test("fitsNhwc() takes the released decoder's channels, an even number a group, and no odd ones", () => {
  const weights = { codeDim: 32, blocks: 3, stride: 16, groups: 32, tensors: {} };
  assert(fitsNhwc({ ...weights, widths: [128, 256, 512, 512, 512] }));
  assert(!fitsNhwc({ ...weights, widths: [32, 64] }));
});
