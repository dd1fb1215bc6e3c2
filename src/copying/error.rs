//! Why a copy has failed: at the image, at the disk, or between them.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use crate::disk::{DiskError, ImageFormat};
use crate::failure::{Exit, Failure};
use crate::images::ImageError;

#[derive(Debug, Error)]
pub(super) enum CopyError {
    #[error("{0}")]
    Image(#[from] ImageError),
    /// The close of the disk reports the same where acknowledged bytes may be lost.
    #[error("{0}")]
    Disk(#[from] DiskError),
    #[error(
        "the image has {image} bytes, and the disk {disk}: it needs a larger disk, and nothing was written"
    )]
    DiskTooSmall { image: u64, disk: u64 },
    #[error(
        "the bytes of the image begin like a {format} image, and the format of the disk in the engine is \
         raw: the engine would detect that, and remove the disk, so nothing was written. What is in the \
         image is written where --image-format is left out"
    )]
    LooksLike { format: ImageFormat },
    #[error(
        "the disk has {disk} bytes, and the claim {claim}: it needs a larger claim, and nothing was written"
    )]
    ClaimTooSmall { disk: u64, claim: u64 },
    #[error("cannot read stdin: {0}")]
    Stdin(io::Error),
    #[error(
        "stdin ended after {got} bytes, and --size says {size}: the program that writes it has failed, or \
         --size is wrong"
    )]
    StdinEnded { got: u64, size: u64 },
    #[error("stdin has more than the {size} bytes of --size: --size is wrong, or the disk too small")]
    StdinLonger { size: u64 },
    #[error("cannot write to stdout: {0}")]
    Stdout(io::Error),
    /// The disk on its storage holds other bytes than those that were copied, or nobody can say.
    #[error("{0}")]
    Unproven(String),
    /// It may be another one's, or half of one.
    #[error(
        "{} is there already and not known to be a copy of the disk: {why}. It is kept as it is; --force \
         replaces it",
        path.display()
    )]
    Unlike { path: PathBuf, why: String },
    /// A second signal came while the file system was waited for.
    #[error(
        "gave up on a second signal, before the image was known to be on the storage of this machine: it may \
         or may not be there; download it again"
    )]
    Unpublished,
    /// A signal came while the image was opened or made.
    #[error("interrupted before the first byte was copied")]
    Unbegun,
    /// It has an exit code of its own.
    #[error("{0}")]
    Other(Failure),
    /// A signal has stopped it, which is told by itself.
    #[error("interrupted")]
    Stopped,
    #[error("internal error in a copy; report it with the log of --log-level debug (--log-file PATH)")]
    Panicked,
}

impl CopyError {
    /// The exit code that it stands for.
    pub(super) fn exit(&self) -> Exit {
        match self {
            CopyError::Disk(DiskError::Failed(_)) | CopyError::Unproven(_) => Exit::DataLoss,
            CopyError::Disk(DiskError::Read(_)) => Exit::Transfer,
            CopyError::DiskTooSmall { .. }
            | CopyError::ClaimTooSmall { .. }
            | CopyError::LooksLike { .. } => Exit::Usage,
            CopyError::Other(failure) => failure.exit,
            _ => Exit::Other,
        }
    }

    /// True where the end of the disk tells the same.
    pub(super) fn is_told_at_the_end(&self) -> bool {
        matches!(self, CopyError::Disk(DiskError::Failed(_)))
    }
}

impl From<CopyError> for Failure {
    fn from(error: CopyError) -> Failure {
        Failure::new(error.exit(), error)
    }
}
