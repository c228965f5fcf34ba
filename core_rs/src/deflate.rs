//! Deflate (RFC 1951) by Huffman codes and runs of one byte, without a search for strings: filtered pixels hold few, and
//! looking for them takes most of zlib's time. Knows bytes only.

use std::ops::Range;

/// Bytes that share their codes, which take about 70 bytes to write down.
const BLOCK: usize = 1 << 16;
/// Shorter runs cost about as much as single bytes.
const LEAST_RUN: usize = 8;
const MOST_RUN: usize = 258;
/// Symbols: 256 bytes, the end of a block, 29 lengths of runs.
const SYMBOLS: usize = 286;
const END: usize = 256;
/// 15 are allowed; four codes of 14 fit between two writes of a 64-bit word.
const MOST_BITS: u16 = 14;
/// Order in which the lengths of the code for lengths are written.
const ORDER: [usize; 19] = [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15];

/// Appends data, which is not empty, to `out`: a part of a stream that ends on a byte, or its end.
pub fn deflate(data: &[u8], last: bool, out: Vec<u8>) -> Vec<u8> {
    let mut bits = BitWriter { at: out.len(), out, held: 0, count: 0 };
    let mut blocks = data.chunks(BLOCK).peekable();
    while let Some(block) = blocks.next() {
        write_block(block, last && blocks.peek().is_none(), &mut bits);
    }
    if !last {
        bits.put(0, 3); // a stored block without bytes begins on one
    }
    bits.align();
    if !last {
        bits.put(0xffff_0000, 32); // its length 0, and the complement
    }
    bits.out.truncate(bits.at);
    bits.out
}

/// Bits of a code, the first one lowest, and their count.
#[derive(Clone, Copy, Default)]
struct Code {
    bits: u16,
    count: u16,
}

/// Writes numbers of bits, lowest first.
struct BitWriter {
    out: Vec<u8>,
    at: usize,
    held: u64,
    count: u32,
}

impl BitWriter {
    /// Room for a block of so many bytes, the codes before it (287 lengths of at most 14 bits) and what may follow.
    fn make_room(&mut self, bytes: usize) {
        self.out.resize(self.at + bytes + 1024, 0);
    }

    /// Holds bits until `flush`, after which 57 have room.
    #[inline(always)]
    fn hold(&mut self, Code { bits, count }: Code) {
        self.held |= u64::from(bits) << self.count;
        self.count += u32::from(count);
    }

    #[inline(always)]
    fn flush(&mut self) {
        self.out[self.at..self.at + 8].copy_from_slice(&self.held.to_le_bytes());
        self.at += (self.count / 8) as usize;
        self.held >>= self.count & !7;
        self.count &= 7;
    }

    fn put(&mut self, bits: u32, count: u32) {
        self.held |= u64::from(bits) << self.count;
        self.count += count;
        self.flush();
    }

    fn align(&mut self) {
        self.count = self.count.next_multiple_of(8);
        self.flush();
    }
}

fn write_block(data: &[u8], last: bool, bits: &mut BitWriter) {
    let runs = runs(data);
    let mut counts = count_bytes(data, &runs);
    counts[END] = 1;
    for run in &runs {
        counts[run_symbol(run.len()).0] += 1;
    }
    let lengths = code_lengths(&counts, MOST_BITS);
    let codes = codes(&lengths);
    let bytes: &[Code; 256] = codes[..256].try_into().expect("256 codes");
    bits.make_room(data.len() * usize::from(MOST_BITS) / 8);
    bits.put(u32::from(last), 1);
    bits.put(2, 2); // codes of its own
    write_codes(&lengths, bits);
    for (literals, run) in parts(data, &runs) {
        let fours = literals.chunks_exact(4);
        let rest = fours.remainder();
        for four in fours {
            for &byte in four {
                bits.hold(bytes[usize::from(byte)]);
            }
            bits.flush();
        }
        for &byte in rest {
            bits.hold(bytes[usize::from(byte)]);
        }
        bits.flush();
        if run > 0 {
            let (symbol, rest) = run_symbol(run);
            bits.hold(codes[symbol]);
            bits.hold(rest);
            bits.hold(Code { bits: 0, count: 1 }); // at distance 1
            bits.flush();
        }
    }
    bits.hold(codes[END]);
    bits.flush();
}

