import assert from "node:assert/strict";
import { IntegrityError, ModelError } from "../src/errors.ts";
import { withFile } from "../src/checkpoint/random_access.ts";
import { isContiguous, readIntegers, readTensor } from "../src/checkpoint/source.ts";
import { openTorch, readTorch } from "../src/checkpoint/torch_pth.ts";
import expected from "./fixtures/checkpoints/expected.json" with { type: "json" };
import {
  ascii,
  dict,
  directoryEnd,
  directoryHeader,
  type ForgedEntry,
  global,
  int,
  join,
  localHeader,
  MemoryFile,
  tempFile,
  tempFolder,
  tensor,
  text,
  torchArchive,
  tuple,
  zip,
} from "./checkpoint_forge.ts";

const TYPES: Readonly<Record<string, string>> = {
  float64: "F64",
  float32: "F32",
  float16: "F16",
  bfloat16: "BF16",
  int64: "I64",
  int32: "I32",
  int16: "I16",
  int8: "I8",
  uint8: "U8",
  bool: "BOOL",
};

Deno.test("openTorch() finds every tensor as torch does: nested, tied, strided, of every type", async () => {
  const source = await openTorch("tests/fixtures/checkpoints/all.pth");
  const wanted: Record<string, { dtype: string; shape: number[]; strides: number[]; values: number[] }> = expected.pth;
  assert.deepEqual(source.names(), Object.keys(wanted));
  for (const [name, { dtype, shape, strides, values }] of Object.entries(wanted)) {
    const ref = source.get(name);
    assert.equal(ref.dtype, TYPES[dtype], name);
    assert.deepEqual(ref.shape, shape, name);
    assert.deepEqual(ref.strides, strides, name);
    assert.deepEqual([...await readTensor(ref)], values.map(Math.fround), name);
  }
  assert.equal(source.get("tied").offset, source.get("matrix").offset);
  assert(!isContiguous(source.get("transposed")));
  assert.deepEqual(await readIntegers(source.get("i64")), [1, -2, 3, 2 ** 40]);
});

Deno.test("openTorch() reads pickle protocol 4", async () => {
  const source = await openTorch("tests/fixtures/checkpoints/protocol4.pth");
  assert.deepEqual([...await readTensor(source.get("w"))], [1, 1, 1, 1]);
});

/** First, last and sum of the values, as torch 2.15 reads them. */
async function assertValues(path: string, name: string, wanted: readonly [number, number, number]): Promise<void> {
  const values = await readTensor((await openTorch(path)).get(name));
  const sum = values.reduce((total, value) => total + value, 0);
  assert.equal(values[0], wanted[0]);
  assert.equal(values.at(-1), wanted[1]);
  assert(Math.abs(sum - wanted[2]) <= 1e-9 * Math.abs(wanted[2]), `${name}: ${sum}`);
}

Deno.test("openTorch() reads the golden transformer", async () => {
  const path = "tests/golden/models/mini-2b/infinity.pth";
  const source = await openTorch(path);
  assert.equal(source.size, 358);
  assert(source.names().every((name) => isContiguous(source.get(name))));
  await assertValues(path, "cfg_uncond", [-0.6931235194206238, -0.15454651415348053, -60.861082013029545]);
  const fc2 = "block_chunks.1.module.1.ffn.fc2.weight";
  assert.deepEqual(source.get(fc2).shape, [32, 128]);
  await assertValues(path, fc2, [-0.1303374469280243, 0.017683440819382668, 2.46696825519939]);
  await assertValues(path, "head.bias", [-0.09554124623537064, 0.36128532886505127, 1.5106846801936626]);
});

Deno.test("openTorch() reads the golden tokenizer under its prefix", async () => {
  const path = "tests/golden/models/mini-2b/vae.pth";
  const vae = (await openTorch(path)).under("vae.");
  assert.equal(vae.size, 153);
  assert.equal((await readIntegers(vae.get("quantizer.lfq.mask")))[0], 2 ** 31);
  const name = "vae.decoder.conv_in.conv.weight";
  await assertValues(path, name, [-0.03693953901529312, -0.16032040119171143, 14.11603555504098]);
});

