//! Says whether somebody still waits for a change that a thread is to make.
//!
//! A change is made by the thread that a program waits for. Its edge ([`flag`]) may learn meanwhile that the
//! program was killed: a change that has no room yet, or waits for the extents, is then refused, because
//! accepted later it could follow a newer one of the same bytes. The flag belongs to the thread, and whoever
//! hands it a request clears it first.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

thread_local! {
    static GONE: Arc<AtomicBool> = Arc::default();
}

/// Returns the flag of this thread. Once it is set, [`Disk::look_at_callers`](super::Disk::look_at_callers)
/// has it seen.
pub(crate) fn flag() -> Arc<AtomicBool> {
    GONE.with(Arc::clone)
}

/// True when nobody waits any more for what this thread does.
pub(super) fn is_gone() -> bool {
    GONE.with(|gone| gone.load(Ordering::Relaxed))
}
