//! Opens a disk, or several, in a thread, so that a signal can cut it short; what was begun in the engine is
//! then taken back.

use std::path::Path;

use crossbeam::channel::{Receiver, bounded, select};

use super::OpenDisk;
use crate::engine::Interrupt;
use crate::failure::{Exit, Failure};
use crate::process::spawn;
use crate::settings::{DiskSettings, Source, Task};
use crate::signals;

/// Says that the thread which opens the disk has panicked.
const CONNECTING_FAILED: &str =
    "internal error while connecting; report it with the log of --log-level debug (--log-file PATH)";

/// Whoever ends what was begun in the engine, if a second signal comes before all is taken back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LeftTo {
    Recover,
    /// The engine ends by itself a transfer that nobody looks after.
    TheEngine,
}

impl OpenDisk {
    /// Opens the disk in a thread of its own; an event in `inbox` meanwhile ends that in order. `signal`
    /// tells the number of a signal from other events.
    pub(crate) fn open_unless_interrupted<E>(
        settings: &DiskSettings,
        place: &Path,
        inbox: &Receiver<E>,
        signal: impl Fn(&E) -> Option<i32>,
    ) -> Result<OpenDisk, Failure> {
        let (wanted, path) = (settings.clone(), place.to_owned());
        let has_engine = matches!(settings.source, Source::Engine(_));
        let open = move |interrupt: &Interrupt| OpenDisk::open(&wanted, &path, interrupt);
        let left_to = has_engine.then_some(match settings.unattended {
            true => LeftTo::TheEngine,
            false => LeftTo::Recover,
        });
        unless_interrupted(open, settings.task, left_to, inbox, signal)
    }
}

/// Does `open` in a thread of its own; an event in `inbox` meanwhile ends that in order. With an engine,
/// where `left_to` is something, there may be something to take back then: what `open` returns all the same,
/// or has begun, ends as it is dropped.
pub(super) fn unless_interrupted<T: Send + 'static, E>(
    open: impl FnOnce(&Interrupt) -> Result<T, Failure> + Send + 'static,
    task: Task,
    left_to: Option<LeftTo>,
    inbox: &Receiver<E>,
    signal: impl Fn(&E) -> Option<i32>,
) -> Result<T, Failure> {
    let (done, opened) = bounded(1);
    let interrupt = Interrupt::default();
    let interruption = interrupt.clone();
    spawn("open", move || drop(done.send(open(&interrupt))))?;
    select! {
        recv(opened) -> disk => {
            disk.map_err(|_| Failure::text(Exit::Other, CONNECTING_FAILED))?
        }
        recv(inbox) -> event => {
            interruption.set();
            let signal = event.ok().and_then(|event| signal(&event));
            if let (Some(signal), Some(left_to)) = (signal, left_to) {
                let what = match left_to {
                    LeftTo::TheEngine => {
                        "what was begun in the engine is taken back; the next signal leaves that to it"
                    }
                    LeftTo::Recover => {
                        "what was begun in the engine is taken back; the next signal leaves that to \
                         `rhv-mount recover`"
                    }
                };
                signals::tell(signal, what);
            }
            Err(wait_until_taken_back(task, left_to, opened, inbox))
        }
    }
}

/// Waits until what was begun in the engine is taken back; a second signal leaves it to whom `left_to` says.
fn wait_until_taken_back<T: Send + 'static, E>(
    task: Task,
    left_to: Option<LeftTo>,
    opened: Receiver<Result<T, Failure>>,
    inbox: &Receiver<E>,
) -> Failure {
    let interrupted = match task {
        Task::Mount => "interrupted before the disk was mounted",
        Task::Upload | Task::Download => "interrupted before the first byte was copied",
        Task::Checksum | Task::Backup | Task::Restore => "interrupted before the disk was open",
    };
    let failure = Failure::text(Exit::Other, interrupted);
    if left_to.is_none() {
        return failure;
    }
    let (done, taken_back) = bounded(1);
    let waiting = spawn("take back", move || {
        // A disk that opened all the same ends as it is dropped.
        let failure = opened.recv().ok().and_then(Result::err);
        let _ = done.send(failure);
    });
    if waiting.is_err() {
        return failure;
    }
    select! {
        recv(taken_back) -> taken => taken.ok().flatten().unwrap_or(failure),
        recv(inbox) -> _ => Failure::text(
            Exit::Other,
            match left_to {
                Some(LeftTo::TheEngine) => {
                    format!("{interrupted}, and again before all was taken back, which the engine does")
                }
                _ => format!("{interrupted}, and again before all was taken back; see `rhv-mount recover`"),
            },
        ),
    }
}
