//! Says whether somebody still waits for a change that a thread is to make.
//!
//! A change is made by the thread that a program waits for. Its edge ([`flag`]) may learn meanwhile that the
//! program was killed: a change that has no room yet is then refused, because accepted later it could follow
//! a newer one of the same bytes. The flag belongs to the thread, and whoever hands it a request clears it
//! first.

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

#[cfg(all(test, not(feature = "shuttle")))]
mod tests {
    use std::sync::mpsc::channel;
    use std::time::Duration;

    use super::super::DiskError;
    use super::super::write::WriteBehind;
    use super::*;

    /// Starts a thread whose change has no room, and returns its flag and how to wait for its result.
    fn waiting(writes: &Arc<WriteBehind>) -> (Arc<AtomicBool>, impl Fn(Duration) -> Option<DiskError>) {
        let (tell_flag, told_flag) = channel();
        let (tell, told) = channel();
        let writes = writes.clone();
        std::thread::spawn(move || {
            tell_flag.send(flag()).unwrap();
            tell.send(writes.room().map(drop)).unwrap();
        });
        let result = move |limit| told.recv_timeout(limit).ok().map(|room| room.unwrap_err());
        (told_flag.recv().unwrap(), result)
    }

    #[test]
    fn a_change_without_room_is_refused_when_its_caller_has_gone() {
        let writes = Arc::new(WriteBehind::new(1 << 20, 1, 1 << 20, 8 << 10, 1));
        writes.room().unwrap().table.write(0, &[1; 4096]);
        let (gone, result) = waiting(&writes);
        let (_, others) = waiting(&writes);
        gone.store(true, Ordering::Relaxed);
        let refused = (0..2000).find_map(|_| {
            writes.look_at_callers();
            result(Duration::from_millis(10))
        });
        assert!(matches!(refused, Some(DiskError::Abandoned)), "{refused:?}");
        assert!(others(Duration::ZERO).is_none(), "its caller waits for it");
        writes.refuse_writes();
        let refused = others(Duration::from_secs(60));
        assert!(matches!(refused, Some(DiskError::Closing)), "{refused:?}");
    }
}
