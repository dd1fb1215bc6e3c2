//! A device that is written where it is: it has a size of its own, and holds what was there before.

use std::fs::{File, Metadata, OpenOptions};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

use super::error::ImageError;
use super::stamp::length_of;

/// Opens the device `path` for an image of `size` bytes.
pub(super) fn open(path: &Path, meta: &Metadata, size: u64, force: bool) -> Result<File, ImageError> {
    let block = meta.file_type().is_block_device();
    if block && !force {
        return Err(ImageError::Device {
            path: path.to_owned(),
        });
    }
    // With O_EXCL the kernel refuses a block device that is mounted, or part of another one.
    let exclusive = if block { libc::O_EXCL } else { 0 };
    let file = OpenOptions::new()
        .write(true)
        .custom_flags(libc::O_NOCTTY | exclusive)
        .open(path)
        .map_err(ImageError::io("open", path))?;
    if block {
        let meta = file.metadata().map_err(ImageError::io("look at", path))?;
        let have = length_of(&file, &meta).map_err(ImageError::io("look at", path))?;
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
