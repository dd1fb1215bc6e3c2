//! What goes out to the server: the segments of a request, as a writer thread gets them.

use std::ops::Range;
use std::sync::Arc;

use crate::disk::write::payload::Payload;
use crate::sync::Instant;

/// A request that a writer thread is performing, or that failed: then its bytes stay, so that reads
/// go on to return what was acknowledged.
#[derive(Debug, Clone)]
pub(crate) struct Flight {
    pub(crate) start: u64,
    pub(crate) payload: Arc<Payload>,
    pub(super) seq: u64,
    pub(super) era: u64,
}

impl Flight {
    pub(super) fn end(&self) -> u64 {
        self.start + self.payload.len()
    }

    /// The bytes of a flight with data.
    pub(crate) fn bytes(&self) -> &[u8] {
        match &*self.payload {
            Payload::Data(bytes) => bytes,
            Payload::Zero(_) => &[],
        }
    }
}

/// The answer of [`Table::pick`].
#[derive(Debug)]
pub(crate) enum Pick {
    /// Perform these with one request, then call [`Table::landed`] with each: neighbours with data, or a single one.
    Go(Vec<Flight>),
    /// Nothing now; look again at that time, or when something changed.
    Wait(Option<Instant>),
    /// There is something that must not be written any more: a request for these bytes may be performed after it.
    Blocked(Range<u64>),
}
