/* tslint:disable */
/* eslint-disable */
export const memory: WebAssembly.Memory;
export const add_codes: (a: number, b: number, c: number, d: number, e: number, f: number, g: number, h: number, i: number, j: number, k: number, l: number) => void;
export const energy_ranks: (a: number, b: number, c: number, d: number, e: number, f: number, g: number) => void;
export const gaussians: (a: number, b: number, c: number, d: number, e: number) => void;
export const gumbels: (a: number, b: number, c: number, d: number, e: number) => void;
export const next_input: (a: number, b: number, c: number, d: number, e: number, f: number, g: number, h: number) => void;
export const png_band: (a: number, b: number, c: number, d: number, e: number, f: number) => void;
export const project: (a: number, b: number, c: number, d: number, e: number, f: number, g: number) => void;
export const project_stream: (a: number, b: number, c: number, d: number, e: number, f: number, g: number, h: number) => void;
export const projection: (a: number, b: number, c: number, d: number, e: number, f: number) => void;
export const resize_map: (a: number, b: number, c: number, d: number, e: number, f: number, g: number, h: number) => void;
export const resize_tokens: (a: number, b: number, c: number, d: number, e: number, f: number, g: number, h: number) => void;
export const restore: (a: number, b: number, c: number, d: number, e: number, f: number, g: number, h: number, i: number, j: number, k: number) => void;
export const sample_bits: (a: number, b: number, c: number, d: number, e: number, f: number) => void;
export const sample_codes: (a: number, b: number, c: number, d: number, e: number, f: number, g: number, h: number) => void;
export const sample_rows: (a: number, b: number, c: number, d: number, e: number, f: number, g: number) => void;
export const uniforms: (a: number, b: number, c: number, d: number, e: number) => void;
export const __wbindgen_externrefs: WebAssembly.Table;
export const __wbindgen_add_to_stack_pointer: (a: number) => number;
export const __wbindgen_export: (a: number, b: number) => number;
export const __wbindgen_export2: (a: number, b: number, c: number) => void;
export const __wbindgen_start: () => void;
