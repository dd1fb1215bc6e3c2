//! One stream of reads: how far it is, how far ahead of it may be fetched, and what it has jumped over.

use std::collections::VecDeque;
use std::ops::Range;

use crate::sync::Instant;

/// Bytes that a stream reads until what is behind is given up: a reader that waits for the processor comes
/// late.
const MAX_LATE_BYTES: u64 = 40 << 20;

/// Distance in bytes between the places that a stream remembers for that.
const MARK_BYTES: u64 = 4 << 20;

/// Bytes that a stream has to read where another one has been before anything is fetched ahead of it: reads
/// of the other one that come very late are not that many.
const MIN_AGAIN_BYTES: u64 = 16 << 20;

/// Upper bound on the ranges that a stream has jumped over and not read: far more than reads are under way.
const MAX_SKIPPED: usize = 64;

#[derive(Debug, Clone)]
pub(super) struct Stream {
    pub(super) id: u64,
    /// Start of its first read.
    pub(super) start: u64,
    /// End of its furthest read.
    pub(super) end: u64,
    /// Upper bound, in bytes, on what is fetched for it and not read.
    pub(super) window: u64,
    /// End of what was announced for it.
    pub(super) announced: u64,
    /// Bytes of data that were announced beyond its end.
    pub(super) ahead: u64,
    /// It has begun where another stream has been.
    pub(super) again: bool,
    /// Bytes that it has read.
    bytes: u64,
    /// More than one read belongs to it, or it began with the first of all reads.
    pub(super) proven: bool,
    /// Bytes of data that it has jumped over and not paid back by reading as many.
    pub(super) debt: u64,
    /// The ranges that it has jumped over and not read, in ascending order.
    pub(super) skipped: Vec<Skipped>,
    /// For some past moments, the bytes that it had read, and the offset of its end.
    marks: VecDeque<(u64, u64)>,
    /// Everything before this offset is given up.
    pub(super) passed: u64,
    /// Number of its last read.
    pub(super) last: u64,
    /// Time of its last read.
    pub(super) at: Instant,
}

#[derive(Debug, Clone)]
pub(super) struct Skipped {
    pub(super) range: Range<u64>,
    /// Upper bound on the bytes of data in it.
    pub(super) data: u64,
}

impl Stream {
    /// A stream that begins with `read`, the read with this number, at the time `now`. Nothing is fetched for
    /// it yet.
    pub(super) fn begin(id: u64, read: &Range<u64>, number: u64, now: Instant) -> Self {
        Stream {
            id,
            start: read.start,
            end: read.end,
            window: 0,
            announced: read.end,
            ahead: 0,
            again: false,
            bytes: read.end - read.start,
            proven: false,
            debt: 0,
            skipped: Vec::new(),
            marks: VecDeque::new(),
            passed: read.start,
            last: number,
            at: now,
        }
    }

    /// True when `read` reads some of what was jumped over.
    pub(super) fn has_skipped(&self, read: &Range<u64>) -> bool {
        let overlaps = |range: &Range<u64>| range.start < read.end && read.start < range.end;
        self.skipped.iter().any(|skipped| overlaps(&skipped.range))
    }

    /// Notes that `read` has read what was jumped over.
    fn catch_up(&mut self, read: &Range<u64>) {
        let mut rest = Vec::with_capacity(self.skipped.len());
        for skipped in self.skipped.drain(..) {
            let Range { start, end } = skipped.range;
            if read.end <= start || end <= read.start {
                rest.push(skipped);
                continue;
            }
            let read_of_it = read.end.min(end) - read.start.max(start);
            let mut data = skipped.data.saturating_sub(read_of_it);
            for range in [start..read.start.max(start), read.end.min(end)..end] {
                let part = data.min(range.end - range.start);
                if part > 0 {
                    data -= part;
                    rest.push(Skipped { range, data: part });
                }
            }
        }
        self.skipped = rest;
    }

    /// Takes in another stream that ends before this one does; the data between the two is expected late.
    pub(super) fn merge(&mut self, other: Stream, data: impl Fn(Range<u64>, u64) -> Option<u64>) {
        let mut skipped = other.skipped;
        let gap = other.end..self.start;
        if let Some(bytes) = (!gap.is_empty()).then(|| data(gap.clone(), u64::MAX)).flatten() {
            skipped.push(Skipped {
                range: gap,
                data: bytes,
            });
        }
        skipped.append(&mut self.skipped);
        skipped.sort_by_key(|skipped| skipped.range.start);
        self.skipped = skipped;
        self.start = self.start.min(other.start);
        self.passed = self.passed.min(other.passed);
    }

    /// Notes a read that continues the stream, after a jump over `jumped` bytes of data.
    pub(super) fn read(
        &mut self,
        read: &Range<u64>,
        jumped: u64,
        data: impl Fn(Range<u64>, u64) -> Option<u64>,
    ) {
        let len = read.end - read.start;
        self.proven = true;
        self.bytes += len;
        self.debt = (self.debt + jumped).saturating_sub(len);
        self.catch_up(read);
        if jumped > 0 {
            self.skipped.push(Skipped {
                range: self.end..read.start,
                data: jumped,
            });
        }
        if read.end > self.end {
            let further = data(self.end..read.end, u64::MAX);
            self.ahead = self.ahead.saturating_sub(further.unwrap_or(read.end - self.end));
            self.end = read.end;
        }
        if self.announced <= self.end {
            (self.announced, self.ahead) = (self.end, 0);
        }
    }

    /// Returns how many bytes are to be announced now, in requests of at most `request` bytes.
    pub(super) fn want(&self, request: u64) -> u64 {
        let missing: u64 = self.skipped.iter().map(|skipped| skipped.data).sum();
        // A jump must not leave a narrow window empty until its bytes are given up.
        let room = self
            .window
            .saturating_sub(missing.min(self.window / 2) + self.ahead);
        let sure = !self.again || self.bytes >= MIN_AGAIN_BYTES;
        let refill = self.ahead == 0 || room >= request.min(self.window / 2);
        if sure && refill { room } else { 0 }
    }

    /// Returns the range that is given up now: nobody has come for it while much was read.
    pub(super) fn pass(&mut self) -> Range<u64> {
        if self
            .marks
            .back()
            .is_none_or(|&(read, _)| read + MARK_BYTES <= self.bytes)
        {
            self.marks.push_back((self.bytes, self.end));
        }
        let from = self.passed;
        let bytes = self.bytes;
        while let Some(&(_, end)) = self.marks.front().filter(|mark| mark.0 + MAX_LATE_BYTES <= bytes) {
            self.passed = self.passed.max(end);
            self.marks.pop_front();
        }
        let many = self.skipped.len().saturating_sub(MAX_SKIPPED);
        let passed = self.passed;
        self.skipped.drain(..many);
        self.skipped.retain(|skipped| skipped.range.end > passed);
        from.min(passed)..passed
    }
}
