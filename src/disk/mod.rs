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
//! write            the write-behind's lock and its waiters
//! write/threads    the threads that send
//! write/table      the write-behind table: order, merging
//! write/journal    writes that are answered and not flushed, to be sent again
//! write/strays     requests that may be performed late
//! write/overlay    bytes in memory over bytes that are read
//! fsync            shared rounds of flushes, the verdict, the close
//! head             what the first bytes of a raw disk may not look like
//! read             where a read finds its bytes
//! read/chunks      the read cache, and the fetches under way
//! read/fetcher     requests for chunks
//! read/streams     which readers are sequential
//! extents          learning which ranges are zero
//! zeros/map        the ranges known to be zero
//! zeros/detection  zeros in the data of a write
//! zeros/pace       how much one request zeroes
//! ```

mod error;
mod extents;
mod fsync;
mod head;
mod read;
mod write;
mod zeros;

use std::ops::Range;
use std::sync::Arc;

pub(crate) use self::error::DiskError;
use self::extents::Extents;
use self::fsync::SharedRounds;
pub(crate) use self::head::HeadRule;
pub(crate) use self::head::format::{HEAD_BYTES, ImageFormat, detect};
use self::head::{Admitted, Guard};
pub(crate) use self::read::ReadBytes;
use self::read::Reader;
use self::write::{Inner, WriteBehind};
use self::zeros::detection::{self, Content};
use crate::pool::Pool;
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::sync::thread::JoinHandle;
use crate::sync::{Mutex, MutexGuard};

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
    /// Upper bound, in bytes, on requests that carry merged writes or prefetched chunks.
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

/// Size in bytes from which on a range that is to be zero is worth waiting for the extents: to zero it all
/// may take longer, and allocates memory for tables on a thin disk.
const MIN_LONG_ZEROS_BYTES: u64 = 1 << 30;

