/**
 * How far CUDA's decoder, channels last, is from the CPU's, with a model's own weights and a random latent:
 *
 *     deno run -A bench/decoder_cuda.ts MODEL [--cells 12x16]
 *
 * Prints, for float32 and half precision, the error of RGB relative to its norm, the largest one (of -1 to 1), and the share of
 * pixel values that differ.
 */
import { parseArgs } from "node:util";
import { toUint8 } from "../src/core.ts";
import { Graph } from "../src/graph/graph.ts";
import { decoderGraph } from "../src/models/infinity/decoder.ts";
import { decodedFused } from "../src/models/infinity/decoder_fused.ts";
import { decodedNhwc, fitsNhwc } from "../src/models/infinity/decoder_nhwc.ts";
import { openInfinity } from "../src/models/infinity/model.ts";
import { openCuda } from "../src/runtime/cuda.ts";
import { openNative } from "../src/runtime/native.ts";
import { floatTensor } from "../src/runtime/runtime.ts";

const { values, positionals: [folder] } = parseArgs({
  allowPositionals: true,
  options: { cells: { type: "string", default: "12x16" } },
});
const [h, w] = values.cells.split("x").map(Number);
if (!folder || !h || !w) throw new Error("Give a model folder, and cells as HxW");

const { decoder: weights } = await openInfinity(folder);
if (!fitsNhwc(weights)) {
  throw new Error(`"${folder}" has an odd number of channels a group: CUDA decodes it channels first`);
}
const { codeDim, stride } = weights;
const [H, W] = [h * stride, w * stride];
const bit = (i: number): number => Math.sin(i * 78.233) * 43758.5453 % 1 > 0 ? 1 : -1;
const latent = floatTensor(
  Float32Array.from({ length: codeDim * h * w }, (_, i) => 3 * bit(i) / Math.sqrt(codeDim)), // of several scales' sum
  [1, codeDim, h, w],
);

using cpu = openNative();
using cuda = await openCuda();
const wanted = new Float32Array(3 * H * W);
using plain = await cpu.createSession(decoderGraph(weights));
await plain.run({ latent }, { rgb: floatTensor(wanted, [1, 3, H, W]) });
const pixels = toUint8(wanted, H, W);
using there = cuda.upload!(latent);
for (const [half, fused] of [[undefined, false], ["block", false], ["block", true]] as const) {
  const graph = new Graph("vae decoder, channels last", { maps: "channels last", half, fused });
  const decoded = fused ? await decodedFused(graph, weights) : decodedNhwc(graph, weights);
  const rgb = graph.op("Transpose", [decoded], { perm: [0, 3, 1, 2] });
  graph.output("rgb", rgb, "F32", [1, 3, "H", "W"]);
  using session = await cuda.createDeviceSession!(graph);
  const found = new Float32Array(wanted.length);
  await session.runKeeping({ latent: there }, { rgb: floatTensor(found, [1, 3, H, W]) }, {});
  let error = 0, size = 0, most = 0;
  for (const [i, value] of wanted.entries()) {
    error += (found[i]! - value) ** 2;
    size += value ** 2;
    most = Math.max(most, Math.abs(found[i]! - value));
  }
  const bytes = toUint8(found, H, W);
  const off = bytes.reduce((count, value, i) => count + Number(value !== pixels[i]), 0);
  const levels = bytes.reduce((largest, value, i) => Math.max(largest, Math.abs(value - pixels[i]!)), 0);
  console.log(
    `${half ? "f16" : "f32"}${fused ? ", fused" : ""}: relative error ${
      Math.sqrt(error / size).toExponential(2)
    }, largest ${most.toExponential(2)}; ` +
      `pixel values off by at most ${levels}: ${(off / bytes.length * 100).toFixed(3)} %`,
  );
}
