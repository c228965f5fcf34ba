import assert from "node:assert/strict";
import { join } from "node:path";
import { ModelError } from "../src/errors.ts";
import { BytePairs } from "../src/text/byte_pairs.ts";
import { loadClipTokenizer } from "../src/text/clip_tokenizer.ts";
import type { Tokenizer } from "../src/text/tokenizer.ts";

const STAR = join(import.meta.dirname!, "golden-star");
const MINI = join(STAR, "models", "mini-star", "CLIP", "tokenizer");
const SMALL_VOCAB = ["a", "b", "a</w>", "b</w>", "<|startoftext|>", "<|endoftext|>", "ab</w>", "!", "aa", "!</w>", "σ"];

/** Files of a folder by name; strings are written as they are, the rest as JSON. */
type Files = Readonly<Record<string, unknown>>;

/** vocab.json and merges.txt of a few tokens: ids are places in the list. */
function small(change: Files = {}): Files {
  return {
    "vocab.json": Object.fromEntries(SMALL_VOCAB.map((token, id) => [token, id])),
    "merges.txt": "#version: 0.2\na b</w>\na a\n",
    ...change,
  };
}

/** The same as a tokenizer.json, with merges in one of their two spellings. */
function whole(merges: unknown, change: Files = {}): Record<string, unknown> {
  const vocab = small()["vocab.json"];
  return { added_tokens: [], model: { type: "BPE", end_of_word_suffix: "</w>", vocab, merges, ...change } };
}

