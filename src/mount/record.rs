//! The files by which a mount is found again, in a directory of the user's.
//!
//! `KEY.sock` answers while the process lives. `KEY.json` says what was mounted and outlives a killed
//! process. `KEY.failed` is the outcome of a mount that ended badly, until somebody has heard of it: after a
//! plain `umount` nobody has. The next mount on that path says it, `rhv-mount status` lists it, and the next
//! `rhv-mount umount` of that path tells and removes it. KEY is derived from the mountpoint. No
//! file holds a secret.

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::process::identity::{DYING_LIMIT, this_pid_namespace};
use crate::process::runtime_directory::key_of;

/// Upper bound on the bad outcomes that are kept beside the last one.
const MAX_NOTES: usize = 10;

/// Upper bound on a file here, in bytes.
const MAX_FILE_BYTES: u64 = 64 << 10;

/// The pause between two looks whether a killed process still listens.
const DYING_PAUSE: Duration = Duration::from_millis(100);

/// Upper bound on the words of an outcome that is too long, in characters; JSON may need six bytes for one.
const MAX_MESSAGE_CHARS: usize = 8 << 10;

/// The record of a mount, which outlives the process.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Record {
    #[serde(with = "crate::path_bytes")]
    pub(crate) mountpoint: PathBuf,
    /// The path of the file that is the disk; absent in records of older versions.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        with = "crate::path_bytes::option"
    )]
    pub(crate) file: Option<PathBuf>,
    pub(crate) pid: u32,
    /// Its PID namespace, in which `pid` means something; empty in records of older versions.
    #[serde(default)]
    pub(crate) namespace: String,
    /// The mountpoint is a file that we made.
    pub(crate) created: bool,
    pub(crate) read_only: bool,
}

impl Record {
    /// The number of the process, where it means that process here too.
    pub(crate) fn pid_here(&self) -> Option<u32> {
        let is_here = self.namespace.is_empty() || self.namespace == this_pid_namespace();
        is_here.then_some(self.pid)
    }
}

/// The outcome of a mount.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Ending {
    pub(crate) code: u8,
    pub(crate) message: Option<String>,
    /// Statistics of each connection, where the user asked for them.
    #[serde(default)]
    pub(crate) stats: Vec<String>,
    /// The canonical path of the mountpoint, in a file.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        with = "crate::path_bytes::option"
    )]
    pub(crate) mountpoint: Option<PathBuf>,
    /// More to be told: a bad outcome of an earlier mount on the same path.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) notes: Vec<String>,
    /// The file system that somebody holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) held: Option<Held>,
    /// The mount is out of the tree and goes on, since its file is open. A signal ends it all the same.
    #[serde(default)]
    pub(crate) detached: bool,
}

impl Ending {
    /// Leaves out what makes it too long to be read again: earlier outcomes first, then the end of its own
    /// words, which are many where many disks have failed.
    fn fit(&mut self) {
        let is_long = |ending: &Ending| {
            let text = serde_json::to_vec(ending).unwrap_or_default();
            text.len() as u64 > MAX_FILE_BYTES
        };
        while is_long(self) && self.notes.pop().is_some() {}
        if is_long(self) {
            let shorten = |text: String| text.chars().take(MAX_MESSAGE_CHARS).collect::<String>() + " ...";
            self.message = self.message.take().map(shorten);
        }
    }
}

/// The numbers by which a mounted file system is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Held {
    /// Device number, major and minor.
    pub(crate) device: (u64, u64),
    /// Number of the mount.
    pub(crate) mount: u64,
}

/// The files of one mountpoint.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    stem: PathBuf,
}

impl Place {
    /// The place of `mountpoint` (canonical) in `directory`.
    pub(crate) fn of(directory: &Path, mountpoint: &Path) -> Place {
        Place {
            stem: directory.join(key_of(mountpoint)),
        }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.stem.with_extension("sock")
    }

    pub(crate) fn record(&self) -> Option<Record> {
        self.read("json")
    }

