import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { join } from "node:path";
import { planFor } from "../src/prepare.ts";
import { DeviceError, UsageError } from "../src/errors.ts";
import { compile, findTarget, packingList, TARGETS } from "../tools/compile.ts";
import { smoke } from "../tools/smoke.ts";

const ROOT = join(import.meta.dirname!, "..");

/** A folder for one test. */
async function withFolder(work: (folder: string) => Promise<void>): Promise<void> {
  const folder = await Deno.makeTempDir();
  try {
    await work(folder);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

/** A folder or file of a compiled program's table of contents, in the words of Deno's virtual_fs.rs. */
type Entry =
  | { Dir: { n: string; e: Entry[] } }
  | { File: { n: string; o: [offset: number, length: number] } }
  | { Symlink: { n: string; p: string[] } };

/** Writes what a program carries, as it does itself when it first runs; returns the paths. */
async function unpack(program: Uint8Array, folder: string): Promise<string[]> {
  const text = new TextEncoder().encode('[{"Dir":{"n":".deno_compile_node_modules"');
  const start = Buffer.from(program.buffer).indexOf(text);
  assert(start > 0, "the program has no table of contents");
  const view = new DataView(program.buffer);
  const length = Number(view.getBigUint64(start - 8, true));
  const contents: Entry[] = JSON.parse(new TextDecoder().decode(program.subarray(start, start + length)));
  const data = program.subarray(start + length + 8);
  const paths: string[] = [];
  const write = async (entries: Entry[], parent: string): Promise<void> => {
    for (const entry of entries) {
      if ("Dir" in entry) {
        await Deno.mkdir(join(folder, parent, entry.Dir.n));
        await write(entry.Dir.e, `${parent}${entry.Dir.n}/`);
      } else if ("File" in entry) {
        const { n: name, o: [offset, length] } = entry.File;
        paths.push(parent + name);
        await Deno.writeFile(join(folder, parent, name), data.subarray(offset, offset + length));
      } else {
        await Deno.symlink(join(folder, ...entry.Symlink.p), join(folder, parent, entry.Symlink.n));
      }
    }
  };
  await write(contents, "");
  return paths;
}

Deno.test("packingList() holds one library and what the model is drawn with", async () => {
  for (const target of TARGETS) {
    const list = await packingList(ROOT, target);
    const [library, ...others] = list;
    const compilers = others.filter((path) => path.endsWith(".dll"));
    const names = compilers.map((path) => path.slice(path.lastIndexOf("/") + 1));
    assert.deepEqual(names, target.os === "windows" ? ["dxcompiler.dll", "dxil.dll"] : []); // WebGPU on Direct3D 12
    const model = others.filter((path) => !compilers.includes(path));
    assert.match(library!, /^node_modules\/onnxruntime-node\/bin\/.*\/(lib)?onnxruntime[^/]*\.(so\.1|1\.dylib|dll)$/);
    assert(model.includes("models/shapes/text/tokenizer.json"));
    assert(model.every((path) => /^models\/shapes\/.*\.(json|safetensors)$/.test(path)), model.join("\n"));
    await Promise.all(list.map((path) => Deno.stat(join(ROOT, path))));
  }
  const libraries = await Promise.all(TARGETS.map(async (target) => (await packingList(ROOT, target))[0]));
  assert.equal(new Set(libraries).size, TARGETS.length);
});

Deno.test("packingList() says what to do when the library is not installed", async () => {
  await withFolder(async (root) => {
    await assert.rejects(packingList(root, TARGETS[0]!), (error) => {
      assert(error instanceof DeviceError);
      assert.match(error.message, /"node_modules\/onnxruntime-node\/.*libonnxruntime/);
      assert.match(error.hint!, /deno install/);
      return true;
    });
  });
});

Deno.test("findTarget() knows this machine and refuses platforms without a library", () => {
  assert.equal(findTarget().os, Deno.build.os);
  assert.throws(() => findTarget("x86_64-apple-darwin"), UsageError);
});

/** Does something while `deno compile` takes `path` for its runtime instead of downloading one. */
async function withRuntime<T>(path: string, work: () => Promise<T>): Promise<T> {
  const before = Deno.env.get("DENORT_BIN");
  Deno.env.set("DENORT_BIN", path);
  try {
    return await work();
  } finally {
    if (before === undefined) Deno.env.delete("DENORT_BIN");
    else Deno.env.set("DENORT_BIN", before);
  }
}

Deno.test("compile() says in one line that Deno's runtime cannot be had, and leaves what was there", async () => {
  await withFolder(async (folder) => {
    const output = join(folder, "stagevar");
    const program = Deno.build.os === "windows" ? `${output}.exe` : output;
    await Deno.writeTextFile(program, "the one from before");
    const building = withRuntime(
      join(folder, "missing"),
      () => compile({ root: ROOT, target: findTarget(), include: [], output }),
    );
    await assert.rejects(building, (error) => {
      assert(error instanceof DeviceError);
      assert.match(error.message, /^Cannot get Deno's runtime for "[^"\n]+": [^\n]*denort[^\n]*$/);
      assert.match(error.hint!, /DENORT_BIN/);
      return true;
    });
    assert.equal((await Array.fromAsync(Deno.readDir(folder))).length, 1);
    assert.equal(await Deno.readTextFile(program), "the one from before");
  });
});

Deno.test("compile() builds a program that carries all it needs", async (test) => {
  await withFolder(async (folder) => {
    const target = findTarget();
    const include = await packingList(ROOT, target);
    const request = { root: ROOT, target, include, output: join(folder, "stagevar") };
    let runnable = true;
    const program = await compile(request).catch((error) => {
      if (!(error instanceof DeviceError && /Cannot get/.test(error.message))) throw error;
      runnable = false;
      console.log(`The program is packed, not run. ${error.message}`);
      return withRuntime(Deno.execPath(), () => compile(request)); // packs alike, but starts as plain deno
    });
    const unpacked = join(folder, "unpacked");
    await Deno.mkdir(unpacked);

    await test.step("and nothing else", async () => {
      const paths = await unpack(await Deno.readFile(program), unpacked);
      assert(paths.includes("src/worker.ts"), "threads are named by their URL alone");
      const data = paths.filter((path) => !/^(stagevar|mod|(cli|src)\/.*)\.ts$/.test(path));
      const foreign = data.filter((path) =>
        !path.startsWith(".deno_compile_node_modules/localhost/@bufbuild/protobuf/")
      );
      const links = "node_modules/.deno/onnxruntime-node@1.30.0/node_modules/onnxruntime-node/";
      const named = foreign.map((path) => path.replace(links, "node_modules/onnxruntime-node/"));
      const wasm = ["core.js", "core_bg.js", "core_bg.wasm"].map((name) => `core_rs/pkg/${name}`);
      const wanted = [...include, ...wasm, "core_cuda/kernels.ptx", "deno.json"];
      assert.deepEqual(named.sort(), wanted.sort());
      for (const path of include) {
        assert.deepEqual(await Deno.readFile(join(unpacked, path)), await Deno.readFile(join(ROOT, path)), path);
      }
    });

    const { width, height } = await planFor({});
    await test.step("so that what it unpacks draws a picture", async () => {
      const entry = join(unpacked, "stagevar.ts");
      const deno = [Deno.execPath(), "run", "-A", "--cached-only", "--node-modules-dir=none", entry] as const;
      assert.deepEqual((await smoke(deno)).size, [width, height]);
    });

    await test.step({
      name: "and draws one itself",
      ignore: !runnable,
      fn: async () => assert.deepEqual((await smoke([program])).size, [width, height]),
    });
  });
});
