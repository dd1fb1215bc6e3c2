//! The way to the bytes of the guest's disk: the L1 table names L2 tables, and these name clusters.
//!
//! An L2 table is read whole and kept (`kept.rs`). The L1 table is not kept: an entry of it is read with each
//! L2 table, so that no image's size costs memory.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::header::Header;
use crate::images::error::ImageError;
use crate::images::kept::KeptOfFile;
use crate::images::raw::read_up_to_at;

/// The offsets in L1 and L2 entries.
const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
const COPIED: u64 = 1 << 63;
const COMPRESSED: u64 = 1 << 62;
const ZERO: u64 = 1;

#[cfg(test)]
thread_local! {
    /// How often this thread has looked at an entry.
    pub(in crate::images) static LOOKS: std::cell::Cell<u64> = const { std::cell::Cell::new(0) };
}

/// The kind of a run of the guest's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Bytes at this offset in the file that holds the data.
    Data(u64),
    Zero,
    /// Not in this image: the backing file's bytes, or zeros.
    Absent,
    /// A cluster, compressed into `length` bytes at most.
    Compressed {
        at: u64,
        length: usize,
    },
}

#[derive(Debug)]
pub(super) struct Tables {
    path: PathBuf,
    cluster_bits: u32,
    coverage_bits: u32,
    entry_bits: u32,
    version: u32,
    l1_offset: u64,
    extended: bool,
    data_file: bool,
    /// L2 tables by their index in the L1 table.
    kept: KeptOfFile,
}

impl Tables {
    pub(super) fn new(path: &Path, header: &Header, kept: KeptOfFile) -> Tables {
        Tables {
            path: path.to_owned(),
            cluster_bits: header.cluster_bits,
            coverage_bits: header.coverage_bits(),
            entry_bits: header.entry_bits(),
            version: header.version,
            l1_offset: header.l1_offset,
            extended: header.extended,
            data_file: header.data_file.is_some(),
            kept,
        }
    }

    /// Returns what is at `offset`, and for how many bytes, `max` at most and within one L2 table: data that
    /// is contiguous in the file, or one compressed cluster, or a run of one of the other kinds.
    pub(super) fn run_at(&self, file: &File, offset: u64, max: u64) -> Result<(Kind, u64), ImageError> {
        let covered = (1 << self.coverage_bits) - offset % (1 << self.coverage_bits);
        let max = max.min(covered);
        let Some(table) = self.table(file, offset >> self.coverage_bits)? else {
            return Ok((Kind::Absent, max));
        };
        let (kind, mut length) = self.part_at(&table, offset)?;
        while length < max {
            let (next, more) = self.part_at(&table, offset + length)?;
            let follows = match (kind, next) {
                (Kind::Data(at), Kind::Data(next)) => at + length == next,
                (Kind::Zero, Kind::Zero) | (Kind::Absent, Kind::Absent) => true,
                _ => false,
            };
            if !follows {
                break;
            }
            length += more;
        }
        Ok((kind, length.min(max)))
    }

    /// Returns what a cluster is, or with extended entries a 32nd of one, from `offset` to its end.
    fn part_at(&self, table: &[u8], offset: u64) -> Result<(Kind, u64), ImageError> {
        #[cfg(test)]
        LOOKS.set(LOOKS.get() + 1);
        let cluster = 1_u64 << self.cluster_bits;
        let (inside, number) = (offset % cluster, offset >> self.cluster_bits);
        let index = number as usize % (table.len() >> self.entry_bits);
        let at = index << self.entry_bits;
        let entry = entry(table, at);
        if entry & COMPRESSED != 0 {
            if self.data_file {
                return Err(self.damaged(offset, "is compressed, in an image with a data file"));
            }
            // The offset and the number of further sectors share the entry; docs/interop/qcow2.txt.
            let split = 62 - (self.cluster_bits - 8);
            let at = entry & ((1 << split) - 1);
            let sectors = (entry & (COMPRESSED - 1)) >> split;
            let length = ((sectors + 1) * 512 - at % 512) as usize;
            return Ok((Kind::Compressed { at, length }, cluster - inside));
        }
        let at_host = entry & OFFSET;
        if at_host % cluster != 0 {
            return Err(self.damaged(offset, "does not begin at a cluster of the file"));
        }
        // With a data file, the offset 0 is a place as any other where the entry says that it is in use.
        let present = at_host != 0 || (self.data_file && entry & COPIED != 0);
        if !self.extended {
            let kind = match entry & ZERO != 0 {
                true if self.version < 3 => {
                    return Err(self.damaged(offset, "has a flag that version 2 does not know"));
                }
                true => Kind::Zero,
                false if present => Kind::Data(at_host + inside),
                false => Kind::Absent,
            };
            return Ok((kind, cluster - inside));
        }
        let part = cluster / 32;
        let (bit, map) = (inside / part, self::entry(table, at + 8));
        let (allocated, zero) = (map >> bit & 1 != 0, map >> (32 + bit) & 1 != 0);
        let kind = match (allocated, zero) {
            (true, false) if present => Kind::Data(at_host + inside),
            (false, true) => Kind::Zero,
            (false, false) => Kind::Absent,
            _ => return Err(self.damaged(offset, "has an impossible state")),
        };
        Ok((kind, part - inside % part))
    }

    /// Returns the L2 table of this index in the L1 table, which has an entry for each byte of the disk.
    fn table(&self, file: &File, index: u64) -> Result<Option<Arc<Vec<u8>>>, ImageError> {
        if let Some(table) = self.kept.get(index) {
            return Ok(Some(table));
        }
        let mut l1_entry = [0; 8];
        self.read(file, &mut l1_entry, self.l1_offset + index * 8)?;
        let at = u64::from_be_bytes(l1_entry) & OFFSET;
        if at == 0 {
            return Ok(None);
        }
        if at % (1 << self.cluster_bits) != 0 {
            let what = format!("its L2 table {index} does not begin at a cluster");
            return Err(ImageError::damaged(&self.path, what));
        }
        let mut table = vec![0; 1 << self.cluster_bits];
        self.read(file, &mut table, at)?;
        let table = Arc::new(table);
        self.kept.put(index, Arc::clone(&table));
        Ok(Some(table))
    }

    fn read(&self, file: &File, buf: &mut [u8], offset: u64) -> Result<(), ImageError> {
        let count = read_up_to_at(file, buf, offset).map_err(ImageError::io("read", &self.path))?;
        if count < buf.len() {
            let what = format!("a table at byte {offset} is behind its end; was it copied whole?");
            return Err(ImageError::damaged(&self.path, what));
        }
        Ok(())
    }

    fn damaged(&self, offset: u64, what: &str) -> ImageError {
        ImageError::damaged(
            &self.path,
            format!("the cluster of the disk's byte {offset} {what}"),
        )
    }
}

fn entry(table: &[u8], at: usize) -> u64 {
    table[at..]
        .first_chunk()
        .map_or(0, |bytes| u64::from_be_bytes(*bytes))
}
