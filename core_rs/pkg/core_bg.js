/**
 * How `resize_map` and `resize_tokens` weigh the cells along an axis.
 * @enum {0 | 1 | 2}
 */
export const ResizeKind = Object.freeze({
    Area: 0, "0": "Area",
    Linear: 1, "1": "Linear",
    Cubic: 2, "2": "Cubic",
});

/**
 * latent [d, H, W] plus the two-tap resize of the codes of bits [h*w, d_tok]; a token whose mask is 0 has code 0.
 * @param {Float32Array | number[]} latent
 * @param {Uint8Array | number[]} bits
 * @param {Uint8Array | number[] | null | undefined} mask
 * @param {number} h
 * @param {number} w
 * @param {number} h_full
 * @param {number} w_full
 * @param {boolean} patchify
 * @returns {Float32Array}
 */
export function add_codes(latent, bits, mask, h, w, h_full, w_full, patchify) {
    try {
        const retptr = wasm.__wbindgen_add_to_stack_pointer(-16) >>> 0;
        const val4 = +h;
        const val5 = +w;
        const val6 = +h_full;
        const val7 = +w_full;
        const val8 = +patchify;
        let ptr0, len0, ptr1, len1, ptr2, len2;
        try {
            ptr0 = passArrayF32ToWasm0(latent, wasm.__wbindgen_export);
            len0 = WASM_VECTOR_LEN;
            ptr1 = passArray8ToWasm0(bits, wasm.__wbindgen_export);
            len1 = WASM_VECTOR_LEN;
            ptr2 = isLikeNone(mask) ? 0 : passArray8ToWasm0(mask, wasm.__wbindgen_export);
            len2 = WASM_VECTOR_LEN;
        } catch (e) {
            if (ptr2) { wasm.__wbindgen_export2(ptr2, len2 * 1, 1); }
            if (ptr1) { wasm.__wbindgen_export2(ptr1, len1 * 1, 1); }
            if (ptr0) { wasm.__wbindgen_export2(ptr0, len0 * 4, 4); }
            throw e;
        }
        wasm.add_codes(retptr, ptr0, len0, ptr1, len1, ptr2, len2, val4, val5, val6, val7, val8);
        var r0 = getDataViewMemory0().getInt32(retptr + 4 * 0, true);
        var r1 = getDataViewMemory0().getInt32(retptr + 4 * 1, true);
        var v9 = getArrayF32FromWasm0(r0, r1).slice();
        wasm.__wbindgen_export2(r0, r1 * 4, 4);
        return v9;
    } finally {
        wasm.__wbindgen_add_to_stack_pointer(16);
    }
}

/**
 * Smallest ranks r, one for each alpha, with (s_1^2 + .. + s_r^2) >= alpha * (sum of all s_i^2), s the singular values of
 * x [M, C]. They are the eigenvalues of the Gram matrix of the smaller side. `None` when a value is not finite.
 * @param {Float32Array | number[]} x
 * @param {number} rows
 * @param {number} width
 * @param {Float64Array | number[]} alphas
 * @returns {Uint32Array | undefined}
 */
export function energy_ranks(x, rows, width, alphas) {
    try {
        const retptr = wasm.__wbindgen_add_to_stack_pointer(-16) >>> 0;
        const val3 = +rows;
        const val4 = +width;
        let ptr0, len0, ptr1, len1;
        try {
            ptr0 = passArrayF32ToWasm0(x, wasm.__wbindgen_export);
            len0 = WASM_VECTOR_LEN;
            ptr1 = passArrayF64ToWasm0(alphas, wasm.__wbindgen_export);
            len1 = WASM_VECTOR_LEN;
        } catch (e) {
            if (ptr1) { wasm.__wbindgen_export2(ptr1, len1 * 8, 8); }
            if (ptr0) { wasm.__wbindgen_export2(ptr0, len0 * 4, 4); }
            throw e;
        }
        wasm.energy_ranks(retptr, ptr0, len0, val3, val4, ptr1, len1);
        var r0 = getDataViewMemory0().getInt32(retptr + 4 * 0, true);
        var r1 = getDataViewMemory0().getInt32(retptr + 4 * 1, true);
        let v5;
        if (r0 !== 0) {
            v5 = getArrayU32FromWasm0(r0, r1).slice();
            wasm.__wbindgen_export2(r0, r1 * 4, 4);
        }
        return v5;
    } finally {
        wasm.__wbindgen_add_to_stack_pointer(16);
    }
}

