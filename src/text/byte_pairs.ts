/**
 * The byte-pair model of CLIP: one word to ids, by merging its bytes two by two.
 *
 * @module
 */
import { ModelError } from "../errors.ts";

/** Ends the last token of a word. */
const END_OF_WORD = "</w>";
/** Ids and ranks lie below it, so that two of them fit into one exact number. */
export const MAX_TOKENS = 2 ** 20;
/** A place in a word and a rank share one number as well. */
const PLACES = 2 ** 32;
/** In place of a token that was merged into the one before. */
const GONE = -1;
const UTF8 = new TextEncoder();

/**
 * A vocabulary over the 256 bytes, and the merges that make longer tokens of them in order of rank.
 *
 * Merges as the Rust library does it, its queue included: of the pairs with the lowest rank the leftmost goes first, in
 * O(n log n) however long the word is.
 *
 * @example
 * ```ts
 * import { BytePairs } from "@stagevar/stagevar/text/byte_pairs.ts";
 * import assert from "node:assert/strict";
 * const vocab = new Map([["?", 0], ["a", 1], ["b", 2], ["b</w>", 3], ["ab</w>", 4]]);
 * const model = new BytePairs(vocab, [["a", "b</w>"]], "?", "merges.txt");
 * assert.deepEqual(model.encode("abab"), [1, 2, 4]);
 * assert.deepEqual(model.encode("c"), [0]);
 * ```
 */
export class BytePairs {
  readonly #bytes: Int32Array; // id of a byte
  readonly #lastBytes: Int32Array; // id of a byte that ends a word
  readonly #ranks = new Map<number, number>(); // two ids -> rank of their merge
  readonly #made: Int32Array; // rank -> id that the merge makes

  /**
   * Builds the model.
   *
   * @param vocab Token to id; ids are below {@linkcode MAX_TOKENS}.
   * @param merges Left and right token in order of rank; the last of two equal ones wins.
   * @param unknown Token of bytes that the vocabulary lacks.
   * @param file Named in errors.
   * @throws {ModelError} A token of a merge, what it makes, or the unknown token is not in the vocabulary.
   */
  constructor(
    vocab: ReadonlyMap<string, number>,
    merges: readonly (readonly [string, string])[],
    unknown: string,
    file: string,
  ) {
    const id = (token: string, what: string): number => {
      const found = vocab.get(token);
      if (found !== undefined) return found;
      throw new ModelError(`Cannot use tokenizer "${file}": ${what} ${brief(token)} is not in the vocabulary`, {
        hint: "Its vocabulary and its merges do not belong together: download the tokenizer again",
      });
    };
    const unknownId = id(unknown, "the unknown token");
    const alphabet = byteAlphabet();
    this.#bytes = Int32Array.from(alphabet, (letter) => vocab.get(letter) ?? unknownId);
    this.#lastBytes = Int32Array.from(alphabet, (letter) => vocab.get(letter + END_OF_WORD) ?? unknownId);
    this.#made = Int32Array.from(merges, ([left, right], rank) => {
      const what = `what merge ${rank} joins,`;
      this.#ranks.set(id(left, what) * MAX_TOKENS + id(right, what), rank);
      return id(left + right, `what merge ${rank} makes,`);
    });
  }

  /** Ids of one word that is not empty. */
  encode(word: string): number[] {
    const bytes = UTF8.encode(word);
    const n = bytes.length;
    // Plain arrays: most words are short, and typed arrays take longer to make than their merges to find.
    const ids: number[] = [], next: number[] = [], previous: number[] = []; // next, previous: where neighbours start
    for (let i = 0; i < n; i++) {
      ids.push((i === n - 1 ? this.#lastBytes : this.#bytes)[bytes[i]!]!);
      next.push(i + 1);
      previous.push(i - 1);
    }
    const queue = new Queue();
    const offer = (left: number, right: number): void => {
      const rank = left < 0 || right >= n ? undefined : this.#rank(ids[left]!, ids[right]!);
      if (rank !== undefined) queue.push(rank * PLACES + left);
    };
    for (let i = 0; i + 1 < n; i++) offer(i, i + 1);
    for (let first = queue.pop(); first !== undefined; first = queue.pop()) {
      const made = this.#made[Math.floor(first / PLACES)]!;
      const at = first % PLACES;
      const right = next[at]!;
      if (ids[at] === GONE || right >= n) continue;
      // Merges since then may have put another pair there; as in the Rust library, one that makes the same will do.
      const rank = this.#rank(ids[at]!, ids[right]!);
      if (rank === undefined || this.#made[rank] !== made) continue;
      ids[at] = made;
      ids[right] = GONE;
      const behind = next[at] = next[right]!;
      if (behind < n) previous[behind] = at;
      offer(previous[at]!, at);
      offer(at, behind);
    }
    return ids.filter((id) => id !== GONE);
  }

  #rank(left: number, right: number): number | undefined {
    return this.#ranks.get(left * MAX_TOKENS + right);
  }
}

/** The smallest of many numbers first: a binary heap. */
class Queue {
  readonly #heap: number[] = [];

  push(value: number): void {
    const heap = this.#heap;
    let at = heap.push(value) - 1;
    while (at > 0) {
      const parent = (at - 1) >> 1;
      if (heap[parent]! <= value) break;
      heap[at] = heap[parent]!;
      at = parent;
    }
    heap[at] = value;
  }

  pop(): number | undefined {
    const heap = this.#heap;
    const smallest = heap[0];
    const last = heap.pop();
    if (last === undefined || heap.length === 0) return smallest;
    let at = 0;
    while (true) {
      let child = 2 * at + 1;
      if (child >= heap.length) break;
      if (child + 1 < heap.length && heap[child + 1]! < heap[child]!) child++;
      if (heap[child]! >= last) break;
      heap[at] = heap[child]!;
      at = child;
    }
    heap[at] = last;
    return smallest;
  }
}

/** The printable character that stands for each byte in the files: its own, or one from U+0100 on (GPT-2's mapping). */
function byteAlphabet(): string[] {
  let others = 0x100;
  return Array.from({ length: 256 }, (_, byte) => {
    const printable = byte >= 0x21 && byte <= 0x7e || byte >= 0xa1 && byte !== 0xad;
    return String.fromCharCode(printable ? byte : others++);
  });
}

function brief(token: string): string {
  return JSON.stringify(token.length > 40 ? token.slice(0, 40) + "..." : token);
}
