/**
 * A checkpoint as named tensor references, whatever files it came from, and the comparison with what a model wants.
 *
 * No model knowledge: names and shapes come from the caller.
 *
 * @module
 */
import { ModelError } from "../errors.ts";
import { quote } from "./random_access.ts";
import type { TensorRef } from "./tensor.ts";

export { byteLength, type DType, isContiguous, readBytes, readIntegers, readTensor, type TensorRef } from "./tensor.ts";

/**
 * The tensors of one checkpoint by name; holds references only, so it costs no memory to speak of and needs no closing.
 *
 * @example
 * ```ts
 * import { TensorSource } from "@stagevar/stagevar/checkpoint/source.ts";
 * import assert from "node:assert/strict";
 * const ref = { name: "vae.w", dtype: "F32", shape: [2], strides: [1], file: "/x.pth", offset: 64 } as const;
 * const source = new TensorSource("x.pth", ["/x.pth"], new Map([[ref.name, ref]]));
 * assert.equal(source.under("vae.").get("w").offset, 64);
 * assert.throws(() => source.get("vae.v"), /"vae.v" is not in "x.pth"/);
 * ```
 */
export class TensorSource {
  /** Path of the checkpoint as the caller gave it, for messages. */
  readonly path: string;
  /** Real paths of the files that hold its tensors. */
  readonly files: readonly string[];
  readonly #tensors: ReadonlyMap<string, TensorRef>;
  readonly #numbers: ReadonlyMap<string, readonly number[]>;

  /** Wraps the references a reader found, and the lists of numbers beside them, keyed by name. */
  constructor(
    path: string,
    files: readonly string[],
    tensors: ReadonlyMap<string, TensorRef>,
    numbers: ReadonlyMap<string, readonly number[]> = new Map(),
  ) {
    this.path = path;
    this.files = files;
    this.#tensors = tensors;
    this.#numbers = numbers;
  }

  /** Number of tensors. */
  get size(): number {
    return this.#tensors.size;
  }

  /** Names in the order of the file. */
  names(): string[] {
    return [...this.#tensors.keys()];
  }

  /** Whether there is a tensor of that name. */
  has(name: string): boolean {
    return this.#tensors.has(name);
  }

  /** The reference of that name; throws ModelError, with the nearest names, when there is none. */
  get(name: string): TensorRef {
    const ref = this.#tensors.get(name);
    if (ref !== undefined) return ref;
    const near = nearest(name, this.#tensors.keys());
    throw new ModelError(`Tensor ${quote(name)} is not in ${quote(this.path)}, which has ${this.size} tensors`, {
      hint: near.length === 0
        ? "Check that this is the right checkpoint: it has no tensor of a similar name"
        : `Check that this is the right checkpoint; nearest names: ${near.map(quote).join(", ")}`,
    });
  }

  /**
   * The list or tuple of finite numbers of that name, such as "trainer.config.patch_nums" in a training checkpoint of
   * STAR (star.md §1); undefined when there is none, or it is longer than 1024. Only torch archives have any.
   */
  numbers(name: string): readonly number[] | undefined {
    return this.#numbers.get(name);
  }

  /**
   * A view of the tensors and lists whose name starts with `prefix`, under what follows it; empty when there are none.
   *
   * The references keep the name they have in the file.
   */
  under(prefix: string): TensorSource {
    return new TensorSource(this.path, this.files, cut(this.#tensors, prefix), cut(this.#numbers, prefix));
  }
}

/** The entries whose name starts with `prefix`, without it. */
function cut<T>(entries: ReadonlyMap<string, T>, prefix: string): Map<string, T> {
  const found = new Map<string, T>();
  for (const [name, value] of entries) {
    if (name.startsWith(prefix)) found.set(name.slice(prefix.length), value);
  }
  return found;
}

/** Three names that share the longest beginning and end with `wanted`: tensor names are paths, and differ in the middle. */
function nearest(wanted: string, names: Iterable<string>): string[] {
  const scored: { name: string; score: number }[] = [];
  for (const name of names) {
    const limit = Math.min(wanted.length, name.length);
    let head = 0;
    while (head < limit && wanted[head] === name[head]) head++;
    let tail = 0;
    while (tail < limit - head && wanted.at(-1 - tail) === name.at(-1 - tail)) tail++;
    if (head + tail >= wanted.length / 2) scored.push({ name, score: head + tail });
  }
  return scored.sort((a, b) => b.score - a.score).slice(0, 3).map(({ name }) => name);
}

/** Shapes a model wants, by tensor name; -1 stands for any extent. */
export interface Expected {
  /** Wanted shape of the tensor of this name. */
  readonly [name: string]: readonly number[];
}

/** What else a checkpoint may hold. */
export interface MatchOptions {
  /** True for a name that may be left over (infinity.md G25: masks and tables that a model rebuilds). */
  readonly ignore?: (name: string) => boolean;
}

/**
 * The references of all expected tensors; one ModelError lists what is missing, has another shape or is left over.
 *
 * @example
 * ```ts
 * import { matchTensors, TensorSource } from "@stagevar/stagevar/checkpoint/source.ts";
 * import assert from "node:assert/strict";
 * const ref = { name: "w", dtype: "F32", shape: [2, 3], strides: [3, 1], file: "/x", offset: 0 } as const;
 * const source = new TensorSource("x", ["/x"], new Map([["w", ref]]));
 * assert.equal(matchTensors(source, { w: [-1, 3] }).w, ref);
 * assert.throws(() => matchTensors(source, { w: [3, 2] }), /"w" is \[2, 3\], wanted \[3, 2\]/);
 * ```
 */
export function matchTensors<E extends Expected>(
  source: TensorSource,
  expected: E,
  options: MatchOptions = {},
): { readonly [K in keyof E]: TensorRef } {
  const found: [string, TensorRef][] = [];
  const missing: string[] = [];
  const misshapen: string[] = [];
  for (const [name, wanted] of Object.entries(expected)) {
    if (!source.has(name)) {
      missing.push(quote(name));
      continue;
    }
    const ref = source.get(name);
    const fits = ref.shape.length === wanted.length &&
      wanted.every((extent, axis) => extent === -1 || extent === ref.shape[axis]);
    if (fits) found.push([name, ref]);
    else misshapen.push(`${quote(name)} is ${shapeText(ref.shape)}, wanted ${shapeText(wanted)}`);
  }
  const left = source.names().filter((name) => !Object.hasOwn(expected, name) && !options.ignore?.(name)).map(quote);
  const problems = [
    summary(missing, "missing"),
    summary(misshapen, "of another shape"),
    summary(left, "not expected"),
  ].filter((problem) => problem !== "");
  if (problems.length > 0) {
    throw new ModelError(`${quote(source.path)} does not fit the model: ${problems.join("; ")}`, {
      hint: "Check that the checkpoint and the model name belong together",
    });
  }
  // Own properties whatever the names: an assignment to "__proto__" would not be one.
  return Object.fromEntries(found) as { readonly [K in keyof E]: TensorRef };
}

const LISTED = 8;

function summary(items: readonly string[], what: string): string {
  if (items.length === 0) return "";
  const rest = items.length > LISTED ? ` and ${items.length - LISTED} more` : "";
  return `${items.length} ${what} (${items.slice(0, LISTED).join(", ")}${rest})`;
}

function shapeText(shape: readonly number[]): string {
  return `[${shape.map((extent) => extent === -1 ? "any" : extent).join(", ")}]`;
}
