/**
 * The flags that make a {@linkcode GenerateRequest}, and the same settings as JSON: one check for each setting.
 *
 * @module
 */
import { UsageError } from "../src/errors.ts";
import type { DeviceName, DtypeName, GenerateRequest } from "../src/request.ts";
import { PIXEL_BUDGETS } from "../src/schedule.ts";
import type { Arguments, Flag } from "./command.ts";
import type { OpenSettings } from "./context.ts";
import { nearest } from "./nearest.ts";

/** Seeds are 32 bits wide. */
const MAX_SEED = 0xffff_ffff;
/** Longest prompt taken, in characters: far above the 512 tokens any model reads, far below what hurts. */
const MAX_PROMPT = 65_536;
const MAX_BATCH = 64;
const MAX_SIDE = 65_536;
const MAX_THREADS = 1024;
/** Far above any codebook. */
const MAX_CODES = 1 << 24;
const DTYPES: readonly DtypeName[] = ["f32", "f16", "u16", "u8"];
const DEVICES: readonly DeviceName[] = ["auto", "cpu", "cuda", "webgpu", "wasm"];

/** The flags of `generate` and `plan` that describe pictures. */
export const REQUEST_FLAGS: readonly Flag[] = [
  { name: "model", short: "m", value: "MODEL", env: true, help: "A model's name (see stagevar ls) or folder" },
  { name: "negative-prompt", short: "n", value: "TEXT", help: "What to steer away from" },
  {
    name: "seed",
    short: "s",
    value: "N",
    help: "0 to 4294967295; picture i of a batch uses seed + i. Default: random",
  },
  { name: "batch", short: "b", value: "N", help: "Number of pictures. Default: 1" },
  { name: "width", short: "W", value: "PIXELS", help: "Wanted width; the nearest trained size is taken, and said" },
  { name: "height", short: "H", value: "PIXELS", help: "Wanted height" },
  { name: "aspect", value: "W:H", help: "Shape, as 16:9. Default: square" },
  { name: "pixels", value: PIXEL_BUDGETS.join("|"), help: "Pixel budget. Default: what the model was trained for" },
  { name: "cfg-scale", value: "N[,N...]", help: "Guidance, one number or one a scale" },
  { name: "tau", value: "N[,N...]", help: "Temperature, one number or one a scale" },
  { name: "top-p", value: "P", help: "Nucleus threshold from 0 to 1. Default: the model's (infinity 0.97, star 0.8)" },
  { name: "top-k", value: "N", help: "Draw from the N most likely codes, 0 for all (star). Default: 600" },
  { name: "method", value: "NAME", help: "Acceleration. Default: stagevar where ranks are known, else vanilla" },
  { name: "method-option", value: "K=V", repeats: true, help: "An option of the method, as alpha=0.96,0,0" },
  { name: "device", value: DEVICES.join("|"), env: true, help: "Where to run. Default: auto" },
  {
    name: "dtype",
    value: DTYPES.join("|"),
    help:
      "Arithmetic of the linear layers: f32, f16 on a GPU (CUDA's default), u16 and u8 on a CPU, on a copy beside the model",
  },
  { name: "low-memory", help: "Leave weights in their files and free the transformer before decoding; slower" },
  { name: "threads", short: "t", value: "N", env: true, help: "CPU threads. Default: all cores" },
];

/** The flags of `generate`. */
export const GENERATE_FLAGS: readonly Flag[] = [
  ...REQUEST_FLAGS,
  {
    name: "output",
    short: "o",
    value: "PATH",
    help: "A .png file, a folder, or - for stdout. Default: {words}-{seed}.png",
  },
  { name: "prompt-file", value: "FILE", help: "A prompt a line, or JSONL with settings a line; - is stdin" },
  { name: "preview", help: "Also write the picture after every scale, as {name}-scale-KK.png" },
  { name: "json", help: "Print JSON, an object a line, instead of paths" },
  { name: "force", help: "Overwrite files" },
];

/** Everything of a request but what to draw. */
export type Settings = Omit<GenerateRequest, "prompt">;

