import assert from "node:assert/strict";
import { kernelSource, sha256 } from "../core_cuda/sources.ts";
import { DeviceError } from "../src/errors.ts";
import { CudaKernels } from "../src/runtime/cuda_kernels.ts";
import { cudaComputes } from "../src/runtime/cuda_computes.ts";
import { openNative } from "../src/runtime/native.ts";
import { buildDriver } from "./cuda_emulator/build.ts";
import { fusedTrials, trialErrors } from "./fused_ops.ts";

const PTX = await Deno.readTextFile(new URL("../core_cuda/kernels.ptx", import.meta.url));

Deno.test("kernels.ptx was made of the sources as they are", async () => {
  assert.equal(
    PTX.split("\n")[0],
    `// Source: SHA-256 ${await sha256(await kernelSource())}`,
    "deno task cuda makes it",
  );
});

Deno.test("kernels without a driver are one clear error", () => {
  assert.throws(
    () => new CudaKernels(0n, PTX, "libno-such-driver.so.1"),
    (error) => error instanceof DeviceError && /Cannot load the CUDA driver/.test(error.message),
  );
});

const folder = await Deno.makeTempDir();
const driver = await buildDriver(folder);
if ("missing" in driver) console.log(`CUDA kernels are not tried on the CPU: ${driver.missing}`);

Deno.test({
  name: "CUDA kernels, run on the CPU, compute what their operators are defined as",
  ignore: "missing" in driver,
  fn: async (test) => {
    const kernels = new CudaKernels(0n, PTX, (driver as { path: string }).path);
    {
      using runtime = openNative({ resident: "cuda", fused: cudaComputes(kernels) });
      for (const trial of fusedTrials(2)) {
        await test.step(`${trial.op} [${trial.inputs[0]}]`, async () => {
          const { errors, right } = await trialErrors(runtime, trial);
          assert(right, `relative errors ${errors}`);
        });
      }
    }
    assert.throws(() => kernels.launch("add_bias", { blocks: 0, threads: 256 }, [0, 0, 1, 0, 0]), /invalid argument/);
    assert.throws(() => kernels.launch("add_bias", { blocks: 1, threads: 256 }, [0]), TypeError);
    kernels[Symbol.dispose]();
    assert.throws(() => new CudaKernels(0n, "no PTX", (driver as { path: string }).path), /Cannot load kernels.*PTX/);
  },
});

Deno.test("kernels are cleaned up", async () => await Deno.remove(folder, { recursive: true }));
