//! The abilities of every format. An image below another one is known by this only.

use std::fmt::Debug;
use std::path::Path;

use super::error::ImageError;

/// A run of bytes of the guest's disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Extent {
    /// Bytes, at least one. What follows may be of the same kind.
    pub(crate) length: u64,
    /// The bytes are known to be zeros. Those of other extents may be zeros too.
    pub(crate) zero: bool,
}

/// An open image. Several threads read at once; callers ask for nothing behind the end.
pub(super) trait Reader: Debug + Send + Sync {
    /// Returns the size of the guest's disk in bytes.
    fn size(&self) -> u64;

    /// Returns the extent that begins at `offset`, which is before the end, with `max` bytes at most. Short
    /// ones are not put together: only the source does that, since the layers of a chain would each look at
    /// extents that the one above throws away, twice as many with every layer.
    fn extent_at(&self, offset: u64, max: u64) -> Result<Extent, ImageError>;

    /// Fills `buf`, which ends within the disk.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<(), ImageError>;

    /// Fails when a file is not as it was when it was opened.
    fn check_unchanged(&self) -> Result<(), ImageError>;
}

/// Refuses a range that does not end within `size`.
pub(super) fn within(path: &Path, size: u64, offset: u64, length: u64) -> Result<(), ImageError> {
    match offset.checked_add(length) {
        Some(end) if end <= size => Ok(()),
        end => Err(ImageError::Outside {
            path: path.to_owned(),
            offset,
            end: end.unwrap_or(u64::MAX),
            size,
        }),
    }
}

/// An extent is put together from so many runs at most.
const MAX_RUNS: usize = 1024;
/// It ends when it has so many bytes. Nobody takes long data at once, and asks again from the middle.
const MAX_ZEROS: u64 = 4 << 30;
const MAX_DATA: u64 = 64 << 20;

/// Puts the extent at `offset` of an image together from short ones, while they are of one kind.
pub(super) fn joined(reader: &dyn Reader, offset: u64) -> Result<Extent, ImageError> {
    let rest = reader.size() - offset;
    let mut extent = reader.extent_at(offset, rest)?;
    let longest = rest.min(if extent.zero { MAX_ZEROS } else { MAX_DATA });
    for _ in 1..MAX_RUNS {
        if extent.length >= longest {
            break;
        }
        let next = reader.extent_at(offset + extent.length, rest - extent.length)?;
        if next.zero != extent.zero {
            break;
        }
        extent.length += next.length;
    }
    Ok(extent)
}
