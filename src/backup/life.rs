//! The life of one backup in the engine, with the note from which `recover` ends it.
//!
//! The note is written before the engine is asked, and removed when the backup has ended, or when the engine
//! is at its end and needs nobody for the rest. What fails before the disks can be read is taken back.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use tracing::info;

use super::base::Base;
use super::book::Book;
use super::manifest::Kind;
use super::naming;
use super::stop::Stop;
use crate::engine::{
    self, BackedVm, Backup, BackupEnd, BackupOrder, Direction, Engine, Interrupt, Readiness, VmDisk,
    random_id,
};
use crate::failure::{Exit, Failure};
use crate::images::Output;
use crate::output::inform;
use crate::settings::backup::BackupSettings;
use crate::settings::{Task, VmSource};
use crate::transfer::cause::Cause;
use crate::transfer::note::{Note, NotedBackup};
use crate::transfer::note_file::NoteFile;
use crate::transfer::unfinished::Unfinished;

/// How long the end of a backup is waited for once the engine is at it. A merge of a snapshot may take hours,
/// and needs nobody.
const END_PATIENCE: Duration = Duration::from_secs(600);

/// The same for a backup that is taken back.
const TAKE_BACK_PATIENCE: Duration = Duration::from_secs(120);

/// The same where another backup of the VM has to follow. A signal ends the wait.
const MERGE_PATIENCE: Duration = Duration::from_secs(12 * 3600);

/// See the head of this file.
pub(crate) struct Life {
    /// No signal interrupts its requests.
    engine: Engine,
    vm: BackedVm,
    note: NoteFile,
    backup: Backup,
    /// The checkpoint from which changes were asked for.
    from: Option<String>,
    manifest: PathBuf,
    time: String,
}

/// The terms on which a backup is begun.
pub(crate) struct Terms<'a> {
    /// The directory of the files, or the mountpoint: the path under which `recover` finds what is left.
    pub(crate) place: &'a Path,
    /// The work for which the disks are read.
    pub(crate) task: Task,
    /// The engine, and the places from which the login came.
    pub(crate) source: &'a VmSource,
    /// Through libvirt, without a snapshot.
    pub(crate) live: bool,
    /// A guest whose file systems can't be frozen is an error.
    pub(crate) consistent: bool,
    /// The checkpoint from which changes are wanted.
    pub(crate) from: Option<&'a str>,
    /// The next run is told of it by this; `None` of a mount, which leaves its checkpoint to the user.
    pub(crate) book: Option<&'a Book>,
}

