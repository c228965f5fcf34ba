//! Row sampling without replacement, proportional to squared norms (stagevar.md §3.2).

use crate::random::{Stream, open_unit};
use std::cmp::Ordering;
use wasm_bindgen::prelude::*;

/// Sum of squares in eight independent f64 lanes, which the compiler turns into vectors; f32 squares cannot overflow it.
fn squared_norm(row: &[f32]) -> f64 {
    let mut lanes = [0.0; 8];
    let chunks = row.chunks_exact(8);
    let rest: f64 = chunks.remainder().iter().map(|&v| f64::from(v) * f64::from(v)).sum();
    for chunk in chunks {
        for (lane, &v) in lanes.iter_mut().zip(chunk) {
            *lane += f64::from(v) * f64::from(v);
        }
    }
    lanes.iter().sum::<f64>() + rest
}

/// A standard Gumbel number of a word.
fn gumbel(word: u32) -> f64 {
    -(-open_unit(word).ln()).ln()
}

/// Standard Gumbel numbers [count]: the noise of `sample_rows`, for a device that samples rows in its own memory.
#[wasm_bindgen]
pub fn gumbels(stream: &[u32], count: usize, offset: f64) -> Vec<f32> {
    let mut out = vec![0.0; count];
    Stream::new(stream).words(offset as u64, count, |i, word| out[i] = gumbel(word) as f32);
    out
}

/// Indices [r] of the rows with the largest log||x_i||^2 + Gumbel noise, largest first: the order of r sequential draws.
///
/// Zero rows come after all others, in the order of their noise. `None` when a value is not finite.
#[wasm_bindgen]
pub fn sample_rows(stream: &[u32], x: &[f32], width: usize, rank: usize) -> Option<Vec<u32>> {
    let rows = x.len() / width;
    let mut noise = vec![0.0; rows];
    Stream::new(stream).words(0, rows, |i, word| noise[i] = gumbel(word));
    let mut keys = Vec::with_capacity(rows);
    for (row, gumbel) in x.chunks_exact(width).zip(noise) {
        let norm = squared_norm(row);
        if !norm.is_finite() {
            return None;
        }
        let key = if norm > 0.0 { norm.ln() + gumbel } else { gumbel };
        keys.push((norm > 0.0, key, keys.len() as u32));
    }
    let descending = |a: &(bool, f64, u32), b: &(bool, f64, u32)| -> Ordering {
        b.0.cmp(&a.0).then(b.1.total_cmp(&a.1)).then(a.2.cmp(&b.2))
    };
    if rank < keys.len() {
        keys.select_nth_unstable_by(rank, descending);
        keys.truncate(rank);
    }
    keys.sort_unstable_by(descending);
    Some(keys.into_iter().map(|key| key.2).collect())
}
