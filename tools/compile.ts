/**
 * Builds `dist/stagevar`, one file that needs nothing installed: `deno task compile [--target TRIPLE]`.
 *
 * `deno compile` follows the imports; what the program opens by path is listed here: the native library of one platform
 * and the embedded model. On its first run the program unpacks itself beside its own file (or into the user's data folder),
 * because ONNX Runtime maps weights from real files (specs/onnxruntime.md H).
 *
 * @module
 */
import { basename, dirname, join, relative } from "node:path";
import { parseArgs } from "node:util";
import { processContext } from "../cli/context.ts";
import { reportError } from "../cli/exit.ts";
import { byteCount, table } from "../cli/term.ts";
import { DeviceError, UsageError } from "../src/errors.ts";
import { openInfinity } from "../src/models/infinity/model.ts";
import { libraryFile } from "../src/runtime/library_path.ts";

/** A platform that the program is built for. */
export interface Target {
  /** As `deno compile --target` names it. */
  readonly triple: string;
  /** As `Deno.build.os` names it there. */
  readonly os: "linux" | "darwin" | "windows";
  /** As `Deno.build.arch` names it there. */
  readonly arch: "x86_64" | "aarch64";
}

/** Platforms for which both Deno and npm:onnxruntime-node have binaries. */
export const TARGETS: readonly Target[] = [
  { triple: "x86_64-unknown-linux-gnu", os: "linux", arch: "x86_64" },
  { triple: "aarch64-unknown-linux-gnu", os: "linux", arch: "aarch64" },
  { triple: "aarch64-apple-darwin", os: "darwin", arch: "aarch64" },
  { triple: "x86_64-pc-windows-msvc", os: "windows", arch: "x86_64" },
];

/** What threads run: the program names it by its URL. */
const WORKER = "src/worker.ts";

/** The folder of the model that is embedded. */
const MODEL = "models/shapes";

/** What a model folder holds for people, training and other tokenizers, not for drawing. */
const UNUSED = /\.(py|jsonl|md|txt)$|\/spiece\.model$/;

/**
 * The target of a name, this machine's by default.
 *
 * @throws {UsageError} when no program can be built for it
 */
export function findTarget(triple: string = Deno.build.target): Target {
  const target = TARGETS.find((target) => target.triple === triple);
  if (target !== undefined) return target;
  throw new UsageError(
    `Cannot compile for "${triple}": wanted one of ${TARGETS.map(({ triple }) => triple).join(", ")}`,
    {
      hint: "Elsewhere run it with Deno: deno run -A stagevar.ts",
    },
  );
}

/**
 * Files that the program opens by path, relative to the project, with `/`: the target's native library and the model.
 *
 * The library alone is enough where it holds Dawn and calls the system's Vulkan or Metal: it is called by its C interface.
 * On Windows Dawn loads the shader compiler of Direct3D 12 from beside it; DirectML is never asked for.
 *
 * @throws {DeviceError} when the package with the library is not installed
 */
export async function packingList(root: string, target: Target): Promise<string[]> {
  const library = `node_modules/onnxruntime-node/${libraryFile(target.os, target.arch)}`;
  const found = await Deno.stat(join(root, library)).catch(() => undefined);
  if (!found?.isFile) {
    throw new DeviceError(`No file "${library}" to embed`, { hint: "Run deno install in the project's folder" });
  }
  const compilers = target.os === "windows" ? ["dxcompiler.dll", "dxil.dll"] : [];
  const neighbours = compilers.map((name) => `${library.slice(0, library.lastIndexOf("/"))}/${name}`);
  return [library, ...neighbours, ...(await files(root, MODEL)).filter((path) => !UNUSED.test(path))];
}

async function files(root: string, folder: string): Promise<string[]> {
  const found: string[] = [];
  for (const { name, isDirectory } of await Array.fromAsync(Deno.readDir(join(root, folder)))) {
    if (name.startsWith(".") || name === "__pycache__") continue;
    const path = `${folder}/${name}`;
    if (isDirectory) found.push(...await files(root, path));
    else found.push(path);
  }
  return found.sort();
}

