//! Zeros: known ones cost nothing, and long runs of new ones a small request each.
//!
//! [`map`] remembers the ranges of the disk that read as zeros: it is learnt from the server's extents and
//! follows every write under the write-behind's lock. [`detection`] finds zeros in the data of a write,
//! before the lock is taken. [`pace`] is the length of a zero request.

pub(crate) mod detection;
pub(crate) mod map;
pub(crate) mod pace;
