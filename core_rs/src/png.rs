//! A band of a PNG's rows: filter, checksum, deflate.

use crate::deflate::deflate;
use wasm_bindgen::prelude::*;

/// Bytes of a pixel: red, green, blue.
const PIXEL: usize = 3;
const PAETH: u8 = 4;
const ADLER: u64 = 65_521;

/// Rows of `stride` bytes, the first one only the row above the band unless `first`. Gives the Adler-32 of the filtered
/// rows, four bytes from the lowest, and then the rows as a part of a deflate stream that ends on a byte, or as its `last`.
#[wasm_bindgen]
pub fn png_band(rows: &[u8], stride: usize, first: bool, last: bool) -> Vec<u8> {
    let filtered = filter(rows, stride, first);
    deflate(&filtered, last, adler32(&filtered).to_le_bytes().to_vec())
}

/// Each row after the number of its filter.
fn filter(rows: &[u8], stride: usize, first: bool) -> Vec<u8> {
    let black = vec![0; stride];
    let (mut above, rows) = if first { (&black[..], rows) } else { rows.split_at(stride) };
    let mut out = Vec::with_capacity(rows.len() + rows.len() / stride);
    for row in rows.chunks_exact(stride) {
        out.push(PAETH);
        let start = out.len();
        out.extend_from_slice(row);
        subtract_neighbours(row, above, &mut out[start..]);
        above = row;
    }
    out
}

/// Paeth's filter: of left, above and corner, the one nearest to left + above - corner. Without branches, so that the
/// compiler makes vectors of it.
fn subtract_neighbours(row: &[u8], above: &[u8], out: &mut [u8]) {
    let lefts = [&[0; PIXEL], row].concat();
    let corners = [&[0; PIXEL], above].concat();
    for (((out, left), above), corner) in out.iter_mut().zip(&lefts).zip(above).zip(&corners) {
        let (a, b, c) = (i16::from(*left), i16::from(*above), i16::from(*corner));
        let (to_left, to_above, to_corner) = ((b - c).abs(), (a - c).abs(), (a + b - 2 * c).abs());
        let other = if to_above <= to_corner { b } else { c };
        let nearest = if to_left <= to_above.min(to_corner) { a } else { other };
        *out = out.wrapping_sub(nearest as u8);
    }
}

/// RFC 1950, section 9, in sixteen lanes.
fn adler32(data: &[u8]) -> u32 {
    let (mut a, mut b) = (1, 0);
    for part in data.chunks(1 << 12) {
        // sums of sums of a lane stay below 2^32
        let groups = part.chunks_exact(16);
        let rest = groups.remainder();
        let (mut sums, mut sums_of_sums) = ([0u32; 16], [0u32; 16]);
        for group in groups {
            for i in 0..16 {
                sums[i] += u32::from(group[i]);
                sums_of_sums[i] += sums[i];
            }
        }
        b += a * (part.len() - rest.len()) as u64;
        for (i, (&sum, &twice)) in sums.iter().zip(&sums_of_sums).enumerate() {
            a += u64::from(sum);
            b += 16 * u64::from(twice) - i as u64 * u64::from(sum);
        }
        for &byte in rest {
            a += u64::from(byte);
            b += a;
        }
        a %= ADLER;
        b %= ADLER;
    }
    (b << 16 | a) as u32
}
