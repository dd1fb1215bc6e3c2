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

#[derive(Debug, Clone, Copy)]
struct Stream {
    end: u64,
    window: u64,
}

/// See the head of this file. The most recent stream comes first.
#[derive(Debug, Default)]
pub(super) struct Streams(Vec<Stream>);

impl Streams {
    /// Notes a read; returns what should be fetched ahead, if it continues a stream. A window begins
    /// with the bytes of the read and ends at `max` bytes.
    pub(super) fn note(&mut self, read: &Range<u64>, max: u64) -> Option<Range<u64>> {
        let continues = |s: &Stream| {
            // Exactly at the end always counts; around it only once the stream has proved itself.
            let slack = if s.window > 0 { SLACK.min(4 * s.window) } else { 0 };
            read.start <= s.end + slack && read.start + slack >= s.end
        };
        let Some(at) = self.0.iter().position(continues) else {
            self.0.truncate(STREAMS - 1);
            self.0.insert(
                0,
                Stream {
                    end: read.end,
                    window: 0,
                },
            );
            return None;
        };
        let mut stream = self.0.remove(at);
        stream.window = (2 * stream.window).max(read.end - read.start).min(max);
        stream.end = stream.end.max(read.end);
        self.0.insert(0, stream);
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
        assert_eq!(streams.note(&(0..step), 1 << 20), None);
        assert_eq!(streams.note(&(step..2 * step), 1 << 20), Some(2 * step..3 * step));
        for n in 2..10 {
            streams.note(&(n * step..(n + 1) * step), 1 << 20);
        }
        assert_eq!(
            streams.note(&(10 * step..11 * step), 1 << 20),
            Some(11 * step..11 * step + (1 << 20))
        );
        for n in 1..20u64 {
            assert_eq!(
                streams.note(&((n * 7919) << 20..((n * 7919) << 20) + 4096), 1 << 20),
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
            assert_eq!(streams.note(&(a..a + 4096), 1 << 20).is_some(), n > 0);
            assert_eq!(streams.note(&(b..b + 4096), 1 << 20).is_some(), n > 0);
        }
    }
}
