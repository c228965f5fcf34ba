/**
 * Naive twins of the kernels of `src/core.ts`, as literal as the formulas: what the tests compare and the bench outruns.
 * All arithmetic is float64; nothing is shared with the Rust code but the definitions.
 */

type Numbers = ArrayLike<number>;

/** High and low 32 bits of a * b, through 16-bit halves. */
function multiply(a: number, b: number): [high: number, low: number] {
  const [a1, a0, b1, b0] = [a >>> 16, a & 0xffff, b >>> 16, b & 0xffff];
  const middle = a1 * b0 + ((a0 * b0) >>> 16);
  const carry = (middle % 65536) + a0 * b1;
  return [(a1 * b1 + Math.floor(middle / 65536) + Math.floor(carry / 65536)) >>> 0, Math.imul(a, b) >>> 0];
}

/** Philox4x32-10 (Salmon et al. 2011): four words of a counter and a key. */
export function philox(counter: number[], key: number[]): number[] {
  let [c0, c1, c2, c3] = counter as [number, number, number, number];
  let [k0, k1] = key as [number, number];
  for (let round = 0; round < 10; round++) {
    const [aHigh, aLow] = multiply(0xd2511f53, c0);
    const [bHigh, bLow] = multiply(0xcd9e8d57, c2);
    [c0, c1, c2, c3] = [(bHigh ^ c1 ^ k0) >>> 0, bLow, (aHigh ^ c3 ^ k1) >>> 0, aLow];
    [k0, k1] = [(k0 + 0x9e3779b9) >>> 0, (k1 + 0xbb67ae85) >>> 0];
  }
  return [c0, c1, c2, c3];
}

/** Names of a stream as the counter and key hold them. */
export interface Named {
  seed: number;
  purpose: string;
  scale?: number;
  chunk?: number;
  image?: number;
}

/** Words 0..count-1 of a stream. */
export function words({ seed, purpose, scale = 0, chunk = 0, image = 0 }: Named, count: number): number[] {
  const name = [image, scale * 65536 + chunk, ["bits", "projection", "rows", "weights"].indexOf(purpose)];
  const key = [seed % 2 ** 32, Math.floor(seed / 2 ** 32)];
  const blocks = Array.from({ length: Math.ceil(count / 4) }, (_, i) => philox([i, ...name], key));
  return blocks.flat().slice(0, count);
}

/** Uniforms of `count` words: the top 24 bits. */
export function uniforms(stream: Named, count: number): Float64Array {
  return Float64Array.from(words(stream, count), (word) => Math.floor(word / 256) / 2 ** 24);
}

/** Normals by Box-Muller on words (0, 1), (2, 3), ..: radius from the first, angle from the second. */
export function gaussians(stream: Named, count: number): Float64Array {
  const u = words(stream, count + (count % 2)).map((word) => (word + 0.5) / 2 ** 32);
  return Float64Array.from({ length: count }, (_, i) => {
    const pair = i - (i % 2);
    const [radius, angle] = [Math.sqrt(-2 * Math.log(u[pair]!)), 2 * Math.PI * u[pair + 1]!];
    return radius * (i % 2 === 0 ? Math.cos(angle) : Math.sin(angle));
  });
}

/** Sparse signs of Achlioptas [M, r]. */
export function signs(stream: Named, M: number, r: number): Float64Array {
  return Float64Array.from(words(stream, M * r), (word) => {
    const face = Math.floor(word * 6 / 2 ** 32); // exact: below 2^35
    return face === 0 ? Math.sqrt(3 / r) : face === 1 ? -Math.sqrt(3 / r) : 0;
  });
}

/** Q^T X, one row of X at a time: the loop order that reads memory in order. */
export function project(q: Numbers, x: Numbers, M: number, r: number, C: number): Float64Array {
  const y = new Float64Array(r * C);
  for (let k = 0; k < M; k++) {
    for (let i = 0; i < r; i++) {
      const entry = q[k * r + i]!;
      for (let j = 0; j < C; j++) y[i * C + j]! += entry * x[k * C + j]!;
    }
  }
  return y;
}

