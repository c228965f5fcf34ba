/**
 * `deno run -A bench/decoder.ts [--model MODEL] [--side N] [--threads N]`: the VAE decoder in strips against one graph.
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
import { openInfinity } from "../src/models/infinity/model.ts";
import { findModel } from "../src/models/registry.ts";
import { watchMemory } from "../src/runtime/memory.ts";
import { openNative } from "../src/runtime/native.ts";
import { floatTensor } from "../src/runtime/runtime.ts";
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
const model = await openInfinity(folder);
const { decoder: weights } = model;
const side = Number(values.side ?? ({ "0.06M": 16, "0.25M": 32, "0.60M": 48, "1M": 64 })[model.config.pixels]) *
  (model.dims.patchify ? 2 : 1);

if (values.form) console.log(JSON.stringify(await measure(values.form as Form)));
else await compare();

async function measure(form: Form): Promise<Report> {
  const spans: Span[] = [];
  const threads = values.threads === undefined ? {} : { threads: Number(values.threads) };
  using runtime = tracedRuntime(openNative(threads), (span) => spans.push(span));
  const latent = Float32Array.from({ length: weights.codeDim * side * side }, (_, i) => Math.sin(i * 12.9898));
  const pixels = (side * weights.stride) ** 2;
  const flops = model.shape.decoderFlopsPerPixel! * pixels;
  const stop = watchMemory();
  const ms: number[] = [];
  let rgb = new Float32Array();
  using strips = new StripDecoder(weights, runtime);
  using session = form === "strips" ? undefined : await runtime.createSession(decoderGraph(weights));
  for (let call = 0; call < 2; call++) {
    spans.length = 0;
    const started = performance.now();
    if (session) {
      rgb = new Float32Array(3 * pixels);
      await session.run(
        { latent: floatTensor(latent, [1, weights.codeDim, side, side]) },
        { rgb: floatTensor(rgb, [1, 3, side * weights.stride, side * weights.stride]) },
      );
    } else rgb = await strips.decode(latent, side, side) as Float32Array<ArrayBuffer>;
    ms.push(performance.now() - started);
  }
  const every = Math.ceil(rgb.length / 50_000);
  return {
    form,
    ms: ms as [number, number],
    gflops: flops / ms[1]! / 1e6,
    anonymous: stop().anonymous,
    ...form === "strips" && { levels: byLevel(spans) },
    rgb: [...rgb.filter((_, i) => i % every === 0)],
  };
}

function byLevel(spans: readonly Span[]): { ms: number; gflops: number }[] {
  return weights.widths.map((_, level) => {
    const layers = decoderLayers(weights).filter((layer) => layer.level === level);
    const pixels = (side * weights.stride / 2 ** level) ** 2;
    const flops = layers.reduce(
      (sum, { from, to, shortcut }) => sum + 2 * pixels * (9 * from * to + (shortcut?.conv ? shortcut.from * to : 0)),
      0,
    );
    const names = new Set(layers.map(({ name }) => `vae decoder ${name}`));
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
  const pixels = side * weights.stride;
  console.log(`${model.shape.name}, ${pixels}x${pixels} pixels`);
  console.log(table([["form", "first ms", "second ms", "GFLOP/s", "GB", "faster"], ...rows], [1, 2, 3, 4, 5]));
  const levels = strips.levels!.map(({ ms, gflops }, level) => [`${level}`, ms.toFixed(0), gflops.toFixed(0)]);
  console.log(table([["level of the strips", "ms", "GFLOP/s"], ...levels], [1, 2]));
  console.log(`Largest difference of a value (of -1 to 1): ${difference.toExponential(1)}\n`);
  console.log(JSON.stringify({ model: model.shape.name, side, difference, reports: reports.map(withoutPixels) }));
}

function withoutPixels({ rgb: _, ...report }: Report): Report {
  return report;
}
