/**
 * Reads the zip archives of torch.save (PyTorch 1.6 and later): the directory and `data.pkl`, never the weights.
 *
 * `<root>/data.pkl` is a pickle whose tensors refer to storages `<root>/data/<key>` (infinity.md §1.1). Nested
 * dictionaries become dotted names; short lists and tuples of numbers, such as the sides in a training configuration, are
 * kept beside the tensors; other lists, numbers, strings and objects are skipped. The checksums of the archive are not
 * verified: that would read every weight.
 *
 * @module
 */
import { IntegrityError, ModelError } from "../errors.ts";
import { PickleDict, PickleGlobal, PickleObject, type PickleValue, unpickle } from "./pickle.ts";
import { quote, type RandomAccess, withFile } from "./random_access.ts";
import { TensorSource } from "./source.ts";
import {
  countElements,
  type DType,
  DTYPE_BYTES,
  MAX_NAME_LENGTH,
  MAX_RANK,
  MAX_TENSORS,
  type TensorRef,
} from "./tensor.ts";
import { dataOffset, readZipDirectory, type ZipDirectory, type ZipEntry } from "./zip.ts";

/** A tensor takes about 110 bytes of pickle. */
const MAX_PICKLE_BYTES = 1 << 24;
const MAX_DEPTH = 32;
const MAX_LEAVES = 1 << 20;
/** Longest list of numbers that is kept. */
const MAX_NUMBERS = 1024;
/** Values of lists that are looked at in all: the same list may lie under a million names. */
const MAX_LISTED = 1 << 16;
const SAVE_AGAIN = "Save its state_dict alone again with torch.save or as safetensors";

const STORAGES: ReadonlyMap<string, DType> = new Map([
  ["torch.DoubleStorage", "F64"],
  ["torch.FloatStorage", "F32"],
  ["torch.HalfStorage", "F16"],
  ["torch.BFloat16Storage", "BF16"],
  ["torch.LongStorage", "I64"],
  ["torch.IntStorage", "I32"],
  ["torch.ShortStorage", "I16"],
  ["torch.CharStorage", "I8"],
  ["torch.ByteStorage", "U8"],
  ["torch.BoolStorage", "BOOL"],
  ["torch.storage.UntypedStorage", "U8"], // bytes under a type that has no class of its own: see _rebuild_tensor_v3
]);

/** Types and values of training arguments that lie next to weights; here they are only named. */
const INERT: ReadonlySet<string> = new Set([
  "torch.Tensor",
  "torch.nn.parameter.Parameter",
  "torch.Size",
  "torch.device",
  ...["float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2"].map((type) => `torch.${type}`),
  ...["int64", "int32", "int16", "int8", "uint64", "uint32", "uint16", "uint8", "bool"].map((type) => `torch.${type}`),
  "argparse.Namespace",
  "builtins.set",
  "__builtin__.set",
  "_codecs.encode",
  "numpy.dtype",
  "numpy.core.multiarray.scalar",
  "numpy._core.multiarray.scalar",
]);

/** The functions that make tensors and dictionaries. */
const CALLS: ReadonlySet<string> = new Set([
  "collections.OrderedDict",
  "torch._tensor._rebuild_from_type_v2",
  "torch._utils._rebuild_parameter",
  "torch._utils._rebuild_parameter_with_state",
  "torch._utils._rebuild_tensor",
  "torch._utils._rebuild_tensor_v2",
  "torch._utils._rebuild_tensor_v3",
]);

/** An entry of the archive seen as elements of one type. */
class Storage extends PickleObject {
  constructor(readonly entry: ZipEntry, readonly dtype: DType, readonly count: number) {
    super();
  }
}

/** A strided view of a storage; offset and strides in elements. */
class TensorView extends PickleObject {
  constructor(
    readonly storage: Storage,
    readonly offset: number,
    readonly shape: readonly number[],
    readonly strides: readonly number[],
  ) {
    super();
  }
}

/**
 * Opens a file written by torch.save.
 *
 * Throws ModelError when it cannot be read, is big endian, compressed, or has a type of element that is not a
 * {@linkcode DType}; IntegrityError when it is damaged or asks for more than tensors.
 *
 * @example
 * ```ts
 * import { openTorch } from "@stagevar/stagevar/checkpoint/torch_pth.ts";
 * import assert from "node:assert/strict";
 * const source = await openTorch("tests/golden/models/mini-2b/vae.pth");
 * assert.equal(source.under("vae.").size, 153);
 * ```
 */
export async function openTorch(path: string): Promise<TensorSource> {
  return await withFile(path, async (file) => {
    const { tensors, numbers } = await readArchive(file);
    return new TensorSource(path, [file.file], tensors, numbers);
  });
}

