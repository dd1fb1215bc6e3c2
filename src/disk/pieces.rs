//! Cuts a write into runs of data and runs of zeros, so that a thin disk stays thin and long runs of
//! zeros cost one small request instead of their bytes.

use std::ops::Range;

/// Zeros are looked for in blocks of this many bytes, aligned on the disk: the cluster size of qcow2.
const BLOCK: usize = 64 << 10;

/// A shorter run of zeros is sent as data: one more request costs more than its bytes, and the
/// server's qemu-nbd detects zeros too.
const MIN_RUN: usize = 256 << 10;

/// Calls `each(range, zero)` for consecutive parts of `data`, which is to be written at `offset`.
/// Ranges index `data`.
pub(super) fn cut(offset: u64, data: &[u8], mut each: impl FnMut(Range<usize>, bool)) {
    let mut data_from = 0;
    let mut at = 0;
    while at < data.len() {
        let zeros = zero_run(offset, data, at);
        if zeros - at >= MIN_RUN {
            if data_from < at {
                each(data_from..at, false);
            }
            each(at..zeros, true);
            data_from = zeros;
        }
        at = zeros.max(block_end(offset, data.len(), at));
    }
    if data_from < data.len() {
        each(data_from..data.len(), false);
    }
}

/// End of the run of zero blocks that begins at `at`; `at` itself when there is none.
fn zero_run(offset: u64, data: &[u8], at: usize) -> usize {
    let mut end = at;
    while end < data.len() {
        let next = block_end(offset, data.len(), end);
        if !is_zero(&data[end..next]) {
            break;
        }
        end = next;
    }
    end
}

fn block_end(offset: u64, len: usize, at: usize) -> usize {
    let into = ((offset + at as u64) % BLOCK as u64) as usize;
    (at + BLOCK - into).min(len)
}

/// A slice that begins with a zero and equals itself shifted by one is all zeros (memcmp speed).
pub(super) fn is_zero(data: &[u8]) -> bool {
    data.first()
        .is_none_or(|&first| first == 0 && data[1..] == data[..data.len() - 1])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(offset: u64, data: &[u8]) -> Vec<(Range<usize>, bool)> {
        let mut parts = Vec::new();
        cut(offset, data, |range, zero| parts.push((range, zero)));
        parts
    }

    #[test]
    fn parts_are_consecutive_and_zero_parts_are_long_and_zero() {
        for offset in [0, 1, 4096, 65535, 100_001] {
            for (from, to) in [
                (0, 0),
                (0, 1 << 20),
                (100_000, 900_000),
                (300_000, 310_000),
                (500_000, 1 << 20),
            ] {
                let mut data = vec![9u8; 1 << 20];
                data[from..to].fill(0);
                let mut next = 0;
                for (range, zero) in parts(offset, &data) {
                    assert_eq!(range.start, next);
                    next = range.end;
                    if zero {
                        assert!(range.len() >= MIN_RUN && is_zero(&data[range]));
                    }
                }
                assert_eq!(next, data.len());
            }
        }
    }

    #[test]
    fn a_zero_buffer_is_one_zero_part_and_a_short_one_is_data() {
        assert_eq!(parts(0, &vec![0; 1 << 20]), [(0..1 << 20, true)]);
        assert_eq!(parts(0, &vec![0; 1 << 16]), [(0..1 << 16, false)]);
        assert_eq!(parts(0, &[]), []);
        let mut mixed = vec![0u8; 1 << 20];
        mixed[..3].fill(1);
        assert_eq!(parts(0, &mixed), [(0..1 << 16, false), (1 << 16..1 << 20, true)]);
    }
}