/**
 * Standard normals, [count].
 * @param {Uint32Array | number[]} stream
 * @param {number} count
 * @param {number} offset
 * @returns {Float32Array}
 */
export function gaussians(stream, count, offset) {
    try {
        const retptr = wasm.__wbindgen_add_to_stack_pointer(-16) >>> 0;
        const val2 = +count;
        const val3 = +offset;
        const ptr0 = passArray32ToWasm0(stream, wasm.__wbindgen_export);
        const len0 = WASM_VECTOR_LEN;
        wasm.gaussians(retptr, ptr0, len0, val2, val3);
        var r0 = getDataViewMemory0().getInt32(retptr + 4 * 0, true);
        var r1 = getDataViewMemory0().getInt32(retptr + 4 * 1, true);
        var v4 = getArrayF32FromWasm0(r0, r1).slice();
        wasm.__wbindgen_export2(r0, r1 * 4, 4);
        return v4;
    } finally {
        wasm.__wbindgen_add_to_stack_pointer(16);
    }
}

/**
 * Standard Gumbel numbers [count]: the noise of `sample_rows`, for a device that samples rows in its own memory.
 * @param {Uint32Array | number[]} stream
 * @param {number} count
 * @param {number} offset
 * @returns {Float32Array}
 */
export function gumbels(stream, count, offset) {
    try {
        const retptr = wasm.__wbindgen_add_to_stack_pointer(-16) >>> 0;
        const val2 = +count;
        const val3 = +offset;
        const ptr0 = passArray32ToWasm0(stream, wasm.__wbindgen_export);
        const len0 = WASM_VECTOR_LEN;
        wasm.gumbels(retptr, ptr0, len0, val2, val3);
        var r0 = getDataViewMemory0().getInt32(retptr + 4 * 0, true);
        var r1 = getDataViewMemory0().getInt32(retptr + 4 * 1, true);
        var v4 = getArrayF32FromWasm0(r0, r1).slice();
        wasm.__wbindgen_export2(r0, r1 * 4, 4);
        return v4;
    } finally {
        wasm.__wbindgen_add_to_stack_pointer(16);
    }
}

/**
 * Input tokens [h*w, d_tok] of the next scale: latent [d, H, W] resized to its grid, two taps an axis.
 * @param {Float32Array | number[]} latent
 * @param {number} h_full
 * @param {number} w_full
 * @param {number} h
 * @param {number} w
 * @param {boolean} patchify
 * @returns {Float32Array}
 */
export function next_input(latent, h_full, w_full, h, w, patchify) {
    try {
        const retptr = wasm.__wbindgen_add_to_stack_pointer(-16) >>> 0;
        const val2 = +h_full;
        const val3 = +w_full;
        const val4 = +h;
        const val5 = +w;
        const val6 = +patchify;
        const ptr0 = passArrayF32ToWasm0(latent, wasm.__wbindgen_export);
        const len0 = WASM_VECTOR_LEN;
        wasm.next_input(retptr, ptr0, len0, val2, val3, val4, val5, val6);
        var r0 = getDataViewMemory0().getInt32(retptr + 4 * 0, true);
        var r1 = getDataViewMemory0().getInt32(retptr + 4 * 1, true);
        var v7 = getArrayF32FromWasm0(r0, r1).slice();
        wasm.__wbindgen_export2(r0, r1 * 4, 4);
        return v7;
    } finally {
        wasm.__wbindgen_add_to_stack_pointer(16);
    }
}

/**
 * Rows of `stride` bytes, the first one only the row above the band unless `first`. Gives the Adler-32 of the filtered
 * rows, four bytes from the lowest, and then the rows as a part of a deflate stream that ends on a byte, or as its `last`.
 * @param {Uint8Array | number[]} rows
 * @param {number} stride
 * @param {boolean} first
 * @param {boolean} last
 * @returns {Uint8Array}
 */