impl<'a> Terms<'a> {
    /// The terms of a backup into files.
    pub(super) fn of(settings: &'a BackupSettings, base: Option<&'a Base>, book: &'a Book) -> Terms<'a> {
        Terms {
            place: &settings.dir,
            task: settings.disk.task,
            source: &settings.disk.source,
            live: settings.live,
            consistent: settings.require_consistency,
            from: base.map(|base| base.checkpoint.as_str()),
            book: Some(book),
        }
    }
}

/// The disks that should be in a backup.
#[derive(Default)]
pub(crate) struct Split<'a> {
    /// They are in it; true where the engine knows what has changed in them.
    pub(crate) there: Vec<(&'a VmDisk, bool)>,
    pub(crate) missing: Vec<&'a VmDisk>,
}

/// The outcome of the start of a backup.
pub(crate) enum Begun {
    Life(Box<Life>),
    /// It could not be an incremental one, for this reason, and nothing is left of it.
    FullNeeded(String),
}

impl Life {
    /// Starts a backup of these disks, and waits until they can be read. The book hears of it first.
    pub(crate) fn begin(
        engine: &Engine,
        terms: &Terms<'_>,
        vm: &BackedVm,
        disks: &[VmDisk],
        begun: SystemTime,
    ) -> Result<Begun, Failure> {
        let token = format!("rhv-mount-{}", random_id()?);
        let manifest = PathBuf::from(naming::manifest(begun, &token));
        let (source, base) = (terms.source, terms.from);
        let note = Note {
            disk_id: vm.id.clone(),
            disk_name: vm.name.clone(),
            vm: Some(vm.name.clone()),
            login: source.login.clone(),
            task: terms.task,
            backup: Some(NotedBackup {
                token: token.clone(),
                manifest: terms.place.join(&manifest),
                ..NotedBackup::default()
            }),
            asked: true,
            ..Note::of(terms.place, &source.account, Direction::Download)
        };
        let mut note = NoteFile::create(note, false)?;
        if let Some(book) = terms.book {
            book.begins(&token);
        }
        let order = BackupOrder {
            vm: vm.id.clone(),
            disks: disks.iter().map(|disk| disk.id.clone()).collect(),
            token,
            from: base.map(str::to_owned),
            live: terms.live,
            consistent: terms.consistent,
        };
        let patient = engine.uninterrupted();
        let started = match engine.start_backup(&order) {
            Ok(started) => started,
            Err(e @ engine::Error::Unclear(_)) => return Err(Life::unclear(&patient, &order, note, e)),
            // The checkpoint is gone or invalid, or the host could not define it anew.
            Err(e) if base.is_some() && e.is_refusal() => {
                note.remove();
                return Ok(Begun::FullNeeded(e.to_string()));
            }
            Err(e) => {
                note.remove();
                return Err(e.into());
            }
        };
        info!(id = started.id, vm = vm.id, "backup started");
        let id = started.id.clone();
        let noted = note_backup(&mut note, &started);
        let ready = noted.and_then(|()| Ok(engine.wait_for_backup(&vm.id, started)?));
        let failure = match ready {
            Ok(Readiness::Ready(backup)) => match note_backup(&mut note, &backup) {
                Ok(()) => {
                    if let (Some(book), Some(checkpoint)) = (terms.book, &backup.to_checkpoint) {
                        book.has_made(checkpoint);
                    }
                    return Ok(Begun::Life(Box::new(Life {
                        engine: patient,
                        vm: vm.clone(),
                        note,
                        backup,
                        from: base.map(str::to_owned),
                        manifest,
                        time: naming::time(begun),
                    })));
                }
                Err(failure) => failure,
            },
            Ok(Readiness::Failed(why)) if base.is_some() => {
                note.remove();
                return Ok(Begun::FullNeeded(why));
            }
            Ok(Readiness::Failed(why)) => {
                note.remove();
                return Err(Failure::text(
                    Exit::Transfer,
                    format!(
                        "backup {id} of VM {} has failed before any disk could be read: {why}",
                        vm.name
                    ),
                ));
            }
            Err(failure) => failure,
        };
        Err(take_back(&patient, &vm.id, &id, &mut note, failure))
    }

    /// Decides, once more, whether a backup was started.
    fn unclear(engine: &Engine, order: &BackupOrder, mut note: NoteFile, error: engine::Error) -> Failure {
        let failure = Failure::from(error);
        match engine.backup_with(&order.vm, &order.token) {
            Ok(Some(backup)) => take_back(engine, &order.vm, &backup.id, &mut note, failure),
            // A request that is still on its way would be performed after this look.
            Ok(None) | Err(_) => left_to_recover(&mut note, &failure, "whether it was begun is not known"),
        }
    }

    pub(crate) fn id(&self) -> &str {
        &self.backup.id
    }

    pub(super) fn vm(&self) -> &BackedVm {
        &self.vm
    }

    /// The checkpoint that it has made.
    pub(crate) fn checkpoint(&self) -> Option<&str> {
        self.backup.to_checkpoint.as_deref()
    }

    /// The checkpoint from which changes were asked for.
    pub(crate) fn from(&self) -> Option<&str> {
        self.from.as_deref()
    }

    /// When it was begun, in UTC.
    pub(super) fn time(&self) -> &str {
        &self.time
    }

    pub(super) fn manifest_name(&self) -> PathBuf {
        self.manifest.clone()
    }

    /// The kind of it, for a VM that had this status.
    pub(super) fn kind(&self, status: &str) -> Kind {
        match (&self.backup.snapshot, status) {
            (Some(_), _) => Kind::Hybrid,
            (None, "down") => Kind::Cold,
            (None, _) => Kind::Live,
        }
    }

    /// Says that the VM was powered off, which ends a live backup: its qemu is the server of the disks.
    pub(super) fn powered_off(&self, status: &str) -> Option<String> {
        let is_live = self.kind(status) == Kind::Live;
        let now = is_live.then(|| self.engine.vm_status(&self.vm.id))?.ok()?;
        (now == "down").then(|| {
            format!(
                "VM {} ({}) was powered off during its live backup, which has ended the server of its disks: \
                 back it up again; without --live, it may stop meanwhile",
                self.vm.name, self.vm.id
            )
        })
    }