/// Parts of the data that repeat the byte before them: all of 15 or more bytes, and shorter ones that cover eight bytes
/// at a multiple of eight.
fn runs(data: &[u8]) -> Vec<Range<usize>> {
    let mut runs: Vec<Range<usize>> = vec![];
    let mut at = 0;
    while let Some(word) = data.get(at..at + 8) {
        let word = u64::from_le_bytes(word.try_into().expect("eight bytes"));
        if word != word.rotate_left(8) {
            at += 8;
            continue;
        }
        let done = runs.last().map_or(0, |run| run.end);
        let same = |byte: &&u8| **byte == data[at];
        let mut start = at + 1 - data[done..at].iter().rev().take_while(same).count();
        let end = at + data[at..].iter().take_while(same).count();
        while end - start >= LEAST_RUN {
            let length = MOST_RUN.min(end - start);
            runs.push(start..start + length);
            start += length;
        }
        at = end.next_multiple_of(8);
    }
    runs
}

/// What is between runs, each with the length of the run after it, 0 at the end.
fn parts<'a>(data: &'a [u8], runs: &'a [Range<usize>]) -> impl Iterator<Item = (&'a [u8], usize)> {
    let starts = std::iter::once(0).chain(runs.iter().map(|run| run.end));
    let ends = runs.iter().cloned().chain(std::iter::once(data.len()..data.len()));
    starts.zip(ends).map(move |(start, run)| (&data[start..run.start], run.len()))
}

/// How often each byte is outside runs. In four tables: a byte that repeats would wait for its own count.
fn count_bytes(data: &[u8], runs: &[Range<usize>]) -> [u32; SYMBOLS] {
    let mut tables = [[0u32; 256]; 4];
    for (literals, _) in parts(data, runs) {
        let fours = literals.chunks_exact(4);
        for &byte in fours.remainder() {
            tables[0][usize::from(byte)] += 1;
        }
        for four in fours {
            for (table, &byte) in tables.iter_mut().zip(four) {
                table[usize::from(byte)] += 1;
            }
        }
    }
    let mut counts = [0; SYMBOLS];
    for (byte, count) in counts[..256].iter_mut().enumerate() {
        *count = tables.iter().map(|table| table[byte]).sum();
    }
    counts
}

/// Symbol and extra bits of a run's length.
fn run_symbol(length: usize) -> (usize, Code) {
    if length == MOST_RUN {
        return (285, Code::default());
    }
    let over = length - 3;
    let extra = over.max(4).ilog2() as usize - 2; // four symbols for each number of extra bits, eight for none
    (257 + 4 * extra + (over >> extra), Code { bits: (over & ((1 << extra) - 1)) as u16, count: extra as u16 })
}

/// Writes the codes of a block down by their lengths, run lengths of which have a code themselves.
fn write_codes(lengths: &[u16], bits: &mut BitWriter) {
    let used = lengths.iter().rposition(|&length| length > 0).expect("the end has a code") + 1;
    let all = [&lengths[..used], &[1]].concat(); // one code for distances, of one bit
    let mut words: Vec<(usize, u32, u32)> = vec![]; // symbol, extra bits and their count
    for same in all.chunk_by(|a, b| a == b) {
        let length = usize::from(same[0]);
        let mut left = same.len();
        if length > 0 {
            words.push((length, 0, 0)); // 16 repeats the one before
            left -= 1;
        }
        while left >= 3 {
            let (symbol, least, most, count) = match (length, left) {
                (0, ..11) => (17, 3, 10, 3),
                (0, _) => (18, 11, 138, 7),
                _ => (16, 3, 6, 2),
            };
            let taken = left.min(most);
            words.push((symbol, (taken - least) as u32, count));
            left -= taken;
        }
        words.extend(std::iter::repeat_n((length, 0, 0), left));
    }
    let mut counts = [0; ORDER.len()];
    for &(symbol, ..) in &words {
        counts[symbol] += 1;
    }
    let lengths = code_lengths(&counts, 7);
    let codes = codes(&lengths);
    let written = ORDER.iter().rposition(|&symbol| lengths[symbol] > 0).expect("words are symbols") + 1;
    bits.put(used as u32 - 257, 5);
    bits.put(0, 5); // one code for distances
    bits.put(written as u32 - 4, 4);
    for symbol in &ORDER[..written] {
        bits.put(u32::from(lengths[*symbol]), 3);
    }
    for (symbol, extra, count) in words {
        bits.hold(codes[symbol]);
        bits.put(extra, count);
    }
}