export function png_band(rows, stride, first, last) {
    try {
        const retptr = wasm.__wbindgen_add_to_stack_pointer(-16) >>> 0;
        const val2 = +stride;
        const val3 = +first;
        const val4 = +last;
        const ptr0 = passArray8ToWasm0(rows, wasm.__wbindgen_export);
        const len0 = WASM_VECTOR_LEN;
        wasm.png_band(retptr, ptr0, len0, val2, val3, val4);
        var r0 = getDataViewMemory0().getInt32(retptr + 4 * 0, true);
        var r1 = getDataViewMemory0().getInt32(retptr + 4 * 1, true);
        var v5 = getArrayU8FromWasm0(r0, r1).slice();
        wasm.__wbindgen_export2(r0, r1 * 1, 1);
        return v5;
    } finally {
        wasm.__wbindgen_add_to_stack_pointer(16);
    }
}

/**
 * Q^T X [r, C] of q [M, r] and x [M, C].
 * @param {Float32Array | number[]} q
 * @param {Float32Array | number[]} x
 * @param {number} rank
 * @param {number} width
 * @returns {Float32Array}
 */
export function project(q, x, rank, width) {
    try {
        const retptr = wasm.__wbindgen_add_to_stack_pointer(-16) >>> 0;
        const val3 = +rank;
        const val4 = +width;
        let ptr0, len0, ptr1, len1;
        try {
            ptr0 = passArrayF32ToWasm0(q, wasm.__wbindgen_export);
            len0 = WASM_VECTOR_LEN;
            ptr1 = passArrayF32ToWasm0(x, wasm.__wbindgen_export);
            len1 = WASM_VECTOR_LEN;
        } catch (e) {
            if (ptr1) { wasm.__wbindgen_export2(ptr1, len1 * 4, 4); }
            if (ptr0) { wasm.__wbindgen_export2(ptr0, len0 * 4, 4); }
            throw e;
        }
        wasm.project(retptr, ptr0, len0, ptr1, len1, val3, val4);
        var r0 = getDataViewMemory0().getInt32(retptr + 4 * 0, true);
        var r1 = getDataViewMemory0().getInt32(retptr + 4 * 1, true);
        var v5 = getArrayF32FromWasm0(r0, r1).slice();
        wasm.__wbindgen_export2(r0, r1 * 4, 4);
        return v5;
    } finally {
        wasm.__wbindgen_add_to_stack_pointer(16);
    }
}

/**
 * `project(projection(..), x)` bit for bit, with BLOCK_ROWS rows of Q alive at a time.
 * @param {Uint32Array | number[]} stream
 * @param {boolean} sign
 * @param {Float32Array | number[]} x
 * @param {number} rank
 * @param {number} width
 * @returns {Float32Array}
 */
export function project_stream(stream, sign, x, rank, width) {
    try {
        const retptr = wasm.__wbindgen_add_to_stack_pointer(-16) >>> 0;
        const val3 = +sign;
        const val4 = +rank;
        const val5 = +width;
        let ptr0, len0, ptr1, len1;
        try {
            ptr0 = passArray32ToWasm0(stream, wasm.__wbindgen_export);
            len0 = WASM_VECTOR_LEN;
            ptr1 = passArrayF32ToWasm0(x, wasm.__wbindgen_export);
            len1 = WASM_VECTOR_LEN;
        } catch (e) {
            if (ptr1) { wasm.__wbindgen_export2(ptr1, len1 * 4, 4); }
            if (ptr0) { wasm.__wbindgen_export2(ptr0, len0 * 4, 4); }
            throw e;
        }
        wasm.project_stream(retptr, ptr0, len0, val3, ptr1, len1, val4, val5);
        var r0 = getDataViewMemory0().getInt32(retptr + 4 * 0, true);
        var r1 = getDataViewMemory0().getInt32(retptr + 4 * 1, true);
        var v6 = getArrayF32FromWasm0(r0, r1).slice();
        wasm.__wbindgen_export2(r0, r1 * 4, 4);
        return v6;
    } finally {
        wasm.__wbindgen_add_to_stack_pointer(16);
    }
}

/**
 * Q [M, r] as a dense array.
 * @param {Uint32Array | number[]} stream
 * @param {boolean} sign
 * @param {number} rows
 * @param {number} rank
 * @returns {Float32Array}
 */
