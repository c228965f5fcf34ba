import assert from "node:assert/strict";
import { join } from "node:path";
import { type BenchReport, describeMachine, NOT_TIMED, renderReport } from "../src/benchmark/report.ts";
import { benchPrompt, measured, type Sample, takeSample } from "../src/benchmark/sample.ts";
import { scaleFlops } from "../src/cost.ts";
import { planFor } from "../src/prepare.ts";

const ROOT = join(import.meta.dirname!, "..");
const MINI = join(ROOT, "tests/golden/models/mini-2b");

Deno.test("measured() gives mean and sample deviation", () => {
  assert.deepEqual(measured([2, 4, 4, 4, 5, 5, 7, 9]), {
    mean: 5,
    median: 4.5,
    sd: Math.sqrt(32 / 7),
    runs: [2, 4, 4, 4, 5, 5, 7, 9],
  });
  assert.deepEqual(measured([3]), { mean: 3, median: 3, sd: 0, runs: [3] });
});

Deno.test("benchPrompt() gives 56 prompts, none with one colour twice", () => {
  const prompts = Array.from({ length: 57 }, (_, run) => benchPrompt(run));
  assert.equal(new Set(prompts).size, 56);
  for (const prompt of prompts) {
    const [, first, second] = /^a (\w+) circle left of a (\w+) square$/.exec(prompt)!;
    assert.notEqual(first, second);
  }
});

Deno.test("takeSample() reports every phase and scale, its arithmetic and memory, and a trace", async () => {
  const runs: number[] = [];
  const settings = { model: MINI, pixels: "0.06M", method: "skip-fidelity", batch: 2 } as const;
  const sample = await takeSample({ settings, runs: 2, warmUp: "short", trace: true }, (run) => runs.push(run));
  assert.deepEqual(runs, [0, 1, 2]);
  const { model, device, size, parts, scales } = sample;
  assert.deepEqual({ model, device, size }, { model: "mini-2b", device: "cpu", size: [256, 256] });
  const { whole, load: _, ...phases } = parts;
  for (const [name, { ms, memory }] of Object.entries(phases)) {
    assert(ms.runs.length === 2 && ms.runs.every((time) => time > 0), name);
    assert(memory!.anonymous > 1e7, name);
  }
  const { encode, ...apart } = phases; // the first of two pictures is encoded while the second is decoded
  const sum = Object.values(apart).reduce((sum, { ms }) => sum + ms.mean, 0);
  assert(sum <= whole!.ms.mean && encode!.ms.mean < whole!.ms.mean, `phases sum to ${sum} of ${whole!.ms.mean} ms`);
  assert.deepEqual(scales.map(({ step, tokens }) => [step, tokens]), [
    ...[1, 4, 16, 36].map((tokens) => ["full", tokens]),
    ...new Array(3).fill(["skip", 0]),
  ]);

  // arithmetic: twice the plan's for two pictures, but for the text's keys and values
  const plan = await planFor({ ...settings, prompt: benchPrompt(1) });
  const each = plan.cost.scales.map(({ flops }) => scaleFlops(flops));
  assert.deepEqual(scales.map(({ flops }) => flops), each.map((flops) => 2 * flops));
  assert.equal(parts.decode!.flops, 2 * plan.cost.decoder!);
  assert.equal(whole!.flops, parts.text!.flops! + parts.transformer!.flops! + parts.decode!.flops!);
  assert(parts.encode!.flops === undefined && sample.gemmRate > 0);
  assert(sample.tokenLayers < sample.vanillaTokenLayers);

  // the trace is of the first picture that counts, not of the warm-up
  interface TraceEvent {
    ph: string;
    cat: string;
    name: string;
    ts: number;
    dur: number;
  }
  const { traceEvents } = JSON.parse(sample.trace!) as { traceEvents: TraceEvent[] };
  const spans = traceEvents.filter(({ ph }) => ph === "X");
  const named = (cat: string): string[] => spans.filter((span) => span.cat === cat).map(({ name }) => name);
  assert.deepEqual(new Set(named("phase")), new Set(["text", "load", "decode", "encode"]));
  assert.equal(named("scale").length, 4 + 3);
  assert.equal(named("run").filter((name) => name === "vae decoder").length, 2);
  assert(spans.every(({ ts, dur }) => ts >= 0 && dur >= 0));
});

/** Runs a command of the project in a process of its own. */
async function command(...args: string[]): Promise<{ code: number; out: string; err: string }> {
  const { code, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", "--quiet", ...args],
    cwd: ROOT,
    env: { NO_COLOR: "1" },
  }).output();
  return { code, out: new TextDecoder().decode(stdout), err: new TextDecoder().decode(stderr) };
}

