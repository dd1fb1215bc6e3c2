//! The image of a download that is not whole, as its note names it: a killed process leaves it behind, under
//! a name that nobody else can guess.
//!
//! It is removed by `recover` only where all tells that it is that file and that nobody is at work on it: its
//! path, its inode, and the lock that its process held while it lived (`process::lock`).

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::process::lock::try_lock;

/// See the head of this file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Unfinished {
    #[serde(with = "crate::path_bytes")]
    pub(crate) path: PathBuf,
    inode: u64,
}

/// Its fate.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Removal {
    Removed,
    /// There is none.
    Gone,
    /// It is left alone, for this reason.
    Left(String),
}

impl Unfinished {
    /// Takes the lock of `file`, which is at `path`, for as long as it is open. A file system without locks
    /// has it without one.
    pub(crate) fn begin(path: &Path, file: &File) -> io::Result<Unfinished> {
        let _ = try_lock(file);
        Ok(Unfinished {
            path: path.to_owned(),
            inode: file.metadata()?.ino(),
        })
    }

    /// The file that is at `path` now.
    pub(crate) fn found(path: &Path) -> io::Result<Unfinished> {
        Ok(Unfinished {
            path: path.to_owned(),
            inode: fs::symlink_metadata(path)?.ino(),
        })
    }

    /// The same file under the name that it is about to get.
    pub(crate) fn renamed(&self, path: &Path) -> Unfinished {
        Unfinished {
            path: path.to_owned(),
            inode: self.inode,
        }
    }

    /// Removes it, where it is that file and its process is gone.
    pub(crate) fn remove(&self) -> Removal {
        match self.try_remove() {
            Ok(None) => Removal::Removed,
            Ok(Some(why)) => Removal::Left(why.to_owned()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Removal::Gone,
            Err(e) => Removal::Left(e.to_string()),
        }
    }

    /// Returns why it is left.
    fn try_remove(&self) -> io::Result<Option<&'static str>> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            // Whatever has taken its name is neither followed nor waited for.
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY)
            .open(&self.path)?;
        let meta = file.metadata()?;
        if !meta.is_file() || meta.ino() != self.inode {
            return Ok(Some("another file has its name"));
        }
        if !try_lock(&file)? {
            return Ok(Some("a process is at work on it"));
        }
        fs::remove_file(&self.path)?;
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_goes_once_its_process_is_gone_and_another_file_of_its_name_never_does() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(".disk.raw.abc.part");
        let file = File::create(&path).unwrap();
        let unfinished = Unfinished::begin(&path, &file).unwrap();
        let left = |why: &str| Removal::Left(why.to_owned());
        assert_eq!(unfinished.remove(), left("a process is at work on it"));
        let aside = folder.path().join("aside");
        fs::rename(&path, &aside).unwrap();
        assert_eq!(unfinished.remove(), Removal::Gone);
        fs::write(&path, "somebody else's").unwrap();
        assert_eq!(unfinished.remove(), left("another file has its name"));
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink(&aside, &path).unwrap();
        assert!(matches!(unfinished.remove(), Removal::Left(_)));
        fs::rename(&aside, &path).unwrap();
        drop(file);
        assert_eq!(unfinished.remove(), Removal::Removed);
        assert!(!path.exists());
    }
}
