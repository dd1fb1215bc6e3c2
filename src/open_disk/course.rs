//! How far the work on a disk has got, how fast it goes on, and how long that will take.
//!
//! Bytes that a program has written count as they are acknowledged, those that it reads as they arrive. What
//! the whole is can be known or guessed: what the extents say for a disk that is read, the size of a file
//! that COMMAND copies, the size of a new disk. A guess that turns out too small was none.
//!
//! The speed is that of the last seconds, so [`Course::look`] has to be called every few seconds.

use std::collections::VecDeque;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::DiskStatus;
use crate::amounts;

/// The time over which the speed is measured.
const WINDOW: Duration = Duration::from_secs(10);

/// Shortest time between two looks that are remembered, and over which a speed is told.
const MIN_GAP: Duration = Duration::from_millis(400);

/// See the head of this file.
#[derive(Debug)]
pub(super) struct Course {
    /// The sizes in bytes that the whole may have when a disk is written, the likeliest first.
    written_wholes: OnceLock<Vec<u64>>,
    /// The looks of the last [`WINDOW`] and one before, the oldest first; never empty.
    looks: Mutex<VecDeque<Look>>,
}

#[derive(Debug, Clone, Copy)]
struct Look {
    at: Instant,
    bytes: u64,
}

/// The speed of the work, and what is left of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Pace {
    pub(super) bytes_per_second: u64,
    pub(super) total: Option<u64>,
    pub(super) seconds_left: Option<u64>,
}

impl Course {
    /// The course of a work that begins now.
    pub(super) fn begin() -> Course {
        let first = Look {
            at: Instant::now(),
            bytes: 0,
        };
        Course {
            written_wholes: OnceLock::new(),
            looks: Mutex::new(VecDeque::from([first])),
        }
    }

    /// Tells how much may be written, in bytes, the likeliest number first. Called once.
    pub(super) fn expect(&self, wholes: Vec<u64>) {
        let _ = self.written_wholes.set(wholes);
    }

    /// The numbers that were told to [`Self::expect`].
    pub(super) fn written_wholes(&self) -> &[u64] {
        self.written_wholes.get().map_or(&[], Vec::as_slice)
    }

    /// Returns the pace at a moment when `bytes` are done of a whole that may have one of the sizes `wholes`.
    pub(super) fn look(&self, bytes: u64, wholes: &[u64]) -> Pace {
        self.look_at(Instant::now(), bytes, wholes)
    }

    fn look_at(&self, at: Instant, bytes: u64, wholes: &[u64]) -> Pace {
        let mut looks = self.looks.lock();
        let last = looks.back().copied();
        if last.is_some_and(|last| bytes < last.bytes) {
            // A disk that was read is written now.
            looks.clear();
        }
        if last.is_none_or(|last| at.saturating_duration_since(last.at) >= MIN_GAP) || looks.is_empty() {
            looks.push_back(Look { at, bytes });
        }
        let is_old =
            |look: Option<&Look>| look.is_some_and(|look| at.saturating_duration_since(look.at) > WINDOW);
        while is_old(looks.get(1)) {
            looks.pop_front();
        }
        let first = looks.front().copied().unwrap_or(Look { at, bytes });
        let passed = at.saturating_duration_since(first.at);
        let speed = match passed >= MIN_GAP {
            true => (bytes.saturating_sub(first.bytes) as f64 / passed.as_secs_f64()) as u64,
            false => 0,
        };
        let total = wholes.iter().copied().find(|whole| *whole >= bytes);
        let left = total.map(|total| total - bytes).filter(|_| speed > 0);
        Pace {
            bytes_per_second: speed,
            total,
            seconds_left: left.map(|left| left.div_ceil(speed)),
        }
    }
}

impl DiskStatus {
    /// How much of a whole that is known is done, in per cent, rounded down.
    pub(crate) fn percent(&self) -> Option<u64> {
        let total = self.bytes_total.filter(|total| *total > 0)?;
        Some((u128::from(self.bytes_done) * 100 / u128::from(total)) as u64)
    }

