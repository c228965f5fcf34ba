/**
 * `deno run -A bench/compare_pytorch.ts MODEL --python PATH [flags]`: our transformer against its PyTorch twin.
 *
 * Both run one after the other in processes of their own, size by size, so that what else the machine does hits both; the
 * twin has random weights of the same shapes (pytorch_infinity.py, pytorch_star.py, by the model's family), and times do not
 * depend on the values. Transformer alone: text encoder, decoder and PNG are not the twin's. A Markdown table, and JSON as the last line.
 *
 * @module
 */
import { join } from "node:path";
import { parseArgs } from "node:util";
import { type BenchReport, describeMachine } from "../src/benchmark/report.ts";
import { openModel } from "../src/models/open.ts";
import { findModel } from "../src/models/registry.ts";

const HERE = import.meta.dirname!;
const PROMPT = "a castle above the river at night";

const { values, positionals: [model] } = parseArgs({
  allowPositionals: true,
  options: {
    python: { type: "string", default: "python3" },
    size: { type: "string", default: "2b" }, // of Infinity's twin: 2b, 8b, 125m
    pixels: { type: "string", default: "0.06M" }, // of Infinity, a list
    method: { type: "string", default: "vanilla" },
    dtype: { type: "string", default: "f32" }, // ours, a list
    "twin-dtype": { type: "string", default: "f32" }, // the twin's, a list
    threads: { type: "string", default: `${navigator.hardwareConcurrency}` },
  },
});
if (model === undefined) {
  console.error("Usage: deno run -A bench/compare_pytorch.ts MODEL --python PATH [--pixels LIST] [--dtype LIST] ...");
  Deno.exit(2);
}

const opened = await openModel((await findModel(model)).folder);
if (opened.family === "star" && (opened.shape.width !== 1920 || opened.shape.depth !== 30)) {
  console.error(`"${model}" is no STAR of width 1920 and 30 blocks, as the twin is`);
  Deno.exit(2);
}
/** What a family is measured with: a name for it, sizes, and the twin's script with its sizes. */
const { name, sizes, script } = opened.family === "star"
  ? {
    name: `star-${opened.sides.at(-1)! * opened.decoder.stride}`,
    sizes: [opened.config.pixels],
    script: () => ["pytorch_star.py", "--size", `${opened.sides.at(-1)! * opened.decoder.stride}`, "--text", "9"],
  }
  : {
    name: values.size,
    sizes: values.pixels.split(","),
    script: (pixels: string) => ["pytorch_infinity.py", "--size", values.size, "--pixels", pixels, "--text", "8"],
  };

async function run(program: string, args: readonly string[]): Promise<string> {
  console.error([program.split("/").at(-1), ...args.slice(args[0] === "run" ? 4 : 1)].join(" "));
  const { code, stdout } = await new Deno.Command(program, { args: [...args], stdin: "null", stderr: "inherit" })
    .output();
  if (code !== 0) throw new Error(`"${program}" ended with code ${code}`);
  return new TextDecoder().decode(stdout).trimEnd().split("\n").at(-1)!;
}

/** One measurement of one side. */
interface Side {
  readonly name: string;
  readonly seconds: number;
  readonly scales: readonly number[];
}

async function ours(pixels: string, dtype: string): Promise<Side> {
  const flags = ["--pixels", pixels, "--dtype", dtype, "--methods", values.method, "--threads", values.threads];
  const json = await run(Deno.execPath(), [
    ...["run", "-A", "--quiet", join(HERE, "../stagevar.ts"), "bench", model!, ...flags],
    ...["--prompt", PROMPT, "--runs", "1", "--warm-up", "short", "--output", "json", "--quiet"],
  ]);
  const [row] = (JSON.parse(json) as BenchReport).rows;
  if (!row?.sample) throw new Error(row?.error ?? "No sample");
  const scales = row.sample.scales.map(({ ms }) => ms.mean);
  return { name: `stagevar ${dtype}`, seconds: scales.reduce((sum, ms) => sum + ms, 0) / 1000, scales };
}

async function twin(pixels: string, dtype: string): Promise<Side> {
  const [file, ...sized] = script(pixels);
  const flags = ["--dtype", dtype, "--method", values.method, "--threads", values.threads];
  const json = await run(values.python, [join(HERE, file!), ...sized, ...flags]);
  const report: { seconds: number[]; scales_ms: number[] } = JSON.parse(json);
  return { name: `PyTorch ${dtype}`, seconds: Math.min(...report.seconds), scales: report.scales_ms };
}

const rows: (Side & { pixels: string })[] = [];
const machine = describeMachine();
for (const pixels of sizes) {
  for (const dtype of values["twin-dtype"].split(",")) rows.push({ pixels, ...await twin(pixels, dtype) });
  for (const dtype of values.dtype.split(",")) rows.push({ pixels, ...await ours(pixels, dtype) });
}
const cells = rows.map(({ pixels, name, seconds }) => {
  const same = rows.filter((other) => other.pixels === pixels && other.name.startsWith("PyTorch"));
  return [pixels, name, seconds.toFixed(2), ...same.map((other) => `${(other.seconds / seconds).toFixed(2)}x`)];
});
const against = values["twin-dtype"].split(",").map((dtype) => `against PyTorch ${dtype}`);
const head = ["pixels", "transformer", "seconds", ...against];
const rule = head.map((title) => "-".repeat(title.length));
console.log(`${name}, ${values.method}, ${values.threads} threads, ${machine.cpu}, load ${machine.load.toFixed(1)}\n`);
console.log([head, rule, ...cells].map((row) => `| ${row.join(" | ")} |\n`).join(""));
console.log(JSON.stringify({ date: new Date().toISOString(), machine, size: name, method: values.method, rows }));
