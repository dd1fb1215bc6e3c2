//! Cuts a write into runs of data and runs of zeros, so that a thin disk stays thin and a long run of zeros
//! costs one small request instead of its bytes.

use std::ops::Range;

/// Unit of detection in bytes, aligned on the disk: the cluster size of qcow2.
pub(crate) const BLOCK_BYTES: usize = 64 << 10;

/// Lower bound on a run of zeros that becomes a request, in bytes. A shorter one is sent as data: one more
/// request costs more than its bytes, and the server's qemu-nbd detects zeros, too.
const MIN_ZEROS_BYTES: usize = 256 << 10;

/// The content of a part of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Content {
    /// Bytes of which not all are zero.
    Data,
    /// Zeros, too few for a request of their own.
    FewZeros,
    /// A long run of zeros.
    Zeros,
}

/// Calls `each(range, content)` for consecutive parts of `data`, a write at `offset`. Ranges index `data`.
/// Only the first and the last part may be [`Content::FewZeros`]: their neighbours are in other writes.
pub(crate) fn cut(offset: u64, data: &[u8], mut each: impl FnMut(Range<usize>, Content)) {
    let mut data_from = 0;
    let mut at = 0;
    while at < data.len() {
        let zeros = zero_run(offset, data, at);
        let content = match zeros - at {
            0 => Content::Data,
            run if run >= MIN_ZEROS_BYTES => Content::Zeros,
            _ if at == 0 || zeros == data.len() => Content::FewZeros,
            _ => Content::Data,
        };
        if content != Content::Data {
            if data_from < at {
                each(data_from..at, Content::Data);
            }
            each(at..zeros, content);
            data_from = zeros;
        }
        at = zeros.max(block_end(offset, data.len(), at));
    }
    if data_from < data.len() {
        each(data_from..data.len(), Content::Data);
    }
}

/// Returns the end of the run of zero blocks that begins at `at`; `at` itself when there is none.
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
    let into = ((offset + at as u64) % BLOCK_BYTES as u64) as usize;
    (at + BLOCK_BYTES - into).min(len)
}

/// True when all bytes are zero: the first is, and each equals the one before it (at the speed of memcmp).
pub(crate) fn is_zero(data: &[u8]) -> bool {
    data.first()
        .is_none_or(|&first| first == 0 && data[1..] == data[..data.len() - 1])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(offset: u64, data: &[u8]) -> Vec<(Range<usize>, Content)> {
        let mut parts = Vec::new();
        cut(offset, data, |range, content| parts.push((range, content)));
        parts
    }

    #[test]
    fn parts_are_consecutive_and_zero_parts_are_zero() {
        for offset in [0, 1, 4096, 65535, 100_001] {
            for (from, to) in [
                (0, 0),
                (0, 1 << 20),
                (0, 200_000),
                (100_000, 900_000),
                (300_000, 310_000),
                (500_000, 1 << 20),
                (900_000, 1 << 20),
            ] {
                let mut data = vec![9u8; 1 << 20];
                data[from..to].fill(0);
                let mut next = 0;
                for (range, content) in parts(offset, &data) {
                    assert_eq!(range.start, next);
                    next = range.end;
                    match content {
                        Content::Data => assert!(!is_zero(&data[range])),
                        Content::FewZeros => {
                            assert!(range.len() < MIN_ZEROS_BYTES && is_zero(&data[range.clone()]));
                            assert!(range.start == 0 || range.end == data.len());
                        }
                        Content::Zeros => assert!(range.len() >= MIN_ZEROS_BYTES && is_zero(&data[range])),
                    }
                }
                assert_eq!(next, data.len());
            }
        }
    }

    #[test]
    fn a_long_run_of_zeros_is_told_from_a_short_one() {
        use Content::{Data, FewZeros, Zeros};
        assert_eq!(parts(0, &vec![0; 1 << 20]), [(0..1 << 20, Zeros)]);
        assert_eq!(parts(0, &vec![0; 1 << 16]), [(0..1 << 16, FewZeros)]);
        assert_eq!(parts(0, &[]), []);
        let mut mixed = vec![0u8; 1 << 20];
        mixed[..3].fill(1);
        assert_eq!(parts(0, &mixed), [(0..1 << 16, Data), (1 << 16..1 << 20, Zeros)]);
        mixed[..1 << 19].fill(1);
        mixed[(1 << 20) - (1 << 16) - 1] = 1;
        let tail = (1 << 20) - (1 << 16);
        assert_eq!(
            parts(0, &mixed),
            [
                (0..1 << 19, Data),
                (1 << 19..tail - (1 << 16), Zeros),
                (tail - (1 << 16)..tail, Data),
                (tail..1 << 20, FewZeros)
            ]
        );
    }
}
