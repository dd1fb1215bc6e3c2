//! Keeps idle connections and the ticket alive.
//!
//! The server closes a connection that is silent for the ticket's inactivity timeout (60 s by default),
//! and the ticket itself expires when nothing happens on it. Each connection has a thread that looks every
//! few seconds whether it was not used for a third of that, and sends a flush where writes wait for one, else OPTIONS
//! (flush is refused on read tickets, OPTIONS counts as activity on every ticket).

use std::sync::Arc;
use std::time::Duration;

use super::Pool;
use crate::sync::mpsc::{RecvTimeoutError, Sender, channel};
use crate::sync::thread;

/// The inactivity timeout that a ticket has unless it was given another one: the shortest usual one.
pub(crate) const USUAL_TIMEOUT: Duration = Duration::from_secs(60);

/// Who says less than this, or 0, can't be kept alive by us.
const MIN_TIMEOUT: Duration = Duration::from_secs(1);

/// A connection unused for this part of the timeout gets a keep-alive.
const IDLE_PER_TIMEOUT: u32 = 3;

/// How often to look, in that time.
const LOOKS_PER_IDLE: u32 = 4;

/// The keep-alive threads, one for each connection: one that hangs delays nobody else. They end when this is
/// dropped, after the request that they may be in.
pub(crate) struct Keeper {
    _stop: Vec<Sender<()>>,
}

impl Keeper {
    /// Starts to watch `pool`, whose server drops what is unused for `timeout`.
    pub(crate) fn start(pool: &Arc<Pool>, timeout: Duration) -> std::io::Result<Self> {
        let idle = timeout.clamp(MIN_TIMEOUT, USUAL_TIMEOUT) / IDLE_PER_TIMEOUT;
        let watch = |slot| {
            let (stop, stopped) = channel();
            let pool = pool.clone();
            let look = move || {
                while let Err(RecvTimeoutError::Timeout) = stopped.recv_timeout(idle / LOOKS_PER_IDLE) {
                    if let Some(mut lease) = pool.lease_idle(slot, idle) {
                        lease.keep_alive();
                    }
                }
            };
            thread::Builder::new()
                .name(format!("keeper-{}", slot + 1))
                .spawn(look)?;
            Ok(stop)
        };
        let stop = (0..pool.connections())
            .map(watch)
            .collect::<std::io::Result<_>>()?;
        Ok(Keeper { _stop: stop })
    }
}