    pub(crate) fn write_record(&self, record: &Record) -> io::Result<()> {
        self.write("json", record)
    }

    /// Keeps a bad outcome; one that is there stays with it.
    pub(crate) fn write_ending(&self, ending: &Ending) -> io::Result<()> {
        let mut both = ending.clone();
        both.notes.extend(self.earlier());
        if let Some(earlier) = self.ending() {
            both.code = both.code.max(earlier.code);
            both.notes.extend(earlier.notes);
        }
        both.notes.truncate(MAX_NOTES);
        // The figures of many connections would make it too long to be read again.
        both.stats.clear();
        both.fit();
        self.write("failed", &both)
    }

    /// The bad outcome that nobody has heard of yet.
    pub(crate) fn ending(&self) -> Option<Ending> {
        self.read("failed")
    }

    /// Says what became of an earlier mount here that ended badly and that nobody has heard of yet.
    pub(crate) fn earlier(&self) -> Option<String> {
        let message = self.ending()?.message?;
        let path = self.stem.with_extension("failed");
        let written = fs::metadata(path).and_then(|meta| meta.modified()).ok()?;
        let ago = written.elapsed().unwrap_or_default().as_secs();
        let ago = match ago {
            0..120 => format!("{ago} s"),
            120..7200 => format!("{} min", ago / 60),
            7200..172_800 => format!("{} h", ago / 3600),
            _ => format!("{} days", ago / 86_400),
        };
        Some(format!("an earlier mount here ended badly {ago} ago: {message}"))
    }

    /// Takes what is kept, and returns the words for it; not for `heard`, the outcome that was just told.
    pub(crate) fn take_earlier_than(&self, heard: Option<&Ending>) -> Vec<String> {
        let words = self.earlier();
        let Some(kept) = self.take_ending() else {
            return vec![];
        };
        let told = heard.is_some_and(|heard| heard.message == kept.message);
        words.filter(|_| !told).into_iter().chain(kept.notes).collect()
    }

    /// Takes the bad outcome that nobody has heard of yet.
    pub(crate) fn take_ending(&self) -> Option<Ending> {
        let ending = self.ending();
        let _ = fs::remove_file(self.stem.with_extension("failed"));
        ending
    }

    /// True when a process listens at this place, even if it is too busy, or not allowed, to answer.
    pub(crate) fn is_served(&self) -> bool {
        // The kernel keeps only so many connections for a process that is stopped, and would wait for it.
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let asked = UnixAddr::new(&self.socket()).and_then(|address| {
            let socket = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
            connect(socket.as_raw_fd(), &address)
        });
        !matches!(asked, Err(Errno::ENOENT | Errno::ECONNREFUSED))
    }

    /// True when a process goes on listening at this place. One that was killed is waited for: it lets go of
    /// its files one after the other, and of a connection before the socket.
    pub(crate) fn stays_served(&self) -> bool {
        let until = Instant::now() + DYING_LIMIT;
        while self.is_served() {
            if Instant::now() >= until {
                return true;
            }
            sleep(DYING_PAUSE);
        }
        false
    }

    /// Removes the files of a live mount.
    pub(crate) fn clear(&self) {
        let _ = fs::remove_file(self.stem.with_extension("json"));
        let _ = fs::remove_file(self.socket());
    }

    /// Reads a file. Another user's directory may hold anything: links, pipes, a file without end.
    fn read<T: DeserializeOwned>(&self, extension: &str) -> Option<T> {
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
            .open(self.stem.with_extension(extension))
            .ok()?;
        let regular = file.metadata().is_ok_and(|meta| meta.is_file());
        regular.then(|| serde_json::from_reader(file.take(MAX_FILE_BYTES)).ok())?
    }

    fn write(&self, extension: &str, value: &impl Serialize) -> io::Result<()> {
        let path = self.stem.with_extension(extension);
        let _ = fs::remove_file(&path);
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)?;
        file.write_all(&serde_json::to_vec(value).map_err(io::Error::other)?)
    }
}

