//! The end of the disk of a copy, and the outcome: what `mount::close` does for the disks of a mount.

use std::sync::Arc;
use std::time::Duration;

use crossbeam::channel::{Receiver, RecvTimeoutError, Sender};

use super::outcome::{Outcome, Proven};
use super::proof::Proof;
use super::{CopyError, Event};
use crate::failure::{Exit, Failure};
use crate::images::ImageError;
use crate::logging::announce_failure;
use crate::open_disk::{Ending, OpenDisk, Work};
use crate::output;
use crate::settings::Task;
use crate::settings::copy::CopySettings;
use crate::signals;
use crate::supervisor::{Stage, Supervisor, statistics};

/// How often the way to the storage is looked at while the last data is on it.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);

/// A copy that is over.
pub(super) struct End<'a> {
    pub(super) settings: &'a CopySettings,
    pub(super) disk: Arc<OpenDisk>,
    pub(super) work: Work,
    /// Why it failed.
    pub(super) failure: Option<CopyError>,
    /// Words about what a download that has failed leaves.
    pub(super) remains: String,
    /// A signal has come: the next one gives up.
    pub(super) signalled: bool,
    /// Compares the disk with what was copied.
    pub(super) proof: Option<Proof>,
    /// The hash that both sides were found to have, once there is one.
    pub(super) proven: Option<Proven>,
    /// Keeps how it ended.
    pub(super) outcome: &'a Outcome,
}

/// Ends the disk, and tells the outcome. The first signal only says what is happening anyway, and what the
/// next one does; the next ones give up. Returns the exit code.
pub(super) fn end(
    mut end: End<'_>,
    inbox: &Receiver<Event>,
    events: &Sender<Event>,
    supervisor: &Supervisor,
) -> u8 {
    let limits = (end.settings.disk.retry_time, end.settings.disk.timeout);
    let reports = events.clone();
    let report = move |step| drop(reports.send(Event::Disk(step)));
    let fate = end.disk.when_stopped(true);
    let name = end.settings.image.shown().display().to_string();
    let proof = end.proof.take().map(|proof| proof.at_the_end(name));
    let mut ending = Ending::begin(end.disk.clone(), end.work, limits, proof, report);
    let mut flushing = true;
    while !ending.is_over() {
        if flushing && !ending.is_draining() {
            flushing = false;
            supervisor.enter(Stage::Finalizing);
        }
        match inbox.recv_timeout(LOOK_INTERVAL) {
            Ok(Event::Disk(step)) => ending.step(step),
            Ok(Event::Signal(signal)) => {
                if std::mem::replace(&mut end.signalled, true) {
                    ending.give_up();
                }
                if let Some(answer) = ending.answer() {
                    signals::tell(signal, &answer);
                }
            }
            // It was given up before.
            Ok(Event::Copied(_)) => {}
            Err(RecvTimeoutError::Timeout) => ending.look(),
            Err(RecvTimeoutError::Disconnected) => ending.abandon(),
        }
    }
    let of_disk = ending
        .outcome()
        .map(|outcome| outcome.failures)
        .unwrap_or_default();
    let of_copy = end
        .failure
        .take()
        .and_then(|error| told(error, &end, &fate, &of_disk));
    tell(&end, of_copy.into_iter().chain(of_disk).collect(), supervisor)
}

/// Why the copy has failed, with the fate of the image and of the disk; `None` where the disk's end tells it.
fn told(error: CopyError, end: &End<'_>, fate: &str, of_disk: &[Failure]) -> Option<Failure> {
    if error.is_told_at_the_end() && of_disk.iter().any(|failure| failure.exit == Exit::DataLoss) {
        return None;
    }
    let image = end.settings.image.shown().display();
    let exit = error.exit();
    let is_all = matches!(
        error,
        CopyError::Stopped | CopyError::Unpublished | CopyError::Image(ImageError::Unflushed { .. })
    );
    let what = match end.settings.disk.task {
        Task::Download => format!("cannot download to {image}: {error}"),
        Task::Upload | Task::Mount | Task::Checksum | Task::Backup | Task::Restore => {
            format!("cannot upload {image}: {error}")
        }
    };
    let text = match (end.settings.disk.task, end.work) {
        // The error says all of it, or the answer to the signal did.
        _ if is_all => what,
        (Task::Download, _) => format!("{what}; {}", end.remains),
        (_, Work::Unused) => what,
        (_, Work::Done | Work::Failed) => format!("{what}; {fate}"),
    };
    Some(Failure::text(exit, text))
}

/// Tells the outcome to everybody who waits for it; returns the exit code.
fn tell(end: &End<'_>, failures: Vec<Failure>, supervisor: &Supervisor) -> u8 {
    let texts: Vec<String> = failures.iter().map(ToString::to_string).collect();
    let worst = failures.iter().map(|failure| failure.exit).max();
    let code = worst.unwrap_or(Exit::Done) as u8;
    let message = (!texts.is_empty()).then(|| texts.join("; "));
    if let Some(message) = &message {
        announce_failure(message);
    }
    let lines = end.settings.output.stats.map(|form| {
        let disks = std::iter::once(&end.disk);
        statistics::lines(disks, form)
    });
    lines.into_iter().flatten().for_each(output::tell_plainly);
    let status = end.disk.status();
    end.outcome
        .end(Some(&status), code, message.as_deref(), end.proven.as_ref());
    supervisor.end(code, message);
    code
}