/** A value found on the command line (always text) or in JSON, and how an error calls it. */
type Check<T> = (value: unknown, where: string) => T;

function wrong(where: string, wanted: string, value: unknown, hint?: string): UsageError {
  const shown = JSON.stringify(value) ?? String(value);
  const found = shown.length > 80 ? `${shown.slice(0, 79)}…` : shown;
  return new UsageError(`${where} wants ${wanted}, found ${found}`, hint === undefined ? {} : { hint });
}

function toNumber(value: unknown): number {
  if (typeof value === "number") return value;
  // Number() alone would take "", " 3 ", "0x10" and "Infinity".
  return typeof value === "string" && /^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i.test(value) ? Number(value) : NaN;
}

function whole(min: number, max: number): Check<number> {
  return (value, where) => {
    const number = toNumber(value);
    if (Number.isInteger(number) && number >= min && number <= max) return number;
    throw wrong(where, `a whole number from ${min} to ${max}`, value);
  };
}

function real(wanted: string, accepts: (number: number) => boolean): Check<number> {
  return (value, where) => {
    const number = toNumber(value);
    if (Number.isFinite(number) && accepts(number)) return number;
    throw wrong(where, wanted, value);
  };
}

function oneOrList(item: Check<number>): Check<number | number[]> {
  return (value, where) => {
    const list = typeof value === "string" && value.includes(",") ? value.split(",").map((part) => part.trim()) : value;
    return Array.isArray(list) ? list.map((part) => item(part, where)) : item(list, where);
  };
}

function oneOf<T extends string>(names: readonly T[]): Check<T> {
  return (value, where) => {
    const found = names.find((name) => name === value);
    if (found !== undefined) return found;
    const near = typeof value === "string" ? nearest(value, names) : undefined;
    throw wrong(where, `one of ${names.join(", ")}`, value, near === undefined ? undefined : `Did you mean "${near}"?`);
  };
}

const text: Check<string> = (value, where) => {
  if (typeof value !== "string" || value.trim() === "") throw wrong(where, "some text", value);
  if (value.length <= MAX_PROMPT) return value;
  throw new UsageError(`${where} is too long: found ${value.length} characters, wanted at most ${MAX_PROMPT}`, {
    hint: "Models read the first 512 tokens, about 2000 characters",
  });
};

const yesOrNo: Check<boolean> = (value, where) => {
  if (typeof value === "boolean") return value;
  throw wrong(where, "true or false", value);
};

/** Method options: what they mean is the method's to check. */
const options: Check<Record<string, unknown>> = (value, where) => {
  if (typeof value === "object" && value !== null && !Array.isArray(value)) return { ...value };
  throw wrong(where, "an object of options", value);
};

const CHECKS: { readonly [K in keyof GenerateRequest]-?: Check<NonNullable<GenerateRequest[K]>> } = {
  prompt: text,
  negativePrompt: text,
  model: text,
  seed: whole(0, MAX_SEED),
  batch: whole(1, MAX_BATCH),
  aspect: text,
  width: whole(1, MAX_SIDE),
  height: whole(1, MAX_SIDE),
  pixels: oneOf(PIXEL_BUDGETS),
  cfgScale: oneOrList(real("a number or a list of numbers", () => true)),
  tau: oneOrList(real("a number of 0 or more, or a list of them", (number) => number >= 0)),
  topP: real("a number from 0 to 1", (number) => number >= 0 && number <= 1),
  topK: whole(0, MAX_CODES),
  method: text,
  methodOptions: options,
  device: oneOf(DEVICES),
  dtype: oneOf(DTYPES),
  threads: whole(1, MAX_THREADS),
  lowMemory: yesOrNo,
  preview: yesOrNo,
};

/** `cfg-scale` and `cfg_scale`, as flags and HTTP spell it, and `cfgScale`, as the stored request does. */
function fieldName(key: string): string {
  return key.replaceAll(/[-_]([a-z])/g, (_, letter: string) => letter.toUpperCase());
}

