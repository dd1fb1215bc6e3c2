//! The disk of a mount, opened unless a signal comes first, and the mount's place on this machine.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};

use crossbeam::channel::Receiver;
use parking_lot::Mutex;

use super::mountpoint::Mountpoint;
use super::record::Place;
use super::{Event, Mount, MountedDisk, verification};
use crate::failure::{Exit, Failure};
use crate::fuse::OpenFiles;
use crate::open_disk::OpenDisk;
use crate::process::runtime_directory;
use crate::settings::Settings;
use crate::supervisor::Supervisor;

/// Opens the disk; a signal meanwhile ends that in order.
pub(super) fn open_unless_interrupted(
    settings: Settings,
    mountpoint: Mountpoint,
    inbox: &Receiver<Event>,
    supervisor: Arc<Supervisor>,
) -> Result<Mount, Failure> {
    let signal = |event: &Event| match event {
        Event::Signal(signal) => Some(*signal),
        _ => None,
    };
    let disk = OpenDisk::open_unless_interrupted(&settings.disk, &mountpoint.path, inbox, signal)?;
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
