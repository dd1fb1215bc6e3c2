//! Lays bytes in memory over a range that is read: the newest layer first, each older one into the gaps that
//! are left.

use std::ops::Range;

use super::payload::Payload;

/// A part of a payload at its place on the disk.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Placed<'a> {
    /// Offset of the first byte on the disk.
    pub(crate) start: u64,
    /// Length in bytes.
    pub(crate) len: u64,
    /// The payload that holds the bytes.
    pub(crate) payload: &'a Payload,
    /// Offset of the first byte in the payload.
    pub(crate) skip: u64,
}

impl<'a> Placed<'a> {
    /// Places all of `payload` at `start`.
    pub(crate) fn whole(start: u64, payload: &'a Payload) -> Self {
        Placed {
            start,
            len: payload.len(),
            payload,
            skip: 0,
        }
    }

    /// Copies its bytes into `buf`, which begins at `offset`, where they lie in `gaps`; returns the gaps that
    /// are left.
    pub(crate) fn fill(&self, gaps: Vec<Range<u64>>, offset: u64, buf: &mut [u8]) -> Vec<Range<u64>> {
        let end = self.start + self.len;
        let mut rest = Vec::with_capacity(gaps.len() + 1);
        for gap in gaps {
            let hit = gap.start.max(self.start)..gap.end.min(end);
            if hit.is_empty() {
                rest.push(gap);
                continue;
            }
            let into = &mut buf[(hit.start - offset) as usize..(hit.end - offset) as usize];
            match self.payload {
                Payload::Data(bytes) => {
                    let from = (hit.start - self.start + self.skip) as usize;
                    into.copy_from_slice(&bytes[from..from + into.len()]);
                }
                Payload::Zero(_) => into.fill(0),
            }
            rest.extend(
                [gap.start..hit.start, hit.end..gap.end]
                    .into_iter()
                    .filter(|r| !r.is_empty()),
            );
        }
        rest
    }
}

/// Returns `ranges` without `taken`.
pub(crate) fn without(ranges: Vec<Range<u64>>, taken: &Range<u64>) -> Vec<Range<u64>> {
    let mut rest = Vec::with_capacity(ranges.len() + 1);
    for range in ranges {
        let left = range.start..range.end.min(taken.start);
        let right = range.start.max(taken.end)..range.end;
        rest.extend([left, right].into_iter().filter(|r| !r.is_empty()));
    }
    rest
}
