//! A file of a VMDK with tables: sparse, or compressed to be streamed (`streamOptimized`, as in OVA files).
//!
//! A grain directory names grain tables, which name grains. As with qcow2, the directory is read by its
//! entries and the tables are kept, so that no claim of the header costs memory.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use flate2::{Decompress, FlushDecompress};

use super::descriptor::{check_parent, refused};
use crate::images::error::ImageError;
use crate::images::kept::KeptOfFile;
use crate::images::raw::{end_of_file, hole_or_data, read_up_to_at};
use crate::images::reader::Extent;
use crate::images::stamp::Stamp;

const SECTOR: u64 = 512;
/// A table has 512 entries in every image that is known, and QEMU takes no more.
const MAX_ENTRIES: u32 = 512;
/// A grain has 64 KiB in almost every image; this bounds the memory for one that is compressed.
const MAX_GRAIN: u64 = 8 << 20;

const ZERO_GRAINS: u32 = 1 << 2;
const COMPRESSED: u32 = 1 << 16;
const MARKERS: u32 = 1 << 17;
/// The directory is named by a second header, in the last but one sector of the file.
const AT_END: u64 = u64::MAX;

#[derive(Debug)]
pub(super) struct Sparse {
    path: PathBuf,
    file: File,
    stamp: Stamp,
    /// Bytes of the disk.
    size: u64,
    grain: u64,
    entries: u64,
    directory: u64,
    zero_grains: bool,
    compressed: bool,
    /// Each compressed grain is preceded by its place and its length.
    markers: bool,
    tables: KeptOfFile,
}

enum Grain {
    Zero,
    At(u64),
}

impl Sparse {
    pub(super) fn open(path: &Path, file: File, tables: KeptOfFile) -> Result<Sparse, ImageError> {
        let stamp = Stamp::of(path, &file).map_err(ImageError::io("look at", path))?;
        let length = stamp.length();
        let damaged = |what: String| ImageError::damaged(path, what);
        let mut header = header_at(path, &file, 0)?;
        if long(&header, 56) == AT_END {
            let footer = length.checked_sub(2 * SECTOR);
            header = header_at(
                path,
                &file,
                footer.ok_or_else(|| damaged("its end is missing".to_owned()))?,
            )?;
        }
        let version = word(&header, 4);
        if !(1..=3).contains(&version) {
            return Err(refused(path, format!("is a sparse VMDK of version {version}")));
        }
        let flags = word(&header, 8);
        let compressed = flags & COMPRESSED != 0;
        let (capacity, grain) = (long(&header, 12), long(&header, 20));
        if capacity == 0 {
            // QEMU takes the text in the file for the disk then.
            return Err(refused(path, "is a VMDK whose header has no sectors"));
        }
        let size = capacity
            .checked_mul(SECTOR)
            .filter(|size| i64::try_from(*size).is_ok());
        let size = size.ok_or_else(|| damaged(format!("it claims a disk of {capacity} sectors")))?;
        let grain = grain
            .checked_mul(SECTOR)
            .filter(|grain| (SECTOR..=MAX_GRAIN).contains(grain));
        let grain = grain.ok_or_else(|| damaged("its grains have an impossible size".to_owned()))?;
        let entries = word(&header, 44);
        if !(1..=MAX_ENTRIES).contains(&entries) {
            return Err(damaged(format!("it claims tables of {entries} entries")));
        }
        let directory = long(&header, 56).checked_mul(SECTOR);
        let needed = size.div_ceil(grain * u64::from(entries)) * 4;
        let directory = directory.filter(|at| at.checked_add(needed).is_some_and(|end| end <= length));
        let directory =
            directory.ok_or_else(|| damaged("its grain directory is behind its end".to_owned()))?;
        let sparse = Sparse {
            path: path.to_owned(),
            file,
            stamp,
            size,
            grain,
            entries: u64::from(entries),
            directory,
            zero_grains: flags & ZERO_GRAINS != 0,
            compressed,
            markers: flags & MARKERS != 0,
            tables,
        };
        sparse.check_description(long(&header, 28), long(&header, 36))?;
        Ok(sparse)
    }

    /// Looks into the text that is in the file, if there is one, for a parent.
    fn check_description(&self, sector: u64, sectors: u64) -> Result<(), ImageError> {
        let mut text = vec![0; (sectors.min(128) * SECTOR) as usize];
        let at = sector.saturating_mul(SECTOR);
        let count = self.read_up_to(&mut text, at)?;
        let lines = text[..count].split(|byte| matches!(byte, b'\n' | 0));
        lines
            .map(<[u8]>::trim_ascii)
            .try_for_each(|line| check_parent(&self.path, line))
    }

    pub(super) fn size(&self) -> u64 {
        self.size
    }

    pub(super) fn check_unchanged(&self) -> Result<(), ImageError> {
        self.stamp.check(&self.file)
    }

    /// Returns the extent that begins at `offset`, up to the end of one grain or of the grains of a table
    /// that is not there.
    pub(super) fn extent_at(&self, offset: u64) -> Result<Extent, ImageError> {
        let length = self.rest_of_grain(offset);
        Ok(match self.grain_at(offset)? {
            (Grain::Zero, absent) => {
                let covered = self.grain * self.entries;
                let length = if absent {
                    covered - offset % covered
                } else {
                    length
                };
                let length = length.min(self.size - offset);
                Extent { length, zero: true }
            }
            (Grain::At(_), _) if self.compressed => Extent { length, zero: false },
            (Grain::At(at), _) => {
                let host = at + offset % self.grain;
                hole_or_data(&self.file, host, host + length).unwrap_or(Extent { length, zero: false })
            }
        })
    }

