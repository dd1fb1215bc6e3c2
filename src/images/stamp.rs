//! A file has not been changed since it was opened while its length and the time of its last change are the
//! same.

use std::fs::{File, Metadata};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::error::ImageError;

/// The length of a file in bytes, and the time of its last change in nanoseconds since 1970.
pub(crate) type FileStamp = (u64, i64);

/// Returns the length and the time of a regular file; `None` for what keeps no time of its content.
pub(crate) fn file_stamp(meta: &Metadata) -> Option<FileStamp> {
    let nanoseconds = meta.mtime().saturating_mul(1_000_000_000);
    meta.is_file()
        .then(|| (meta.len(), nanoseconds.saturating_add(meta.mtime_nsec())))
}

/// A file as it was when it was opened.
#[derive(Debug)]
pub(super) struct Stamp {
    path: PathBuf,
    /// The length in bytes, also of a block device.
    length: u64,
    /// Seconds and nanoseconds; none for a block device, whose node keeps no time of its content.
    modified: Option<(i64, i64)>,
}

impl Stamp {
    pub(super) fn of(path: &Path, file: &File) -> io::Result<Stamp> {
        let meta = file.metadata()?;
        Ok(Stamp {
            path: path.to_owned(),
            length: length_of(file, &meta)?,
            modified: modified(&meta),
        })
    }

    pub(super) fn length(&self) -> u64 {
        self.length
    }

    /// Compares with how the file is now. The open file is looked at: one that was renamed or removed has
    /// not changed.
    pub(super) fn check(&self, file: &File) -> Result<(), ImageError> {
        let now = Stamp::of(&self.path, file).map_err(ImageError::io("look at", &self.path))?;
        let changed = |how: String| ImageError::Changed {
            path: self.path.clone(),
            how,
        };
        if now.length != self.length {
            let (was, is) = (self.length, now.length);
            return Err(changed(format!("it had {was} bytes and has {is}")));
        }
        if now.modified != self.modified {
            return Err(changed("the time of its last change is another".to_owned()));
        }
        Ok(())
    }
}

fn modified(meta: &Metadata) -> Option<(i64, i64)> {
    meta.is_file().then(|| (meta.mtime(), meta.mtime_nsec()))
}

/// Returns the length in bytes of a regular file or a block device.
pub(super) fn length_of(mut file: &File, meta: &Metadata) -> io::Result<u64> {
    match meta.file_type().is_block_device() {
        true => file.seek(SeekFrom::End(0)),
        false => Ok(meta.len()),
    }
}

/// Names the kind of a file that holds no image: `None` for a regular file and a block device.
pub(super) fn odd_kind(meta: &Metadata) -> Option<&'static str> {
    let kind = meta.file_type();
    match () {
        () if kind.is_file() || kind.is_block_device() => None,
        () if kind.is_dir() => Some("a directory"),
        () if kind.is_fifo() => Some("a pipe"),
        () if kind.is_socket() => Some("a socket"),
        () => Some("a character device"),
    }
}
