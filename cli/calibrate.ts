/**
 * `stagevar calibrate`: measures the ranks that reduced scales need, once a model, and puts them beside it.
 *
 * @module
 */
import { join } from "node:path";
import { UsageError } from "../src/errors.ts";
import { RANK_FILE } from "../src/presets.ts";
import type { Arguments, Command } from "./command.ts";
import type { Context } from "./context.ts";
import { checkFile } from "./destination.ts";
import { Progress } from "./progress.ts";
import { readPromptFile } from "./prompt_file.ts";
import { REQUEST_FLAGS, settingsFromFlags, sharesFlag, wholeFlag } from "./request_flags.ts";
import { jsonLine, oneLine } from "./term.ts";

const SETTINGS = ["device", "threads"];

/** The command. */
export const command: Command = {
  usage: ["calibrate MODEL --prompt-file FILE [flags]"],
  options: [
    { name: "prompt-file", value: "FILE", help: "Prompts to measure on, one a line; - is stdin" },
    { name: "seeds", value: "N", help: "Pictures a prompt, seeds counted from 0. Default: 1" },
    {
      name: "alphas",
      value: "A[,A...]",
      help: "Shares of energy to keep, between 0 and 1. Default: those of the paper",
    },
    { name: "fidelity", value: "N", help: "How many of the last scales are measured. Default: 3, of star 2" },
    {
      name: "output",
      short: "o",
      value: "FILE",
      help: `Default: ${RANK_FILE} in the model's folder, where plans look for it`,
    },
    ...REQUEST_FLAGS.filter(({ name }) => SETTINGS.includes(name)),
    { name: "json", help: "Print the ranks too" },
    { name: "force", help: "Overwrite the file" },
  ],
  words: { min: 1, max: 1, name: "MODEL" },
  details: "The paper measured on the 553 prompts of GenEval, four pictures each.",
  run,
};

async function run(context: Context, args: Arguments): Promise<void> {
  const file = args.value("prompt-file")?.text;
  if (file === undefined) {
    throw new UsageError("No prompts to measure on", { hint: `Run: stagevar ${command.usage[0]}` });
  }
  const lines = await readPromptFile(file, context);
  const extra = lines.find((line) => Object.keys(line).length > 1);
  if (extra !== undefined) {
    throw new UsageError(`Calibration takes prompts alone, found settings beside "${oneLine(extra.prompt, 40)}"`);
  }
  const seeds = wholeFlag(args, "seeds", 1, 10_000);
  const fidelity = wholeFlag(args, "fidelity", 1, 100);
  const alphas = sharesFlag(args, "alphas");
  const library = await context.library();
  const { name, folder } = await library.findModel(args.words[0]!);
  const path = args.value("output")?.text ?? join(folder, RANK_FILE);
  await checkFile(path, args.on("force"));

  const progress = new Progress(context, args.on("quiet"));
  try {
    progress.transient("Loading…");
    const run = library.calibrate({ ...settingsFromFlags(args), model: folder }, {
      prompts: lines.map(({ prompt }) => prompt),
      seed: 0,
      signal: context.signal,
      ...seeds !== undefined && { seeds },
      ...fidelity !== undefined && { fidelity },
      ...alphas !== undefined && { alphas },
    });
    for await (const event of run) {
      if (event.type === "picture") {
        progress.share(event.done / event.total, `${event.done}/${event.total} pictures`);
        if (args.on("verbose")) progress.line(`${event.done}/${event.total}  ${oneLine(event.prompt, 60)}`);
        continue;
      }
      const { writeFileAtomic } = await import("../src/output.ts");
      const text = `${JSON.stringify(event.table, null, 2)}\n`;
      await writeFileAtomic(path, new TextEncoder().encode(text), { force: args.on("force") });
      progress.line(`Measured ${name} on ${lines.length} prompts`);
      context.stdout.write(args.on("json") ? jsonLine({ path, ...event.table }) : `${path}\n`);
    }
  } finally {
    progress.finish();
  }
}
