/**
 * Parts of large blocks of memory, handed out at their lowest free address: the same sequence of requests gets the same
 * addresses whenever it starts from nothing, which is what lets a device replay what it has recorded.
 *
 * @module
 */

/** Addresses are multiples of this: what CUDA itself promises. */
const GRANULE = 256;

/** A part of a block. */
interface Part {
  readonly at: number;
  readonly bytes: number;
}

/**
 * First-fit allocation over blocks that are fetched when none has room.
 *
 * @example
 * ```ts
 * import { Blocks } from "@stagevar/stagevar/runtime/blocks.ts";
 * import assert from "node:assert/strict";
 * const blocks = new Blocks(1024, () => 4096);
 * const [a, b] = [blocks.allocate(1), blocks.allocate(300)];
 * assert.deepEqual([a, b], [4096, 4096 + 256]);
 * blocks.free(a);
 * assert.equal(blocks.allocate(256), a);
 * ```
 */
export class Blocks {
  readonly #size: number;
  readonly #fetch: (bytes: number) => number;
  readonly #taken = new Map<number, number>(); // address -> bytes
  #free: Part[] = []; // by address, none of a block touching another
  readonly #starts = new Set<number>(); // of the blocks, which parts do not grow across

  /**
   * No memory at first.
   *
   * @param size bytes of a block, unless a request is larger
   * @param fetch gives the address of a new block of so many bytes; throws when there is none
   */
  constructor(size: number, fetch: (bytes: number) => number) {
    this.#size = size;
    this.#fetch = fetch;
  }

  /** Bytes that are handed out. */
  get used(): number {
    return [...this.#taken.values()].reduce((sum, bytes) => sum + bytes, 0);
  }

  /** Address of so many bytes. */
  allocate(bytes: number): number {
    const wanted = Math.max(1, Math.ceil(bytes / GRANULE)) * GRANULE;
    let i = this.#free.findIndex((part) => part.bytes >= wanted);
    if (i < 0) {
      const size = Math.max(wanted, this.#size);
      const at = this.#fetch(size);
      this.#starts.add(at);
      i = this.#insert({ at, bytes: size });
    }
    const { at, bytes: found } = this.#free[i]!;
    if (found === wanted) this.#free.splice(i, 1);
    else this.#free[i] = { at: at + wanted, bytes: found - wanted };
    this.#taken.set(at, wanted);
    return at;
  }

  /** Takes a part back. */
  free(at: number): void {
    const bytes = this.#taken.get(at);
    if (bytes === undefined) throw new RangeError(`Cannot free ${at}: nothing is there`);
    this.#taken.delete(at);
    const i = this.#insert({ at, bytes });
    this.#join(i);
    this.#join(i - 1);
  }

  #insert(part: Part): number {
    let i = this.#free.findIndex(({ at }) => at > part.at);
    if (i < 0) i = this.#free.length;
    this.#free.splice(i, 0, part);
    return i;
  }

  /** Makes one part of this one and the next, where they touch inside a block. */
  #join(i: number): void {
    const [one, next] = [this.#free[i], this.#free[i + 1]];
    if (!one || !next || one.at + one.bytes !== next.at || this.#starts.has(next.at)) return;
    this.#free.splice(i, 2, { at: one.at, bytes: one.bytes + next.bytes });
  }
}
