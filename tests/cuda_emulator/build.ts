/** Builds a library that is a CUDA driver, which runs our kernels on the CPU, and a CUDA runtime, with the system's C++ compiler. */
import { join } from "node:path";
import { kernelSource } from "../../core_cuda/sources.ts";

const HERE = import.meta.dirname!;

/** Path of the library, in a folder that exists; or why there is none. */
export async function buildDriver(folder: string): Promise<{ path: string } | { missing: string }> {
  const plain = (await kernelSource())
    .replace("#include <cuda_fp16.h>", "")
    .replaceAll("#pragma unroll", "")
    .replace(/extern __shared__ (\w+) (\w+)\[\];/, "$1 *$2 = dynamic_$2;");
  await Deno.writeTextFile(join(folder, "kernels.inc"), plain);
  const path = join(folder, "driver.so");
  const flags = ["-std=c++20", "-O2", "-fPIC", "-shared", "-pthread", `-I${folder}`];
  let result: Deno.CommandOutput;
  try {
    result = await new Deno.Command("g++", {
      args: [...flags, "-o", path, join(HERE, "driver.cpp"), join(HERE, "runtime.cpp")],
    }).output();
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return { missing: "no g++" };
    throw error;
  }
  const said = new TextDecoder().decode(result.stderr);
  if (/_Float16|unrecognized command.line option/.test(said) && !result.success) {
    return { missing: "g++ has no C++20 with _Float16" };
  }
  if (!result.success) throw new Error(`g++ failed: ${said}`);
  return { path };
}
