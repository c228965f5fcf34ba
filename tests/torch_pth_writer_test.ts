import assert from "node:assert/strict";
import { join } from "node:path";
import { crc32 } from "node:zlib";
import { UsageError } from "../src/errors.ts";
import { outside, type RandomAccess } from "../src/checkpoint/random_access.ts";
import { readIntegers, readTensor } from "../src/checkpoint/tensor.ts";
import { openTorch } from "../src/checkpoint/torch_pth.ts";
import { type TorchOptions, writeTorch } from "../src/checkpoint/torch_pth_writer.ts";
import { dataOffset, readZipDirectory } from "../src/checkpoint/zip.ts";
import { zipPieces } from "../src/checkpoint/zip_writer.ts";
import { tempFolder } from "./checkpoint_forge.ts";

const bytesOf = (array: ArrayBufferView<ArrayBuffer>): Uint8Array => new Uint8Array(array.buffer);

Deno.test("writeTorch() writes what openTorch() reads, in every float type and under a key", async () => {
  await using folder = await tempFolder();
  const tensors = [
    { name: "a.weight", dtype: "F32", shape: [2, 3], bytes: bytesOf(Float32Array.of(1, 2, 3, 4, 5, 6)) },
    { name: "half", dtype: "F16", shape: [1, 2], bytes: bytesOf(Float16Array.of(1.5, -2)) },
    { name: "brain", dtype: "BF16", shape: [2], bytes: Uint8Array.of(0x80, 0x3f, 0, 0xc0) },
    { name: "scalar", dtype: "F64", shape: [], bytes: bytesOf(Float64Array.of(0.1)) },
    { name: "empty", dtype: "U8", shape: [0, 3], bytes: new Uint8Array() },
    { name: "mask", dtype: "I64", shape: [2], bytes: bytesOf(BigInt64Array.of(2n, -1n)) },
  ] as const;
  for (const options of [{}, { under: "vae" }]) {
    const path = join(folder.path, "model.v1.pth");
    await writeTorch(path, tensors, options);
    const source = (await openTorch(path)).under("under" in options ? "vae." : "");
    assert.deepEqual(source.names(), tensors.map(({ name }) => name));
    assert.deepEqual(tensors.map(({ name }) => source.get(name).shape), tensors.map(({ shape }) => shape));
    assert.deepEqual([...await readTensor(source.get("a.weight"))], [1, 2, 3, 4, 5, 6]);
    assert.deepEqual([...await readTensor(source.get("half"))], [1.5, -2]);
    assert.deepEqual([...await readTensor(source.get("brain"))], [1, -2]);
    assert.deepEqual([...await readTensor(source.get("scalar"))], [Math.fround(0.1)]);
    assert.deepEqual(await readIntegers(source.get("mask")), [2, -1]);
    for (const name of source.names()) assert.equal(source.get(name).offset % 64, 0, name);
  }
});

Deno.test("writeTorch() nests dictionaries along a path, with tuples of numbers beside them", async () => {
  await using folder = await tempFolder();
  const path = join(folder.path, "train.pth");
  const w = { name: "a.w", dtype: "U8", shape: [3], bytes: Uint8Array.of(7, 8, 9) } as const;
  const sides = [1, 2, 300, 2 ** 31, 2 ** 40];
  await writeTorch(path, [w], {
    under: "trainer.var_wo_ddp",
    numbers: { "trainer.config.patch_nums": sides, "trainer.config.none": [], iter: [21000] },
  });
  const source = await openTorch(path);
  assert.deepEqual(source.names(), ["trainer.var_wo_ddp.a.w"]);
  assert.deepEqual([...await readTensor(source.get("trainer.var_wo_ddp.a.w"))], [7, 8, 9]);
  assert.deepEqual(source.numbers("trainer.config.patch_nums"), sides);
  assert.deepEqual(source.numbers("trainer.config.none"), []);
  assert.deepEqual(source.numbers("iter"), [21000]);
  const pickle = new TextDecoder("latin1").decode(Deno.readFileSync(path));
  // Byte by byte as protocol 2 has it: the keys of a path are no dotted names, those of the state dict are.
  assert(pickle.includes("}X\x07\0\0\0trainer}X\x0a\0\0\0var_wo_ddpccollections\nOrderedDict\n)R(X\x03\0\0\0a.w"));
  assert(pickle.includes("X\x06\0\0\0config}X\x0a\0\0\0patch_nums(J\x01\0\0\0J\x02\0\0\0J,\x01\0\0"));
});

