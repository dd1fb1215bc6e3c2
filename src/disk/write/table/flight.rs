//! The segments of a request on its way to the server, as a writer thread gets them from the table.

use std::ops::Range;
use std::sync::Arc;

use crate::disk::write::payload::Payload;
use crate::sync::Instant;

/// A segment in a request that a writer thread is performing, or that has failed. After a failure it stays in
/// the table, so that reads still return the acknowledged bytes.
#[derive(Debug, Clone)]
pub(crate) struct Flight {
    pub(crate) start: u64,
    pub(crate) payload: Arc<Payload>,
    /// Number of its oldest write.
    pub(super) seq: u64,
    /// How often the storage had reported a loss when the request was sent.
    pub(super) era: u64,
}

impl Flight {
    pub(super) fn end(&self) -> u64 {
        self.start + self.payload.len()
    }

    /// Returns its bytes; none when it is zeros.
    pub(crate) fn bytes(&self) -> &[u8] {
        match &*self.payload {
            Payload::Data(bytes) => bytes,
            Payload::Zero(_) => &[],
        }
    }
}

/// The answer of [`Table::pick`](super::Table::pick).
#[derive(Debug)]
pub(crate) enum Pick {
    /// Perform these with one request, then call [`Table::landed`](super::Table::landed) with each. They are
    /// neighbours with data, or a single segment.
    Go(Vec<Flight>),
    /// Nothing may go now; look again at that time, or when the table has changed.
    Wait(Option<Instant>),
    /// A segment must not be written any more: an earlier request for these bytes may be performed after it.
    Blocked(Range<u64>),
}