/**
 * Reads the directory and the pickle of a torch archive; errors as {@linkcode openTorch}.
 *
 * @example
 * ```ts
 * import { withFile } from "@stagevar/stagevar/checkpoint/random_access.ts";
 * import { readTorch } from "@stagevar/stagevar/checkpoint/torch_pth.ts";
 * import assert from "node:assert/strict";
 * const refs = await withFile("tests/golden/models/mini-2b/infinity.pth", readTorch);
 * assert.equal(refs.get("pos_start")?.dtype, "F32");
 * ```
 */
export async function readTorch(file: RandomAccess): Promise<Map<string, TensorRef>> {
  return (await readArchive(file)).tensors;
}

/** What nested dictionaries hold that is of use, under dotted names. */
interface Found<T> {
  readonly tensors: Map<string, T>;
  readonly numbers: Map<string, readonly number[]>;
}

async function readArchive(file: RandomAccess): Promise<Found<TensorRef>> {
  const zip = await readZipDirectory(file);
  const { root, pickle } = findPickle(file, zip);
  await checkByteOrder(file, zip, root);
  const what = `Pickle of ${quote(file.path)}`;
  const value = unpickle(await file.read(await dataOffset(file, zip, pickle), pickle.size), {
    allows: (name) => STORAGES.has(name) || INERT.has(name) || CALLS.has(name),
    call: (name, args) => call(what, name, args),
    persistent: (id) => storage(what, zip, root, id),
  }, what);
  const refs = new Map<string, TensorRef>();
  const starts = new Map<string, number>(); // tied tensors and views share a storage
  const { tensors, numbers } = flatten(what, value);
  for (const [name, view] of tensors) {
    const { entry, dtype } = view.storage;
    const start = starts.get(entry.name) ?? await dataOffset(file, zip, entry);
    starts.set(entry.name, start);
    const offset = start + view.offset * DTYPE_BYTES[dtype];
    refs.set(name, { name, dtype, shape: view.shape, strides: view.strides, file: file.file, offset });
  }
  return { tensors: refs, numbers };
}

/** The archive's folder is named after the file it was first saved to, whatever it is called now. */
function findPickle(file: RandomAccess, zip: ZipDirectory): { root: string; pickle: ZipEntry } {
  const found = [...zip.entries.values()].filter(({ name }) => /^[^/]+\/data\.pkl$/.test(name));
  const [pickle] = found;
  if (pickle === undefined || found.length > 1) {
    throw new IntegrityError(`${quote(file.path)} has ${found.length} entries "<name>/data.pkl", wanted one`, {
      hint: "It is a zip archive, but not one that torch.save wrote",
    });
  }
  if (pickle.size > MAX_PICKLE_BYTES) {
    throw new IntegrityError(
      `Pickle of ${quote(file.path)} has ${pickle.size} bytes, wanted at most ${MAX_PICKLE_BYTES}`,
      { hint: SAVE_AGAIN },
    );
  }
  return { root: pickle.name.slice(0, -"data.pkl".length), pickle };
}

async function checkByteOrder(file: RandomAccess, zip: ZipDirectory, root: string): Promise<void> {
  const entry = zip.entries.get(`${root}byteorder`);
  if (entry === undefined) return; // before PyTorch 2.1; always little endian in practice
  const bytes = await file.read(await dataOffset(file, zip, entry), Math.min(entry.size, 16));
  const order = String.fromCharCode(...bytes);
  if (order !== "little") {
    throw new ModelError(`${quote(file.path)} has byte order ${quote(order)}, wanted "little"`, {
      hint: "Load it in PyTorch on a little-endian machine, such as any x86 or ARM computer, and save it again there",
    });
  }
}

/** Persistent id: ("storage", class, key, device, number of elements). */
function storage(what: string, zip: ZipDirectory, root: string, id: PickleValue): Storage {
  const [kind, type, key, , count] = Array.isArray(id) ? id : [];
  const dtype = type instanceof PickleGlobal ? STORAGES.get(type.name) : undefined;
  if (kind !== "storage" || dtype === undefined || typeof key !== "string" || !isCount(count)) {
    throw new IntegrityError(`${what} refers to a storage in a way torch.save does not`, { hint: SAVE_AGAIN });
  }
  const entry = zip.entries.get(`${root}data/${key}`);
  if (entry === undefined) {
    throw new IntegrityError(`${what} refers to storage ${quote(key)}, which the archive does not have`, {
      hint: "The file is damaged: download it again",
    });
  }
  if (entry.size !== count * DTYPE_BYTES[dtype]) {
    throw new IntegrityError(
      `${what} says storage ${quote(key)} has ${count} elements of ${dtype}, but it has ${entry.size} bytes`,
      { hint: "The file is damaged: download it again" },
    );
  }
  return new Storage(entry, dtype, count);
}

function isCount(value: PickleValue | undefined): value is number {
  return typeof value === "number" && Number.isSafeInteger(value) && value >= 0;
}

