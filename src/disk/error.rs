//! The failures of a disk operation; `fuse::errno` maps each to its errno.

use thiserror::Error;

/// Failure of a disk operation.
#[derive(Debug, Clone, Error)]
pub(crate) enum DiskError {
    /// The operation begins at or after the end of the remote disk, or asks to grow past it.
    #[error("beyond the end of the disk ({size} bytes)")]
    NoSpace {
        /// Size of the remote disk, bytes.
        size: u64,
    },
    /// There is no data, or no hole, at or after the offset.
    #[error("no more data or holes after this offset")]
    NoSuchOffset,
    /// The disk was opened read-only.
    #[error("the disk is mounted read-only")]
    ReadOnly,
    /// A read failed, after its retries.
    #[error("{0}")]
    Read(String),
    /// A write, zero or flush has failed, now or earlier: acknowledged bytes may be lost.
    #[error("{0}")]
    Failed(String),
    /// The mount is ending.
    #[error("the mount is ending")]
    Closing,
}
