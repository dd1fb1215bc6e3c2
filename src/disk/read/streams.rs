//! Recognises sequential readers, so that only they cause prefetches, and says how far each is ahead.
//!
//! Several readers may run through the disk at once, and the requests of one reader come slightly out of
//! order (the kernel's readahead, eight coroutines of qemu-img). A read near the end of a known stream
//! continues it and widens its window; a read elsewhere begins a new one.
//!
//! A stream differs from random reads that happen to be near its end: it reads at least as much as it jumps
//! over, and the bytes that it jumps over may come late, but soon. So a jump makes a debt, which reads pay
//! back and which is bounded. A read not far before the stream's end belongs to it, and so does another
//! stream that ends there: what was read once is not fetched again ahead of a late read.
//!
//! The first of all reads is followed at once if it has many bytes and begins where the data does: on a line
//! with long delays, the second one would come a round trip later.
//!
//! A stream's window bounds the bytes that were fetched for it and that it has not read: those ahead of its
//! end, and those that it has jumped over. It is refilled when a whole request fits, so that a reader of
//! small blocks causes large requests.

mod stream;

use std::ops::Range;
use std::time::Duration;

use self::stream::Stream;
use crate::sync::Instant;

/// Upper bound on the streams followed at once; the one that is idle for longest makes room.
const MAX_STREAMS: usize = 8;

/// Upper bound, in bytes, on the distance from a stream's end within which a read belongs to it, and on its
/// debt: 8 reads of 2 MiB.
const MAX_SLACK_BYTES: u64 = 16 << 20;

/// Size in bytes from which on a read is no random one: the first eight reads of qemu-img are one stream.
const MIN_BULK_BYTES: u64 = 512 << 10;

/// Size in bytes from which on two reads in a row deserve a wide window at once: `cp` reads 128 KiB or more.
const MIN_FAST_BYTES: u64 = 128 << 10;

/// Window of a stream that begins with the first of all reads, in bytes, until its third read. A program that
/// reads no more has fetched that much for nothing, once.
const FIRST_WINDOW_BYTES: u64 = 8 << 20;

/// Number of last reads among which a stream must have had one to get its share of the cache.
const RECENT_READS: u64 = 64;

/// Time after its last read for which a stream with a window of [`MIN_BULK_BYTES`] keeps its share, too: a
/// slow reader beside a fast one.
const RECENT: Duration = Duration::from_secs(10);

/// A stream that was continued, and what to fetch for it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Ahead {
    /// The stream's number, which is never 0.
    pub(super) stream: u64,
    /// Offset from which on nothing was announced for it.
    pub(super) from: u64,
    /// Offset at which another stream has begun: most readers share the work, and have no use for its data.
    pub(super) until: u64,
    /// Bytes of data to fetch from there on; 0 while a whole request does not fit into the window.
    pub(super) want: u64,
    /// Size of the requests in bytes: while the window is narrow, small ones for all connections.
    pub(super) request: u64,
    /// Nothing is on its way for it.
    pub(super) urgent: bool,
    /// The range that it will not read any more, or not soon.
    pub(super) passed: Range<u64>,
    /// The read itself was announced before.
    pub(super) promised: bool,
    /// Streams that have become part of this one.
    pub(super) merged: Vec<u64>,
}

/// The streams that are followed, the most recent one first.
#[derive(Debug)]
pub(super) struct Streams {
    streams: Vec<Stream>,
    /// Number of reads so far.
    reads: u64,
    /// Number of streams so far.
    numbers: u64,
    /// Upper bound on the windows of all streams together, in bytes.
    max: u64,
    /// Size of a full request in bytes.
    request: u64,
    /// Number of requests that can be under way.
    connections: u64,
    /// Unit in bytes of the size of a request.
    unit: u64,
}

impl Streams {
    /// Follows streams whose windows are together at most `max` bytes wide. Their requests ask for a multiple
    /// of `unit` bytes, at most `request`, over so many `connections`.
    pub(super) fn new(max: u64, request: u64, unit: u64, connections: usize) -> Self {
        Streams {
            streams: Vec::new(),
            reads: 0,
            numbers: 0,
            max,
            request,
            connections: connections as u64,
            unit,
        }
    }

    /// Sets the size of a full request, a multiple of the unit in bytes.
    pub(super) fn set_request(&mut self, request: u64) {
        self.request = request;
    }

