/**
 * The CLIP tokenizer (star.md §4): text to ids, as `CLIPTokenizer` of transformers and the Rust library behind it do it.
 *
 * text -> special tokens cut out -> NFC, single spaces, lower case -> words -> byte pairs -> BOS before and EOS behind.
 * These rules are CLIP's own; files give only the vocabulary, the merges and the special tokens.
 *
 * @module
 */
import { join } from "node:path";
import { ModelError } from "../errors.ts";
import { type AddedToken, AddedTokens } from "./added_tokens.ts";
import { BytePairs, MAX_TOKENS } from "./byte_pairs.ts";
import type { Tokenizer } from "./tokenizer.ts";

/** Positions of every CLIP text tower. */
const MAX_IDS = 77;
/** The tokenizer.json of CLIP takes 4 MB at most; these caps keep a hostile file from exhausting memory. */
const MAX_FILE_BYTES = 16 << 20;
const MAX_SPECIAL_TOKENS = 4096;
const MAX_SPECIAL_UNITS = 256;

/** Special tokens by role, and what they are where no file says so. */
const ROLES = {
  bos_token: "<|startoftext|>",
  eos_token: "<|endoftext|>",
  unk_token: "<|endoftext|>",
  pad_token: "<|endoftext|>",
} as const;

/** `\s` of the Rust library is the White_Space property; JavaScript's takes U+FEFF and leaves U+0085. */
const SPACES = /\p{White_Space}+/gu;
const WORDS = /<\|startoftext\|>|<\|endoftext\|>|'(?:s|t|re|ve|m|ll|d)|\p{L}+|\p{N}|[^\p{White_Space}\p{L}\p{N}]+/gu;

/**
 * Reads the tokenizer of a CLIP model: tokenizer.json or, where there is none, vocab.json and merges.txt.
 *
 * Special tokens are the `added_tokens_decoder` of tokenizer_config.json, or else the `added_tokens` of tokenizer.json;
 * and bos_token, eos_token, unk_token and pad_token of special_tokens_map.json or tokenizer_config.json. All of them are
 * cut out of the text: "!" is the padding of Stable Diffusion 2, and one id wherever it stands.
 *
 * @param folder Folder in the Hugging Face layout, as CLIP/tokenizer of STAR.
 * @returns The tokenizer; ids are BOS .. EOS without padding, at most 77, or `model_max_length` when that is smaller.
 * @throws {ModelError} A file is missing, cannot be read, or is not what it must be.
 *
 * @example
 * ```ts
 * import { loadClipTokenizer } from "@stagevar/stagevar/text/clip_tokenizer.ts";
 * import assert from "node:assert/strict";
 * const tokenizer = await loadClipTokenizer("tests/golden-star/models/mini-star/CLIP/tokenizer");
 * assert.deepEqual(tokenizer.encode(""), { ids: [714, 715], truncated: false, total: 2 });
 * assert.deepEqual(tokenizer.encode("A red circle").ids, [714, 320, 557, 611, 715]);
 * ```
 */
export async function loadClipTokenizer(folder: string): Promise<Tokenizer> {
  const open = (name: string): Promise<Source | undefined> => readSource(join(folder, name));
  const [whole, vocab, merges, map, config] = await Promise.all(
    ["tokenizer.json", "vocab.json", "merges.txt", "special_tokens_map.json", "tokenizer_config.json"].map(open),
  );
  const settings = config?.json() ?? {};
  const declared = settings["added_tokens_decoder"];
  // transformers asks the older file only where the newer list is missing.
  const older = declared === undefined ? map?.json() ?? {} : {};
  const roles = { ...settings, ...older };
  const where = (role: string): Source | undefined => Object.hasOwn(older, role) ? map : config;
  const names = Object.entries(ROLES).map(([role, usual]) => specialName(roles[role] ?? usual, role, where(role)));
  const { tokens, pairs, added, source } = whole ? readWhole(whole) : readParts(folder, vocab, merges);

  const specials = new Map<string, AddedToken>();
  const list = (from: Source, entry: Json): void => {
    const token = readSpecial(from, entry, tokens);
    specials.set(token.content, token);
  };
  if (config && declared !== undefined) {
    const entries = Object.entries(config.object(declared, "added_tokens_decoder"));
    for (const [id, entry] of config.few(entries, "added_tokens_decoder")) {
      list(config, { ...config.object(entry, "a token of added_tokens_decoder"), id: Number(id) });
    }
  } else {
    for (const entry of source.few(added, "added_tokens")) {
      list(source, source.object(entry, "a token of added_tokens"));
    }
  }
  // Roles add what the list lacks; of several roles with one name the last one's flags count.
  const listed = new Set(specials.keys());
  for (const [i, role] of Object.keys(ROLES).entries()) {
    if (listed.has(names[i]!)) continue;
    const entry = roles[role];
    const flags = typeof entry === "object" && entry !== null ? entry : {};
    list(where(role) ?? source, { ...flags, id: undefined, content: names[i] });
  }
  const [bos, eos, unknown] = names as [string, string, string, string];
  const limit = settings["model_max_length"];
  return makeTokenizer(
    new BytePairs(tokens, pairs, unknown, source.file),
    [...specials.values()],
    [specials.get(bos)!.id, specials.get(eos)!.id],
    // Written as 1e30 where the model has no limit; nothing below 2 holds the template.
    typeof limit === "number" && limit >= 2 ? Math.min(MAX_IDS, Math.floor(limit)) : MAX_IDS,
  );
}

