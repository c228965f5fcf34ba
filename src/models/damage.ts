/**
 * Finds the weight behind logits that are not numbers.
 *
 * @module
 */
import { readTensor, type TensorRef } from "../checkpoint/source.ts";
import { ModelError } from "../errors.ts";
import type { NotANumberError } from "../pipeline.ts";

/** The error with the tensor at fault, or as it was where all weights of these parts are numbers: slow, but it only happens once. */
export async function blame(
  parts: readonly Readonly<Record<string, TensorRef>>[],
  error: NotANumberError,
): Promise<ModelError> {
  for (const ref of parts.flatMap((part) => Object.values(part))) {
    const bad = (await readTensor(ref)).findIndex((value) => !Number.isFinite(value));
    if (bad < 0) continue;
    return new ModelError(`Tensor "${ref.name}" of "${ref.file}" holds a weight that is not a number, element ${bad}`, {
      cause: error,
      hint: "The checkpoint is damaged: download it again",
    });
  }
  return error;
}
