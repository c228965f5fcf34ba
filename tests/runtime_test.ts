import assert from "node:assert/strict";
import { DeviceError, ModelError } from "../src/errors.ts";
import { Graph } from "../src/graph/graph.ts";
import { type DeviceOpeners, openDevice } from "../src/runtime/device.ts";
import { openNative } from "../src/runtime/native.ts";
import { floatTensor, intTensor, type Runtime } from "../src/runtime/runtime.ts";

/** A chain of square matrix products, long enough to be interrupted. */
function slowGraph(products: number, side: number): Graph {
  const graph = new Graph("slow");
  const weight = graph.floats(new Float32Array(side * side).fill(1 / side), [side, side]);
  let x = graph.input("x", "F32", ["n", side]);
  for (let i = 0; i < products; i++) x = graph.op("Gemm", [x, weight], { transB: 1 });
  graph.output("y", x, "F32", ["n", side]);
  return graph;
}

Deno.test("Session.run() leaves the event loop alive and computes in place of the caller's arrays", async () => {
  using runtime = openNative();
  using session = await runtime.createSession(slowGraph(8, 1024));
  const x = new Float32Array(512 * 1024).fill(2);
  const y = new Float32Array(512 * 1024);
  let ticks = 0;
  const timer = setInterval(() => ticks++, 1);
  await session.run({ x: floatTensor(x, [512, 1024]) }, { y: floatTensor(y, [512, 1024]) });
  clearInterval(timer);
  assert(ticks > 3, `the event loop ticked ${ticks} times`);
  assert(y.every((value) => Math.abs(value - 2) < 1e-4));
});

Deno.test("Session.run() stops in the middle when aborted", async () => {
  using runtime = openNative();
  using session = await runtime.createSession(slowGraph(400, 1024));
  const x = floatTensor(new Float32Array(1024 * 1024), [1024, 1024]);
  const y = floatTensor(new Float32Array(1024 * 1024), [1024, 1024]);
  const controller = new AbortController();
  const reason = new Error("enough");
  let aborted = 0;
  const timer = setTimeout(() => {
    aborted = performance.now();
    controller.abort(reason);
  }, 30);
  await assert.rejects(session.run({ x }, { y }, controller.signal), (error) => error === reason);
  clearTimeout(timer);
  assert(aborted > 0, "the run ended by itself: make it longer");
  await assert.rejects(session.run({ x }, { y }, AbortSignal.abort(reason)), (error) => error === reason);
});

Deno.test("Session.run() writes a sub-array and nothing beside it", async () => {
  const graph = new Graph("copy");
  graph.output("y", graph.op("Neg", [graph.input("x", "F32", ["n"])]), "F32", ["n"]);
  using runtime = openNative();
  using session = await runtime.createSession(graph);
  const buffer = new Float32Array(6);
  await session.run({ x: floatTensor(Float32Array.of(1, 2), [2]) }, { y: floatTensor(buffer.subarray(3, 5), [2]) });
  assert.deepEqual([...buffer], [0, 0, 0, -1, -2, 0]);
});

Deno.test("Session.run() explains shapes that do not fit", async () => {
  using runtime = openNative();
  using session = await runtime.createSession(slowGraph(1, 8));
  const x = floatTensor(new Float32Array(6), [1, 6]);
  const y = floatTensor(new Float32Array(8), [1, 8]);
  await assert.rejects(session.run({ x }, { y }), DeviceError);
  await assert.rejects(session.run({}, { y }), /wants a tensor for "x"/);
});

Deno.test("createSession() says which graph is wrong", async () => {
  const graph = new Graph("wrong");
  graph.output("y", graph.op("NoSuchOperator", [graph.input("x", "F32", ["n"])]), "F32", ["n"]);
  using runtime = openNative();
  await assert.rejects(runtime.createSession(graph), (error) => {
    assert(error instanceof ModelError);
    assert.match(error.message, /graph "wrong".*NoSuchOperator/);
    return true;
  });
});

Deno.test("a session disposed while it runs is released by the run's end", async () => {
  using runtime = openNative();
  const session = await runtime.createSession(slowGraph(4, 512));
  const y = new Float32Array(256 * 512);
  const run = session.run(
    { x: floatTensor(new Float32Array(256 * 512).fill(1), [256, 512]) },
    { y: floatTensor(y, [256, 512]) },
  );
  session[Symbol.dispose]();
  await run;
  assert(y.every((value) => Math.abs(value - 1) < 1e-4));
});

