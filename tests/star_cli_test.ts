/** The command line on a STAR model, with the real library behind it. */
import assert from "node:assert/strict";
import { join } from "node:path";
import type { Library } from "../cli/context.ts";
import { main } from "../cli/main.ts";
import { calibrate, Engine, findModel, listModels, planFor } from "../mod.ts";
import { type BenchReport, renderReport } from "../src/benchmark/report.ts";
import { decodePng } from "../src/png.ts";
import { parseRankTable } from "../src/presets.ts";
import { tempFolder } from "./checkpoint_forge.ts";
import { FakeContext, type FakeWorld, names } from "./cli_fakes.ts";
import { MINI_STAR, withCopyOfMiniStar, withRankedMiniStar } from "./mini_star.ts";

/** Writers that remember, and the library that the process has. */
class RealContext extends FakeContext {
  override library(): Promise<Library> {
    return Promise.resolve({
      open: (settings) => Engine.open(settings),
      async *calibrate(settings, request) {
        using engine = await Engine.open(settings);
        yield* calibrate(engine, request);
      },
      findModel,
      listModels,
      planFor,
    });
  }
}

async function stagevar(args: string[], world: FakeWorld = {}): Promise<{ code: number; out: string; err: string }> {
  const context = new RealContext(world);
  const code = await main(args, context);
  return { code, out: context.outText, err: context.errText };
}

Deno.test("main() show says what a STAR model draws", async () => {
  const { code, out, err } = await stagevar(["show", MINI_STAR]);
  assert.equal(code, 0, err);
  const lines = out.split("\n");
  assert.match(lines[0]!, /^mini-star {2}/);
  assert.equal(
    lines[1],
    "star, width 32, 6 blocks in 6 chunks, 2 heads, 256 codes for a token of 16x16 pixels",
  );
  assert.match(lines[2]!, /^draws 192x192 pixels in 6 scales, guidance 4\.5, temperature 1, hash [0-9a-f]{10}$/);
  const json = await stagevar(["show", MINI_STAR, "--json"]);
  const { shape, defaults, parts } = JSON.parse(json.out);
  assert.deepEqual(defaults, { pixels: "0.06M", cfg: 4.5, tau: 1, topP: 0.8, topK: 600 });
  assert.deepEqual([shape.family, shape.sides], ["star", [1, 2, 4, 7, 9, 12]]);
  assert.deepEqual(parts.map(({ part }: { part: string }) => part), ["transformer", "VAE decoder", "text encoder"]);
  for (const { parameters, bytes, types } of parts) {
    assert.deepEqual([types, bytes], [{ F32: parameters }, 4 * parameters]);
  }
  // by hand: 19 tensors a block less the two tables of zeros; 8 outside of them, the table of classes is not read
  assert.equal(parts[0].tensors, 17 * 6 + 8);
});

Deno.test("main() plan says what a STAR model would run, and how it was accelerated", async () => {
  await withRankedMiniStar(async (model) => {
    const { code, out, err } = await stagevar(["plan", "a red circle", "--model", model]);
    assert.equal(code, 0, err);
    assert.match(out, /^mini-star, method stagevar: 192x192 pixels in 6 scales/);
    assert.match(out, /^1 +1x1 +semantic +full +1 +1 +both +1 /m);
    assert.match(out, /^4 +7x7 +structure +full +3\.7 +1 +both +49 /m);
    assert.match(out, /^5 +9x9 +fidelity +full, no prompt +0 +1 +null +81 /m);
    assert.match(out, /^6 +12x12 +fidelity +project, rank 9-20, rope indices +0 +1 +null +\d+ of 144 /m);
    assert.match(out, /fidelity is the last 2 \(9x9 to 12x12\)/);
    assert.doesNotMatch(out, /13 square scales/, "that is the other family's");
    assert.match(out, /alpha 1,0\.9; row null; rope indices/);
    assert.match(out, /Ranks were measured on 1 prompts with mini-star, square at 0\.06M$/m);
    assert.match(out, /Only the null row runs from scale 5 on/);

    const cond = await stagevar(["plan", "--model", model, "--method-option", "row=cond"]);
    assert.match(cond.out, /^6 +12x12 +fidelity +project, rank 9-20, with the prompt, rope indices +1 +1 +cond /m);
    assert.match(cond.out, /Only the conditional row runs from scale 5 on/);
    const several = await stagevar(["plan", "--model", model, "--methods", "vanilla,stagevar,cache-only", "--json"]);
    const plans = several.out.trimEnd().split("\n").map((line) => JSON.parse(line));
    assert.deepEqual(plans.map(({ method, topK }) => [method, topK]), [
      ["vanilla", 600],
      ["stagevar", 600],
      ["cache-only", 600],
    ]);
  });
  const plain = await stagevar(["plan", "--model", MINI_STAR]);
  assert.match(plain.out, /^Note: No ranks are known for "mini-star", so nothing is accelerated/m);
});

Deno.test("main() draws with STAR, and info gives back a request that draws the picture again", async () => {
  await using folder = await tempFolder();
  const [first, second, request] = ["a.png", "b.png", "a.jsonl"].map((name) => join(folder.path, name)) as [
    string,
    string,
    string,
  ];
  const flags = ["--top-k", "40", "--top-p", "0.9", "--tau", "0.9", "-s", "7", "-n", "blur"];
  const drawn = await stagevar(["a red circle", "--model", MINI_STAR, ...flags, "-o", first]);
  assert.equal(drawn.code, 0, drawn.err);
  assert.equal(drawn.out, `${first}\n`);
  const info = await stagevar(["info", first, "--json"]);
  const stored = JSON.parse(info.out).request;
  assert.deepEqual([stored.topK, stored.topP, stored.tau, stored.model, stored.seed], [40, 0.9, 0.9, "mini-star", 7]);
  await Deno.writeTextFile(request, JSON.stringify({ ...stored, model: MINI_STAR }));
  const again = await stagevar(["--prompt-file", request, "-o", second]);
  assert.equal(again.code, 0, again.err);
  const told = await stagevar(["info", second]);
  assert.match(told.out, /^a red circle\nNegative prompt: blur\n\nSteps +6\nSampler +VAR\n/);
  const [a, b] = await Promise.all([first, second].map(async (path) => decodePng(await Deno.readFile(path))));
  assert.deepEqual(b, a);
});

