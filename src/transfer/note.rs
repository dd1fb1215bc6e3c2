//! The note that a killed rhv-mount leaves behind for `recover`: one small file for each transfer of our own.
//!
//! It is written before anything is made in the engine, so that the engine never holds something that nobody
//! knows of; rewritten when the transfer has an id; removed when the transfer has ended. It outlives a
//! reboot, and it holds no password, token or ticket. It is created with O_EXCL: the remains of an earlier
//! mount are not written over.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::unistd::{User, geteuid};
use serde::{Deserialize, Serialize};

use crate::engine::{Account, Direction, Mark, Transfer};
use crate::failure::{Exit, Failure};
use crate::output::tell;
use crate::process::identity::{start_of, this_boot, this_machine};
use crate::process::runtime_directory::{self, key_of};
use crate::trust::Trust;

/// The facts about a transfer. The names of the fields are those in the file.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Note {
    /// The canonical path of the mountpoint.
    pub(crate) mountpoint: PathBuf,
    /// The process that serves it.
    pub(crate) pid: u32,
    /// When that process began, see [`start_of`].
    pub(crate) started: Option<u64>,
    pub(crate) engine_url: String,
    pub(crate) username: String,
    pub(crate) trust: Trust,
    pub(crate) direction: Direction,
    /// The id of the disk, or of the snapshot.
    pub(crate) disk_id: String,
    pub(crate) disk_name: String,
    /// `disk_id` is a disk snapshot.
    pub(crate) snapshot: bool,
    /// The disk was made for this mount.
    pub(crate) created: bool,
    /// The engine was asked for a transfer; it may have started one although we have no id.
    pub(crate) asked: bool,
    /// The mark of the request; notes of older versions have none.
    #[serde(default)]
    pub(crate) mark: Option<Mark>,
    /// `None` before the engine has answered.
    pub(crate) transfer: Option<String>,
    pub(crate) host: Option<String>,
    /// The transfer is being replaced by another one, see `renewal`: its end is not the end of the mount.
    #[serde(default)]
    pub(crate) renewing: bool,
    /// The image format as which the head of the raw disk was detected before anything was written: a
    /// finalize would have removed the disk then.
    #[serde(default)]
    pub(crate) head: Option<String>,
    /// The machine that serves it, and since which boot: a home directory may be shared.
    pub(crate) machine: String,
    pub(crate) boot: String,
}

impl Note {
    /// A note of this process's, about no disk and no transfer yet.
    pub(super) fn of(mountpoint: &Path, account: &Account, direction: Direction) -> Note {
        Note {
            mountpoint: mountpoint.to_owned(),
            pid: std::process::id(),
            started: start_of(std::process::id()),
            engine_url: account.url.clone(),
            username: account.username.clone(),
            trust: account.trust.clone(),
            direction,
            disk_id: String::new(),
            disk_name: String::new(),
            snapshot: false,
            created: false,
            asked: false,
            mark: None,
            transfer: None,
            host: None,
            renewing: false,
            head: None,
            machine: this_machine(),
            boot: this_boot(),
        }
    }

    /// True while the process that wrote this is at work. Only its own machine can tell.
    pub(crate) fn is_alive(&self) -> bool {
        self.boot == this_boot() && self.started.is_some() && start_of(self.pid) == self.started
    }

    /// True when another machine wrote this.
    pub(crate) fn is_foreign(&self) -> bool {
        self.machine != this_machine()
    }

    /// True for a transfer that is certainly the one that was asked for: it is in the direction of the mount,
    /// and has its mark, or is of a disk that was made for the mount.
    pub(crate) fn is_proven(&self, transfer: &Transfer) -> bool {
        transfer.direction == self.direction && (self.created || transfer.is_of(self.direction, self.mark))
    }

    /// The host, for messages.
    pub(crate) fn host_shown(&self) -> &str {
        self.host.as_deref().unwrap_or("unknown")
    }
}

/// A note on disk.
#[derive(Debug)]
pub(crate) struct NoteFile {
    path: PathBuf,
    pub(crate) note: Note,
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
    /// Notes a transfer that is about to be started.
    pub(super) fn create(note: Note) -> Result<NoteFile, Failure> {
        let directory = directory().map_err(|e| refuse(Path::new("the runtime directory"), &e))?;
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&directory)
            .map_err(|e| refuse(&directory, &e))?;
        let path = directory.join(key_of(&note.mountpoint)).with_extension("json");
        match write_new(&path, &note) {
            Ok(()) => Ok(NoteFile { path, note }),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Err(in_the_way(&path, &note.mountpoint)),
            Err(e) => Err(refuse(&path, &e)),
        }
    }

    /// Writes `note` anew; a crash leaves the old one or the new one.
    pub(super) fn update(&mut self) -> Result<(), Failure> {
        let new = write_beside(&self.path, &self.note);
        new.and_then(|new| fs::rename(new, &self.path))
            .map_err(|e| refuse(&self.path, &e))
    }

    /// Removes the note: nothing is left to recover.
    pub(crate) fn remove(&self) {
        let _ = fs::remove_file(&self.path);
    }

    /// Every note of this user's, or that of `mountpoint`.
    pub(crate) fn all(mountpoint: Option<&Path>) -> Vec<NoteFile> {
        let entries = directory().and_then(fs::read_dir).into_iter().flatten().flatten();
        let paths = entries
            .map(|e| e.path())
            .filter(|p| p.extension().is_some_and(|e| e == "json"));
        let read = |path: PathBuf| match read(&path) {
            Ok(note) => Some(NoteFile { path, note }),
            Err(e) => {
                tell(format_args!("{} is not readable: {e}", path.display()));
                None
            }
        };
        let wanted = |file: &NoteFile| mountpoint.is_none_or(|m| m == file.note.mountpoint);
        paths.filter_map(read).filter(wanted).collect()
    }
}

/// The note in `path` keeps a disk from being mounted on `mountpoint`.
fn in_the_way(path: &Path, mountpoint: &Path) -> Failure {
    let shown = mountpoint.display();
    let why = match read(path) {
        Ok(other) if other.is_alive() => format!("process {} serves a disk there", other.pid),
        Ok(_) => format!(
            "an earlier mount there was killed and its transfer is not ended; see to it with \
             `rhv-mount recover {shown}` first"
        ),
        Err(e) => format!(
            "the note of an earlier mount, {}, is not readable: {e}",
            path.display()
        ),
    };
    Failure::text(Exit::Mount, format!("cannot mount on {shown}: {why}"))
}

fn read(path: &Path) -> io::Result<Note> {
    Ok(serde_json::from_slice(&fs::read(path)?)?)
}

/// Puts a whole file in its place at once, and never over another one.
fn write_new(path: &Path, note: &Note) -> io::Result<()> {
    let new = write_beside(path, note)?;
    let linked = fs::hard_link(&new, path);
    let _ = fs::remove_file(new);
    linked
}

fn write_beside(path: &Path, note: &Note) -> io::Result<PathBuf> {
    let new = path.with_extension(format!("new-{}", std::process::id()));
    let _ = fs::remove_file(&new);
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&new)?;
    let written = file
        .write_all(&serde_json::to_vec_pretty(note)?)
        .and_then(|()| file.sync_all());
    written.inspect_err(|_| drop(fs::remove_file(&new)))?;
    Ok(new)
}
