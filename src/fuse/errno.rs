//! The one table that gives each failure of a disk its errno.

use fuser::Errno;

use crate::disk::DiskError;

/// Returns the errno that a tool sees.
pub(super) fn errno(error: &DiskError) -> Errno {
    match error {
        // A block device answers so at its end.
        DiskError::NoSpace { .. } => Errno::ENOSPC,
        // By lseek(2), this says that no data or hole is at or after the offset.
        DiskError::NoSuchOffset => Errno::ENXIO,
        DiskError::ReadOnly => Errno::EROFS,
        // The rest of the disk may be written, so it is neither read-only nor broken.
        DiskError::LooksLike { .. } => Errno::EPERM,
        DiskError::Read(_) | DiskError::Failed(_) => Errno::EIO,
        DiskError::Abandoned => Errno::EINTR,
        // Writers that outlive an unmount: their data is refused, not lost in silence.
        DiskError::Closing => Errno::EIO,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_enospc_and_a_failed_write_is_eio() {
        assert_eq!(i32::from(errno(&DiskError::NoSpace { size: 1 })), libc::ENOSPC);
        assert_eq!(i32::from(errno(&DiskError::Failed(String::new()))), libc::EIO);
        assert_eq!(i32::from(errno(&DiskError::NoSuchOffset)), libc::ENXIO);
    }
}
