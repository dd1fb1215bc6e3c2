//! What every format can do. An image below another one is known by this only.

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

    /// Returns the extent that begins at `offset`, which is before the end.
    fn extent_at(&self, offset: u64) -> Result<Extent, ImageError>;

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

/// Puts the extent at `offset` together from short ones, while they are of one kind: at most `runs` of them,
/// and no more once it has `longest` bytes. There is at least one.
pub(super) fn joined(
    (offset, end): (u64, u64),
    (runs, longest): (usize, u64),
    short: impl Fn(u64) -> Result<Extent, ImageError>,
) -> Result<Extent, ImageError> {
    let mut extent = short(offset)?;
    for _ in 1..runs {
        let at = offset + extent.length;
        if at >= end || extent.length >= longest {
            break;
        }
        let next = short(at)?;
        if next.zero != extent.zero {
            break;
        }
        extent.length += next.length;
    }
    Ok(extent)
}
