import assert from "node:assert/strict";
import { join } from "node:path";
import { generate } from "../src/engine.ts";
import { detectObjects } from "../src/evaluate/checker.ts";
import { judge } from "../src/evaluate/geneval.ts";
import { readMetadata } from "../src/metadata.ts";
import { decodePng } from "../src/png.ts";
import { MINI_STAR } from "./mini_star.ts";

const ROOT = join(import.meta.dirname!, "..");

/** Runs the command line in a process with a lock file of its own: the optional package must not enter the project's. */
async function stagevar(folder: string, args: string[]): Promise<{ code: number; stderr: string }> {
  const lock = join(folder, "deno.lock");
  await Deno.copyFile(join(ROOT, "deno.lock"), lock);
  const { code, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", `--lock=${lock}`, join(ROOT, "stagevar.ts"), ...args],
    cwd: folder,
    env: { NO_COLOR: "1" },
  }).output();
  return { code, stderr: new TextDecoder().decode(stderr) };
}

Deno.test("--device wasm draws the embedded model's picture without the native library", async () => {
  const folder = await Deno.makeTempDir();
  try {
    const prompt = "a red circle left of a blue square";
    const { code, stderr } = await stagevar(folder, [prompt, "-s", "7", "--device", "wasm", "-o", "wasm.png"]);
    assert.equal(code, 0, stderr);
    assert.match(stderr, /on wasm/);
    const png = await Deno.readFile(join(folder, "wasm.png"));
    assert.equal((readMetadata(png).request as { seed: number }).seed, 7);
    const picture = await decodePng(png);
    const verdict = judge(detectObjects(picture), picture.width, {
      tag: "position",
      include: [{ class: "square", count: 1, color: "blue" }, {
        class: "circle",
        count: 1,
        color: "red",
        position: ["left of", 0],
      }],
      prompt,
    });
    assert.deepEqual(verdict, { correct: true, strict: true });
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});

Deno.test("where the native library cannot load, auto says so once and draws with WebAssembly", async () => {
  const folder = await Deno.makeTempDir();
  try {
    const lock = join(folder, "deno.lock");
    await Deno.copyFile(join(ROOT, "deno.lock"), lock);
    const { code, stderr } = await new Deno.Command(Deno.execPath(), {
      args: ["run", "-A", `--lock=${lock}`, join(ROOT, "stagevar.ts"), "a pink ring", "-s", "1", "-o", "ring.png"],
      cwd: folder,
      env: { NO_COLOR: "1", STAGEVAR_ORT_LIBS: folder },
    }).output();
    const said = new TextDecoder().decode(stderr);
    assert.equal(code, 0, said);
    assert.equal(said.match(/WebAssembly/g)?.length, 1, said);
    assert((await Deno.stat(join(folder, "ring.png"))).size > 500);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});

Deno.test("--device wasm draws a STAR model's picture, as the native library does", async () => {
  const folder = await Deno.makeTempDir();
  try {
    const request = {
      prompt: "a red circle",
      seed: 7,
      method: "stagevar",
      methodOptions: { alpha: "1,1", row: "cond" },
    };
    const flags = ["-s", "7", "--method", "stagevar", "--method-option", "alpha=1,1", "--method-option", "row=cond"];
    const args = [request.prompt, "--model", MINI_STAR, ...flags, "--device", "wasm", "-o", "wasm.png"];
    const { code, stderr } = await stagevar(folder, args);
    assert.equal(code, 0, stderr);
    assert.match(stderr, /on wasm/);
    const png = await Deno.readFile(join(folder, "wasm.png"));
    assert.equal((readMetadata(png).request as { topK: number }).topK, 600);
    const { data } = await decodePng(png);
    for await (const event of generate({ ...request, model: MINI_STAR })) {
      if (event.type !== "image") continue;
      const off = data.filter((value, i) => Math.abs(value - event.image.data[i]!) > 1).length;
      assert(off < 0.01 * data.length, `${off} values differ`); // a rounding may tip a code, not more
      assert.equal(data.length, event.image.data.length);
    }
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});