/** Rows in descending order of log||x_i||^2 + Gumbel noise, zero rows last; the first r. */
export function sampleRows(stream: Named, x: Numbers, M: number, C: number, r: number): number[] {
  const noise = words(stream, M).map((word) => -Math.log(-Math.log((word + 0.5) / 2 ** 32)));
  const rows = noise.map((gumbel, i) => {
    let square = 0;
    for (let j = 0; j < C; j++) square += x[i * C + j]! ** 2;
    return { i, zero: square === 0 ? 1 : 0, key: square === 0 ? gumbel : Math.log(square) + gumbel };
  });
  return rows.sort((a, b) => a.zero - b.zero || b.key - a.key).slice(0, r).map((row) => row.i);
}

/** Bits of infinity.md §4.3: the sign where the weaker class has probability 1 - topP or less, else u < sigmoid(z). */
export function sampleBits(stream: Named, z: Numbers, topP: number): Uint8Array {
  const limit = topP === 0 ? Infinity : Math.log(topP / (1 - topP));
  const u = uniforms(stream, z.length);
  return Uint8Array.from(u, (draw, i) => {
    const logit = z[i]!;
    return (Math.abs(logit) >= limit ? logit > 0 : draw < 1 / (1 + Math.exp(-logit))) ? 1 : 0;
  });
}

/** Ascending ids of a row; equal logits keep the order of their ids. */
function ascending(row: Numbers): number[] {
  return Array.from({ length: row.length }, (_, id) => id).sort((a, b) => row[a]! - row[b]! || a - b);
}

/** Softmax of a row over the ids where `keep` is not 0; 0 elsewhere. */
export function softmax(row: Numbers, keep: Numbers): Float64Array {
  const logits = Float64Array.from(row, (logit, id) => keep[id] === 0 ? -Infinity : logit);
  const most = logits.reduce((a, b) => Math.max(a, b));
  const weights = logits.map((logit) => Math.exp(logit - most));
  const total = weights.reduce((a, b) => a + b);
  return weights.map((weight) => weight / total);
}

/** What top-k, then top-p leave of a row (star_ref.allowed): 1 or 0 an id, and the smallest |c - (1 - p)| top-p met. */
export function allowedCodes(row: Numbers, topK: number, topP: number): { allowed: Uint8Array; margin: number } {
  const order = ascending(row);
  const least = topK > 0 && topK < row.length ? row[order.at(-topK)!]! : -Infinity;
  const allowed = Uint8Array.from(row, (logit) => logit >= least && logit > -Infinity ? 1 : 0);
  if (topP === 0 || topP === 1) return { allowed, margin: Infinity };
  const p = softmax(row, allowed);
  let [sum, margin] = [0, Infinity];
  for (const id of order.slice(0, -1)) { // the largest stays
    sum += p[id]!;
    margin = Math.min(margin, Math.abs(sum - (1 - topP)));
    if (sum <= 1 - topP) allowed[id] = 0;
  }
  return { allowed, margin };
}

/** Ids of logits [L, V]: row i by inverting the cumulative softmax, in the order of ids, at word i of the stream. */
export function sampleCodes(stream: Named, logits: Float32Array, V: number, topK: number, topP: number): number[] {
  return words(stream, logits.length / V).map((word, i) => {
    const row = logits.subarray(i * V, (i + 1) * V);
    const p = softmax(row, allowedCodes(row, topK, topP).allowed);
    let sum = 0;
    return p.findIndex((share) => (sum += share) > (word + 0.5) / 2 ** 32);
  });
}

/** [nOut][nIn] matrix of two-tap linear interpolation (infinity_ref.resize_matrix). */
export function linearMatrix(nIn: number, nOut: number): number[][] {
  return Array.from({ length: nOut }, (_, o) => {
    const row = new Array<number>(nIn).fill(0);
    const source = Math.max((o + 0.5) * nIn / nOut - 0.5, 0);
    const i0 = Math.min(Math.floor(source), nIn - 1);
    const i1 = Math.min(i0 + 1, nIn - 1);
    row[i0]! += 1 - (source - i0);
    row[i1]! += source - i0;
    return row;
  });
}

/** [nOut][nIn] matrix of adaptive average pooling (infinity_ref.area_matrix). */
export function areaMatrix(nIn: number, nOut: number): number[][] {
  return Array.from({ length: nOut }, (_, o) => {
    const [low, high] = [Math.floor(o * nIn / nOut), Math.ceil((o + 1) * nIn / nOut)];
    return Array.from({ length: nIn }, (_, i) => i >= low && i < high ? 1 / (high - low) : 0);
  });
}

