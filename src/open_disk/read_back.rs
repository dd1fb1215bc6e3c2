//! The bytes of a disk as its server has them now: past the read cache and the map of zeros, with extents
//! that are asked for anew.
//!
//! The disk is flushed, and nobody writes to it; so nothing in memory is newer.

use std::ops::Range;
use std::sync::Arc;

use tracing::warn;

use super::OpenDisk;
use crate::block_hash::{Bytes, Run};
use crate::failure::Failure;
use crate::pool::Pool;

/// A shorter run of zeros is read like data, so that a fragmented disk costs no memory: 16 bytes for each of
/// these bytes at most.
const MIN_HOLE_BYTES: u64 = 1 << 20;

/// See the head of this file.
pub(super) struct ReadBack {
    pool: Arc<Pool>,
    size: u64,
    /// Runs of zeros, in ascending order; none touches the next.
    holes: Vec<Range<u64>>,
}

impl ReadBack {
    /// Asks for the extents, which may take minutes. A server that does not tell them is read as a whole.
    pub(super) fn of(disk: &OpenDisk) -> ReadBack {
        let (pool, size) = (disk.pool.clone(), disk.disk.capacity());
        let mut holes = Holes::default();
        let asked = pool.extents(false, &mut |extent| {
            if extent.start == 0 {
                holes = Holes::default();
            }
            let range = extent.start.min(size)..(extent.start + extent.length).min(size);
            match extent.zero {
                true => holes.add(range),
                false => holes.cut(&range),
            }
        });
        let holes = match asked {
            Ok(()) => holes.end(),
            Err(e) => {
                warn!("holes are not known, the whole disk is read back: {e}");
                Vec::new()
            }
        };
        ReadBack { pool, size, holes }
    }
}

impl Bytes for ReadBack {
    fn size(&self) -> u64 {
        self.size
    }

    fn run_at(&self, offset: u64) -> Result<Run, Failure> {
        let next = self.holes.partition_point(|hole| hole.end <= offset);
        let (end, zero) = match self.holes.get(next) {
            Some(hole) if hole.start <= offset => (hole.end, true),
            Some(hole) => (hole.start, false),
            None => (self.size, false),
        };
        let length = end - offset;
        Ok(Run { length, zero })
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<(), Failure> {
        Ok(self.pool.read(offset, &mut [buf])?)
    }

    fn parallel(&self) -> Option<usize> {
        Some(self.pool.connections())
    }
}

/// Joins runs of zeros, and leaves the short ones out.
#[derive(Debug, Default)]
struct Holes {
    last: Range<u64>,
    holes: Vec<Range<u64>>,
}

impl Holes {
    fn add(&mut self, range: Range<u64>) {
        if range.start == self.last.end {
            self.last.end = range.end;
        } else {
            self.keep();
            self.last = range;
        }
    }

    /// Takes out what holds data, and all behind it: a server that tells data over zeros that it told before
    /// is believed in neither.
    fn cut(&mut self, data: &Range<u64>) {
        if data.start >= self.last.end {
            return;
        }
        self.keep();
        self.last = 0..0;
        self.holes.retain_mut(|hole| {
            hole.end = hole.end.min(data.start);
            hole.end.saturating_sub(hole.start) >= MIN_HOLE_BYTES
        });
    }

    fn keep(&mut self) {
        if self.last.end - self.last.start >= MIN_HOLE_BYTES {
            self.holes.push(self.last.clone());
        }
    }

    fn end(mut self) -> Vec<Range<u64>> {
        self.keep();
        self.holes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holes_are_joined_and_short_ones_left_out() {
        let mib = 1 << 20;
        let mut holes = Holes::default();
        for range in [0..5, 10..mib, mib..mib + 10, 3 * mib..3 * mib + 5] {
            holes.add(range);
        }
        let joined = 10..mib + 10;
        assert_eq!(holes.end(), [joined]);
    }

    #[test]
    fn data_that_is_told_over_zeros_is_data() {
        let mib = 1 << 20;
        let mut holes = Holes::default();
        [0..4 * mib, 6 * mib..9 * mib]
            .into_iter()
            .for_each(|range| holes.add(range));
        holes.cut(&(9 * mib..10 * mib));
        holes.cut(&(2 * mib..2 * mib + 1));
        holes.add(12 * mib..20 * mib);
        let (first, last) = (0..2 * mib, 12 * mib..20 * mib);
        assert_eq!(holes.end(), [first, last]);
    }
}
