/**
 * `stagevar bench`: how long pictures take, phase by phase and scale by scale, for every combination of settings.
 *
 * Every combination runs in a process of its own, this same program, since memory only ever grows; its last line of output
 * is the sample.
 *
 * @module
 */
import { basename } from "node:path";
import { fileURLToPath } from "node:url";
import { type BenchReport, type BenchRow, describeMachine, NOT_TIMED, renderReport } from "../src/benchmark/report.ts";
import type { Sample, SampleRequest, WarmUp } from "../src/benchmark/sample.ts";
import project from "../deno.json" with { type: "json" };
import { DeviceError, ModelError, UsageError } from "../src/errors.ts";
import { qualityOf } from "../src/evaluate/stored.ts";
import type { Arguments, Command, Flag } from "./command.ts";
import type { Context, Library } from "./context.ts";
import { methodNames, METHODS_FLAG } from "./methods_flag.ts";
import { Progress } from "./progress.ts";
import { settingsFromJson, wholeFlag } from "./request_flags.ts";
import { duration, jsonLine } from "./term.ts";

const DEFAULT_RUNS = 3;
const DEFAULT_METHODS = "vanilla,stagevar";
const WARM_UPS: readonly WarmUp[] = ["full", "short", "none"];

/** Flags that take a list with commas, all of whose combinations are measured. */
const LISTS: readonly Flag[] = [
  { name: "pixels", value: "BUDGET[,...]", help: "Sizes. Default: what the model was trained for" },
  { name: "aspect", value: "W:H[,...]", help: "Shapes. Default: square" },
  { name: "batch", value: "N[,...]", help: "Pictures at a time. Default: 1" },
  { ...METHODS_FLAG, help: `Methods to compare, or all. Default: ${DEFAULT_METHODS}` },
  { name: "dtype", value: "TYPE[,...]", help: "Arithmetic of the linear layers. Default: f32" },
  { name: "threads", short: "t", value: "N[,...]", help: "CPU threads. Default: all cores" },
  { name: "device", value: "NAME[,...]", help: "Where to run. Default: auto" },
];

/** The command. */
export const command: Command = {
  usage: ["bench [MODEL...] [flags]"],
  options: [
    ...LISTS,
    { name: "low-memory", help: "As in generate" },
    { name: "prompt", value: "TEXT", help: "One prompt for all pictures. Default: another one each" },
    { name: "runs", value: "N", help: `Times each is measured. Default: ${DEFAULT_RUNS}` },
    {
      name: "warm-up",
      value: WARM_UPS.join("|"),
      help: "What is drawn before: one of the same, one of the smallest size, nothing. Default: full",
    },
    { name: "trace", value: "FILE", help: "Chrome trace of the first picture; takes one combination" },
    {
      name: "output",
      short: "o",
      value: "json|FILE",
      help: "JSON on stdout, or a file whose name ends in .json or .md",
    },
    { name: "force", help: "Overwrite files" },
    { name: "sample", value: "JSON", help: "Measure one combination here and print it: what bench runs for each" },
  ],
  words: { min: 0, max: Infinity, name: "MODEL" },
  details:
    `Prints Markdown tables: time by phase and scale, GFLOP/s and their share of what a large float32 product reaches, peak
memory, and the quality that stagevar eval has measured, where it has. Combinations that cannot run here are said, and the
others go on. Times depend on what else the machine does: compare those of one run.`,
  run,
};

async function run(context: Context, args: Arguments): Promise<void> {
  const sample = args.value("sample")?.text;
  if (sample !== undefined) return await printSample(context, sample);
  const runs = wholeFlag(args, "runs", 1, 1000) ?? DEFAULT_RUNS;
  const warmUp = oneOf("warm-up", args.value("warm-up")?.text ?? "full", WARM_UPS);
  const output = args.value("output")?.text;
  if (output !== undefined && output !== "json" && !/\.(json|md)$/.test(output)) {
    throw new UsageError(`Flag "--output" wants json, or a file that ends in .json or .md, found "${output}"`);
  }
  const all = combinations(args);
  const tracePath = args.value("trace")?.text;
  if (tracePath !== undefined && all.length > 1) {
    throw new UsageError(`Flag "--trace" takes one combination, found ${all.length}`, {
      hint: "Name one model, method and size",
    });
  }
  const { checkAbsent } = await import("./destination.ts");
  for (const path of [output, tracePath]) {
    if (path !== undefined && path !== "json") await checkAbsent(path, args.on("force"));
  }
  const prompt = args.value("prompt")?.text;
  const progress = new Progress(context, args.on("quiet"));
  const rows: BenchRow[] = [];
  const machine = describeMachine();
  try {
    const reasons = await refusals(await context.library(), all); // unknown names fail here, before anything runs
    for (const [i, settings] of all.entries()) {
      const refused = reasons.get(settings);
      if (refused !== undefined) {
        rows.push({ settings, error: refused });
        continue;
      }
      const started = performance.now();
      const name = JSON.stringify(settings);
      progress.transient(`[${i + 1}/${all.length}] ${name}`);
      const request = { settings, runs, warmUp, trace: tracePath !== undefined, ...prompt !== undefined && { prompt } };
      const row = await measure(context, request);
      if (row.sample?.trace !== undefined) await write(tracePath!, row.sample.trace, args.on("force"));
      rows.push(row);
      progress.line(`[${i + 1}/${all.length}] ${name}  ${row.error ?? duration(performance.now() - started)}`);
    }
  } finally {
    progress.finish();
  }
  const report: BenchReport = {
    bench: "stagevar",
    version: project.version,
    date: new Date().toISOString(),
    machine,
    rows: rows.map(presentable),
    notTimed: NOT_TIMED,
  };
  const text = output?.endsWith("json") ? jsonLine(report) : renderReport(report);
  if (output === undefined || output === "json") return context.stdout.write(text);
  await write(output, text, args.on("force"));
  context.stdout.write(`${output}\n`);
}

