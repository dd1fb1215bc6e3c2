//! The patience with an engine that does not answer for itself at the start of a run.
//!
//! While an engine starts, its web server is there before it, and answers with pages of errors. That lasts
//! for a minute or so, and a user who waits for a prompt should not wait as long for a wrong URL: so the
//! whole start of a run waits for [`OPENING`], and says so. Later on, each caller has its own limits.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::{Error, Interrupt};
use crate::output::tell;

/// Upper bound on the wait for the engine at the start of a run.
const OPENING: Duration = Duration::from_secs(20);

/// The pause between two attempts in this wait.
const PAUSE: Duration = Duration::from_secs(1);

/// The end of the opening, if it is not over.
#[derive(Debug)]
pub(super) struct Opening {
    until: Option<Instant>,
    told: AtomicBool,
}

impl Opening {
    /// The opening of a run, which begins now.
    pub(super) fn begin() -> Opening {
        Opening {
            until: Some(Instant::now() + OPENING),
            told: AtomicBool::new(false),
        }
    }

    /// An opening that is over: nothing is waited for.
    pub(super) fn over() -> Opening {
        Opening {
            until: None,
            told: AtomicBool::new(false),
        }
    }

    /// Sleeps before another attempt after `error`; returns the error when there shall be none.
    pub(super) fn pause_after(&self, error: Error, interrupt: &Interrupt) -> Result<(), Error> {
        let left = |until: Instant| until.saturating_duration_since(Instant::now());
        let left = self.until.map_or(Duration::ZERO, left);
        if !error.is_unready() || left.is_zero() {
            return Err(error);
        }
        if !self.told.swap(true, Ordering::Relaxed) {
            tell(format_args!(
                "{error} Trying again for {} s",
                left.as_secs().max(1)
            ));
        }
        interrupt.sleep(left.min(PAUSE))
    }
}
