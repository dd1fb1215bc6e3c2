//! Changes of the disk: writes, zeros, and the size of the file, on their way into the write-behind table.
//!
//! The threads of the FUSE session call these, many at once. Each change enters the table, and all that is
//! remembered about its range, under the disk's inner lock; one of the disk's first bytes is judged before
//! that (`head`). None waits for the network but for room in the table and, where much would be zeroed for
//! nothing, for the map of zeros.

use std::ops::Range;

use super::head::Admitted;
use super::write::Inner;
use super::zeros::detection::{self, Content};
use super::{Disk, DiskError};
use crate::sync::MutexGuard;
use crate::sync::atomic::Ordering;

/// Size in bytes from which on a range that is to be zero is worth waiting for the extents: to zero it all
/// may take longer, and allocates memory for tables on a thin disk.
const MIN_LONG_ZEROS_BYTES: u64 = 1 << 30;

/// Unit in bytes that programs with O_DIRECT write in. A disk that ends within one gets its last write with
/// zeros behind the disk's end.
const DIRECT_UNIT_BYTES: u64 = 4096;

impl Disk {
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
        self.given.fetch_add(fits as u64, Ordering::Relaxed);
        Ok(fits)
    }

    /// Makes `len` bytes at `offset` read as zeros. With `grow` the file grows to their end; without it, the
    /// part behind the file's end is ignored (it is zero).
    pub(crate) fn zero(&self, offset: u64, len: u64, grow: bool) -> Result<(), DiskError> {
        let end = offset.saturating_add(len);
        let admitted = self.admit(offset..end, None)?;
        match len.min(self.size.saturating_sub(offset)) < MIN_LONG_ZEROS_BYTES {
            true => self.extents.known_soon(),
            false => self.extents.known_in_time()?,
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
            self.extents.known_in_time()?;
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

    /// Returns the disk's end in the place of an `end` behind it in the same [`DIRECT_UNIT_BYTES`].
    fn within(&self, end: u64) -> u64 {
        match end > self.size && end <= self.size.next_multiple_of(DIRECT_UNIT_BYTES) {
            true => self.size,
            false => end,
        }
    }

    pub(super) fn no_space(&self) -> DiskError {
        self.overflowed.store(true, Ordering::Relaxed);
        DiskError::NoSpace { size: self.size }
    }

    /// Waits for room in the write-behind; fails when the disk takes no writes.
    pub(super) fn writable(&self) -> Result<MutexGuard<'_, Inner>, DiskError> {
        if self.options.read_only {
            return Err(DiskError::ReadOnly);
        }
        if self.pool.loss().is_some() {
            self.verdict()?;
        }
        self.writes.room()
    }

    /// Lets the writer threads go at a change that has entered the table.
    pub(super) fn accepted(&self, inner: MutexGuard<'_, Inner>, admitted: Option<Admitted<'_>>) {
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
    pub(super) fn changed(&self, inner: &mut Inner, range: Range<u64>, zero: bool) {
        // Nothing of it is sent before the lock is released.
        self.changed.store(true, Ordering::Relaxed);
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
        self.reader.pieces().taint(&range);
    }
}
