//! What a killed rhv-mount leaves behind for `recover`: one small file for each mount that has a transfer of its own.
//!
//! Written before anything is made in the engine, so that nothing is ever held there that nobody knows of;
//! rewritten when the transfer has an id; removed when the transfer has ended. It outlives a reboot, and it holds no
//! password, token or ticket. Created with O_EXCL: an earlier mount's remains are not written over.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::unistd::{User, geteuid};
use serde::{Deserialize, Serialize};

use crate::engine::Direction;
use crate::failure::{Exit, Failure};
use crate::process::runtime_directory::{self, key_of};
use crate::trust::Trust;

/// What is known of a transfer.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct State {
    /// Where the disk is mounted; canonical.
    pub(crate) mountpoint: PathBuf,
    /// The process that serves it.
    pub(crate) pid: u32,
    /// Tells a process from a later one with its number: clock ticks since boot, /proc/PID/stat.
    pub(crate) started: Option<u64>,
    pub(crate) engine_url: String,
    pub(crate) username: String,
    pub(crate) trust: Trust,
    pub(crate) direction: Direction,
    /// The disk, or the snapshot.
    pub(crate) disk_id: String,
    pub(crate) disk_name: String,
    /// `disk_id` is a disk snapshot.
    pub(crate) snapshot: bool,
    /// The disk was made for this mount.
    pub(crate) created: bool,
    /// The engine was asked for a transfer; it may have started one although we have no id.
    pub(crate) asked: bool,
    /// `None` before the engine has answered.
    pub(crate) transfer: Option<String>,
    pub(crate) host: Option<String>,
    /// The transfer is being replaced by another one, see `renewal`: its end is not the end of the mount.
    #[serde(default)]
    pub(crate) renewing: bool,
    /// The machine that serves it, and since which boot: a home directory may be shared.
    pub(crate) machine: String,
    pub(crate) boot: String,
}

impl State {
    /// Is the process that wrote this at work still? Only its own machine can tell.
    pub(crate) fn is_alive(&self) -> bool {
        self.boot == this_boot() && self.started.is_some() && start_of(self.pid) == self.started
    }

    /// Was it another machine that wrote this?
    pub(crate) fn is_foreign(&self) -> bool {
        self.machine != this_machine()
    }
}

/// The name of this machine.
pub(crate) fn this_machine() -> String {
    kernel_says("hostname")
}

/// Another one at every boot.
pub(crate) fn this_boot() -> String {
    kernel_says("random/boot_id")
}

fn kernel_says(what: &str) -> String {
    let text = fs::read_to_string(format!("/proc/sys/kernel/{what}")).unwrap_or_default();
    text.trim().to_owned()
}

/// How long a process that was killed may take to let go of its files.
const DYING: Duration = Duration::from_secs(5);

/// When a process began, clock ticks since boot. One that has ended and that nobody has waited for yet is gone; one that
/// is about to end (it has no memory any more) is waited for.
pub(crate) fn start_of(pid: u32) -> Option<u64> {
    let until = Instant::now() + DYING;
    loop {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The 3rd, 22nd and 23rd field: state, start, bytes of memory. The name before them may hold anything.
        let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
        let (state, start, memory) = (fields.first()?, fields.get(19)?, fields.get(20)?);
        match (*state, *memory) {
            ("Z" | "X", _) => return None,
            (_, "0") if Instant::now() < until => sleep(Duration::from_millis(10)),
            _ => return start.parse().ok(),
        }
    }
}

/// A state on disk.
#[derive(Debug)]
pub(crate) struct StateFile {
    path: PathBuf,
    pub(crate) state: State,
}

/// `/var/lib/rhv-mount` for root, else below the home directory; who has none keeps it with the runtime records.
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

impl StateFile {
    /// Notes a transfer that is about to be started.
    pub(crate) fn create(state: State) -> Result<StateFile, Failure> {
        let directory = directory().map_err(|e| refuse(Path::new("the runtime directory"), &e))?;
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&directory)
            .map_err(|e| refuse(&directory, &e))?;
        let path = directory.join(key_of(&state.mountpoint)).with_extension("json");
        match write_new(&path, &state) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                let shown = state.mountpoint.display();
                let why = match read(&path) {
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
                Err(Failure::text(
                    Exit::Mount,
                    format!("cannot mount on {shown}: {why}"),
                ))
            }
            Err(e) => Err(refuse(&path, &e)),
            Ok(()) => Ok(StateFile { path, state }),
        }
    }

    /// Writes `state` anew; a crash leaves the old one or the new one.
    pub(crate) fn update(&mut self) -> Result<(), Failure> {
        let new = write_beside(&self.path, &self.state);
        new.and_then(|new| fs::rename(new, &self.path))
            .map_err(|e| refuse(&self.path, &e))
    }

    /// The transfer has ended.
    pub(crate) fn remove(&self) {
        let _ = fs::remove_file(&self.path);
    }

    /// Every state of this user's, or the one of `mountpoint`.
    pub(crate) fn all(mountpoint: Option<&Path>) -> Vec<StateFile> {
        let entries = directory().and_then(fs::read_dir).into_iter().flatten().flatten();
        let paths = entries
            .map(|e| e.path())
            .filter(|p| p.extension().is_some_and(|e| e == "json"));
        let read = |path: PathBuf| match read(&path) {
            Ok(state) => Some(StateFile { path, state }),
            Err(e) => {
                eprintln!("rhv-mount: {} is not readable: {e}", path.display());
                None
            }
        };
        let wanted = |file: &StateFile| mountpoint.is_none_or(|m| m == file.state.mountpoint);
        paths.filter_map(read).filter(wanted).collect()
    }
}

fn read(path: &Path) -> io::Result<State> {
    Ok(serde_json::from_slice(&fs::read(path)?)?)
}

/// Puts a whole file in its place at once, and never over another one.
fn write_new(path: &Path, state: &State) -> io::Result<()> {
    let new = write_beside(path, state)?;
    let linked = fs::hard_link(&new, path);
    let _ = fs::remove_file(new);
    linked
}

fn write_beside(path: &Path, state: &State) -> io::Result<PathBuf> {
    let new = path.with_extension(format!("new-{}", std::process::id()));
    let _ = fs::remove_file(&new);
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&new)?;
    let written = file
        .write_all(&serde_json::to_vec_pretty(state)?)
        .and_then(|()| file.sync_all());
    written.inspect_err(|_| drop(fs::remove_file(&new)))?;
    Ok(new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_told_from_a_later_one_with_its_number() {
        let now = start_of(std::process::id());
        assert!(now.is_some());
        assert_eq!(start_of(u32::MAX), None);
    }

    #[test]
    fn a_killed_process_is_gone_before_anybody_has_waited_for_it() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        assert!(start_of(child.id()).is_some());
        child.kill().unwrap();
        let until = Instant::now() + DYING;
        while start_of(child.id()).is_some() {
            assert!(Instant::now() < until, "still there");
        }
        child.wait().unwrap();
    }
}
