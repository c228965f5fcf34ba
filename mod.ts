/**
 * StageVAR: text to image with visual autoregressive (next-scale) models, and stage-aware acceleration of them.
 *
 * ```ts
 * import { generate } from "@stagevar/stagevar";
 * for await (const event of generate({ prompt: "a red circle left of a blue square", seed: 7 })) {
 *   if (event.type === "image") await Deno.writeFile(await Deno.makeTempFile({ suffix: ".png" }), event.png);
 * }
 * ```
 *
 * @module
 */
export * from "./src/errors.ts";
export * from "./src/request.ts";
export { Engine, type EngineOptions, generate, type GenerateOptions } from "./src/engine.ts";
export { VERSION } from "./src/record.ts";
export { type EngineRequest, planFor } from "./src/prepare.ts";
export { DEFAULT_MODEL, findModel, type FoundModel, listModels } from "./src/models/registry.ts";
export { makePlan, type Plan, type PlanRequest, type RanksOrigin } from "./src/plan.ts";
export type { FullStep, ReducedStep, SkipStep, Stage, Step } from "./src/step.ts";
export { chooseSchedule, type Grid, type PixelBudget, type Schedule, schedule } from "./src/schedule.ts";
export { encodePng, readPngText, type RgbImage } from "./src/png.ts";
export { type ImageRecord, readMetadata } from "./src/metadata.ts";
export type { Tap } from "./src/pipeline.ts";
export { calibrate, type CalibrationEvent, type CalibrationRequest, DEFAULT_ALPHAS } from "./src/calibrate.ts";
export type { RankStatistics, RankTable } from "./src/presets.ts";