/**
 * Reads settings from one JSON object; keys are spelt as the flags, in snake_case or as {@linkcode GenerateRequest}'s.
 * Throws UsageError for an unknown key or a wrong value.
 *
 * @example
 * ```ts
 * import { settingsFromJson } from "./request_flags.ts";
 * import assert from "node:assert/strict";
 * assert.deepEqual(settingsFromJson({ prompt: "a fox", cfg_scale: [3, 4] }, "Line 1"), {
 *   prompt: "a fox",
 *   cfgScale: [3, 4],
 * });
 * assert.throws(() => settingsFromJson({ sede: 3 }, "Line 1"), /did you mean "seed"/);
 * ```
 */
export function settingsFromJson(object: Record<string, unknown>, where: string): Partial<GenerateRequest> {
  const settings: Record<string, unknown> = {};
  for (const [key, value] of Object.entries(object)) {
    const field = fieldName(key);
    if (!Object.hasOwn(CHECKS, field)) {
      const near = nearest(field, Object.keys(CHECKS));
      const known = near === undefined ? `: known are ${Object.keys(CHECKS).join(", ")}` : `: did you mean "${near}"?`;
      throw new UsageError(`${where} has the unknown setting ${JSON.stringify(key.slice(0, 64))}${known}`);
    }
    settings[field] = CHECKS[field as keyof GenerateRequest](value, `${where}: "${key}"`);
  }
  return settings;
}

/**
 * Reads the settings given as flags or variables. Throws UsageError for a value that cannot be right.
 *
 * @example
 * ```ts
 * import { parseArguments } from "./command.ts";
 * import { REQUEST_FLAGS, settingsFromFlags } from "./request_flags.ts";
 * import assert from "node:assert/strict";
 * const args = parseArguments("generate", REQUEST_FLAGS, ["--tau", "0.5,1"], (name) => ({ STAGEVAR_MODEL: "2b" })[name]);
 * assert.deepEqual(settingsFromFlags(args), { model: "2b", tau: [0.5, 1] });
 * ```
 */
export function settingsFromFlags(args: Arguments): Settings {
  const settings: Record<string, unknown> = {};
  for (const flag of REQUEST_FLAGS) {
    const field = fieldName(flag.name);
    if (!Object.hasOwn(CHECKS, field)) continue; // --method-option, below
    if (flag.value === undefined && args.on(flag.name)) settings[field] = true;
    const given = args.value(flag.name);
    if (given !== undefined) settings[field] = CHECKS[field as keyof GenerateRequest](given.text, given.where);
  }
  const pairs = args.values("method-option");
  if (pairs.length > 0) settings.methodOptions = Object.fromEntries(pairs.map(methodOption));
  return settings;
}

/** Splits `k=v`; the method reads the text itself, as only it knows the types of its options. */
function methodOption(pair: string): [string, string] {
  const equals = pair.indexOf("=");
  if (equals < 1 || equals === pair.length - 1) throw wrong('Flag "--method-option"', "name=value", pair);
  return [pair.slice(0, equals), pair.slice(equals + 1)];
}

/** What of the settings opens the model, without keys that are not set. */
export function openSettings({ model, device, threads, dtype, lowMemory }: Settings): OpenSettings {
  return {
    ...model && { model },
    ...device && { device },
    ...threads && { threads },
    ...dtype && { dtype },
    ...lowMemory && { lowMemory },
  };
}

/** The whole number a flag gives, or undefined where it is absent. Throws UsageError for anything else. */
export function wholeFlag(args: Arguments, name: string, min: number, max: number): number | undefined {
  const given = args.value(name);
  return given === undefined ? undefined : whole(min, max)(given.text, given.where);
}

/** The numbers strictly between 0 and 1 that a flag lists, or undefined where it is absent. */
export function sharesFlag(args: Arguments, name: string): number[] | undefined {
  const given = args.value(name);
  const share = real("numbers between 0 and 1", (number) => number > 0 && number < 1);
  return given === undefined ? undefined : [oneOrList(share)(given.text, given.where)].flat();
}

/** Takes the prompt itself, from a bare word or a line of a file. Throws UsageError when it is empty or enormous. */
export function checkPrompt(prompt: string, where: string): string {
  return text(prompt, where);
}
