//! A device that is written where it is: it has a size of its own, and holds what was there before.

use std::fs::{File, Metadata, OpenOptions};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use nix::fcntl::{FcntlArg, OFlag, fcntl};

use super::error::ImageError;
use super::stamp::length_of;

/// Opens the device `path` for an image of `size` bytes. It must be the one that `meta` was read of: another
/// file may have taken its name since.
pub(super) fn open(path: &Path, meta: &Metadata, size: u64) -> Result<File, ImageError> {
    let block = meta.file_type().is_block_device();
    // With O_EXCL the kernel refuses a block device that is mounted, or part of another one.
    let exclusive = if block { libc::O_EXCL } else { 0 };
    let file = OpenOptions::new()
        .write(true)
        // A pipe that has taken its name would be waited for.
        .custom_flags(libc::O_NOCTTY | libc::O_NONBLOCK | exclusive)
        .open(path)
        .map_err(ImageError::io("open", path))?;
    let opened = file.metadata().map_err(ImageError::io("look at", path))?;
    let identity = |meta: &Metadata| (meta.file_type(), meta.dev(), meta.ino(), meta.rdev());
    if identity(&opened) != identity(meta) {
        return Err(ImageError::replaced(path));
    }
    let blocking = fcntl(&file, FcntlArg::F_SETFL(OFlag::empty()));
    blocking.map_err(|e| ImageError::io("open", path)(e.into()))?;
    if block {
        let have = length_of(&file, &opened).map_err(ImageError::io("look at", path))?;
        if have < size {
            return Err(ImageError::TooSmall {
                path: path.to_owned(),
                have,
                size,
            });
        }
    }
    Ok(file)
}
