/**
 * `stagevar eval shapes`: how well pictures of the embedded model's world follow their prompts, method by method.
 *
 * @module
 */
import { UsageError } from "../src/errors.ts";
import { evalPrompts } from "../src/evaluate/prompts.ts";
import {
  type Arm,
  type EvaluateReport,
  evaluateShapes,
  type PictureRequest,
  renderReport,
} from "../src/evaluate/run.ts";
import { storeQuality } from "../src/evaluate/stored.ts";
import type { EvalPrompt } from "../src/evaluate/geneval.ts";
import type { RgbImage } from "../src/png.ts";
import type { Arguments, Command } from "./command.ts";
import type { Context, OpenModel } from "./context.ts";
import { METHODS_FLAG, planEach } from "./methods_flag.ts";
import { Progress } from "./progress.ts";
import { openSettings, REQUEST_FLAGS, type Settings, settingsFromFlags, wholeFlag } from "./request_flags.ts";
import { jsonLine } from "./term.ts";

const SETTINGS = ["model", "cfg-scale", "tau", "top-p", "device", "dtype", "threads"];
const DEFAULT_SEEDS = 4;

/** The command. */
export const command: Command = {
  usage: ["eval shapes [flags]"],
  options: [
    ...REQUEST_FLAGS.filter(({ name }) => SETTINGS.includes(name)),
    { ...METHODS_FLAG, help: "Arms; the first is what others are compared with. Default: all the model can run" },
    { name: "prompts", value: "N", help: "Prompts a task. Default: all" },
    { name: "save", help: "Keep the result in the model's folder, where stagevar bench finds it" },
    { name: "seeds", value: "N", help: `Seeds a prompt, counted from 0. Default: ${DEFAULT_SEEDS}` },
    { name: "json", help: "Print one JSON object" },
  ],
  words: { min: 1, max: 1, name: "SUITE" },
  details:
    `Draws combinations that training never saw (single objects apart, which it must have) and checks the pictures by
their geometry, by the rules of GenEval's six tasks. All methods draw the same prompts from the same seeds, so that
differences are paired. With --verbose, says what is wrong with each wrong picture.`,
  run,
};

async function run(context: Context, args: Arguments): Promise<void> {
  const [suite] = args.words;
  if (suite !== "shapes") {
    throw new UsageError(`Unknown suite "${suite}": wanted "shapes"`, { hint: "Run: stagevar eval shapes" });
  }
  const settings = settingsFromFlags(args);
  const perTask = wholeFlag(args, "prompts", 1, 1_000_000) ?? Infinity;
  const seeds = Array.from({ length: wholeFlag(args, "seeds", 1, 10_000) ?? DEFAULT_SEEDS }, (_, i) => i);
  const progress = new Progress(context, args.on("quiet"));
  try {
    const library = await context.library();
    const plans = await planEach(
      library,
      settings,
      args.value("methods")?.text ?? "all",
      (note) => progress.notice(note),
    );
    using model = await library.open(openSettings(settings), (done, total) => progress.copies(done, total));
    const studio = { model, settings, progress, signal: context.signal };
    const arms = plans.map(({ method }) => arm(method, studio));
    const report = await evaluate(arms, firstOfEachTask(evalPrompts(), perTask), seeds, progress, args.on("verbose"));
    if (args.on("save")) {
      const { folder } = await library.findModel(settings.model ?? "shapes");
      await storeQuality(folder, model.model.hash, settings.dtype ?? "f32", report);
    }
    progress.finish();
    context.stdout.write(args.on("json") ? jsonLine(report) : `${renderReport(report)}\n`);
  } finally {
    progress.finish();
  }
}

async function evaluate(
  arms: readonly Arm[],
  prompts: readonly EvalPrompt[],
  seeds: readonly number[],
  progress: Progress,
  verbose: boolean,
): Promise<EvaluateReport> {
  const right = new Map<string, number>();
  const each = prompts.length * seeds.length;
  for await (const event of evaluateShapes({ arms, prompts, seeds })) {
    if (event.type === "report") return event.report;
    const { done, total, result: { arm, correct, prompt, seed, reason } } = event;
    right.set(arm, (right.get(arm) ?? 0) + Number(correct));
    if (verbose && !correct) progress.line(`${arm}  seed ${seed}  ${prompt}: ${reason}`);
    if (done % each === 0) progress.line(`${arm}  ${right.get(arm)} of ${each} right`);
    progress.share(done / total, `${arm} ${done}/${total}`);
  }
  throw new Error("The evaluation ended without a report");
}

/** What an arm draws with. */
interface Studio {
  readonly model: OpenModel;
  readonly settings: Settings;
  readonly progress: Progress;
  readonly signal: AbortSignal;
}

function arm(method: string, { model, settings, progress, signal }: Studio): Arm {
  return {
    name: method,
    async *render(requests: readonly PictureRequest[]): AsyncGenerator<RgbImage> {
      for (const batch of batches(requests)) {
        for await (const event of model.generate({ ...settings, method, ...batch }, { signal })) {
          if (event.type === "start") event.notices.forEach((note) => progress.notice(note));
          if (event.type === "image") yield event.image;
        }
      }
    },
  };
}

/**
 * Puts neighbours of one prompt whose seeds count up into one batch, which reads the prompt once.
 *
 * @example
 * ```ts
 * import { batches } from "./eval.ts";
 * import assert from "node:assert/strict";
 * const requests = [0, 1, 5].map((seed) => ({ prompt: "a bar", seed }));
 * assert.deepEqual(batches(requests), [{ prompt: "a bar", seed: 0, batch: 2 }, { prompt: "a bar", seed: 5, batch: 1 }]);
 * ```
 */
export function batches(requests: readonly PictureRequest[]): (PictureRequest & { batch: number })[] {
  const found: (PictureRequest & { batch: number })[] = [];
  for (const { prompt, seed } of requests) {
    const last = found.at(-1);
    if (last !== undefined && last.prompt === prompt && last.seed + last.batch === seed) last.batch++;
    else found.push({ prompt, seed, batch: 1 });
  }
  return found;
}

function firstOfEachTask(prompts: readonly EvalPrompt[], limit: number): EvalPrompt[] {
  const taken = new Map<string, number>();
  return prompts.filter(({ tag }) => {
    const before = taken.get(tag) ?? 0;
    taken.set(tag, before + 1);
    return before < limit;
  });
}
