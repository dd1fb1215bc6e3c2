//! The payload of a segment, and the block that a backend rewrites as a whole.

use std::ops::Range;

/// Requests in flight never share a block of this many bytes: the largest unit that a file backend
/// rewrites as a whole (4096 on NFS and 4Kn disks).
pub(crate) const BLOCK_BYTES: u64 = 4096;

/// What a segment costs beside its bytes, bytes; bounds the number of tiny ones.
const SEGMENT_OVERHEAD_BYTES: usize = 256;

/// What to do with a range.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Payload {
    /// Write these bytes.
    Data(Vec<u8>),
    /// Make this many bytes zero.
    Zero(u64),
}

impl Payload {
    /// Bytes of the disk.
    pub(crate) fn len(&self) -> u64 {
        match self {
            Payload::Data(bytes) => bytes.len() as u64,
            Payload::Zero(len) => *len,
        }
    }

    /// Bytes of memory.
    pub(crate) fn cost(&self) -> usize {
        match self {
            Payload::Data(bytes) => bytes.capacity() + SEGMENT_OVERHEAD_BYTES,
            Payload::Zero(_) => SEGMENT_OVERHEAD_BYTES,
        }
    }

    pub(crate) fn content(&self) -> usize {
        match self {
            Payload::Data(bytes) => bytes.len(),
            Payload::Zero(_) => 0,
        }
    }

    /// The bytes `range` of it.
    pub(crate) fn part(&self, range: Range<u64>) -> Payload {
        match self {
            Payload::Data(bytes) => Payload::Data(bytes[range.start as usize..range.end as usize].to_vec()),
            Payload::Zero(_) => Payload::Zero(range.end - range.start),
        }
    }
}

pub(crate) fn share_block(a: &Range<u64>, b: &Range<u64>) -> bool {
    let first = |r: &Range<u64>| r.start / BLOCK_BYTES;
    let last = |r: &Range<u64>| (r.end - 1) / BLOCK_BYTES;
    first(a) <= last(b) && first(b) <= last(a)
}
