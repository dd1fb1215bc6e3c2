//! The first connections of a pool, beside the one that it begins with.
//!
//! Each is dialled by a thread of its own, which has the slot as a lease has it and puts the connection there.
//! A server far away needs several round trips for each, and makes them one after the other; work on the
//! first connection does not wait for that.

use std::sync::Arc;

use tracing::info;

use super::{Pool, Seat};
use crate::remote::Remote;
use crate::sync::thread;

/// A slot whose connection is being made. Dropping it fills the slot.
struct Opening {
    pool: Arc<Pool>,
    index: usize,
    remote: Option<Box<dyn Remote>>,
}

impl Drop for Opening {
    fn drop(&mut self) {
        let seat = Seat::new(self.remote.take());
        self.pool.lock().slots[self.index] = Some(seat);
        self.pool.changed.notify_all();
    }
}

/// Dials the connection of slot `index`, whose place is empty. Where there is no thread for it, the first
/// request on the slot dials.
pub(super) fn dial(pool: &Arc<Pool>, index: usize) {
    let mut opening = Opening {
        pool: pool.clone(),
        index,
        remote: None,
    };
    let connect = move || match opening.pool.dial.dial() {
        Ok(remote) => opening.remote = Some(remote),
        Err(e) => info!(
            connection = index + 1,
            "not made yet, tried again when it is needed: {e}"
        ),
    };
    let builder = thread::Builder::new().name(format!("dial-{}", index + 1));
    // A closure that no thread takes is dropped, and fills the slot.
    let _ = builder.spawn(connect);
}
