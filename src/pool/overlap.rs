//! Flushes at the same time, each on its own connection: none is believed before all are answered.
//!
//! A storage reports a loss once, to whichever flush comes first. Another flush beside it may then succeed,
//! and be answered earlier, although the loss is about its writes. So a flush that has succeeded waits for
//! those that were sent before its answer. If one of them was the report, everything unflushed has been
//! called back by then ([`Replay::replay_all`](super::Replay::replay_all)).
//!
//! A flush of all connections is one of them: it holds every lease, but a connection that was being made when
//! it began may carry a flush beside it.

use crate::remote::RemoteError;
use crate::sync::{Condvar, Mutex};

/// The flushes at work, by numbers that grow.
#[derive(Debug, Default)]
pub(super) struct Overlaps {
    numbers: Mutex<Numbers>,
    ended: Condvar,
}

#[derive(Debug, Default)]
struct Numbers {
    next: u64,
    at_work: Vec<u64>,
}

/// A flush at work; it has ended when this is dropped.
#[must_use]
pub(super) struct Overlap<'a> {
    all: &'a Overlaps,
    number: u64,
}

impl Overlaps {
    /// Notes that a flush is about to be sent.
    pub(super) fn begin(&self) -> Overlap<'_> {
        let mut numbers = self.numbers.lock();
        let number = numbers.next;
        numbers.next += 1;
        numbers.at_work.push(number);
        Overlap { all: self, number }
    }
}

impl Overlap<'_> {
    /// Ends this flush, and waits for those that have begun before. Each of them ends by itself within the
    /// timeouts of its request, and waits for none that begins after its own end.
    pub(super) fn settle(self) {
        let all = self.all;
        drop(self);
        let mut numbers = all.numbers.lock();
        let next = numbers.next;
        while numbers.at_work.iter().any(|number| *number < next) {
            all.ended.wait(&mut numbers);
        }
    }
}

impl Drop for Overlap<'_> {
    fn drop(&mut self) {
        let mut numbers = self.all.numbers.lock();
        numbers.at_work.retain(|number| *number != self.number);
        drop(numbers);
        self.all.ended.notify_all();
    }
}

/// True when the failure of a flush that was `sent` is, or may have been, a report of lost writes.
pub(super) fn tells_of_a_loss(error: &RemoteError, sent: bool) -> bool {
    match error {
        RemoteError::Failed(_) => true,
        RemoteError::Lost(_)
        | RemoteError::Unreachable(_)
        | RemoteError::Late(_)
        | RemoteError::Busy(..)
        | RemoteError::Garbled(_) => sent,
        RemoteError::Over(_) | RemoteError::Denied(..) | RemoteError::Protocol(_) => false,
    }
}

#[cfg(all(test, not(feature = "shuttle")))]
mod tests {
    use std::sync::mpsc::channel;
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_flush_is_believed_when_those_before_its_answer_are_answered() {
        let all = Overlaps::default();
        std::thread::scope(|scope| {
            let (settled, seen) = channel();
            let (first, second) = (all.begin(), all.begin());
            scope.spawn(move || {
                second.settle();
                settled.send(()).unwrap();
            });
            assert!(
                seen.recv_timeout(Duration::from_millis(100)).is_err(),
                "the first is at work"
            );
            drop(first);
            seen.recv_timeout(Duration::from_secs(60))
                .expect("the first has ended");
            // One that begins after an answer is not waited for.
            let (third, _fourth) = (all.begin(), all.begin());
            drop(third);
        });
        all.begin().settle();
    }
}