/** [nOut][nIn] matrix of bicubic interpolation, a = -0.75 (star_ref.bicubic_matrix). */
export function cubicMatrix(nIn: number, nOut: number): number[][] {
  const a = -0.75;
  return Array.from({ length: nOut }, (_, o) => {
    const row = new Array<number>(nIn).fill(0);
    const source = (o + 0.5) * nIn / nOut - 0.5;
    const i0 = Math.floor(source);
    for (let i = i0 - 1; i < i0 + 3; i++) {
      const d = Math.abs(source - i);
      const [near, far] = [(a + 2) * d ** 3 - (a + 3) * d ** 2 + 1, a * d ** 3 - 5 * a * d ** 2 + 8 * a * d - 4 * a];
      row[Math.min(Math.max(i, 0), nIn - 1)]! += d <= 1 ? near : far;
    }
    return row;
  });
}

const MATRICES: Readonly<Record<string, (nIn: number, nOut: number) => number[][]>> = {
  area: areaMatrix,
  linear: linearMatrix,
  cubic: cubicMatrix,
};

/** A_h X A_w^T on every plane of x [d, h, w]. */
export function resizeMap(
  x: Numbers,
  d: number,
  h: number,
  w: number,
  outH: number,
  outW: number,
  kind: string,
): Float64Array {
  const matrix = MATRICES[kind]!;
  const [ah, aw] = [matrix(h, outH), matrix(w, outW)];
  const out = new Float64Array(d * outH * outW);
  for (let c = 0; c < d; c++) {
    for (let oy = 0; oy < outH; oy++) {
      for (let ox = 0; ox < outW; ox++) {
        let sum = 0;
        for (let y = 0; y < h; y++) {
          for (let xi = 0; xi < w; xi++) sum += ah[oy]![y]! * aw[ox]![xi]! * x[(c * h + y) * w + xi]!;
        }
        out[(c * outH + oy) * outW + ox] = sum;
      }
    }
  }
  return out;
}

/** x [rows, columns] -> [columns, rows]. */
export function transpose(x: Numbers, rows: number, columns: number): Float64Array {
  return Float64Array.from({ length: rows * columns }, (_, i) => x[(i % rows) * columns + Math.floor(i / rows)]!);
}

/** Token grid x [h*w, C] resized, through the map layout. */
export function resizeTokens(
  x: Numbers,
  h: number,
  w: number,
  outH: number,
  outW: number,
  C: number,
  kind: string,
): Float64Array {
  return transpose(resizeMap(transpose(x, h * w, C), C, h, w, outH, outW, kind), C, outH * outW);
}

/** Z = area upsample, Z[I] = Y. */
export function restore(
  cached: Numbers,
  h: number,
  w: number,
  outH: number,
  outW: number,
  C: number,
  y: Numbers,
  indices: Numbers,
): Float64Array {
  const z = resizeTokens(cached, h, w, outH, outW, C, "area");
  for (let i = 0; i < indices.length; i++) for (let c = 0; c < C; c++) z[indices[i]! * C + c] = y[i * C + c]!;
  return z;
}

/** tokens [h*w, 4*d] -> map [d, 2h, 2w]: torch.pixel_shuffle(2) of the token map. */
export function pixelShuffle(tokens: Numbers, d: number, h: number, w: number): Float64Array {
  const map = new Float64Array(4 * d * h * w);
  for (let c = 0; c < d; c++) {
    for (let y = 0; y < 2 * h; y++) {
      for (let x = 0; x < 2 * w; x++) {
        const token = Math.floor(y / 2) * w + Math.floor(x / 2);
        map[(c * 2 * h + y) * 2 * w + x] = tokens[token * 4 * d + c * 4 + (y % 2) * 2 + (x % 2)]!;
      }
    }
  }
  return map;
}

/** map [d, 2h, 2w] -> tokens [h*w, 4*d], the inverse of `pixelShuffle`. */
export function pixelUnshuffle(map: Numbers, d: number, h: number, w: number): Float64Array {
  const order = pixelShuffle(Float64Array.from({ length: map.length }, (_, i) => i), d, h, w);
  const tokens = new Float64Array(map.length);
  order.forEach((token, cell) => tokens[token] = map[cell]!);
  return tokens;
}

