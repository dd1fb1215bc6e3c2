//! Fetching runs of pieces, each with one request.

use std::ops::Range;
use std::sync::Arc;

use tracing::debug;

use super::pieces::{NO_STREAM, Pieces};
use super::streams::Ahead;
use crate::disk::write::WriteBehind;
use crate::pool::Pool;

/// A run of pieces that a reader has announced. Dropping it ends their fetches, with the bytes that have
/// arrived.
pub(super) struct Announced {
    pieces: Arc<Pieces>,
    run: Range<u64>,
    /// The bytes of each piece, once they are there.
    bytes: Vec<Option<Vec<u8>>>,
}

impl Announced {
    /// Returns the offset of its end.
    pub(super) fn end(&self) -> u64 {
        self.run.end
    }
}

impl Drop for Announced {
    fn drop(&mut self) {
        for (piece, bytes) in self.pieces.cut(self.run.clone()).zip(self.bytes.drain(..)) {
            self.pieces.end(piece.start, bytes.map(Arc::new));
        }
    }
}

/// Fetches pieces, for the prefetch threads and for readers that are ahead of them.
pub(super) struct Fetcher {
    pub(super) pool: Arc<Pool>,
    pub(super) writes: Arc<WriteBehind>,
    pub(super) pieces: Arc<Pieces>,
}

impl Fetcher {
    /// Announces what of `range` is neither kept nor on its way, for the stream in `ahead`; false when there
    /// was no room for all of it.
    pub(super) fn announce(
        &self,
        range: Range<u64>,
        ahead: &Ahead,
        active: &[u64],
    ) -> (Vec<Announced>, bool) {
        let (request, stream) = (ahead.request, ahead.stream);
        let begun = self
            .pieces
            .begin(range, request, stream, ahead.urgent, Some(active));
        (
            begun.runs.into_iter().map(|run| self.announced(run)).collect(),
            begun.all,
        )
    }

    fn announced(&self, run: Range<u64>) -> Announced {
        Announced {
            pieces: self.pieces.clone(),
            bytes: self.pieces.cut(run.clone()).map(|_| None).collect(),
            run,
        }
    }

    /// Fetches what of `range` is missing, as far as there is room, for a read that waits for it; true when
    /// that was something.
    pub(super) fn fetch_now(&self, range: Range<u64>) -> bool {
        let len = range.end - range.start;
        let begun = self.pieces.begin(range, len, NO_STREAM, true, None);
        let any = !begun.runs.is_empty();
        begun
            .runs
            .into_iter()
            .for_each(|run| self.fetch(self.announced(run)));
        any
    }

    /// Fetches a run with one request: its first pieces in a row that no pending write touches.
    pub(super) fn fetch(&self, mut run: Announced) {
        let pieces: Vec<Range<u64>> = self.pieces.cut(run.run.clone()).collect();
        let inner = self.writes.lock();
        let pending: Vec<bool> = pieces.iter().map(|piece| inner.table.touches(piece)).collect();
        for (piece, _) in pieces.iter().zip(&pending).filter(|(_, pending)| **pending) {
            self.pieces.spoil(piece.start);
        }
        drop(inner);
        let Some(from) = pending.iter().position(|pending| !pending) else {
            return;
        };
        let clean = pending[from..].iter().take_while(|pending| !**pending).count();
        let pieces = &pieces[from..from + clean];
        let mut buffers: Vec<Vec<u8>> = pieces.iter().map(|piece| self.pieces.buffer(piece)).collect();
        let mut parts: Vec<&mut [u8]> = buffers.iter_mut().map(Vec::as_mut_slice).collect();
        match self.pool.read(pieces[0].start, &mut parts) {
            Ok(()) => {
                for (place, buffer) in run.bytes[from..].iter_mut().zip(buffers) {
                    *place = Some(buffer);
                }
            }
            Err(e) => debug!("fetch of {clean} pieces from {} failed: {e}", pieces[0].start),
        }
    }
}