export function projection(stream, sign, rows, rank) {
    try {
        const retptr = wasm.__wbindgen_add_to_stack_pointer(-16) >>> 0;
        const val2 = +sign;
        const val3 = +rows;
        const val4 = +rank;
        const ptr0 = passArray32ToWasm0(stream, wasm.__wbindgen_export);
        const len0 = WASM_VECTOR_LEN;
        wasm.projection(retptr, ptr0, len0, val2, val3, val4);
        var r0 = getDataViewMemory0().getInt32(retptr + 4 * 0, true);
        var r1 = getDataViewMemory0().getInt32(retptr + 4 * 1, true);
        var v5 = getArrayF32FromWasm0(r0, r1).slice();
        wasm.__wbindgen_export2(r0, r1 * 4, 4);
        return v5;
    } finally {
        wasm.__wbindgen_add_to_stack_pointer(16);
    }
}

/**
 * x [d, h, w] -> [d, h_out, w_out].
 * @param {Float32Array | number[]} x
 * @param {number} h
 * @param {number} w
 * @param {number} h_out
 * @param {number} w_out
 * @param {ResizeKind} kind
 * @returns {Float32Array}
 */
export function resize_map(x, h, w, h_out, w_out, kind) {
    try {
        const retptr = wasm.__wbindgen_add_to_stack_pointer(-16) >>> 0;
        const val2 = +h;
        const val3 = +w;
        const val4 = +h_out;
        const val5 = +w_out;
        const val6 = +kind;
        const ptr0 = passArrayF32ToWasm0(x, wasm.__wbindgen_export);
        const len0 = WASM_VECTOR_LEN;
        wasm.resize_map(retptr, ptr0, len0, val2, val3, val4, val5, val6);
        var r0 = getDataViewMemory0().getInt32(retptr + 4 * 0, true);
        var r1 = getDataViewMemory0().getInt32(retptr + 4 * 1, true);
        var v7 = getArrayF32FromWasm0(r0, r1).slice();
        wasm.__wbindgen_export2(r0, r1 * 4, 4);
        return v7;
    } finally {
        wasm.__wbindgen_add_to_stack_pointer(16);
    }
}

/**
 * x [h*w, C] -> [h_out*w_out, C].
 * @param {Float32Array | number[]} x
 * @param {number} h
 * @param {number} w
 * @param {number} h_out
 * @param {number} w_out
 * @param {ResizeKind} kind
 * @returns {Float32Array}
 */
export function resize_tokens(x, h, w, h_out, w_out, kind) {
    try {
        const retptr = wasm.__wbindgen_add_to_stack_pointer(-16) >>> 0;
        const val2 = +h;
        const val3 = +w;
        const val4 = +h_out;
        const val5 = +w_out;
        const val6 = +kind;
        const ptr0 = passArrayF32ToWasm0(x, wasm.__wbindgen_export);
        const len0 = WASM_VECTOR_LEN;
        wasm.resize_tokens(retptr, ptr0, len0, val2, val3, val4, val5, val6);
        var r0 = getDataViewMemory0().getInt32(retptr + 4 * 0, true);
        var r1 = getDataViewMemory0().getInt32(retptr + 4 * 1, true);
        var v7 = getArrayF32FromWasm0(r0, r1).slice();
        wasm.__wbindgen_export2(r0, r1 * 4, 4);
        return v7;
    } finally {
        wasm.__wbindgen_add_to_stack_pointer(16);
    }
}

/**
 * Z [h_out*w_out, C]: y [r, C] at `indices` [r], the area upsample of `cached` [h*w, C] elsewhere (stagevar.md §3.5).
 * @param {Float32Array | number[]} cached
 * @param {number} h
 * @param {number} w
 * @param {number} h_out
 * @param {number} w_out
 * @param {Float32Array | number[]} y
 * @param {Uint32Array | number[]} indices
 * @returns {Float32Array}
 */
