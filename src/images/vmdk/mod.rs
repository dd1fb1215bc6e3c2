//! A VMDK that is read: one sparse file, or a text that names the parts, flat or sparse.
//!
//! Snapshots (which have a parent) and the formats of ESX's own file system (`COWD`, `SESPARSE`) are refused,
//! with the command that converts them. Parts are found and allowed as backing files are (`chain.rs`).

mod descriptor;
mod sparse;

use std::fs::File;
use std::path::{Path, PathBuf};

use self::descriptor::{Part, PartKind, refused};
use self::sparse::Sparse;
use super::chain::Opening;
use super::error::ImageError;
use super::raw::{hole_or_data, read_up_to, read_up_to_at};
use super::reader::{Extent, Reader};
use super::stamp::Stamp;

/// A text that describes a disk is read up to this length.
const MAX_TEXT: usize = 512 << 10;

#[derive(Debug)]
pub(super) struct Vmdk {
    /// The text, where that is a file of its own.
    text: Option<(File, Stamp)>,
    size: u64,
    /// The parts of the disk, each with its offset in it.
    parts: Vec<(u64, u64, Piece)>,
}

#[derive(Debug)]
enum Piece {
    Flat {
        path: PathBuf,
        file: File,
        stamp: Stamp,
        offset: u64,
    },
    Sparse(Box<Sparse>),
    Zero,
}

impl Vmdk {
    pub(super) fn open(path: &Path, file: File, opening: &Opening) -> Result<Vmdk, ImageError> {
        let mut text = vec![0; MAX_TEXT];
        let count = read_up_to(&file, &mut text).map_err(ImageError::io("read", path))?;
        text.truncate(count);
        if text.starts_with(b"COWD") {
            return Err(refused(path, "is a VMDK of ESX's own sparse format"));
        }
        if text.starts_with(b"KDMV") {
            let sparse = Sparse::open(path, file, opening.kept())?;
            let size = sparse.size();
            return Ok(Vmdk {
                text: None,
                size,
                parts: vec![(0, size, Piece::Sparse(Box::new(sparse)))],
            });
        }
        let stamp = Stamp::of(path, &file).map_err(ImageError::io("look at", path))?;
        let mut parts = Vec::new();
        let mut size = 0;
        for part in descriptor::parse(path, &text)? {
            parts.push((size, part.length, Piece::open(path, &part, opening)?));
            size += part.length;
        }
        if parts.is_empty() {
            return Err(ImageError::damaged(
                path,
                "its description names no part of a disk",
            ));
        }
        Ok(Vmdk {
            text: Some((file, stamp)),
            size,
            parts,
        })
    }

    /// Returns the part that has the disk's byte `offset`, which is before the end.
    fn part_at(&self, offset: u64) -> &(u64, u64, Piece) {
        let behind = self.parts.partition_point(|(start, ..)| *start <= offset);
        &self.parts[behind - 1]
    }
}

impl Reader for Vmdk {
    fn size(&self) -> u64 {
        self.size
    }

    fn extent_at(&self, offset: u64, max: u64) -> Result<Extent, ImageError> {
        let (start, length, piece) = self.part_at(offset);
        let extent = piece.extent_at(offset - start, *length)?;
        Ok(Extent {
            length: extent.length.min(max),
            ..extent
        })
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<(), ImageError> {
        let mut rest = buf;
        let mut at = offset;
        while !rest.is_empty() {
            let (start, length, piece) = self.part_at(at);
            let here = (start + length - at).min(rest.len() as u64);
            let (part, behind) = rest.split_at_mut(here as usize);
            piece.read_at(part, at - start)?;
            rest = behind;
            at += here;
        }
        Ok(())
    }

    fn check_unchanged(&self) -> Result<(), ImageError> {
        if let Some((file, stamp)) = &self.text {
            stamp.check(file)?;
        }
        self.parts.iter().try_for_each(|(_, _, piece)| match piece {
            Piece::Flat { file, stamp, .. } => stamp.check(file),
            Piece::Sparse(sparse) => sparse.check_unchanged(),
            Piece::Zero => Ok(()),
        })
    }
}

impl Piece {
    fn open(image: &Path, part: &Part, opening: &Opening) -> Result<Piece, ImageError> {
        match &part.kind {
            PartKind::Zero => Ok(Piece::Zero),
            PartKind::Sparse { name } => {
                let (path, file) = opening.other_file(image, name)?;
                let sparse = Sparse::open(&path, file, opening.kept())?;
                match sparse.size() < part.length {
                    true => Err(ImageError::damaged(
                        &path,
                        "it is smaller than its part of the disk",
                    )),
                    false => Ok(Piece::Sparse(Box::new(sparse))),
                }
            }
            PartKind::Flat { name, offset } => {
                let (path, file) = opening.other_file(image, name)?;
                let stamp = Stamp::of(&path, &file).map_err(ImageError::io("look at", &path))?;
                let end = offset.checked_add(part.length);
                if end.is_none_or(|end| end > stamp.length()) {
                    return Err(ImageError::damaged(
                        &path,
                        "it is smaller than its part of the disk",
                    ));
                }
                Ok(Piece::Flat {
                    path,
                    file,
                    stamp,
                    offset: *offset,
                })
            }
        }
    }

    fn read_at(&self, buf: &mut [u8], at: u64) -> Result<(), ImageError> {
        match self {
            Piece::Zero => buf.fill(0),
            Piece::Sparse(sparse) => sparse.read_at(buf, at)?,
            Piece::Flat {
                path,
                file,
                stamp,
                offset,
            } => {
                let count = read_up_to_at(file, buf, offset + at).map_err(ImageError::io("read", path))?;
                if count < buf.len() {
                    return Err(ImageError::Ended {
                        path: path.clone(),
                        end: offset + at + count as u64,
                        size: stamp.length(),
                    });
                }
            }
        }
        Ok(())
    }

    /// Returns the extent that begins at `at` in this part of `length` bytes.
    fn extent_at(&self, at: u64, length: u64) -> Result<Extent, ImageError> {
        let rest = Extent {
            length: length - at,
            zero: true,
        };
        match self {
            Piece::Zero => Ok(rest),
            Piece::Sparse(sparse) => {
                let extent = sparse.extent_at(at)?;
                Ok(Extent {
                    length: extent.length.min(rest.length),
                    ..extent
                })
            }
            Piece::Flat {
                file, stamp, offset, ..
            } => match hole_or_data(file, offset + at, offset + length) {
                Some(extent) => Ok(extent),
                None => stamp.check(file).map(|()| rest),
            },
        }
    }
}
