//! The first connections of a pool, beside the one that it begins with.
//!
//! Each is dialled by a thread of its own, which puts it into its slot. A server far away needs several round
//! trips for each, and makes them one after the other; no request, flush or end waits for that. Where one
//! can't be made (a firewall that allows fewer), the mount works with the others.

use std::sync::Arc;
use std::time::Duration;

use tracing::{info, warn};

use super::{Pool, Seat};
use crate::remote::{Remote, RemoteError};
use crate::sync::thread;

/// A slot whose connection is being made. Dropping it fills the slot.
struct Opening {
    pool: Arc<Pool>,
    index: usize,
    remote: Option<Box<dyn Remote>>,
}

impl Drop for Opening {
    fn drop(&mut self) {
        let mut state = self.pool.lock();
        // The pool was closed meanwhile: so is this connection.
        let remote = self.remote.take().filter(|_| !state.closed);
        state.slots[self.index] = Some(Seat::new(remote));
        state.opening[self.index] = false;
        drop(state);
        self.pool.changed.notify_all();
    }
}

impl Opening {
    fn of(pool: &Arc<Pool>, index: usize) -> Self {
        Opening {
            pool: pool.clone(),
            index,
            remote: None,
        }
    }

    fn connect(&mut self) -> Result<(), RemoteError> {
        self.remote = Some(self.pool.dial.dial()?);
        Ok(())
    }
}

/// Dials the connection of slot `index`, whose place is empty. Where there is no thread for it, the keeper
/// does.
pub(super) fn dial(pool: &Arc<Pool>, index: usize) {
    let mut opening = Opening::of(pool, index);
    let connect = move || {
        if let Err(e) = opening.connect() {
            let connection = index + 1;
            warn!("connection {connection} could not be made, the others do its work until it can: {e}");
        }
    };
    let builder = thread::Builder::new().name(format!("dial-{}", index + 1));
    // A closure that no thread takes is dropped, and fills the slot.
    let _ = builder.spawn(connect);
}

/// Dials the connection of slot `index` again if none could be made for `idle`; false where that is not so.
pub(super) fn dial_again(pool: &Arc<Pool>, index: usize, idle: Duration) -> bool {
    let mut state = pool.lock();
    let is_due = |seat: &mut Seat| !seat.is_made() && seat.used.elapsed() >= idle;
    if state.closed || state.slots[index].take_if(is_due).is_none() {
        return false;
    }
    state.opening[index] = true;
    drop(state);
    match Opening::of(pool, index).connect() {
        Ok(()) => info!(connection = index + 1, "made at last"),
        Err(e) => info!(connection = index + 1, "could not be made again: {e}"),
    }
    true
}

#[cfg(test)]
impl Pool {
    /// Waits until no connection is being made.
    pub(crate) fn await_all(&self) {
        while self.lock().opening.contains(&true) {
            thread::yield_now();
        }
    }
}

#[cfg(all(test, not(feature = "shuttle")))]
mod tests;
