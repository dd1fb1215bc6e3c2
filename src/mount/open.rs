//! The disks of a mount, opened unless a signal comes first, and the mount's place on this machine.

use std::collections::HashMap;
use std::ffi::OsString;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};

use crossbeam::channel::Receiver;
use parking_lot::Mutex;

use super::file_names::file_names;
use super::in_backup::{InBackupNow, OpenBackup};
use super::mountpoint::Mountpoint;
use super::record::Place;
use super::{BrokenDisk, Event, Mount, MountedDisk, OfVm, in_backup, ready, verification};
use crate::engine::Interrupt;
use crate::failure::{Exit, Failure};
use crate::fuse::OpenFiles;
use crate::logging::plain;
use crate::open_disk::of_vm::unless_interrupted;
use crate::open_disk::{OpenDisk, OpenVm, end_in_any_case, left_out_shown};
use crate::output::tell;
use crate::process::{limits, runtime_directory};
use crate::settings::{DiskSettings, Settings, Shown, VmSource};
use crate::supervisor::Supervisor;

/// Opens the disks; a signal meanwhile ends that in order.
pub(super) fn open_unless_interrupted(
    settings: Settings,
    mountpoint: Mountpoint,
    inbox: &Receiver<Event>,
    supervisor: Arc<Supervisor>,
) -> Result<Mount, Failure> {
    let opened = match &settings.disk.source {
        Shown::Disk(source) => {
            let wanted = settings.disk.with(source.clone());
            let disk = OpenDisk::open_unless_interrupted(&wanted, &mountpoint.path, inbox, signal)?;
            Opened {
                disks: vec![MountedDisk {
                    file_name: settings.file_name.clone(),
                    disk: Arc::new(disk),
                    dirty: None,
                    checkpoint: None,
                }],
                broken: Vec::new(),
                of_vm: None,
                backup: None,
            }
        }
        Shown::OfVm(source) => of_vm(&settings.disk.with(source.clone()), &mountpoint, inbox)?,
    };
    let mut disks = opened.disks.iter();
    if let Err(failure) = disks.try_for_each(|one| verification::check(&settings, &one.disk)) {
        end_in_any_case(opened.disks.iter().map(|one| &*one.disk));
        return Err(failure);
    }
    let directory = runtime_directory::directory()
        .map_err(|e| Failure::text(Exit::Other, format!("cannot use the runtime directory: {e}")))?;
    Ok(Mount {
        place: Place::of(&directory, &mountpoint.path),
        _kept: runtime_directory::keep(),
        settings,
        mountpoint,
        disks: opened.disks,
        broken: opened.broken,
        of_vm: opened.of_vm,
        backup: opened.backup.map(Arc::new),
        open_files: OpenFiles::default(),
        numbers: OnceLock::new(),
        umount_line: Mutex::default(),
        ending: AtomicBool::new(false),
        pid_file: OnceLock::new(),
        supervisor,
    })
}

/// The fields are dropped in their order: a backup ends after the disks that are read in it.
struct Opened {
    disks: Vec<MountedDisk>,
    broken: Vec<BrokenDisk>,
    of_vm: Option<OfVm>,
    backup: Option<OpenBackup>,
}

fn signal(event: &Event) -> Option<i32> {
    match event {
        Event::Signal(signal) => Some(*signal),
        _ => None,
    }
}

/// Opens the disks of a VM. Each that takes no part is told: one that could not be opened has a file all the
/// same, and one that is left out has none.
fn of_vm(
    settings: &DiskSettings<Box<VmSource>>,
    mountpoint: &Mountpoint,
    inbox: &Receiver<Event>,
) -> Result<Opened, Failure> {
    let wanted = settings.clone();
    let is_granted = move |count| limits::check(limits::Kind::Mount, ready::needs(&wanted, count));
    let place = mountpoint.path.clone();
    let (mut vm, mut dirty, backup) = match settings.source.backup.clone() {
        None => {
            let vm = OpenVm::open_unless_interrupted(settings, &place, is_granted, inbox, signal)?;
            (vm, HashMap::new(), None)
        }
        Some(how) => {
            let wanted = settings.clone();
            let open =
                move |interrupt: &Interrupt| in_backup::open(&wanted, &how, &place, &is_granted, interrupt);
            let InBackupNow { vm, dirty, backup } = unless_interrupted(open, settings.task, inbox, signal)?;
            (vm, dirty, Some(backup))
        }
    };
    let checkpoint = backup.as_ref().and_then(|backup| backup.status().checkpoint);
    let (all, mut disks, mut broken) = (std::mem::take(&mut vm.disks), Vec::new(), Vec::new());
    let ids: Vec<(&str, &str)> = all
        .iter()
        .map(|one| (one.disk.id.as_str(), one.disk.name.as_str()))
        .collect();
    let left_out = vm.left_out.iter();
    let left_out: Vec<(&str, &str)> = left_out.map(|one| (one.id.as_str(), one.name.as_str())).collect();
    let names = file_names(&ids, &left_out);
    for (one, name) in all.into_iter().zip(names) {
        let file_name = OsString::from(name);
        match one.open {
            Ok(disk) => disks.push(MountedDisk {
                file_name,
                disk: Arc::new(disk),
                dirty: dirty.remove(&one.disk.id).map(Arc::new),
                // No checkpoint knows anything of raw volumes.
                checkpoint: checkpoint.clone().filter(|_| !one.disk.raw),
            }),
            Err(failure) => broken.push(BrokenDisk {
                file_name,
                id: one.disk.id,
                name: plain(&one.disk.name),
                size: one.disk.size,
                why: failure.to_string(),
                exit: failure.exit,
            }),
        }
    }
    for one in &vm.left_out {
        tell(format_args!("WARNING: {}: {}", vm.shown, left_out_shown(one)));
    }
    for one in &broken {
        tell(format_args!("WARNING: {}", one.told()));
    }
    Ok(Opened {
        disks,
        broken,
        of_vm: Some(OfVm {
            shown: vm.shown.clone(),
            left_out: std::mem::take(&mut vm.left_out),
        }),
        backup,
    })
}
