//! Where a mount can be found again: a control socket and a record for each, in a directory of the user's.
//!
//! `KEY.sock` answers while the process lives, `KEY.json` says what was mounted and outlives a killed
//! process, `KEY.failed` is the last word of a mount that ended badly with nobody listening (after a plain
//! `umount`); the next `rhv-mount umount` of that path reports it. KEY is derived from the mountpoint. No
//! file holds a secret.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::unistd::{Uid, geteuid};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// No file here is longer, bytes.
const LIMIT: u64 = 64 << 10;

/// What outlives the process.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) mountpoint: PathBuf,
    pub(super) pid: u32,
    /// The mountpoint is a file that we made.
    pub(super) created: bool,
    pub(super) read_only: bool,
}

/// How a mount ended.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Ending {
    pub(super) code: u8,
    pub(super) message: Option<String>,
    /// What each connection did, when asked for.
    #[serde(default)]
    pub(super) stats: Vec<String>,
}

/// The files of one mountpoint.
#[derive(Debug, Clone)]
pub(super) struct Place {
    stem: PathBuf,
}

impl Place {
    /// The place of `mountpoint` (canonical) in `directory`.
    pub(super) fn of(directory: &Path, mountpoint: &Path) -> Place {
        Place {
            stem: directory.join(key_of(mountpoint)),
        }
    }

    pub(super) fn socket(&self) -> PathBuf {
        self.stem.with_extension("sock")
    }

    pub(super) fn record(&self) -> Option<Record> {
        self.read("json")
    }

    pub(super) fn write_record(&self, record: &Record) -> io::Result<()> {
        let _ = fs::remove_file(self.stem.with_extension("failed"));
        self.write("json", record)
    }

    pub(super) fn write_ending(&self, ending: &Ending) -> io::Result<()> {
        self.write("failed", ending)
    }

    /// The bad ending that nobody has heard of, once.
    pub(super) fn take_ending(&self) -> Option<Ending> {
        let ending = self.read("failed");
        let _ = fs::remove_file(self.stem.with_extension("failed"));
        ending
    }

    /// Removes what a live mount has here.
    pub(super) fn clear(&self) {
        let _ = fs::remove_file(self.stem.with_extension("json"));
        let _ = fs::remove_file(self.socket());
    }

    /// Somebody else's directory may hold anything: links, pipes, a file without end.
    fn read<T: DeserializeOwned>(&self, extension: &str) -> Option<T> {
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
            .open(self.stem.with_extension(extension))
            .ok()?;
        let regular = file.metadata().is_ok_and(|meta| meta.is_file());
        regular.then(|| serde_json::from_reader(file.take(LIMIT)).ok())?
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

/// The directory of user `uid`. Not in `/run/user`: that one goes when the user logs out, and mounts stay (tmux
/// has its sockets in `/tmp` for the same reason).
fn path_of(uid: Uid) -> PathBuf {
    match uid.is_root() {
        true => PathBuf::from("/run/rhv-mount"),
        false => PathBuf::from(format!("/tmp/rhv-mount-{uid}")),
    }
}

/// The directory of user `uid`; one that others could write to is refused.
pub(super) fn directory_of(uid: Uid) -> io::Result<PathBuf> {
    let path = path_of(uid);
    let meta = fs::symlink_metadata(&path)?;
    if !meta.is_dir() || meta.uid() != uid.as_raw() || meta.mode() & 0o077 != 0 {
        return Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            format!(
                "{} must be a directory of user {uid} with mode 700; remove it",
                path.display()
            ),
        ));
    }
    Ok(path)
}

/// This user's own directory, made when missing.
pub(super) fn directory() -> io::Result<PathBuf> {
    match DirBuilder::new().mode(0o700).create(path_of(geteuid())) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => Err(e),
        _ => directory_of(geteuid()),
    }
}

/// Where to look for mounts, and whose they are: the user's own directory; root looks into everybody's.
pub(super) fn directories() -> Vec<(Uid, PathBuf)> {
    let mut users = vec![geteuid()];
    if geteuid().is_root() {
        let entries = fs::read_dir("/tmp").into_iter().flatten().flatten();
        users.extend(entries.filter_map(|entry| {
            let uid = entry.file_name().to_str()?.strip_prefix("rhv-mount-")?.parse();
            uid.ok().map(Uid::from_raw)
        }));
    }
    let usable = |uid| Some((uid, directory_of(uid).ok()?));
    users.into_iter().filter_map(usable).collect()
}

/// The place of every record in `directory`.
pub(super) fn places(directory: &Path) -> Vec<Place> {
    let entries = fs::read_dir(directory)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path());
    let records = entries.filter(|path| path.extension().is_some_and(|e| e == "json"));
    records
        .map(|path| Place {
            stem: path.with_extension(""),
        })
        .collect()
}

/// What the files of a mountpoint are called.
pub(super) fn key_of(mountpoint: &Path) -> String {
    format!("{:016x}", fnv1a(mountpoint.as_os_str().as_encoded_bytes()))
}

/// FNV-1a, 64 bits: the same in every build, unlike the standard library's hasher.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ending_is_told_once() {
        let dir = tempfile::tempdir().unwrap();
        let place = Place::of(dir.path(), Path::new("/mnt/disk"));
        place
            .write_ending(&Ending {
                code: 7,
                message: Some("lost".into()),
                stats: vec![],
            })
            .unwrap();
        assert_eq!(place.take_ending().map(|e| e.code), Some(7));
        assert!(place.take_ending().is_none());
    }

    #[test]
    fn records_are_private_and_listed() {
        let dir = tempfile::tempdir().unwrap();
        let place = Place::of(dir.path(), Path::new("/mnt/disk"));
        let record = Record {
            mountpoint: "/mnt/disk".into(),
            pid: 1,
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
    }
}
