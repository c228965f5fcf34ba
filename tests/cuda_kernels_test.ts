import assert from "node:assert/strict";
import { kernelSource, sha256 } from "../core_cuda/sources.ts";
import { DeviceError } from "../src/errors.ts";
import { CudaKernels } from "../src/runtime/cuda_kernels.ts";
import { cudaComputes } from "../src/runtime/cuda_computes.ts";
import { CudaMemory } from "../src/runtime/cuda_memory.ts";
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

Deno.test({
  name: "CUDA's memory takes and gives what was there when it was asked, in parts of any size",
  ignore: "missing" in driver,
  fn: () => {
    using memory = new CudaMemory((driver as { path: string }).path);
    assert.equal(memory.name, "Emulated GPU");
    const staging = 16 * 2 ** 20;
    for (const bytes of [1, 1000, staging - 1, staging, 2 * staging + 3]) {
      const data = Uint8Array.from({ length: bytes }, (_, i) => i * 7 + bytes);
      const [one, other] = [memory.allocate(bytes), memory.allocate(bytes)];
      memory.write(one, data);
      data.fill(1); // what is queued has been read
      memory.write(other, data);
      const found = [new Uint8Array(bytes), new Uint8Array(bytes)];
      memory.read(one, found[0]!);
      memory.read(other, found[1]!);
      assert(found[0]!.every((value, i) => value === (i * 7 + bytes) % 256), `${bytes} bytes`);
      assert(found[1]!.every((value) => value === 1));
      memory.free(one);
      assert.equal(memory.allocate(bytes), one, "what was freed is taken again");
    }
    for (let i = 0; i < 5; i++) memory.write(memory.allocate(staging / 2), new Uint8Array(staging / 2)); // more than is staged at a time
    assert.throws(
      () => memory.allocate(2 ** 32),
      (error) => error instanceof DeviceError && /memory/.test(error.message),
    );
  },
});

Deno.test("kernels are cleaned up", async () => await Deno.remove(folder, { recursive: true }));
