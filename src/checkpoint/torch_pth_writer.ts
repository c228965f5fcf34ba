/**
 * Writes state dicts in the format of torch.save: a zip archive of a pickle and one storage a tensor (infinity.md §1.1).
 *
 * Streams, so a checkpoint larger than memory can be made, and never leaves half a file.
 *
 * @module
 */
import { basename } from "node:path";
import { UsageError } from "../errors.ts";
import { quote } from "./random_access.ts";
import type { TensorData } from "./safetensors_writer.ts";
import { countElements, type DType, DTYPE_BYTES, rowMajor } from "./tensor.ts";
import { type ZipData, zipPieces } from "./zip_writer.ts";

/** How the dictionary is laid out. */
export interface TorchOptions {
  /**
   * Path of keys, joined with ".", at which the tensors' dictionary lies, such as "vae" or "trainer.var_wo_ddp"; left out,
   * it is the whole.
   */
  readonly under?: string;
  /** Tuples of whole numbers by such a path, beside what lies `under`: "trainer.config.patch_nums" (star.md §1). */
  readonly numbers?: Readonly<Record<string, readonly number[]>>;
}

const STORAGES: Readonly<Record<DType, string>> = {
  F64: "DoubleStorage",
  F32: "FloatStorage",
  F16: "HalfStorage",
  BF16: "BFloat16Storage",
  I64: "LongStorage",
  I32: "IntStorage",
  I16: "ShortStorage",
  I8: "CharStorage",
  U8: "ByteStorage",
  BOOL: "BoolStorage",
};

/**
 * Writes tensors to a file that `torch.load(path, weights_only=True)` reads, under a temporary name in its folder, then
 * renames it.
 *
 * Throws UsageError for a repeated name, an impossible shape, bytes that do not fill it, numbers that are not whole or lie
 * where something else does, or a folder that is not there.
 *
 * @example
 * ```ts
 * import { openTorch } from "@stagevar/stagevar/checkpoint/torch_pth.ts";
 * import { writeTorch } from "@stagevar/stagevar/checkpoint/torch_pth_writer.ts";
 * import assert from "node:assert/strict";
 * const path = `${await Deno.makeTempDir()}/x.pth`;
 * const bias = { name: "bias", dtype: "F32", shape: [2], bytes: new Uint8Array(8) } as const;
 * await writeTorch(path, [bias], { under: "trainer.var_wo_ddp", numbers: { "trainer.config.patch_nums": [1, 2, 4] } });
 * const source = await openTorch(path);
 * assert.deepEqual(source.get("trainer.var_wo_ddp.bias").shape, [2]);
 * assert.deepEqual(source.numbers("trainer.config.patch_nums"), [1, 2, 4]);
 * ```
 */
export async function writeTorch(
  path: string,
  tensors: readonly TensorData[],
  options: TorchOptions = {},
): Promise<void> {
  const entries = archiveEntries(path, tensors, options);
  const part = `${path}.${crypto.randomUUID()}.part`;
  using file = await Deno.open(part, { write: true, createNew: true }).catch((cause) => {
    throw new UsageError(`Cannot write ${quote(path)}: ${cause.message}`, {
      cause,
      hint: "Check that its folder exists",
    });
  });
  try {
    for await (const piece of zipPieces(entries)) {
      for (let done = 0; done < piece.length;) done += await file.write(piece.subarray(done));
    }
    await file.sync();
    await Deno.rename(part, path);
  } catch (error) {
    await Deno.remove(part);
    throw error;
  }
}

function archiveEntries(path: string, tensors: readonly TensorData[], options: TorchOptions): ZipData[] {
  const root = basename(path).replace(/\.[^.]*$/, ""); // torch names the archive's folder after its file
  const names = new Set<string>();
  const entry = (name: string, bytes: Uint8Array): ZipData => {
    return { name: `${root}/${name}`, label: quote(path), size: bytes.length, bytes };
  };
  const storages = tensors.map(({ name, dtype, shape, bytes }, key): ZipData => {
    const count = countElements(shape);
    if (count === undefined) {
      throw new UsageError(`Cannot write ${quote(path)}: tensor ${quote(name)} has shape [${shape}], wanted sizes`);
    }
    if (names.has(name)) throw new UsageError(`Cannot write ${quote(path)}: tensor name ${quote(name)} is taken`);
    names.add(name);
    const label = `${quote(path)}: tensor ${quote(name)} of ${dtype} [${shape.join(", ")}]`;
    return { name: `${root}/data/${key}`, label, size: count * DTYPE_BYTES[dtype], bytes };
  });
  return [
    entry("data.pkl", new Pickler().file(nested(path, tensors, options))),
    entry("byteorder", ascii("little")),
    ...storages,
    entry("version", ascii("3\n")),
  ];
}