/** latent + R(codes), codes (2*bit - 1)/sqrt(d), or 0 where the token's mask is 0. */
export function addCodes(
  latent: Numbers,
  bits: Numbers,
  h: number,
  w: number,
  H: number,
  W: number,
  d: number,
  patchify: boolean,
  mask?: Numbers,
): Float64Array {
  const width = patchify ? 4 * d : d;
  const codes = Float64Array.from(
    bits,
    (bit, i) => mask?.[Math.floor(i / width)] === 0 ? 0 : (2 * bit - 1) / Math.sqrt(d),
  );
  const map = patchify ? pixelShuffle(codes, d, h, w) : transpose(codes, h * w, d);
  const side = patchify ? 2 : 1;
  return resizeMap(map, d, h * side, w * side, H, W, "linear").map((code, i) => latent[i]! + code);
}

/** Tokens of the latent resized to the next grid. */
export function nextInput(
  latent: Numbers,
  d: number,
  H: number,
  W: number,
  h: number,
  w: number,
  patchify: boolean,
): Float64Array {
  const side = patchify ? 2 : 1;
  const map = resizeMap(latent, d, H, W, h * side, w * side, "linear");
  return patchify ? pixelUnshuffle(map, d, h, w) : transpose(map, d, h * w);
}

/** Eigenvalues of the Gram matrix of x [M, C], descending, by cyclic Jacobi rotations: slow and hard to get wrong. */
export function squaredSingularValues(x: Numbers, M: number, C: number): number[] {
  const g = Array.from({ length: C }, (_, i) =>
    Array.from({ length: C }, (_, j) => {
      let sum = 0;
      for (let k = 0; k < M; k++) sum += x[k * C + i]! * x[k * C + j]!;
      return sum;
    }));
  for (let sweep = 0; sweep < 30; sweep++) {
    for (let p = 0; p < C; p++) {
      for (let q = p + 1; q < C; q++) {
        const angle = 0.5 * Math.atan2(2 * g[p]![q]!, g[q]![q]! - g[p]![p]!);
        const [c, s] = [Math.cos(angle), Math.sin(angle)];
        for (const row of g) [row[p], row[q]] = [c * row[p]! - s * row[q]!, s * row[p]! + c * row[q]!];
        for (let k = 0; k < C; k++) {
          [g[p]![k], g[q]![k]] = [c * g[p]![k]! - s * g[q]![k]!, s * g[p]![k]! + c * g[q]![k]!];
        }
      }
    }
  }
  return g.map((row, i) => row[i]!).sort((a, b) => b - a);
}

/** Rows of a PNG of three bytes a pixel, each after the number of its filter: Paeth (W3C PNG, third edition, 9.4). */
export function paethRows(pixels: Numbers, width: number): Uint8Array {
  const stride = 3 * width;
  const at = (row: number, i: number): number => row < 0 || i < 0 ? 0 : pixels[row * stride + i]!;
  const rows = new Uint8Array(pixels.length / stride * (stride + 1));
  for (let row = 0, out = 0; out < rows.length; row++) {
    rows[out++] = 4;
    for (let i = 0; i < stride; i++) {
      const [a, b, c] = [at(row, i - 3), at(row - 1, i), at(row - 1, i - 3)];
      const [pa, pb, pc] = [Math.abs(b - c), Math.abs(a - c), Math.abs(a + b - 2 * c)];
      rows[out++] = at(row, i) - (pa <= pb && pa <= pc ? a : pb <= pc ? b : c);
    }
  }
  return rows;
}

/** Asserts |found - wanted| <= tolerance * max|wanted| for every value. */
export function assertClose(found: Numbers, wanted: Numbers, tolerance: number): void {
  if (found.length !== wanted.length) throw new Error(`Found ${found.length} values, wanted ${wanted.length}`);
  let size = 0;
  for (let i = 0; i < wanted.length; i++) size = Math.max(size, Math.abs(wanted[i]!));
  for (let i = 0; i < wanted.length; i++) {
    if (!(Math.abs(found[i]! - wanted[i]!) <= tolerance * size)) {
      throw new Error(`Value ${i} is ${found[i]}, wanted ${wanted[i]} within ${tolerance} of ${size}`);
    }
  }
}
