//! Recognises sequential readers, so that only they cause prefetches.
//!
//! Several readers may run through the disk at once, and one reader's requests come slightly out of
//! order (the kernel's readahead, eight coroutines of qemu-img). A read near the end of
//! a known stream continues it and doubles its window; a read elsewhere opens a new one.

use std::ops::Range;

/// Streams followed at once; the one idle for longest makes room.
const STREAMS: usize = 8;

/// How far around a stream's end a read may be and still belong to it, bytes: 8 reads of 2 MiB.
const SLACK: u64 = 16 << 20;

/// Who asks for this many bytes at once is no random reader, bytes: qemu-img's eight first reads are one stream.
const BULK: u64 = 512 << 10;

/// A stream that had none of the last so many reads is no reason any more to leave the others a part of the cache.
const RECENT: u64 = 64;

#[derive(Debug, Clone, Copy)]
struct Stream {
    end: u64,
    window: u64,
    /// Number of its last read.
    last: u64,
}

/// See the head of this file. The most recent stream comes first.
#[derive(Debug, Default)]
pub(super) struct Streams {
    streams: Vec<Stream>,
    reads: u64,
}

impl Streams {
    /// Notes a read; returns what should be fetched ahead, if it continues a stream. `beyond(at, bytes)` gives the offset
    /// that is so many bytes of data further on than `at`: who jumps over a hole reads on, also when a last read before the
    /// hole comes later. A window begins after the furthest read; the windows of all streams together end at `max` bytes.
    pub(super) fn note(
        &mut self,
        read: &Range<u64>,
        max: u64,
        beyond: impl Fn(u64, u64) -> u64,
    ) -> Option<Range<u64>> {
        let continues = |s: &Stream| {
            // Exactly at the end always counts; around it only once the stream has proved itself.
            let slack = SLACK.min(4 * s.window);
            match slack {
                0 => read.start == s.end,
                _ if read.start.abs_diff(s.end) <= slack => true,
                _ => beyond(read.start.min(s.end), slack) >= read.start.max(s.end),
            }
        };
        self.reads += 1;
        let len = read.end - read.start;
        let Some(at) = self.streams.iter().position(continues) else {
            self.streams.truncate(STREAMS - 1);
            let stream = Stream {
                end: read.end,
                window: if len >= BULK { len } else { 0 },
                last: self.reads,
            };
            self.streams.insert(0, stream);
            return None;
        };
        let mut stream = self.streams.remove(at);
        let recent = |s: &&Stream| s.window > 0 && s.last + RECENT > self.reads;
        let share = max / (1 + self.streams.iter().filter(recent).count() as u64);
        stream.window = (2 * stream.window).max(len).min(share);
        stream.end = stream.end.max(read.end);
        stream.last = self.reads;
        self.streams.insert(0, stream);
        Some(stream.end..stream.end + stream.window)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(at: u64, bytes: u64) -> u64 {
        at + bytes
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
    fn who_jumps_over_a_hole_reads_on() {
        let (from, to) = (8 << 20, 1 << 30);
        let beyond = |at: u64, bytes: u64| match at + bytes {
            end if end < from => end,
            end => end.max(end - at.max(from).min(end) + to),
        };
        let mut streams = Streams::default();
        // What is left before the hole comes after the first read behind it.
        for n in 0..6u64 {
            streams.note(&(n << 20..(n + 1) << 20), 4 << 20, beyond);
        }
        let read = to..to + (1 << 20);
        let ahead = Some(read.end..read.end + (4 << 20));
        assert_eq!(streams.note(&read, 4 << 20, beyond), ahead);
        for n in 6..8u64 {
            assert_eq!(streams.note(&(n << 20..(n + 1) << 20), 4 << 20, beyond), ahead);
        }
        assert_eq!(streams.note(&(1 << 35..(1 << 35) + 4096), 4 << 20, beyond), None);
    }

    #[test]
    fn eight_large_reads_at_once_are_one_stream() {
        let mut streams = Streams::default();
        let read = |n: u64| 2 * n << 20..(2 * n + 1) << 20;
        assert_eq!(streams.note(&read(0), 48 << 20, plain), None);
        for n in [1, 2, 4, 3, 5, 7, 6] {
            assert!(streams.note(&read(n), 48 << 20, plain).is_some(), "read {n}");
        }
        assert_eq!(streams.streams.len(), 1);
    }
}
