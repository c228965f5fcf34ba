/**
 * Rebuilds kernels.ptx: `deno task cuda [--nvrtc LIBRARY] [--include FOLDER]`, with NVIDIA's run-time compiler of CUDA 13.0 (PyPI:
 * nvidia-cuda-nvrtc) and the CUDA headers (nvidia-cuda-runtime, nvidia-cuda-crt). No GPU is needed.
 *
 * A later compiler writes PTX that drivers of CUDA 13.0 refuse. The architecture is the oldest that CUDA 13 knows; drivers compile
 * for theirs when the module is loaded, and keep the result.
 */
import { parseArgs } from "node:util";
import { kernelSource, sha256 } from "./sources.ts";

const { values } = parseArgs({
  options: {
    nvrtc: { type: "string", default: "libnvrtc.so.13" },
    include: { type: "string", default: "/usr/local/cuda/include" },
  },
});
const { symbols } = Deno.dlopen(values.nvrtc, {
  nvrtcCreateProgram: { parameters: ["buffer", "buffer", "buffer", "i32", "buffer", "buffer"], result: "i32" },
  nvrtcCompileProgram: { parameters: ["pointer", "i32", "buffer"], result: "i32" },
  nvrtcGetProgramLogSize: { parameters: ["pointer", "buffer"], result: "i32" },
  nvrtcGetProgramLog: { parameters: ["pointer", "buffer"], result: "i32" },
  nvrtcGetPTXSize: { parameters: ["pointer", "buffer"], result: "i32" },
  nvrtcGetPTX: { parameters: ["pointer", "buffer"], result: "i32" },
});
const cString = (text: string): Uint8Array<ArrayBuffer> => new TextEncoder().encode(`${text}\0`);
const source = await kernelSource();
const out = new BigUint64Array(1);
symbols.nvrtcCreateProgram(out, cString(source), cString("kernels.cu"), 0, null, null);
const program = Deno.UnsafePointer.create(out[0]!);
const options = ["--gpu-architecture=compute_75", "--std=c++17", `--include-path=${values.include}`].map(cString);
const table = BigUint64Array.from(options, (option) => Deno.UnsafePointer.value(Deno.UnsafePointer.of(option)));
const status = symbols.nvrtcCompileProgram(program, options.length, table);

/** A text of the program, whose size includes the NUL. */
function text(size: typeof symbols.nvrtcGetPTXSize, get: typeof symbols.nvrtcGetPTX): string {
  const length = new BigUint64Array(1);
  size(program, length);
  const bytes = new Uint8Array(Number(length[0]!));
  get(program, bytes);
  return new TextDecoder().decode(bytes.subarray(0, -1));
}
const log = text(symbols.nvrtcGetProgramLogSize, symbols.nvrtcGetProgramLog).trim();
if (log) console.error(log);
if (status !== 0) Deno.exit(1);
const ptx = text(symbols.nvrtcGetPTXSize, symbols.nvrtcGetPTX);
// a test compares the hash with that of the source that is there
await Deno.writeTextFile(new URL("kernels.ptx", import.meta.url), `// Source: SHA-256 ${await sha256(source)}\n${ptx}`);
console.log(`kernels.ptx: ${ptx.length} bytes, ${ptx.match(/\.entry (\w+)/g)?.join(", ")}`);