/** What a file holds: the dictionary of tensors, a tuple of numbers, or a dictionary of these. */
type Node = { readonly tensors: readonly TensorData[] } | readonly number[] | Map<string, Node>;

function nested(path: string, tensors: readonly TensorData[], { under, numbers = {} }: TorchOptions): Node {
  const wrong = (place: string, what: string): UsageError => {
    return new UsageError(`Cannot write ${quote(path)}: ${quote(place)} ${what}`);
  };
  const root = new Map<string, Node>();
  const put = (place: string, node: Node): void => {
    const keys = place.split(".");
    const last = keys.pop()!;
    let at = root;
    for (const key of keys) {
      const next = at.get(key) ?? new Map<string, Node>();
      if (!(next instanceof Map)) throw wrong(place, "lies in no dictionary of its own");
      at.set(key, next);
      at = next;
    }
    if (at.has(last)) throw wrong(place, "is taken");
    at.set(last, node);
  };
  if (under !== undefined) put(under, { tensors });
  for (const [place, values] of Object.entries(numbers)) {
    if (under === undefined) throw wrong(place, "wants the tensors under a key");
    if (!values.every((value) => Number.isSafeInteger(value) && value >= 0)) {
      throw wrong(place, `is [${values.join(", ")}], wanted whole numbers`);
    }
    put(place, values);
  }
  return under === undefined ? { tensors } : root;
}

function ascii(text: string): Uint8Array {
  return Uint8Array.from(text, (char) => char.charCodeAt(0));
}

/** As much of pickle protocol 2 as a state dict needs; opcodes by their names in CPython's Lib/pickletools.py. */
class Pickler {
  readonly #bytes: number[] = [];

  /** A whole pickle. */
  file(root: Node): Uint8Array {
    this.#op("\x80\x02"); // PROTO 2
    this.#node(root);
    this.#op("."); // STOP
    return Uint8Array.from(this.#bytes);
  }

  /** A dict, a tuple, or an OrderedDict of tensors. */
  #node(node: Node): void {
    if (node instanceof Map) {
      this.#op("}"); // EMPTY_DICT
      for (const [key, value] of node) {
        this.#text(key);
        this.#node(value);
        this.#op("s"); // SETITEM
      }
    } else if ("tensors" in node) {
      this.#orderedDict();
      this.#op("("); // MARK
      for (const [key, tensor] of node.tensors.entries()) {
        this.#text(tensor.name);
        this.#tensor(tensor, String(key));
      }
      this.#op("u"); // SETITEMS
    } else this.#integers(node);
  }

  /** _rebuild_tensor_v2(storage, offset, shape, strides, requires_grad, backward_hooks) */
  #tensor({ dtype, shape }: TensorData, key: string): void {
    this.#global("torch._utils", "_rebuild_tensor_v2");
    this.#op("(("); // MARK MARK
    this.#text("storage");
    this.#global("torch", STORAGES[dtype]);
    this.#text(key);
    this.#text("cpu");
    this.#integer(countElements(shape)!);
    this.#op("tQ"); // TUPLE BINPERSID
    this.#integer(0);
    this.#integers(shape);
    this.#integers(rowMajor(shape));
    this.#op("\x89"); // NEWFALSE
    this.#orderedDict();
    this.#op("tR"); // TUPLE REDUCE
  }

  #orderedDict(): void {
    this.#global("collections", "OrderedDict");
    this.#op(")R"); // EMPTY_TUPLE REDUCE
  }

  #integers(values: readonly number[]): void {
    this.#op("(");
    for (const value of values) this.#integer(value);
    this.#op("t");
  }

  #integer(value: number): void {
    if (value < 2 ** 31) this.#op("J", 4, value); // BININT
    else this.#op("\x8a\x08", 8, value); // LONG1 of eight bytes
  }

  #text(value: string): void {
    const bytes = new TextEncoder().encode(value);
    this.#op("X", 4, bytes.length); // BINUNICODE
    for (const byte of bytes) this.#bytes.push(byte);
  }

  #global(module: string, name: string): void {
    this.#op(`c${module}\n${name}\n`); // GLOBAL
  }

  /** Opcodes, then `width` bytes of a little-endian integer. */
  #op(codes: string, width = 0, value = 0): void {
    for (const code of ascii(codes)) this.#bytes.push(code);
    for (let left = value; width > 0; width--, left = Math.floor(left / 256)) this.#bytes.push(left % 256);
  }
}
