/**
 * Finds the weight behind logits that are not numbers.
 *
 * @module
 */
import { readTensor } from "../../checkpoint/source.ts";
import { ModelError } from "../../errors.ts";
import type { NotANumberError } from "../../pipeline.ts";
import type { InfinityModel } from "./model.ts";

/** The error with the tensor at fault, or as it was where all weights are numbers: slow, but it only happens once. */
export async function blame(
  { transformer: { outer, blocks }, text }: Pick<InfinityModel, "transformer" | "text">,
  error: NotANumberError,
): Promise<ModelError> {
  const inner = blocks.flatMap((block) => Object.values(block));
  for (const ref of [...Object.values(outer), ...inner, ...Object.values(text.tensors)]) {
    const bad = (await readTensor(ref)).findIndex((value) => !Number.isFinite(value));
    if (bad < 0) continue;
    return new ModelError(`Tensor "${ref.name}" of "${ref.file}" holds a weight that is not a number, element ${bad}`, {
      cause: error,
      hint: "The checkpoint is damaged: download it again",
    });
  }
  return error;
}
