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

/// Upper bound on the holes that [`ZeroMap::data_in`] passes, since each costs a search.
const MAX_HOLES_PASSED: usize = 16;

/// Disjoint, non-adjacent runs of zeros, each as start -> end.
#[derive(Debug, Default)]
pub(crate) struct ZeroMap {
    runs: BTreeMap<u64, u64>,
    bytes: u64,
}

impl ZeroMap {
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

    /// True when any byte of `range` is known to be zero.
    pub(crate) fn touches(&self, range: &Range<u64>) -> bool {
        self.last_run(..range.end)
            .is_some_and(|(_, end)| end > range.start)
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

    /// Counts the bytes of `range` that may be data; `None` when there are more than `most`, or too many
    /// holes between them.
    pub(crate) fn data_in(&self, range: Range<u64>, most: u64) -> Option<u64> {
        let (mut at, mut bytes) = (range.start, 0);
        for _ in 0..MAX_HOLES_PASSED {
            let start = self.next_data(at).min(range.end);
            at = self
                .next_zero(start)
                .map_or(range.end, |zero| zero.min(range.end));
            bytes += at - start;
            if bytes > most {
                return None;
            }
            if at == range.end {
                return Some(bytes);
            }
        }
        None
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

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
                    prop_assert_eq!(map.touches(&(at..64)), zero.is_some());
                    let rest = rest.iter().filter(|zero| !**zero).count() as u64;
                    prop_assert_eq!(map.data_in(at..64, 64), Some(rest));
                    prop_assert_eq!(map.data_in(at..64, 8), Some(rest).filter(|&n| n <= 8));
                }
            }
        }
    }
}
