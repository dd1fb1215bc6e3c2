//! The content of a segment, and the block that a storage backend rewrites as a whole.

use std::ops::Range;

/// Size in bytes of the largest unit that a file backend rewrites as a whole (4096 on NFS and 4Kn disks).
/// Requests in flight never share such a block.
pub(crate) const BLOCK_BYTES: u64 = 4096;

/// Memory that a segment counts for beside its bytes, in bytes; this bounds the number of tiny segments.
const SEGMENT_OVERHEAD_BYTES: usize = 256;

/// The change to a range of the disk.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Payload {
    /// Write these bytes.
    Data(Vec<u8>),
    /// Make this many bytes zero.
    Zero(u64),
}

impl Payload {
    /// Returns its length on the disk in bytes.
    pub(crate) fn len(&self) -> u64 {
        match self {
            Payload::Data(bytes) => bytes.len() as u64,
            Payload::Zero(len) => *len,
        }
    }

    /// Returns the memory that it counts for, in bytes.
    pub(crate) fn cost(&self) -> usize {
        match self {
            Payload::Data(bytes) => bytes.capacity() + SEGMENT_OVERHEAD_BYTES,
            Payload::Zero(_) => SEGMENT_OVERHEAD_BYTES,
        }
    }

    /// Returns how many bytes of data it holds.
    pub(crate) fn content(&self) -> usize {
        match self {
            Payload::Data(bytes) => bytes.len(),
            Payload::Zero(_) => 0,
        }
    }

    /// Returns a copy of its bytes `range`, counted from its beginning.
    pub(crate) fn part(&self, range: Range<u64>) -> Payload {
        match self {
            Payload::Data(bytes) => Payload::Data(bytes[range.start as usize..range.end as usize].to_vec()),
            Payload::Zero(_) => Payload::Zero(range.end - range.start),
        }
    }
}

/// True when `a` and `b`, which are not empty, have bytes in the same block.
pub(crate) fn share_block(a: &Range<u64>, b: &Range<u64>) -> bool {
    let first = |r: &Range<u64>| r.start / BLOCK_BYTES;
    let last = |r: &Range<u64>| (r.end - 1) / BLOCK_BYTES;
    first(a) <= last(b) && first(b) <= last(a)
}
