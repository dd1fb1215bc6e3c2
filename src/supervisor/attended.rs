//! A run of several disks that nobody mounts: its work in a thread, and an ear for signals.
//!
//! The main thread waits for signals, and for the thread with the work. The first signal stops the work,
//! which then ends in order; the second one ends the wait for it. A panic is a failure like others.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use crossbeam::channel::unbounded;

use super::{Supervisor, Told};
use crate::failure::{Exit, Failure};
use crate::logging::announce_failure;
use crate::process::handover::Role;
use crate::process::spawn;
use crate::signals;

/// The texts of a run.
pub(crate) struct Words {
    /// The name of its thread.
    pub(crate) thread: &'static str,
    /// Returns the answer to the first signal.
    pub(crate) stopped: Box<dyn Fn() -> String>,
    /// Returns the failure that is told after the second one.
    pub(crate) given_up: Box<dyn Fn() -> String>,
    pub(crate) panicked: &'static str,
}

/// An event that the main thread waits for.
enum Event {
    Signal(i32),
    Over(Result<Vec<Failure>, Failure>),
}

/// Does `work`, and returns the exit code. The failures in a list are told here, an error is the caller's to
/// tell. `stop` is called for each signal, and returns true at the first.
pub(crate) fn attend(
    run: &Told<'_>,
    words: &Words,
    stop: impl Fn() -> bool,
    work: impl FnOnce(&Arc<Supervisor>) -> Result<Vec<Failure>, Failure> + Send + 'static,
) -> Result<u8, Failure> {
    let supervisor = Arc::new(Supervisor::start(run, Role::Foreground)?);
    let ended = watched(&supervisor, words, stop, work);
    let (code, message) = match &ended {
        Ok(failures) => {
            let texts: Vec<String> = failures.iter().map(ToString::to_string).collect();
            let worst = failures.iter().map(|failure| failure.exit).max();
            let message = (!texts.is_empty()).then(|| texts.join("; "));
            (worst.unwrap_or(Exit::Done) as u8, message)
        }
        Err(failure) => (failure.exit as u8, Some(failure.to_string())),
    };
    if let (Some(message), Ok(_)) = (&message, &ended) {
        announce_failure(message);
    }
    supervisor.end(code, message);
    ended.map(|_| code)
}

fn watched(
    supervisor: &Arc<Supervisor>,
    words: &Words,
    stop: impl Fn() -> bool,
    work: impl FnOnce(&Arc<Supervisor>) -> Result<Vec<Failure>, Failure> + Send + 'static,
) -> Result<Vec<Failure>, Failure> {
    let (events, inbox) = unbounded();
    let (sender, reporter) = (events.clone(), supervisor.clone());
    let forward = move |signal| drop(sender.send(Event::Signal(signal)));
    signals::forward(forward, move || reporter.log_statistics())?;
    let (told, panicked) = (supervisor.clone(), words.panicked);
    spawn(words.thread, move || {
        let result = catch_unwind(AssertUnwindSafe(|| work(&told)));
        let result = result.unwrap_or_else(|_| Err(Failure::text(Exit::Other, panicked)));
        let _ = events.send(Event::Over(result));
    })?;
    loop {
        match inbox.recv() {
            Ok(Event::Over(result)) => return result,
            Ok(Event::Signal(signal)) if stop() => signals::tell(signal, &(words.stopped)()),
            Ok(Event::Signal(_)) => return Err(Failure::text(Exit::Other, (words.given_up)())),
            Err(_) => return Err(Failure::text(Exit::Other, words.panicked)),
        }
    }
}
