//! Keeps idle connections and the ticket alive.
//!
//! The server closes a connection that is silent for the ticket's inactivity timeout (60 s by default), and
//! the ticket itself expires without activity. Each connection has a thread that checks every few seconds
//! whether the connection has been unused for a third of that time. If so, the thread sends a flush when
//! writes wait for one, else OPTIONS (a read ticket refuses flush, while OPTIONS counts as activity on every
//! ticket). A connection that could not be made at the start is dialled again as often.

use std::sync::Arc;
use std::time::Duration;

use super::{Pool, opening};
use crate::sync::mpsc::{RecvTimeoutError, Sender, channel};
use crate::sync::thread;

/// A ticket's inactivity timeout by default. Longer timeouts are treated as this one.
pub(crate) const USUAL_TIMEOUT: Duration = Duration::from_secs(60);

/// Shorter timeouts, including 0, are treated as this one.
const MIN_TIMEOUT: Duration = Duration::from_secs(1);

/// A connection gets a keep-alive when it has been unused for the timeout divided by this.
const TIMEOUT_DIVISOR: u32 = 3;

/// Number of checks within that idle time.
const CHECKS_PER_IDLE: u32 = 4;

/// The keep-alive threads, one for each connection, so that a hanging one delays no other. Dropping this ends
/// them without waiting; a thread in the middle of a request ends after it.
pub(crate) struct Keeper {
    _stop: Vec<Sender<()>>,
}

impl Keeper {
    /// Starts to keep `pool` alive, whose server drops a connection that is unused for `timeout`.
    pub(crate) fn start(pool: &Arc<Pool>, timeout: Duration) -> std::io::Result<Self> {
        let idle = timeout.clamp(MIN_TIMEOUT, USUAL_TIMEOUT) / TIMEOUT_DIVISOR;
        let watch = |slot| {
            let (stop, stopped) = channel();
            let pool = pool.clone();
            let check = move || {
                while let Err(RecvTimeoutError::Timeout) = stopped.recv_timeout(idle / CHECKS_PER_IDLE) {
                    if opening::dial_again(&pool, slot, idle) {
                        continue;
                    }
                    if let Some(mut lease) = pool.lease_idle(slot, idle) {
                        lease.keep_alive();
                    }
                }
            };
            thread::Builder::new()
                .name(format!("keeper-{}", slot + 1))
                .spawn(check)?;
            Ok(stop)
        };
        let stop = (0..pool.connections())
            .map(watch)
            .collect::<std::io::Result<_>>()?;
        Ok(Keeper { _stop: stop })
    }
}
