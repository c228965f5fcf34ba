import assert from "node:assert/strict";
import { createRequire } from "node:module";
import { join } from "node:path";
import { parseArguments } from "../cli/command.ts";
import { doctorOf } from "../cli/doctor.ts";
import { DeviceError } from "../src/errors.ts";
import { diagnose } from "../src/runtime/doctor.ts";
import type { Finding } from "../src/runtime/doctor_library.ts";
import { libraryFile, libraryPath } from "../src/runtime/library_path.ts";
import { OrtApi } from "../src/runtime/ort_api.ts";
import { thisSystem } from "../src/runtime/system.ts";
import { FakeContext } from "./cli_fakes.ts";
import { fakeRuntime, forgeCache, forgeElf, machine, type World } from "./doctor_forge.ts";

const ROOT = join(import.meta.dirname!, "..");
const FOLDER = "/usr/local/ann/stagevar/node_modules/onnxruntime-node/bin/napi-v6/linux/x64";
const LIBRARY = `${FOLDER}/libonnxruntime.so.1`;
const SCRIPT = "/usr/local/ann/stagevar/node_modules/onnxruntime-node/script/install.js";

/** A Linux machine without a GPU, as an ordinary install leaves it. */
const PLAIN: World = {
  files: { [LIBRARY]: forgeElf({ needed: ["libc.so.6"] }), [SCRIPT]: "", "/usr/local/ann/stagevar/deno.json": "{}" },
  env: { HOME: "/usr/local/ann", PATH: "/usr/bin" },
};

const CUDA_13 = ["libcublasLt.so.13", "libcublas.so.13", "libcurand.so.10", "libcudart.so.13", "libcuda.so.1"];

/** The same machine with a driver, the provider, and CUDA where the loader's cache says. */
const GPU: World = {
  ...PLAIN,
  files: {
    ...PLAIN.files,
    [`${FOLDER}/libonnxruntime_providers_shared.so`]: forgeElf({}),
    [`${FOLDER}/libonnxruntime_providers_cuda.so`]: forgeElf({ needed: [...CUDA_13, "libc.so.6"] }),
    [`${FOLDER}/libonnxruntime_providers_tensorrt.so`]: forgeElf({ needed: ["libcudnn.so.9", "libnvinfer.so.10"] }),
    "/etc/ld.so.cache": forgeCache(
      [...CUDA_13, "libcudnn.so.9"].map((name) => [name, `/usr/local/cuda/lib64/${name}`] as const),
    ),
    ...Object.fromEntries([...CUDA_13, "libcudnn.so.9"].map((name) => [`/usr/local/cuda/lib64/${name}`, "ELF"])),
    "/lib/x86_64-linux-gnu/libc.so.6": "ELF",
    "/usr/bin/nvidia-smi": "",
    "/proc/driver/nvidia/version":
      "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build  (root@host)\n",
    "/proc/driver/nvidia/gpus/0000:01:00.0/information": "Model: \t\t NVIDIA H200\nIRQ:   \t\t 16\n",
  },
  cudaVersion: 13000,
};

function without(world: World, ...paths: string[]): World {
  return {
    ...world,
    files: Object.fromEntries(Object.entries(world.files ?? {}).filter(([path]) => !paths.includes(path))),
  };
}

