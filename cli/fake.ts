/**
 * `stagevar fake`: writes a model of a released size with random weights.
 *
 * @module
 */
import { UsageError } from "../src/errors.ts";
import type { FakeOptions } from "../src/models/fake_writer.ts";
import type { Arguments, Command } from "./command.ts";
import type { Context } from "./context.ts";
import { nearest } from "./nearest.ts";
import { Progress } from "./progress.ts";
import { wholeFlag } from "./request_flags.ts";
import { byteCount, duration } from "./term.ts";

const INFINITY = ["infinity-2b", "infinity-8b", "infinity-125m"] as const;
const STAR = ["star-1.7b", "star-512", "star-256"] as const;
const MODELS = [...INFINITY, ...STAR];
const DTYPES = { f32: "F32", bf16: "BF16", f16: "F16" } as const;
const DTYPE_NAMES = Object.keys(DTYPES) as (keyof typeof DTYPES)[];

/** The command. */
export const command: Command = {
  usage: [`fake ${MODELS.join("|")} DIR [flags]`],
  options: [
    { name: "dtype", value: "TYPE", help: "f32 (as released), bf16 or f16. Default: bf16, half the disk" },
    { name: "seed", short: "s", value: "N", help: "The same seed gives the same weights. Default: 0" },
    { name: "force", help: "Write into a folder that is not empty, over files of the same names" },
  ],
  words: { min: 2, max: 2, name: "MODEL and DIR" },
  details:
    `Names, shapes and files are those of the official downloads, the text encoder (T5-XL; CLIP for star) and the VAE's
decoder included, so that speed and memory, which do not depend on the values, can be measured without them. The pictures
are noise. In bf16, infinity-2b takes 7 GB, infinity-8b 19 GB, infinity-125m 3 GB and each star 4 GB. The downloads are f32:
other types are widened when they are used, which takes memory and time of its own.`,
  run,
};

async function run(context: Context, args: Arguments): Promise<void> {
  const name = choice("Model", args.words[0]!, MODELS);
  const folder = args.words[1]!;
  const dtype = DTYPES[choice('Flag "--dtype"', args.value("dtype")?.text ?? "bf16", DTYPE_NAMES)];
  const seed = wholeFlag(args, "seed", 0, 2 ** 32 - 1) ?? 0;
  const write = await writer(name);
  const progress = new Progress(context, args.on("quiet"));
  const started = performance.now();
  let bytes = 0;
  let current: string | undefined;
  try {
    await write(folder, {
      dtype,
      seed,
      force: args.on("force"),
      signal: context.signal,
      progress(file, done, total): void {
        if (file !== current) progress.line(`Writing ${file}`);
        current = file;
        bytes = total;
        progress.share(done / total, `${byteCount(done)} of ${byteCount(total)}`);
      },
    });
    progress.line(`Wrote random weights for ${name}, ${byteCount(bytes)} in ${duration(performance.now() - started)}`);
  } finally {
    progress.finish();
  }
  context.stdout.write(`${folder}\n`);
}

/** Writes the model of that name, of whichever family. */
async function writer(name: typeof MODELS[number]): Promise<(folder: string, options: FakeOptions) => Promise<void>> {
  const star = STAR.find((one) => one === name);
  if (star !== undefined) {
    const { FAKE_STAR_MODELS, writeFakeStar } = await import("../src/models/star/fake.ts");
    return (folder, options) => writeFakeStar(folder, FAKE_STAR_MODELS[star], options);
  }
  const { FAKE_MODELS, writeFake } = await import("../src/models/infinity/fake.ts");
  return (folder, options) => writeFake(folder, FAKE_MODELS[name as typeof INFINITY[number]], options);
}

function choice<T extends string>(what: string, value: string, names: readonly T[]): T {
  const found = names.find((name) => name === value);
  if (found !== undefined) return found;
  const near = nearest(value, names);
  throw new UsageError(`${what} is "${value}", wanted one of ${names.join(", ")}`, {
    hint: near === undefined ? 'Run "stagevar fake --help"' : `Did you mean "${near}"?`,
  });
}
