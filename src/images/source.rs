//! An image that is read: what is the same for every format.

use std::fs::File;
use std::path::{Path, PathBuf};

use super::chain::{Backing, Opening};
use super::error::ImageError;
use super::format::{Format, PROBED, Probed, probe};
use super::qcow2::Qcow2;
use super::raw::{self, Raw, read_up_to};
use super::reader::{Extent, Reader, joined, within};
use super::stamp::FileStamp;
use super::vmdk::Vmdk;

/// An image that is open to be read.
#[derive(Debug)]
pub(crate) struct Source {
    path: PathBuf,
    format: Format,
    stamps: Option<Vec<FileStamp>>,
    reader: Box<dyn Reader>,
}

impl Source {
    /// Opens an image; its format is probed where it is not given. Other files that it needs must be in its
    /// own folder.
    #[cfg(test)]
    pub(crate) fn open(path: &Path, format: Option<Format>) -> Result<Source, ImageError> {
        Source::open_with(path, format, Backing::Beside)
    }

    /// Opens an image, and the other files that it needs from where `backing` allows.
    pub(crate) fn open_with(
        path: &Path,
        format: Option<Format>,
        backing: Backing,
    ) -> Result<Source, ImageError> {
        Source::open_among(path, format, backing, 1)
    }

    /// Opens one of `count` images that are read at the same time: its tables take a share of the memory.
    pub(crate) fn open_among(
        path: &Path,
        format: Option<Format>,
        backing: Backing,
        count: usize,
    ) -> Result<Source, ImageError> {
        Source::of_opening(
            path,
            raw::open(path)?,
            format,
            Opening::new(path, backing, count, reader_of),
        )
    }

    /// Opens the image that `file` is; names in it are relative to `path`.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(super) fn of_file(
        path: &Path,
        file: File,
        format: Option<Format>,
        backing: Backing,
    ) -> Result<Source, ImageError> {
        Source::of_opening(path, file, format, Opening::new(path, backing, 1, reader_of))
    }

    fn of_opening(
        path: &Path,
        file: File,
        format: Option<Format>,
        opening: Opening,
    ) -> Result<Source, ImageError> {
        let format = format_of(path, &file, format)?;
        opening.note(path, &file)?;
        let reader = reader_of(path, file, Some(format), &opening)?;
        Ok(Source {
            path: path.to_owned(),
            format,
            stamps: opening.stamps(),
            reader,
        })
    }

    /// Returns the size of the guest's disk in bytes; a raw file's is its length, a multiple of 512 or not.
    pub(crate) fn size(&self) -> u64 {
        self.reader.size()
    }

    pub(crate) fn format(&self) -> Format {
        self.format
    }

    /// Returns how its files were when they were opened, the image itself first; `None` where one of them
    /// keeps no time of its content.
    pub(crate) fn stamps(&self) -> Option<&[FileStamp]> {
        self.stamps.as_deref()
    }

    /// Returns the extent that begins at `offset`, which is before the end. It is as long as it can be told
    /// without much work.
    pub(crate) fn extent_at(&self, offset: u64) -> Result<Extent, ImageError> {
        within(&self.path, self.size(), offset, 1)?;
        joined(self.reader.as_ref(), offset)
    }

    /// Fills `buf` with the guest's bytes; all of them must be before the end.
    pub(crate) fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<(), ImageError> {
        within(&self.path, self.size(), offset, buf.len() as u64)?;
        self.reader.read_at(buf, offset)
    }

    /// Fails, and names the file, when one of the image's files is not as it was when it was opened.
    pub(crate) fn check_unchanged(&self) -> Result<(), ImageError> {
        self.reader.check_unchanged()
    }
}

/// Opens an image of a chain, whose file is open already.
fn reader_of(
    path: &Path,
    file: File,
    format: Option<Format>,
    opening: &Opening,
) -> Result<Box<dyn Reader>, ImageError> {
    opening.enter(path, &file)?;
    Ok(match format_of(path, &file, format)? {
        Format::Raw => Box::new(Raw::new(path, file)?),
        Format::Qcow2 => Box::new(Qcow2::open(path, file, opening)?),
        Format::Vmdk => Box::new(Vmdk::open(path, file, opening)?),
    })
}

/// Probes the format where it is not given.
fn format_of(path: &Path, file: &File, format: Option<Format>) -> Result<Format, ImageError> {
    if let Some(format) = format {
        return Ok(format);
    }
    let mut head = [0; PROBED];
    let count = read_up_to(file, &mut head).map_err(ImageError::io("read", path))?;
    match probe(&head[..count]) {
        Probed::Known(format) => Ok(format),
        Probed::Foreign(format) => Err(ImageError::Unreadable {
            path: path.to_owned(),
            format,
        }),
    }
}
