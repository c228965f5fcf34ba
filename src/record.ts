/**
 * What a picture carries: all that is needed to draw it again.
 *
 * @module
 */
import project from "../deno.json" with { type: "json" };
import type { ImageRecord } from "./metadata.ts";
import type { Model } from "./models/open.ts";
import type { Plan } from "./plan.ts";
import type { EngineRequest } from "./prepare.ts";
import type { RgbImage } from "./png.ts";
import type { DtypeName } from "./request.ts";

/** Version of this program, stored in pictures. */
export const VERSION: string = project.version;

/** What a picture came of. */
export interface PictureOrigin {
  /** The request; its dtype where one was asked for that is not the same everywhere. */
  readonly request: EngineRequest & { readonly dtype?: DtypeName };
  /** What was run. */
  readonly plan: Plan;
  /** Seed of this picture of the batch. */
  readonly seed: number;
  /** The picture. */
  readonly image: RgbImage;
}

/** The record of a picture, defaults written out: a later version with others draws the same picture from it. */
export function pictureRecord(
  { shape, config }: Pick<Model, "shape" | "config">,
  { request, plan, seed, image }: PictureOrigin,
): ImageRecord {
  const { cfgScale = config.cfg, negativePrompt } = request;
  const { name, hash = "" } = shape;
  return {
    prompt: request.prompt,
    ...negativePrompt === undefined ? {} : { negativePrompt },
    steps: plan.steps.length,
    sampler: "VAR",
    cfgScale,
    seed,
    width: image.width,
    height: image.height,
    model: name,
    modelHash: hash,
    method: plan.method,
    version: VERSION,
    request: {
      ...request,
      model: name,
      pixels: plan.schedule.pixels,
      cfgScale,
      tau: request.tau ?? config.tau,
      topP: plan.topP,
      ...plan.topK === undefined ? {} : { topK: plan.topK },
      method: plan.method,
      methodOptions: plan.methodOptions,
    },
  };
}