/** What to build. */
export interface CompileRequest {
  /** The project's folder. */
  readonly root: string;
  /** The platform. */
  readonly target: Target;
  /** Files to embed besides the modules, from {@linkcode packingList}. */
  readonly include: readonly string[];
  /** Path of the program, without `.exe`. */
  readonly output: string;
}

/**
 * Runs `deno compile` and returns the program's path. A program from before stays untouched until the new one is whole.
 *
 * @throws {DeviceError} when Deno's runtime for the target cannot be downloaded, or the compiler fails
 */
export async function compile({ root, target, include, output }: CompileRequest): Promise<string> {
  const program = output + (target.os === "windows" ? ".exe" : "");
  await Deno.mkdir(dirname(program), { recursive: true });
  const workshop = await Deno.makeTempDir({ dir: dirname(program), prefix: ".compile-" });
  try {
    const built = join(workshop, basename(program));
    const { success, stderr } = await new Deno.Command(Deno.execPath(), {
      args: [
        "compile",
        ...["--allow-all", "--self-extracting", "--no-check"],
        ...["--target", target.triple, "--output", built],
        // Together: npm packages come from the lock file and only those that a module imports; nothing of node_modules
        // comes along but the library named below.
        ...["--frozen", "--node-modules-dir=none", "--exclude-unused-npm"],
        ...["--include", WORKER],
        ...include.flatMap((path) => ["--include", path]),
        "stagevar.ts",
      ],
      cwd: root,
      env: { NO_COLOR: "1" },
      stdin: "null",
      stdout: "null",
    }).output();
    if (!success) throw explain(new TextDecoder().decode(stderr), target);
    await Deno.rename(built, program);
    return program;
  } finally {
    await Deno.remove(workshop, { recursive: true });
  }
}

/** Deno prints a chain of causes: the one that names denort is about the download, any other about the build. */
function explain(log: string, { triple }: Target): DeviceError {
  const lines = log.split("\n").map((line) => line.trim());
  const runtime = lines.find((line) => /^\d+: .*denort/.test(line));
  if (runtime !== undefined) {
    return new DeviceError(`Cannot get Deno's runtime for "${triple}": ${runtime.replace(/^\d+: /, "")}`, {
      hint: "Build where that address can be reached, or set DENORT_BIN to a denort of this version of Deno",
      cause: new Error(log),
    });
  }
  const reason = lines.find((line) => line.startsWith("error"))?.replace(/^error:?\s*/, "") ?? "no reason given";
  return new DeviceError(`Cannot compile for "${triple}": ${reason}`, {
    hint: "Run it again with --verbose to see all of the compiler's log",
    cause: new Error(log),
  });
}

function readFlags(args: readonly string[]): { target: Target } {
  try {
    const { values } = parseArgs({
      args: [...args],
      options: { target: { type: "string" }, verbose: { type: "boolean" } },
    });
    return { target: findTarget(values.target) };
  } catch (cause) {
    if (cause instanceof UsageError) throw cause;
    throw new UsageError((cause as Error).message, { cause, hint: "Run: deno task compile [--target TRIPLE]" });
  }
}

async function main(): Promise<number> {
  const context = processContext();
  try {
    const root = join(import.meta.dirname!, "..");
    const { target } = readFlags(Deno.args);
    await openInfinity(join(root, MODEL)); // a program without its model is not to be released
    const include = await packingList(root, target);
    const sizes = await Promise.all(include.map(async (path) => (await Deno.stat(join(root, path))).size));
    const program = await compile({ root, target, include, output: join(root, "dist", "stagevar") });
    const rows = include.map((path, i) => [path, byteCount(sizes[i]!)]);
    const whole = [relative(Deno.cwd(), program), byteCount((await Deno.stat(program)).size)];
    context.stderr.write(table([...rows, ["", ""], whole], [1]));
    context.stdout.write(`${program}\n`);
    return 0;
  } catch (error) {
    return reportError(error, context, Deno.args.includes("--verbose"));
  }
}

if (import.meta.main) Deno.exit(await main());
