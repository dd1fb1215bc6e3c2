//! Fetching runs of whole chunks, each with one request.

use std::ops::Range;
use std::sync::Arc;

use tracing::debug;

use super::chunks::{CHUNK_BYTES, Chunks};
use crate::disk::write::WriteBehind;
use crate::pool::Pool;

/// A run of chunks that a reader has announced. Dropping it ends their fetches, with the bytes that have
/// arrived.
pub(super) struct Announced {
    chunks: Arc<Chunks>,
    first: u64,
    bytes: Vec<Option<Vec<u8>>>,
}

impl Drop for Announced {
    fn drop(&mut self) {
        for (index, bytes) in (self.first..).zip(self.bytes.drain(..)) {
            self.chunks.end(index, bytes.map(Arc::new));
        }
    }
}

/// Fetches whole chunks, for the prefetch threads and for readers that are ahead of them.
pub(super) struct Fetcher {
    pub(super) size: u64,
    pub(super) pool: Arc<Pool>,
    pub(super) writes: Arc<WriteBehind>,
    pub(super) chunks: Arc<Chunks>,
}

impl Fetcher {
    /// Announces those chunks of `indexes` that are not known to be all zeros.
    pub(super) fn announce(&self, indexes: Range<u64>) -> Vec<Announced> {
        let inner = self.writes.lock();
        let hole = |index: u64| {
            let zeros = inner.zeros.as_ref();
            zeros.is_some_and(|zeros| zeros.covers(self.bytes(index..index + 1)))
        };
        let wanted: Vec<u64> = indexes.filter(|&index| !hole(index)).collect();
        drop(inner);
        let mut runs = Vec::new();
        for consecutive in wanted.chunk_by(|a, b| a + 1 == *b) {
            runs.extend(
                self.chunks
                    .begin(consecutive[0]..consecutive[consecutive.len() - 1] + 1),
            );
        }
        let announced = |run: Range<u64>| Announced {
            chunks: self.chunks.clone(),
            first: run.start,
            bytes: run.map(|_| None).collect(),
        };
        runs.into_iter().map(announced).collect()
    }

    /// Fetches a run with one request: its first chunks in a row that no pending write touches.
    pub(super) fn fetch(&self, mut run: Announced) {
        let (first, count) = (run.first, run.bytes.len() as u64);
        let inner = self.writes.lock();
        let pending: Vec<bool> = (first..first + count)
            .map(|index| inner.table.touches(&self.bytes(index..index + 1)))
            .collect();
        for (index, _) in (first..).zip(&pending).filter(|(_, pending)| **pending) {
            self.chunks.spoil(index);
        }
        drop(inner);
        let Some(from) = pending.iter().position(|pending| !pending) else {
            return;
        };
        let clean = pending[from..].iter().take_while(|pending| !**pending).count();
        let first = first + from as u64;
        let mut buffers: Vec<Vec<u8>> = (first..first + clean as u64)
            .map(|index| {
                let range = self.bytes(index..index + 1);
                self.chunks.buffer((range.end - range.start) as usize)
            })
            .collect();
        let mut parts: Vec<&mut [u8]> = buffers.iter_mut().map(Vec::as_mut_slice).collect();
        match self.pool.read(first * CHUNK_BYTES, &mut parts) {
            Ok(()) => {
                for (place, buffer) in run.bytes[from..].iter_mut().zip(buffers) {
                    *place = Some(buffer);
                }
            }
            Err(e) => debug!("fetch of chunk {first} and {clean} in all failed: {e}"),
        }
    }

    /// Returns the range of the disk that chunks `indexes` hold.
    fn bytes(&self, indexes: Range<u64>) -> Range<u64> {
        indexes.start * CHUNK_BYTES..(indexes.end * CHUNK_BYTES).min(self.size)
    }
}
