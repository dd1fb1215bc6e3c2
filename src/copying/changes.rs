//! The changes in a disk, and their copy into an image that has the rest below it.
//!
//! The image has whole clusters, so what is dirty grows to them, and all of a cluster is read from the disk:
//! what is clean in it has the guest's bytes there, too. What reads as zeros is written as zeros, as the file
//! below may have data in its place.
//!
//! A disk that has changed in very many places takes no more memory: what lies between two changes is read
//! with them then, the shorter stretches first.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use super::CopyError;
use super::download::runs;
use super::workers::in_parallel;
use crate::disk::BLOCK_BYTES;
use crate::failure::Failure;
use crate::images::{CLUSTER_BYTES, Output, placed};
use crate::open_disk::OpenDisk;
use crate::remote::DirtyExtent;

/// Lower bound on a request, in bytes: a multiple of a cluster.
const MIN_REQUEST_BYTES: u64 = 512 << 10;

/// Upper bound on the ranges in a list: 2 MiB of them.
const MAX_RANGES: usize = 1 << 17;

/// The zeros that are looked for in what is read are whole clusters.
const _: () = assert!(BLOCK_BYTES as u64 == CLUSTER_BYTES);

/// See the head of this file. Each range has whole clusters, but for one at the end of the disk.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Changes {
    size: u64,
    /// The end of the last extent.
    told: u64,
    /// In ascending order, apart from each other.
    data: Vec<Range<u64>>,
    zeros: Vec<Range<u64>>,
    /// A gap between two ranges of data that is no longer than this is data, too.
    gap: u64,
    /// Upper bound on the ranges of each.
    most: usize,
}

impl Changes {
    /// Begins with nothing told of a disk of `size` bytes.
    pub(crate) fn of(size: u64) -> Changes {
        Changes {
            size,
            most: MAX_RANGES,
            ..Changes::default()
        }
    }

    /// The same for one of `count` disks whose changes are in memory at the same time: all of them have so
    /// many ranges as one alone.
    pub(crate) fn of_one_in(count: usize, size: u64) -> Changes {
        Changes {
            most: (MAX_RANGES / count.max(1)).max(1),
            ..Changes::of(size)
        }
    }

    /// Takes the next extent. What no extent tells of is data, and so is what two tell of.
    pub(crate) fn add(&mut self, extent: &DirtyExtent) {
        let range = extent.range.start.min(self.size)..extent.range.end.min(self.size);
        if range.start > self.told {
            let gap = self.told..range.start;
            self.add_data(&gap);
        }
        if range.start < self.told {
            let twice = range.start..range.end.min(self.told);
            self.add_data(&twice);
        }
        let before = self.told;
        self.told = before.max(range.end);
        // The part before is data already.
        let range = range.start.max(before)..range.end;
        if range.is_empty() {
            return;
        }
        match (extent.dirty, extent.zero) {
            (false, _) => {}
            (true, false) => self.add_data(&range),
            (true, true) => {
                // The clusters at both ends may have data as well.
                let first = range.start.next_multiple_of(CLUSTER_BYTES);
                let last = match range.end == self.size {
                    true => range.end,
                    false => range.end / CLUSTER_BYTES * CLUSTER_BYTES,
                };
                if first >= last {
                    self.add_data(&range);
                    return;
                }
                self.add_data(&(range.start..first));
                self.add_data(&(last..range.end));
                // Zeros that are read are zeros all the same.
                match self.zeros.len() < self.most {
                    true => join(&mut self.zeros, first..last, 0),
                    false => self.add_data(&(first..last)),
                }
            }
        }
    }

    fn add_data(&mut self, range: &Range<u64>) {
        if range.is_empty() {
            return;
        }
        let start = range.start / CLUSTER_BYTES * CLUSTER_BYTES;
        let end = range.end.next_multiple_of(CLUSTER_BYTES).min(self.size);
        join(&mut self.data, start..end, self.gap);
        while self.data.len() > self.most {
            self.gap = (2 * self.gap).max(CLUSTER_BYTES);
            for range in std::mem::take(&mut self.data) {
                join(&mut self.data, range, self.gap);
            }
        }
    }

