//! rhv-mount shows one remote RHV/oVirt disk as one local file.
//!
//! How a `write(2)` reaches the storage:
//!
//! ```text
//! fuse/operations.rs           the kernel's request -> Disk::write
//! disk/change.rs               bounds: ENOSPC behind the end of the disk
//! disk/head/mod.rs             EPERM for a raw disk that would begin like an image
//! disk/zeros/detection.rs      data told from long runs of zeros
//! disk/write/mod.rs            sticky failure, room in the write-behind, and its lock
//! disk/write/table/mod.rs      one copy into the table, then it is acknowledged
//! disk/write/threads.rs        a writer thread takes work
//! disk/write/table/out.rs      the oldest segment that conflicts with nothing in flight
//! pool/request.rs, lease.rs    one connection, and the request until it is answered
//! imageio/requests.rs          PUT ?flush=n
//! imageio/line.rs              past the HTTP library onto the socket, with TLS or without
//! imageio/transport.rs         the same socket below that library
//! disk/write/table/back.rs     answered: into the journal, until a flush covers it
//! ```
//!
//! and why nothing is lost: `fsync(2)` (disk/fsync.rs) waits until every write acknowledged before it was
//! answered by the server, then takes *all* connections from the pool and flushes each (pool/flush.rs). What
//! a lost connection had answered and not flushed is written again from the journal (disk/write/journal.rs).
//! A write that fails after it was acknowledged makes the disk fail for good: every later write, fsync and
//! close says EIO, and the exit code is 7.
//!
//! `docs/architecture.md` has the other paths, the life of a transfer, the threads and the locks.
#![forbid(unsafe_code)]
// `println!` panics where its line cannot be written; `output` says what to use.
#![cfg_attr(
    not(any(test, feature = "fuzzing")),
    deny(clippy::print_stdout, clippy::print_stderr)
)]

mod addresses;
mod amounts;
mod backup;
mod block_hash;
mod copying;
mod disk;
#[cfg(any(test, feature = "documents"))]
pub mod documents;
mod engine;
mod failure;
mod fuse;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod imageio;
mod images;
mod logging;
mod mount;
mod open_disk;
mod output;
mod ovf;
mod page;
mod path_bytes;
mod pool;
mod process;
mod remote;
mod restore;
mod run;
mod secret;
mod settings;
mod shell;
mod signals;
mod supervisor;
mod sync;
mod terminal;
mod transfer;
mod trust;
mod zone;

pub use self::run::main;
