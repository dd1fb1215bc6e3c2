//! The file of a [`Note`], from its creation to its removal.
//!
//! It has one owner: the process that serves the mount, or the `recover` that ends what a process has left.
//! The owner holds its lock (`process::lock`). A rewritten note is another file with the same name, which is
//! locked before it gets that name, so whoever opens the name finds it locked at any time. It is created with
//! O_EXCL: the remains of an earlier mount are not written over; nor is a later note, in case somebody has
//! removed this one by hand.
//!
//! Its name is that of the mountpoint. What an earlier mount of *another* disk has left there keeps that
//! name, and the note of the next mount stands beside it, under the names of mountpoint and disk. So do the
//! notes of several disks that are mounted together.

mod in_the_way;

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::unistd::{AccessFlags, User, access, geteuid};
use parking_lot::Mutex;
use tracing::{info, warn};

use self::in_the_way::{in_the_way, is_left_of_another_disk};
use super::note::{Lock, Note, Owner};
use crate::engine::random_id;
use crate::failure::{Exit, Failure};
use crate::output::tell;
use crate::process::identity::DYING_LIMIT;
use crate::process::lock::{is_certain, is_locked, try_lock};
use crate::process::runtime_directory::{self, key_of};
use crate::settings::Task;

/// The pause between two looks at a lock.
const LOCK_PAUSE: Duration = Duration::from_millis(20);

/// Upper bound on the looks at a note that is rewritten all the time, and on the attempts to create one while
/// others create and remove theirs. A note is rewritten a few times in all.
const MAX_LOOKS: u32 = 100;

/// The beginning of the extension that a note has until it is whole.
const UNFINISHED: &str = "new-";

/// The way out where a note can't be read.
const UNREADABLE: &str = "see in the engine that its transfer has ended, and remove the file then";

/// The files that were told as unreadable: `status --follow` looks every second, and tells each once.
static TOLD: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

/// A note on disk.
#[derive(Debug)]
pub(crate) struct NoteFile {
    path: PathBuf,
    pub(crate) note: Note,
    /// The file at `path`, for its owner: its lock ends with this descriptor.
    file: Option<File>,
    /// False for a note that nobody keeps: there is no file at `path`.
    kept: bool,
}

/// `/var/lib/rhv-mount` for root, else below the home directory; a user without one has it in the runtime
/// directory.
fn directory() -> io::Result<PathBuf> {
    if geteuid().is_root() {
        return Ok(PathBuf::from("/var/lib/rhv-mount"));
    }
    let home = User::from_uid(geteuid()).ok().flatten().map(|user| user.dir);
    match home.filter(|dir| dir.is_dir()) {
        Some(home) => Ok(home.join(".local/state/rhv-mount")),
        None => Ok(runtime_directory::directory()?.join("state")),
    }
}

/// Returns `directory` when it is there, and this process may write to it.
fn made(directory: PathBuf) -> io::Result<PathBuf> {
    DirBuilder::new().recursive(true).mode(0o700).create(&directory)?;
    access(&directory, AccessFlags::W_OK | AccessFlags::X_OK)?;
    Ok(directory)
}

fn refuse(path: &Path, e: &io::Error) -> Failure {
    Failure::text(
        Exit::Other,
        format!(
            "cannot keep a note of the transfer in {}: {e}; without it a killed mount could not be recovered",
            path.display()
        ),
    )
}

impl NoteFile {
    /// Notes a transfer that is about to be started. Where there is no place for a note (a container whose
    /// file systems are read-only), that is an error; `may_lack` does without it.
    pub(crate) fn create(note: Note, may_lack: bool) -> Result<NoteFile, Failure> {
        match directory().and_then(made) {
            Ok(directory) => NoteFile::create_in(&directory, note),
            Err(e) if may_lack => {
                info!("no note is kept of the transfer: {e}");
                Ok(NoteFile {
                    path: PathBuf::new(),
                    note,
                    file: None,
                    kept: false,
                })
            }
            Err(e) => Err(refuse(
                &directory().unwrap_or_else(|_| "the runtime directory".into()),
                &e,
            )),
        }
    }

    fn create_in(directory: &Path, note: Note) -> Result<NoteFile, Failure> {
        for _ in 0..MAX_LOOKS {
            if let Some(file) = NoteFile::try_create_in(directory, note.clone())? {
                return Ok(file);
            }
        }
        Err(refuse(directory, &io::ErrorKind::AlreadyExists.into()))
    }