/// Unit in bytes that programs with O_DIRECT write in. A disk that ends within one gets its last write with
/// zeros behind the disk's end.
const DIRECT_UNIT_BYTES: u64 = 4096;

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

    /// True when writes are refused.
    pub(crate) fn is_read_only(&self) -> bool {
        self.options.read_only
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

    /// Returns how many bytes of the file take space on the storage, as far as is known now; never too few.
    pub(crate) fn allocated(&self) -> u64 {
        self.extents.known_soon();
        let inner = self.writes.lock();
        let behind_the_end = self.size - inner.len;
        let zeros = inner.zeros.as_ref().map_or(0, |zeros| zeros.bytes());
        inner.len - zeros.saturating_sub(behind_the_end).min(inner.len)
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
        self.reader.read(offset, n, buf)
    }

    /// Acknowledges `data` at `offset`; returns how many bytes fit before the end of the disk, at least one
    /// unless `data` is empty. Zeros that only fill the last [`DIRECT_UNIT_BYTES`] are dropped, and count as
    /// if they fitted.
    pub(crate) fn write(&self, offset: u64, data: &[u8]) -> Result<usize, DiskError> {
        let fits = (data.len() as u64).min(self.size.saturating_sub(offset)) as usize;
        let end = offset.saturating_add(data.len() as u64);
        if end > self.size && self.within(end) == self.size && detection::is_zero(&data[fits..]) {
            match fits {
                0 => drop(self.writable()?),
                _ => drop(self.write(offset, &data[..fits])?),
            }
            return Ok(data.len());
        }
        if fits == 0 && !data.is_empty() {
            drop(self.writable()?);
            return Err(self.no_space());
        }
        if fits < data.len() {
            self.overflowed.store(true, Ordering::Relaxed);
        }
        let data = &data[..fits];
        let admitted = self.admit(offset..offset + fits as u64, Some(data))?;
        let mut parts = Vec::with_capacity(1);
        match self.options.zero_detect {
            true => detection::cut(offset, data, |part, content| parts.push((part, content))),
            false => parts.push((0..fits, Content::Data)),
        }
        if parts.iter().any(|(_, content)| *content == Content::Zeros) {
            self.extents.known_soon();
        }
        let mut inner = self.writable()?;
        inner.len = inner.len.max(offset + fits as u64);
        for (part, content) in parts {
            let range = offset + part.start as u64..offset + part.end as u64;
            let zero = match content {
                Content::Zeros => true,
                // They continue a run of zeros that the kernel cut in two, or are zeros already.
                Content::FewZeros => inner.follows_zeros(&range),
                Content::Data => false,
            };
            match zero {
                true => self.zero_locked(&mut inner, range),
                false => {
                    inner.table.write(range.start, &data[part]);
                    self.changed(&mut inner, range, false);
                }
            }
        }
        self.accepted(inner, admitted);
        Ok(fits)
    }

    /// Makes `len` bytes at `offset` read as zeros. With `grow` the file grows to their end; without it, the
    /// part behind the file's end is ignored (it is zero).
    pub(crate) fn zero(&self, offset: u64, len: u64, grow: bool) -> Result<(), DiskError> {
        let end = offset.saturating_add(len);
        let admitted = self.admit(offset..end, None)?;
        match len.min(self.size.saturating_sub(offset)) < MIN_LONG_ZEROS_BYTES {
            true => self.extents.known_soon(),
            false => self.extents.known_in_time(),
        }
        let mut inner = self.writable()?;
        let end = self.within(end);
        if grow && end > self.size {
            return Err(self.no_space());
        }
        let zeroed = offset..end.min(inner.len);
        if grow {
            inner.len = inner.len.max(end);
        }
        if !zeroed.is_empty() {
            self.zero_locked(&mut inner, zeroed);
        }
        self.accepted(inner, admitted);
        Ok(())
    }

    /// Grows the file to `end` if it is shorter; the new part reads as zeros.
    pub(crate) fn allocate(&self, end: u64) -> Result<(), DiskError> {
        let mut inner = self.writable()?;
        let end = self.within(end);
        if end > self.size {
            return Err(self.no_space());
        }
        inner.len = inner.len.max(end);
        Ok(())
    }

    /// Sets the size of the file. The bytes that are cut off, or added, read as zeros from then on.
    pub(crate) fn truncate(&self, len: u64) -> Result<(), DiskError> {
        if len > self.size {
            drop(self.writable()?);
            return Err(self.no_space());
        }
        let admitted = self.admit(len..self.size, None)?;
        if len < self.len() {
            // Without the extents, bytes that are zero already would be zeroed.
            self.extents.known_in_time();
        }
        let mut inner = self.writable()?;
        let cut = len..inner.len;
        inner.len = len;
        if !cut.is_empty() {
            self.zero_locked(&mut inner, cut);
        }
        self.accepted(inner, admitted);
        Ok(())
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

    /// Returns the disk's end in the place of an `end` behind it in the same [`DIRECT_UNIT_BYTES`].
    fn within(&self, end: u64) -> u64 {
        match end > self.size && end <= self.size.next_multiple_of(DIRECT_UNIT_BYTES) {
            true => self.size,
            false => end,
        }
    }

    fn no_space(&self) -> DiskError {
        self.overflowed.store(true, Ordering::Relaxed);
        DiskError::NoSpace { size: self.size }
    }

    /// Waits for room in the write-behind; fails when the disk takes no writes.
    fn writable(&self) -> Result<MutexGuard<'_, Inner>, DiskError> {
        if self.options.read_only {
            return Err(DiskError::ReadOnly);
        }
        if self.pool.loss().is_some() {
            self.verdict()?;
        }
        self.writes.room()
    }

    /// Lets the writer threads go at a change that has entered the table.
    fn accepted(&self, inner: MutexGuard<'_, Inner>, admitted: Option<Admitted<'_>>) {
        if let Some(admitted) = admitted {
            admitted.accepted(inner.table.last_seq());
        }
        drop(inner);
        self.writes.accepted();
    }

    /// Acknowledges zeros in `range`; only what may be data in it is zeroed.
    fn zero_locked(&self, inner: &mut Inner, range: Range<u64>) {
        let pieces = match &inner.zeros {
            Some(zeros) => zeros.to_zero(range),
            None => vec![range],
        };
        for piece in pieces {
            inner.table.zero(piece.clone());
            self.changed(inner, piece, true);
        }
    }

    /// Updates all that is remembered about `range`, after its change has entered the table.
    fn changed(&self, inner: &mut Inner, range: Range<u64>, zero: bool) {
        if let Some(changed) = &mut inner.changed_since {
            changed.note(range.clone());
        }
        match zero {
            true => inner.unwritten.insert(range.clone()),
            false => inner.unwritten.remove(range.clone()),
        }
        match (&mut inner.zeros, zero) {
            (Some(zeros), true) => zeros.insert(range.clone()),
            (Some(zeros), false) => zeros.remove(range.clone()),
            (None, _) => {}
        }
        self.reader.chunks().taint(&range);
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
