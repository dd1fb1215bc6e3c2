//! A qcow2 image that is written: version 3, clusters of 64 KiB, nothing compressed. It may lie over another
//! one: then whole clusters are written or made zeros, and what is not comes from there.
//!
//! The file only grows, so it is its own free list: clusters are taken at its end, L2 tables among them, and
//! each has one reference. So the reference counts are written once, when it is published, and the header
//! after them: before that, the file is no image. Entries of L2 tables are read from and written to the file,
//! that is the kernel's memory; only the L1 table is kept, 16 KiB for 1 TiB.
//!
//! Threads take clusters and enter them under one lock, and write their bytes outside of it. A cluster that
//! was taken reads as zeros before, as nothing was ever there.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use parking_lot::Mutex;

const CLUSTER_BITS: u32 = 16;
pub(in crate::images) const CLUSTER: u64 = 1 << CLUSTER_BITS;
/// Entries of an L2 table, and those of a refcount block of 16 bits each.
const ENTRIES: u64 = CLUSTER / 8;
const COUNTS: u64 = CLUSTER / 2;
/// The limit of QEMU on the bytes of an L1 table, in bytes of the disk: 2 PiB.
pub(in crate::images) const MAX_SIZE: u64 = (32 << 20) / 8 * ENTRIES * CLUSTER;
const HEADER_LENGTH: u32 = 112;
/// There is one reference to what an entry names.
const COPIED: u64 = 1 << 63;

/// The cluster reads as zeros, whatever is below it.
const ZERO: u64 = 1;
/// The header extension that names the format of the backing file.
const BACKING_FORMAT: u32 = 0xe279_2aca;
/// The limit of QEMU on the name of a backing file, in bytes.
const MAX_BACKING_BYTES: usize = 1023;

#[derive(Debug)]
pub(in crate::images) struct Writer {
    size: u64,
    /// The name of the qcow2 file below it.
    backing: Option<Vec<u8>>,
    tables: Mutex<Tables>,
}

#[derive(Debug)]
struct Tables {
    /// The L1 table: where each L2 table is in the file, or 0.
    l1: Vec<u64>,
    /// The number of the first cluster that is free.
    next: u64,
}

/// A run of bytes that is contiguous in the file.
struct Run {
    host: u64,
    length: u64,
}

impl Writer {
    /// Begins an image whose disk has `size` bytes, at most [`MAX_SIZE`]; QEMU wants whole sectors, so it is
    /// rounded up to 512.
    pub(in crate::images) fn new(size: u64) -> Writer {
        let l1 = vec![0; size.div_ceil(CLUSTER * ENTRIES) as usize];
        let l1_clusters = (l1.len() as u64 * 8).div_ceil(CLUSTER);
        Writer {
            size: size.next_multiple_of(512),
            backing: None,
            tables: Mutex::new(Tables {
                l1,
                next: 1 + l1_clusters,
            }),
        }
    }

    /// The same over the qcow2 file of this name; `None` where the name is too long.
    pub(in crate::images) fn over(size: u64, backing: &[u8]) -> Option<Writer> {
        (1..=MAX_BACKING_BYTES).contains(&backing.len()).then(|| Writer {
            backing: Some(backing.to_vec()),
            ..Writer::new(size)
        })
    }

    /// Fails where the image lies over another one, and these bytes are not whole clusters.
    fn check_clusters(&self, offset: u64, length: u64) -> io::Result<()> {
        let end = offset + length;
        let is_whole = offset % CLUSTER == 0 && (end % CLUSTER == 0 || end >= self.size);
        match self.backing.is_none() || is_whole {
            true => Ok(()),
            false => Err(io::Error::other(
                "internal error: a part of a cluster over another image",
            )),
        }
    }

    /// Calls `write` for what is in the file of these bytes.
    pub(in crate::images) fn write_at(
        &self,
        file: &File,
        buf: &[u8],
        offset: u64,
        write: impl Fn(&File, &[u8], u64) -> io::Result<()>,
    ) -> io::Result<()> {
        self.check_clusters(offset, buf.len() as u64)?;
        let mut rest = buf;
        for run in self.runs(file, offset, buf.len() as u64, true)? {
            let (part, behind) = rest.split_at(run.length as usize);
            write(file, part, run.host)?;
            rest = behind;
        }
        Ok(())
    }

