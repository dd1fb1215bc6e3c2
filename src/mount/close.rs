//! The end of the disks, and then of their backup, once the mount is out of the tree: the outcome, and who
//! hears it.

use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, RecvTimeoutError, Sender};
use tracing::warn;

use super::record::Ending;
use super::wait::Ended;
use super::{Event, Mount, MountedDisk, control, in_backup, verification};
use crate::failure::{Exit, Failure};
use crate::logging::announce_failure;
use crate::open_disk::{self, Work};
use crate::output;
use crate::signals;
use crate::supervisor::{Stage, statistics};

/// How often the way to the storage is looked at while the last data is on it.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);

/// How long the end of a mount that has ended badly waits for those who have asked for it just before: their
/// question is read by a thread of its own.
const LATE_LIMIT: Duration = Duration::from_millis(50);

/// Told to `umount` when it had to go on although the FUSE session has not ended.
const CUT_OFF: &str = "something still holds the file system, another mount of it or a request under way; \
                       it is cut off, and reading or writing through it is an error from now on";

/// Ends each disk, and tells the outcome. The first signal only says what is happening anyway, and what the
/// next one does: here, or before where no COMMAND ran. The next ones give up, see
/// [`open_disk::Ending::give_up`]; so no ctrl-C gives up data where that was not announced. Each is answered
/// at once. Returns the exit code: COMMAND's own failure, whatever became of the data (which is told), else
/// the outcome's.
pub(super) fn close(mount: &Mount, inbox: &Receiver<Event>, events: &Sender<Event>, ended: &mut Ended) -> u8 {
    let work = match ended.command {
        Some(1..) => Work::Failed,
        _ if ended.unused => Work::Unused,
        _ => Work::Done,
    };
    let limits = (mount.settings.disk.retry_time, mount.settings.disk.timeout);
    let begin = |(n, mounted): (usize, &MountedDisk)| {
        let disk = mounted.disk.clone();
        let file = mount.of_vm.as_ref().map(|_| mounted.file_name.as_os_str());
        let events = events.clone();
        let report = move |step| drop(events.send(Event::Disk(n, step)));
        let proof = match work {
            Work::Done => verification::proof(&mount.settings, file),
            Work::Failed | Work::Unused => None,
        };
        open_disk::Ending::begin(disk, work, limits, proof, report)
    };
    let mut endings: Vec<_> = mount.disks.iter().enumerate().map(begin).collect();
    let mut flushing = true;
    while !endings.iter().all(open_disk::Ending::is_over) {
        if flushing && !endings.iter().any(open_disk::Ending::is_draining) {
            flushing = false;
            mount.supervisor.enter(Stage::Finalizing);
        }
        match inbox.recv_timeout(LOOK_INTERVAL) {
            Ok(Event::Disk(n, step)) => endings[n].step(step),
            Ok(Event::Umount(stream)) => ended.waiting.push(stream),
            Ok(Event::Signal(signal)) if ended.has_answered(signal) => {}
            Ok(Event::Signal(signal)) => {
                if std::mem::replace(&mut ended.signalled, true) {
                    ended.gave_up = true;
                    endings.iter_mut().for_each(open_disk::Ending::give_up);
                }
                for (mounted, ending) in mount.disks.iter().zip(&endings) {
                    let answer = ending.answer().map(|answer| of_disk(mount, mounted, &answer));
                    answer.iter().for_each(|answer| signals::tell(signal, answer));
                }
            }
            Ok(Event::Unmounted | Event::CommandEnded(_) | Event::BackupEnded(_)) => {}
            Err(RecvTimeoutError::Timeout) => endings.iter_mut().for_each(open_disk::Ending::look),
            Err(RecvTimeoutError::Disconnected) => {
                endings.iter_mut().for_each(open_disk::Ending::abandon);
            }
        }
    }
    let mut failures: Vec<Failure> = Vec::new();
    for (mounted, ending) in mount.disks.iter().zip(&mut endings) {
        let failed = ending.outcome().into_iter().flat_map(|outcome| outcome.failures);
        failures.extend(
            failed.map(|failure| Failure::text(failure.exit, of_disk(mount, mounted, &failure.to_string()))),
        );
    }
    failures.extend(in_backup::end(mount, inbox, events, ended));
    // Whoever reads a part of the disks is to know that it was not the whole.
    failures.extend(mount.broken.iter().map(|one| Failure::text(one.exit, one.told())));
    let ending = ending(mount, &failures, ended.cut_off);
    let code = ended.command.filter(|code| *code != 0).unwrap_or(ending.code);
    tell(mount, &ending, code);
    for stream in std::mem::take(&mut ended.waiting) {
        control::answer(stream, &ending);
    }
    // The socket is gone by now. Those who asked just before are answered too: the end of this process would
    // be a good one to them.
    let until = Instant::now()
        + if ending.code == 0 {
            Duration::ZERO
        } else {
            LATE_LIMIT
        };
    while let Ok(event) = inbox.recv_deadline(until) {
        if let Event::Umount(stream) = event {
            control::answer(stream, &ending);
        }
    }
    code
}

/// Says of which of several disks `text` is.
fn of_disk(mount: &Mount, mounted: &MountedDisk, text: &str) -> String {
    match mount.of_vm {
        Some(_) => format!("{}: {text}", mounted.file_name.to_string_lossy()),
        None => text.to_owned(),
    }
}

fn ending(mount: &Mount, failures: &[Failure], cut_off: bool) -> Ending {
    let texts: Vec<String> = failures.iter().map(ToString::to_string).collect();
    let worst = failures.iter().map(|failure| failure.exit).max();
    Ending {
        code: worst.unwrap_or(Exit::Done) as u8,
        message: (!texts.is_empty()).then(|| texts.join("; ")),
        mountpoint: Some(mount.mountpoint.path.clone()),
        notes: cut_off.then(|| CUT_OFF.to_owned()).into_iter().collect(),
        held: mount.numbers.get().copied().filter(|_| cut_off),
        detached: false,
        stats: match mount.settings.output.stats {
            Some(form) => statistics::lines(mount.disks(), form),
            None => Vec::new(),
        },
    }
}

/// Tells the outcome where the mount was started, and takes its files away. A bad one is kept until somebody
/// has heard it, for the next who asks: a `umount` that hears it removes it, and one that was killed while it
/// waited does not.
fn tell(mount: &Mount, ending: &Ending, code: u8) {
    if let Some(message) = &ending.message {
        announce_failure(message);
        if mount.settings.command.is_empty() {
            let _ = mount.place.write_ending(ending).inspect_err(|e| {
                warn!("the outcome cannot be kept for `rhv-mount umount`: {e}");
            });
        }
    }
    for line in &ending.stats {
        output::tell_plainly(line);
    }
    mount.place.clear();
    // It goes before anybody is told that all is over; the drop of the mountpoint would come too late.
    mount.mountpoint.remove_made();
    mount.supervisor.end(code, ending.message.clone());
    mount.remove_pid_file();
}
