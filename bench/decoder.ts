/**
 * `deno run -A bench/decoder.ts [--model MODEL] [--side N] [--threads N]`: the VAE decoder in strips against one graph, of
 * either family; the coarsest level of STAR's is a graph of its own before the strips.
 *
 * Each form in a process of its own, for its peak of memory; the second of two calls counts, the first loads. Times of the
 * strips' layers are added up by level, in GFLOP/s of a plain convolution's arithmetic.
 *
 * @module
 */
import { parseArgs } from "node:util";
import { table } from "../cli/term.ts";
import { decoderGraph } from "../src/models/infinity/decoder.ts";
import { decoderLayers } from "../src/models/infinity/decoder_layers.ts";
import { StripDecoder } from "../src/models/infinity/decoder_strips.ts";
import { openModel } from "../src/models/open.ts";
import { findModel } from "../src/models/registry.ts";
import { VqDecoder, vqDecoderFlopsPerPixel } from "../src/models/star/decoder.ts";
import { watchMemory } from "../src/runtime/memory.ts";
import { openNative } from "../src/runtime/native.ts";
import { floatTensor, type Runtime } from "../src/runtime/runtime.ts";
import { type Span, tracedRuntime } from "../src/runtime/trace.ts";

type Form = "one graph" | "strips";

/** What one form took. */
interface Report {
  readonly form: Form;
  /** Milliseconds of the first call, graphs loaded on the way, and of the second. */
  readonly ms: readonly [number, number];
  /** GFLOP/s of the second call. */
  readonly gflops: number;
  /** Peak of anonymous memory, bytes. */
  readonly anonymous: number;
  /** Of the strips: milliseconds and GFLOP/s of each level, finest first. */
  readonly levels?: readonly { readonly ms: number; readonly gflops: number }[];
  /** Pixel values, to compare; not part of the output. */
  readonly rgb?: readonly number[];
}

const { values } = parseArgs({
  options: {
    model: { type: "string", default: "shapes" },
    side: { type: "string" }, // of the latent; by default the model's own
    threads: { type: "string" },
    form: { type: "string" }, // one form, in this process
  },
});
const { folder } = await findModel(values.model);
const model = await openModel(folder);
const { decoder: weights } = model;
const own = model.family === "star"
  ? model.sides.at(-1)!
  : ({ "0.06M": 16, "0.25M": 32, "0.60M": 48, "1M": 64 })[model.config.pixels];
const side = Number(values.side ?? own) * (model.dims.patchify ? 2 : 1);
const pixels = (side * weights.stride) ** 2;
const flopsOfAll = pixels *
  (model.family === "star" ? vqDecoderFlopsPerPixel(model.decoder, side ** 2) : model.shape.decoderFlopsPerPixel!);

if (values.form) console.log(JSON.stringify(await measure(values.form as Form)));
else await compare();

async function measure(form: Form): Promise<Report> {
  const spans: Span[] = [];
  const threads = values.threads === undefined ? {} : { threads: Number(values.threads) };
  using runtime = tracedRuntime(openNative(threads), (span) => spans.push(span));
  const latent = Float32Array.from({ length: weights.codeDim * side * side }, (_, i) => Math.sin(i * 12.9898));
  const stop = watchMemory();
  const ms: number[] = [];
  let rgb = new Float32Array();
  using decoder = await openDecoder(form, runtime);
  for (let call = 0; call < 2; call++) {
    spans.length = 0;
    const started = performance.now();
    rgb = await decoder.decode(latent, side, side) as Float32Array<ArrayBuffer>;
    ms.push(performance.now() - started);
  }
  const every = Math.ceil(rgb.length / 50_000);
  return {
    form,
    ms: ms as [number, number],
    gflops: flopsOfAll / ms[1]! / 1e6,
    anonymous: stop().anonymous,
    ...form === "strips" && { levels: byLevel(spans) },
    rgb: [...rgb.filter((_, i) => i % every === 0)],
  };
}

