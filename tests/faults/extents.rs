//! Disks of many extents: where their data is, and its bytes.

use crate::rig::{MIB, Random, pattern};
use std::ops::Range;

pub const KIB: u64 = 1 << 10;

/// Lower bound on a hole that is not moved, in bytes.
pub const LONG_HOLE: u64 = 64 * KIB;

/// Returns the ranges of data on a disk of `size` bytes, in ascending order: of one `unit` to 15 MiB, with
/// holes of one to 15 units, of exactly [`LONG_HOLE`], and of up to 4 MiB between them. All are multiples of
/// `unit`.
pub fn extents(seed: u64, size: u64, unit: u64) -> Vec<Range<u64>> {
    let (mut random, mut extents) = (Random::new(seed), Vec::new());
    let most = 4 * MIB / unit;
    let mut at = LONG_HOLE;
    loop {
        let units = match random.below(4) {
            0 => 1 + random.below(most / 32),
            1 => 1 + random.below(most / 2),
            _ => 1 + random.below(most * 15 / 4),
        };
        let end = at + units * unit;
        if end > size {
            return extents;
        }
        extents.push(at..end);
        at = end
            + match random.below(4) {
                0 => (1 + random.below(15)) * unit,
                1 => LONG_HOLE,
                _ => LONG_HOLE + random.below(most) * unit,
            };
    }
}

/// Returns the bytes of `extent`, none of which is zero.
pub fn bytes_of(seed: u64, extent: &Range<u64>) -> Vec<u8> {
    pattern(seed + extent.start, (extent.end - extent.start) as usize)
}

/// Joins the extents between which there is a hole shorter than `hole` bytes.
pub fn stretches(extents: &[Range<u64>], hole: u64) -> Vec<Range<u64>> {
    let mut stretches: Vec<Range<u64>> = Vec::new();
    for extent in extents {
        match stretches.last_mut() {
            Some(last) if extent.start - last.end < hole => last.end = extent.end,
            _ => stretches.push(extent.clone()),
        }
    }
    stretches
}

pub fn total(ranges: &[Range<u64>]) -> u64 {
    ranges.iter().map(|range| range.end - range.start).sum()
}
