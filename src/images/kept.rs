//! The tables of an image and of all files that it names, as far as they are kept in memory.
//!
//! A chain has up to 200 images, and a VMDK up to 4096 parts: they share one bound in bytes, and the tables
//! that were not used for the longest time go first, whosoever they are. Several images that are read at the
//! same time have a share of that bound each. Threads share the kept tables; the lock is held for a look-up,
//! and never while a file is read.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use lru::LruCache;
use parking_lot::Mutex;

/// So many bytes are kept: as qcow2 tables with clusters of 64 KiB, they cover 128 GiB of one image.
const MAX_BYTES: usize = 16 << 20;
/// The cost of a table besides its bytes, about.
const OVERHEAD: usize = 128;

/// The tables of all files of an opened image.
pub(super) struct Kept {
    files: AtomicU64,
    /// Upper bound on `bytes`.
    most: usize,
    tables: Mutex<Tables>,
}

struct Tables {
    /// By the number of the file, and the index of the table in it.
    recent: LruCache<(u64, u64), Arc<Vec<u8>>>,
    bytes: usize,
}

/// The tables of one file.
#[derive(Debug)]
pub(super) struct KeptOfFile {
    kept: Arc<Kept>,
    file: u64,
}

impl Kept {
    /// The tables of one of `count` images that are read at the same time.
    pub(super) fn of_one_in(count: usize) -> Arc<Kept> {
        Arc::new(Kept {
            files: AtomicU64::new(0),
            most: MAX_BYTES / count.max(1),
            tables: Mutex::new(Tables {
                recent: LruCache::unbounded(),
                bytes: 0,
            }),
        })
    }

    pub(super) fn of_next_file(self: &Arc<Kept>) -> KeptOfFile {
        KeptOfFile {
            kept: Arc::clone(self),
            file: self.files.fetch_add(1, Ordering::Relaxed),
        }
    }
}

impl fmt::Debug for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kept").finish_non_exhaustive()
    }
}

impl KeptOfFile {
    pub(super) fn get(&self, index: u64) -> Option<Arc<Vec<u8>>> {
        let mut tables = self.kept.tables.lock();
        tables.recent.get(&(self.file, index)).map(Arc::clone)
    }

    /// Keeps a table, and drops others until all fit; the new one stays in any case.
    pub(super) fn put(&self, index: u64, table: Arc<Vec<u8>>) {
        let cost = |table: &Vec<u8>| table.len() + OVERHEAD;
        let mut tables = self.kept.tables.lock();
        tables.bytes += cost(&table);
        if let Some(same) = tables.recent.put((self.file, index), table) {
            tables.bytes -= cost(&same);
        }
        while tables.bytes > self.kept.most && tables.recent.len() > 1 {
            if let Some((_, old)) = tables.recent.pop_lru() {
                tables.bytes -= cost(&old);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_files_share_one_bound() {
        let kept = Kept::of_one_in(1);
        let files: Vec<KeptOfFile> = (0..200).map(|_| kept.of_next_file()).collect();
        for file in &files {
            (0..4).for_each(|index| file.put(index, Arc::new(vec![0; 1 << 20])));
            // A table that is read twice counts once.
            file.put(3, Arc::new(vec![0; 1 << 20]));
            let tables = kept.tables.lock();
            let bytes: usize = tables
                .recent
                .iter()
                .map(|(_, table)| table.len() + OVERHEAD)
                .sum();
            assert_eq!(tables.bytes, bytes);
            assert!(bytes <= MAX_BYTES);
        }
        let there = |file: &KeptOfFile| (0..4).filter(|index| file.get(*index).is_some()).count();
        assert_eq!(there(&files[199]), 4);
        assert_eq!(files.iter().map(there).sum::<usize>(), 15);
        files[0].put(0, Arc::new(vec![0; 2 * MAX_BYTES]));
        assert_eq!(files.iter().map(there).sum::<usize>(), 1);
    }

    #[test]
    fn images_that_are_read_at_the_same_time_have_a_share_of_the_bound_each() {
        let images: Vec<KeptOfFile> = (0..8).map(|_| Kept::of_one_in(8).of_next_file()).collect();
        for file in &images {
            (0..16).for_each(|index| file.put(index, Arc::new(vec![0; 1 << 18])));
        }
        let bytes = |file: &KeptOfFile| file.kept.tables.lock().bytes;
        assert!(images.iter().map(bytes).sum::<usize>() <= MAX_BYTES);
        assert!(images[0].get(15).is_some());
    }
}
