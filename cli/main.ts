/**
 * The command table: which word runs what, help, and the way out.
 *
 * @module
 */
import config from "../deno.json" with { type: "json" };
import { UsageError } from "../src/errors.ts";
import { type Command, commandHelp, firstWord, parseArguments } from "./command.ts";
import type { Context } from "./context.ts";
import { EXIT_DONE, EXIT_USAGE, reportError } from "./exit.ts";
import { nearest } from "./nearest.ts";
import { GENERATE_FLAGS } from "./request_flags.ts";
import { table } from "./term.ts";

/** A line of the table; the module is imported only when the command is run or asked about. */
interface Entry {
  readonly summary: string;
  load(): Promise<{ command: Command }>;
}

const COMMANDS: Readonly<Record<string, Entry>> = {
  generate: { summary: "Draw pictures from prompts (the default)", load: () => import("./generate.ts") },
  plan: { summary: "Print what a request would run, scale by scale", load: () => import("./plan.ts") },
  info: { summary: "Print the prompt and settings stored in a picture", load: () => import("./info.ts") },
  ls: { summary: "List the models on this machine", load: () => import("./ls.ts") },
  show: { summary: "Print the sizes and types of a model's parts", load: () => import("./show.ts") },
  calibrate: { summary: "Measure the ranks that stagevar reduces a model to", load: () => import("./calibrate.ts") },
  eval: { summary: "Measure how well pictures follow prompts", load: () => import("./eval.ts") },
  bench: { summary: "Measure time, arithmetic and memory, setting by setting", load: () => import("./bench.ts") },
  doctor: { summary: "Say what works on this machine and what is missing", load: () => import("./doctor.ts") },
  fake: { summary: "Write a model of a released size with random weights", load: () => import("./fake.ts") },
};

/** Words that later versions give a meaning; a script that draws one of them must say `generate`. */
const RESERVED = ["analyze", "pull", "rm", "serve"];

/** Commands that stand alone, so that a lone slip of one is no prompt. */
const WITHOUT_OPERAND = ["bench", "doctor", "help", "ls"];

/** The help of the whole: `short` is what a person sees who typed nothing. */
function help(short: boolean): string {
  const usage = `stagevar ${config.version}: pictures from text, scale by scale

Usage: stagevar "a red fox in the snow" [flags]
       stagevar COMMAND [flags]
`;
  if (short) return `${usage}\nRun "stagevar --help" for the commands\n`;
  const rows = [
    ...Object.entries(COMMANDS).map(([name, { summary }]) => [`  ${name}`, summary]),
    ["  help", "Print this, or the help of a command"],
  ];
  return `${usage}
Commands:
${table(rows)}
Run "stagevar COMMAND --help" for the flags of a command. A prompt that is one of these words is drawn with
stagevar generate "plan". Models are looked for in STAGEVAR_HOME; flags win over variables, variables over defaults.
`;
}

/** A command's name and the words and flags that are left for it. */
interface Route {
  readonly name: string;
  readonly rest: readonly string[];
}

/** A first word that is a command is the command, wherever flags stand; anything else is a prompt for `generate`. */
function route(args: readonly string[]): Route {
  const at = firstWord(args, GENERATE_FLAGS);
  const word = args[at];
  if (word === undefined) return { name: "generate", rest: args };
  const rest = args.toSpliced(at, 1);
  if (word === "help" || Object.hasOwn(COMMANDS, word)) return { name: word, rest };
  const drawn = { hint: `To draw the word itself, run: stagevar generate "${word}"` };
  if (RESERVED.includes(word)) throw new UsageError(`Command "${word}" is not part of this version`, drawn);
  const near = nearest(word, [...Object.keys(COMMANDS), "help"]);
  // Alone, "snow" is a prompt; with an operand behind it, it is a slip of "show".
  const alone = firstWord(rest, GENERATE_FLAGS) === -1;
  if (near !== undefined && (!alone || WITHOUT_OPERAND.includes(near))) {
    throw new UsageError(`Unknown command "${word}": did you mean "${near}"?`, drawn);
  }
  return { name: "generate", rest: args };
}

async function dispatch(args: readonly string[], context: Context): Promise<number> {
  if (args.length === 0) {
    context.stderr.write(help(true));
    return EXIT_USAGE;
  }
  const { name, rest } = route(args);
  if (name === "help") return await printHelp(rest[0], context);
  const entry = COMMANDS[name]!;
  const { command } = await entry.load();
  const parsed = parseArguments(name, command.options, rest, (variable) => context.env(variable));
  if (parsed.on("version")) {
    context.stdout.write(`stagevar ${config.version}\n`);
    return EXIT_DONE;
  }
  if (parsed.on("help")) {
    // "stagevar --help" has no command, so it is about all of them.
    const whole = name === "generate" && parsed.words.length === 0 && args[0] !== "generate";
    return await printHelp(whole ? undefined : name, context);
  }
  const { min, max, name: what } = command.words;
  if (parsed.words.length < min || parsed.words.length > max) {
    const wanted = min === max ? `${min}` : max === Infinity ? `${min} or more` : `${min} to ${max}`;
    throw new UsageError(`"stagevar ${name}" wants ${wanted} ${what}, found ${parsed.words.length} words`, {
      hint: parsed.words.length > max
        ? `Quote words that belong together: stagevar ${name} "${parsed.words.join(" ")}"`
        : `Run: stagevar ${command.usage[0]}`,
    });
  }
  await command.run(context, parsed);
  return EXIT_DONE;
}

async function printHelp(name: string | undefined, context: Context): Promise<number> {
  if (name === undefined) {
    context.stdout.write(help(false));
    return EXIT_DONE;
  }
  const entry = Object.hasOwn(COMMANDS, name) ? COMMANDS[name] : undefined;
  if (entry === undefined) {
    const near = nearest(name, Object.keys(COMMANDS));
    throw new UsageError(`Unknown command "${name}"${near === undefined ? "" : `: did you mean "${near}"?`}`, {
      hint: 'Run "stagevar --help" for the commands',
    });
  }
  const { command } = await entry.load();
  context.stdout.write(commandHelp(name, entry.summary, command));
  return EXIT_DONE;
}

/** Runs a command line to its end and returns the exit code; never throws. */
export async function main(args: readonly string[], context: Context): Promise<number> {
  try {
    return await dispatch(args, context);
  } catch (error) {
    const flags = args.slice(0, args.includes("--") ? args.indexOf("--") : undefined);
    return reportError(error, context, flags.some((flag) => flag === "--verbose" || /^-[qh]*v[qhv]*$/.test(flag)));
  }
}
