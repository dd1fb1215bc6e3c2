//! The failures of a disk operation; `fuse::errno` maps each to its errno.

use thiserror::Error;

use super::head::format::ImageFormat;

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
    /// The disk is raw, and the change would make it look like an image of another format (see `head`).
    #[error(
        "the disk would begin like a {format} image, and its format in the engine is raw: when the upload is \
         finalized, the engine detects the format and removes such a disk. To write what is in an image, use \
         `qemu-img convert -n -O raw IMAGE FILE`; a disk of these very bytes must have the format qcow2"
    )]
    LooksLike {
        /// The format that would be detected.
        format: ImageFormat,
    },
    /// Nobody waits for the change any more, and it was not made.
    #[error("the program was killed before its change was accepted")]
    Abandoned,
    /// The mount is ending.
    #[error("the mount is ending")]
    Closing,
}
