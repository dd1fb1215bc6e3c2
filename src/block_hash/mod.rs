//! The block hash that imageio computes of a disk: `H(H(b0) ‖ H(b1) ‖ …)` over blocks of a fixed size.
//!
//! The last block is as short as the disk ends, and is not padded. A block of zeros has the digest of its
//! zeros, so the value depends on the bytes alone, and not on where they are allocated; the digest of a whole
//! block of zeros is computed once, and holes cost nothing.
//!
//! ```text
//! method    the hash function and the size of the blocks
//! digests   the digests of the blocks, however they arrive, and the hash of those whose turn has come
//! hasher    takes the bytes in any order, as a copy moves them
//! assembly  a block whose bytes arrive in parts
//! bytes     hashes what can be read: an image or a disk, by several threads
//! image     local images among that
//! ```
//!
//! A [`Hasher`] is shared by the threads that feed it. None waits for another one, unless both have parts of
//! the same block. What it keeps is bounded: 8 MiB of digests that are in the hash already, the digests that
//! came before their turn, and [`MAX_HELD_BYTES`](assembly::MAX_HELD_BYTES) of bytes that did. A block that
//! would exceed that is given up, to be read again by whoever feeds the hasher: at once, since the digests of
//! all blocks behind it wait for its own ([`Hasher::take_given_up`], [`Hasher::is_far_ahead`]).

mod assembly;
mod bytes;
mod digests;
mod hasher;
mod image;
mod method;

pub(crate) use self::bytes::{Bytes, Difference, Padded, Run, Watch, first_difference, hash};
pub(crate) use self::hasher::{Checksum, Hasher};
pub(crate) use self::method::{Algorithm, Method};