    /// Says for people how fast the work goes and how far it has got; nothing where nothing moves.
    pub(crate) fn pace_shown(&self) -> Option<String> {
        let mut parts = Vec::new();
        if self.bytes_per_second > 0 {
            parts.push(format!("{}/s", amounts::size(self.bytes_per_second)));
        }
        if let (Some(percent), Some(total), 1..) = (self.percent(), self.bytes_total, self.bytes_done) {
            parts.push(format!("{percent} % of {}", amounts::size(total)));
        }
        if let Some(left) = self.seconds_left {
            parts.push(format!("{} left", amounts::time(left)));
        }
        (!parts.is_empty()).then(|| parts.join(", "))
    }

    /// Says what keeps the data from moving, if anything does.
    pub(crate) fn trouble(&self) -> Option<String> {
        let silence = self.unanswered_seconds.map(|seconds| {
            format!(
                "no answer from the server for {}, trying again",
                amounts::time(seconds)
            )
        });
        let phase = self.transfer_phase.as_deref();
        let phase = phase.filter(|phase| !matches!(*phase, "transferring" | "ending"));
        let phase = phase.map(|phase| format!("transfer {phase}"));
        let failure = self
            .failure
            .as_ref()
            .map(|why| format!("DATA MAY BE LOST: {why}"));
        let all: Vec<String> = silence.into_iter().chain(phase).chain(failure).collect();
        (!all.is_empty()).then(|| all.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    /// The pace after looks at these seconds, each with the MiB that are done.
    fn pace(looks: &[(u64, u64)], wholes: &[u64]) -> Pace {
        let course = Course::begin();
        let began = course.looks.lock()[0].at;
        let look = |&(second, mib): &(u64, u64)| {
            course.look_at(began + Duration::from_secs(second), mib * MIB, wholes)
        };
        looks.iter().map(look).last().unwrap()
    }

    #[test]
    fn the_speed_is_that_of_the_last_seconds_and_the_rest_takes_as_long_with_it() {
        let all: Vec<_> = (1..=60).map(|second| (second, 10 * second)).collect();
        let expected = Pace {
            bytes_per_second: 10 * MIB,
            total: Some(1000 * MIB),
            seconds_left: Some(40),
        };
        assert_eq!(pace(&all, &[1000 * MIB]), expected);
        let stalled: Vec<_> = (1..=60).map(|second| (second, 10 * second.min(30))).collect();
        assert_eq!(
            pace(&stalled, &[1000 * MIB]).seconds_left,
            None,
            "it stands still"
        );
        assert_eq!(pace(&[(100, 100)], &[]).bytes_per_second, MIB, "the first look");
    }

    #[test]
    fn a_whole_that_is_exceeded_was_none() {
        let total = |mib| pace(&[(1, mib)], &[100 * MIB, 200 * MIB]).total;
        assert_eq!(total(100), Some(100 * MIB));
        assert_eq!(total(101), Some(200 * MIB));
        assert_eq!(total(201), None);
    }

    #[test]
    fn work_that_turns_to_something_else_is_measured_anew() {
        let turned = pace(&[(1, 100), (2, 200), (3, 5), (4, 15)], &[]);
        assert_eq!(turned.bytes_per_second, 10 * MIB);
    }

    #[test]
    fn what_nobody_knows_is_not_shown() {
        let mut disk = DiskStatus::default();
        assert_eq!((disk.pace_shown(), disk.trouble()), (None, None));
        disk.bytes_total = Some(20 << 30);
        assert_eq!(disk.pace_shown(), None, "nothing has moved");
        (disk.bytes_done, disk.bytes_per_second, disk.seconds_left) = (5 << 30, 310 * MIB, Some(49));
        assert_eq!(
            disk.pace_shown().unwrap(),
            "310.00 MiB/s, 25 % of 20.00 GiB, 49 s left"
        );
        disk.unanswered_seconds = Some(12);
        disk.transfer_phase = Some("resuming".to_owned());
        assert_eq!(
            disk.trouble().unwrap(),
            "no answer from the server for 12 s, trying again, transfer resuming"
        );
    }
}
