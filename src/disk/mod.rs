//! The block device behind the file: read, write, zero, truncate, flush, holes.
//!
//! It knows neither FUSE nor HTTP. Many threads call it at once (those of the FUSE session). A write returns
//! after one copy, a read when the bytes are there, a flush when they are durable.
//!
//! Invariants:
//! - *A read returns the last acknowledged write*: it looks into the write-behind table first (`read`).
//! - *The bytes behind the file's end are zeros.* After a truncate the file may be shorter than the disk;
//!   truncating zeroes the bytes that it cuts off, so growing the file again is free.
//! - *A failure is sticky*: once acknowledged bytes may be lost, every later write, flush and close fails.
//! - *A lost connection is no failure*: its writes are in the journal until they are durable, and are sent
//!   again.
//!
//! ```text
//! change           writes, zeros and truncates, on their way into the write-behind table
//! whole            the same, and reads, for a copy of the whole disk: without a copy in memory
//! write            the write-behind's lock and its waiters
//! write/threads    the threads that send
//! write/table      the write-behind table: order, merging
//! write/journal    writes that are answered and not flushed, to be sent again
//! write/strays     requests that may be performed late
//! write/overlay    bytes in memory over bytes that are read
//! fsync            shared rounds of flushes, the verdict, the close
//! head             what the first bytes of a raw disk may not look like
//! read             where a read finds its bytes
//! read/pieces      the read cache, and the fetches under way
//! read/fetcher     requests for pieces
//! read/streams     which readers are sequential, and how far each is ahead
//! extents          learning which ranges are zero
//! zeros/map        the ranges known to be zero
//! zeros/detection  zeros in the data of a write
//! zeros/pace       how much one request zeroes
//! ```

pub(crate) mod caller;
mod change;
mod error;
mod extents;
mod fsync;
mod head;
mod read;
mod whole;
mod write;
mod zeros;

use std::sync::Arc;

pub(crate) use self::error::DiskError;
use self::extents::Extents;
use self::fsync::SharedRounds;
use self::head::Guard;
pub(crate) use self::head::HeadRule;
pub(crate) use self::head::format::{HEAD_BYTES, Head, ImageFormat, detect};
pub(crate) use self::read::ReadBytes;
use self::read::{MIN_SHARED_BYTES, Reader};
use self::write::WriteBehind;
pub(crate) use self::zeros::detection::{BLOCK_BYTES, is_zero};
use crate::pool::Pool;
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::sync::thread::JoinHandle;

/// How a disk behaves.
#[derive(Debug, Clone)]
pub(crate) struct DiskOptions {
    /// Refuse writes.
    pub(crate) read_only: bool,
    /// Size of the read cache in bytes.
    pub(crate) cache_size: u64,
    /// Upper bound on the bytes that are answered and not flushed; with 0, a lost connection loses its
    /// unflushed writes.
    pub(crate) journal_size: u64,
    /// Upper bound on the bytes that are acknowledged and not answered; one write more may come on top.
    pub(crate) write_behind: u64,
    /// Upper bound, in bytes, on requests that carry merged writes or prefetched data.
    pub(crate) request_size: u64,
    /// Send long runs of zeros as zero requests.
    pub(crate) zero_detect: bool,
    /// The server can list extents.
    pub(crate) extents: bool,
    /// The server allows one connection more than the pool has.
    pub(crate) spare_connection: bool,
    /// The formats that the first bytes may look like.
    pub(crate) head: HeadRule,
    /// Shows a message to the user at once.
    pub(crate) announce: fn(&str),
}

/// Returns the upper bound on acknowledged bytes that are not answered: for each writing connection one
/// request on its way and one that grows, within [`MIN_WRITE_BEHIND_BYTES`] and [`MAX_WRITE_BEHIND_BYTES`].
fn write_behind_limit(writers: usize, request_size: u64) -> usize {
    (2 * writers * request_size as usize).clamp(MIN_WRITE_BEHIND_BYTES, MAX_WRITE_BEHIND_BYTES)
}

/// Lower bound on write-behind memory, in bytes, so that a burst of a few writes does not wait.
const MIN_WRITE_BEHIND_BYTES: usize = 32 << 20;

/// Upper bound on write-behind memory, in bytes, whatever the number of connections.
const MAX_WRITE_BEHIND_BYTES: usize = 128 << 20;

