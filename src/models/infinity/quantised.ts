/**
 * Eight- and sixteen-bit copies of the big linear weights of the blocks: made once, kept beside the model, checked when
 * opened.
 *
 * A copy is one or two planes of bytes [in, out] and a scale an output channel, as integer matrix products want them;
 * activations are cut into planes as they come (graph.ts). One plane is the fastest and moves logits by about a percent;
 * two have the error of sixteen bits, a hundredth of that.
 *
 * @module
 */
import { join } from "node:path";
import { openSafetensors, type TensorData, writeSafetensors } from "../../checkpoint/safetensors.ts";
import { type Expected, matchTensors, readTensor, type TensorRef, type TensorSource } from "../../checkpoint/source.ts";
import { IntegrityError } from "../../errors.ts";
import { type EightBitWeight, LOW_STEPS } from "../../graph/graph.ts";
import { sumsSignedBytes } from "../../runtime/processor.ts";
import { outputRows } from "../block_parts.ts";
import type { InfinityModel } from "./model.ts";

const FORMAT = "stagevar-planes-1";

/** Plane of a copy: the upper eight bits with their scales, or the eight below. */
type PlaneName = "high" | "low";

/** Finds the copy of a weight, or of some of its output rows; undefined when it has none. */
export type QuantisedLookup = (ref: TensorRef) => EightBitWeight | undefined;

/** What copies are made as. */
export interface QuantisedOptions {
  /** Signed bytes, where the processor sums them right and fast. Default: what this processor does. */
  readonly signed?: boolean;
  /** Called with the number of weights done and their total, while copies are made. */
  readonly progress?: ((done: number, total: number) => void) | undefined;
}

/**
 * Name of the file of a plane in a model's folder. Processors that want signed bytes have files of their own, so that a
 * folder on a shared disk serves both.
 *
 * @example
 * ```ts
 * import { planeFile } from "@stagevar/stagevar/models/infinity/quantised.ts";
 * import assert from "node:assert/strict";
 * assert.deepEqual([planeFile("high", true), planeFile("low", false)], ["stagevar-s8.safetensors", "stagevar-u8-low.safetensors"]);
 * ```
 */
export function planeFile(plane: "high" | "low", signed: boolean): string {
  return `stagevar-${signed ? "s8" : "u8"}${plane === "low" ? "-low" : ""}.safetensors`;
}

/** A linear layer that runs on every token, cut as the graphs cut it. */
interface Linear {
  readonly name: string;
  readonly ref: TensorRef;
}

function linears(model: InfinityModel): Linear[] {
  const { width: C } = model.transformer.dims;
  return model.transformer.blocks.flatMap((block, layer) => {
    const qkv = block["sa.mat_qkv.weight"]!;
    const cut = ["q", "k", "v"].map((part, i) => ({ name: part, ref: outputRows(qkv, i * C, (i + 1) * C) }));
    const whole = ["sa.proj", "ca.mat_q", "ca.proj", "ffn.fc1", "ffn.fc2"].map((name) => ({
      name,
      ref: block[`${name}.weight`]!,
    }));
    return [...cut, ...whole].map(({ name, ref }) => ({ name: `${layer}.${name}`, ref }));
  });
}

/** Identity of a weight: where it lies. */
function place({ file, offset, shape }: TensorRef): string {
  return `${file}:${offset}:${shape}`;
}

/**
 * Opens the copies of a model, making them first where there are none or they are another checkpoint's.
 *
 * Making them reads every block and writes a quarter of its float32 size a plane; `u8` wants one plane, `u16` two.
 *
 * @throws {IntegrityError} when a file beside the model is damaged
 * @throws {UsageError} when the folder cannot be written
 */
export async function openQuantised(
  model: InfinityModel,
  dtype: "u16" | "u8",
  { signed = sumsSignedBytes(), progress }: QuantisedOptions = {},
): Promise<QuantisedLookup> {
  const wanted = linears(model);
  const planes: PlaneName[] = dtype === "u16" ? ["high", "low"] : ["high"];
  const missing: PlaneName[] = [];
  for (const plane of planes) {
    if (!await isCurrent(join(model.folder, planeFile(plane, signed)), model.hash)) missing.push(plane);
  }
  let done = 0;
  const step = (): void => progress?.(++done, wanted.length * missing.length);
  for (const plane of missing) await make(model, plane, signed, wanted, step);
  const high = await openPlane(model, "high", signed, wanted);
  const low = dtype === "u16" ? await openPlane(model, "low", signed, wanted) : undefined;
  const copies = new Map<string, EightBitWeight>(wanted.map(({ name, ref }) => [place(ref), {
    weight: high[`${name}.weight`]!,
    scale: high[`${name}.scale`]!,
    low: low?.[`${name}.weight`],
  }]));
  return (ref) => copies.get(place(ref));
}

