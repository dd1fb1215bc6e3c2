//! rhv-mount shows one remote RHV/oVirt disk as one local file.
//!
//! How a `write(2)` reaches the storage, in file order:
//!
//! ```text
//! fuse/mod.rs      the kernel's request -> Disk::write
//! disk/mod.rs      bounds, sticky failure, truncate rule
//! disk/pending.rs  one copy into the write-behind table: acknowledged here
//! disk/writer.rs   a writer thread takes the oldest segment that conflicts with nothing in flight
//! pool/mod.rs      leases a connection
//! imageio/client.rs   PUT ?flush=n
//! imageio/transport.rs  TLS or not, TCP or unix socket
//! ```
//!
//! and why nothing is lost: `fsync(2)` -> disk/flush.rs waits until every write acknowledged before
//! it was answered by the server, then takes *all* connections from the pool and flushes each. A
//! write that fails after it was acknowledged makes the disk fail for good: every later write,
//! fsync and close says EIO, and the exit code is 7.
#![forbid(unsafe_code)]

mod disk;
mod engine;
mod failure;
mod fuse;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod imageio;
mod logging;
mod mount;
mod open_disk;
mod pool;
mod process;
mod remote;
mod run;
mod secret;
mod settings;
mod sync;
mod transfer;
mod trust;

pub use self::run::main;
