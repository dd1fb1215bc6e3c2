//! The size of large requests for data: full ones, or halves where those are answered faster.
//!
//! A full request costs least where the server or its storage is far away: whatever passes between two
//! requests passes half as often. A server that is near prefers halves, for the sake of memory. qemu-nbd,
//! which oVirt has behind imageio, allocates a buffer for each request, and glibc gives the memory of free
//! buffers back to the kernel as soon as there are 16 MiB of it: twice the largest request so far
//! (mallopt(3), on M_MMAP_THRESHOLD and M_TRIM_THRESHOLD). With four full requests on their way that is after
//! nearly each of them, and qemu-nbd takes a page fault for every 4 KiB of the disk. Halves find their memory
//! in place, once full ones have gone before them. The figures are in docs/performance.md.
//!
//! So both sizes are tried, in windows of some requests, and the one goes on whose requests move more bytes
//! in a second of a connection's time. The other is tried again later, at longer and longer intervals. Only
//! requests of one of the two sizes count, and only answered ones.
//!
//! The threads that have just got an answer tell it here, and those that make the next request ask. Nothing
//! depends on the choice but speed.

use std::time::Duration;

use parking_lot::Mutex;

use super::Op;

/// Size in bytes of a full request. imageio takes in as many before it turns to the storage, and no more.
const FULL_BYTES: u64 = 8 << 20;

/// Bytes that a window moves: one full request for each of the usual four connections.
const WINDOW_BYTES: u64 = 32 << 20;

/// Windows of the better size before the other one is tried again, at first and at most.
const PAUSE_WINDOWS: (u32, u32) = (16, 64);

/// Factor by which the speed of the other size must exceed that of the better one to take its place, so that
/// chance does not decide between two that are alike.
const MARGIN: f64 = 1.05;

/// The trials of one pool: what is best for reads may not be best for writes.
#[derive(Debug, Default)]
pub(super) struct Sizes {
    reads: Mutex<Trial>,
    writes: Mutex<Trial>,
}

impl Sizes {
    fn of(&self, op: Op) -> Option<&Mutex<Trial>> {
        match op {
            Op::Read => Some(&self.reads),
            Op::Write => Some(&self.writes),
            _ => None,
        }
    }

    /// Returns the size in bytes that a large request should have now, at most `most`.
    pub(super) fn size(&self, op: Op, most: u64) -> u64 {
        match self.of(op) {
            Some(trial) if most >= FULL_BYTES => trial.lock().now.bytes(),
            _ => most,
        }
    }

