//! The ranges of the disk that are known to read as zeros.
//!
//! The map is filled from the server's extents and then follows every accepted write (which removes) and zero
//! (which adds), in the order in which they were accepted. It answers SEEK_HOLE and SEEK_DATA, spares reads
//! of holes, and makes zeroing free where the disk is zero already. It may forget ranges but never invent
//! one: all others count as data.

use std::collections::BTreeMap;
use std::ops::{Range, RangeBounds};

/// Upper bound on the number of runs (about 12 MiB); on a more fragmented disk further holes count as data.
const MAX_RUNS: usize = 1 << 18;

/// Lower bound on a hole that SEEK_HOLE and SEEK_DATA tell, in bytes: a cluster of qcow2, so that copies of
/// sparse images stay as sparse. A program that skips a shorter one pays a call for each piece of data
/// between two, and that costs more than to read the zeros, which come from memory.
const MIN_HOLE_BYTES: u64 = 64 << 10;

/// Upper bound on the holes that [`ZeroMap::data_in`] passes, since it is asked for each read.
const MAX_HOLES_PASSED: usize = 256;

/// Unit in bytes to which [`ZeroMap::to_zero`] widens its pieces: the cluster size of qcow2. A cluster that
/// is zeroed as a whole is freed; one that is zeroed in part stays allocated and is read and written again.
const ZERO_UNIT_BYTES: u64 = 64 << 10;

/// Upper bound on the pieces of [`ZeroMap::to_zero`]. Each is a request, and with more of them it takes
/// longer to spare the holes between than to zero those, too.
const MAX_PIECES: usize = 1 << 12;

/// Disjoint, non-adjacent runs of zeros, each as start -> end.
#[derive(Debug, Default)]
pub(crate) struct ZeroMap {
    runs: BTreeMap<u64, u64>,
    bytes: u64,
}

impl ZeroMap {
    /// Returns a map of the one run `range`.
    pub(crate) fn of(range: Range<u64>) -> Self {
        let mut map = ZeroMap::default();
        map.insert(range);
        map
    }

    /// Notes that `range` reads as zeros now.
    pub(crate) fn insert(&mut self, range: Range<u64>) {
        let Range { mut start, mut end } = range;
        if start >= end {
            return;
        }
        while let Some((s, e)) = self.last_run(..=end).filter(|&(_, e)| e >= start) {
            start = start.min(s);
            end = end.max(e);
            self.forget(s);
        }
        self.keep(start, end);
    }

    /// Notes that `range` may hold data now.
    pub(crate) fn remove(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        while let Some((s, e)) = self.last_run(..range.end).filter(|&(_, e)| e > range.start) {
            self.forget(s);
            for (s, e) in [(s, range.start), (range.end, e)] {
                self.keep(s, e);
            }
        }
    }

    fn keep(&mut self, start: u64, end: u64) {
        if start < end && self.runs.len() < MAX_RUNS {
            self.bytes += end - start;
            self.runs.insert(start, end);
        }
    }

    fn forget(&mut self, start: u64) {
        self.bytes -= self.runs.remove(&start).map_or(0, |end| end - start);
    }

    /// Returns how many bytes are known to be zero.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// True when all of `range` is known to be zero.
    pub(crate) fn covers(&self, range: Range<u64>) -> bool {
        range.is_empty() || self.run_at(range.start).is_some_and(|end| end >= range.end)
    }

    /// Returns the first offset at or after `offset` that may hold data.
    pub(crate) fn next_data(&self, offset: u64) -> u64 {
        self.run_at(offset).unwrap_or(offset)
    }

    /// Returns the first offset at or after `offset` that is known to be zero.
    pub(crate) fn next_zero(&self, offset: u64) -> Option<u64> {
        match self.run_at(offset) {
            Some(_) => Some(offset),
            None => self.runs.range(offset..).next().map(|(&start, _)| start),
        }
    }

    /// Returns the first offset at or after `offset` that is not in a hole worth skipping.
    pub(crate) fn after_hole(&self, offset: u64) -> u64 {
        match self.last_run(..=offset) {
            Some((start, end)) if end > offset && end - start >= MIN_HOLE_BYTES => end,
            _ => offset,
        }
    }

