//! A file under a temporary name, beside the name that it gets when it is whole.
//!
//! The temporary name is hidden and can't be guessed; the file is made with O_EXCL, and with the mode that
//! the user's umask says, without what a file that it replaces does not grant. It goes when the value is
//! dropped, and stays behind only where the process is killed.

use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tempfile::{NamedTempFile, PersistError};

use super::error::ImageError;

/// The end of a temporary name, and the number of characters before it that can't be guessed.
pub(super) const SUFFIX: &str = ".part";
pub(super) const RANDOM_CHARACTERS: usize = 12;

#[derive(Debug)]
pub(super) struct Temporary {
    file: NamedTempFile,
    /// The name that it gets, with symbolic links followed.
    target: PathBuf,
    /// A file that is there under this name is replaced.
    force: bool,
}

impl Temporary {
    /// Makes an empty file beside `path`.
    pub(super) fn create(path: &Path, force: bool) -> Result<Temporary, ImageError> {
        let target = match fs::symlink_metadata(path) {
            Ok(_) if !force => return Err(exists(path)),
            // The file that a link leads to is replaced, not the link.
            Ok(_) => fs::canonicalize(path).map_err(ImageError::io("look at", path))?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => path.to_owned(),
            Err(e) => return Err(ImageError::io("look at", path)(e)),
        };
        let Some(name) = target.file_name() else {
            return Err(ImageError::NoTarget {
                path: path.to_owned(),
                what: "a directory",
            });
        };
        let granted = fs::metadata(&target).map_or(0o666, |meta| meta.permissions().mode() & 0o666);
        let file = tempfile::Builder::new()
            .prefix(&prefix(name))
            .suffix(SUFFIX)
            .rand_bytes(RANDOM_CHARACTERS)
            .permissions(Permissions::from_mode(granted))
            .tempfile_in(folder_of(&target))
            .map_err(ImageError::io("create", path))?;
        Ok(Temporary { file, target, force })
    }

    pub(super) fn file(&self) -> &File {
        self.file.as_file()
    }

    /// Gives the file its name once its bytes are on the storage, and waits until the name is there too.
    pub(super) fn publish(self) -> Result<(), ImageError> {
        let Temporary { file, target, force } = self;
        file.as_file()
            .sync_all()
            .map_err(ImageError::io("flush", &target))?;
        // It is opened before the rename, so that this can't fail when the file has its name.
        let folder = match File::open(folder_of(&target)) {
            Err(e) if !is_unsupported(&e) => return Err(ImageError::io("open", folder_of(&target))(e)),
            folder => folder,
        };
        let persisted = match force {
            true => file.persist(&target),
            false => file
                .persist_noclobber(&target)
                .or_else(|e| match knows_no_such_rename(&e.error) {
                    true => claim_and_rename(e.file, &target),
                    false => Err(e),
                }),
        };
        persisted.map_err(|e| match e.error.kind() {
            io::ErrorKind::AlreadyExists => exists(&target),
            _ => ImageError::io("create", &target)(e.error),
        })?;
        match folder.and_then(|folder| folder.sync_all()) {
            Err(source) if !is_unsupported(&source) => Err(ImageError::Unflushed { path: target, source }),
            _ => Ok(()),
        }
    }
}

/// The beginning of the temporary names of a file. A name has 255 bytes at most, and most file systems take
/// no more than that.
pub(super) fn prefix(name: &OsStr) -> String {
    let shown: String = name.to_string_lossy().chars().take(50).collect();
    format!(".{shown}.")
}

/// True where a folder can't be flushed at all: by its file system, or by a user who may only write to it.
fn is_unsupported(error: &io::Error) -> bool {
    let code = error.raw_os_error();
    code.is_some_and(|code| matches!(code, libc::EINVAL | libc::ENOTSUP | libc::EACCES))
}

/// True where a file system has refused the kind of the rename, and of the hard link after it.
fn knows_no_such_rename(error: &io::Error) -> bool {
    let code = error.raw_os_error();
    code.is_some_and(|code| matches!(code, libc::EINVAL | libc::ENOSYS | libc::ENOTSUP | libc::EPERM))
}

/// Renames on a file system that knows neither a rename that replaces nothing nor hard links (some are behind
/// FUSE): an empty file of our own takes the name first, and is replaced, or removed where that fails.
fn claim_and_rename(file: NamedTempFile, target: &Path) -> Result<File, PersistError> {
    match File::create_new(target) {
        Ok(_) => file.persist(target).inspect_err(|_| {
            // The reason of the failed rename is told.
            let _ = fs::remove_file(target);
        }),
        Err(error) => Err(PersistError { error, file }),
    }
}

fn exists(path: &Path) -> ImageError {
    ImageError::Exists {
        path: path.to_owned(),
    }
}

pub(super) fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_claimed_where_no_rename_can_spare_what_is_there() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("disk");
        let temporary = || NamedTempFile::new_in(folder.path()).unwrap();
        let first = temporary();
        fs::write(first.path(), "whole").unwrap();
        claim_and_rename(first, &target).unwrap();
        let refused = claim_and_rename(temporary(), &target).unwrap_err();
        assert_eq!(refused.error.kind(), io::ErrorKind::AlreadyExists);
        drop(refused);
        assert_eq!(fs::read(&target).unwrap(), b"whole");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_file_that_replaces_another_one_grants_no_more_than_that() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("disk");
        fs::write(&target, "old").unwrap();
        fs::set_permissions(&target, Permissions::from_mode(0o600)).unwrap();
        Temporary::create(&target, true).unwrap().publish().unwrap();
        let meta = fs::metadata(&target).unwrap();
        assert_eq!((meta.len(), meta.permissions().mode() & 0o777), (0, 0o600));
    }

    #[test]
    fn a_claimed_name_does_not_stay_where_the_rename_fails() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("disk");
        let temporary = NamedTempFile::new_in(folder.path()).unwrap();
        fs::remove_file(temporary.path()).unwrap();
        claim_and_rename(temporary, &target).unwrap_err();
        assert!(!target.exists());
    }
}
