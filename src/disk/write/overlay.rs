//! Laying what is held in memory over what a reader asks for: the newest layer first, the gaps to the next one.

use std::ops::Range;

use super::payload::Payload;

/// Part of a payload, in its place on the disk.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Placed<'a> {
    /// First byte.
    pub(crate) start: u64,
    /// Bytes.
    pub(crate) len: u64,
    /// What holds them.
    pub(crate) payload: &'a Payload,
    /// Where they begin in it.
    pub(crate) skip: u64,
}

impl<'a> Placed<'a> {
    /// All of `payload`, at `start`.
    pub(crate) fn whole(start: u64, payload: &'a Payload) -> Self {
        Placed {
            start,
            len: payload.len(),
            payload,
            skip: 0,
        }
    }

    /// Fills from it whatever of `buf`, which stands at `offset`, lies in `gaps`; returns the rest of them.
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

/// `ranges` without `taken`.
pub(crate) fn without(ranges: Vec<Range<u64>>, taken: &Range<u64>) -> Vec<Range<u64>> {
    let mut rest = Vec::with_capacity(ranges.len() + 1);
    for range in ranges {
        let left = range.start..range.end.min(taken.start);
        let right = range.start.max(taken.end)..range.end;
        rest.extend([left, right].into_iter().filter(|r| !r.is_empty()));
    }
    rest
}