/// Lengths of a Huffman code for at least two symbols that occur, 0 for others. A code with longer ones than allowed is
/// made again from counts that differ less.
fn code_lengths(counts: &[u32], most: u16) -> Vec<u16> {
    let mut counts = counts.to_vec();
    loop {
        let lengths = huffman(&counts);
        if lengths.iter().all(|&length| length <= most) {
            return lengths;
        }
        for count in counts.iter_mut().filter(|count| **count > 0) {
            *count = (*count / 2) | 1;
        }
    }
}

fn huffman(counts: &[u32]) -> Vec<u16> {
    let mut symbols: Vec<usize> = (0..counts.len()).filter(|&symbol| counts[symbol] > 0).collect();
    symbols.sort_by_key(|&symbol| counts[symbol]); // stable: everywhere the same code
    // Nodes: the leaves, then the inner ones, both by weight; the two lightest that have no parent get one.
    let leaves = symbols.len();
    let mut weights: Vec<u32> = symbols.iter().map(|&symbol| counts[symbol]).collect();
    let mut parents = vec![0; 2 * leaves - 1];
    let (mut leaf, mut inner) = (0, leaves);
    for node in leaves..parents.len() {
        let mut weight = 0;
        for _ in 0..2 {
            let lightest = if leaf < leaves && (inner == node || weights[leaf] <= weights[inner]) {
                &mut leaf
            } else {
                &mut inner
            };
            weight += weights[*lightest];
            parents[*lightest] = node;
            *lightest += 1;
        }
        weights.push(weight);
    }
    let mut depths = vec![0; parents.len()];
    let mut lengths = vec![0; counts.len()];
    for node in (0..parents.len() - 1).rev() {
        depths[node] = depths[parents[node]] + 1;
        if let Some(&symbol) = symbols.get(node) {
            lengths[symbol] = depths[node];
        }
    }
    lengths
}

/// Codes of their lengths (section 3.2.2).
fn codes(lengths: &[u16]) -> Vec<Code> {
    let mut codes = vec![Code::default(); lengths.len()];
    let mut next = 0u16;
    for count in 1..=MOST_BITS {
        for (code, _) in codes.iter_mut().zip(lengths).filter(|(_, length)| **length == count) {
            *code = Code { bits: next.reverse_bits() >> (16 - count), count };
            next += 1;
        }
        next <<= 1;
    }
    codes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_lengths_stay_within_their_limit() {
        let mut counts = vec![1u32, 1, 0, 2];
        while counts.len() < 24 {
            counts.push(counts[counts.len() - 1] + counts[counts.len() - 2].max(1));
        }
        assert!(huffman(&counts).into_iter().max() > Some(MOST_BITS), "these counts ask for longer ones");
        for (symbols, most) in [(24, MOST_BITS), (19, 7)] {
            let lengths = code_lengths(&counts[..symbols], most);
            assert!(lengths.iter().all(|&length| length <= most));
            // every code of the most bits begins with one of these, and with one only
            let covered: u32 = lengths.iter().filter(|&&length| length > 0).map(|&length| 1 << (most - length)).sum();
            assert_eq!(covered, 1 << most);
        }
    }

    #[test]
    fn runs_repeat_the_byte_before_them_and_leave_no_long_one_out() {
        let data: Vec<u8> =
            (0..600u32).flat_map(|n| std::iter::repeat_n((n % 5) as u8, (n * n % 997) as usize)).collect();
        let mut last = 0;
        for run in runs(&data) {
            assert!((LEAST_RUN..=MOST_RUN).contains(&run.len()) && run.start >= last.max(1));
            assert!(data[run.start - 1..run.end].iter().all(|&byte| byte == data[run.start]));
            let left = data[last..run.start].chunk_by(|a, b| a == b).map(<[u8]>::len).max();
            assert!(left.is_none_or(|most| most <= 16));
            last = run.end;
        }
    }
}