function makeTokenizer(
  model: BytePairs,
  specials: readonly AddedToken[],
  [bos, eos]: readonly [number, number],
  limit: number,
): Tokenizer {
  const raw = new AddedTokens(specials.filter((token) => !token.normalized).map((token) => [token, token.content]));
  const normalized = new AddedTokens(
    specials.filter((token) => token.normalized).map((token) => [token, normalize(token.content)]),
  );
  return {
    encode(text) {
      const pieces: number[] = [];
      for (const part of raw.split(text.toWellFormed())) {
        for (const rest of typeof part === "number" ? [part] : normalized.split(normalize(part))) {
          if (typeof rest === "number") pieces.push(rest);
          // Not a spread: one word may have more pieces than a call takes arguments.
          else for (const word of words(rest)) for (const id of model.encode(word)) pieces.push(id);
        }
      }
      const total = pieces.length + 2;
      return { ids: [bos, ...pieces.slice(0, limit - 2), eos], truncated: total > limit, total };
    },
  };
}

function normalize(text: string): string {
  // The Rust library lowers character by character, and so knows no final sigma.
  return text.normalize("NFC").replace(SPACES, " ").replaceAll("Σ", "σ").toLowerCase();
}

function* words(text: string): Generator<string> {
  for (const [word] of text.matchAll(WORDS)) {
    // A special token's name that was no special token as it stood: the byte alphabet's own pattern cuts it again.
    if (/^<\|[a-z]/.test(word)) yield* word.split(/(?<=<\|)|(?=\|>)/);
    else yield word;
  }
}

type Json = Readonly<Record<string, unknown>>;

/** The text of one file, with checked access to its JSON; every error names the file. */
class Source {
  constructor(readonly file: string, readonly text: string) {}

  json(): Json {
    let value: unknown;
    try {
      value = JSON.parse(this.text);
    } catch (cause) {
      throw this.damaged("it is not JSON", cause);
    }
    return this.object(value, "the file");
  }

  object(value: unknown, what: string): Json {
    if (typeof value === "object" && value !== null && !Array.isArray(value)) return value as Json;
    throw this.wrong(what, value, "an object");
  }

  array(value: unknown, what: string): readonly unknown[] {
    if (Array.isArray(value)) return value;
    throw this.wrong(what, value, "an array");
  }

  few<T>(entries: readonly T[], what: string): readonly T[] {
    if (entries.length <= MAX_SPECIAL_TOKENS) return entries;
    throw this.damaged(`${what} has ${entries.length} entries, wanted at most ${MAX_SPECIAL_TOKENS}`);
  }

  flag(value: unknown, what: string): boolean {
    if (value === undefined || typeof value === "boolean") return value ?? false;
    throw this.wrong(what, value, "true or false");
  }

  wrong(what: string, found: unknown, wanted: string): ModelError {
    return this.damaged(`${what} is ${shown(found)}, wanted ${wanted}`);
  }

  damaged(what: string, cause?: unknown): ModelError {
    return new ModelError(`Cannot read tokenizer "${this.file}": ${what}`, {
      hint: "Download the tokenizer again",
      cause,
    });
  }
}

/** A JSON value for a message: never its depths, which may be deeper than the stack. */
function shown(value: unknown): string {
  if (typeof value === "string") return JSON.stringify(value.length > 40 ? value.slice(0, 40) + "..." : value);
  if (typeof value === "object" && value !== null) return Array.isArray(value) ? "an array" : "an object";
  return value === undefined ? "missing" : String(value);
}

/** What the files say, whichever they are. */
interface Contents {
  readonly tokens: ReadonlyMap<string, number>;
  readonly pairs: readonly (readonly [string, string])[];
  readonly added: readonly unknown[];
  /** Named in errors about them. */
  readonly source: Source;
}

