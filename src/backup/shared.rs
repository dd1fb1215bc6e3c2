//! The disks of a backup share these while they are copied, and each leaves its outcome here.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::base::Base;
use super::book::Book;
use super::life::Life;
use super::manifest::Entry;
use super::naming::Names;
use super::stop::Stop;
use crate::engine::VmDisk;
use crate::failure::Failure;
use crate::images::Output;
use crate::logging::plain;
use crate::open_disk::OpenDisk;
use crate::settings::backup::BackupSettings;
use crate::settings::vm::Member;
use crate::settings::{DiskSettings, Wanted};
use crate::supervisor::Supervisor;

/// All disks of a backup share these.
pub(super) struct Shared<'a> {
    pub(super) settings: &'a BackupSettings,
    pub(super) stop: &'a Stop,
    pub(super) names: &'a Names,
    supervisor: &'a Supervisor,
    life: Mutex<&'a mut Life>,
    backup: String,
    checkpoint: Option<String>,
    base: Option<&'a Base>,
    book: &'a Book,
    vm: String,
    open: Mutex<Vec<Weak<OpenDisk>>>,
    /// A file of an earlier backup does not lead to what its disk holds.
    differs: AtomicBool,
}

/// A disk that was copied, or not.
pub(super) struct Backed {
    pub(super) entry: Result<Entry, Failure>,
    /// Why its transfer did not end well.
    pub(super) ended: Vec<Failure>,
    /// It could not be opened for its changes: a backup of it as a whole may work.
    pub(super) again: bool,
}

impl<'a> Shared<'a> {
    pub(super) fn new(
        settings: &'a BackupSettings,
        stop: &'a Stop,
        supervisor: &'a Supervisor,
        life: &'a mut Life,
        names: &'a Names,
        base: Option<&'a Base>,
        book: &'a Book,
    ) -> Shared<'a> {
        Shared {
            settings,
            stop,
            names,
            base,
            book,
            supervisor,
            backup: life.id().to_owned(),
            checkpoint: life.checkpoint().map(str::to_owned),
            vm: life.vm().name.clone(),
            life: Mutex::new(life),
            open: Mutex::default(),
            differs: AtomicBool::new(false),
        }
    }

    /// The checkpoint that knows the changes of a disk from here on.
    pub(super) fn checkpoint_of(&self, disk: &VmDisk) -> Option<String> {
        self.checkpoint.clone().filter(|_| !disk.raw)
    }

    /// The file over which the next one of a disk goes.
    pub(super) fn base_of(&self, disk: &VmDisk) -> Option<&str> {
        self.base?.files.get(&disk.id).map(String::as_str)
    }

    /// The settings of a disk that has share number `n` of `count`.
    pub(super) fn settings_of(&self, disk: &VmDisk, n: usize, count: usize) -> DiskSettings {
        let member = Member {
            vm: plain(&self.vm),
            disk: plain(&disk.name),
        };
        let wanted = Wanted::OfBackup {
            disk: disk.id.clone(),
            backup: self.backup.clone(),
        };
        self.settings.disk.of_disk(member, wanted, n, count)
    }

    /// Notes that a disk over an earlier file is not what it should be: the file may have changed.
    pub(super) fn set_differs(&self) {
        self.differs.store(true, Ordering::Relaxed);
    }

    pub(super) fn differs(&self) -> bool {
        self.differs.load(Ordering::Relaxed)
    }

    /// Has the figures of `disk` told.
    pub(super) fn watch(&self, disk: &Arc<OpenDisk>) {
        let mut open = self.open.lock();
        open.retain(|one| one.strong_count() > 0);
        open.push(Arc::downgrade(disk));
        let there: Vec<Arc<OpenDisk>> = open.iter().filter_map(Weak::upgrade).collect();
        self.supervisor.watch(there.iter());
    }

    /// Notes a file that is about to get its name, in the note of the backup and in the book.
    pub(super) fn note_file(&self, path: &Path, output: &Output) {
        self.life.lock().note_file(path, output);
        if let Some(name) = path.file_name().and_then(|name| name.to_str()) {
            self.book.publishes(name, output);
        }
    }
}