/** Loads a folder of these files. */
async function load(files: Files): Promise<Tokenizer> {
  const folder = await Deno.makeTempDir();
  try {
    for (const [name, content] of Object.entries(files)) {
      await Deno.writeTextFile(join(folder, name), typeof content === "string" ? content : JSON.stringify(content));
    }
    return await loadClipTokenizer(folder);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

/** Texts of the mini tokenizer's own files. */
async function miniFiles(...names: string[]): Promise<Files> {
  return Object.fromEntries(
    await Promise.all(names.map(async (name) => [name, await Deno.readTextFile(join(MINI, name))])),
  );
}

const PARTS = ["vocab.json", "merges.txt", "special_tokens_map.json", "tokenizer_config.json"];

Deno.test("loadClipTokenizer() gives the ids of the golden texts, from either kind of files", async () => {
  const golden: { text: string; ids: number[] }[] = JSON.parse(
    await Deno.readTextFile(join(STAR, "tokenizer-clip.json")),
  );
  assert(golden.length > 10);
  const folders = [
    await loadClipTokenizer(MINI),
    await load(await miniFiles(...PARTS)),
    await load(await miniFiles("tokenizer.json")),
  ];
  for (const tokenizer of folders) {
    for (const { text, ids } of golden) assert.deepEqual(tokenizer.encode(text).ids, ids, text);
  }
});

// Expected ids: Python transformers 5.24 (tokenizers 0.23.3) on the same folder.
Deno.test("encode() treats special tokens, case and words as the Rust library does", async () => {
  const tokenizer = await loadClipTokenizer(MINI);
  const spelled = [27, 347, 515, 524, 83, 78, 69, 83, 68, 87, 339, 91, 285]; // <| startoftext |>
  const cases: [string, number[]][] = [
    ["<|STARTOFTEXT|> a!!<|startoftext|>!!", [...spelled, 320, 0, 0, 714, 0, 0]],
    ["<|STARTOFTEXT|>??", [...spelled, 30, 286]], // two words more, not one
    ["é! <|ENDOFTEXT|>!", [127, 358, 0, 27, 347, 68, 77, 660, 69, 83, 68, 87, 339, 91, 285, 0]],
    ["ΑΣ ΣΑΣ", [138, 109, 139, 481, 139, 225, 138, 109, 139, 481]], // no final sigma
    ["İ", [328, 136, 485]],
    ["x!y", [343, 0, 344]],
  ];
  for (const [text, ids] of cases) assert.deepEqual(tokenizer.encode(text).ids, [714, ...ids, 715], text);
  // special_tokens_map.json says "normalized" and tokenizer.json does not: without the latter case does not matter.
  const parts = await load(await miniFiles(...PARTS));
  assert.deepEqual(parts.encode("<|STARTOFTEXT|> a!!<|startoftext|>!!").ids, [714, 714, 320, 0, 0, 714, 0, 0, 715]);
  assert.deepEqual(parts.encode("é! <|ENDOFTEXT|>!").ids, [714, 127, 358, 0, 715, 0, 715]);
});

Deno.test("encode() cuts at 77 ids, the last of them EOS, and says so when the text is longer", async () => {
  const tokenizer = await loadClipTokenizer(MINI);
  const fits = tokenizer.encode("a ".repeat(75));
  assert.deepEqual(fits, { ids: [714, ...Array(75).fill(320), 715], truncated: false, total: 77 });
  assert.deepEqual(tokenizer.encode("a ".repeat(76)), { ids: fits.ids, truncated: true, total: 78 });
});

Deno.test("encode() reads lone surrogates as U+FFFD, and white space as Unicode has it", async () => {
  const tokenizer = await loadClipTokenizer(MINI);
  assert.deepEqual(tokenizer.encode("a\ud800"), tokenizer.encode("a\ufffd"));
  assert.deepEqual(tokenizer.encode("a\u0085dog"), tokenizer.encode("a dog"));
  assert.notDeepEqual(tokenizer.encode("a\ufeffdog"), tokenizer.encode("a dog"));
});

Deno.test("encode() takes time in proportion to a text's length", async () => {
  const tokenizer = await loadClipTokenizer(MINI);
  const word = (length: number): number => {
    const from = performance.now();
    assert.equal(tokenizer.encode("le".repeat(length / 2)).total, length / 2 + 2);
    return performance.now() - from;
  };
  word(50_000);
  const [short, long] = [50_000, 800_000].map(word) as [number, number];
  assert(long < 100 * short, `${short} ms for 50 000 characters, ${long} ms for 800 000`); // squared: 256 times
});

Deno.test("loadClipTokenizer() obeys model_max_length when it is between 2 and 77", async () => {
  const limited = async (model_max_length: unknown): Promise<number[]> =>
    (await load(small({ "tokenizer_config.json": { model_max_length } }))).encode("a ".repeat(100)).ids;
  assert.deepEqual(await limited(4), [4, 2, 2, 5]);
  assert.deepEqual(await limited(2), [4, 5]);
  for (const other of [1e30, 1, -1, "8", null]) assert.equal((await limited(other)).length, 77, String(other));
});

// Which source of flags wins was seen in Python transformers 5.24, on folders like these.
Deno.test("loadClipTokenizer() takes special tokens by transformers' order", async () => {
  const flagged = (content: string, ...flags: string[]): Record<string, unknown> => ({
    content,
    ...Object.fromEntries(
      ["single_word", "lstrip", "rstrip", "normalized"].map((name) => [name, flags.includes(name)]),
    ),
  });
  const eos = flagged("<|endoftext|>", "normalized");
  const ids = async (change: Files, text: string): Promise<number[]> => (await load(small(change))).encode(text).ids;
  const map = (value: unknown): Files => ({ "special_tokens_map.json": value });
  const roles = { eos_token: eos, unk_token: eos, pad_token: eos };
  const upper = "<|ENDOFTEXT|>"; // one id as a special token, else 13 unknown bytes
  assert.deepEqual(await ids({}, "ab!"), [4, 6, 9, 5]);
  assert.deepEqual(await ids(map({ pad_token: "!" }), "ab!"), [4, 6, 7, 5]);
  assert.equal((await ids(map(roles), upper)).length, 3);
  assert.equal((await ids(map({ ...roles, pad_token: "<|endoftext|>" }), upper)).length, 15);
  const config = (value: object): Files => ({ "tokenizer_config.json": { ...value } });
  assert.equal((await ids(config(roles), upper)).length, 3);
  assert.equal((await ids({ ...config({ pad_token: "!" }), ...map({ pad_token: "a" }) }, "a!")).at(1), 0);
  // The map is read only where the config has no list of its own.
  const list = config({ pad_token: "!", added_tokens_decoder: { 3: flagged("b</w>") } });
  assert.deepEqual(await ids({ ...list, ...map({ pad_token: "a" }) }, "a!b</w>"), [4, 2, 7, 3, 5]);
});

Deno.test("loadClipTokenizer() reads merges in both spellings, and files with other line ends", async () => {
  const expected = (await load(small())).encode("aab ab b");
  assert.deepEqual(expected.ids, [4, 0, 6, 6, 3, 5]);
  for (
    const files of [
      { "tokenizer.json": whole(["a b</w>", "a a"]) },
      { "tokenizer.json": whole([["a", "b</w>"], ["a", "a"]]) },
      small({ "merges.txt": "#version: 0.2\r\na b</w>\r\na a\r\n" }),
      small({ "merges.txt": "a b</w>\na a" }),
    ]
  ) assert.deepEqual((await load(files)).encode("aab ab b"), expected);
});

Deno.test("BytePairs.encode() merges the lowest rank first, of equal ones the leftmost", () => {
  const tokens = ["?", "a", "b", "a</w>", "b</w>", "aa", "ba", "aa</w>", "baa", "aba"];
  const model = (...merges: [string, string][]): BytePairs =>
    new BytePairs(new Map(tokens.map((token, id) => [token, id])), merges, "?", "x");
  assert.deepEqual(model(["a", "a"]).encode("aaaab"), [5, 5, 4]);
  assert.deepEqual(model(["a", "a"]).encode("aaab"), [5, 1, 4]);
  assert.deepEqual(model(["a", "a"], ["b", "a"]).encode("baab"), [2, 5, 4]);
  assert.deepEqual(model(["b", "a"], ["a", "a"]).encode("baab"), [6, 1, 4]);
  assert.deepEqual(model(["b", "a"], ["ba", "a"]).encode("baab"), [8, 4]);
  assert.deepEqual(model(["b", "a"], ["a", "ba"]).encode("abab"), [9, 4]);
  assert.deepEqual(model(["a", "a</w>"]).encode("aaa"), [1, 7]);
  assert.deepEqual(model().encode("é"), [0, 0], "one unknown a byte");
  assert.deepEqual(model().encode("a"), [3]);
});

Deno.test("BytePairs.encode() merges as repeated search for the lowest rank does", () => {
  let seed = 1;
  const pick = (n: number): number => (seed = (seed * 48271) % 0x7fffffff) % n; // the minimal standard generator
  const letters = ["a", "b", "c", "d"];
  const tokens = ["?", ...letters, ...letters.map((letter) => letter + "</w>")];
  const merges: [string, string][] = [];
  while (merges.length < 150) {
    const [left, right] = [tokens[1 + pick(tokens.length - 1)]!, tokens[1 + pick(tokens.length - 1)]!];
    // Each token is made in one way, so that rank alone decides.
    if (left.endsWith("</w>") || tokens.includes(left + right)) continue;
    merges.push([left, right]);
    tokens.push(left + right);
  }
  const model = new BytePairs(new Map(tokens.map((token, id) => [token, id])), merges, "?", "x");
  let merged = 0;
  for (let round = 0; round < 300; round++) {
    const word = Array.from({ length: 1 + pick(60) }, () => letters[pick(4)]!);
    const parts = word.with(-1, word.at(-1) + "</w>");
    for (const [left, right] of merges) {
      for (let i = 0; i + 1 < parts.length; i++) {
        if (parts[i] === left && parts[i + 1] === right) parts.splice(i, 2, left + right);
      }
    }
    assert.deepEqual(model.encode(word.join("")).map((id) => tokens[id]), parts, word.join(""));
    merged += word.length - parts.length;
  }
  assert(merged > 1000);
});

/** Asserts that loading these files fails with a ModelError of this message and a hint. */
async function refused(files: Files, message: RegExp): Promise<void> {
  await assert.rejects(load(files), (error: unknown) => {
    assert(error instanceof ModelError, String(error));
    assert.match(error.message, message);
    assert(error.hint);
    return true;
  });
}

Deno.test("loadClipTokenizer() names what is missing, and what lies", async () => {
  const vocab = (change: Files): Files => small({ "vocab.json": { ...small()["vocab.json"] as Files, ...change } });
  const config = (change: Files): Files => small({ "tokenizer_config.json": change });
  const cases: [Files, RegExp][] = [
    [{}, /vocab\.json": no such file/],
    [{ "vocab.json": {} }, /merges\.txt": no such file/],
    [small({ "vocab.json": "{" }), /vocab\.json": it is not JSON/],
    [small({ "vocab.json": "[".repeat(1 << 20) }), /it is not JSON/],
    [small({ "vocab.json": [] }), /the file is an array, wanted an object/],
    [small({ "vocab.json": {} }), /special token "<\|startoftext\|>" is not in the vocabulary/],
    [vocab({ z: -1 }), /id of token "z" is -1, wanted an integer/],
    [vocab({ z: 2 ** 20 }), /id of token "z" is 1048576/],
    [vocab({ z: "0" }), /id of token "z" is "0"/],
    [vocab({ z: 3 }), /two tokens of the vocabulary share an id/],
    [small({ "merges.txt": "a b</w>\na" }), /merges\.txt": merge 1 is not two tokens/],
    [small({ "merges.txt": "a  b</w>" }), /merge 0 is not two tokens/],
    [small({ "merges.txt": "a z" }), /what merge 0 joins, "z" is not in the vocabulary/],
    [small({ "merges.txt": "a b" }), /what merge 0 makes, "ab" is not in the vocabulary/],
    [small({ "merges.txt": "a b\n".repeat(2 ** 20 + 1) }), /more than 1048576 merges/],
    [{ "tokenizer.json": whole([], { type: "Unigram" }) }, /its model is "Unigram"/],
    [{ "tokenizer.json": whole([], { end_of_word_suffix: "" }) }, /end_of_word_suffix ""/],
    [{ "tokenizer.json": whole("a b") }, /merges is "a b", wanted an array/],
    [{ "tokenizer.json": whole([1]) }, /merge 0 is not two tokens/],
    [{ "tokenizer.json": { ...whole([]), added_tokens: [{ id: 3, content: "a" }] } }, /id of special token "a" is 3/],
    [{ "tokenizer.json": { ...whole([]), added_tokens: [0] } }, /a token of added_tokens is 0, wanted an object/],
    [small({ "special_tokens_map.json": { eos_token: [] } }), /special_tokens_map\.json": eos_token is missing/],
    [config({ bos_token: 5 }), /bos_token is 5, wanted text/],
    [config({ bos_token: "\ud800" }), /bos_token is /],
    [config({ bos_token: { content: "a", lstrip: 1 } }), /lstrip of special token "a" is 1/],
    [config({ unk_token: "z" }), /special token "z" is not in the vocabulary/],
    [config({ added_tokens_decoder: { x: { content: "a" } } }), /id of special token "a" is NaN, wanted 0/],
    [config({ added_tokens_decoder: [] }), /added_tokens_decoder is an array/],
  ];
  for (const [files, message] of cases) await refused(files, message);
});

Deno.test("loadClipTokenizer() refuses what is no text, and files beyond its cap", async () => {
  const folder = await Deno.makeTempDir();
  try {
    const file = join(folder, "tokenizer.json");
    await Deno.mkdir(file);
    await assert.rejects(loadClipTokenizer(folder), /it is no file/);
    await Deno.remove(file);
    await Deno.writeFile(file, Uint8Array.of(0x7b, 0xff, 0x7d));
    await assert.rejects(loadClipTokenizer(folder), /it is not UTF-8/);
    await Deno.truncate(file, (16 << 20) + 1);
    await assert.rejects(loadClipTokenizer(folder), /16777217 bytes, wanted at most 16777216/);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});
