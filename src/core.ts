/**
 * The numeric core: seeded randomness, projection, row sampling, resize, restoration, bits and codes, spectra.
 *
 * Every random number of the program comes from here. Arrays are plain, row-major and never changed; a call costs one copy
 * into the wasm memory and one out of it. Knows no model, plan or tensor name. A wrong length or size is a mistake of the
 * calling code, so it is a `RangeError` and not one of the errors of `errors.ts`.
 *
 * @module
 */
export * from "./core/codes.ts";
export * from "./core/maps.ts";
export * from "./core/rows.ts";
export { gaussians, gumbels, type Purpose, type Stream, streamWords, uniforms } from "./core/streams.ts";
