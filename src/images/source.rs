//! An image that is read: what is the same for every format.

use std::fs::File;
use std::path::{Path, PathBuf};

use super::chain::Opening;
use super::error::ImageError;
use super::format::{Format, PROBED, Probed, probe};
use super::qcow2::Qcow2;
use super::raw::{self, Raw, read_up_to};
use super::vmdk::Vmdk;

/// A run of bytes of the guest's disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Extent {
    /// Bytes, at least one. What follows may be of the same kind.
    pub(crate) length: u64,
    /// The bytes are known to be zeros. Those of other extents may be zeros too.
    pub(crate) zero: bool,
}

/// Which files an image may name as those that hold the rest of it (backing file, data file).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Backing {
    /// Files in the image's own folder: an image from elsewhere must not read what its user can read.
    Beside,
    /// Any file, as qemu-img does.
    Anywhere,
}

/// An image that is open to be read.
#[derive(Debug)]
pub(crate) struct Source {
    path: PathBuf,
    format: Format,
    reader: Reader,
}

#[derive(Debug)]
enum Reader {
    Raw(Raw),
    Qcow2(Box<Qcow2>),
    Vmdk(Vmdk),
}

impl Source {
    /// Opens an image; its format is probed where it is not given. Other files that it needs must be in its
    /// own folder.
    pub(crate) fn open(path: &Path, format: Option<Format>) -> Result<Source, ImageError> {
        Source::open_with(path, format, Backing::Beside)
    }

    pub(crate) fn open_with(
        path: &Path,
        format: Option<Format>,
        backing: Backing,
    ) -> Result<Source, ImageError> {
        let file = raw::open(path)?;
        Source::of_chain(path, file, format, &Opening::new(path, backing))
    }

    /// Opens an image of a chain, whose file is open already.
    pub(super) fn of_chain(
        path: &Path,
        file: File,
        format: Option<Format>,
        opening: &Opening,
    ) -> Result<Source, ImageError> {
        opening.enter(path, &file)?;
        let format = match format {
            Some(format) => format,
            None => {
                let mut head = [0; PROBED];
                let count = read_up_to(&file, &mut head).map_err(ImageError::io("read", path))?;
                match probe(&head[..count]) {
                    Probed::Known(format) => format,
                    Probed::Foreign(format) => {
                        return Err(ImageError::Unreadable {
                            path: path.to_owned(),
                            format,
                        });
                    }
                }
            }
        };
        let reader = match format {
            Format::Raw => Reader::Raw(Raw::new(path, file)?),
            Format::Qcow2 => Reader::Qcow2(Box::new(Qcow2::open(path, file, opening)?)),
            Format::Vmdk => Reader::Vmdk(Vmdk::open(path, file, opening)?),
        };
        Ok(Source {
            path: path.to_owned(),
            format,
            reader,
        })
    }

    /// Returns the size of the guest's disk in bytes; a raw file's is its length, a multiple of 512 or not.
    pub(crate) fn size(&self) -> u64 {
        match &self.reader {
            Reader::Raw(raw) => raw.size(),
            Reader::Qcow2(image) => image.size(),
            Reader::Vmdk(image) => image.size(),
        }
    }

    pub(crate) fn format(&self) -> Format {
        self.format
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the extent that begins at `offset`, which is before the end. It is as long as it can be told
    /// without much work.
    pub(crate) fn extent_at(&self, offset: u64) -> Result<Extent, ImageError> {
        self.within(offset, 1)?;
        match &self.reader {
            Reader::Raw(raw) => raw.extent_at(offset),
            Reader::Qcow2(image) => image.extent_at(offset),
            Reader::Vmdk(image) => image.extent_at(offset),
        }
    }

    /// Fills `buf` with the guest's bytes; all of them must be before the end.
    pub(crate) fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<(), ImageError> {
        self.within(offset, buf.len() as u64)?;
        match &self.reader {
            Reader::Raw(raw) => raw.read_at(buf, offset),
            Reader::Qcow2(image) => image.read_at(buf, offset),
            Reader::Vmdk(image) => image.read_at(buf, offset),
        }
    }

    /// Fails, and names the file, when one of the image's files is not as it was when it was opened.
    pub(crate) fn check_unchanged(&self) -> Result<(), ImageError> {
        match &self.reader {
            Reader::Raw(raw) => raw.check_unchanged(),
            Reader::Qcow2(image) => image.check_unchanged(),
            Reader::Vmdk(image) => image.check_unchanged(),
        }
    }

    fn within(&self, offset: u64, length: u64) -> Result<(), ImageError> {
        within(&self.path, self.size(), offset, length)
    }
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