/** A report is to be shown around: models by name and not by folder. The trace has a file of its own. */
function presentable({ settings, sample, ...row }: BenchRow): BenchRow {
  const { trace: _, ...rest } = sample ?? {} as Sample;
  const named = settings.model === undefined ? settings : { ...settings, model: basename(settings.model) };
  return { settings: named, ...row, ...sample && { sample: rest } };
}

async function write(path: string, text: string, force: boolean): Promise<void> {
  const { writeFileAtomic } = await import("../src/output.ts");
  await writeFileAtomic(path, new TextEncoder().encode(text), { force });
}

function oneOf<T extends string>(flag: string, text: string, names: readonly T[]): T {
  const found = names.find((name) => name === text);
  if (found !== undefined) return found;
  throw new UsageError(`Flag "--${flag}" wants one of ${names.join(", ")}, found "${text}"`);
}

/**
 * All combinations of the lists, models outermost and methods innermost but one, so that those to compare lie together.
 *
 * @throws {UsageError} for a value that cannot be
 */
function combinations(args: Arguments): SampleRequest["settings"][] {
  const fields: [string, string[]][] = [
    ["model", [...args.words]],
    ...LISTS.map(({ name }): [string, string[]] => [
      name,
      args.value(name)?.text.split(",").map((item) => item.trim()) ?? [],
    ]),
  ];
  let all: Record<string, string>[] = [{}];
  for (const [name, values] of fields) {
    if (name === "methods") {
      const methods = methodNames(args.value("methods")?.text ?? DEFAULT_METHODS);
      all = all.flatMap((settings) => methods.map((method) => ({ ...settings, method })));
    } else if (values.length > 0) {
      all = all.flatMap((settings) => values.map((value) => ({ ...settings, [name]: value })));
    }
  }
  const lowMemory = args.on("low-memory");
  return all.map((settings) => ({
    ...settingsFromJson(settings, "Flags") as SampleRequest["settings"],
    ...lowMemory && { lowMemory },
  }));
}

/** Why combinations cannot be run, by combination: what their plans say, without running them. */
async function refusals(
  library: Library,
  all: readonly SampleRequest["settings"][],
): Promise<Map<SampleRequest["settings"], string>> {
  const reasons = new Map<SampleRequest["settings"], string>();
  let firstError: unknown;
  for (const settings of all) {
    try {
      await library.planFor(settings);
    } catch (error) {
      if (!(error instanceof ModelError || error instanceof DeviceError)) throw error;
      firstError ??= error;
      reasons.set(settings, error.message);
    }
  }
  if (reasons.size === all.length) throw firstError;
  return reasons;
}

/** Runs a combination in a process of its own. */
async function measure(context: Context, request: SampleRequest): Promise<BenchRow> {
  const { settings } = request;
  const program = Deno.build.standalone
    ? []
    : ["run", "-A", "--quiet", fileURLToPath(new URL("../stagevar.ts", import.meta.url))];
  const { code, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: [...program, "bench", `--sample=${JSON.stringify(request)}`],
    env: { NO_COLOR: "1" },
    stdin: "null",
    signal: context.signal,
  }).output();
  context.signal.throwIfAborted();
  const said = new TextDecoder().decode(stderr).trim();
  if (code !== 0) {
    return { settings, error: said.replace(/^Error: /, "").replaceAll("\n", ". ") || `Exit code ${code}` };
  }
  const sample = JSON.parse(new TextDecoder().decode(stdout).trimEnd().split("\n").at(-1)!);
  const { findModel } = await context.library();
  const { folder } = await findModel(settings.model ?? "shapes");
  const quality = await qualityOf(folder, sample.modelHash, settings);
  return { settings, sample, ...quality && { quality } };
}

async function printSample(context: Context, text: string): Promise<void> {
  let request: SampleRequest;
  try {
    request = JSON.parse(text);
  } catch (cause) {
    throw new UsageError(`Flag "--sample" is no JSON: ${(cause as Error).message}`, { cause });
  }
  const { takeSample } = await import("../src/benchmark/sample.ts");
  context.stdout.write(jsonLine(await takeSample(request, () => {}, context.signal)));
}
