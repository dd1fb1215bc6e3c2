//! Waiting for the engine: growing pauses, a limit, and an end at a signal.
//!
//! The engine's own steps take 1 to 10 s on a busy one and nothing on an idle one, so a pause is a tenth of what was
//! waited already, up to a second: no wait gets longer by more than a tenth, and a long one costs few requests.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::Error;

const SHORTEST_PAUSE: Duration = Duration::from_millis(40);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
const PART: u32 = 10;

/// A signal is looked for this often.
const SLICE: Duration = Duration::from_millis(50);

/// Set by whoever wants a wait to end. Clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Ends all waits, now and later.
    pub(crate) fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// An error once it was set.
    pub(crate) fn check(&self) -> Result<(), Error> {
        match self.0.load(Ordering::Relaxed) {
            true => Err(Error::Interrupted),
            false => Ok(()),
        }
    }

    /// Sleeps, unless it is set.
    pub(crate) fn sleep(&self, time: Duration) -> Result<(), Error> {
        let end = Instant::now() + time;
        loop {
            self.check()?;
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            sleep(left.min(SLICE));
        }
    }
}

/// One wait.
pub(crate) struct Patience<'a> {
    interrupt: &'a Interrupt,
    began: Instant,
    limit: Duration,
}

impl<'a> Patience<'a> {
    pub(crate) fn new(limit: Duration, interrupt: &'a Interrupt) -> Self {
        Patience {
            interrupt,
            began: Instant::now(),
            limit,
        }
    }

    pub(crate) fn waited(&self) -> Duration {
        self.began.elapsed()
    }

    /// Sleeps until the next look; false when the limit is reached.
    pub(crate) fn pause(&mut self) -> Result<bool, Error> {
        let left = self.limit.saturating_sub(self.began.elapsed());
        if left.is_zero() {
            return Ok(false);
        }
        let pause = (self.waited() / PART).clamp(SHORTEST_PAUSE, LONGEST_PAUSE);
        self.interrupt.sleep(pause.min(left))?;
        Ok(true)
    }
}