/** What decodes a latent [d, h, w] -> RGB [3, H, W] in one form. */
interface Decoder extends Disposable {
  decode(latent: Float32Array, h: number, w: number): Promise<Float32Array>;
}

async function openDecoder(form: Form, runtime: Runtime): Promise<Decoder> {
  if (model.family === "star") {
    return new VqDecoder(model.decoder, runtime, { oneGraph: form === "strips" ? 0 : Infinity });
  }
  if (form === "strips") return new StripDecoder(weights, runtime);
  const session = await runtime.createSession(decoderGraph(weights));
  return {
    decode: async (latent, h, w) => {
      const [H, W] = [h * weights.stride, w * weights.stride];
      const rgb = new Float32Array(3 * H * W);
      await session.run(
        { latent: floatTensor(latent, [1, weights.codeDim, h, w]) },
        { rgb: floatTensor(rgb, [1, 3, H, W]) },
      );
      return rgb;
    },
    [Symbol.dispose]: () => session[Symbol.dispose](),
  };
}

function byLevel(spans: readonly Span[]): { ms: number; gflops: number }[] {
  let finer = 0; // operations of the levels before
  return weights.widths.map((_, level) => {
    const layers = decoderLayers(weights).filter((layer) => layer.level === level);
    const cells = pixels / 4 ** level;
    const whole = model.family === "star" && level === weights.widths.length - 1; // a graph, with attention in it
    const convolutions = layers.reduce(
      (sum, { from, to, shortcut }) => sum + 2 * cells * (9 * from * to + (shortcut?.conv ? shortcut.from * to : 0)),
      0,
    );
    const flops = whole ? flopsOfAll - finer : convolutions;
    finer += flops;
    const names = new Set(
      whole ? ["vq-vae decoder, coarsest level"] : layers.map(({ name }) => `vae decoder ${name}`),
    );
    const ms = spans.filter(({ kind, name }) => kind === "run" && names.has(name)).reduce((sum, { ms }) => sum + ms, 0);
    return { ms, gflops: flops / ms / 1e6 };
  });
}

async function compare(): Promise<void> {
  const reports: Report[] = [];
  for (const form of ["one graph", "strips"] as const) {
    const { code, stdout } = await new Deno.Command(Deno.execPath(), {
      args: [
        ...["run", "-A", "--quiet", import.meta.filename!, `--form=${form}`, `--model=${folder}`],
        `--side=${side / (model.dims.patchify ? 2 : 1)}`,
        ...values.threads === undefined ? [] : [`--threads=${values.threads}`],
      ],
      stderr: "inherit",
    }).output();
    if (code !== 0) throw new Error(`"${form}" ended with code ${code}`);
    reports.push(JSON.parse(new TextDecoder().decode(stdout)));
  }
  const [one, strips] = reports as [Report, Report];
  const difference = Math.max(...one.rgb!.map((value, i) => Math.abs(value - strips.rgb![i]!)));
  const rows = reports.map(({ form, ms, gflops, anonymous }) => [
    form,
    ...ms.map((ms) => ms.toFixed(0)),
    gflops.toFixed(0),
    (anonymous / 1e9).toFixed(2),
    `${(one.ms[1] / ms[1]).toFixed(2)}x`,
  ]);
  console.log(`${model.shape.name}, ${side * weights.stride}x${side * weights.stride} pixels`);
  console.log(table([["form", "first ms", "second ms", "GFLOP/s", "GB", "faster"], ...rows], [1, 2, 3, 4, 5]));
  const levels = strips.levels!.map(({ ms, gflops }, level) => [`${level}`, ms.toFixed(0), gflops.toFixed(0)]);
  console.log(table([["level of the strips", "ms", "GFLOP/s"], ...levels], [1, 2]));
  console.log(`Largest difference of a value (of -1 to 1): ${difference.toExponential(1)}\n`);
  console.log(JSON.stringify({ model: model.shape.name, side, difference, reports: reports.map(withoutPixels) }));
}

function withoutPixels({ rgb: _, ...report }: Report): Report {
  return report;
}
