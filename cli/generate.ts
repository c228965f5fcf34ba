/**
 * `stagevar generate`, and the bare prompt: pictures from prompts.
 *
 * @module
 */
import { UsageError } from "../src/errors.ts";
import type { GenerateRequest } from "../src/request.ts";
import type { Arguments, Command } from "./command.ts";
import type { Context, Library, OpenModel } from "./context.ts";
import { checkAbsent, destinations, previewPath } from "./destination.ts";
import { type EventOf, Progress } from "./progress.ts";
import { readPromptFile } from "./prompt_file.ts";
import { checkPrompt, GENERATE_FLAGS, openSettings, settingsFromFlags } from "./request_flags.ts";
import { jsonLine, oneLine } from "./term.ts";

/** A request whose seed is settled, so that its file names are known before it runs. */
type Job = GenerateRequest & { seed: number; batch: number };

/** Where the pictures of a job go: one path a picture, or stdout. */
type Target = { paths: string[] } | "stdout";

/** The command. */
export const command: Command = {
  usage: [
    '"a red fox in the snow" [flags]',
    'generate "a red fox in the snow" [flags]',
    "generate --prompt-file FILE [flags]",
  ],
  options: GENERATE_FLAGS,
  words: { min: 0, max: 1, name: "PROMPT" },
  details: `Examples:
  stagevar "a red circle left of a blue square" --seed 7
  stagevar "a fox" --model infinity-2b --aspect 16:9 --batch 4 -o pictures/
  stagevar --prompt-file prompts.jsonl --json
  stagevar "a fox" -o - | display`,
  run,
};

async function run(context: Context, args: Arguments): Promise<void> {
  const jobs = await readJobs(context, args);
  const targets = await chooseTargets(jobs, args);
  const progress = new Progress(context, args.on("quiet"));
  try {
    progress.transient("Loading…");
    using models = new Held(await context.library(), progress);
    for (const [i, job] of jobs.entries()) {
      if (jobs.length > 1) progress.line(`[${i + 1}/${jobs.length}] ${oneLine(job.prompt, 72)}`);
      await runJob(await models.open(job), job, targets[i]!, { context, args, progress });
    }
  } finally {
    progress.finish();
  }
}

/** Requests from the bare prompt or the prompt file; a line's own settings win over flags. */
async function readJobs(context: Context, args: Arguments): Promise<Job[]> {
  const settings = settingsFromFlags(args);
  if (args.on("preview")) settings.preview = true;
  const file = args.value("prompt-file")?.text;
  const [word] = args.words;
  if ((word === undefined) === (file === undefined)) {
    throw new UsageError(word === undefined ? "No prompt given" : "Found both a prompt and --prompt-file, wanted one", {
      hint: 'Run: stagevar "a red fox in the snow"',
    });
  }
  const lines = file === undefined ? [{ prompt: checkPrompt(word!, "Prompt") }] : await readPromptFile(file, context);
  return lines.map((line) => {
    const request = { ...settings, ...line };
    const seed = request.seed ?? crypto.getRandomValues(new Uint32Array(1))[0]!;
    return { ...request, seed, batch: request.batch ?? 1 };
  });
}

/** Keeps the last model open, so that a file of prompts loads it once. */
class Held implements Disposable {
  readonly #library: Library;
  readonly #progress: Progress;
  #key = "";
  #open: OpenModel | undefined;

  constructor(library: Library, progress: Progress) {
    this.#library = library;
    this.#progress = progress;
  }

  async open(request: GenerateRequest): Promise<OpenModel> {
    const settings = openSettings(request);
    const key = JSON.stringify(settings);
    if (this.#open !== undefined && this.#key === key) return this.#open;
    this[Symbol.dispose]();
    this.#open = await this.#library.open(settings, (done, total) => this.#progress.copies(done, total));
    this.#key = key;
    return this.#open;
  }

  [Symbol.dispose](): void {
    this.#open?.[Symbol.dispose]();
    this.#open = undefined;
  }
}

/** Settles and checks every output before anything runs: minutes of work must not end at a name that is taken. */
async function chooseTargets(jobs: readonly Job[], args: Arguments): Promise<Target[]> {
  const output = args.value("output")?.text;
  if (output !== "-") {
    return (await destinations(jobs, output, args.on("force"))).map((paths) => ({ paths }));
  }
  const pictures = jobs.reduce((sum, job) => sum + job.batch, 0);
  const clash = pictures > 1
    ? `${pictures} pictures`
    : args.on("json")
    ? "--json"
    : jobs[0]?.preview
    ? "--preview"
    : "";
  if (clash !== "") {
    throw new UsageError(`Output "-" takes one picture and nothing else, found ${clash}`, {
      hint: "Give --output a folder",
    });
  }
  return ["stdout"];
}

/** What running a job needs besides the job. */
interface Run {
  readonly context: Context;
  readonly args: Arguments;
  readonly progress: Progress;
}

async function runJob(model: OpenModel, job: Job, target: Target, run: Run): Promise<void> {
  const { context, args, progress } = run;
  const json = args.on("json");
  for await (const event of model.generate(job, { signal: context.signal })) {
    switch (event.type) {
      case "start":
        if (job.preview) await checkPreviews(target, event, args.on("force"));
        progress.start(event);
        break;
      case "text":
        if (event.truncated) progress.notice(`The prompt is longer than ${event.tokens} tokens: the rest is not read`);
        if (args.on("verbose")) progress.line(`text  ${event.tokens} tokens  ${event.ms.toFixed(1)} ms`);
        break;
      case "scale":
        progress.scale(event);
        await writePreviews(event, target, run);
        break;
      case "image":
        await writeImage(event, target, run);
        break;
      case "done":
        progress.done(event, args.on("verbose"));
        if (json) context.stdout.write(jsonLine(event));
        break;
    }
  }
}

async function writeImage(
  event: EventOf<"image">,
  target: Target,
  { context, args, progress }: Run,
): Promise<void> {
  if (target === "stdout") {
    context.stdout.write(event.png);
    return;
  }
  const path = target.paths[event.index]!;
  const { writeFileAtomic } = await import("../src/output.ts");
  await writeFileAtomic(path, event.png, { force: args.on("force") });
  progress.finish();
  context.stdout.write(args.on("json") ? jsonLine({ type: "image", path, ...event.record }) : `${path}\n`);
}

/** The plan, known only now, says how many previews there will be. */
async function checkPreviews(
  target: Target,
  { plan }: EventOf<"start">,
  force: boolean,
): Promise<void> {
  if (target === "stdout") return;
  for (const path of target.paths) {
    for (let k = 0; k < plan.steps.length; k++) await checkAbsent(previewPath(path, k), force);
  }
}

async function writePreviews(
  { previews, index }: EventOf<"scale">,
  target: Target,
  { args, progress }: Run,
): Promise<void> {
  if (previews === undefined || target === "stdout") return;
  const [{ encodePng }, { writeFileAtomic }] = await Promise.all([import("../src/png.ts"), import("../src/output.ts")]);
  for (const [i, image] of previews.entries()) {
    const path = previewPath(target.paths[i]!, index);
    await writeFileAtomic(path, await encodePng(image), { force: args.on("force") });
    if (args.on("verbose")) progress.line(`preview  ${path}`);
  }
}