Deno.test("writeTorch() streams pieces, and its checksums are right", async () => {
  await using folder = await tempFolder();
  const path = join(folder.path, "w.pth");
  const content = Uint8Array.from({ length: 1000 }, (_, i) => i * 7);
  async function* pieces(): AsyncGenerator<Uint8Array> {
    for (let at = 0; at < 1000; at += 300) yield await Promise.resolve(content.subarray(at, at + 300));
  }
  await writeTorch(path, [{ name: "w", dtype: "U8", shape: [1000], bytes: pieces() }]);
  const file = Deno.readFileSync(path);
  const { offset } = (await openTorch(path)).get("w");
  assert.deepEqual(file.subarray(offset, offset + 1000), content);
  // The directory's header of an entry holds its checksum at byte 16, 30 bytes before the name.
  const name = new TextEncoder().encode("w/data/0");
  const at = file.findLastIndex((_, i) => name.every((byte, j) => file[i + j] === byte)) - 46;
  assert.equal(new DataView(file.buffer).getUint32(at + 16, true), crc32(content));
});

Deno.test("writeTorch() leaves nothing behind when it fails", async () => {
  await using folder = await tempFolder();
  const path = join(folder.path, "w.pth");
  const w = { name: "w", dtype: "F32", shape: [2], bytes: new Uint8Array(8) } as const;
  await assert.rejects(writeTorch(path, [w, w]), /tensor name "w" is taken/);
  await assert.rejects(writeTorch(path, [{ ...w, shape: [-1] }]), /"w" has shape \[-1\]/);
  await assert.rejects(writeTorch(path, [{ ...w, bytes: new Uint8Array(7) }]), (error) => {
    assert(error instanceof UsageError);
    assert.match(error.message, /w\.pth": tensor "w" of F32 \[2\]: it has 7 bytes, wanted 8$/);
    return true;
  });
  await assert.rejects(writeTorch(join(path, "x.pth"), [w]), UsageError);
  const wrong: [TorchOptions, RegExp][] = [
    [{ under: "a.b", numbers: { "a.b": [1] } }, /"a\.b" is taken$/],
    [{ under: "a.b", numbers: { a: [1] } }, /"a" is taken$/],
    [{ under: "a.b", numbers: { "a.b.c": [1] } }, /"a\.b\.c" lies in no dictionary/],
    [{ under: "a.b", numbers: { "a.c": [1], "a.c.d": [1] } }, /"a\.c\.d" lies in no dictionary/],
    [{ under: "a", numbers: { b: [0.5] } }, /"b" is \[0\.5\], wanted whole numbers$/],
    [{ numbers: { b: [1] } }, /"b" wants the tensors under a key$/],
  ];
  for (const [options, message] of wrong) await assert.rejects(writeTorch(path, [w], options), message);
  assert.deepEqual([...Deno.readDirSync(folder.path)], []);
});

/** A file of which only pieces that are not all zeros are kept. */
class SparseFile implements RandomAccess {
  readonly path = "sparse";
  readonly file = "/sparse";
  readonly #pieces: [number, Uint8Array][] = [];
  size = 0;

  append(piece: Uint8Array, zeros: boolean): void {
    if (!zeros) this.#pieces.push([this.size, piece.slice()]);
    this.size += piece.length;
  }

  read(offset: number, length: number): Promise<Uint8Array<ArrayBuffer>> {
    const error = outside(this, offset, length);
    if (error !== undefined) return Promise.reject(error);
    const bytes = new Uint8Array(length);
    for (const [start, piece] of this.#pieces) {
      const from = Math.max(start, offset), to = Math.min(start + piece.length, offset + length);
      if (from < to) bytes.set(piece.subarray(from - start, to - start), from - offset);
    }
    return Promise.resolve(bytes);
  }
}

Deno.test("zipPieces() goes over to zip64 for an entry, and for offsets, beyond 4 GiB", async () => {
  const piece = new Uint8Array(1 << 24);
  const size = 2 ** 32 + piece.length;
  async function* zeros(): AsyncGenerator<Uint8Array> {
    for (let done = 0; done < size; done += piece.length) yield await Promise.resolve(piece);
  }
  const small = Uint8Array.of(1, 2, 3);
  const file = new SparseFile();
  const entries = [
    { name: "x/large", label: "large", size, bytes: zeros() },
    { name: "x/small", label: "small", size: 3, bytes: small },
  ];
  for await (const part of zipPieces(entries)) file.append(part, part === piece);
  assert(file.size > size);
  const zip = await readZipDirectory(file);
  const large = zip.entries.get("x/large")!;
  assert.equal(large.size, size);
  assert.equal(await dataOffset(file, zip, large) % 64, 0);
  const start = await dataOffset(file, zip, zip.entries.get("x/small")!);
  assert(start > size && start % 64 === 0);
  assert.deepEqual(await file.read(start, 3), small);
});