Deno.test("stagevar bench measures all combinations, goes on past those it cannot run, and names no path", async () => {
  const folder = await Deno.makeTempDir();
  try {
    const output = join(folder, "bench.json");
    const flags = ["--pixels", "0.06M", "--runs", "1", "--warm-up", "none", "--methods", "vanilla,skip-fidelity"];
    const { code, out, err } = await command(
      "stagevar.ts",
      "bench",
      MINI,
      ...flags,
      "--device",
      "cpu,cuda",
      "-o",
      output,
    );
    assert.equal(code, 0, err);
    assert.equal(out, `${output}\n`);
    const report: BenchReport = JSON.parse(await Deno.readTextFile(output));
    assert.deepEqual(report.rows.map(({ settings }) => [settings.method, settings.device]), [
      ["vanilla", "cpu"],
      ["vanilla", "cuda"],
      ["skip-fidelity", "cpu"],
      ["skip-fidelity", "cuda"],
    ]);
    for (const { settings, sample, error } of report.rows) {
      if (settings.device === "cuda") assert(!sample && /cuda/i.test(error!), error);
      else assert.equal(sample?.scales.length, 7);
    }
    assert.deepEqual(report.notTimed, NOT_TIMED);
    const markdown = renderReport(report);
    assert.match(markdown, /Not run: mini-2b, 0\.06M, skip-fidelity, f32, cuda: /);
    for (const secret of [Deno.hostname(), ROOT]) assert(!markdown.includes(secret), `the output has "${secret}"`);
    const again = await command("stagevar.ts", "bench", MINI, ...flags, "-o", output);
    assert.equal(again.code, 2, "a report is not overwritten");
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});

Deno.test("stagevar bench refuses what it cannot measure before it starts", async () => {
  const refused: [string[], number, RegExp][] = [
    [["--runs", "0"], 2, /"--runs" wants a whole number from 1 to 1000/],
    [["--pixels", "0.06M,2M"], 2, /wants one of 0\.06M, .*, found "2M"/],
    [["--rusn", "3"], 2, /--rusn/],
    [["--methods", "vanila"], 2, /"vanila"/],
    [["--warm-up", "long"], 2, /"--warm-up" wants one of full, short, none/],
    [["--trace", "trace.json"], 2, /"--trace" takes one combination, found 2/],
    [["-o", "report.txt"], 2, /"--output" wants json/],
    [["no-such-model"], 3, /No model "no-such-model"/],
  ];
  for (const [args, code, message] of refused) {
    const { err, ...rest } = await command("stagevar.ts", "bench", ...args);
    assert.deepEqual(rest, { code, out: "" }, err);
    assert.match(err, message);
  }
});

Deno.test("deno task bench ends with one line of JSON", async () => {
  const { code, out, err } = await command("bench/bench.ts", "start", "decoder", "--runs", "1");
  assert.equal(code, 0, err);
  const report = JSON.parse(out.trimEnd().split("\n").at(-1)!);
  assert.equal(Object.keys(report.start).length, 4);
  assert.deepEqual(report.decoder.reports.map(({ form }: { form: string }) => form), ["one graph", "strips"]);
  assert(report.decoder.difference < 1e-3 && report.decoder.difference > 0);
  assert.equal((await command("bench/bench.ts", "everything")).code, 2);
});

/** A sample of one run: transformer `ms`, everything else 5 each. */
function sampleOf(ms: number, tokenLayers: number, size: [number, number]): Sample {
  const part = (ms: number, flops?: number) => ({
    ms: measured([ms]),
    ...flops && { flops },
    memory: { anonymous: 2e9, mapped: 8e9 },
  });
  const scale = (step: "full" | "skip", ms: number) =>
    ({ grid: { h: 1, w: 1 }, stage: "fidelity", step, tokens: 1, ms: measured([ms]), flops: 1e9 }) as const;
  return {
    model: "tiny",
    modelHash: "0123456789",
    device: "cpu",
    runtime: "ort 1",
    size,
    textTokens: 8,
    firstPicture: 100,
    parts: {
      load: part(1),
      text: part(5, 1e9),
      transformer: part(ms, 3e9),
      decode: part(5, 1e9),
      encode: part(5),
      whole: part(ms + 15, 5e9),
    },
    scales: [scale("full", ms), scale(ms < 30 ? "skip" : "full", ms)],
    tokenLayers,
    vanillaTokenLayers: 300,
    gemmRate: 400,
    dtype: "f32",
    gemm: "float32 product",
  };
}

Deno.test("renderReport() compares with the first of the same size, and says shares, memory and quality", () => {
  const row = (method: string, ms: number, tokenLayers: number, size: [number, number]) => (
    { settings: { method }, sample: sampleOf(ms, tokenLayers, size) }
  );
  const report: BenchReport = {
    bench: "stagevar",
    version: "1.2.3",
    date: "2026-01-31T12:00:00.000Z",
    machine: { ...describeMachine(), cpu: "Some CPU", cores: 2, memory: 8e9, load: 0.25 },
    rows: [
      { ...row("vanilla", 30, 300, [128, 128]), quality: { mean: 98, error: 0.5 } },
      row("quick", 10, 100, [128, 128]),
      row("quick", 60, 100, [256, 256]),
    ],
    notTimed: ["The weather"],
  };
  const text = renderReport(report);
  const lines = text.split("\n").filter((line) => line.startsWith("|"));
  const cells = (match: RegExp, nth = 0): string[] =>
    lines.filter((line) => match.test(line))[nth]!.split("|").slice(1, -1).map((cell) => cell.trim());
  assert.deepEqual(cells(/quick/).slice(3), ["10.0", "5.00", "5.00", "25.0", "3.00x", "1.80x", "3.00x", "-", "100"]);
  assert.deepEqual(cells(/quick/, 1).slice(7, 9), ["1.00x", "1.00x"], "another size has a first of its own");
  assert.equal(cells(/vanilla/)[10], "98.0 ± 0.5");
  // 3e9 operations in 30 ms are 100 GFLOP/s, a quarter of 400
  assert.deepEqual(cells(/\| vanilla/, 1).slice(3, 4), ["100 (25 %)"]);
  assert.equal(cells(/\| vanilla/, 1).at(-1), "2.00 + 8.00");
  assert.deepEqual(cells(/^\| 2 /), ["2", "1x1", "fidelity", "30.0 (33)", "-"]);
  assert.match(text, /\* Not timed: The weather\n/);
  assert.match(text, /Some CPU, 2 cores, 8\.0 GB/);
});
