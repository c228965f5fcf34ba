//! Separable resizing of maps [d, h, w] and token grids [h*w, C], and the restoration built on it.

use wasm_bindgen::prelude::*;

/// Input cells and their weights, for one output position along one axis.
pub type Taps = Vec<(usize, f64)>;

/// Taps [n_out] of adaptive average pooling: cell o averages floor(o*n/m) .. ceil((o+1)*n/m)-1 (onnxruntime.md E).
pub fn area_taps(n_in: usize, n_out: usize) -> Vec<Taps> {
    (0..n_out)
        .map(|o| {
            let cells = o * n_in / n_out..((o + 1) * n_in).div_ceil(n_out);
            let weight = 1.0 / cells.len() as f64;
            cells.map(|i| (i, weight)).collect()
        })
        .collect()
}

/// Taps [n_out] of torch's linear interpolation, align_corners=False, no antialias, in both directions (infinity.md §5.4).
pub fn linear_taps(n_in: usize, n_out: usize) -> Vec<Taps> {
    (0..n_out)
        .map(|o| {
            let source = ((o as f64 + 0.5) * n_in as f64 / n_out as f64 - 0.5).max(0.0);
            let first = (source as usize).min(n_in - 1);
            let second = (first + 1).min(n_in - 1);
            let part = source - first as f64;
            // A weight of 0 is left out: equal sizes must be the identity, also next to an infinity.
            if part == 0.0 || first == second { vec![(first, 1.0)] } else { vec![(first, 1.0 - part), (second, part)] }
        })
        .collect()
}

/// Weight of a cell at this distance from the source: Keys' cubic convolution with a = -0.75, torch's constant.
fn cubic_weight(distance: f64) -> f64 {
    const A: f64 = -0.75;
    if distance <= 1.0 {
        ((A + 2.0) * distance - (A + 3.0)) * distance * distance + 1.0
    } else {
        ((A * distance - 5.0 * A) * distance + 8.0 * A) * distance - 4.0 * A
    }
}

/// Taps [n_out] of torch's bicubic interpolation, align_corners=False, no antialias: four cells, clamped (star.md §8).
pub fn cubic_taps(n_in: usize, n_out: usize) -> Vec<Taps> {
    (0..n_out)
        .map(|o| {
            let source = (o as f64 + 0.5) * n_in as f64 / n_out as f64 - 0.5;
            let mut taps: Taps = Vec::with_capacity(4);
            for step in -1..3 {
                let cell = source.floor() + f64::from(step);
                let weight = cubic_weight((source - cell).abs());
                let i = cell.clamp(0.0, (n_in - 1) as f64) as usize;
                match taps.last_mut() {
                    Some(last) if last.0 == i => last.1 += weight, // both beyond the edge: one cell is one tap
                    _ => taps.push((i, weight)),
                }
            }
            taps.retain(|tap| tap.1 != 0.0); // as in linear_taps
            taps
        })
        .collect()
}

/// How `resize_map` and `resize_tokens` weigh the cells along an axis.
#[wasm_bindgen]
#[derive(Clone, Copy)]
pub enum ResizeKind {
    Area,
    Linear,
    Cubic,
}

impl ResizeKind {
    fn taps(self, n_in: usize, n_out: usize) -> Vec<Taps> {
        match self {
            Self::Area => area_taps(n_in, n_out),
            Self::Linear => linear_taps(n_in, n_out),
            Self::Cubic => cubic_taps(n_in, n_out),
        }
    }
}

/// Calls `each(i, value)` for every cell of one resized plane [h_out * w_out], in f64 so that the caller rounds once.
pub fn resize_plane(plane: &[f32], width: usize, ys: &[Taps], xs: &[Taps], mut each: impl FnMut(usize, f64)) {
    let rows: Vec<f64> = plane
        .chunks_exact(width)
        .flat_map(|row| xs.iter().map(|taps| taps.iter().map(|&(i, weight)| weight * f64::from(row[i])).sum::<f64>()))
        .collect(); // [h_in, w_out]
    for (y, taps) in ys.iter().enumerate() {
        for x in 0..xs.len() {
            each(y * xs.len() + x, taps.iter().map(|&(i, weight)| weight * rows[i * xs.len() + x]).sum());
        }
    }
}

/// Writes output row (y, x) of a resized token grid [h*w, C]; `sums` is scratch, [C].
fn resize_token(grid: &[f32], width: usize, ys: &Taps, xs: &Taps, sums: &mut [f64], out: &mut [f32]) {
    let channels = out.len();
    let row = |y: usize, x: usize| &grid[(y * width + x) * channels..][..channels];
    if let ([(y, _)], [(x, _)]) = (ys.as_slice(), xs.as_slice()) {
        return out.copy_from_slice(row(*y, *x)); // one tap has weight 1
    }
    sums.fill(0.0);
    for &(y, wy) in ys {
        for &(x, wx) in xs {
            let weight = wy * wx;
            for (sum, &value) in sums.iter_mut().zip(row(y, x)) {
                *sum += weight * f64::from(value);
            }
        }
    }
    for (cell, &sum) in out.iter_mut().zip(sums.iter()) {
        *cell = sum as f32;
    }
}

/// x [d, h, w] -> [d, h_out, w_out].
#[wasm_bindgen]
pub fn resize_map(x: &[f32], h: usize, w: usize, h_out: usize, w_out: usize, kind: ResizeKind) -> Vec<f32> {
    let (ys, xs) = (kind.taps(h, h_out), kind.taps(w, w_out));
    let mut out = vec![0.0; x.len() / (h * w) * h_out * w_out];
    for (plane, out) in x.chunks_exact(h * w).zip(out.chunks_exact_mut(h_out * w_out)) {
        resize_plane(plane, w, &ys, &xs, |i, value| out[i] = value as f32);
    }
    out
}

/// x [h*w, C] -> [h_out*w_out, C].
#[wasm_bindgen]
pub fn resize_tokens(x: &[f32], h: usize, w: usize, h_out: usize, w_out: usize, kind: ResizeKind) -> Vec<f32> {
    let (ys, xs) = (kind.taps(h, h_out), kind.taps(w, w_out));
    let channels = x.len() / (h * w);
    let mut sums = vec![0.0; channels];
    let mut out = vec![0.0; h_out * w_out * channels];
    for (token, out) in out.chunks_exact_mut(channels).enumerate() {
        resize_token(x, w, &ys[token / w_out], &xs[token % w_out], &mut sums, out);
    }
    out
}

/// Z [h_out*w_out, C]: y [r, C] at `indices` [r], the area upsample of `cached` [h*w, C] elsewhere (stagevar.md §3.5).
#[wasm_bindgen]
pub fn restore(cached: &[f32], h: usize, w: usize, h_out: usize, w_out: usize, y: &[f32], indices: &[u32]) -> Vec<f32> {
    let (ys, xs) = (area_taps(h, h_out), area_taps(w, w_out));
    let channels = cached.len() / (h * w);
    let mut source = vec![None; h_out * w_out];
    for (row, &index) in y.chunks_exact(channels).zip(indices) {
        source[index as usize] = Some(row);
    }
    let mut sums = vec![0.0; channels];
    let mut out = vec![0.0; h_out * w_out * channels];
    for ((token, out), source) in out.chunks_exact_mut(channels).enumerate().zip(source) {
        match source {
            Some(row) => out.copy_from_slice(row),
            None => resize_token(cached, w, &ys[token / w_out], &xs[token % w_out], &mut sums, out),
        }
    }
    out
}