    /// Calls `zero` for what is in the file of these bytes.
    pub(in crate::images) fn zero_at(
        &self,
        file: &File,
        offset: u64,
        length: u64,
        zero: impl Fn(&File, u64, u64) -> io::Result<()>,
    ) -> io::Result<()> {
        if self.backing.is_some() {
            return self.flag_zeros(file, offset, length);
        }
        for run in self.runs(file, offset, length, false)? {
            zero(file, run.host, run.length)?;
        }
        Ok(())
    }

    /// Has whole clusters, none of which was written, read as zeros.
    fn flag_zeros(&self, file: &File, offset: u64, length: u64) -> io::Result<()> {
        self.check_clusters(offset, length)?;
        let mut tables = self.tables.lock();
        let (mut at, end) = (offset, offset + length);
        while at < end {
            let table = at / CLUSTER / ENTRIES;
            let until = end.min((table + 1) * ENTRIES * CLUSTER);
            if let Some(l2) = tables.l2(table, true) {
                let count = until.div_ceil(CLUSTER) - at / CLUSTER;
                let entries = ZERO.to_be_bytes().repeat(count as usize);
                file.write_all_at(&entries, l2 + at / CLUSTER % ENTRIES * 8)?;
            }
            at = until;
        }
        Ok(())
    }

    /// Returns where bytes of the disk are in the file, in their order. Clusters that are not there are
    /// taken, or left out.
    fn runs(&self, file: &File, offset: u64, length: u64, take: bool) -> io::Result<Vec<Run>> {
        let mut runs: Vec<Run> = Vec::new();
        let mut tables = self.tables.lock();
        let (mut at, end) = (offset, offset + length);
        while at < end {
            let table = at / CLUSTER / ENTRIES;
            let until = end.min((table + 1) * ENTRIES * CLUSTER);
            let l2 = tables.l2(table, take);
            if let Some(l2) = l2 {
                let first = at / CLUSTER % ENTRIES;
                let count = until.div_ceil(CLUSTER) - at / CLUSTER;
                let place = l2 + first * 8;
                let mut entries = vec![0; count as usize * 8];
                read_grown(file, &mut entries, place)?;
                let mut taken = false;
                for entry in entries.chunks_exact_mut(8) {
                    let mut host =
                        entry.first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes)) & !(COPIED | ZERO);
                    if host == 0 && take {
                        host = tables.cluster();
                        entry.copy_from_slice(&(host | COPIED).to_be_bytes());
                        taken = true;
                    }
                    let inside = at % CLUSTER;
                    let length = (CLUSTER - inside).min(until - at);
                    at += length;
                    match runs.last_mut() {
                        _ if host == 0 => {}
                        Some(last) if last.host + last.length == host + inside => last.length += length,
                        _ => runs.push(Run {
                            host: host + inside,
                            length,
                        }),
                    }
                }
                if taken {
                    file.write_all_at(&entries, place)?;
                }
            }
            at = until;
        }
        Ok(runs)
    }

    /// Writes everything but the guest's bytes. All writes have returned before.
    pub(in crate::images) fn finish(&self, file: &File) -> io::Result<()> {
        let mut tables = self.tables.lock();
        let data = tables.next;
        // The counts count themselves, so their number is found by trying.
        let (mut blocks, mut table) = (1, 1);
        let total = loop {
            let total = data + blocks + table;
            let (need, room) = (total.div_ceil(COUNTS), (blocks * 8).div_ceil(CLUSTER));
            if need <= blocks && room <= table {
                break total;
            }
            (blocks, table) = (need.max(blocks), (need.max(blocks) * 8).div_ceil(CLUSTER));
        };
        tables.next = total;
        file.set_len(total * CLUSTER)?;
        let table_at = (data + blocks) * CLUSTER;
        for block in 0..blocks {
            let used = (total - block * COUNTS).min(COUNTS);
            let mut counts = vec![0; CLUSTER as usize];
            for count in counts.chunks_exact_mut(2).take(used as usize) {
                count[1] = 1;
            }
            let at = (data + block) * CLUSTER;
            file.write_all_at(&counts, at)?;
            file.write_all_at(&at.to_be_bytes(), table_at + block * 8)?;
        }
        let l1: Vec<u8> = tables
            .l1
            .iter()
            .flat_map(|at| entry_of(*at).to_be_bytes())
            .collect();
        file.write_all_at(&l1, CLUSTER)?;
        file.write_all_at(&self.header(tables.l1.len() as u32, table_at, table as u32), 0)
    }

    fn header(&self, l1_entries: u32, refcount_table: u64, refcount_clusters: u32) -> Vec<u8> {
        let mut header = b"QFI\xfb".to_vec();
        let mut word = |value: u32| header.extend(value.to_be_bytes());
        let mut words = |values: &[u32]| values.iter().for_each(|value| word(*value));
        let halves = |value: u64| [(value >> 32) as u32, value as u32];
        let name = self.backing.as_deref().unwrap_or_default();
        let has_name = u32::from(!name.is_empty());
        // Behind the header are the extension with the format of the backing file, and the end of them.
        let name_at = has_name * (HEADER_LENGTH + 16 + 8);
        // Version; the backing file's name: its offset and length; cluster bits; the disk's size.
        words(&[3, 0, name_at, name.len() as u32, CLUSTER_BITS]);
        words(&halves(self.size));
        // No encryption; the L1 table; the refcount table; no snapshots: their number and offset.
        words(&[0, l1_entries]);
        words(&halves(CLUSTER));
        words(&halves(refcount_table));
        words(&[refcount_clusters, 0, 0, 0]);
        // No features of any kind; counts of 2^4 bits; the length, and compression by deflate with padding.
        words(&[0, 0, 0, 0, 0, 0, 4, HEADER_LENGTH, 0, 0]);
        if has_name == 1 {
            words(&[
                BACKING_FORMAT,
                5,
                u32::from_be_bytes(*b"qcow"),
                u32::from_be_bytes(*b"2\0\0\0"),
            ]);
        }
        // The end of the header extensions.
        words(&[0, 0]);
        header.extend(name);
        header
    }
}

