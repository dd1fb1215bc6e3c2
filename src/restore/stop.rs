//! How a signal stops a restore: waits for the engine end, and copies and comparisons stop at the next
//! request. Each copy has a flag of its own, since a failure of one sets its flag and stops no other.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use crate::block_hash::Watch;
use crate::engine::Interrupt;

/// See the head of this file.
#[derive(Default)]
pub(super) struct Stop {
    pub(super) interrupt: Interrupt,
    pub(super) watch: Arc<Watch>,
    begun: AtomicBool,
    /// The VM that is being made, and the disks that are whole, for people: there is no way back then.
    making: Mutex<Option<(String, String)>>,
    copies: Mutex<Vec<Arc<AtomicBool>>>,
}

impl Stop {
    /// Stops; false where it was stopped before.
    pub(super) fn begin(&self) -> bool {
        self.interrupt.set();
        self.watch.stop();
        let copies = self.copies.lock();
        let is_first = !self.begun.swap(true, Ordering::Relaxed);
        copies.iter().for_each(|copy| copy.store(true, Ordering::Relaxed));
        is_first
    }

    pub(super) fn has_begun(&self) -> bool {
        self.begun.load(Ordering::Relaxed)
    }

    /// The VM `name` is being made now, of `disks`.
    pub(super) fn set_making(&self, name: &str, disks: &str) {
        *self.making.lock() = Some((name.to_owned(), disks.to_owned()));
    }

    /// Returns the VM that is being made, and its disks, for people.
    pub(super) fn making(&self) -> Option<(String, String)> {
        self.making.lock().clone()
    }

    /// Returns the flag of a copy that begins now.
    pub(super) fn of_copy(&self) -> Arc<AtomicBool> {
        let mut copies = self.copies.lock();
        let copy = Arc::new(AtomicBool::new(self.has_begun()));
        copies.push(copy.clone());
        copy
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_stops_copies_that_have_begun_and_those_that_are_yet_to_begin() {
        let stop = Stop::default();
        let before = stop.of_copy();
        let failed = stop.of_copy();
        failed.store(true, Ordering::Relaxed);
        assert!(!before.load(Ordering::Relaxed) && !stop.has_begun());
        assert!(stop.begin() && !stop.begin());
        assert!(before.load(Ordering::Relaxed) && stop.of_copy().load(Ordering::Relaxed));
        assert!(stop.interrupt.check().is_err() && stop.watch.check().is_err());
    }
}