    /// Ends the list: what lies behind the last extent is data, and data wins over zeros.
    pub(crate) fn end(mut self) -> Changes {
        if self.told < self.size {
            let rest = self.told..self.size;
            self.add_data(&rest);
            self.told = self.size;
        }
        let (mut zeros, mut next) = (Vec::new(), 0);
        for zero in std::mem::take(&mut self.zeros) {
            let mut at = zero.start;
            while next < self.data.len() && self.data[next].end <= at {
                next += 1;
            }
            for data in self.data[next..].iter().take_while(|data| data.start < zero.end) {
                if at < data.start {
                    zeros.push(at..data.start);
                }
                at = at.max(data.end);
            }
            if at < zero.end {
                zeros.push(at..zero.end);
            }
        }
        self.zeros = zeros;
        self
    }

    /// Returns all ranges in ascending order, each with whether it reads as zeros.
    pub(crate) fn in_order(&self) -> Vec<(Range<u64>, bool)> {
        let data = self.data.iter().map(|range| (range.clone(), false));
        let zeros = self.zeros.iter().map(|range| (range.clone(), true));
        let mut all: Vec<(Range<u64>, bool)> = data.chain(zeros).collect();
        all.sort_unstable_by_key(|(range, _)| range.start);
        all
    }

    /// True where there was no room for all ranges, so that some have grown into one.
    pub(crate) fn is_coarse(&self) -> bool {
        self.gap > 0 || self.zeros.len() >= self.most
    }

    /// Bytes that are read from the disk.
    pub(crate) fn data_bytes(&self) -> u64 {
        self.data.iter().map(|range| range.end - range.start).sum()
    }
}

/// Adds a range to a list in ascending order, from which it may differ at its end only. It takes in what is
/// up to `gap` bytes before it.
fn join(list: &mut Vec<Range<u64>>, mut range: Range<u64>, gap: u64) {
    while let Some(last) = list.last() {
        if range.start > last.end + gap {
            break;
        }
        // One that was told out of order takes all that it touches with it.
        range = range.start.min(last.start)..range.end.max(last.end);
        list.pop();
    }
    list.push(range);
}