export function restore(cached, h, w, h_out, w_out, y, indices) {
    try {
        const retptr = wasm.__wbindgen_add_to_stack_pointer(-16) >>> 0;
        const val4 = +h;
        const val5 = +w;
        const val6 = +h_out;
        const val7 = +w_out;
        let ptr0, len0, ptr1, len1, ptr2, len2;
        try {
            ptr0 = passArrayF32ToWasm0(cached, wasm.__wbindgen_export);
            len0 = WASM_VECTOR_LEN;
            ptr1 = passArrayF32ToWasm0(y, wasm.__wbindgen_export);
            len1 = WASM_VECTOR_LEN;
            ptr2 = passArray32ToWasm0(indices, wasm.__wbindgen_export);
            len2 = WASM_VECTOR_LEN;
        } catch (e) {
            if (ptr2) { wasm.__wbindgen_export2(ptr2, len2 * 4, 4); }
            if (ptr1) { wasm.__wbindgen_export2(ptr1, len1 * 4, 4); }
            if (ptr0) { wasm.__wbindgen_export2(ptr0, len0 * 4, 4); }
            throw e;
        }
        wasm.restore(retptr, ptr0, len0, val4, val5, val6, val7, ptr1, len1, ptr2, len2);
        var r0 = getDataViewMemory0().getInt32(retptr + 4 * 0, true);
        var r1 = getDataViewMemory0().getInt32(retptr + 4 * 1, true);
        var v8 = getArrayF32FromWasm0(r0, r1).slice();
        wasm.__wbindgen_export2(r0, r1 * 4, 4);
        return v8;
    } finally {
        wasm.__wbindgen_add_to_stack_pointer(16);
    }
}

/**
 * Bits [n] of z [n], the logit of 1 over 0: the sign where the weaker class has probability at most 1 - top_p, else
 * Bernoulli(sigmoid(z)) from position i of the stream. top_p = 0 filters nothing. `None` when a logit is NaN.
 * @param {Uint32Array | number[]} stream
 * @param {Float32Array | number[]} z
 * @param {number} top_p
 * @returns {Uint8Array | undefined}
 */
export function sample_bits(stream, z, top_p) {
    try {
        const retptr = wasm.__wbindgen_add_to_stack_pointer(-16) >>> 0;
        const val3 = +top_p;
        let ptr0, len0, ptr1, len1;
        try {
            ptr0 = passArray32ToWasm0(stream, wasm.__wbindgen_export);
            len0 = WASM_VECTOR_LEN;
            ptr1 = passArrayF32ToWasm0(z, wasm.__wbindgen_export);
            len1 = WASM_VECTOR_LEN;
        } catch (e) {
            if (ptr1) { wasm.__wbindgen_export2(ptr1, len1 * 4, 4); }
            if (ptr0) { wasm.__wbindgen_export2(ptr0, len0 * 4, 4); }
            throw e;
        }
        wasm.sample_bits(retptr, ptr0, len0, ptr1, len1, val3);
        var r0 = getDataViewMemory0().getInt32(retptr + 4 * 0, true);
        var r1 = getDataViewMemory0().getInt32(retptr + 4 * 1, true);
        let v4;
        if (r0 !== 0) {
            v4 = getArrayU8FromWasm0(r0, r1).slice();
            wasm.__wbindgen_export2(r0, r1 * 1, 1);
        }
        return v4;
    } finally {
        wasm.__wbindgen_add_to_stack_pointer(16);
    }
}

/**
 * Ids [L] of logits [L, vocabulary], row i by position i of the stream: from the softmax of what `top_k`, then `top_p`,
 * leave; 0 switches either off. `None` when a logit is NaN or infinite, or a row has only minus infinities.
 * @param {Uint32Array | number[]} stream
 * @param {Float32Array | number[]} logits
 * @param {number} vocabulary
 * @param {number} top_k
 * @param {number} top_p
 * @returns {Uint32Array | undefined}
 */
export function sample_codes(stream, logits, vocabulary, top_k, top_p) {
    try {
        const retptr = wasm.__wbindgen_add_to_stack_pointer(-16) >>> 0;
        const val3 = +vocabulary;
        const val4 = +top_k;
        const val5 = +top_p;
        let ptr0, len0, ptr1, len1;
        try {
            ptr0 = passArray32ToWasm0(stream, wasm.__wbindgen_export);
            len0 = WASM_VECTOR_LEN;
            ptr1 = passArrayF32ToWasm0(logits, wasm.__wbindgen_export);
            len1 = WASM_VECTOR_LEN;
        } catch (e) {
            if (ptr1) { wasm.__wbindgen_export2(ptr1, len1 * 4, 4); }
            if (ptr0) { wasm.__wbindgen_export2(ptr0, len0 * 4, 4); }
            throw e;
        }
        wasm.sample_codes(retptr, ptr0, len0, ptr1, len1, val3, val4, val5);
        var r0 = getDataViewMemory0().getInt32(retptr + 4 * 0, true);
        var r1 = getDataViewMemory0().getInt32(retptr + 4 * 1, true);
        let v6;
        if (r0 !== 0) {
            v6 = getArrayU32FromWasm0(r0, r1).slice();
            wasm.__wbindgen_export2(r0, r1 * 4, 4);
        }
        return v6;
    } finally {
        wasm.__wbindgen_add_to_stack_pointer(16);
    }
}

