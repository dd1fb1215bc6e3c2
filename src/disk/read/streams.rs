//! Recognises sequential readers, so that only they cause prefetches.
//!
//! Several readers may run through the disk at once, and the requests of one reader come slightly out of
//! order (the kernel's readahead, eight coroutines of qemu-img). A read near the end of a known stream
//! continues it and doubles its window; a read elsewhere begins a new one.
//!
//! A stream differs from random reads that happen to be near its end: it reads at least as much as it jumps
//! over, and the bytes that it jumps over may come late, but soon. So a jump makes a debt, which reads pay
//! back and which is bounded. A read before the stream's end belongs to it as long as some of the bytes that
//! it jumped over are missing.

use std::ops::Range;

/// Upper bound on the streams followed at once; the one that is idle for longest makes room.
const MAX_STREAMS: usize = 8;

/// Upper bound, in bytes, on the distance from a stream's end within which a read belongs to it, and on its
/// debt: 8 reads of 2 MiB.
const MAX_SLACK_BYTES: u64 = 16 << 20;

/// Size in bytes from which on a read is no random one: the first eight reads of qemu-img are one stream.
const MIN_BULK_BYTES: u64 = 512 << 10;

/// Number of last reads among which a stream must have had one to get its share of the cache.
const RECENT_READS: u64 = 64;

#[derive(Debug, Clone, Copy, Default)]
struct Stream {
    /// End of its furthest read.
    end: u64,
    /// Bytes to fetch ahead.
    window: u64,
    /// More than one read belongs to it.
    proven: bool,
    /// Bytes of data that it has jumped over and not paid back by reading as many.
    debt: u64,
    /// Bytes of data that it has jumped over and not read.
    missing: u64,
    /// Offset to which the last jump led.
    landed: u64,
    /// Number of its last read.
    last: u64,
}

/// The streams that are followed, the most recent one first.
#[derive(Debug, Default)]
pub(crate) struct Streams {
    streams: Vec<Stream>,
    /// Number of reads so far.
    reads: u64,
}