    /// `None`: another run was at work beside it, and it can be tried again.
    fn try_create_in(directory: &Path, mut note: Note) -> Result<Option<NoteFile>, Failure> {
        let of_mountpoint = key_of(&note.mountpoint);
        let of_both = format!("{of_mountpoint}-{}", key_of(Path::new(&note.disk_id)));
        let [path, beside] = [of_mountpoint, of_both].map(|name| directory.join(name + ".json"));
        if beside.symlink_metadata().is_ok() {
            return in_the_way(&beside, &note).map_or(Ok(None), Err);
        }
        // One image may be copied to several disks at once, and a mount of a VM has several.
        let names = match note.task {
            Task::Mount if note.vm.is_none() => vec![path, beside],
            _ => vec![beside],
        };
        for path in names {
            match write_new(&path, &mut note) {
                Ok(file) => {
                    return Ok(Some(NoteFile {
                        path,
                        note,
                        file: Some(file),
                        kept: true,
                    }));
                }
                // A file that is not locked yet goes where the owner of the note of this name removes it.
                Err(e) if e.kind() == io::ErrorKind::NotFound && directory.is_dir() => return Ok(None),
                Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(refuse(&path, &e)),
                Err(_) if note.task == Task::Mount && is_left_of_another_disk(&path, &note) => {}
                Err(_) => return in_the_way(&path, &note).map_or(Ok(None), Err),
            }
        }
        // The two disks would have the same key.
        Err(refuse(directory, &io::ErrorKind::AlreadyExists.into()))
    }

    /// Writes `note` anew; a crash leaves the old one or the new one.
    pub(crate) fn update(&mut self) -> Result<(), Failure> {
        if !self.kept {
            return Ok(());
        }
        if self.is_replaced() {
            let why = io::Error::other("somebody has removed it, and another one is there");
            return Err(refuse(&self.path, &why));
        }
        let renamed = write_beside(&self.path, &mut self.note)
            .and_then(|(new, file)| fs::rename(new, &self.path).map(|()| file));
        self.file = Some(renamed.map_err(|e| refuse(&self.path, &e))?);
        Ok(())
    }

    /// Removes the note: nothing is left to recover.
    pub(crate) fn remove(&self) {
        if self.kept && !self.is_replaced() {
            // While the note is there, nobody else begins one in its place.
            self.remove_unfinished();
            let _ = fs::remove_file(&self.path);
        }
    }

    /// Removes what processes that were killed while they wrote this note have left beside it. A file that is
    /// being written is locked.
    fn remove_unfinished(&self) {
        let Some(stem) = self.path.file_stem().and_then(|stem| stem.to_str()) else {
            return;
        };
        let prefix = format!("{stem}.{UNFINISHED}");
        let folder = self.path.parent().unwrap_or(Path::new("."));
        let beside = fs::read_dir(folder).into_iter().flatten().flatten();
        let left = beside
            .filter(|entry| {
                entry
                    .file_name()
                    .to_str()
                    .is_some_and(|name| name.starts_with(&prefix))
            })
            .map(|entry| entry.path())
            .filter(|path| {
                // The note itself may have this name too.
                let is_ours = self.file.as_ref().is_some_and(|file| is_at(file, path));
                is_ours || File::open(path).is_ok_and(|file| matches!(is_locked(&file), Ok(false)))
            });
        left.for_each(|path| drop(fs::remove_file(path)));
    }

    /// Changes the note where it is still there. One that can't be written tells less, and that is no reason
    /// to fail.
    pub(crate) fn amend(&mut self, change: impl FnOnce(&mut Note)) {
        change(&mut self.note);
        let is_there = self.file.as_ref().is_some_and(|file| is_at(file, &self.path));
        let written = if is_there { self.update() } else { Ok(()) };
        if let Err(e) = written {
            warn!("{e}");
        }
    }

    /// Says what ends the transfer that is left: the command of `recover`, which `does` it, or the engine
    /// where no note is kept for that.
    pub(super) fn remedy(&self, does: &str) -> String {
        match self.kept {
            true => format!("`{}` {does}", self.note.recover_line()),
            false => "the engine ends it by itself, minutes after its last request".to_owned(),
        }
    }

    /// Leaves the note, and what it is about, to `recover`.
    pub(crate) fn leave(&mut self) {
        self.file = None;
    }

