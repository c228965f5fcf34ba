/**
 * The doctor's look at CUDA on Linux: the driver, the provider library, what that links and whether the loader finds it.
 *
 * @module
 */
import { basename, dirname, join } from "node:path";
import project from "../../deno.json" with { type: "json" };
import { DeviceError } from "../errors.ts";
import { type Finding, finding, type Library, linksOf, origin, packageOf } from "./doctor_library.ts";
import type { Links, Loader } from "./loader.ts";
import { readText, type System } from "./system.ts";

const PACKAGE = project.imports["onnxruntime-node"];

const PROVIDERS = ["libonnxruntime_providers_cuda.so", "libonnxruntime_providers_shared.so"] as const;

/** Major of the cuDNN that the provider of this ONNX Runtime loads. */
const CUDNN = 9;

/** Libraries of CUDA by what people call them. */
const CUDA_NAMES: Readonly<Record<string, string>> = {
  cudart: "CUDA",
  cublas: "cuBLAS",
  cufft: "cuFFT",
  cudnn: "cuDNN",
};

/**
 * What CUDA would need and what of it is there. The npm package has the provider for Linux on x86_64 only.
 *
 * @example
 * ```ts
 * import { checkCuda } from "@stagevar/stagevar/runtime/doctor_cuda.ts";
 * import { openLoader } from "@stagevar/stagevar/runtime/loader.ts";
 * import { thisSystem } from "@stagevar/stagevar/runtime/system.ts";
 * import assert from "node:assert/strict";
 * const mac = { ...thisSystem(), os: "darwin", arch: "aarch64" };
 * const findings = await checkCuda(mac, await openLoader(mac), { path: undefined, providers: [] });
 * assert.deepEqual(findings.map(({ status }) => status), ["note"]);
 * ```
 */
export async function checkCuda(system: System, loader: Loader, library: Library): Promise<Finding[]> {
  if (system.os !== "linux") {
    return [finding("cuda", "provider", "note", "ONNX Runtime's npm package has it for Linux on x86_64 only")];
  }
  const { driver, serves } = await checkDriver(system, loader);
  return [driver, ...await checkProvider(system, loader, library, serves)];
}

/** The driver, and the CUDA major that it serves at most. */
async function checkDriver(
  system: System,
  loader: Loader,
): Promise<{ readonly driver: Finding; readonly serves?: number }> {
  const path = await loader.find("libcuda.so.1");
  const proc = "/proc/driver/nvidia";
  // "... Kernel Module  535.104  ..." or "... Open Kernel Module for x86_64  550.54  ..."
  const kernel = /Kernel Module\s+(?:for \S+\s+)?(\d[\d.]*)/.exec(await readText(system, `${proc}/version`, 4096))?.[1];
  const tool = await inPath(system, "nvidia-smi");
  const facts = [kernel ? `kernel module ${kernel}` : "no kernel module", tool ?? "no nvidia-smi in PATH"].join(", ");
  if (path === undefined) {
    const next = kernel
      ? "In a container, start it with the GPU, as docker run --gpus all; else install NVIDIA's driver again"
      : "With an NVIDIA GPU, install its driver; without one there is nothing to do";
    return { driver: finding("cuda", "driver", "missing", `${notFound(["libcuda.so.1"])}, ${facts}`, next) };
  }
  const gpus: string[] = [];
  for (const id of await system.list(`${proc}/gpus`)) {
    const model = /^Model:\s*(.+)$/m.exec(await readText(system, `${proc}/gpus/${id}/information`, 4096))?.[1];
    gpus.push(model?.trim() ?? "unknown GPU");
  }
  try {
    const version = system.cudaVersion(path);
    const serves = Math.floor(version / 1000);
    const found = `"${path}" serves CUDA up to ${serves}.${Math.floor(version % 1000 / 10)}`;
    return { driver: finding("cuda", "driver", "ok", [found, ...gpus, facts].join(", ")), serves };
  } catch (error) {
    if (!(error instanceof DeviceError)) throw error;
    const next = "Install NVIDIA's driver again, of the kernel module's version";
    return { driver: finding("cuda", "driver", "missing", `${error.message}, ${facts}`, next) };
  }
}