Deno.test("readTorch() reads a fraction of the file: directory, pickle and local headers", async () => {
  const path = "tests/golden/models/mini-2b/vae.pth";
  const file = new MemoryFile(await Deno.readFile(path));
  await readTorch(file);
  const pickle = 18218;
  assert(file.bytesRead < 65557 + 2 * pickle + 160 * 150, `${file.bytesRead} of ${file.size} bytes read`);
});

// Windows would fill the holes of the file.
const sparse = { ignore: Deno.build.os === "windows" };
Deno.test("openTorch() opens 700 tensors in 8.8 GB through zip64, reading half a megabyte", sparse, async () => {
  await using folder = await tempFolder();
  const path = `${folder.path}/big.pth`;
  const count = 700;
  const elements = 3_150_000;
  const items = Array.from({ length: count }, (_, i) =>
    join(
      text(`block.${i}.weight`),
      tensor({ key: String(i), count: elements, shape: [3150, 1000], strides: [1000, 1] }),
    ));
  const pickle = join(ascii("\x80\x02"), dict(...items), ascii("."));
  await writeSparse(path, [
    { name: "big/data.pkl", data: pickle, length: pickle.length },
    ...Array.from({ length: count }, (_, i) => {
      const first = new Uint8Array(new Float32Array([i]).buffer);
      return { name: `big/data/${i}`, data: first, length: 4 * elements };
    }),
  ]);
  let bytesRead = 0;
  await withFile(path, (file) =>
    readTorch({
      ...file,
      read: (offset, length) => {
        bytesRead += length;
        return file.read(offset, length);
      },
    }));
  assert(bytesRead < 500_000, `${bytesRead} bytes read`);
  const source = await openTorch(path);
  assert.equal(source.size, count);
  const last = source.get("block.699.weight");
  assert(last.offset > 8.8e9 - 4 * elements);
  assert.equal((await readTensor({ ...last, shape: [1], strides: [1] }))[0], 699);
});

/** An archive whose entries are mostly holes, with a zip64 directory. */
async function writeSparse(path: string, entries: readonly (ForgedEntry & { length: number })[]): Promise<void> {
  using file = await Deno.open(path, { write: true, create: true });
  const directory: Uint8Array[] = [];
  let at = 0;
  const put = async (offset: number, bytes: Uint8Array): Promise<void> => {
    await file.seek(offset, Deno.SeekMode.Start);
    assert.equal(await file.write(bytes), bytes.length);
  };
  for (const entry of entries) {
    const local = localHeader(entry);
    await put(at, join(local, entry.data));
    directory.push(directoryHeader(entry.name, entry.length, at, true));
    at += local.length + entry.length;
  }
  const list = join(...directory);
  await put(at, join(list, directoryEnd(entries.length, list.length, at, true)));
}

Deno.test("readTorch() joins the names of nested dictionaries and skips what is no tensor", async () => {
  const list = join(ascii("](K\x01"), tensor(), ascii("e"));
  const nested = dict(text("w"), tensor(), text("lr"), int(3), text("list"), list, tuple(int(1)), tensor());
  const file = new MemoryFile(
    torchArchive(dict(text("a"), nested, int(7), tensor({ offset: 2 }), text("n"), text("x"))),
  );
  const refs = await readTorch(file);
  assert.deepEqual([...refs.keys()], ["a.w", "7"]);
  assert.equal(refs.get("7")!.offset - refs.get("a.w")!.offset, 8);
});

Deno.test("openTorch() reads STAR's training checkpoint: tensors where they lie, and the sides beside them", async () => {
  const source = await openTorch("tests/golden-star/models/mini-star/star.pth");
  const transformer = source.under("trainer.var_wo_ddp.");
  assert.equal(transformer.size, 9 + 19 * 6); // star.md §3: nineteen tensors a block
  assert.deepEqual(transformer.get("class_emb.weight").shape, [1001, 32]);
  assert(source.has("trainer.var_opt.optimizer.state.0.exp_avg"));
  assert(source.under("trainer.vae_local.").has("quantize.embedding.weight"));
  const sides = [1, 2, 4, 7, 9, 12];
  assert.deepEqual(source.numbers("trainer.config.patch_nums"), sides);
  assert.deepEqual(source.numbers("trainer.config.resos"), sides.map((side) => 16 * side));
  assert.deepEqual(source.under("trainer.config.").numbers("patch_nums"), sides);
  assert.equal(source.under("trainer.config.").size, 0);
  const none = ["trainer.config.prog_it", "trainer.config", "trainer.var_wo_ddp", "constructor", "patch_nums"];
  for (const name of none) assert.equal(source.numbers(name), undefined, name);
});