    /// Makes this process the owner of the note, where that is [`Owner::Gone`], or [`Owner::Unknown`] and so
    /// for the caller to decide. Waits up to [`DYING_LIMIT`] for one that is [`Owner::Busy`]. `None`: what it
    /// was about has ended, and it is gone, or another run's.
    pub(crate) fn claim(&mut self) -> io::Result<Option<Owner>> {
        let until = Instant::now() + DYING_LIMIT;
        loop {
            let file = match OpenOptions::new().read(true).write(true).open(&self.path) {
                Ok(file) => file,
                Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
                Err(e) => return Err(e),
            };
            let lock = match try_lock(&file) {
                Ok(true) => Lock::Free {
                    certain: is_certain(&file),
                },
                Ok(false) => Lock::Held,
                Err(_) => Lock::Unknown,
            };
            // The owner may have put another file in its place meanwhile, and its lock is on that one.
            if lock != Lock::Held && !is_at(&file, &self.path) {
                if Instant::now() >= until {
                    return Ok(Some(Owner::Unknown));
                }
                sleep(LOCK_PAUSE);
                continue;
            }
            self.note = match read(&self.path) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
                Ok(note) if !note.is_of_the_run_of(&self.note) => return Ok(None),
                note => note?,
            };
            match self.note.owner(lock) {
                // A process that is about to be gone holds its lock to the end.
                Owner::Busy | Owner::Elsewhere if Instant::now() < until => sleep(LOCK_PAUSE),
                owner => {
                    self.file = Some(file).filter(|_| matches!(owner, Owner::Gone | Owner::Unknown));
                    return Ok(Some(owner));
                }
            }
        }
    }

    /// Every note of this user's, or that of `mountpoint`. Other processes create and remove theirs
    /// meanwhile.
    pub(crate) fn all(mountpoint: Option<&Path>) -> Vec<NoteFile> {
        let entries = directory().and_then(fs::read_dir).into_iter().flatten().flatten();
        let paths = entries
            .map(|e| e.path())
            .filter(|p| p.extension().is_some_and(|e| e == "json"));
        NoteFile::all_of(paths, mountpoint)
    }

    /// Those of the notes at these paths that are still there.
    fn all_of(paths: impl Iterator<Item = PathBuf>, mountpoint: Option<&Path>) -> Vec<NoteFile> {
        let read = |path: PathBuf| match read(&path) {
            Ok(note) => Some(NoteFile {
                path,
                note,
                file: None,
                kept: true,
            }),
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            Err(e) => {
                if TOLD.lock().insert(path.clone()) {
                    tell(format_args!(
                        "{} is not readable: {e}; {UNREADABLE}",
                        path.display()
                    ));
                }
                None
            }
        };
        let wanted = |file: &NoteFile| mountpoint.is_none_or(|m| m == file.note.mountpoint);
        paths.filter_map(read).filter(wanted).collect()
    }

    /// Tells whose the note is at this moment; it is not taken. `None`: what it was about has ended since it
    /// was read, and it is gone, or another run's.
    pub(crate) fn owner(&self) -> Option<Owner> {
        match look(&self.path) {
            Ok((note, owner)) => note.is_of_the_run_of(&self.note).then_some(owner),
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            Err(_) => Some(Owner::Unknown),
        }
    }

    /// True for a note that nobody is seen to be at work on.
    pub(crate) fn is_left(&self) -> bool {
        self.owner()
            .is_some_and(|owner| !matches!(owner, Owner::AtWork | Owner::Elsewhere))
    }

    /// The path of the file, for messages.
    pub(crate) fn shown(&self) -> std::path::Display<'_> {
        self.path.display()
    }

    /// True when another file has taken the place of the one that this process owns.
    fn is_replaced(&self) -> bool {
        let owned = self.file.as_ref();
        owned.is_some_and(|file| self.path.symlink_metadata().is_ok() && !is_at(file, &self.path))
    }
}

/// True while `file` is what `path` leads to.
fn is_at(file: &File, path: &Path) -> bool {
    let of = |meta: fs::Metadata| (meta.dev(), meta.ino());
    match (file.metadata(), path.symlink_metadata()) {
        (Ok(file), Ok(path)) => of(file) == of(path),
        _ => false,
    }
}

/// Reads the note in `path`, and tells whose it is at this moment.
fn look(path: &Path) -> io::Result<(Note, Owner)> {
    let mut looks = 0;
    loop {
        let file = File::open(path)?;
        let note = read(path)?;
        let lock = match is_locked(&file) {
            Ok(true) => Lock::Held,
            Ok(false) => Lock::Free {
                certain: is_certain(&file),
            },
            Err(_) => Lock::Unknown,
        };
        // The owner puts another file in its place, which is locked, before it lets go of this one.
        looks += 1;
        if lock == Lock::Held || is_at(&file, path) || looks == MAX_LOOKS {
            let owner = note.owner(lock);
            return Ok((note, owner));
        }
    }
}

fn read(path: &Path) -> io::Result<Note> {
    Ok(serde_json::from_slice(&fs::read(path)?)?)
}

/// Puts a whole file in its place at once, and never over another one.
fn write_new(path: &Path, note: &mut Note) -> io::Result<File> {
    let (new, file) = write_beside(path, note)?;
    let linked = fs::hard_link(&new, path);
    let _ = fs::remove_file(new);
    linked.map(|()| file)
}

/// Writes a whole file beside `path`, and locks it; another process with our number may do the same in
/// another PID namespace.
fn write_beside(path: &Path, note: &mut Note) -> io::Result<(PathBuf, File)> {
    let new = path.with_extension(format!("{UNFINISHED}{}", random_id()?));
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&new)?;
    note.locked = try_lock(&file).unwrap_or(false) && is_certain(&file);
    let written = serde_json::to_vec_pretty(note)
        .map_err(io::Error::from)
        .and_then(|json| file.write_all(&json))
        .and_then(|()| file.sync_all());
    written.inspect_err(|_| drop(fs::remove_file(&new)))?;
    Ok((new, file))
}

#[cfg(test)]
mod tests;
