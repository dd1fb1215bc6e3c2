//! A qcow2 image that is read, of version 2 or 3, with its backing files.
//!
//! This is code of our own because the crate for it, imago 0.2, reads no zstd, no extended L2 entries and no
//! image that was not closed, takes what is cut off from a file for zeros, and believes the header's sizes.
//! Only reading needs so little of the format: no reference counts, no snapshots, no bitmaps.
//!
//! Reads go to the file at once, also from several threads; what is kept is described in `table.rs`.

mod compressed;
mod header;
mod table;
mod write;

use std::fs::File;
use std::path::{Path, PathBuf};

use self::compressed::expand;
use self::header::Compression;
use self::table::{Kind, Tables};
pub(super) use self::write::{MAX_SIZE, Writer};
use super::chain::Opening;
use super::error::ImageError;
use super::raw::{hole_or_data, read_up_to_at};
use super::source::{Extent, Source};
use super::stamp::Stamp;

/// An extent is put together from so many runs at most, and ends when it has this many bytes.
const MAX_RUNS: usize = 1024;
const MAX_EXTENT: u64 = 4 << 30;

#[derive(Debug)]
pub(super) struct Qcow2 {
    path: PathBuf,
    file: File,
    stamp: Stamp,
    size: u64,
    cluster: u64,
    compression: Compression,
    tables: Tables,
    /// The file with the guest's bytes, where that is another one.
    data: Option<(PathBuf, File, Stamp)>,
    backing: Option<Box<Source>>,
}

impl Qcow2 {
    pub(super) fn open(path: &Path, file: File, opening: &Opening) -> Result<Qcow2, ImageError> {
        let stamp = Stamp::of(path, &file).map_err(ImageError::io("look at", path))?;
        let header = header::read(path, &file, stamp.length())?;
        let data = match &header.data_file {
            None => None,
            Some(None) => {
                return Err(ImageError::Refused {
                    path: path.to_owned(),
                    what: "has its data in another file, and does not say in which".to_owned(),
                });
            }
            Some(Some(name)) => {
                let (path, file) = opening.other_file(path, name)?;
                let stamp = Stamp::of(&path, &file).map_err(ImageError::io("look at", &path))?;
                Some((path, file, stamp))
            }
        };
        let backing = match &header.backing {
            Some(name) => Some(Box::new(opening.backing(
                path,
                name,
                header.backing_format.as_deref(),
            )?)),
            None => None,
        };
        Ok(Qcow2 {
            tables: Tables::new(path, &header),
            path: path.to_owned(),
            file,
            stamp,
            size: header.size,
            cluster: 1 << header.cluster_bits,
            compression: header.compression,
            data,
            backing,
        })
    }

    pub(super) fn size(&self) -> u64 {
        self.size
    }

    pub(super) fn extent_at(&self, offset: u64) -> Result<Extent, ImageError> {
        let mut extent: Option<Extent> = None;
        for _ in 0..MAX_RUNS {
            let at = offset + extent.map_or(0, |extent| extent.length);
            if at >= self.size || at - offset >= MAX_EXTENT {
                break;
            }
            let next = self.short_extent_at(at)?;
            match &mut extent {
                None => extent = Some(next),
                Some(extent) if extent.zero == next.zero => extent.length += next.length,
                Some(_) => break,
            }
        }
        // The offset is before the end, so there was at least one.
        extent.ok_or_else(|| ImageError::damaged(&self.path, "its disk has no bytes"))
    }

    fn short_extent_at(&self, offset: u64) -> Result<Extent, ImageError> {
        let (kind, length) = self.tables.run_at(&self.file, offset, self.size - offset)?;
        let zero = match (kind, &self.backing) {
            (Kind::Data(host), _) => return Ok(self.data_extent(host, length)),
            (Kind::Compressed { .. }, _) => false,
            (Kind::Zero, _) | (Kind::Absent, None) => true,
            (Kind::Absent, Some(backing)) if offset >= backing.size() => true,
            (Kind::Absent, Some(backing)) => {
                let below = backing.extent_at(offset)?;
                let length = below.length.min(length);
                return Ok(Extent {
                    length,
                    zero: below.zero,
                });
            }
        };
        Ok(Extent { length, zero })
    }