/** Every tensor of a plane, by name; throws where one is missing, misshapen or of another type. */
async function openPlane(
  model: InfinityModel,
  plane: PlaneName,
  signed: boolean,
  wanted: readonly Linear[],
): Promise<Readonly<Record<string, TensorRef>>> {
  const path = join(model.folder, planeFile(plane, signed));
  const expected: Record<string, readonly number[]> = { [stamp(model.hash)]: [1] };
  for (const { name, ref } of wanted) {
    const [out, input] = ref.shape as [number, number];
    expected[`${name}.weight`] = [input, out];
    if (plane === "high") expected[`${name}.scale`] = [out];
  }
  const found = matchTensors<Expected>(await openPlaneFile(path), expected);
  for (const { name } of wanted) {
    const [weight, scale] = [found[`${name}.weight`]!, found[`${name}.scale`]];
    if (weight.dtype === (signed ? "I8" : "U8") && (scale?.dtype ?? "F32") === "F32") continue;
    const types = [weight, scale].map((tensor) => tensor?.dtype ?? "none").join(" with scales ");
    throw new IntegrityError(`Tensor "${name}" of "${path}" is ${types}: it was not written by this program`, {
      hint: DELETE_IT,
    });
  }
  return found;
}

const DELETE_IT = "Delete the file: it will be made again";

/** A one-byte tensor whose name says what the copies were made from: the manifest, inside the file it speaks of. */
function stamp(hash: string): string {
  return `${FORMAT} of ${hash}`;
}

async function isCurrent(path: string, hash: string): Promise<boolean> {
  try {
    await Deno.stat(path);
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return false;
    throw error;
  }
  return (await openPlaneFile(path)).has(stamp(hash));
}

async function openPlaneFile(path: string): Promise<TensorSource> {
  try {
    return await openSafetensors(path);
  } catch (cause) {
    if (!(cause instanceof IntegrityError)) throw cause;
    throw new IntegrityError(cause.message, { cause, hint: DELETE_IT });
  }
}

async function make(
  model: InfinityModel,
  plane: PlaneName,
  signed: boolean,
  wanted: readonly Linear[],
  step: () => void,
): Promise<void> {
  // Scales lie before the weights in the file (wider elements go first) and come out of the same pass, so they are
  // measured first: a second read of the weights, from the page cache.
  const tensors: TensorData[] = [{ name: stamp(model.hash), dtype: "U8", shape: [1], bytes: new Uint8Array(1) }];
  for (const { name, ref } of wanted) {
    const [out, input] = ref.shape as [number, number];
    if (plane === "high") {
      const scales = async (): Promise<Uint8Array> =>
        new Uint8Array(channelScales(await readTensor(ref), out, input).buffer);
      tensors.push({ name: `${name}.scale`, dtype: "F32", shape: [out], bytes: lazily(scales) });
    }
    const bytes = async (): Promise<Uint8Array> => {
      const values = await readTensor(ref);
      const quantised = quantise(values, channelScales(values, out, input), out, input, plane, signed);
      step();
      return quantised;
    };
    tensors.push({
      name: `${name}.weight`,
      dtype: signed ? "I8" : "U8",
      shape: [input, out],
      bytes: lazily(bytes),
    });
  }
  await writeSafetensors(join(model.folder, planeFile(plane, signed)), tensors, { format: FORMAT, source: model.hash });
}

async function* lazily(make: () => Promise<Uint8Array>): AsyncGenerator<Uint8Array> {
  yield await make();
}

/** Largest magnitude of each output row over 127; 1 for a row of zeros. */
function channelScales(values: Float32Array, out: number, input: number): Float32Array<ArrayBuffer> {
  const scales = new Float32Array(out);
  for (let o = 0; o < out; o++) {
    let largest = 0;
    for (let i = o * input; i < (o + 1) * input; i++) largest = Math.max(largest, Math.abs(values[i]!));
    scales[o] = largest > 0 ? largest / 127 : 1;
  }
  return scales;
}

/** [out, in] float32 -> [in, out] bytes of a plane, in tiles that stay in the cache while rows become columns. */
function quantise(
  values: Float32Array,
  scales: Float32Array,
  out: number,
  input: number,
  plane: PlaneName,
  signed: boolean,
): Uint8Array {
  const TILE = 64;
  const low = plane === "low";
  const zero = signed ? 0 : 128;
  const bytes = new Uint8Array(out * input);
  for (let o0 = 0; o0 < out; o0 += TILE) {
    for (let i0 = 0; i0 < input; i0 += TILE) {
      for (let o = o0; o < Math.min(o0 + TILE, out); o++) {
        const inverse = 1 / scales[o]!;
        for (let i = i0; i < Math.min(i0 + TILE, input); i++) {
          const steps = values[o * input + i]! * inverse;
          const high = Math.round(steps);
          bytes[i * out + o] = (low ? Math.round((steps - high) * LOW_STEPS) : high) + zero;
        }
      }
    }
  }
  return bytes;
}
