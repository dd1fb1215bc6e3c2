//! The files by which a mount is found again, in a directory of the user's.
//!
//! `KEY.sock` answers while the process lives. `KEY.json` says what was mounted and outlives a killed
//! process. `KEY.failed` is the outcome of a mount that ended badly with nobody listening (after a plain
//! `umount`); the next `rhv-mount umount` of that path reports it. KEY is derived from the mountpoint. No
//! file holds a secret.

use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::process::runtime_directory::key_of;

/// Upper bound on a file here, in bytes.
const MAX_FILE_BYTES: u64 = 64 << 10;

/// The record of a mount, which outlives the process.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) mountpoint: PathBuf,
    pub(crate) pid: u32,
    /// The mountpoint is a file that we made.
    pub(crate) created: bool,
    pub(crate) read_only: bool,
}

/// The outcome of a mount.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Ending {
    pub(crate) code: u8,
    pub(crate) message: Option<String>,
    /// Statistics of each connection, where the user asked for them.
    #[serde(default)]
    pub(crate) stats: Vec<String>,
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
        let _ = fs::remove_file(self.stem.with_extension("failed"));
        self.write("json", record)
    }

    pub(crate) fn write_ending(&self, ending: &Ending) -> io::Result<()> {
        self.write("failed", ending)
    }

    /// Takes the bad outcome that nobody has heard of yet.
    pub(crate) fn take_ending(&self) -> Option<Ending> {
        let ending = self.read("failed");
        let _ = fs::remove_file(self.stem.with_extension("failed"));
        ending
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

/// The place of every record in `directory`.
pub(crate) fn places(directory: &Path) -> Vec<Place> {
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

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

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