    /// Clusters may have been allocated without being written, all of them where the image was preallocated.
    fn data_extent(&self, host: u64, length: u64) -> Extent {
        let file = self.data.as_ref().map_or(&self.file, |(_, file, _)| file);
        // What is behind the file's end is left to the read, which says so.
        hole_or_data(file, host, host + length).unwrap_or(Extent { length, zero: false })
    }

    pub(super) fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<(), ImageError> {
        let mut rest = buf;
        let mut at = offset;
        while !rest.is_empty() {
            let (kind, length) = self.tables.run_at(&self.file, at, rest.len() as u64)?;
            let (part, behind) = rest.split_at_mut(length as usize);
            match kind {
                Kind::Data(host) => self.read_data(part, host)?,
                Kind::Zero => part.fill(0),
                Kind::Absent => self.read_backing(part, at)?,
                Kind::Compressed { at: host, length } => self.read_compressed(part, at, host, length)?,
            }
            rest = behind;
            at += length;
        }
        Ok(())
    }

    /// The last cluster of a file may be there in part; the rest of it is zeros, as QEMU sees it. A cluster
    /// that is behind the end was cut off.
    fn read_data(&self, buf: &mut [u8], host: u64) -> Result<(), ImageError> {
        let (path, file, whole) = match &self.data {
            // A data file is as long as the disk, or ends where its last bytes are.
            Some((path, file, _)) => (path, file, true),
            None => (&self.path, &self.file, false),
        };
        let count = read_up_to_at(file, buf, host).map_err(ImageError::io("read", path))?;
        let end = host + count as u64;
        if count < buf.len() {
            let last = host + buf.len() as u64 - 1;
            if !whole && (end % self.cluster == 0 || last / self.cluster != end / self.cluster) {
                let what = format!("its data at byte {end} is behind its end; was it copied whole?");
                return Err(ImageError::damaged(path, what));
            }
            buf[count..].fill(0);
        }
        Ok(())
    }

    fn read_backing(&self, buf: &mut [u8], offset: u64) -> Result<(), ImageError> {
        let Some(backing) = &self.backing else {
            buf.fill(0);
            return Ok(());
        };
        let there = backing.size().saturating_sub(offset).min(buf.len() as u64);
        let (part, behind) = buf.split_at_mut(there as usize);
        behind.fill(0);
        match part.is_empty() {
            true => Ok(()),
            false => backing.read_at(part, offset),
        }
    }

    /// Fills `buf` from the compressed cluster that has the disk's byte `offset`.
    fn read_compressed(
        &self,
        buf: &mut [u8],
        offset: u64,
        host: u64,
        length: usize,
    ) -> Result<(), ImageError> {
        let mut bytes = vec![0; length];
        // The entry counts sectors, and the last one need not be there as a whole.
        let count =
            read_up_to_at(&self.file, &mut bytes, host).map_err(ImageError::io("read", &self.path))?;
        let inside = (offset % self.cluster) as usize;
        let expanded = if inside == 0 && buf.len() as u64 == self.cluster {
            expand(self.compression, &bytes[..count], buf)
        } else {
            let mut cluster = vec![0; self.cluster as usize];
            let expanded = expand(self.compression, &bytes[..count], &mut cluster);
            buf.copy_from_slice(&cluster[inside..inside + buf.len()]);
            expanded
        };
        expanded.map_err(|why| {
            let what = format!("the compressed cluster at byte {host} can't be expanded: {why}");
            ImageError::damaged(&self.path, what)
        })
    }

    pub(super) fn check_unchanged(&self) -> Result<(), ImageError> {
        self.stamp.check(&self.file)?;
        if let Some((_, file, stamp)) = &self.data {
            stamp.check(file)?;
        }
        self.backing
            .as_ref()
            .map_or(Ok(()), |backing| backing.check_unchanged())
    }
}