async function findings(world: World): Promise<{ device: string | undefined; get(id: string): Finding | undefined }> {
  const { device, findings } = await diagnose(machine(world));
  for (const { found, next } of findings) {
    assert(found !== "" && !/undefined|NaN|\[object/.test(`${found} ${next}`.replace(/ undefined$/, "")), found);
  }
  return { device, get: (id) => findings.find(({ part, name }) => id === `${part} ${name}`) };
}

Deno.test("diagnose() finds driver, provider, majors and libraries on a machine with CUDA", async () => {
  const { device, get } = await findings(GPU);
  assert.equal(device, "cpu"); // what auto uses, whatever else is there
  const driver = get("cuda driver")!;
  assert.equal(driver.status, "ok");
  assert.match(driver.found, /CUDA up to 13\.0, NVIDIA H200, kernel module 580\.65\.06, \/usr\/bin\/nvidia-smi$/);
  assert.equal(get("cuda provider")?.status, "ok");
  assert.equal(get("cuda links")?.found, "cuBLAS 13, CUDA 13, cuDNN 9 by name, for convolutions and attention");
  assert.equal(get("cuda links")?.status, "ok");
  assert.equal(get("cuda libraries")?.status, "ok");
  assert.equal(get("cuda cudnn")?.found, '"/usr/local/cuda/lib64/libcudnn.so.9"');
  const alone = await findings(without(GPU, `${FOLDER}/libonnxruntime_providers_tensorrt.so`));
  assert.equal(alone.get("cuda links")?.found, "cuBLAS 13, CUDA 13, cuDNN 9 by name, for convolutions and attention");
  // Libraries for a device do not make the device: what opens it says so.
  assert.equal(get("cuda --device cuda")?.status, "missing");
});

Deno.test("diagnose() names the majors of a provider that links cuDNN itself", async () => {
  const needed = ["libcudart.so.12", "libcublas.so.12", "libcufft.so.11", "libcudnn.so.9"];
  const files = { ...GPU.files, [`${FOLDER}/libonnxruntime_providers_cuda.so`]: forgeElf({ needed }) };
  const { get } = await findings({ ...GPU, files });
  assert.equal(get("cuda links")?.found, "CUDA 12, cuBLAS 12, cuFFT 11, cuDNN 9");
  const libraries = get("cuda libraries")!;
  assert.equal(libraries.found, "the loader does not find libcudart.so.12, libcublas.so.12, libcufft.so.11");
  assert.match(libraries.next!, /CUDA 12.*LD_LIBRARY_PATH/);
  assert.equal(get("cuda cudnn"), undefined);
  const env = { ...GPU.env, LD_LIBRARY_PATH: "/usr/local/cuda12" };
  const found = Object.fromEntries(needed.map((name) => [`/usr/local/cuda12/${name}`, ""]));
  assert.equal((await findings({ ...GPU, env, files: { ...files, ...found } })).get("cuda libraries")?.status, "ok");
});

Deno.test("diagnose() says when the driver is older than the CUDA that the provider links", async () => {
  const { get } = await findings({ ...GPU, cudaVersion: 12040 });
  assert.match(get("cuda driver")!.found, /CUDA up to 12\.4/);
  assert.equal(get("cuda links")?.status, "missing");
  assert.match(get("cuda links")!.next!, /serves CUDA 12: install one for CUDA 13/);
});

Deno.test("diagnose() gives the one command that installs the provider", async () => {
  const { device, get } = await findings(PLAIN);
  assert.equal(device, "cpu");
  assert.match(get("cuda driver")!.found, /libcuda\.so\.1, no kernel module, no nvidia-smi in PATH/);
  const provider = get("cuda provider")!;
  assert(provider.found.includes(FOLDER));
  const { imports } = JSON.parse(Deno.readTextFileSync(join(ROOT, "deno.json")));
  const [command, other] = provider.next!.split("\n");
  assert.equal(
    command,
    `Run: deno run -A --config "/usr/local/ann/stagevar/deno.json" ${
      imports["onnxruntime-node"]
    }/script/install.js --onnxruntime-node-install=cuda12`,
  );
  assert.match(other!, /STAGEVAR_ORT_LIBS/);
  const packed = await findings(without(PLAIN, SCRIPT)); // a compiled program has no package beside its library
  assert.match(packed.get("cuda provider")!.next!, /^Set STAGEVAR_ORT_LIBS/);
});

Deno.test("the package's install script takes the flag that diagnose() gives", () => {
  const script = join(libraryPath(), "../../../../../script");
  const { manifests } = createRequire(import.meta.url)(join(script, "install-metadata.js"));
  assert(Object.hasOwn(manifests, "linux/x64:cuda12"));
  assert(Deno.readTextFileSync(join(script, "install-utils.js")).includes("'--onnxruntime-node-install='"));
});

Deno.test("diagnose() looks in the folder of STAGEVAR_ORT_LIBS alone", async () => {
  const env = { ...GPU.env, STAGEVAR_ORT_LIBS: "/usr/local/ort" };
  const library = "/usr/local/ort/libonnxruntime.so.1";
  const { get } = await findings({ ...GPU, env, library, files: { ...GPU.files, [library]: "" } });
  assert.match(get("onnxruntime library")!.found, /"\/usr\/local\/ort\/libonnxruntime\.so\.1" \(STAGEVAR_ORT_LIBS\)$/);
  assert.match(get("cuda provider")!.found, /in "\/usr\/local\/ort" \(STAGEVAR_ORT_LIBS\)$/);
  assert.match(get("cuda provider")!.next!, /^Put libonnxruntime_providers_cuda\.so/);
  const empty = await findings({ ...GPU, env, library, fails: "no such file" });
  assert.match(empty.get("onnxruntime library")!.next!, /unset STAGEVAR_ORT_LIBS/);
});

Deno.test("diagnose() explains providers that are damaged or of another processor, and a driver that does not answer", async () => {
  const provider = `${FOLDER}/libonnxruntime_providers_cuda.so`;
  const whole = GPU.files![provider] as Uint8Array<ArrayBuffer>;
  const cut = await findings({ ...GPU, files: { ...GPU.files, [provider]: whole.subarray(0, 80) } });
  assert.equal(cut.get("cuda provider")?.status, "missing");
  assert.match(cut.get("cuda provider")!.found, /providers_cuda\.so" holds 80 bytes/);
  assert.match(cut.get("cuda provider")!.next!, /install\.js/);
  const other = await findings({ ...GPU, files: { ...GPU.files, [provider]: forgeElf({ machine: 183 }) } });
  assert.match(other.get("cuda provider")!.found, /is for aarch64, this machine is x86_64/);
  const deaf = await findings({ ...GPU, cudaVersion: new DeviceError("The CUDA driver answers with error 803") });
  assert.equal(deaf.get("cuda driver")?.status, "missing");
  assert.match(deaf.get("cuda driver")!.found, /error 803, kernel module 580/);
  assert.equal(deaf.get("cuda links")?.status, "ok"); // an unknown driver is not too old
});

Deno.test("diagnose() tells a container without its GPU from a machine without one", async () => {
  const { get } = await findings(without(GPU, "/usr/local/cuda/lib64/libcuda.so.1"));
  assert.match(get("cuda driver")!.next!, /docker run --gpus all/);
  assert.equal(get("cuda libraries")?.status, "ok"); // one fault, said once
});

Deno.test("diagnose() names what a native library lacks and falls to WebAssembly", async () => {
  const files = {
    ...PLAIN.files,
    [LIBRARY]: forgeElf({ needed: ["libstdc++.so.6", "libbeside.so"], runpath: "$ORIGIN" }),
    [`${FOLDER}/libbeside.so`]: "",
    "/usr/local/ann/.cache/deno/npm/registry/onnxruntime-web/1.30.0/package.json": "{}",
  };
  const fails = `Cannot load ONNX Runtime from "${LIBRARY}": libstdc++.so.6: cannot open`;
  const { device, get } = await findings({ ...PLAIN, files, fails });
  assert.equal(device, "wasm");
  assert.deepEqual(get("onnxruntime library"), {
    part: "onnxruntime",
    name: "library",
    found: fails,
    status: "missing",
    next: "Install libstdc++.so.6, or use --device wasm",
  });
  assert.match(get("wasm package")!.found, /in "\/usr\/local\/ann\/\.cache\/deno/);
  assert.equal(get("devices --device cpu")?.status, "missing");
  assert.equal(get("devices --device auto")?.status, "note");
  assert.match(get("devices --device auto")!.found, /^wasm, .*: Running on WebAssembly/);
  assert.equal(get("webgpu provider"), undefined); // nobody could ask the library
});

Deno.test("diagnose() finds no device, and fetches nothing, where neither library is there", async () => {
  let opened = 0;
  const portable = () => Promise.resolve((opened++, fakeRuntime("wasm")));
  const { device, get } = await findings({ ...PLAIN, fails: "Cannot load ONNX Runtime", portable });
  assert.equal(device, undefined);
  assert.equal(opened, 0);
  assert.match(get("wasm package")!.next!, /deno cache npm:onnxruntime-web@/);
  assert.match(get("devices --device auto")!.found, /onnxruntime-web.* is not on this machine/);
});

Deno.test("diagnose() does not trust a device that adds wrongly", async () => {
  const { device, get } = await findings({ ...PLAIN, native: () => fakeRuntime("cpu", 3) });
  assert.equal(device, undefined);
  assert.match(get("devices --device auto")!.found, /adds wrongly: \[2, 4\] is wanted, \[3,6\] found/);
});

Deno.test("diagnose() speaks of macOS and Windows as what they are", async () => {
  const mac: World = {
    os: "darwin",
    arch: "aarch64",
    env: { HOME: "/Users/ann" },
    providers: ["CoreML", "WebGpu", "CPU"],
  };
  const onMac = await findings({
    ...mac,
    files: { "/Users/ann/Library/Caches/deno/npm/registry/onnxruntime-web/1.30.0/package.json": "{}" },
  });
  assert.equal(onMac.get("cuda provider")?.status, "note");
  assert.equal(onMac.get("cuda driver"), undefined);
  assert.match(onMac.get("webgpu driver")!.found, /Metal/);
  assert.equal(onMac.get("wasm package")?.status, "ok");
  const installed = { [`/pkg/package.json`]: "{}" };
  const library = `/pkg/${libraryFile("darwin", "x86_64")}`;
  const intel = await findings({
    ...mac,
    arch: "x86_64",
    library,
    files: installed,
    fails: "Cannot load ONNX Runtime",
  });
  assert.match(intel.get("onnxruntime library")!.next!, /has none for darwin x86_64/);
  const windows = await findings({
    os: "windows",
    env: { LOCALAPPDATA: "/AppData/Local" },
    providers: ["Dml", "CPU"],
    files: { "/AppData/Local/deno/npm/registry/onnxruntime-web/1.30.0/package.json": "{}" },
  });
  assert.equal(windows.device, "cpu");
  assert.match(windows.get("webgpu driver")!.found, /Direct3D 12/);
  assert.equal(windows.get("webgpu provider")?.status, "missing");
  assert.equal(windows.get("wasm package")?.status, "ok");
});

Deno.test("diagnose() reads processor features and Vulkan drivers", async () => {
  const files = {
    ...PLAIN.files,
    "/proc/cpuinfo": "processor\t: 0\nflags\t\t: fpu sse2 avx2 fma avx512_vnni\n",
    "/usr/lib/x86_64-linux-gnu/libvulkan.so.1": "",
    "/usr/share/vulkan/icd.d/nvidia_icd.json": "{}",
    "/usr/local/ann/.local/share/vulkan/icd.d/mine.json": "{}",
    "/etc/vulkan/icd.d/README": "",
  };
  const { get } = await findings({ ...PLAIN, files });
  assert.equal(get("machine processor")?.found, "Fake CPU, 8 threads, avx2, fma, avx512_vnni");
  assert.equal(
    get("webgpu driver")?.found,
    '"/usr/lib/x86_64-linux-gnu/libvulkan.so.1", drivers mine.json nvidia_icd.json',
  );
  const named = await findings({ ...PLAIN, files, env: { ...PLAIN.env, VK_DRIVER_FILES: "/x/lvp_icd.json" } });
  assert.match(named.get("webgpu driver")!.found, /drivers lvp_icd\.json$/);
  const old = await findings({ ...PLAIN, files: { ...files, "/proc/cpuinfo": "flags : fpu sse2\n" } });
  assert.equal(old.get("machine processor")?.status, "note");
});

Deno.test("diagnose() looks for the version of onnxruntime-web that the device imports", () => {
  const version = (file: string): string =>
    /npm:onnxruntime-web@[\d.]+/.exec(Deno.readTextFileSync(join(ROOT, "src/runtime", file)))![0];
  assert.equal(version("doctor.ts"), version("web.ts"));
});

Deno.test("OrtApi.providers() lists what the library was built with", () => {
  const { version, providers } = thisSystem().loadLibrary(libraryPath());
  assert.equal(version, new OrtApi(libraryPath()).version);
  assert(providers.every((name) => /^[A-Za-z]+ExecutionProvider$/.test(name)), `${providers}`);
  assert.equal(providers.at(-1), "CPUExecutionProvider");
});

async function doctor(world: World, flags: string[]): Promise<{ context: FakeContext; error: unknown }> {
  const context = new FakeContext();
  const command = doctorOf(() => Promise.resolve(machine(world)));
  const args = parseArguments("doctor", command.options, flags, () => undefined);
  const error = await command.run(context, args).then(() => undefined, (error) => error);
  return { context, error };
}

Deno.test("stagevar doctor ends every finding with its status and what to do next", async () => {
  const { context, error } = await doctor(PLAIN, []);
  assert.equal(error, undefined);
  const lines = context.outText.split("\n");
  for (const line of lines.filter((line) => /^ {2}\S/.test(line))) assert.match(line, / {2}(ok|missing|note)$/);
  const at = lines.findIndex((line) => /^ {2}provider .*missing$/.test(line));
  assert.match(lines[at + 1]!, /^ +Run: deno run -A /);
  assert.match(
    context.outText,
    /^models\n {2}mini .*mini-2b" {2}ok\n {2}disk .*12\.0 GB free for "tests\/golden\/models"/m,
  );
});

Deno.test("stagevar doctor --json prints one object", async () => {
  const { context } = await doctor(GPU, ["--json"]);
  const report: { device: string; findings: Finding[] } = JSON.parse(context.outText);
  assert.equal(context.outText.trimEnd().split("\n").length, 1);
  assert.equal(report.device, "cpu");
  assert(report.findings.some(({ part, status }) => part === "models" && status === "ok"));
});

Deno.test("stagevar doctor reports, then exits 5, where no device works", async () => {
  const { context, error } = await doctor({ ...PLAIN, fails: "Cannot load ONNX Runtime" }, ["--json"]);
  assert.equal(JSON.parse(context.outText).device, null);
  assert(error instanceof DeviceError);
  assert.equal(error.exitCode, 5);
});

async function stagevar(cwd: string, args: string[]): Promise<{ code: number; out: string; err: string }> {
  const { code, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", "--quiet", "--cached-only", join(ROOT, "stagevar.ts"), ...args],
    cwd,
    env: { NO_COLOR: "1" },
    stdin: "null",
  }).output();
  return { code, out: new TextDecoder().decode(stdout), err: new TextDecoder().decode(stderr) };
}

Deno.test("stagevar doctor exits 0 on a machine whose native library loads", async () => {
  const { code, out, err } = await stagevar(ROOT, ["doctor"]);
  // WebGPU's library warns on its own, of drivers that are there or missing, and names a place in its sources in a second line
  const own = err.split("\n").filter((line) => line !== "" && !/^Warning: |^ {4}at .*dawn/.test(line));
  assert.deepEqual([code, own], [0, []]);
  assert.match(out, /^ {2}--device auto +cpu, onnxruntime [\d.]+ {2}ok$/m);
});

Deno.test("stagevar --device cuda exits 5 with one clear line and leaves nothing, where there is none", async () => {
  const folder = await Deno.makeTempDir();
  try {
    const model = join(ROOT, "tests/golden/models/mini-2b");
    const { code, out, err } = await stagevar(folder, ["x", "--device", "cuda", "-m", model]);
    assert.deepEqual([code, out], [5, ""]);
    assert.match(err, /^Error: No CUDA device: [^\n]*\nRun "stagevar doctor"[^\n]*--device cpu\n$/);
    assert.deepEqual([...Deno.readDirSync(folder)], []);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});
