/**
 * `deno task bench [kernels|start|decoder] [flags]`: what `stagevar bench` does not measure.
 *
 * kernels: the wasm kernels against naive twins (kernels.ts). start: the command line from start to exit. decoder: the
 * decoder's strips against one graph (decoder.ts). Markdown tables, and one JSON object as the last line.
 *
 * @module
 */
import { join } from "node:path";
import { parseArgs } from "node:util";
import { processContext } from "../cli/context.ts";
import { reportError } from "../cli/exit.ts";
import { table } from "../cli/term.ts";
import { describeMachine } from "../src/benchmark/report.ts";
import { benchPrompt, type Measured, measured } from "../src/benchmark/sample.ts";
import { UsageError } from "../src/errors.ts";

const HERE = import.meta.dirname!;
const PARTS = ["kernels", "start", "decoder"] as const;
const USAGE = `Usage: deno task bench [${PARTS.join("|")}]... [flags]

  --model MODEL   Name or folder, for start and decoder. Default: shapes
  --runs N        Runs after one warm-up, for start. Default: 5
`;

/** Runs a script of this project in a fresh Deno; its stderr goes where ours goes. */
async function script(path: string, args: readonly string[]): Promise<string> {
  const { code, stdout } = await new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", "--quiet", join(HERE, path), ...args],
    stdin: "null",
    stderr: "inherit",
  }).output();
  if (code !== 0) throw new Error(`"${path}" ended with code ${code}`);
  return new TextDecoder().decode(stdout);
}

/** What kernels.ts prints as JSON. */
interface KernelReport {
  /** Milliseconds until `src/core.ts` can be called. */
  readonly loadMs: number;
  /** One line a kernel; milliseconds. */
  readonly rows: readonly { kernel: string; size: string; wasm: number; naive: number; gflops?: number }[];
}

async function benchKernels(): Promise<KernelReport> {
  const report: KernelReport = JSON.parse((await script("kernels.ts", [])).trimEnd().split("\n").at(-1)!);
  const cells = report.rows.map(({ kernel, size, wasm, naive, gflops }) => [
    kernel,
    size,
    wasm.toFixed(2),
    naive.toFixed(0),
    `${(naive / wasm).toFixed(0)}x`,
    gflops?.toFixed(1) ?? "",
  ]);
  console.log(table([["kernel", "size", "wasm ms", "naive ms", "ratio", "GFLOP/s"], ...cells], [2, 3, 4, 5]));
  console.log(`Best of several calls; wasm loaded in ${report.loadMs.toFixed(1)} ms\n`);
  return report;
}

async function benchStart(model: string, runs: number): Promise<Record<string, Measured>> {
  const folder = await Deno.makeTempDir();
  const picture = (method: string): string[] => [
    benchPrompt(0),
    "--seed=0",
    `--method=${method}`,
    `--model=${model}`,
    "--force",
    "--output",
    join(folder, "picture.png"),
  ];
  const commands: Record<string, string[]> = {
    "stagevar --version": ["--version"],
    "stagevar --help": ["--help"],
    'stagevar "..." --method vanilla': picture("vanilla"),
    'stagevar "..." --method stagevar': picture("stagevar"),
  };
  try {
    const report: Record<string, Measured> = {};
    for (const [name, args] of Object.entries(commands)) {
      const ms: number[] = [];
      for (let run = 0; run <= runs; run++) {
        const started = performance.now();
        await script("../stagevar.ts", ["--quiet", ...args]);
        if (run > 0) ms.push(performance.now() - started);
      }
      report[name] = measured(ms);
    }
    const rows = Object.entries(report).map(([name, { mean, sd }]) => [name, `${mean.toFixed(0)} ± ${sd.toFixed(0)}`]);
    console.log(table([["command, start to exit", "ms"], ...rows], [1]));
    return report;
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

async function main(): Promise<number> {
  const context = processContext();
  try {
    const { values: { model, runs }, positionals } = read(Deno.args);
    const unknown = positionals.find((part) => !(PARTS as readonly string[]).includes(part));
    if (unknown !== undefined) throw new UsageError(`Cannot bench "${unknown}"`, { hint: USAGE });
    const count = Number(runs);
    if (!Number.isInteger(count) || count < 1) throw new UsageError(`Flag "--runs" is "${runs}"`, { hint: USAGE });
    const wanted = (part: typeof PARTS[number]): boolean => positionals.length === 0 || positionals.includes(part);
    const report = {
      date: new Date().toISOString(),
      machine: describeMachine(),
      ...wanted("kernels") && { kernels: await benchKernels() },
      ...wanted("start") && { start: await benchStart(model, count) },
      ...wanted("decoder") && { decoder: JSON.parse(await decoderJson(model)) },
    };
    console.log(JSON.stringify(report));
    return 0;
  } catch (error) {
    return reportError(error, context, false);
  }
}

async function decoderJson(model: string): Promise<string> {
  const lines = (await script("decoder.ts", ["--model", model])).trimEnd().split("\n");
  const json = lines.pop()!;
  console.log(lines.join("\n"));
  return json;
}

function read(args: readonly string[]) {
  try {
    return parseArgs({
      args: [...args],
      allowPositionals: true,
      options: { model: { type: "string", default: "shapes" }, runs: { type: "string", default: "5" } },
    });
  } catch (cause) {
    throw new UsageError((cause as Error).message, { hint: USAGE });
  }
}

if (import.meta.main) Deno.exit(await main());