/**
 * Indices [r] of the rows with the largest log||x_i||^2 + Gumbel noise, largest first: the order of r sequential draws.
 *
 * Zero rows come after all others, in the order of their noise. `None` when a value is not finite.
 * @param {Uint32Array | number[]} stream
 * @param {Float32Array | number[]} x
 * @param {number} width
 * @param {number} rank
 * @returns {Uint32Array | undefined}
 */
export function sample_rows(stream, x, width, rank) {
    try {
        const retptr = wasm.__wbindgen_add_to_stack_pointer(-16) >>> 0;
        const val3 = +width;
        const val4 = +rank;
        let ptr0, len0, ptr1, len1;
        try {
            ptr0 = passArray32ToWasm0(stream, wasm.__wbindgen_export);
            len0 = WASM_VECTOR_LEN;
            ptr1 = passArrayF32ToWasm0(x, wasm.__wbindgen_export);
            len1 = WASM_VECTOR_LEN;
        } catch (e) {
            if (ptr1) { wasm.__wbindgen_export2(ptr1, len1 * 4, 4); }
            if (ptr0) { wasm.__wbindgen_export2(ptr0, len0 * 4, 4); }
            throw e;
        }
        wasm.sample_rows(retptr, ptr0, len0, ptr1, len1, val3, val4);
        var r0 = getDataViewMemory0().getInt32(retptr + 4 * 0, true);
        var r1 = getDataViewMemory0().getInt32(retptr + 4 * 1, true);
        let v5;
        if (r0 !== 0) {
            v5 = getArrayU32FromWasm0(r0, r1).slice();
            wasm.__wbindgen_export2(r0, r1 * 4, 4);
        }
        return v5;
    } finally {
        wasm.__wbindgen_add_to_stack_pointer(16);
    }
}

/**
 * Uniforms in [0, 1), [count].
 * @param {Uint32Array | number[]} stream
 * @param {number} count
 * @param {number} offset
 * @returns {Float32Array}
 */
export function uniforms(stream, count, offset) {
    try {
        const retptr = wasm.__wbindgen_add_to_stack_pointer(-16) >>> 0;
        const val2 = +count;
        const val3 = +offset;
        const ptr0 = passArray32ToWasm0(stream, wasm.__wbindgen_export);
        const len0 = WASM_VECTOR_LEN;
        wasm.uniforms(retptr, ptr0, len0, val2, val3);
        var r0 = getDataViewMemory0().getInt32(retptr + 4 * 0, true);
        var r1 = getDataViewMemory0().getInt32(retptr + 4 * 1, true);
        var v4 = getArrayF32FromWasm0(r0, r1).slice();
        wasm.__wbindgen_export2(r0, r1 * 4, 4);
        return v4;
    } finally {
        wasm.__wbindgen_add_to_stack_pointer(16);
    }
}
export function __wbg___wbindgen_throw_4c88d8bf264fd984(arg0, arg1) {
    throw new Error(getStringFromWasm0(arg0, arg1));
}
export function __wbindgen_init_externref_table() {
    const table = wasm.__wbindgen_externrefs;
    table.set(0, undefined);
    table.set(1024, undefined);
    table.set(1025, null);
    table.set(1026, true);
    table.set(1027, false);
}
function getArrayF32FromWasm0(ptr, len) {
    ptr = ptr >>> 0;
    return getFloat32ArrayMemory0().subarray(ptr / 4, ptr / 4 + len);
}

function getArrayU32FromWasm0(ptr, len) {
    ptr = ptr >>> 0;
    return getUint32ArrayMemory0().subarray(ptr / 4, ptr / 4 + len);
}

