//! Changes that nobody waits for any more.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::time::Duration;

use crate::disk::write::WriteBehind;
use crate::disk::{DiskError, caller};

/// Starts a thread whose change has no room, and returns its flag and how to wait for its result.
fn waiting(writes: &Arc<WriteBehind>) -> (Arc<AtomicBool>, impl Fn(Duration) -> Option<DiskError>) {
    let (tell_flag, told_flag) = channel();
    let (tell, told) = channel();
    let writes = writes.clone();
    std::thread::spawn(move || {
        tell_flag.send(caller::flag()).unwrap();
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