    /// Returns the first offset at or after `offset` in a hole worth skipping.
    pub(crate) fn next_hole(&self, offset: u64) -> Option<u64> {
        if self.after_hole(offset) > offset {
            return Some(offset);
        }
        let mut runs = self.runs.range(offset..);
        runs.find(|&(start, end)| end - start >= MIN_HOLE_BYTES)
            .map(|(&start, _)| start)
    }

    /// Returns the first range at or after `offset`, and before `end`, that may hold data. It reaches to the
    /// next hole worth skipping, and has at most `most` bytes.
    pub(crate) fn next_stretch(&self, offset: u64, most: u64, end: u64) -> Option<Range<u64>> {
        let start = self.next_data(offset);
        let until = start.saturating_add(most).min(end);
        if start >= until {
            return None;
        }
        let holes = self.runs.range(start..until);
        let mut worth = holes.filter(|&(&hole, &after)| after - hole >= MIN_HOLE_BYTES);
        Some(start..worth.next().map_or(until, |(&hole, _)| hole))
    }

    /// Counts the bytes of `range` outside of holes worth skipping; `None` when there are more than `most`,
    /// or too many holes.
    pub(crate) fn data_in(&self, range: Range<u64>, most: u64) -> Option<u64> {
        let first = self
            .last_run(..=range.start)
            .filter(|&(_, end)| end > range.start);
        let from = first.map_or(range.start, |(start, _)| start);
        let mut bytes = range.end - range.start;
        for (n, (&start, &end)) in self.runs.range(from..range.end).enumerate() {
            if n == MAX_HOLES_PASSED {
                return None;
            }
            if end - start >= MIN_HOLE_BYTES {
                bytes -= end.min(range.end) - start.max(range.start);
            }
        }
        (bytes <= most).then_some(bytes)
    }

    /// Returns the pieces of `range`, in ascending order, that have to be zeroed so that all of it is zero:
    /// what may be data, widened to whole units. Where there would be too many pieces, the shortest holes
    /// between them count as data.
    pub(crate) fn to_zero(&self, range: Range<u64>) -> Vec<Range<u64>> {
        let mut pieces: Vec<Range<u64>> = Vec::new();
        let mut at = range.start;
        while at < range.end {
            let start = self.next_data(at);
            if start >= range.end {
                break;
            }
            at = self
                .next_zero(start)
                .map_or(range.end, |zero| zero.min(range.end));
            let from = (start / ZERO_UNIT_BYTES * ZERO_UNIT_BYTES).max(range.start);
            let to = at.next_multiple_of(ZERO_UNIT_BYTES).min(range.end);
            join_or_push(&mut pieces, from..to, 0);
        }
        let mut hole = ZERO_UNIT_BYTES;
        while pieces.len() > MAX_PIECES {
            let mut fewer = Vec::with_capacity(pieces.len());
            for piece in pieces {
                join_or_push(&mut fewer, piece, hole);
            }
            (pieces, hole) = (fewer, 2 * hole);
        }
        pieces
    }

    /// Returns the end of the run that holds `offset`.
    fn run_at(&self, offset: u64) -> Option<u64> {
        let (_, end) = self.last_run(..=offset)?;
        (end > offset).then_some(end)
    }

    /// Returns start and end of the last run that begins within `starts`.
    fn last_run(&self, starts: impl RangeBounds<u64>) -> Option<(u64, u64)> {
        let last = self.runs.range(starts).next_back();
        last.map(|(&start, &end)| (start, end))
    }
}