Deno.test("main() exits 2 for what a STAR model cannot do, and writes nothing", async () => {
  const cases: [string[], RegExp][] = [
    [["--aspect", "16:9"], /draws squares of 192x192 pixels only\nLeave --aspect/],
    [["-W", "1920", "-H", "1080"], /draws squares of 192x192 pixels only\n/],
    [["--pixels", "1M"], /draws 192x192 pixels only, size "1M" is asked for\nLeave --pixels out/],
    [["--device", "cuda"], /family star, which does not run on device "cuda"\nUse --device cpu or wasm/],
    [["--device", "webgpu"], /does not run on device "webgpu"/],
    [["--dtype", "f16"], /family star, which has no dtype "f16": wanted f32\nLeave --dtype out/],
    [["--dtype", "u16"], /no dtype "u16"/],
    [["--dtype", "u8"], /no dtype "u8"/],
    [["--cfg-scale", "4,4"], /Guidance has 2 entries, the schedule has 6 scales\nGive one number/],
    [["--top-k", "-1"], /"--top-k" wants a whole number/],
    [["--top-k", "1.5"], /"--top-k" wants a whole number/],
    [["--method-option", "row=both", "--method", "unguided"], /Option "row" is "both", wanted one of null, cond/],
  ];
  await withCopyOfMiniStar(async (model) => {
    const before = names(model);
    for (const [flags, message] of cases) {
      await using folder = await tempFolder();
      const { code, out, err } = await stagevar([
        "a fox",
        "--model",
        model,
        ...flags,
        "-o",
        join(folder.path, "x.png"),
      ]);
      assert.deepEqual([code, out], [2, ""], `${flags}: ${err}`);
      assert.match(err, message);
      assert.deepEqual(names(folder.path), [], `${flags}`);
      assert.deepEqual(names(model), before);
    }
  });
  await using folder = await tempFolder();
  const bits = ["a fox", "--model", "tests/golden/models/mini-2b", "--top-k", "5", "-o", join(folder.path, "x.png")];
  const { code, err } = await stagevar(bits);
  assert.equal(code, 2);
  assert.match(err, /tokens of model "mini-2b" are bits.*\nLeave --top-k out/);
  assert.deepEqual(names(folder.path), []);
});

Deno.test("main() says how much of a long prompt a STAR model reads", async () => {
  await using folder = await tempFolder();
  const prompt = new Array<string>(100).fill("fox").join(" ");
  const { code, err } = await stagevar([prompt, "--model", MINI_STAR, "-o", join(folder.path, "x.png")]);
  assert.equal(code, 0, err);
  assert.match(err, /The prompt is longer than 77 tokens: the rest is not read/);
});

Deno.test("main() draws a size near a STAR model's and says which it has", async () => {
  await using folder = await tempFolder();
  const { code, err } = await stagevar(["a fox", "--model", MINI_STAR, "-W", "200", "-o", join(folder.path, "x.png")]);
  assert.equal(code, 0, err);
  assert.match(err, /The model draws 192x192 pixels, asked was for a width of 200/);
});

Deno.test("main() calibrate measures a STAR model, and plans take its ranks from then on", async () => {
  await withCopyOfMiniStar(async (model) => {
    const args = ["calibrate", model, "--prompt-file", "-", "--alphas", "0.96,0.9"];
    const { code, out, err } = await stagevar(args, { stdin: "a fox\na hen" });
    assert.equal(code, 0, err);
    const path = join(model, "ranks.json");
    assert.equal(out, `${path}\n`);
    const table = parseRankTable(Deno.readTextFileSync(path), path);
    assert.deepEqual([table.model, table.chunks, table.fidelity, table.defaultAlpha], ["mini-star", 6, 2, [1, 0.96]]);
    assert.deepEqual(Object.keys(table.alphas), ["0.96", "0.9"]);
    const plan = JSON.parse((await stagevar(["plan", "--model", model, "--json"])).out);
    assert.deepEqual([plan.method, plan.ranks.prompts, plan.steps[5].kind], ["stagevar", 2, "reduced"]);
  });
});

Deno.test("main() bench measures a STAR model", async () => {
  await using folder = await tempFolder();
  const output = join(folder.path, "bench.json");
  const flags = ["--runs", "1", "--warm-up", "none", "--methods", "skip-fidelity", "-o", output];
  const { code, err } = await stagevar(["bench", MINI_STAR, ...flags]);
  assert.equal(code, 0, err);
  const report: BenchReport = JSON.parse(await Deno.readTextFile(output));
  const [row, ...more] = report.rows;
  assert.equal(more.length, 0);
  assert.equal(row!.error, undefined);
  const { model, device, size, scales, parts } = row!.sample!;
  assert.deepEqual({ model, device, size }, { model: "mini-star", device: "cpu", size: [192, 192] });
  assert.deepEqual(scales.map(({ step, tokens }) => [step, tokens]), [
    ...[1, 4, 16, 49].map((tokens) => ["full", tokens]),
    ["skip", 0],
    ["skip", 0],
  ]);
  assert(parts.decode!.flops! > 0 && parts.transformer!.flops! > 0 && parts.text!.flops! > 0);
  assert.match(renderReport(report), /mini-star/);
});