/** The provider library beside ONNX Runtime, which looks for it nowhere else, and what that links. */
async function checkProvider(
  system: System,
  loader: Loader,
  library: Library,
  serves: number | undefined,
): Promise<Finding[]> {
  if (library.path === undefined) return [];
  const folder = dirname(library.path);
  const absent: string[] = [];
  for (const file of PROVIDERS) if (!await system.isFile(join(folder, file))) absent.push(file);
  if (absent.length > 0) {
    const found = `no ${absent.join(", ")} in "${folder}"${origin(system)}`;
    return [finding("cuda", "provider", "missing", found, await howToInstall(system, library.path))];
  }
  const links = await linksOf(system, loader, join(folder, PROVIDERS[0]));
  if (typeof links === "string") {
    return [finding("cuda", "provider", "missing", links, await howToInstall(system, library.path))];
  }
  const findings = [finding("cuda", "provider", "ok", `${PROVIDERS[0]} in "${folder}"${origin(system)}`)];

  const majors = majorsOf(links);
  const cuda = majors.get("cudart");
  // ONNX Runtime 1.30 does not link cuDNN but loads it by name when an operator wants it. The TensorRT provider of the
  // same build, which may lie beside this one, still links it: its major is read there.
  const tensorrt = await linksOf(system, loader, join(folder, "libonnxruntime_providers_tensorrt.so"));
  const beside = typeof tensorrt === "string" ? undefined : majorsOf(tensorrt).get("cudnn");
  const cudnn = majors.has("cudnn") ? undefined : beside ?? CUDNN;
  const names = [...majors].map(([name, major]) => `${CUDA_NAMES[name]} ${major}`);
  if (cudnn !== undefined) names.push(`cuDNN ${cudnn} by name, for convolutions and attention`);
  const behind = cuda !== undefined && serves !== undefined && serves < cuda
    ? `The driver serves CUDA ${serves}: install one for CUDA ${cuda}, or a provider for CUDA ${serves}`
    : undefined;
  findings.push(finding("cuda", "links", behind ? "missing" : "ok", names.join(", "), behind));

  const install = (what: string): string => `Install ${what}, or name the folder in LD_LIBRARY_PATH`;
  const lost = links.absent.filter((name) => name !== "libcuda.so.1"); // is the driver's
  findings.push(
    lost.length > 0
      ? finding("cuda", "libraries", "missing", notFound(lost), install(cuda ? `CUDA ${cuda}'s libraries` : "them"))
      : finding("cuda", "libraries", "ok", "the loader finds what the provider links"),
  );
  if (cudnn !== undefined) {
    const file = `libcudnn.so.${cudnn}`;
    const path = await loader.find(file);
    findings.push(
      path
        ? finding("cuda", "cudnn", "ok", `"${path}"`)
        : finding("cuda", "cudnn", "missing", notFound([file]), install(`cuDNN ${cudnn}`)),
    );
  }
  return findings;
}

function notFound(libraries: readonly string[]): string {
  return `the loader does not find ${libraries.join(", ")}`;
}

/** Major versions of the libraries in {@linkcode CUDA_NAMES}: `libcudart.so.13` is cudart 13. */
function majorsOf({ needed }: Links): Map<string, number> {
  const majors = new Map<string, number>();
  for (const file of needed) {
    const [, name, major] = /^lib(\w+)\.so\.(\d+)/.exec(file) ?? [];
    if (name !== undefined && Object.hasOwn(CUDA_NAMES, name)) majors.set(name, Number(major));
  }
  return majors;
}

/**
 * The command that fetches the provider: the package's own install script, which Deno takes for CommonJS only under its
 * npm name, run on the packages of the project that `--config` names. The script calls what it fetches cuda12, whichever
 * CUDA that links.
 */
async function howToInstall(system: System, library: string): Promise<string> {
  const files = PROVIDERS.join(" and ");
  if (origin(system)) return `Put ${files} there, of the same build as its ${basename(library)}`;
  const folder = `set STAGEVAR_ORT_LIBS to a folder with ${basename(library)}, ${files} of one build`;
  const script = await system.isFile(join(packageOf(library), "script", "install.js"));
  if (!script || system.arch !== "x86_64") return `S${folder.slice(1)}`;
  const settings = join(/^(.*)\/node_modules\//.exec(library)?.[1] ?? "", "deno.json");
  const config = await system.isFile(settings) ? ` --config "${settings}"` : "";
  return `Run: deno run -A${config} ${PACKAGE}/script/install.js --onnxruntime-node-install=cuda12\nor ${folder}`;
}

async function inPath(system: System, program: string): Promise<string | undefined> {
  for (const folder of (system.env("PATH") ?? "").split(":")) {
    const path = join(folder, program);
    if (folder !== "" && await system.isFile(path)) return path;
  }
  return undefined;
}