/// The place of every record, and of every socket and outcome without one, in `directory`: somebody may have
/// removed the record alone.
pub(crate) fn places(directory: &Path) -> Vec<Place> {
    let entries = fs::read_dir(directory)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path());
    let files = entries.filter(|path| is_of_place(path));
    let stems: BTreeSet<PathBuf> = files.map(|path| path.with_extension("")).collect();
    stems.into_iter().map(|stem| Place { stem }).collect()
}

fn is_of_place(path: &Path) -> bool {
    let extension = path.extension().and_then(|extension| extension.to_str());
    matches!(extension, Some("json" | "sock" | "failed"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn an_ending_of_very_many_disks_can_be_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let place = Place::of(dir.path(), Path::new("/mnt/vm"));
        let ending = |message: String| Ending {
            code: 7,
            message: Some(message),
            stats: vec![],
            mountpoint: None,
            notes: vec![],
            held: None,
            detached: false,
        };
        for _ in 0..12 {
            place.write_ending(&ending("disk: lost; ".repeat(900))).unwrap();
        }
        assert!(place.ending().is_some_and(|kept| !kept.notes.is_empty()));
        place.write_ending(&ending("disk: \u{1}; ".repeat(9000))).unwrap();
        let taken = place.take_ending().unwrap();
        assert_eq!(taken.code, 7);
        assert!(taken.message.unwrap().ends_with(" ..."));
    }

    #[test]
    fn an_ending_is_kept_until_it_is_taken_and_none_erases_another() {
        let dir = tempfile::tempdir().unwrap();
        let place = Place::of(dir.path(), Path::new("/mnt/disk"));
        for (code, message) in [(7, "first"), (4, "second"), (4, "third")] {
            let ending = Ending {
                code,
                message: Some(message.into()),
                stats: vec![],
                mountpoint: None,
                notes: vec![],
                held: None,
                detached: false,
            };
            place.write_ending(&ending).unwrap();
        }
        assert!(place.earlier().unwrap().ends_with("third"));
        assert_eq!(places(dir.path()).len(), 1);
        let taken = place.take_ending().unwrap();
        assert_eq!((taken.code, taken.message.as_deref()), (7, Some("third")));
        let notes: Vec<_> = taken.notes.iter().map(|note| note.rsplit(' ').next()).collect();
        assert_eq!(notes, [Some("second"), Some("first")]);
        assert!(place.take_ending().is_none());
    }

    #[test]
    fn the_number_of_a_process_means_nothing_in_another_pid_namespace() {
        let of = |namespace: String| Record {
            mountpoint: "/mnt/disk".into(),
            file: None,
            pid: 7,
            namespace,
            created: false,
            read_only: false,
        };
        assert_eq!(of(this_pid_namespace()).pid_here(), Some(7));
        assert_eq!(of("pid:[1]".to_owned()).pid_here(), None);
        assert_eq!(of(String::new()).pid_here(), Some(7), "of an older version");
    }

    #[test]
    fn records_are_private_and_listed() {
        let dir = tempfile::tempdir().unwrap();
        let place = Place::of(dir.path(), Path::new("/mnt/disk"));
        let record = Record {
            mountpoint: "/mnt/disk".into(),
            file: None,
            pid: 1,
            namespace: String::new(),
            created: false,
            read_only: false,
        };
        place.write_record(&record).unwrap();
        let listed = places(dir.path());
        assert_eq!(listed[0].record().unwrap().mountpoint, Path::new("/mnt/disk"));
        assert_eq!(
            fs::metadata(place.stem.with_extension("json")).unwrap().mode() & 0o777,
            0o600
        );
        // Somebody has removed the record of a mount at work.
        fs::remove_file(place.stem.with_extension("json")).unwrap();
        assert_eq!(places(dir.path()).len(), 0);
        fs::write(place.socket(), "").unwrap();
        assert_eq!(places(dir.path()).len(), 1);
    }
}