/// Appends `piece` to `pieces`, or widens the last one when at most `hole` bytes are between the two.
fn join_or_push(pieces: &mut Vec<Range<u64>>, piece: Range<u64>, hole: u64) {
    match pieces.last_mut() {
        Some(last) if piece.start <= last.end + hole => last.end = last.end.max(piece.end),
        _ => pieces.push(piece),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn zeroing_its_pieces_makes_all_of_a_range_zero_and_little_else_is_touched(
            zeros in prop::collection::vec((0u64..4000, 0u64..900), 0..12),
            a in 0u64..4000,
            b in 0u64..4000,
        ) {
            // A unit has 64 of these.
            let scale = ZERO_UNIT_BYTES / 64;
            let mut map = ZeroMap::default();
            for (start, len) in zeros {
                map.insert(start * scale..(start + len) * scale);
            }
            let range = a.min(b) * scale..a.max(b) * scale;
            let pieces = map.to_zero(range.clone());
            for piece in &pieces {
                prop_assert!(range.start <= piece.start && piece.end <= range.end && !piece.is_empty());
                let unit = piece.start / ZERO_UNIT_BYTES * ZERO_UNIT_BYTES;
                let first = unit.max(range.start)..(unit + ZERO_UNIT_BYTES).min(range.end);
                prop_assert!(!map.covers(first), "a piece begins with data, or with its unit");
                map.insert(piece.clone());
            }
            prop_assert!(map.covers(range));
            prop_assert!(pieces.windows(2).all(|two| two[0].end < two[1].start));
        }
    }

    #[test]
    fn a_short_hole_counts_as_data_wherever_one_looks_from() {
        let mut map = ZeroMap::default();
        map.insert(4096..8192);
        map.insert(1 << 20..(1 << 20) + MIN_HOLE_BYTES);
        map.insert(2 << 20..(2 << 20) + MIN_HOLE_BYTES - 1);
        assert_eq!((map.after_hole(5000), map.next_hole(0)), (5000, Some(1 << 20)));
        let long = (1 << 20) + 5000;
        assert_eq!(map.after_hole(long), (1 << 20) + MIN_HOLE_BYTES);
        assert_eq!(map.next_hole(long), Some(long), "the rest of a long hole is one");
        assert_eq!((map.after_hole(2 << 20), map.next_hole(2 << 20)), (2 << 20, None));
    }

    #[test]
    fn a_stretch_of_data_reaches_over_short_holes_to_the_next_long_one() {
        let mut map = ZeroMap::default();
        map.insert(4096..8192);
        map.insert(1 << 20..2 << 20);
        let stretch = |offset, most| map.next_stretch(offset, most, 3 << 20);
        assert_eq!(stretch(0, u64::MAX), Some(0..1 << 20));
        assert_eq!(stretch(5000, 1000), Some(8192..9192));
        assert_eq!(stretch(1 << 20, u64::MAX), Some(2 << 20..3 << 20));
        assert_eq!(stretch(3 << 20, u64::MAX), None);
        assert_eq!(ZeroMap::default().next_stretch(5, 10, 12), Some(5..12));
        let data = |range, most| map.data_in(range, most);
        assert_eq!(data(0..3 << 20, u64::MAX), Some(2 << 20));
        assert_eq!(data(5000..(1 << 20) + 9, u64::MAX), Some((1 << 20) - 5000));
        assert_eq!(data((1 << 20) + 9..(2 << 20) + 9, 9), Some(9));
        assert_eq!(data((1 << 20) + 9..(2 << 20) + 9, 8), None);
    }

    #[test]
    fn the_pieces_to_zero_are_bounded_and_the_long_holes_are_spared() {
        let mut map = ZeroMap::default();
        let end = 100_000 * 2 * ZERO_UNIT_BYTES;
        for n in 0..100_000 {
            map.insert((2 * n + 1) * ZERO_UNIT_BYTES..(2 * n + 2) * ZERO_UNIT_BYTES);
        }
        map.insert(end..1 << 50);
        let pieces = map.to_zero(0..1 << 50);
        assert_eq!((pieces.len(), pieces[0].clone()), (1, 0..end - ZERO_UNIT_BYTES));
        assert_eq!(map.to_zero(0..1000 * ZERO_UNIT_BYTES).len(), 500);
    }

    proptest! {
        #[test]
        fn the_map_says_what_a_byte_array_says(
            ops in prop::collection::vec((any::<bool>(), 0u64..64, 0u64..64), 0..60)
        ) {
            let mut map = ZeroMap::default();
            let mut model = [false; 64];
            for (zero, a, b) in ops {
                let range = a.min(b)..a.max(b);
                model[range.start as usize..range.end as usize].fill(zero);
                match zero {
                    true => map.insert(range),
                    false => map.remove(range),
                }
                prop_assert_eq!(map.bytes(), model.iter().filter(|zero| **zero).count() as u64);
                for at in 0..64u64 {
                    let rest = &model[at as usize..];
                    let data = rest.iter().position(|z| !z).map_or(64, |n| at + n as u64);
                    prop_assert_eq!(map.next_data(at), data);
                    let zero = rest.iter().position(|z| *z).map(|n| at + n as u64);
                    prop_assert_eq!(map.next_zero(at), zero);
                    prop_assert!(map.covers(at..data));
                    prop_assert_eq!(map.data_in(at..64, 64), Some(64 - at), "all holes are short");
                }
            }
        }
    }
}
