//! Requests that nobody waits for any more, but which the server may still perform.
//!
//! A change whose connection broke, or that got no answer in time, was sent again, and then answered. The
//! first attempt may still be under way, behind a proxy that cut the connection or in a server thread that
//! waits for its storage. It carries the same bytes, so it does no harm as long as these are the newest ones.
//! But newer bytes for the same blocks, sent now, could be overwritten by it later. They wait until the
//! attempt is over as far as anybody can tell ([`Doubt::Until`]). Where nobody can tell ([`Doubt::Forever`]),
//! newer bytes for that place fail the disk, unless the transfer of the attempt has ended meanwhile, and
//! every request with it ([`Strays::retire`]).

use std::ops::Range;
use std::sync::Arc;

use super::payload::{BLOCK_BYTES, Payload};
use crate::pool::Doubt;
use crate::sync::Instant;

/// Upper bound on the kept bytes of strays. Beyond it the oldest are dropped, and every change to their
/// blocks counts as different from them.
const MAX_KEPT_BYTES: usize = 32 << 20;

/// One attempt that may still be performed.
#[derive(Debug)]
struct Stray {
    range: Range<u64>,
    /// The change that it makes, as long as that is kept.
    payload: Option<Arc<Payload>>,
    doubt: Doubt,
}

impl Stray {
    /// Returns its range in whole blocks, since a file backend rewrites those.
    fn blocks(&self) -> Range<u64> {
        self.range.start / BLOCK_BYTES * BLOCK_BYTES..self.range.end.next_multiple_of(BLOCK_BYTES)
    }

    /// True when performing it after `payload` at `start` would change nothing.
    fn agrees(&self, start: u64, payload: &Payload) -> bool {
        let (blocks, end) = (self.blocks(), start + payload.len());
        let shared = start.max(blocks.start)..end.min(blocks.end);
        if shared.start < self.range.start || shared.end > self.range.end {
            return false;
        }
        let from = |base: u64| (shared.start - base) as usize..(shared.end - base) as usize;
        match (self.payload.as_deref(), payload) {
            (Some(Payload::Data(old)), Payload::Data(new)) => old[from(self.range.start)] == new[from(start)],
            (Some(Payload::Zero(_)), Payload::Zero(_)) => true,
            _ => false,
        }
    }
}

/// The verdict of the strays about a request.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Passage {
    /// It may go now.
    Free,
    /// It has to wait until then.
    Wait(Instant),
    /// It may never go, because of a stray for these bytes.
    Blocked(Range<u64>),
}

/// The attempts that may still be performed, the oldest first. It is plain data under the table's lock.
#[derive(Debug, Default)]
pub(crate) struct Strays {
    list: Vec<Stray>,
}

impl Strays {
    /// Adds an attempt to put `payload` at `start`, which may still be performed.
    pub(crate) fn add(&mut self, start: u64, payload: Arc<Payload>, doubt: Doubt) {
        let now = Instant::now();
        self.list.retain(|stray| stray.doubt > Doubt::Until(now));
        self.list.push(Stray {
            range: start..start + payload.len(),
            payload: Some(payload),
            doubt,
        });
        let mut room = MAX_KEPT_BYTES;
        for stray in self.list.iter_mut().rev() {
            let cost = stray.payload.as_ref().map_or(0, |payload| payload.cost());
            match room.checked_sub(cost) {
                Some(rest) => room = rest,
                None => stray.payload = None,
            }
        }
    }

    /// Forgets the attempts that were made with a right below `retired`, which can't be performed any more.
    /// Returns false when there are none.
    pub(crate) fn retire(&mut self, retired: u64) -> bool {
        let before = self.list.len();
        self.list.retain(|stray| stray.doubt.is_open(retired));
        self.list.len() < before
    }

    /// Decides whether `payload` may be written at `start` now.
    pub(crate) fn passage(&mut self, start: u64, payload: &Payload, now: Instant) -> Passage {
        if self.list.is_empty() {
            return Passage::Free;
        }
        self.list.retain(|stray| stray.doubt > Doubt::Until(now));
        let end = start + payload.len();
        let mut passage = Passage::Free;
        for stray in &self.list {
            let blocks = stray.blocks();
            if blocks.end <= start || end <= blocks.start || stray.agrees(start, payload) {
                continue;
            }
            passage = match (stray.doubt, passage) {
                (Doubt::Forever(_), _) => return Passage::Blocked(stray.range.clone()),
                (Doubt::Until(at), Passage::Wait(other)) => Passage::Wait(at.max(other)),
                (Doubt::Until(at), _) => Passage::Wait(at),
            };
        }
        passage
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn data(len: usize, fill: u8) -> Payload {
        Payload::Data(vec![fill; len])
    }

    #[test]
    fn the_same_bytes_pass_and_newer_ones_wait() {
        let (mut strays, now) = (Strays::default(), Instant::now());
        let later = now + Duration::from_secs(5);
        strays.add(8192, Arc::new(data(4096, 1)), Doubt::Until(later));
        assert_eq!(strays.passage(8192, &data(4096, 1), now), Passage::Free);
        assert_eq!(strays.passage(0, &data(8192, 2), now), Passage::Free);
        assert_eq!(strays.passage(8192, &data(4096, 2), now), Passage::Wait(later));
        assert_eq!(strays.passage(12287, &data(10, 2), now), Passage::Wait(later));
        assert_eq!(strays.passage(8192, &Payload::Zero(1), now), Passage::Wait(later));
        assert_eq!(strays.passage(8192, &data(4096, 2), later), Passage::Free);
    }

    #[test]
    fn a_stray_that_ends_in_a_block_speaks_for_the_whole_block() {
        let (mut strays, now) = (Strays::default(), Instant::now());
        strays.add(100, Arc::new(data(100, 1)), Doubt::Forever(0));
        assert_eq!(strays.passage(0, &data(50, 7), now), Passage::Blocked(100..200));
        assert_eq!(strays.passage(120, &data(50, 1), now), Passage::Free);
        assert_eq!(strays.passage(4096, &data(50, 7), now), Passage::Free);
    }

    #[test]
    fn strays_of_a_transfer_are_over_when_it_has_ended() {
        let (mut strays, now) = (Strays::default(), Instant::now());
        strays.add(0, Arc::new(data(4096, 1)), Doubt::Forever(1));
        strays.retire(1);
        assert_eq!(strays.passage(0, &data(50, 7), now), Passage::Blocked(0..4096));
        strays.retire(2);
        assert_eq!(strays.passage(0, &data(50, 7), now), Passage::Free);
    }

    #[test]
    fn the_bytes_kept_are_bounded_and_the_oldest_are_forgotten_first() {
        let (mut strays, now) = (Strays::default(), Instant::now());
        let mib = 1 << 20;
        for n in 0..70u64 {
            strays.add(n * mib as u64, Arc::new(data(mib, 1)), Doubt::Forever(0));
        }
        assert_eq!(
            strays.passage(0, &data(mib, 1), now),
            Passage::Blocked(0..mib as u64)
        );
        assert_eq!(strays.passage(69 * mib as u64, &data(mib, 1), now), Passage::Free);
    }
}
