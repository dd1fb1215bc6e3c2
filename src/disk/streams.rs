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
    /// Notes a read; returns what should be fetched ahead, if it continues a stream. `skip` gives the first data at or
    /// after an offset: who jumps over a hole reads on. A window begins
    /// with the bytes of the read; the windows of all streams together end at `max` bytes.
    pub(super) fn note(
        &mut self,
        read: &Range<u64>,
        max: u64,
        skip: impl Fn(u64) -> u64,
    ) -> Option<Range<u64>> {
        let continues = |s: &Stream| {
            // Exactly at the end always counts; around it only once the stream has proved itself.
            let slack = if s.window > 0 { SLACK.min(4 * s.window) } else { 0 };
            let near = |end: u64| read.start <= end + slack && read.start + slack >= end;
            near(s.end) || s.window > 0 && near(skip(s.end))
        };
        self.reads += 1;
        let Some(at) = self.streams.iter().position(continues) else {
            self.streams.truncate(STREAMS - 1);
            let stream = Stream {
                end: read.end,
                window: 0,
                last: self.reads,
            };
            self.streams.insert(0, stream);
            return None;
        };
        let mut stream = self.streams.remove(at);
        let recent = |s: &&Stream| s.window > 0 && s.last + RECENT > self.reads;
        let share = max / (1 + self.streams.iter().filter(recent).count() as u64);
        stream.window = (2 * stream.window).max(read.end - read.start).min(share);
        stream.end = stream.end.max(read.end);
        stream.last = self.reads;
        self.streams.insert(0, stream);
        Some(stream.end..stream.end + stream.window)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sequential_reader_gets_a_growing_window_and_a_random_one_none() {
        let mut streams = Streams::default();
        let step = 128 << 10;
        assert_eq!(streams.note(&(0..step), 1 << 20, |end| end), None);
        assert_eq!(
            streams.note(&(step..2 * step), 1 << 20, |end| end),
            Some(2 * step..3 * step)
        );
        for n in 2..10 {
            streams.note(&(n * step..(n + 1) * step), 1 << 20, |end| end);
        }
        assert_eq!(
            streams.note(&(10 * step..11 * step), 1 << 20, |end| end),
            Some(11 * step..11 * step + (1 << 20))
        );
        for n in 1..20u64 {
            assert_eq!(
                streams.note(&((n * 7919) << 20..((n * 7919) << 20) + 4096), 1 << 20, |end| end),
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
            assert_eq!(streams.note(&(a..a + 4096), 1 << 20, |end| end).is_some(), n > 0);
            assert_eq!(streams.note(&(b..b + 4096), 1 << 20, |end| end).is_some(), n > 0);
        }
    }

    #[test]
    fn who_jumps_over_a_hole_reads_on() {
        let mut streams = Streams::default();
        let hole = |at: u64| {
            if (8 << 20..1 << 30).contains(&at) {
                1 << 30
            } else {
                at
            }
        };
        for n in 0..8u64 {
            streams.note(&(n << 20..(n + 1) << 20), 4 << 20, hole);
        }
        let read = 1 << 30..(1 << 30) + (1 << 20);
        assert_eq!(
            streams.note(&read, 4 << 20, hole),
            Some(read.end..read.end + (4 << 20))
        );
        assert_eq!(streams.note(&(1 << 35..1 << 36), 4 << 20, hole), None);
    }
}
