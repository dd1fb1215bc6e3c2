//! All that a mount of several disks tells about them, beside their files: small read-only files in the
//! directory `.rhv-mount`, and extended attributes of the disks' files by which a program finds them.
//!
//! The texts are there when the mount begins and never change, so the kernel may keep them, and a session
//! thread answers at once: nothing here waits. A mount that has nothing to tell has neither directory nor
//! attributes, and says so once (ENOSYS): otherwise the kernel would ask for `security.capability` before
//! each write.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::sync::Arc;

use fuser::{Errno, FileType, INodeNo};

/// The name of the directory. No disk's file has it (`mount/file_names.rs`).
pub(super) const DIRECTORY: &str = ".rhv-mount";

/// The content of a file that tells something.
pub(crate) trait Text: Send + Sync {
    /// Its length in bytes.
    fn len(&self) -> u64;
    /// Returns up to `size` bytes at `offset`, fewer at its end.
    fn read(&self, offset: u64, size: usize) -> Vec<u8>;
}

/// A file that tells something.
pub(crate) struct Telling {
    pub(crate) name: OsString,
    pub(crate) text: Arc<dyn Text>,
}

/// The attributes of one file: names and values.
pub(crate) type Attributes = Vec<(&'static str, String)>;

/// See the head of this file.
#[derive(Default)]
pub(crate) struct Beside {
    pub(crate) tellings: Vec<Telling>,
    /// The attributes of disks' files, by the names of the files.
    pub(crate) attributes: HashMap<OsString, Attributes>,
}

impl Beside {
    /// The file with this name in the directory, and its number there.
    pub(super) fn telling_named(&self, name: &OsStr) -> Option<(usize, &Telling)> {
        let mut numbered = self.tellings.iter().enumerate();
        numbered.find(|(_, telling)| telling.name == name)
    }

    /// Entries of the directory in order; its own number is `ino`, and its files have the ones after it.
    pub(super) fn entries(&self, ino: u64) -> Vec<(INodeNo, FileType, OsString)> {
        let dots = [(ino, "."), (1, "..")];
        let dots = dots.map(|(ino, name)| (INodeNo(ino), FileType::Directory, OsString::from(name)));
        let files = (ino + 1..).zip(&self.tellings);
        let files = files.map(|(ino, one)| (INodeNo(ino), FileType::RegularFile, one.name.clone()));
        dots.into_iter().chain(files).collect()
    }

    /// Returns the value of an attribute of a file, or of something that has none.
    pub(super) fn attribute(&self, file: Option<&OsStr>, name: &OsStr) -> Result<&[u8], Errno> {
        if self.attributes.is_empty() {
            return Err(Errno::ENOSYS);
        }
        let mut all = self.of(file).iter();
        let found = all.find(|(one, _)| OsStr::new(one) == name);
        found.map(|(_, value)| value.as_bytes()).ok_or(Errno::NO_XATTR)
    }

    /// Returns the names of the attributes of a file as listxattr(2) gives them, each with a NUL behind it.
    pub(super) fn names(&self, file: Option<&OsStr>) -> Result<Vec<u8>, Errno> {
        if self.attributes.is_empty() {
            return Err(Errno::ENOSYS);
        }
        let names = self.of(file).iter().map(|(name, _)| format!("{name}\0"));
        Ok(names.collect::<String>().into_bytes())
    }

    fn of(&self, file: Option<&OsStr>) -> &[(&'static str, String)] {
        let attributes = file.and_then(|file| self.attributes.get(file));
        attributes.map_or(&[], Vec::as_slice)
    }
}

/// Returns the first offset at or after `from` of a text of `len` bytes that is data, or a hole, of which
/// there is none before its end.
pub(super) fn seek(len: u64, from: u64, whence: i32) -> Result<u64, Errno> {
    match whence {
        libc::SEEK_DATA | libc::SEEK_HOLE if from >= len => Err(Errno::ENXIO),
        libc::SEEK_DATA => Ok(from),
        libc::SEEK_HOLE => Ok(len),
        _ => Err(Errno::EINVAL),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code<T: std::fmt::Debug>(result: Result<T, Errno>) -> i32 {
        i32::from(result.unwrap_err())
    }

    #[test]
    fn a_file_has_its_attributes_and_a_mount_without_any_says_so_for_good() {
        let told = vec![("user.a", "1".to_owned()), ("user.b", "two".to_owned())];
        let beside = Beside {
            attributes: HashMap::from([("disk".into(), told)]),
            ..Beside::default()
        };
        let disk = Some(OsStr::new("disk"));
        assert_eq!(beside.attribute(disk, OsStr::new("user.b")).unwrap(), b"two");
        assert_eq!(beside.names(disk).unwrap(), b"user.a\0user.b\0");
        for file in [Some(OsStr::new("other")), None] {
            assert_eq!(code(beside.attribute(file, OsStr::new("user.a"))), libc::ENODATA);
            assert!(beside.names(file).unwrap().is_empty());
        }
        let nothing = Beside::default();
        assert_eq!(code(nothing.attribute(disk, OsStr::new("user.a"))), libc::ENOSYS);
        assert_eq!(code(nothing.names(disk)), libc::ENOSYS);
    }

    #[test]
    fn a_text_has_no_holes() {
        assert_eq!(seek(5, 4, libc::SEEK_DATA).unwrap(), 4);
        assert_eq!(seek(5, 0, libc::SEEK_HOLE).unwrap(), 5);
        assert_eq!(code(seek(5, 5, libc::SEEK_DATA)), libc::ENXIO);
        assert_eq!(code(seek(5, 0, libc::SEEK_SET)), libc::EINVAL);
    }
}