Deno.test("floatTensor() and intTensor() refuse a wrong length", () => {
  assert.throws(() => floatTensor(new Float32Array(5), [2, 3]), /wants 6 elements: 5 given/);
  assert.throws(() => intTensor([1], [2]), RangeError);
});

Deno.test("openDevice() falls back to WebAssembly once and says so", async () => {
  const portable = { device: "wasm", version: "fake" } as Runtime;
  const broken: DeviceOpeners = {
    native: () => {
      throw new DeviceError('Cannot load ONNX Runtime from "x.so": no such file');
    },
    webgpu: () => Promise.reject(new DeviceError("No WebGPU device: no adapter")),
    cuda: () => Promise.reject(new DeviceError("No CUDA device: no driver")),
    cudaInstalled: () => false,
    portable: () => Promise.resolve(portable),
  };
  const { runtime, notices } = await openDevice("auto", undefined, broken);
  assert.equal(runtime, portable);
  assert.equal(notices.length, 1);
  assert.match(notices[0]!, /WebAssembly.*no such file/);
  await assert.rejects(openDevice("cpu", undefined, broken), DeviceError); // what was asked for by name is not replaced
  await assert.rejects(openDevice("webgpu", undefined, broken), /no adapter/);
  await assert.rejects(
    openDevice("cuda", undefined, broken),
    (error) => error instanceof DeviceError && error.exitCode === 5,
  );
});

Deno.test("openDevice() takes CUDA by itself where its provider is installed, and says why not where it does not work", async () => {
  const opened: string[] = [];
  const open = (device: string) => (): Runtime => (opened.push(device), { device } as Runtime);
  const openers: DeviceOpeners = {
    native: open("cpu"),
    webgpu: () => Promise.resolve(open("webgpu")()),
    cuda: () => Promise.resolve(open("cuda")()),
    cudaInstalled: () => true,
    portable: () => Promise.resolve(open("wasm")()),
  };
  const { runtime, notices } = await openDevice("auto", undefined, openers);
  assert.deepEqual([runtime.device, notices, opened], ["cuda", [], ["cuda"]]);
  const cpu = await openDevice("auto", undefined, openers, { gpu: false }); // integers
  assert.deepEqual([cpu.runtime.device, cpu.notices], ["cpu", []]);
  const broken = { ...openers, cuda: () => Promise.reject(new DeviceError("No CUDA device: no driver")) };
  const fallen = await openDevice("auto", undefined, broken);
  assert.equal(fallen.runtime.device, "cpu");
  assert.match(fallen.notices.join(), /^Running on the CPU although [^\n]*no driver$/);
  await assert.rejects(openDevice("cuda", undefined, broken), /no driver/); // by name there is no other
});

Deno.test("openDevice() takes WebGPU only when it is asked for, and says when its attention is slow", async () => {
  const opened: string[] = [];
  const open =
    (device: string) => (): Runtime => (opened.push(device), { device, form: { attention: "plain" } } as Runtime);
  const openers: DeviceOpeners = {
    native: open("cpu"),
    webgpu: (options) => (assert.deepEqual(options, { threads: 3 }), Promise.resolve(open("webgpu")())),
    cuda: () => Promise.resolve(open("cuda")()),
    cudaInstalled: () => false,
    portable: () => Promise.resolve(open("wasm")()),
  };
  const { runtime, notices } = await openDevice("webgpu", 3, openers);
  assert.equal(runtime.device, "webgpu");
  assert.match(notices.join(), /attention/);
  assert.equal((await openDevice("auto", undefined, openers)).runtime.device, "cpu");
  assert.deepEqual(opened, ["webgpu", "cpu"]);
});

Deno.test("openNative() says what is missing when the library is not there", () => {
  const before = Deno.env.get("STAGEVAR_ORT_LIBS");
  Deno.env.set("STAGEVAR_ORT_LIBS", "no-such-folder");
  try {
    assert.throws(() => openNative(), /Cannot load ONNX Runtime from "no-such-folder/);
  } finally {
    before === undefined ? Deno.env.delete("STAGEVAR_ORT_LIBS") : Deno.env.set("STAGEVAR_ORT_LIBS", before);
  }
});
