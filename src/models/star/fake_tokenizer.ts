/**
 * A CLIP tokenizer without training: the layout of the published files, and merges enough that a prompt costs half as many
 * tokens as it has letters.
 *
 * @module
 */

/** The tokens that begin and end a prompt: the last two of the vocabulary (star.md §4). */
const BOS = "<|startoftext|>", EOS = "<|endoftext|>";
/** Ends a word. */
const END = "</w>";

/**
 * The files of a folder `tokenizer/` by name: 256 bytes, the same ending a word, a merge for every two letters, made-up names
 * that no text reaches up to the `size` of the vocabulary, BOS and EOS. Prompts are padded with "!", id 0, as in Stable
 * Diffusion 2.1.
 *
 * @example
 * ```ts
 * import { fakeClipTokenizer } from "@stagevar/stagevar/models/star/fake_tokenizer.ts";
 * import assert from "node:assert/strict";
 * const vocab = JSON.parse(fakeClipTokenizer(49_408, 77)["vocab.json"]!);
 * assert.deepEqual([vocab["<|startoftext|>"], vocab["<|endoftext|>"], vocab["!"]], [49_406, 49_407, 0]);
 * ```
 */
export function fakeClipTokenizer(size: number, positions: number): Readonly<Record<string, string>> {
  const bytes = byteCharacters();
  const letters = Array.from("abcdefghijklmnopqrstuvwxyz");
  const pairs = ["", END].flatMap((end) => letters.flatMap((a) => letters.map((b) => [a, b + end] as const)));
  const tokens = [...bytes, ...bytes.map((byte) => byte + END), ...pairs.map((pair) => pair.join(""))];
  const unused = Array.from({ length: size - tokens.length - 2 }, (_, i) => `<|unused${i}|>`);
  const ids = [...tokens, ...unused, BOS, EOS].map((token, id): [string, number] => [token, id]);
  const special = (content: string): object => {
    return { content, lstrip: false, normalized: true, rstrip: false, single_word: false };
  };
  const specials = { bos_token: special(BOS), eos_token: special(EOS), unk_token: special(EOS), pad_token: "!" };
  const json = (value: unknown): string => `${JSON.stringify(value, null, 2)}\n`;
  return {
    "vocab.json": JSON.stringify(Object.fromEntries(ids)),
    "merges.txt": `#version: 0.2\n${pairs.map(([a, b]) => `${a} ${b}\n`).join("")}`,
    "special_tokens_map.json": json(specials),
    "tokenizer_config.json": json({
      tokenizer_class: "CLIPTokenizer",
      add_prefix_space: false,
      do_lower_case: true,
      errors: "replace",
      model_max_length: positions,
      ...specials,
    }),
  };
}

/** The characters that stand for the bytes (GPT-2's mapping): the printable ones for themselves, first, then the others. */
function byteCharacters(): string[] {
  const printable = (byte: number): boolean => (byte > 0x20 && byte < 0x7f) || (byte > 0xa0 && byte !== 0xad);
  const bytes = Array.from({ length: 256 }, (_, byte) => byte);
  const others = bytes.filter((byte) => !printable(byte)).map((_, i) => 0x100 + i);
  return [...bytes.filter(printable), ...others].map((code) => String.fromCharCode(code));
}
