//! How a signal stops a backup: waits for the engine end, copying threads stop at the next request, and so do
//! comparisons. What has begun in the engine is ended all the same.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::block_hash::Watch;
use crate::engine::Interrupt;

/// See the head of this file.
#[derive(Default)]
pub(crate) struct Stop {
    pub(super) interrupt: Interrupt,
    /// Copying threads look at it.
    pub(super) copying: AtomicBool,
    pub(super) watch: Arc<Watch>,
    /// No part of the backup is open in the engine, and none will be.
    over: AtomicBool,
}

impl Stop {
    /// Stops; false where it was stopped before.
    pub(crate) fn begin(&self) -> bool {
        self.interrupt.set();
        self.watch.stop();
        !self.copying.swap(true, Ordering::Relaxed)
    }

    pub(super) fn has_begun(&self) -> bool {
        self.copying.load(Ordering::Relaxed)
    }

    pub(super) fn set_over(&self) {
        self.over.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }
}
