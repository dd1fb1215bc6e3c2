//! The needs of one open disk that is not mounted, to be tried out before it is opened.

use crate::failure::Failure;
use crate::process::limits::{self, Kind, Needs};
use crate::settings::DiskSettings;

/// Threads beside those of the connections: rights, reports, metrics, signals, open, image, copy and three
/// more that read an image, ahead, extents, watch, renewal, checksum, asking, close, finalize, discard.
const OWN_THREADS: usize = 19;

/// Threads for each connection: writer, prefetch, keeper; the ones that begin and dial it or, later, the one
/// that flushes it; and the one that copies.
const THREADS_PER_CONNECTION: usize = 6;

/// Descriptors beside those of the connections: log, signals, the image and its folder, the engine, a
/// resolver, files that are read or written for a moment.
const OWN_DESCRIPTORS: usize = 16;

/// Descriptors for each connection: the old socket may be there while a new one is made.
const DESCRIPTORS_PER_CONNECTION: usize = 2;

/// Address space for everything that has no budget, in bytes.
const OWN_BYTES: usize = 64 << 20;

/// Refuses where the system does not grant what a copy, or a checksum, of this disk takes at most; `at_once`
/// tells how many disks share its connections and its memory.
pub(crate) fn check<S>(disk: &DiskSettings<S>, at_once: usize) -> Result<(), Failure> {
    let connections = disk.connections.max(at_once);
    let needs = Needs {
        threads: OWN_THREADS * at_once + THREADS_PER_CONNECTION * connections,
        descriptors: OWN_DESCRIPTORS * at_once + DESCRIPTORS_PER_CONNECTION * connections,
        bytes: OWN_BYTES.saturating_add(usize::try_from(disk.budgets.sum()).unwrap_or(usize::MAX)),
    };
    limits::check(Kind::Copy, needs)
}