/// One remote disk, open.
pub(crate) struct Disk {
    size: u64,
    options: DiskOptions,
    pool: Arc<Pool>,
    writes: Arc<WriteBehind>,
    reader: Reader,
    rounds: SharedRounds,
    /// Number up to which all writes are durable.
    flushed: AtomicU64,
    /// Set once a write was refused or cut at the end of the disk.
    overflowed: AtomicBool,
    /// Bytes that programs have written, those twice that were written twice.
    given: AtomicU64,
    /// Set once data or zeros have entered the write-behind table, whatever becomes of them.
    changed: AtomicBool,
    extents: Extents,
    head: Guard,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Disk {
    /// Opens a disk of `size` bytes behind `pool` and starts its threads.
    pub(crate) fn open(pool: Arc<Pool>, size: u64, options: DiskOptions) -> std::io::Result<Disk> {
        let writes = Arc::new(WriteBehind::new(
            size,
            write_behind_limit(pool.writers(), options.request_size).min(options.write_behind as usize),
            options.journal_size,
            options.request_size,
            pool.writers(),
        ));
        if options.journal_size > 0 {
            pool.replay_with(writes.clone());
        }
        let (reader, mut threads) = Reader::start(
            size,
            pool.clone(),
            writes.clone(),
            options.cache_size,
            options.request_size,
        )?;
        if !options.read_only {
            threads.extend(writes.start(&pool)?);
        }
        let rounds = SharedRounds::default();
        let (extents, asking) = Extents::ask(&pool, &writes, size, &options)?;
        threads.extend(asking);
        let (flushed, threads) = (AtomicU64::new(0), Mutex::new(threads));
        let head = Guard::new(options.head, options.announce);
        Ok(Disk {
            size,
            options,
            pool,
            writes,
            reader,
            rounds,
            flushed,
            overflowed: AtomicBool::new(false),
            given: AtomicU64::new(0),
            changed: AtomicBool::new(false),
            extents,
            head,
            threads,
        })
    }

    /// Returns the size of the remote disk in bytes. The file never grows past it.
    pub(crate) fn capacity(&self) -> u64 {
        self.size
    }

    /// Returns the size of the file in bytes.
    pub(crate) fn len(&self) -> u64 {
        self.writes.lock().len
    }

    /// Returns how many bytes of acknowledged data are not known to be on the storage.
    pub(crate) fn undurable_bytes(&self) -> u64 {
        self.writes.lock().table.undurable_bytes()
    }

    /// True when writes are refused.
    pub(crate) fn is_read_only(&self) -> bool {
        self.options.read_only
    }

    /// Has the requests that wait for room, or for the extents, look whether somebody waits for them.
    pub(crate) fn look_at_callers(&self) {
        self.writes.look_at_callers();
    }

    /// Returns why acknowledged bytes may be lost, if they may be.
    pub(crate) fn failure(&self) -> Option<String> {
        self.writes
            .failure()
            .or_else(|| self.pool.loss())
            .map(str::to_owned)
    }

    /// True once a write was refused or cut because it reached past the end of the disk.
    pub(crate) fn has_overflowed(&self) -> bool {
        self.overflowed.load(Ordering::Relaxed)
    }

    /// Returns how many bytes programs have written so far, those twice that were written twice.
    pub(crate) fn given(&self) -> u64 {
        self.given.load(Ordering::Relaxed)
    }

    /// True once the disk may hold something else than when it was opened: data or zeros were acknowledged,
    /// sent or not.
    pub(crate) fn is_changed(&self) -> bool {
        self.changed.load(Ordering::Relaxed)
    }

    /// Returns how many bytes of the file take space on the storage, as far as is known now; never too few.
    pub(crate) fn allocated(&self) -> u64 {
        self.extents.known_soon();
        self.data_bytes().unwrap_or_else(|| self.len())
    }

    /// Does the same without a wait; `None` while the extents are not known.
    pub(crate) fn data_bytes(&self) -> Option<u64> {
        let inner = self.writes.lock();
        let behind_the_end = self.size - inner.len;
        let zeros = inner.zeros.as_ref()?.bytes();
        Some(inner.len - zeros.saturating_sub(behind_the_end).min(inner.len))
    }

    /// Returns how many bytes of the disk are free: those that hold no data. Where the server can't tell,
    /// these are the bytes that were not written since the disk was opened: a program that asks wants to know
    /// whether its image fits, and may write over whatever is there.
    pub(crate) fn free(&self) -> u64 {
        if self.options.read_only {
            return 0;
        }
        self.extents.known_soon();
        let inner = self.writes.lock();
        match &inner.zeros {
            Some(zeros) if inner.zeros_told => zeros.bytes(),
            _ => inner.unwritten.bytes(),
        }
    }

    /// Reads up to `len` bytes at `offset`, fewer at the end of the file. `buf` is used for bytes that have
    /// to be put together.
    pub(crate) fn read<'a>(
        &self,
        offset: u64,
        len: usize,
        buf: &'a mut Vec<u8>,
    ) -> Result<ReadBytes<'a>, DiskError> {
        let n = (len as u64).min(self.len().saturating_sub(offset)) as usize;
        if n >= MIN_SHARED_BYTES {
            self.extents.known_soon();
        }
        self.reader.read(offset, n, buf)
    }

    /// Returns the first offset at or after `offset` that may hold data; short holes count as data.
    pub(crate) fn next_data(&self, offset: u64) -> Result<u64, DiskError> {
        self.extents.known();
        let inner = self.writes.lock();
        let at = inner
            .zeros
            .as_ref()
            .map_or(offset, |zeros| zeros.after_hole(offset));
        if offset >= inner.len || at >= inner.len {
            Err(DiskError::NoSuchOffset)
        } else {
            Ok(at)
        }
    }

    /// Returns the first offset at or after `offset` that is known to be zero; the end of the file counts as
    /// a hole.
    pub(crate) fn next_hole(&self, offset: u64) -> Result<u64, DiskError> {
        self.extents.known();
        let inner = self.writes.lock();
        if offset >= inner.len {
            return Err(DiskError::NoSuchOffset);
        }
        let hole = inner.zeros.as_ref().and_then(|zeros| zeros.next_hole(offset));
        Ok(hole.unwrap_or(inner.len).min(inner.len))
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.writes.stop();
        self.pool.close_all();
        // The threads are detached: prefetch threads end with the reader's channel, which this drop closes.
        self.threads.lock().clear();
    }
}

#[cfg(test)]
mod tests;
