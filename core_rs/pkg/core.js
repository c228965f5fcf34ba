/* @ts-self-types="./core.d.ts" */
import * as wasm from "./core_bg.wasm";
import { __wbg_set_wasm } from "./core_bg.js";

__wbg_set_wasm(wasm);
wasm.__wbindgen_start();
export {
    ResizeKind, add_codes, energy_ranks, gaussians, gumbels, next_input, png_band, project, project_stream, projection, resize_map, resize_tokens, restore, sample_bits, sample_codes, sample_rows, uniforms
} from "./core_bg.js";
