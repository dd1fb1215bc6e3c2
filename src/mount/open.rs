//! Opens the disk in a thread, so that a signal can cut it short; what was begun in the engine is then taken
//! back.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};

use crossbeam::channel::{Receiver, bounded, select};
use parking_lot::Mutex;

use super::mountpoint::Mountpoint;
use super::record::Place;
use super::{Event, Mount, MountedDisk, interrupted, verification};
use crate::engine::Interrupt;
use crate::failure::{Exit, Failure};
use crate::fuse::OpenFiles;
use crate::open_disk::OpenDisk;
use crate::process::{runtime_directory, spawn};
use crate::settings::{Settings, Source};
use crate::supervisor::Supervisor;

/// Says that the thread which opens the disk has panicked.
const CONNECTING_FAILED: &str =
    "internal error while connecting; report it with the log of --log-level debug (--log-file PATH)";

/// Opens the disk in a thread of its own; a signal meanwhile ends that in order.
pub(super) fn open_unless_interrupted(
    settings: Settings,
    mountpoint: Mountpoint,
    inbox: &Receiver<Event>,
    supervisor: Arc<Supervisor>,
) -> Result<Mount, Failure> {
    let (done, opened) = bounded(1);
    let (wanted, path) = (settings.disk.clone(), mountpoint.path.clone());
    let interrupt = Interrupt::default();
    let interruption = interrupt.clone();
    spawn("open", move || {
        drop(done.send(OpenDisk::open(&wanted, &path, &interrupt)))
    })?;
    let disk = select! {
        recv(opened) -> disk => {
            disk.map_err(|_| Failure::text(Exit::Other, CONNECTING_FAILED))??
        }
        recv(inbox) -> event => {
            interruption.set();
            if let (Ok(Event::Signal(signal)), Source::Engine(_)) = (event, &settings.disk.source) {
                interrupted::tell(
                    signal,
                    "what was begun in the engine is taken back; the next signal leaves that to `rhv-mount \
                     recover`",
                );
            }
            return Err(wait_until_taken_back(&settings.disk.source, opened, inbox));
        }
    };
    verification::check(&settings, &disk)?;
    let directory = runtime_directory::directory()
        .map_err(|e| Failure::text(Exit::Other, format!("cannot use the runtime directory: {e}")))?;
    let disk = MountedDisk {
        file_name: settings.file_name.clone(),
        disk: Arc::new(disk),
    };
    Ok(Mount {
        place: Place::of(&directory, &mountpoint.path),
        _kept: runtime_directory::keep(),
        settings,
        mountpoint,
        disks: vec![disk],
        open_files: OpenFiles::default(),
        numbers: OnceLock::new(),
        umount_line: Mutex::default(),
        ending: AtomicBool::new(false),
        pid_file: OnceLock::new(),
        supervisor,
    })
}

/// Waits until what was begun in the engine is taken back; a second signal leaves it to `recover`.
fn wait_until_taken_back(
    source: &Source,
    opened: Receiver<Result<OpenDisk, Failure>>,
    inbox: &Receiver<Event>,
) -> Failure {
    let interrupted = Failure::text(Exit::Other, "interrupted before the disk was mounted");
    if matches!(source, Source::Transfer(_)) {
        return interrupted;
    }
    let (done, taken_back) = bounded(1);
    let waiting = spawn("take back", move || {
        // A disk that opened all the same ends as it is dropped.
        let failure = opened.recv().ok().and_then(Result::err);
        let _ = done.send(failure);
    });
    if waiting.is_err() {
        return interrupted;
    }
    select! {
        recv(taken_back) -> failure => failure.ok().flatten().unwrap_or(interrupted),
        recv(inbox) -> _ => Failure::text(
            Exit::Other,
            "interrupted before the disk was mounted, and again before all was taken back; see `rhv-mount \
             recover`",
        ),
    }
}