impl Streams {
    /// Notes a read. If it continues a stream, returns the range to fetch ahead, which begins after the
    /// stream's furthest read. `data(range, most)` counts the bytes of data in a range, `None` when there are
    /// more than `most`: a jump over a hole still continues the stream. `max` bounds the windows of all
    /// streams together, in bytes.
    pub(crate) fn note(
        &mut self,
        read: &Range<u64>,
        max: u64,
        data: impl Fn(Range<u64>, u64) -> Option<u64>,
    ) -> Option<Range<u64>> {
        let len = read.end - read.start;
        // Returns the bytes that the read jumps over, if it continues the stream.
        let jump = |s: &Stream| {
            let slack = MAX_SLACK_BYTES.min(4 * s.window);
            if read.start > s.end {
                // The first read behind a hole continues even a stream that has no window yet.
                let most = slack.saturating_sub(s.debt);
                return data(s.end..read.start, most);
            }
            let overlaps = s.window > 0 && read.end >= s.end;
            let late = s.missing > 0 && data(read.start..s.end, slack).is_some();
            (overlaps || late).then_some(0)
        };
        self.reads += 1;
        // A read exactly at a stream's end always continues it, and goes before one near another stream's
        // end, which counts only once that stream has a window.
        let exact = self.streams.iter().position(|s| s.end == read.start);
        let found = exact.map(|at| (at, 0)).or_else(|| {
            let mut streams = self.streams.iter().enumerate();
            streams.find_map(|(at, s)| Some((at, jump(s)?)))
        });
        let Some((at, jumped)) = found else {
            self.streams.truncate(MAX_STREAMS - 1);
            let stream = Stream {
                end: read.end,
                window: if len >= MIN_BULK_BYTES { len } else { 0 },
                last: self.reads,
                ..Stream::default()
            };
            self.streams.insert(0, stream);
            return None;
        };
        let mut stream = self.streams.remove(at);
        let recent = |s: &&Stream| s.proven && s.last + RECENT_READS > self.reads;
        let share = max / (1 + self.streams.iter().filter(recent).count() as u64);
        stream.proven = true;
        stream.window = (2 * stream.window).max(len).min(share);
        stream.debt = (stream.debt + jumped).saturating_sub(len);
        if jumped > 0 {
            (stream.missing, stream.landed) = (stream.missing + jumped, read.start);
        } else if read.end < stream.end {
            stream.missing = stream.missing.saturating_sub(len);
        }
        stream.end = stream.end.max(read.end);
        if stream.end > stream.landed + MAX_SLACK_BYTES {
            stream.missing = 0;
        }
        stream.last = self.reads;
        self.streams.insert(0, stream);
        Some(stream.end..stream.end + stream.window)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(range: Range<u64>, most: u64) -> Option<u64> {
        let bytes = range.end - range.start;
        (bytes <= most).then_some(bytes)
    }

    #[test]
    fn a_sequential_reader_gets_a_growing_window_and_a_random_one_none() {
        let mut streams = Streams::default();
        let step = 128 << 10;
        assert_eq!(streams.note(&(0..step), 1 << 20, plain), None);
        assert_eq!(
            streams.note(&(step..2 * step), 1 << 20, plain),
            Some(2 * step..3 * step)
        );
        for n in 2..10 {
            streams.note(&(n * step..(n + 1) * step), 1 << 20, plain);
        }
        assert_eq!(
            streams.note(&(10 * step..11 * step), 1 << 20, plain),
            Some(11 * step..11 * step + (1 << 20))
        );
        for n in 1..20u64 {
            assert_eq!(
                streams.note(&((n * 7919) << 20..((n * 7919) << 20) + 4096), 1 << 20, plain),
                None
            );
        }
    }

    #[test]
    fn two_interleaved_readers_are_both_followed() {
        let mut streams = Streams::default();
        let far = 1 << 40;
        for n in 0..5u64 {
            let (a, b) = (n * 4096, far + n * 4096);
            assert_eq!(streams.note(&(a..a + 4096), 1 << 20, plain).is_some(), n > 0);
            assert_eq!(streams.note(&(b..b + 4096), 1 << 20, plain).is_some(), n > 0);
        }
    }

    #[test]
    fn a_jump_over_a_hole_continues_the_stream() {
        let (from, to) = (8 << 20, 1 << 30);
        let data = |range: Range<u64>, most: u64| {
            let before = range.end.min(from).saturating_sub(range.start);
            let behind = range.end.saturating_sub(range.start.max(to));
            (before + behind <= most).then_some(before + behind)
        };
        let mut streams = Streams::default();
        // The reads that are left before the hole come after the first read behind it.
        for n in 0..6u64 {
            streams.note(&(n << 20..(n + 1) << 20), 4 << 20, data);
        }
        let read = to..to + (1 << 20);
        let ahead = Some(read.end..read.end + (4 << 20));
        assert_eq!(streams.note(&read, 4 << 20, data), ahead);
        for n in 6..8u64 {
            assert_eq!(streams.note(&(n << 20..(n + 1) << 20), 4 << 20, data), ahead);
        }
        assert_eq!(streams.note(&(1 << 35..(1 << 35) + 4096), 4 << 20, data), None);
    }

    #[test]
    fn small_pieces_of_data_between_holes_are_a_stream() {
        // Every second block of 4 KiB is a hole.
        let data = |range: Range<u64>, most: u64| {
            let blocks = range.start / 4096..range.end.div_ceil(4096);
            let bytes = blocks.filter(|n| n % 2 == 0).count() as u64 * 4096;
            (bytes <= most).then_some(bytes)
        };
        let mut streams = Streams::default();
        let missed = (0..1000u64).filter(|n| {
            let at = n * 8192;
            streams.note(&(at..at + 4096), 48 << 20, data).is_none()
        });
        assert_eq!(missed.count(), 1);
    }

    #[test]
    fn eight_large_reads_at_once_are_one_stream() {
        let mut streams = Streams::default();
        let read = |n: u64| (2 * n) << 20..(2 * n + 1) << 20;
        assert_eq!(streams.note(&read(0), 48 << 20, plain), None);
        for n in [1, 2, 4, 3, 5, 7, 6] {
            assert!(streams.note(&read(n), 48 << 20, plain).is_some(), "read {n}");
        }
        assert_eq!(streams.streams.len(), 1);
    }

    #[test]
    fn a_late_read_belongs_to_its_stream_and_random_ones_take_nothing_from_it() {
        let mut streams = Streams::default();
        let mib = |n: u64| n << 20..(n + 1) << 20;
        for n in (0..20).chain([21, 22]) {
            streams.note(&mib(n), 48 << 20, plain);
        }
        let behind = Some(23 << 20..71 << 20);
        assert_eq!(streams.note(&mib(20), 48 << 20, plain), behind);
        for n in 0..40 {
            assert_eq!(streams.note(&mib((n + 1) * 7919), 48 << 20, plain), None);
            let end = (24 + n) << 20;
            let ahead = Some(end..end + (48 << 20));
            assert_eq!(streams.note(&mib(23 + n), 48 << 20, plain), ahead);
        }
    }

    #[test]
    fn reading_half_of_it_or_a_little_again_is_a_stream() {
        for (len, step) in [(128u64, 256u64), (128, 124)] {
            let mut streams = Streams::default();
            // The first two reads make it a stream.
            let starts = [0, len].into_iter().chain((1..2000).map(|n| len + n * step));
            let missed = starts.filter(|at| {
                streams
                    .note(&(at << 10..(at + len) << 10), 48 << 20, plain)
                    .is_none()
            });
            assert_eq!(missed.count(), 1, "{len} KiB every {step}");
        }
    }

    #[test]
    fn random_reads_near_a_stream_do_not_become_one() {
        let mut streams = Streams::default();
        let step = 64 << 10;
        // Two blocks that follow each other by chance, then anything within 256 MiB.
        streams.note(&(0..step), 48 << 20, plain);
        streams.note(&(step..2 * step), 48 << 20, plain);
        let mut taken = 0;
        for n in 1..2000u64 {
            let at = (n * 2_654_435_761) % 4096 * step;
            taken += u64::from(streams.note(&(at..at + step), 48 << 20, plain).is_some());
        }
        assert!(taken < 200, "{taken} of 2000");
    }
}