    /// Notes a read at the time `now`. If it continues a stream, returns what to fetch; the caller then tells
    /// what it has [announced](Streams::announced). `data(range, most)` counts the bytes of data in a range,
    /// `None` when there are more than `most`: a jump over a hole still continues the stream.
    pub(super) fn note(
        &mut self,
        read: &Range<u64>,
        now: Instant,
        data: impl Fn(Range<u64>, u64) -> Option<u64>,
    ) -> Option<Ahead> {
        let len = read.end - read.start;
        self.reads += 1;
        // Reads that are late, or repeated, belong to the stream that has been there, so that nothing which
        // was read is fetched again for them.
        let behind = |s: &Stream| {
            let near = || data(read.start..s.end, MAX_SLACK_BYTES).is_some();
            s.has_skipped(read) || read.end <= s.end && self.is_recent(s, now) && near()
        };
        // Returns the bytes that the read jumps over, if it continues the stream.
        let jump = |s: &Stream| {
            if read.start > s.end {
                // The first read behind a hole continues even a stream that has no window yet.
                let slack = MAX_SLACK_BYTES.min(4 * s.window);
                return data(s.end..read.start, slack.saturating_sub(s.debt));
            }
            (s.window > 0 && read.end >= s.end).then_some(0)
        };
        let streams = || self.streams.iter().enumerate();
        let late = streams().find_map(|(at, s)| behind(s).then_some((at, 0)));
        // A read exactly at a stream's end goes before one near another stream's end, which counts only once
        // that stream has a window.
        let exact = || streams().find_map(|(at, s)| (s.end == read.start).then_some((at, 0)));
        let near = || streams().find_map(|(at, s)| Some((at, jump(s)?)));
        let found = late.or_else(exact).or_else(near);
        let Some((at, jumped)) = found else {
            let is_copy = self.reads == 1 && len >= MIN_FAST_BYTES && data(0..read.start, 0).is_some();
            self.begin(read, now);
            return is_copy.then(|| self.follow_the_first(now));
        };
        let mut stream = self.streams.remove(at);
        let others = self.streams.iter().filter(|s| self.is_recent(s, now)).count();
        let share = self.max / (1 + others as u64);
        let promised = stream.end <= read.start && read.start < stream.announced;
        let contiguous = read.start >= stream.end && jumped == 0;
        let factor = match (contiguous, stream.proven) {
            (false, _) if late.is_some() => 1,
            (false, _) => 2,
            // It has begun with a wide window.
            (true, true) if self.reads == 2 => 1,
            (true, false) if len >= MIN_FAST_BYTES => 8,
            (true, _) => 4,
        };
        stream.window = (factor * stream.window.max(len)).min(share);
        // Reading the same again and again keeps no stream alive.
        let repeated = late.is_some() && !stream.has_skipped(read);
        let merged = self.take_what_is_behind(&mut stream, read, &data);
        stream.read(read, jumped, &data);
        if !repeated {
            (stream.last, stream.at) = (self.reads, now);
        }
        let mut ahead = self.ahead_of(&stream, now);
        (ahead.passed, ahead.promised, ahead.merged) = (stream.pass(), promised, merged);
        self.streams.insert(0, stream);
        Some(ahead)
    }

    /// Returns what to fetch after the first of all reads: a program that begins with many bytes, where the
    /// data begins, copies the disk.
    fn follow_the_first(&mut self, now: Instant) -> Ahead {
        let stream = &mut self.streams[0];
        stream.window = FIRST_WINDOW_BYTES.min(self.max);
        stream.proven = true;
        self.ahead_of(&self.streams[0], now)
    }

    /// Returns what to fetch for `stream`.
    fn ahead_of(&self, stream: &Stream, now: Instant) -> Ahead {
        let wide = |s: &&Stream| s.window >= MIN_BULK_BYTES && self.is_recent(s, now);
        let apart = self.streams.iter().filter(|s| s.start >= stream.end).filter(wide);
        let even = stream.window / self.connections / self.unit * self.unit;
        Ahead {
            stream: stream.id,
            from: stream.announced,
            until: apart.map(|s| s.start).min().unwrap_or(u64::MAX),
            want: stream.want(self.request),
            urgent: stream.ahead == 0,
            request: even.clamp(self.unit, self.request),
            passed: 0..0,
            promised: false,
            merged: Vec::new(),
        }
    }

    /// Makes every other stream that ends just behind a part of `stream`, which `read` continues, since those
    /// are its late reads. Returns their numbers.
    fn take_what_is_behind(
        &mut self,
        stream: &mut Stream,
        read: &Range<u64>,
        data: impl Fn(Range<u64>, u64) -> Option<u64>,
    ) -> Vec<u64> {
        let end = stream.end.max(read.end);
        let mut merged = Vec::new();
        if self.streams.iter().all(|other| other.end > end) {
            return merged;
        }
        for other in std::mem::take(&mut self.streams) {
            match other.end <= end && data(other.end..end, MAX_SLACK_BYTES).is_some() {
                true => {
                    merged.push(other.id);
                    stream.merge(other, &data);
                }
                false => self.streams.push(other),
            }
        }
        merged
    }

    fn begin(&mut self, read: &Range<u64>, now: Instant) {
        let len = read.end - read.start;
        if self.streams.len() == MAX_STREAMS {
            let last = self.streams.len() - 1;
            let idle = self.streams.iter().rposition(|s| !self.is_recent(s, now));
            self.streams.remove(idle.unwrap_or(last));
        }
        self.numbers += 1;
        let mut stream = Stream::begin(self.numbers, read, self.reads, now);
        stream.window = if len >= MIN_BULK_BYTES { len } else { 0 };
        let been = |s: &Stream| (s.start..s.end).contains(&read.start);
        stream.again = self.streams.iter().any(|s| self.is_recent(s, now) && been(s));
        self.streams.insert(0, stream);
    }

    /// Notes that everything up to `end` was announced for a stream, `bytes` more than before.
    pub(super) fn announced(&mut self, stream: u64, end: u64, bytes: u64) {
        if let Some(stream) = self.streams.iter_mut().find(|s| s.id == stream) {
            stream.announced = stream.announced.max(end);
            stream.ahead += bytes;
        }
    }

    /// Notes that what was announced for a stream is not there any more: it is to be announced again.
    pub(super) fn missed(&mut self, stream: u64) {
        if let Some(stream) = self.streams.iter_mut().find(|s| s.id == stream) {
            (stream.announced, stream.ahead) = (stream.end, 0);
        }
    }

    /// Returns the numbers of the streams that have a share of the cache at the time `now`.
    pub(super) fn active(&self, now: Instant) -> Vec<u64> {
        let recent = self.streams.iter().filter(|s| self.is_recent(s, now));
        recent.map(|s| s.id).collect()
    }

    fn is_recent(&self, stream: &Stream, now: Instant) -> bool {
        let wide = stream.window >= MIN_BULK_BYTES;
        let lately = || wide && now.saturating_duration_since(stream.at) < RECENT;
        stream.proven && (stream.last + RECENT_READS > self.reads || lately())
    }
}

#[cfg(all(test, not(feature = "shuttle")))]
mod tests;