/// Fills `output`, which lies over another image, with what has changed in a disk; as [`super::fill`].
pub(crate) fn fill_changes(
    disk: &Arc<OpenDisk>,
    output: Output,
    memory: u64,
    stop: &AtomicBool,
    changes: &Changes,
) -> Result<Output, Failure> {
    let device = disk.disk();
    let connections = disk.connections().max(1);
    let share = memory / connections as u64 / CLUSTER_BYTES * CLUSTER_BYTES;
    let most = share.max(MIN_REQUEST_BYTES);
    let written = |done: Result<(), crate::images::ImageError>| done.map_err(CopyError::from);
    for zero in &changes.zeros {
        written(output.zero_at(zero.start, zero.end - zero.start))?;
    }
    let rest = Mutex::new((0, 0));
    let next = || {
        let mut rest = rest.lock();
        let (n, into): (usize, u64) = *rest;
        let range = changes.data.get(n)?;
        let start = range.start + into;
        let request = device.request_size() / CLUSTER_BYTES * CLUSTER_BYTES;
        let end = range.end.min(start + request.clamp(MIN_REQUEST_BYTES, most));
        *rest = if end == range.end {
            (n + 1, 0)
        } else {
            (n, end - range.start)
        };
        Some(start..end)
    };
    // Copies of other disks share `stop`, and go on where this one fails.
    let failed = AtomicBool::new(false);
    in_parallel(connections, &failed, || {
        let mut buffer = Vec::new();
        while let Some(range) = next() {
            if stop.load(Ordering::Relaxed) || failed.load(Ordering::Relaxed) {
                return Err(CopyError::Stopped);
            }
            let bytes = placed(&mut buffer, (range.end - range.start) as usize, range.start);
            device.read_straight(range.start, bytes)?;
            for (run, zero) in runs(range.start, bytes) {
                let (at, length) = (range.start + run.start as u64, run.len() as u64);
                match zero {
                    true => output.zero_at(at, length)?,
                    false => output.write_at(&bytes[run], at)?,
                }
            }
        }
        Ok(())
    })?;
    Ok(output.complete().map_err(CopyError::from)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const C: u64 = CLUSTER_BYTES;

    /// Beginnings and ends of ranges.
    type Ends = Vec<(u64, u64)>;

    /// Returns what is data and what is zero of a disk whose extents begin and end so, and are dirty and
    /// zero.
    fn changes(size: u64, extents: &[(u64, u64, bool, bool)]) -> (Ends, Ends) {
        let mut changes = Changes::of(size);
        for (start, end, dirty, zero) in extents {
            changes.add(&DirtyExtent {
                range: *start..*end,
                dirty: *dirty,
                zero: *zero,
            });
        }
        let changes = changes.end();
        let ends = |ranges: Vec<Range<u64>>| ranges.into_iter().map(|one| (one.start, one.end)).collect();
        (ends(changes.data), ends(changes.zeros))
    }

    #[test]
    fn what_is_dirty_grows_to_whole_clusters_and_zeros_stay_zeros() {
        let (data, zeros) = changes(
            10 * C,
            &[
                (0, C + 1, false, false),
                (C + 1, C + 2, true, false),
                (C + 2, 4 * C, false, true),
                (4 * C, 6 * C + 5, true, true),
                (6 * C + 5, 10 * C, false, false),
            ],
        );
        assert_eq!(data, [(C, 2 * C), (6 * C, 7 * C)]);
        assert_eq!(zeros, [(4 * C, 6 * C)]);
    }

    #[test]
    fn what_nobody_tells_of_and_what_is_told_twice_is_data() {
        let (data, zeros) = changes(8 * C, &[(C, 2 * C, false, false), (3 * C, 4 * C, false, false)]);
        assert_eq!(
            (data, zeros),
            (vec![(0, C), (2 * C, 3 * C), (4 * C, 8 * C)], vec![])
        );
        let (data, zeros) = changes(
            4 * C,
            &[
                (0, 3 * C, true, true),
                (C, 2 * C, false, false),
                (3 * C, 4 * C, false, false),
            ],
        );
        assert_eq!((data, zeros), (vec![(C, 2 * C)], vec![(0, C), (2 * C, 3 * C)]));
        // The zeros that are told late, and again, are not one with those before them.
        let (data, zeros) = changes(
            12 * C,
            &[
                (0, 10 * C, false, false),
                (10 * C, 12 * C, true, true),
                (0, 2 * C, true, true),
            ],
        );
        assert_eq!((data, zeros), (vec![(0, 2 * C)], vec![(10 * C, 12 * C)]));
        let (data, _) = changes(4 * C, &[]);
        assert_eq!(data, [(0, 4 * C)], "no extents at all");
    }

    #[test]
    fn very_many_changes_are_few_ranges_that_have_all_of_them() {
        let mut changes = Changes::of(1000 * C);
        changes.most = 8;
        for n in 0..250_u64 {
            let mut add = |start: u64, end: u64, dirty, zero| {
                let range = (4 * n + start) * C..(4 * n + end) * C;
                changes.add(&DirtyExtent { range, dirty, zero });
            };
            add(0, 1, true, false);
            add(1, 2, false, false);
            add(2, 3, true, true);
            add(3, 4, false, false);
        }
        let changes = changes.end();
        assert!(
            changes.data.len() <= 8 && changes.zeros.len() <= 16,
            "{changes:?}"
        );
        for n in 0..250_u64 {
            let has = |list: &[Range<u64>], at: u64| list.iter().any(|range| range.contains(&(at * C)));
            assert!(has(&changes.data, 4 * n), "{n}: {changes:?}");
            let told = has(&changes.data, 4 * n + 2) || has(&changes.zeros, 4 * n + 2);
            assert!(told, "{n}: {changes:?}");
        }
    }

    #[test]
    fn the_last_cluster_ends_with_the_disk() {
        let (data, zeros) = changes(
            2 * C + 512,
            &[(0, 2 * C, false, false), (2 * C, 2 * C + 512, true, true)],
        );
        assert_eq!((data, zeros), (vec![], vec![(2 * C, 2 * C + 512)]));
        let (data, _) = changes(
            2 * C + 512,
            &[(0, 2 * C, false, false), (2 * C, 9 * C, true, false)],
        );
        assert_eq!(data, [(2 * C, 2 * C + 512)]);
    }
}
