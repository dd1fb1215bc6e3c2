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
#[cfg(test)]
pub(super) use self::table::LOOKS;
use self::table::{Kind, Tables};
pub(super) use self::write::{CLUSTER, MAX_SIZE, Writer};
use super::chain::Opening;
use super::error::ImageError;
use super::raw::{self, end_of_file, hole_or_data, read_up_to_at};
use super::reader::{Extent, Reader};
use super::stamp::Stamp;

/// A run of an image with a backing file is looked for in so many clusters at most: what is below may be cut
/// into shorter ones, and the rest of the run would be looked at once more for each of them.
const MAX_CLUSTERS: u64 = 64;

/// Holes of the file in a cluster that is in use are told from this length on, in bytes: shorter ones, of a
/// guest that wrote here and there, would cut the disk into small pieces.
const MIN_HOLE: u64 = 32 << 10;

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
    backing: Option<Box<dyn Reader>>,
}

/// The facts that the header of an image has about its disk, and about the file below it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Head {
    /// Bytes of the guest's disk.
    pub(crate) size: u64,
    /// Bytes of the file.
    pub(crate) length: u64,
    /// The name of the backing file.
    pub(crate) backing: Option<Vec<u8>>,
}

/// Reads the header of a qcow2 image, and nothing else of it. A pipe is refused, and never waited for.
pub(crate) fn head(path: &Path) -> Result<Head, ImageError> {
    let file = raw::open(path)?;
    let stamp = Stamp::of(path, &file).map_err(ImageError::io("look at", path))?;
    let header = header::read(path, &file, stamp.length())?;
    Ok(Head {
        size: header.size,
        length: stamp.length(),
        backing: header.backing,
    })
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
            Some(name) => Some(opening.backing(path, name, header.backing_format.as_deref())?),
            None => None,
        };
        Ok(Qcow2 {
            tables: Tables::new(path, &header, opening.kept()),
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

    /// Clusters may have been allocated without being written, all of them where the image was preallocated.
    fn data_extent(&self, host: u64, length: u64) -> Extent {
        let file = self.data.as_ref().map_or(&self.file, |(_, file, _)| file);
        // The read tells that something is behind the file's end. A small hole is no gain.
        let extent = hole_or_data(file, host, host + length).unwrap_or(Extent { length, zero: false });
        Extent {
            zero: extent.zero && extent.length >= MIN_HOLE.min(length),
            ..extent
        }
    }

    /// The last cluster of a file may be there in part; the rest of it is zeros, as QEMU sees it. A cluster
    /// that is behind the end was cut off.
    fn read_data(&self, buf: &mut [u8], host: u64) -> Result<(), ImageError> {
        let (path, file, stamp) = match &self.data {
            Some((path, file, stamp)) => (path, file, stamp),
            None => (&self.path, &self.file, &self.stamp),
        };
        let count = read_up_to_at(file, buf, host).map_err(ImageError::io("read", path))?;
        if count < buf.len() {
            let end = end_of_file(stamp, host, count);
            let last = host + buf.len() as u64 - 1;
            if last - last % self.cluster >= end {
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
}

impl Reader for Qcow2 {
    fn size(&self) -> u64 {
        self.size
    }

    fn extent_at(&self, offset: u64, max: u64) -> Result<Extent, ImageError> {
        let mut max = max.min(self.size - offset);
        if self.backing.is_some() {
            max = max.min(MAX_CLUSTERS * self.cluster);
        }
        let (kind, length) = self.tables.run_at(&self.file, offset, max)?;
        let zero = match (kind, &self.backing) {
            (Kind::Data(host), _) => return Ok(self.data_extent(host, length)),
            (Kind::Compressed { .. }, _) => false,
            (Kind::Zero, _) | (Kind::Absent, None) => true,
            (Kind::Absent, Some(backing)) if offset >= backing.size() => true,
            (Kind::Absent, Some(backing)) => return backing.extent_at(offset, length),
        };
        Ok(Extent { length, zero })
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<(), ImageError> {
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

    fn check_unchanged(&self) -> Result<(), ImageError> {
        self.stamp.check(&self.file)?;
        if let Some((_, file, stamp)) = &self.data {
            stamp.check(file)?;
        }
        self.backing
            .as_ref()
            .map_or(Ok(()), |backing| backing.check_unchanged())
    }
}
