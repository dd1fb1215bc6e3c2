//! `--pid-file`: the number of the process that serves, for scripts and supervisors.
//!
//! The file is there from the moment when the disk can be used to the end of the mount. It gets its name when
//! it is complete. Its process holds a lock on it (`lock`): a file without that lock is what a killed process
//! left, and is replaced. Anything else at the path is left alone.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::lock::{is_locked, try_lock};
use crate::failure::{Exit, Failure};

/// Upper bound on the content of a file that may be replaced, in bytes.
const MAX_BYTES: u64 = 32;

/// A path that is no place for the number of this process.
#[derive(Debug, Error)]
pub(crate) enum PidFileError {
    /// Another mount has it.
    #[error(
        "{path} is the PID file of a mount whose process lives (it calls itself {pid}): give each mount a \
         --pid-file of its own"
    )]
    Taken { path: PathBuf, pid: String },
    /// Something else is there.
    #[error("{path} is there and is no PID file, so it is not replaced: give another --pid-file")]
    SomethingElse { path: PathBuf },
    /// The file can't be read or written.
    #[error("cannot use the PID file {path}: {error}")]
    Io { path: PathBuf, error: io::Error },
}

impl From<PidFileError> for Failure {
    fn from(error: PidFileError) -> Self {
        Failure::new(Exit::Usage, error)
    }
}

/// The file of this process.
#[derive(Debug)]
pub(crate) struct PidFile {
    path: PathBuf,
    /// It holds the lock.
    file: File,
}

impl PidFile {
    /// Refuses a path where a file of this process can't be.
    pub(crate) fn check(path: &Path) -> Result<(), PidFileError> {
        let failed = |error| PidFileError::Io {
            path: path.to_owned(),
            error,
        };
        let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
        let file = match OpenOptions::new().read(true).custom_flags(flags).open(path) {
            Ok(file) => file,
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
            Err(e) => return Err(failed(e)),
        };
        let mut content = String::new();
        let regular = file.metadata().map_err(failed)?.is_file();
        let text = regular && (&file).take(MAX_BYTES).read_to_string(&mut content).is_ok();
        let pid = content.trim();
        if !text || !pid.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(PidFileError::SomethingElse {
                path: path.to_owned(),
            });
        }
        match is_locked(&file) {
            Ok(true) => Err(PidFileError::Taken {
                path: path.to_owned(),
                pid: pid.to_owned(),
            }),
            // Without locks nothing is known of its process.
            Ok(false) | Err(_) => Ok(()),
        }
    }

    /// Writes the file, in place of one that a killed process left.
    pub(crate) fn write(path: &Path) -> Result<PidFile, PidFileError> {
        PidFile::check(path)?;
        let pid = std::process::id();
        let mut beside = path.as_os_str().to_owned();
        beside.push(format!(".{pid}"));
        let beside = PathBuf::from(beside);
        let written = || {
            let _ = fs::remove_file(&beside);
            let mut options = OpenOptions::new();
            let mut file = options.write(true).create_new(true).mode(0o644).open(&beside)?;
            // A file system without locks has to do without.
            let _ = try_lock(&file);
            writeln!(file, "{pid}")?;
            fs::rename(&beside, path)?;
            Ok(file)
        };
        match written() {
            Ok(file) => Ok(PidFile {
                path: path.to_owned(),
                file,
            }),
            Err(error) => {
                let _ = fs::remove_file(&beside);
                Err(PidFileError::Io {
                    path: path.to_owned(),
                    error,
                })
            }
        }
    }

    /// Removes the file, unless another one has taken its place.
    pub(crate) fn remove(&self) {
        let ours = self.file.metadata().map(|meta| (meta.dev(), meta.ino()));
        let there = fs::symlink_metadata(&self.path).map(|meta| (meta.dev(), meta.ino()));
        if ours.is_ok_and(|ours| there.is_ok_and(|there| ours == there)) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_a_killed_process_left_is_replaced_and_a_live_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pid");
        fs::write(&path, "12345\n").unwrap();
        let file = PidFile::write(&path).unwrap();
        let content = fs::read_to_string(&path).unwrap();
        assert_eq!(content, format!("{}\n", std::process::id()));
        let second = PidFile::write(&path).unwrap_err().to_string();
        assert!(
            second.contains(content.trim()) && second.contains("lives"),
            "{second}"
        );
        file.remove();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_is_no_pid_file_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notes");
        fs::write(&path, "12 monkeys\n").unwrap();
        assert!(matches!(
            PidFile::write(&path),
            Err(PidFileError::SomethingElse { .. })
        ));
        assert!(PidFile::write(dir.path()).is_err());
        assert_eq!(fs::read_to_string(&path).unwrap(), "12 monkeys\n");
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(PidFile::write(&link).is_err(), "a link is not followed");
    }

    #[test]
    fn the_file_of_a_later_mount_is_not_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pid");
        let first = PidFile::write(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let _second = PidFile::write(&path).unwrap();
        first.remove();
        assert!(path.exists());
    }
}
