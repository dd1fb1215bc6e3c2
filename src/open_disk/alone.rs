//! The end of a disk for whoever has nothing else to wait for: no signal is heard meanwhile, and the limits
//! are those of the end itself.

use std::sync::Arc;
use std::time::Duration;

use crossbeam::channel::{RecvTimeoutError, unbounded};

use super::{Ending, OpenDisk, Work};
use crate::failure::Failure;

/// How often the way to the storage is looked at while the last data is on it.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);

impl OpenDisk {
    /// Ends it, after `work` on it, and returns what has failed. `limits` are the time for retries and the
    /// longest silence of a request.
    pub(crate) fn end_alone(self: Arc<OpenDisk>, work: Work, limits: (Duration, Duration)) -> Vec<Failure> {
        let (tell, steps) = unbounded();
        let mut ending = Ending::begin(self, work, limits, None, move |step| drop(tell.send(step)));
        while !ending.is_over() {
            match steps.recv_timeout(LOOK_INTERVAL) {
                Ok(step) => ending.step(step),
                Err(RecvTimeoutError::Timeout) => ending.look(),
                Err(RecvTimeoutError::Disconnected) => ending.abandon(),
            }
        }
        ending
            .outcome()
            .map(|outcome| outcome.failures)
            .unwrap_or_default()
    }
}