impl Tables {
    /// Returns the offset of a cluster at the end of the file.
    fn cluster(&mut self) -> u64 {
        self.next += 1;
        (self.next - 1) * CLUSTER
    }

    /// Returns where an L2 table is in the file; a new one is taken on demand.
    fn l2(&mut self, index: u64, take: bool) -> Option<u64> {
        let index = index as usize;
        if self.l1[index] == 0 && take {
            self.l1[index] = self.cluster();
        }
        Some(self.l1[index]).filter(|at| *at != 0)
    }
}

fn entry_of(at: u64) -> u64 {
    match at {
        0 => 0,
        at => at | COPIED,
    }
}

/// Reads what is behind the end of the file as zeros, which it is as soon as the file grows.
fn read_grown(file: &File, buf: &mut [u8], offset: u64) -> io::Result<()> {
    let count = crate::images::raw::read_up_to_at(file, buf, offset)?;
    buf[count..].fill(0);
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn each_cluster_is_counted_also_where_one_block_of_counts_is_too_small() {
        // One block counts 2 GiB. Around that, the counts' own clusters need another block.
        for clusters in [
            COUNTS - 9,
            COUNTS - 8,
            COUNTS - 7,
            COUNTS - 6,
            COUNTS - 5,
            COUNTS,
            2 * COUNTS + 1,
        ] {
            let file = tempfile::Builder::new().suffix(".qcow2").tempfile().unwrap();
            let writer = Writer::new(clusters * CLUSTER);
            let runs = writer.runs(file.as_file(), 0, clusters * CLUSTER, true).unwrap();
            assert_eq!(runs.iter().map(|run| run.length).sum::<u64>(), clusters * CLUSTER);
            writer.finish(file.as_file()).unwrap();
            let checked = Command::new("qemu-img")
                .arg("check")
                .arg(file.path())
                .output()
                .unwrap();
            let text = String::from_utf8_lossy(&checked.stdout);
            assert!(
                text.contains("No errors were found"),
                "{clusters}: {text}{checked:?}"
            );
        }
    }
}
