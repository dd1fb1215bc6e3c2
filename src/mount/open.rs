//! The disks of a mount, opened unless a signal comes first, and the mount's place on this machine.

use std::ffi::OsString;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};

use crossbeam::channel::Receiver;
use parking_lot::Mutex;

use super::file_names::file_names;
use super::mountpoint::Mountpoint;
use super::record::Place;
use super::{BrokenDisk, Event, Mount, MountedDisk, OfVm, ready, verification};
use crate::failure::{Exit, Failure};
use crate::fuse::OpenFiles;
use crate::logging::plain;
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
                }],
                broken: Vec::new(),
                of_vm: None,
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
        open_files: OpenFiles::default(),
        numbers: OnceLock::new(),
        umount_line: Mutex::default(),
        ending: AtomicBool::new(false),
        pid_file: OnceLock::new(),
        supervisor,
    })
}

struct Opened {
    disks: Vec<MountedDisk>,
    broken: Vec<BrokenDisk>,
    of_vm: Option<OfVm>,
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
    let check = move |count| limits::check(limits::Kind::Mount, ready::needs(&wanted, count));
    let mut vm = OpenVm::open_unless_interrupted(settings, &mountpoint.path, check, inbox, signal)?;
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
    })
}
