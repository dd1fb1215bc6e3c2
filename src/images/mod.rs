//! Local image files: a [`Source`] is read, an [`Output`] is written, both by offsets in the guest's disk.
//!
//! Several threads of a copy call `read_at` and `write_at` of one value at the same time; nobody waits for
//! another thread longer than a look-up in an image's tables takes. Nothing here knows of engine, network or
//! disk, and no other program (qemu-img) is run.
//!
//! Invariants: an image is somebody else's file. What it claims about itself is bounded before anything is
//! allocated for it, it can't make this process open a file outside its own folder unless the user has said
//! so, and no input makes a panic. A target appears under its name only when it is whole and on the storage.

mod chain;
mod direct;
mod error;
mod format;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod in_place;
mod kept;
mod leftovers;
mod output;
mod qcow2;
mod raw;
mod reader;
mod source;
mod stamp;
mod temporary;
#[cfg(test)]
mod tests;
mod vmdk;

pub(crate) use self::chain::Backing;
pub(crate) use self::direct::placed;
pub(crate) use self::error::{ImageError, is_passing};
pub(crate) use self::format::Format;
pub(crate) use self::leftovers::{make_room, unfinished_in};
pub(crate) use self::output::{CLUSTER_BYTES, Output, write_whole};
pub(crate) use self::qcow2::head;
pub(crate) use self::reader::Extent;
pub(crate) use self::source::Source;
pub(crate) use self::stamp::{FileStamp, file_stamp};
