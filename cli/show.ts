/**
 * `stagevar show`: what a model's files hold, from their headers alone.
 *
 * @module
 */
import { byteLength, type TensorRef } from "../src/checkpoint/tensor.ts";
import type { Model } from "../src/models/open.ts";
import type { VqWeights } from "../src/models/star/decoder.ts";
import type { Arguments, Command } from "./command.ts";
import type { Context } from "./context.ts";
import { byteCount, count, jsonLine, printable, table } from "./term.ts";

/** One part of a model: what it is made of. */
interface Part {
  readonly part: string;
  readonly files: readonly string[];
  readonly tensors: number;
  readonly parameters: number;
  /** Bytes of its tensors; files may hold more. */
  readonly bytes: number;
  /** Parameters of each element type. */
  readonly types: Readonly<Record<string, number>>;
}

/** The command. */
export const command: Command = {
  usage: ["show MODEL [flags]"],
  options: [{ name: "json", help: "Print one JSON object" }],
  words: { min: 1, max: 1, name: "MODEL" },
  details: "Counts what is used: a VAE's encoder, a T5's decoder and training state in the same files are left out.",
  run,
};

async function run(context: Context, args: Arguments): Promise<void> {
  const { folder } = await (await context.library()).findModel(args.words[0]!);
  const { openModel } = await import("../src/models/open.ts");
  const model = await openModel(folder);
  const { shape, hash, config, transformer, text } = model;
  const parts = [
    measure("transformer", [transformer.outer, ...transformer.blocks].flatMap((part) => Object.values(part))),
    measure("VAE decoder", decoderTensors(model)),
    measure("text encoder", Object.values(text.tensors)),
  ];
  if (args.on("json")) {
    const { pixels, cfg, tau } = config;
    const drawing = model.family === "star" ? { topP: model.config.topP, topK: model.config.topK } : {};
    context.stdout.write(jsonLine({ folder, hash, shape, defaults: { pixels, cfg, tau, ...drawing }, parts }));
    return;
  }
  const side = shape.sides && `${shape.sides.at(-1)! * shape.pixelsPerToken}`;
  const size = side === undefined
    ? `trained for ${config.pixels}`
    : `draws ${side}x${side} pixels in ${shape.sides!.length} scales`;
  const coded = model.family === "star" ? "codes for" : "bits";
  const { name, family, width, depth, chunks, heads, tokenDim, pixelsPerToken } = shape;
  context.stdout.write(printable(`${name}  ${folder}
${family}, width ${width}, ${depth} blocks in ${chunks} chunks, ${heads} heads, ${tokenDim} ${coded} a token of ${pixelsPerToken}x${pixelsPerToken} pixels
${size}, guidance ${config.cfg}, temperature ${config.tau}, hash ${hash}

`));
  const rows = [...parts, sum(parts)].map(({ part, tensors, parameters, bytes, types }) => [
    part,
    `${tensors}`,
    count(parameters),
    byteCount(bytes),
    Object.keys(types).sort((a, b) => types[b]! - types[a]!).join(" "),
  ]);
  context.stdout.write(table([["part", "tensors", "parameters", "size", "types"], ...rows], [1, 2, 3]));
}

/** STAR's codebook, and what smooths its codes, belong to what is decoded. */
function decoderTensors({ decoder, ...model }: Model): TensorRef[] {
  const own = Object.values(decoder.tensors);
  if (model.family !== "star") return own;
  const { codebook, phi } = decoder as VqWeights;
  return [...own, codebook, ...phi.flatMap(({ weight, bias }) => [weight, bias])];
}

function measure(part: string, refs: readonly TensorRef[]): Part {
  const types: Record<string, number> = {};
  let parameters = 0;
  let bytes = 0;
  for (const ref of refs) {
    const elements = ref.shape.reduce((product, extent) => product * extent, 1);
    types[ref.dtype] = (types[ref.dtype] ?? 0) + elements;
    parameters += elements;
    bytes += byteLength(ref);
  }
  return { part, files: [...new Set(refs.map(({ file }) => file))], tensors: refs.length, parameters, bytes, types };
}

function sum(parts: readonly Part[]): Part {
  const total = (of: (part: Part) => number): number => parts.reduce((sum, part) => sum + of(part), 0);
  return {
    part: "total",
    files: [],
    tensors: total(({ tensors }) => tensors),
    parameters: total(({ parameters }) => parameters),
    bytes: total(({ bytes }) => bytes),
    types: {},
  };
}