Deno.test("openTorch() keeps lists of finite numbers, and no more of them than a configuration has", async () => {
  const list = (length: number): Uint8Array => tuple(...Array.from({ length }, () => ascii("K\x05")));
  const one = (double: string): Uint8Array => tuple(ascii("K\x01"), ascii(`G${double}`)); // an integer, a big-endian double
  const items: [string, Uint8Array][] = [
    ["list", join(ascii("](K\x01K\x02e"))],
    ["double", one("\x3f\xf8\0\0\0\0\0\0")],
    ["long", list(1024)],
    ["infinite", one("\x7f\xf0\0\0\0\0\0\0")],
    ["nan", one("\x7f\xf8\0\0\0\0\0\0")],
    ["flags", tuple(ascii("\x88"), ascii("\x89"))],
    ["words", tuple(text("a"))],
    ["nested", tuple(list(2))],
    ["wide", tuple(join(ascii("\x8a\x09"), new Uint8Array(8), ascii("\x01")))], // 2^64
    ["longer", list(1025)],
    ["n".repeat(1025), list(1)],
  ];
  await using file = await tempFile(
    torchArchive(dict(text("w"), tensor(), ...items.flatMap(([k, v]) => [text(k), v]))),
  );
  const source = await openTorch(file.path);
  assert.deepEqual(source.names(), ["w"]);
  const kept = items.filter(([name]) => source.numbers(name) !== undefined).map(([name]) => name);
  assert.deepEqual(kept, ["list", "double", "long"]);
  assert.deepEqual(source.numbers("double"), [1, 1.5]);
  assert.deepEqual(source.numbers("long"), Array(1024).fill(5));
});

Deno.test("openTorch() bounds what one list under very many names costs", async () => {
  const long = tuple(...Array.from({ length: 1024 }, () => ascii("K\x05")));
  const put = join(long, ascii("q\x00"));
  const again = Array.from({ length: 30_000 }, (_, i) => join(text(`n${i}`), ascii("h\x00")));
  await using file = await tempFile(torchArchive(dict(text("w"), tensor(), text("first"), put, ...again)));
  const source = await openTorch(file.path);
  assert.equal(source.numbers("first")?.length, 1024);
  const kept = again.filter((_, i) => source.numbers(`n${i}`) !== undefined).length;
  assert(kept > 0 && 1024 * (kept + 1) <= 2 ** 16, `${kept} lists`);
  assert(source.has("w"));
});

Deno.test("readTorch() takes nn.Parameter, attributes and training arguments for what they are", async () => {
  const parameter = join(
    global("torch._utils", "_rebuild_parameter"),
    tuple(tensor(), ascii("\x88"), dict()),
    ascii("R"),
  );
  const namespace = join(global("argparse", "Namespace"), ascii(")\x81"), dict(text("lr"), int(1)), ascii("b"));
  const refs = await readTorch(new MemoryFile(torchArchive(dict(text("p"), parameter, text("args"), namespace))));
  assert.deepEqual([...refs.keys()], ["p"]);
});

Deno.test("readTorch() keeps the shape it checked when the pickle appends to it afterwards", async () => {
  // The shape is a list in the memo; after the call it grows by a third axis of 2^40.
  const id = tuple(text("storage"), global("torch", "FloatStorage"), text("0"), text("cpu"), int(4));
  const shape = join(ascii("](K\x02K\x02eq\x00"));
  const args = join(
    ascii("("),
    id,
    ascii("Q"),
    int(0),
    shape,
    tuple(int(2), int(1)),
    ascii("\x89"),
    dict(),
    ascii("t"),
  );
  const call = join(global("torch._utils", "_rebuild_tensor_v2"), args, ascii("R"));
  const grow = join(ascii("h\x00"), int(2 ** 40), ascii("a"));
  const refs = await readTorch(new MemoryFile(torchArchive(dict(text("w"), call, text("later"), grow))));
  assert.deepEqual(refs.get("w")?.shape, [2, 2]);
});

