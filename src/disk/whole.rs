//! Reads and writes for a copy of the whole disk, which touches each byte once.
//!
//! A write hands a buffer over: [`Disk::lend`] gives one whose pages are warm, the caller fills it, and
//! [`Disk::write_lent`] makes it a segment of the write-behind table as it is. So a byte of an image is
//! copied once, by the kernel that reads it. All that the table promises holds for such a segment too: it is
//! in the journal until a flush covers it, and is sent again when its connection is lost.
//!
//! A read goes straight from the connection into the caller's buffer, past the read cache.
//!
//! Several threads of a copy call these at once; they wait as those of the FUSE session do.

use std::ops::Range;

use super::zeros::detection::{self, Content};
use super::{Disk, DiskError};
use crate::pool::Op;
use crate::sync::atomic::Ordering;

impl Disk {
    /// Returns the size in bytes of the pieces in which a copy writes best: a buffer that is lent is as long,
    /// and the range of one that is written lies between two multiples of it.
    pub(crate) fn piece(&self) -> u64 {
        self.writes.lock().table.cell()
    }

    /// Returns a buffer of [`Self::piece`] bytes, to be filled.
    pub(crate) fn lend(&self) -> Vec<u8> {
        self.writes.lock().table.lend()
    }

    /// Acknowledges `bytes` at `offset`, a buffer that was lent, shortened or not. It fails as
    /// [`Disk::write`] does, and where not all of it is on the disk.
    pub(crate) fn write_lent(&self, offset: u64, bytes: Vec<u8>) -> Result<(), DiskError> {
        let range = offset..offset + bytes.len() as u64;
        if range.end > self.size {
            return Err(self.no_space());
        }
        if !self.is_one_piece(&range, &bytes) {
            let written = self.write(offset, &bytes);
            self.writes.lock().table.take_back_lent(bytes);
            return written.map(drop);
        }
        let admitted = self.admit(range.clone(), Some(&bytes))?;
        let mut inner = self.writable()?;
        inner.len = inner.len.max(range.end);
        let count = range.end - range.start;
        inner.table.adopt(offset, bytes);
        self.changed(&mut inner, range, false);
        self.accepted(inner, admitted);
        self.given.fetch_add(count, Ordering::Relaxed);
        Ok(())
    }

    /// True for what can become a segment as it is: data throughout, within one cell, and most of a buffer.
    fn is_one_piece(&self, range: &Range<u64>, bytes: &[u8]) -> bool {
        let cell = self.piece();
        if range.is_empty() || range.start / cell != (range.end - 1) / cell || (bytes.len() as u64) < cell / 2
        {
            return false;
        }
        let mut is_data = true;
        if self.options.zero_detect {
            detection::cut(range.start, bytes, |_, content| {
                is_data &= content == Content::Data
            });
        }
        is_data
    }

    /// Returns the first range at or after `offset` that may hold data, of at most `most` bytes; `None` where
    /// there is none. Waits for the extents.
    pub(crate) fn next_stretch(&self, offset: u64, most: u64) -> Option<Range<u64>> {
        self.extents.known();
        let inner = self.writes.lock();
        match &inner.zeros {
            Some(zeros) => zeros.next_stretch(offset, most, inner.len),
            None => {
                Some(offset..offset.saturating_add(most).min(inner.len)).filter(|range| !range.is_empty())
            }
        }
    }

    /// Returns the size in bytes that a large request to read should have now.
    pub(crate) fn request_size(&self) -> u64 {
        self.pool.request_size(Op::Read, self.options.request_size)
    }

    /// Fills `buf` with the bytes from `offset`, of a disk that is opened read-only: no write that waits here
    /// could be newer than what the server has.
    pub(crate) fn read_straight(&self, offset: u64, buf: &mut [u8]) -> Result<(), DiskError> {
        debug_assert!(self.options.read_only);
        let read = self.pool.read(offset, &mut [buf]);
        read.map_err(|e| DiskError::Read(e.to_string()))
    }
}
