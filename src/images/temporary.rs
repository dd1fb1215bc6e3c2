//! A file under a temporary name, beside the name that it gets when it is whole.
//!
//! The temporary name is hidden and can't be guessed; the file is made with O_EXCL. Where it replaces another
//! one, as `--force` asks, only this user may read it until it takes over that one's owner, group and
//! permissions, as if that one had been written; else it has the mode that the user's umask says, or is
//! private from the beginning. It goes when the value is dropped, and stays behind only where the process is
//! killed.

use std::ffi::OsStr;
use std::fs::{self, File, Metadata, Permissions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use tempfile::{NamedTempFile, PersistError};

use super::error::ImageError;
use super::stamp::{FileStamp, file_stamp};

/// The end of a temporary name, and the number of characters before it that can't be guessed.
pub(super) const SUFFIX: &str = ".part";
pub(super) const RANDOM_CHARACTERS: usize = 12;

/// The mode of a file that is its maker's alone.
const PRIVATE: u32 = 0o600;

#[derive(Debug)]
pub(super) struct Temporary {
    file: NamedTempFile,
    /// The name that it gets, with symbolic links followed.
    target: PathBuf,
    /// A file that is there under this name is replaced.
    force: bool,
}

impl Temporary {
    /// Returns the name that a file for `path` gets; refuses one that can't be made, as far as a look tells.
    pub(super) fn check(path: &Path, force: bool) -> Result<PathBuf, ImageError> {
        let target = match fs::symlink_metadata(path) {
            Ok(_) if !force => return Err(exists(path)),
            // The file that a link leads to is replaced, not the link.
            Ok(_) => fs::canonicalize(path).map_err(ImageError::io("look at", path))?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => path.to_owned(),
            Err(e) => return Err(ImageError::io("look at", path)(e)),
        };
        let ends_in_slash = path.as_os_str().as_bytes().ends_with(b"/");
        if target.file_name().is_none() || ends_in_slash {
            return Err(ImageError::NoTarget {
                path: path.to_owned(),
                what: "a directory",
            });
        }
        match fs::metadata(folder_of(&target)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Err(ImageError::io("create", path)(e)),
            Ok(meta) if !meta.is_dir() => {
                let e = io::Error::from_raw_os_error(libc::ENOTDIR);
                Err(ImageError::io("create", path)(e))
            }
            _ => Ok(target),
        }
    }

    /// Makes an empty file beside `path`.
    pub(super) fn create(path: &Path, force: bool) -> Result<Temporary, ImageError> {
        let target = Temporary::check(path, force)?;
        let granted = if target.exists() { PRIVATE } else { 0o666 };
        Temporary::make(path, target, force, granted)
    }

    /// Makes an empty file beside `path`, where there is none yet, that only this user may read and write,
    /// whatever the umask says.
    pub(super) fn create_private(path: &Path) -> Result<Temporary, ImageError> {
        let target = Temporary::check(path, false)?;
        let made = Temporary::make(path, target, false, PRIVATE)?;
        // The umask can only have taken from it, so a file system without modes does no harm.
        let _ = made.file().set_permissions(Permissions::from_mode(PRIVATE));
        Ok(made)
    }

    fn make(path: &Path, target: PathBuf, force: bool, granted: u32) -> Result<Temporary, ImageError> {
        let name = target.file_name().unwrap_or_default();
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

    /// The path that it has now.
    pub(super) fn path(&self) -> &Path {
        self.file.path()
    }

    /// Gives the file its name once its bytes are on the storage, and waits until the name is there too.
    /// Returns how the file is, before anybody else can find it.
    pub(super) fn publish(self) -> Result<Option<FileStamp>, ImageError> {
        let Temporary { file, target, force } = self;
        let replaced = fs::symlink_metadata(&target).ok().filter(Metadata::is_file);
        if let Some(replaced) = replaced.filter(|_| force) {
            // On a file system that knows none, the file stays its maker's alone.
            let _ = take_over(file.as_file(), &replaced);
        }
        file.as_file()
            .sync_all()
            .map_err(ImageError::io("flush", &target))?;
        let meta = file.as_file().metadata();
        let stamp = file_stamp(&meta.map_err(ImageError::io("look at", &target))?);
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
            _ => Ok(stamp),
        }
    }
}

/// The beginning of the temporary names of a file. A name has 255 bytes at most, and most file systems take
/// no more than that.
pub(super) fn prefix(name: &OsStr) -> String {
    format!(".{}.", beginning(&name.to_string_lossy()))
}

/// As much of a name as its temporary name has.
pub(super) fn beginning(name: &str) -> String {
    name.chars().take(50).collect()
}

/// Gives `file` the owner, the group and the permissions of the file that it replaces. Only root may give a
/// file away; where the group can't be kept either, ours gets what everybody has.
fn take_over(file: &File, replaced: &Metadata) -> io::Result<()> {
    let made = file.metadata()?;
    let mut mode = replaced.mode() & 0o777;
    let keeps_group = replaced.gid() == made.gid() || fchown(file, None, Some(replaced.gid())).is_ok();
    if !keeps_group {
        mode = (mode & 0o707) | ((mode & 0o007) << 3);
    }
    // Whoever is no owner any more may not set it.
    file.set_permissions(Permissions::from_mode(mode))?;
    if replaced.uid() != made.uid() {
        let _ = fchown(file, Some(replaced.uid()), None);
    }
    Ok(())
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
    fn a_file_that_replaces_another_one_has_its_owner_group_and_permissions() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("disk");
        let is_root = nix::unistd::geteuid().is_root();
        for mode in [0o600, 0o640, 0o664, 0o777] {
            fs::write(&target, "old").unwrap();
            fs::set_permissions(&target, Permissions::from_mode(mode)).unwrap();
            if is_root {
                std::os::unix::fs::chown(&target, Some(61234), Some(61235)).unwrap();
            }
            let before = fs::metadata(&target).unwrap();
            let temporary = Temporary::create(&target, true).unwrap();
            let made = temporary.file().metadata().unwrap();
            assert_eq!(made.mode() & 0o777, 0o600, "it is not whole");
            temporary.publish().unwrap();
            let after = fs::metadata(&target).unwrap();
            let of = |meta: &Metadata| (meta.uid(), meta.gid(), meta.mode());
            assert_eq!((after.len(), of(&after)), (0, of(&before)));
        }
    }

    #[test]
    fn a_group_that_was_not_that_of_the_file_gets_no_more_than_everybody() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("disk");
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        fs::write(&target, "old").unwrap();
        let theirs = fs::metadata(&target).unwrap();
        std::os::unix::fs::chown(&target, Some(61234), Some(61235)).unwrap();
        fs::set_permissions(&target, Permissions::from_mode(0o664)).unwrap();
        let replaced = fs::metadata(&target).unwrap();
        // A user who is no member of the group, and no owner, has made the new one.
        let file = NamedTempFile::new_in(folder.path()).unwrap();
        let kept = caps::read(None, caps::CapSet::Effective).unwrap();
        caps::drop(None, caps::CapSet::Effective, caps::Capability::CAP_CHOWN).unwrap();
        let taken = take_over(file.as_file(), &replaced);
        caps::set(None, caps::CapSet::Effective, &kept).unwrap();
        taken.unwrap();
        let made = file.as_file().metadata().unwrap();
        assert_eq!((made.uid(), made.gid()), (theirs.uid(), theirs.gid()));
        assert_eq!(made.mode() & 0o777, 0o644);
    }

    /// A file that can't be flushed is one whose bytes may not be on the storage.
    #[test]
    fn a_file_that_can_not_be_flushed_never_gets_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("disk");
        for (force, kept) in [(false, None), (true, Some("old"))] {
            if let Some(kept) = kept {
                fs::write(&target, kept).unwrap();
            }
            let path = folder.path().join("hidden");
            fs::write(&path, "not safe").unwrap();
            // fsync(2) refuses a pipe.
            let (pipe, _writer) = nix::unistd::pipe().unwrap();
            let temporary = Temporary {
                file: NamedTempFile::from_parts(
                    File::from(pipe),
                    tempfile::TempPath::try_from_path(path).unwrap(),
                ),
                target: target.clone(),
                force,
            };
            let error = temporary.publish().unwrap_err().to_string();
            assert!(error.contains("cannot flush"), "{error}");
            assert_eq!(fs::read_to_string(&target).ok().as_deref(), kept);
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
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