type Lie = readonly [what: string, bytes: Uint8Array, type: typeof ModelError | typeof IntegrityError, message: RegExp];

const named = (claims: Parameters<typeof tensor>[0]): Uint8Array => torchArchive(dict(text("w"), tensor(claims)));
const W = dict(text("w"), tensor());
const fromType = (inner: Uint8Array, args: Uint8Array): Uint8Array =>
  join(
    global("torch._tensor", "_rebuild_from_type_v2"),
    tuple(inner, global("torch", "Tensor"), args, dict()),
    ascii("R"),
  );

const PICKLE_LIES: readonly Lie[] = [
  ["no dictionary", torchArchive(tensor()), ModelError, /is not a dictionary of named tensors/],
  [
    "a forbidden function",
    torchArchive(global("os", "system")),
    IntegrityError,
    /needs "os.system", which is not allowed/,
  ],
  ["a storage that is not there", named({ key: "1" }), IntegrityError, /storage "1", which the archive does not have/],
  ["a storage outside", named({ key: "../byteorder" }), IntegrityError, /storage "..\/byteorder", which/],
  ["a longer storage", named({ count: 2 ** 40 }), IntegrityError, /1099511627776 elements of F32, but it has 16 bytes/],
  ["a shorter storage", named({ count: 3 }), IntegrityError, /3 elements of F32, but it has 16 bytes/],
  ["a negative storage", named({ count: -1 }), IntegrityError, /refers to a storage in a way/],
  ["a wider type", named({ type: "DoubleStorage" }), IntegrityError, /4 elements of F64, but it has 16/],
  ["a view beyond its storage", named({ offset: 3 }), IntegrityError, /reaches element 4 of storage "x\/data\/0"/],
  ["a negative offset", named({ offset: -1 }), IntegrityError, /_rebuild_tensor_v2" with arguments/],
  ["an empty view beyond", named({ offset: 5, shape: [0] }), IntegrityError, /reaches element/],
  ["a stride beyond", named({ strides: [4] }), IntegrityError, /reaches element 4/],
  ["a stride of 2^53 - 1", named({ shape: [3], strides: [2 ** 53 - 1] }), IntegrityError, /reaches element/],
  ["a negative stride", named({ offset: 3, strides: [-1] }), IntegrityError, /with arguments/],
  ["a negative extent", named({ shape: [-1] }), IntegrityError, /with arguments/],
  ["an overflowing shape", named({ shape: [2 ** 40, 2 ** 40], strides: [0, 0] }), IntegrityError, /with arguments/],
  ["too few strides", named({ shape: [1, 1] }), IntegrityError, /with arguments/],
  ["an unknown storage", named({ type: "QInt8Storage" }), IntegrityError, /needs "torch.QInt8Storage"/],
  [
    "a repeated name",
    torchArchive(dict(text("w"), tensor(), text("w"), tensor())),
    IntegrityError,
    /names tensor "w" twice/,
  ],
  [
    "a name repeated through nesting",
    torchArchive(dict(text("a"), dict(text("b"), tensor()), text("a.b"), tensor())),
    IntegrityError,
    /names tensor "a.b" twice/,
  ],
  ["a long name", torchArchive(dict(text("n".repeat(2000)), tensor())), IntegrityError, /a name of more than 1024/],
  ["a subclass of nothing", torchArchive(fromType(text("f"), tuple())), IntegrityError, /_rebuild_from_type_v2" with/],
  [
    "a subclass whose arguments hold themselves",
    torchArchive(join(
      ...[global("torch._tensor", "_rebuild_from_type_v2"), ascii("q\x01]q\x00(h\x01Nh\x00Ne"), ascii("R")],
    )),
    IntegrityError,
    /_rebuild_from_type_v2" with arguments it does not take/,
  ],
  [
    "a dictionary in itself",
    torchArchive(join(ascii("}q\x00"), text("a"), ascii("h\x00s"))),
    IntegrityError,
    /deeper than 32/,
  ],
];

const ZIP_LIES: readonly Lie[] = [
  ["nothing", new Uint8Array(), IntegrityError, /has no zip directory/],
  ["no directory", ascii("PK\x03\x04".padEnd(100, "x")), IntegrityError, /has no zip directory/],
  ["a truncated file", torchArchive(W).slice(0, -1), IntegrityError, /has no zip directory/],
  ["no pickle", zip([{ name: "a", data: ascii("b") }]), IntegrityError, /has 0 entries "<name>\/data.pkl"/],
  ["two pickles", torchArchive(W, [{ name: "y/data.pkl", data: ascii("N.") }]), IntegrityError, /has 2 entries/],
  [
    "a repeated entry",
    torchArchive(W, [{ name: "x/data/0", data: ascii("b") }]),
    IntegrityError,
    /names "x\/data\/0" twice/,
  ],
  [
    "a huge entry",
    zip([{ name: "x/data.pkl", data: W, size: 2 ** 31 }]),
    IntegrityError,
    /2147483648 long, outside its data/,
  ],
  [
    "a huge zip64 entry",
    zip([{ name: "x/data.pkl", data: W, size: 2 ** 60 }], true),
    IntegrityError,
    /outside its data/,
  ],
  [
    "an entry elsewhere",
    zip([{ name: "x/data.pkl", data: W, header: 3 }]),
    IntegrityError,
    /has no entry "x\/data.pkl" at byte 3/,
  ],
  [
    "another local name",
    zip([{ name: "x/data.pkl", data: W, localName: "y/data.pkl" }]),
    IntegrityError,
    /has no entry/,
  ],
  [
    "an entry that runs over",
    zip([{ name: "x/data.pkl", data: W, size: W.length + 9 }]),
    IntegrityError,
    /ends before the/,
  ],
  ["a compressed entry", zip([{ name: "x/data.pkl", data: W, method: 8 }]), ModelError, /is compressed \(method 8\)/],
  ["an encrypted entry", zip([{ name: "x/data.pkl", data: W, flags: 1 }]), ModelError, /is encrypted/],
  [
    "big endian",
    zip([{ name: "x/data.pkl", data: W }, { name: "x/byteorder", data: ascii("big") }]),
    ModelError,
    /has byte order "big", wanted "little"/,
  ],
  ["a directory outside", directoryEnd(1, 100, 0, false), IntegrityError, /puts its directory at byte 0, 100 long/],
  ["too many entries", directoryEnd(9, 10, 0, false), IntegrityError, /outside itself/],
  ["a zip64 count of 2^40", directoryEnd(2 ** 40, 0, 0, true), ModelError, /has 1099511627776 entries/],
  ["a zip64 directory of 2^40", directoryEnd(1, 2 ** 40, 0, true), IntegrityError, /wanted 56 at byte 1099511627776/],
  ["entries that are not there", directoryEnd(2, 0, 0, false), IntegrityError, /has a directory that ends early/],
  ["no zip64 locator", directoryEnd(1, 2 ** 32 - 1, 0, false), IntegrityError, /lacks its zip64 directory/],
];

Deno.test("readTorch() gives one clear error for each lie", async (t) => {
  for (const [what, bytes, type, message] of [...PICKLE_LIES, ...ZIP_LIES]) {
    await t.step(what, async () => {
      const file = new MemoryFile(bytes);
      await assert.rejects(readTorch(file), (error) => {
        assert(error instanceof type, String(error));
        assert.match(error.message, message);
        assert.match(error.message, /"forged"/);
        return true;
      });
      assert(file.bytesRead <= 4 * bytes.length);
    });
  }
});

Deno.test("openTorch() names a type of element it cannot use", async () => {
  await assert.rejects(openTorch("tests/fixtures/checkpoints/float8.pth"), (error) => {
    assert(error instanceof ModelError);
    assert.match(error.message, /a tensor of type "torch.float8_e4m3fn", wanted F64, F32/);
    return true;
  });
});

Deno.test("openTorch() gives the real path of a linked file", async () => {
  await using folder = await tempFolder();
  await Deno.symlink(await Deno.realPath("tests/golden/models/mini-2b/vae.pth"), `${folder.path}/link`);
  const source = await openTorch(`${folder.path}/link`);
  assert.equal(source.path, `${folder.path}/link`);
  assert.deepEqual(source.files, [await Deno.realPath("tests/golden/models/mini-2b/vae.pth")]);
  const order = await withFile(source.files[0]!, (file) => file.read(0, 4));
  assert.deepEqual(order, ascii("PK\x03\x04"));
});
