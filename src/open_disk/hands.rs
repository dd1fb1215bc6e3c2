//! The threads that end a disk. They are there from its opening on: where a system grants no thread at the
//! end, the main thread would have to do their work, and no signal could cut it short.

use std::panic::{AssertUnwindSafe, catch_unwind};

use crossbeam::channel::{Sender, unbounded};

use crate::failure::Failure;
use crate::process::spawn;

/// The threads that end a disk, which wait for work from its opening on.
pub(super) struct Hands {
    pub(super) close: Hand,
    pub(super) finalize: Hand,
}

impl Hands {
    pub(super) fn start() -> Result<Hands, Failure> {
        Ok(Hands {
            close: Hand::start("close")?,
            finalize: Hand::start("finalize")?,
        })
    }
}

type Job = Box<dyn FnOnce() + Send>;

/// A thread that does one job after the other, and ends when this is dropped.
pub(super) struct Hand(Sender<Job>);

impl Hand {
    fn start(name: &str) -> Result<Hand, Failure> {
        let (jobs, inbox) = unbounded::<Job>();
        spawn(name, move || {
            for job in inbox {
                // A job reports by itself that it has panicked.
                let _ = catch_unwind(AssertUnwindSafe(job));
            }
        })?;
        Ok(Hand(jobs))
    }

    pub(super) fn do_next(&self, job: impl FnOnce() + Send + 'static) {
        // The thread lives as long as this.
        let _ = self.0.send(Box::new(job));
    }
}