    fn rest_of_grain(&self, offset: u64) -> u64 {
        (self.grain - offset % self.grain).min(self.size - offset)
    }

    pub(super) fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<(), ImageError> {
        let mut rest = buf;
        let mut at = offset;
        while !rest.is_empty() {
            let length = self.rest_of_grain(at).min(rest.len() as u64);
            let (part, behind) = rest.split_at_mut(length as usize);
            match self.grain_at(at)?.0 {
                Grain::Zero => part.fill(0),
                Grain::At(host) if self.compressed => self.read_compressed(part, at, host)?,
                Grain::At(host) => {
                    let from = host + at % self.grain;
                    let count = self.read_up_to(part, from)?;
                    // As with qcow2, the last grain of a file may be there in part, and none is missing.
                    if count < part.len() && host >= end_of_file(&self.stamp, from, count) {
                        return Err(self.damaged(format!("the grain at byte {host} is behind its end")));
                    }
                    part[count..].fill(0);
                }
            }
            rest = behind;
            at += length;
        }
        Ok(())
    }

    fn read_compressed(&self, buf: &mut [u8], offset: u64, host: u64) -> Result<(), ImageError> {
        let (mut at, mut length) = (host, 2 * self.grain);
        if self.markers {
            let mut marker = [0; 12];
            let whole = self.read_up_to(&mut marker, host)? == marker.len();
            let place = long(&marker, 0).checked_mul(SECTOR);
            length = u64::from(word(&marker, 8));
            at += marker.len() as u64;
            if !whole || place != Some(offset - offset % self.grain) || length > 2 * self.grain {
                return Err(self.damaged(format!("there is another grain at byte {host}")));
            }
        }
        let mut bytes = vec![0; length as usize];
        let count = self.read_up_to(&mut bytes, at)?;
        let mut grain = vec![0; self.grain as usize];
        let mut decoder = Decompress::new(true);
        let expanded = decoder.decompress(&bytes[..count], &mut grain, FlushDecompress::Finish);
        let inside = (offset % self.grain) as usize;
        // The last grain of a disk may be shorter.
        let end = inside + buf.len();
        if let Err(why) = expanded {
            return Err(self.damaged(format!("the grain at byte {host} can't be expanded: {why}")));
        }
        if decoder.total_out() < end as u64 {
            return Err(self.damaged(format!("the grain at byte {host} is too short")));
        }
        buf.copy_from_slice(&grain[inside..end]);
        Ok(())
    }

    /// Returns where a grain is, and whether its table is absent.
    fn grain_at(&self, offset: u64) -> Result<(Grain, bool), ImageError> {
        let grain = offset / self.grain;
        let Some(table) = self.table(grain / self.entries)? else {
            return Ok((Grain::Zero, true));
        };
        let entry = word(&table, (grain % self.entries) as usize * 4);
        Ok(match entry {
            0 => (Grain::Zero, false),
            1 if self.zero_grains => (Grain::Zero, false),
            sector => (Grain::At(u64::from(sector) * SECTOR), false),
        })
    }

    fn table(&self, index: u64) -> Result<Option<Arc<Vec<u8>>>, ImageError> {
        if let Some(table) = self.tables.get(index) {
            return Ok(Some(table));
        }
        let mut entry = [0; 4];
        self.read(&mut entry, self.directory + index * 4)?;
        let at = u64::from(u32::from_le_bytes(entry)) * SECTOR;
        if at == 0 {
            return Ok(None);
        }
        let mut table = vec![0; self.entries as usize * 4];
        self.read(&mut table, at)?;
        let table = Arc::new(table);
        self.tables.put(index, Arc::clone(&table));
        Ok(Some(table))
    }

    fn read(&self, buf: &mut [u8], offset: u64) -> Result<(), ImageError> {
        match self.read_up_to(buf, offset)? == buf.len() {
            true => Ok(()),
            false => Err(self.damaged(format!("a table at byte {offset} is behind its end"))),
        }
    }

    fn read_up_to(&self, buf: &mut [u8], offset: u64) -> Result<usize, ImageError> {
        read_up_to_at(&self.file, buf, offset).map_err(ImageError::io("read", &self.path))
    }

    fn damaged(&self, what: String) -> ImageError {
        ImageError::damaged(&self.path, what)
    }
}

fn header_at(path: &Path, file: &File, offset: u64) -> Result<[u8; 512], ImageError> {
    let mut header = [0; 512];
    let count = read_up_to_at(file, &mut header, offset).map_err(ImageError::io("read", path))?;
    match count == header.len() && header.starts_with(b"KDMV") {
        true => Ok(header),
        false => Err(ImageError::damaged(path, "it has no header of a sparse VMDK")),
    }
}

/// Numbers are little-endian.
fn word(bytes: &[u8], at: usize) -> u32 {
    bytes[at..]
        .first_chunk()
        .map_or(0, |bytes| u32::from_le_bytes(*bytes))
}

fn long(bytes: &[u8], at: usize) -> u64 {
    bytes[at..]
        .first_chunk()
        .map_or(0, |bytes| u64::from_le_bytes(*bytes))
}
