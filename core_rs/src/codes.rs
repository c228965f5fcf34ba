//! Logits over a vocabulary -> ids of a codebook: top-k, top-p and one draw for each row (star.md §8.4).

use crate::random::{Stream, open_unit};
use wasm_bindgen::prelude::*;

/// An id that may still be drawn: its weight, exp(logit - largest logit of the row), and itself.
type Candidate = (f64, u32);

/// Ascending by weight; of equal ones the lower id first, which is torch's order when it sorts stably.
fn ascending(a: &Candidate, b: &Candidate) -> std::cmp::Ordering {
    a.0.total_cmp(&b.0).then(a.1.cmp(&b.1))
}

/// Candidates of a row in the order of their ids: the logits not below the k-th largest, or all where k is 0 or at least
/// their count, without those of minus infinity. `scratch` is as long as the row.
fn largest(row: &[f32], top_k: usize, scratch: &mut [f32]) -> Option<Vec<Candidate>> {
    let most = row.iter().fold(f32::NEG_INFINITY, |most, &logit| most.max(logit));
    if !most.is_finite() || row.iter().any(|logit| logit.is_nan()) {
        return None;
    }
    let mut least = f32::MIN;
    if (1..row.len()).contains(&top_k) {
        scratch.copy_from_slice(row);
        least = least.max(*scratch.select_nth_unstable_by(row.len() - top_k, f32::total_cmp).1);
    }
    let kept = row.iter().zip(0..).filter(|(logit, _)| **logit >= least);
    Some(kept.map(|(&logit, id)| ((f64::from(logit) - f64::from(most)).exp(), id)).collect())
}

/// The first candidate, in ascending order, that top-p keeps: the sum of the weights up to it, itself included, exceeds
/// 1 - p of the total. The last one if none does.
///
/// Halving by selection instead of sorting: linear in the candidates.
fn first_kept(mut rest: &mut [Candidate], top_p: f64) -> Candidate {
    let mut removable = (1.0 - top_p) * rest.iter().map(|candidate| candidate.0).sum::<f64>();
    while rest.len() > 1 {
        let middle = rest.len() / 2;
        rest.select_nth_unstable_by(middle, ascending);
        let (low, high) = rest.split_at_mut(middle);
        let sum: f64 = low.iter().map(|candidate| candidate.0).sum();
        if sum <= removable {
            removable -= sum;
            rest = high;
        } else {
            rest = low;
        }
    }
    rest[0]
}

/// The id where the cumulative weight, in the order of ids, first exceeds the share `u`, in (0, 1), of the total.
///
/// In the order of ids rather than of weights, logits that differ in their last bits give another id only where `u` is as
/// close to a boundary: two neighbours that change places would move all ids between them.
fn draw(candidates: &[Candidate], u: f64) -> u32 {
    let target = u * candidates.iter().map(|candidate| candidate.0).sum::<f64>();
    let mut sum = 0.0;
    let found = candidates.iter().find(|candidate| {
        sum += candidate.0;
        sum > target
    });
    found.expect("the last sum is the total").1
}

/// Ids [L] of logits [L, vocabulary], row i by position i of the stream: from the softmax of what `top_k`, then `top_p`,
/// leave; 0 switches either off. `None` when a logit is NaN or infinite, or a row has only minus infinities.
#[wasm_bindgen]
pub fn sample_codes(stream: &[u32], logits: &[f32], vocabulary: usize, top_k: usize, top_p: f64) -> Option<Vec<u32>> {
    let mut draws = vec![0.0; logits.len() / vocabulary];
    Stream::new(stream).words(0, draws.len(), |i, word| draws[i] = open_unit(word));
    let mut scratch = vec![0.0; vocabulary];
    let rows = logits.chunks_exact(vocabulary).zip(draws);
    rows.map(|(row, u)| {
        let mut candidates = largest(row, top_k, &mut scratch)?;
        if top_p > 0.0 && top_p < 1.0 {
            let first = first_kept(&mut candidates.clone(), top_p);
            candidates.retain(|candidate| ascending(candidate, &first).is_ge());
        }
        Some(draw(&candidates, u))
    })
    .collect()
}
