/**
 * Draws the README's picture with a built program and checks it: `deno run -A tools/smoke.ts dist/stagevar`.
 *
 * The program runs in an empty folder, without a PATH or models of its own, on the native device or not at all.
 *
 * @module
 */
import assert from "node:assert/strict";
import { join, resolve } from "node:path";
import { VERSION } from "../src/record.ts";
import { readMetadata } from "../src/metadata.ts";
import { decodePng } from "../src/png.ts";

const PROMPT = "a red circle left of a blue square";

/** What the check saw. */
export interface SmokeReport {
  /** Milliseconds from start to exit of the first run, which unpacks the program, and of the same run again. */
  readonly ms: readonly [number, number];
  /** Pixels of the picture. */
  readonly size: readonly [width: number, height: number];
}

/**
 * Runs `command` for its version, and twice for the same picture.
 *
 * @throws {assert.AssertionError} saying what was wrong
 */
export async function smoke(command: readonly [string, ...string[]]): Promise<SmokeReport> {
  const folder = await Deno.makeTempDir();
  const run = async (...args: string[]): Promise<string> => {
    const [program, ...before] = command;
    const { success, code, stdout, stderr } = await new Deno.Command(program, {
      args: [...before, ...args],
      cwd: folder,
      env: { PATH: "", STAGEVAR_HOME: folder, STAGEVAR_ORT_LIBS: "" },
      stdin: "null",
    }).output();
    assert(success, `"${args.join(" ")}" ended with code ${code}: ${new TextDecoder().decode(stderr)}`);
    return new TextDecoder().decode(stdout);
  };
  try {
    const ms: number[] = [];
    const pictures: Uint8Array[] = [];
    for (const name of ["first.png", "again.png"]) {
      const started = performance.now();
      await run(PROMPT, "--seed", "7", "--device", "cpu", "--output", name);
      ms.push(performance.now() - started);
      pictures.push(await Deno.readFile(join(folder, name)));
    }
    assert.equal(await run("--version"), `stagevar ${VERSION}\n`);
    const [first, again] = pictures as [Uint8Array, Uint8Array];
    assert.deepEqual(again, first, "The same seed drew another picture");
    assert.equal(readMetadata(first).parameters?.prompt, PROMPT);
    const { width, height, data } = decodePng(first);
    assert(data.some((value) => Math.abs(value - data[0]!) > 32), "The picture is blank");
    return { ms: ms as [number, number], size: [width, height] };
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

if (import.meta.main) {
  const { ms, size } = await smoke([resolve(Deno.args[0] ?? "dist/stagevar")]);
  console.log(`${size.join("x")} pixels; first run ${ms[0].toFixed(0)} ms, again ${ms[1].toFixed(0)} ms`);
}