function call(what: string, name: string, args: readonly PickleValue[]): PickleValue {
  switch (name) {
    case "collections.OrderedDict":
      if (args.length > 0) throw badCall(what, name);
      return new PickleDict();
    case "torch._utils._rebuild_tensor":
    case "torch._utils._rebuild_tensor_v2":
      return tensorView(what, name, args);
    case "torch._utils._rebuild_tensor_v3": {
      const type = args.find((arg) => arg instanceof PickleGlobal);
      throw new ModelError(
        `${what} has a tensor of type ${quote(type?.name ?? "unknown")}, wanted ${Object.keys(DTYPE_BYTES).join(", ")}`,
        { hint: "Use the original checkpoint, or convert its tensors to one of these types and save it again" },
      );
    }
    case "torch._utils._rebuild_parameter":
    case "torch._utils._rebuild_parameter_with_state":
      if (!(args[0] instanceof TensorView)) throw badCall(what, name);
      return args[0];
    case "torch._tensor._rebuild_from_type_v2": {
      // (function, type, arguments, state): the subclass and its attributes do not matter to us. Only one level, or
      // a list that contains itself would recurse for ever.
      const [inner, , innerArgs] = args;
      if (!(inner instanceof PickleGlobal) || inner.name === name || !Array.isArray(innerArgs)) {
        throw badCall(what, name);
      }
      return call(what, inner.name, innerArgs);
    }
    default:
      if (!INERT.has(name)) throw badCall(what, name);
      return new PickleObject();
  }
}

/** (storage, offset, shape, strides, ...): the view must lie inside its storage. */
function tensorView(what: string, name: string, args: readonly PickleValue[]): TensorView {
  const [source, offset] = args;
  const shape = counts(args[2]);
  const strides = counts(args[3]);
  const count = shape === undefined ? undefined : countElements(shape);
  if (
    !(source instanceof Storage) || !isCount(offset) || shape === undefined || strides === undefined ||
    count === undefined || strides.length !== shape.length
  ) {
    throw badCall(what, name);
  }
  const last = shape.reduce((sum, extent, axis) => sum + (extent - 1) * strides[axis]!, offset);
  if (count === 0 ? offset > source.count : last >= source.count) {
    throw new IntegrityError(
      `${what} has a tensor [${shape.join(", ")}] that reaches element ${last} of storage ` +
        `${quote(source.entry.name)}, which has ${source.count}`,
      { hint: "The file is damaged: download it again" },
    );
  }
  return new TensorView(source, offset, shape, strides);
}

/** A copy, because the rest of the pickle could still append to its list. */
function counts(value: PickleValue | undefined): readonly number[] | undefined {
  return Array.isArray(value) && value.length <= MAX_RANK && value.every(isCount) ? [...value] : undefined;
}

function badCall(what: string, name: string): IntegrityError {
  return new IntegrityError(`${what} calls ${quote(name)} with arguments it does not take`, { hint: SAVE_AGAIN });
}

/** The tensors and lists of numbers of nested dictionaries under dotted names. */
function flatten(what: string, root: PickleValue): Found<TensorView> {
  const found = new Map<string, TensorView>();
  const numbers = new Map<string, readonly number[]>();
  let leaves = 0;
  let listed = 0;
  const walk = (value: PickleValue, name: string, depth: number): void => {
    // A few nested dictionaries that all hold the next one twice would take for ever.
    if (++leaves > MAX_LEAVES || depth > MAX_DEPTH) {
      throw new IntegrityError(`${what} nests deeper than ${MAX_DEPTH} levels or has more than ${MAX_LEAVES} values`, {
        hint: SAVE_AGAIN,
      });
    }
    if (value instanceof TensorView) {
      if (name.length > MAX_NAME_LENGTH || found.has(name) || found.size === MAX_TENSORS) {
        throw new IntegrityError(
          found.has(name)
            ? `${what} names tensor ${quote(name)} twice`
            : `${what} has more than ${MAX_TENSORS} tensors, or a name of more than ${MAX_NAME_LENGTH} characters`,
          { hint: SAVE_AGAIN },
        );
      }
      found.set(name, value);
    } else if (Array.isArray(value)) {
      if (value.length > MAX_NUMBERS || name.length > MAX_NAME_LENGTH) return;
      listed += value.length + 1; // an empty list costs its name
      // As in Python, the last one of a name counts. No copy: the pickle has ended, nothing appends any more.
      if (listed <= MAX_LISTED && value.every(isFiniteNumber)) numbers.set(name, value);
    } else if (value instanceof PickleDict) {
      for (let at = 0; at < value.items.length; at += 2) {
        const key = value.items[at];
        if (typeof key !== "string" && typeof key !== "number") continue;
        walk(value.items[at + 1]!, depth === 0 ? String(key) : `${name}.${key}`, depth + 1);
      }
    }
  };
  if (!(root instanceof PickleDict)) {
    throw new ModelError(`${what} is not a dictionary of named tensors`, {
      hint: 'Save it again as torch.save({"name": tensor, ...})',
    });
  }
  walk(root, "", 0);
  return { tensors: found, numbers };
}

function isFiniteNumber(value: PickleValue): value is number {
  return typeof value === "number" && Number.isFinite(value);
}