    /// Notes that a request for `bytes` bytes was answered, after the connection was busy with it for `time`.
    pub(super) fn note(&self, op: Op, bytes: u64, time: Duration) {
        if let (Some(trial), Some(size)) = (self.of(op), Size::of(bytes)) {
            trial.lock().note(size, bytes, time);
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Size {
    Full,
    Half,
}

impl Size {
    /// Returns the size that a request of so many bytes stands for, if it is large enough for one.
    fn of(bytes: u64) -> Option<Size> {
        let is_nearly = |full: u64| (full / 4 * 3..=full).contains(&bytes);
        match (is_nearly(FULL_BYTES), is_nearly(FULL_BYTES / 2)) {
            (true, _) => Some(Size::Full),
            (_, true) => Some(Size::Half),
            _ => None,
        }
    }

    fn bytes(self) -> u64 {
        match self {
            Size::Full => FULL_BYTES,
            Size::Half => FULL_BYTES / 2,
        }
    }

    fn other(self) -> Size {
        match self {
            Size::Full => Size::Half,
            Size::Half => Size::Full,
        }
    }
}

/// One direction: the size that is in use, and what is known of both.
#[derive(Debug)]
struct Trial {
    now: Size,
    /// Halves, until full requests prove faster: those are much faster where they are at all.
    best: Size,
    /// The bytes that the present window has moved so far, and the time of the connections that it took.
    window: (u64, Duration),
    /// The first window is over. It does not count, since connections and memory were new.
    is_warm: bool,
    /// Bytes that a second of a connection has moved in requests of each size, of the best one's windows the
    /// last ones most of all.
    speeds: [Option<f64>; 2],
    /// Windows of the best size until the other one is tried, and how many there will be after that.
    left: u32,
    pause: u32,
}

impl Default for Trial {
    fn default() -> Self {
        Trial {
            now: Size::Full,
            best: Size::Half,
            window: (0, Duration::ZERO),
            is_warm: false,
            speeds: [None; 2],
            left: 0,
            pause: 0,
        }
    }
}

impl Trial {
    fn note(&mut self, size: Size, bytes: u64, time: Duration) {
        // A request from before the last change says nothing about this window.
        if size != self.now {
            return;
        }
        self.window.0 += bytes;
        self.window.1 += time;
        if self.window.0 < WINDOW_BYTES {
            return;
        }
        let (bytes, time) = std::mem::take(&mut self.window);
        if !std::mem::replace(&mut self.is_warm, true) {
            self.now = size.other();
            return;
        }
        let speed = bytes as f64 / time.as_secs_f64().max(1e-9);
        let known = &mut self.speeds[size as usize];
        // The speed that was known of the other size may be old.
        *known = Some(match *known {
            Some(before) if size == self.best => (before + speed) / 2.0,
            _ => speed,
        });
        self.choose();
    }

    /// Chooses the size of the next window.
    fn choose(&mut self) {
        let other = self.best.other();
        let [Some(best), Some(rival)] = [self.best, other].map(|size| self.speeds[size as usize]) else {
            self.now = self.now.other();
            return;
        };
        if rival > best * MARGIN {
            (self.best, self.pause) = (other, PAUSE_WINDOWS.0);
        } else if self.now != self.best {
            self.pause = (2 * self.pause).clamp(PAUSE_WINDOWS.0, PAUSE_WINDOWS.1);
        } else {
            self.left = self.left.saturating_sub(1);
            if self.left == 0 {
                self.now = other;
            }
            return;
        }
        (self.now, self.left) = (self.best, self.pause);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Moves `bytes` in requests of the size that is asked for; `time` says how long one of them takes.
    /// Returns the part of the bytes that went in halves.
    fn moved(sizes: &Sizes, bytes: u64, time: impl Fn(u64) -> Duration) -> f64 {
        let (mut at, mut halves) = (0, 0);
        while at < bytes {
            let size = sizes.size(Op::Write, FULL_BYTES);
            sizes.note(Op::Write, size, time(size));
            at += size;
            halves += if size < FULL_BYTES { size } else { 0 };
        }
        halves as f64 / bytes as f64
    }

    /// The time of a request that takes `fixed` ms beside a millisecond for each MiB.
    fn taking(fixed: u64) -> impl Fn(u64) -> Duration {
        move |bytes| Duration::from_millis(fixed + (bytes >> 20))
    }

    #[test]
    fn full_requests_stay_where_each_costs_time_of_its_own() {
        let sizes = Sizes::default();
        assert!(moved(&sizes, 1 << 30, taking(20)) < 0.2);
        assert!(moved(&sizes, 16 << 30, taking(20)) < 0.05);
        assert_eq!(sizes.size(Op::Write, FULL_BYTES), FULL_BYTES);
    }

    /// A full request takes 12 ms where a half takes 4, because of its memory.
    #[test]
    fn halves_are_taken_where_they_are_answered_faster() {
        let sizes = Sizes::default();
        let near = |bytes: u64| Duration::from_millis(if bytes < FULL_BYTES { 4 } else { 12 });
        assert!(moved(&sizes, 1 << 30, near) > 0.8);
        assert!(moved(&sizes, 16 << 30, near) > 0.95);
    }

    #[test]
    fn the_first_requests_are_full_and_do_not_count() {
        let sizes = Sizes::default();
        let first = |_| Duration::from_secs(60);
        assert_eq!(moved(&sizes, WINDOW_BYTES, first), 0.0);
        assert!(moved(&sizes, 2 << 30, taking(20)) < 0.2);
    }

    /// Storage may become slower in the middle of a copy, as its cache fills up.
    #[test]
    fn a_choice_is_made_again_when_the_storage_has_changed() {
        let sizes = Sizes::default();
        let near = |bytes: u64| Duration::from_millis(if bytes < FULL_BYTES { 4 } else { 12 });
        moved(&sizes, 1 << 30, near);
        assert!(moved(&sizes, 4 << 30, taking(20)) < 0.4);
        assert!(moved(&sizes, 4 << 30, near) > 0.5);
    }

    #[test]
    fn other_requests_neither_count_nor_change() {
        let sizes = Sizes::default();
        for bytes in [1, 1 << 20, 5 << 20, 16 << 20] {
            (0..1000).for_each(|_| sizes.note(Op::Write, bytes, Duration::from_secs(1)));
        }
        (0..1000).for_each(|_| sizes.note(Op::Zero, FULL_BYTES, Duration::from_secs(1)));
        assert_eq!(moved(&sizes, WINDOW_BYTES, taking(0)), 0.0);
        assert_eq!(sizes.size(Op::Write, FULL_BYTES), FULL_BYTES / 2);
        assert_eq!(
            sizes.size(Op::Write, 1 << 20),
            1 << 20,
            "the user's memory bounds it"
        );
        assert_eq!(
            sizes.size(Op::Read, FULL_BYTES),
            FULL_BYTES,
            "reads have their own trial"
        );
    }
}
