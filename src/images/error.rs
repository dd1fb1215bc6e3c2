//! The errors of image files. Each names the file, what is wrong with it, and what to do.

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::disk::ImageFormat;
use crate::logging::plain;

#[derive(Debug, Error)]
pub(crate) enum ImageError {
    #[error(
        "cannot {doing} {path}: {source}",
        path = path.display()
    )]
    Io {
        /// The verb: `open`, `read`, `write`, `create` and the like.
        doing: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error(
        "{path} is {what}, and no image can be read from it; name a file or a block device",
        path = path.display()
    )]
    NoImage { path: PathBuf, what: &'static str },
    #[error(
        "{path} is an image of format {format}, which can't be read; convert it: \
         qemu-img convert -O qcow2 {path} NEW.qcow2",
        path = path.display()
    )]
    Unreadable { path: PathBuf, format: ImageFormat },
    #[error(
        "{path} {what}, which can't be read; convert it: qemu-img convert -O qcow2 {path} NEW.qcow2",
        path = path.display(),
        what = plain(what)
    )]
    Refused {
        path: PathBuf,
        /// The words that stand behind the name in a sentence.
        what: String,
    },
    #[error(
        "{path} is damaged: {what}; see what qemu-img check {path} says",
        path = path.display(),
        what = plain(what)
    )]
    Damaged { path: PathBuf, what: String },
    #[error("cannot open {path}, which {image} needs: {source}", path = shown(path), image = image.display())]
    Missing {
        path: PathBuf,
        image: PathBuf,
        source: io::Error,
    },
    #[error(
        "{path} needs {other}, which is not in its folder; an image from elsewhere could so have any file of \
         yours copied: look at it with qemu-img info, and allow it with --allow-backing-elsewhere",
        path = path.display(),
        other = shown(other)
    )]
    Elsewhere { path: PathBuf, other: PathBuf },
    #[error(
        "{path} has changed since it was opened: {how}; copy it again when nobody writes to it",
        path = path.display()
    )]
    Changed {
        path: PathBuf,
        /// Both values of what differs.
        how: String,
    },
    #[error(
        "{path} ended at byte {end}, before the {size} bytes that it had; was it truncated meanwhile?",
        path = path.display()
    )]
    Ended { path: PathBuf, end: u64, size: u64 },
    #[error(
        "{path} is whole, but its folder can't be flushed ({source}), so a power failure could still undo \
         its name; run sync, and look at the storage",
        path = path.display()
    )]
    Unflushed { path: PathBuf, source: io::Error },
    #[error(
        "{path} exists; remove it, or replace it with --force",
        path = path.display()
    )]
    Exists { path: PathBuf },
    #[error(
        "{path} is a block device, whose bytes would be overwritten; say so with --force",
        path = path.display()
    )]
    Device { path: PathBuf },
    #[error(
        "{path} is {what}, and no image can be written to it; name a file or a block device",
        path = path.display()
    )]
    NoTarget { path: PathBuf, what: &'static str },
    #[error(
        "{path} has {have} bytes, and the image has {size}; use a larger one",
        path = path.display()
    )]
    TooSmall { path: PathBuf, have: u64, size: u64 },
    #[error(
        "{path} can't be written as {format}{why}; name a file that ends in .qcow2, or take raw",
        path = path.display()
    )]
    Unwritable {
        path: PathBuf,
        format: &'static str,
        /// Empty, or the reason with its comma.
        why: &'static str,
    },
    #[error(
        "{path} can't be written as qcow2: {size} bytes are more than the format holds",
        path = path.display()
    )]
    TooLarge { path: PathBuf, size: u64 },
    #[error(
        "bytes {offset} to {end} are outside of {path}, which has {size}",
        path = path.display()
    )]
    Outside {
        path: PathBuf,
        offset: u64,
        end: u64,
        size: u64,
    },
}

/// Returns a name from an image as one line without control characters.
fn shown(path: &Path) -> String {
    plain(&path.to_string_lossy())
}

impl ImageError {
    /// The error of a file that is not the one that was looked at before it was opened.
    pub(super) fn replaced(path: &Path) -> ImageError {
        ImageError::Changed {
            path: path.to_owned(),
            how: "another file has taken its name".to_owned(),
        }
    }

    pub(super) fn damaged(path: &Path, what: impl Into<String>) -> ImageError {
        ImageError::Damaged {
            path: path.to_owned(),
            what: what.into(),
        }
    }

    /// True where this machine fails for a while, which says nothing about the image; see [`is_passing`].
    pub(crate) fn is_passing(&self) -> bool {
        match self {
            ImageError::Io { source, .. }
            | ImageError::Missing { source, .. }
            | ImageError::Unflushed { source, .. } => is_passing(source),
            _ => false,
        }
    }

    /// Returns what makes an error of the system one that names the file.
    pub(super) fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ImageError {
        move |source| ImageError::Io {
            doing,
            path: path.to_owned(),
            source,
        }
    }
}

/// True for an error of the system that passes, and says nothing about the file that was to be read: no
/// descriptor, memory or lock is free, or a remote storage is away.
pub(crate) fn is_passing(error: &io::Error) -> bool {
    const PASSING: [i32; 15] = [
        libc::EMFILE,
        libc::ENFILE,
        libc::ENOMEM,
        libc::ENOBUFS,
        libc::ENOLCK,
        libc::EAGAIN,
        libc::EINTR,
        libc::EBUSY,
        libc::ETIMEDOUT,
        libc::ESTALE,
        libc::ENOTCONN,
        libc::EHOSTDOWN,
        libc::EHOSTUNREACH,
        libc::ENETDOWN,
        libc::ENETUNREACH,
    ];
    error.raw_os_error().is_some_and(|code| PASSING.contains(&code))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_passes_on_this_machine_says_nothing_about_an_image() {
        let path = Path::new("a.qcow2");
        let of = |code: i32| ImageError::io("open", path)(io::Error::from_raw_os_error(code));
        assert!(of(libc::EMFILE).is_passing() && of(libc::ENOMEM).is_passing());
        assert!(!of(libc::ENOENT).is_passing() && !of(libc::EIO).is_passing());
        let missing = ImageError::Missing {
            path: path.to_owned(),
            image: path.to_owned(),
            source: io::Error::from_raw_os_error(libc::ENFILE),
        };
        assert!(missing.is_passing());
        assert!(!ImageError::damaged(path, "its header is cut off").is_passing());
    }
}
