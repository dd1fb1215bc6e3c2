//! The checksum of a disk: opened, hashed, ended, with an answer to each signal meanwhile.

use std::sync::Arc;
use std::time::Duration;

use crossbeam::channel::{Receiver, select, unbounded};

use super::show::Show;
use super::{attend, heard};
use crate::block_hash::{Checksum, Watch};
use crate::failure::{Exit, Failure};
use crate::open_disk::{Ending, OpenDisk, Work, needs};
use crate::output::tell;
use crate::process::rights;
use crate::settings::checksum::ChecksumSettings;

/// How often the end is looked at.
const END_INTERVAL: Duration = Duration::from_secs(5);

/// The checksum of a disk.
pub(super) struct OfDisk {
    pub(super) checksum: Checksum,
    /// Bytes of the disk.
    pub(super) size: u64,
    pub(super) by_server: bool,
}

/// Returns the checksum, and the exit code: that of the transfer's end, which is told here.
pub(super) fn checksum(settings: &ChecksumSettings, show: &mut Show) -> Result<(OfDisk, u8), Failure> {
    needs::check(&settings.disk, 1)?;
    rights::cut_down()?;
    let signals = heard()?;
    let number = |signal: &i32| Some(*signal);
    let disk = OpenDisk::open_unless_interrupted(&settings.disk, &settings.place, &signals, number)?;
    let disk = Arc::new(disk);
    disk.set_used();
    let watch = Arc::new(Watch::default());
    let (hashed, seen, method) = (disk.clone(), watch.clone(), settings.method);
    let size = disk.disk().capacity();
    let result = attend(
        move || hashed.block_hash(method, &seen),
        &watch,
        &signals,
        // Nothing is read here while the server is at work.
        || {
            show.row(
                &settings.shown,
                watch.done(),
                Some(size).filter(|_| watch.done() > 0),
            )
        },
    );
    let work = match result {
        Ok(_) => Work::Done,
        Err(_) => Work::Failed,
    };
    let signalled = watch.check().is_err();
    let failures = end(disk, work, settings, &signals, signalled);
    failures.iter().for_each(tell);
    let worst = failures.iter().map(|failure| failure.exit).max();
    let hash = result?;
    let told = OfDisk {
        checksum: hash.checksum,
        size,
        by_server: hash.by_server,
    };
    Ok((told, worst.unwrap_or(Exit::Done) as u8))
}

/// Ends the disk and its transfer; returns what went wrong. The first signal, which may have come before,
/// only says what is happening; the next ones give up.
fn end(
    disk: Arc<OpenDisk>,
    work: Work,
    settings: &ChecksumSettings,
    signals: &Receiver<i32>,
    mut signalled: bool,
) -> Vec<Failure> {
    let limits = (settings.disk.retry_time, settings.disk.timeout);
    let (give, steps) = unbounded();
    let mut ending = Ending::begin(disk, work, limits, None, move |step| drop(give.send(step)));
    while !ending.is_over() {
        select! {
            recv(steps) -> step => match step {
                Ok(step) => ending.step(step),
                Err(_) => ending.abandon(),
            },
            recv(signals) -> _ => {
                if std::mem::replace(&mut signalled, true) {
                    ending.give_up();
                }
                ending.answer().iter().for_each(tell);
            }
            default(END_INTERVAL) => ending.look(),
        }
    }
    ending.outcome().map_or(Vec::new(), |outcome| outcome.failures)
}