function getArrayU8FromWasm0(ptr, len) {
    ptr = ptr >>> 0;
    return getUint8ArrayMemory0().subarray(ptr / 1, ptr / 1 + len);
}

let cachedDataViewMemory0 = null;
function getDataViewMemory0() {
    if (cachedDataViewMemory0 === null || cachedDataViewMemory0.buffer.detached === true || (cachedDataViewMemory0.buffer.detached === undefined && cachedDataViewMemory0.buffer !== wasm.memory.buffer)) {
        cachedDataViewMemory0 = new DataView(wasm.memory.buffer);
    }
    return cachedDataViewMemory0;
}

let cachedFloat32ArrayMemory0 = null;
function getFloat32ArrayMemory0() {
    if (cachedFloat32ArrayMemory0 === null || cachedFloat32ArrayMemory0.byteLength === 0) {
        cachedFloat32ArrayMemory0 = new Float32Array(wasm.memory.buffer);
    }
    return cachedFloat32ArrayMemory0;
}

let cachedFloat64ArrayMemory0 = null;
function getFloat64ArrayMemory0() {
    if (cachedFloat64ArrayMemory0 === null || cachedFloat64ArrayMemory0.byteLength === 0) {
        cachedFloat64ArrayMemory0 = new Float64Array(wasm.memory.buffer);
    }
    return cachedFloat64ArrayMemory0;
}

function getStringFromWasm0(ptr, len) {
    ptr = ptr >>> 0;
    return decodeText(getUint8ArrayMemory0().subarray(ptr, ptr + len));
}

let cachedUint32ArrayMemory0 = null;
function getUint32ArrayMemory0() {
    if (cachedUint32ArrayMemory0 === null || cachedUint32ArrayMemory0.byteLength === 0) {
        cachedUint32ArrayMemory0 = new Uint32Array(wasm.memory.buffer);
    }
    return cachedUint32ArrayMemory0;
}

let cachedUint8ArrayMemory0 = null;
function getUint8ArrayMemory0() {
    if (cachedUint8ArrayMemory0 === null || cachedUint8ArrayMemory0.byteLength === 0) {
        cachedUint8ArrayMemory0 = new Uint8Array(wasm.memory.buffer);
    }
    return cachedUint8ArrayMemory0;
}

function isLikeNone(x) {
    return x === undefined || x === null;
}

function passArray32ToWasm0(arg, malloc) {
    const ptr = malloc(arg.length * 4, 4) >>> 0;
    getUint32ArrayMemory0().set(arg, ptr / 4);
    WASM_VECTOR_LEN = arg.length;
    return ptr;
}

function passArray8ToWasm0(arg, malloc) {
    const ptr = malloc(arg.length * 1, 1) >>> 0;
    getUint8ArrayMemory0().set(arg, ptr / 1);
    WASM_VECTOR_LEN = arg.length;
    return ptr;
}

function passArrayF32ToWasm0(arg, malloc) {
    const ptr = malloc(arg.length * 4, 4) >>> 0;
    getFloat32ArrayMemory0().set(arg, ptr / 4);
    WASM_VECTOR_LEN = arg.length;
    return ptr;
}

function passArrayF64ToWasm0(arg, malloc) {
    const ptr = malloc(arg.length * 8, 8) >>> 0;
    getFloat64ArrayMemory0().set(arg, ptr / 8);
    WASM_VECTOR_LEN = arg.length;
    return ptr;
}

let cachedTextDecoder = new TextDecoder('utf-8', { ignoreBOM: true });
cachedTextDecoder.decode();
const MAX_SAFARI_DECODE_BYTES = 2146435072;
let numBytesDecoded = 0;
function decodeText(bytes) {
    numBytesDecoded += bytes.length;
    if (numBytesDecoded >= MAX_SAFARI_DECODE_BYTES) {
        cachedTextDecoder = new TextDecoder('utf-8', { ignoreBOM: true });
        cachedTextDecoder.decode();
        numBytesDecoded = bytes.length;
    }
    return cachedTextDecoder.decode(bytes);
}

let WASM_VECTOR_LEN = 0;


let wasm;
export function __wbg_set_wasm(val) {
    wasm = val;
}