    /// Tells the disks that are in it, with whether their changes are known, from those that the engine has
    /// left out.
    pub(crate) fn split<'a>(&self, disks: &'a [VmDisk]) -> Result<Split<'a>, Failure> {
        let there = self.engine.disks_in_backup(&self.vm.id, &self.backup.id)?;
        let mut split = Split::default();
        for disk in disks {
            match there.iter().find(|(id, _)| id.eq_ignore_ascii_case(&disk.id)) {
                Some((_, changes)) => split.there.push((disk, *changes)),
                None => split.missing.push(disk),
            }
        }
        Ok(split)
    }

    /// Returns the configuration of the VM at the moment of the backup: that of its snapshot, if it has one.
    pub(super) fn configuration(&self) -> Result<Option<String>, engine::Error> {
        self.engine
            .configuration(&self.vm.id, self.backup.snapshot.as_deref())
    }

    /// Notes a file that is about to get its name `path`.
    pub(super) fn note_file(&mut self, path: &Path, output: &Output) {
        let Some((now, file)) = output.unfinished() else {
            return;
        };
        let Ok(unfinished) = Unfinished::begin(now, file) else {
            return;
        };
        self.note.amend(|note| {
            if let Some(backup) = &mut note.backup {
                backup.files.push(unfinished.renamed(path));
            }
        });
    }

    /// Ends it, after its transfers; returns what has failed. `again`: another backup of the VM follows, and
    /// the engine refuses that until this one has ended. `has_files`: a manifest names whole files.
    pub(crate) fn end(mut self, stop: &Stop, again: bool, has_files: bool) -> Option<Failure> {
        let (vm, id) = (&self.vm.id, &self.backup.id);
        self.note.amend(|note| note.cause = Cause::Ending);
        let patience = match again {
            true => {
                inform(format_args!(
                    "waiting for the end of backup {id} in the engine, as another backup follows: where it \
                     merges a snapshot, that may take hours"
                ));
                MERGE_PATIENCE
            }
            false => END_PATIENCE,
        };
        let ended = self.engine.finalize_backup(vm, id, patience, &stop.interrupt);
        let told = match ended {
            Ok(BackupEnd::Succeeded) => None,
            Ok(BackupEnd::Going) => {
                inform(format_args!(
                    "the engine is still at the end of backup {id}, which needs nobody: where it merges a \
                     snapshot, that may take hours"
                ));
                self.note.remove();
                return None;
            }
            Ok(BackupEnd::Forgotten) => {
                inform(format_args!(
                    "the engine has forgotten backup {id}, which has ended"
                ));
                None
            }
            Ok(BackupEnd::Failed(why)) => Some(Failure::text(
                Exit::Transfer,
                match has_files {
                    true => format!(
                        "backup {id} has failed at its end: {why}; the files that its manifest names are \
                         whole, and the next backup is a full one where its checkpoint is gone"
                    ),
                    false => format!("backup {id} has failed: {why}"),
                },
            )),
            Err(e) => {
                let failure = Failure::from(e);
                return Some(left_to_recover(
                    &mut self.note,
                    &failure,
                    "it has not ended in the engine",
                ));
            }
        };
        self.note.remove();
        let left = self
            .engine
            .left_by_backup(vm, id, self.backup.snapshot.as_deref());
        match (told, left) {
            (Some(told), Some(left)) => Some(Failure::text(told.exit, format!("{told}; {left}"))),
            (told, left) => told.or(left.map(|text| Failure::text(Exit::Transfer, text))),
        }
    }
}

fn note_backup(file: &mut NoteFile, found: &Backup) -> Result<(), Failure> {
    if let Some(backup) = &mut file.note.backup {
        backup.id = Some(found.id.clone());
        backup.snapshot.clone_from(&found.snapshot);
        backup.checkpoint.clone_from(&found.to_checkpoint);
    }
    file.update()
}

/// Ends a backup of which nothing was read; returns `failure`, with what could not be ended.
fn take_back(engine: &Engine, vm: &str, id: &str, note: &mut NoteFile, failure: Failure) -> Failure {
    let hurry = Interrupt::default();
    hurry.set();
    match engine.finalize_backup(vm, id, TAKE_BACK_PATIENCE, &hurry) {
        Ok(_) => {
            note.remove();
            failure
        }
        Err(e) => left_to_recover(note, &failure, &format!("what was begun is not taken back: {e}")),
    }
}

/// Leaves the note to `recover`, and says so.
fn left_to_recover(note: &mut NoteFile, failure: &Failure, what: &str) -> Failure {
    let text = format!("{failure}; and {what}: `{}` ends it", note.note.recover_line());
    note.leave();
    Failure::text(failure.exit, text)
}