function readWhole(source: Source): Contents {
  const root = source.json();
  const model = source.object(root["model"], "model");
  const { type, end_of_word_suffix: suffix } = model;
  if (type !== "BPE" || suffix !== "</w>") {
    throw new ModelError(
      `Cannot use tokenizer "${source.file}": its model is ${shown(type)} with end_of_word_suffix ${shown(suffix)}`,
      { hint: 'Use the tokenizer of a CLIP model, such as that of STAR; supported here: "BPE" with "</w>"' },
    );
  }
  const pairs = source.array(model["merges"], "merges").map((merge, rank) => {
    // Older files write "a b", newer ones ["a", "b"].
    return readPair(source, typeof merge === "string" ? merge.split(" ") : merge, rank);
  });
  return {
    ...readVocab(source, model["vocab"]),
    pairs,
    added: source.array(root["added_tokens"] ?? [], "added_tokens"),
  };
}

function readParts(folder: string, vocab: Source | undefined, merges: Source | undefined): Contents {
  if (!vocab || !merges) {
    const missing = vocab ? "merges.txt" : "vocab.json";
    throw new ModelError(`Cannot read tokenizer "${join(folder, missing)}": no such file`, {
      hint: "Download the tokenizer with its vocab.json and merges.txt, or its tokenizer.json",
    });
  }
  const lines = merges.text.split(/\r?\n/);
  if (lines[0]!.startsWith("#version")) lines.shift();
  while (lines.at(-1) === "") lines.pop();
  const pairs = lines.map((line, rank) => readPair(merges, line.split(" "), rank));
  return { tokens: readVocab(vocab, vocab.json()).tokens, pairs, added: [], source: merges };
}

function readPair(source: Source, merge: unknown, rank: number): [string, string] {
  if (rank >= MAX_TOKENS) throw source.damaged(`it has more than ${MAX_TOKENS} merges`);
  const [left, right, ...more]: unknown[] = Array.isArray(merge) ? merge : [];
  const sound = typeof left === "string" && typeof right === "string" && left !== "" && right !== "";
  if (sound && more.length === 0) return [left, right];
  throw source.damaged(`merge ${rank} is not two tokens`);
}

function readVocab(source: Source, value: unknown): { tokens: Map<string, number>; source: Source } {
  const tokens = new Map<string, number>();
  for (const [token, id] of Object.entries(source.object(value, "vocab"))) {
    if (typeof id !== "number" || !Number.isInteger(id) || id < 0 || id >= MAX_TOKENS) {
      throw source.wrong(`id of token ${shown(token)}`, id, `an integer in [0, ${MAX_TOKENS})`);
    }
    tokens.set(token, id);
  }
  if (new Set(tokens.values()).size !== tokens.size) throw source.damaged("two tokens of the vocabulary share an id");
  return { tokens, source };
}

/** Name of a special token, which is text or an object with flags. */
function specialName(entry: unknown, role: string, source: Source | undefined): string {
  const content = typeof entry === "object" && entry !== null ? (entry as Json)["content"] : entry;
  const sound = typeof content === "string" && content.isWellFormed() && content !== "";
  if (sound && content.length <= MAX_SPECIAL_UNITS) return content;
  throw source!.wrong(role, content, `text of at most ${MAX_SPECIAL_UNITS} characters`);
}

/** A special token with the id of the vocabulary; a file that says otherwise would feed the wrong embeddings. */
function readSpecial(source: Source, entry: Json, tokens: ReadonlyMap<string, number>): AddedToken {
  const content = specialName(entry, "content of a special token", source);
  const what = `special token ${shown(content)}`;
  const id = tokens.get(content);
  if (id === undefined) throw source.damaged(`${what} is not in the vocabulary`);
  if (entry["id"] !== undefined && entry["id"] !== id) throw source.wrong(`id of ${what}`, entry["id"], `${id}`);
  const flag = (name: string): boolean => source.flag(entry[name], `${name} of ${what}`);
  const token = {
    id,
    content,
    singleWord: flag("single_word"),
    lstrip: flag("lstrip"),
    rstrip: flag("rstrip"),
    normalized: flag("normalized"),
  };
  if (token.normalized && normalize(content) === "") throw source.damaged(`${what} is empty when normalised`);
  return token;
}

async function readSource(file: string): Promise<Source | undefined> {
  const failed = (what: string, hint: string, cause?: unknown): ModelError =>
    new ModelError(`Cannot read tokenizer "${file}": ${what}`, { hint, cause });
  try {
    const { isFile, size } = await Deno.stat(file);
    if (!isFile) throw failed("it is no file", "Check the path");
    if (size > MAX_FILE_BYTES) {
      throw failed(`it has ${size} bytes, wanted at most ${MAX_FILE_BYTES}`, "Download the tokenizer again");
    }
    return new Source(file, new TextDecoder("utf-8", { fatal: true }).decode(await Deno.readFile(file)));
  } catch (cause) {
    if (cause instanceof ModelError) throw cause;
    if (cause instanceof Deno.errors.NotFound) return undefined;
    if (cause instanceof TypeError) throw failed("it is not UTF-8", "Download the tokenizer again", cause);
    throw failed(cause instanceof Error ? cause.message : String(cause), "Check that the file may be read", cause);
  }
}
