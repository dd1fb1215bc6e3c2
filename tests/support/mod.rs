//! The harness of the integration tests: it runs programs within a time limit, mounts with the built binary,
//! and (for the tests against real components) runs the imageio daemon, its storage and the disks on it.
//!
//! The harness has layers, and each of them needs only those before it:
//!
//!     run         a program within its time limit, its exit code and output; the tests' scratch directories
//!     refusing    a port that refuses connections
//!     redaction   the search for secrets in everything that a mount writes
//!     mount       the built rhv-mount over a transfer URL
//!     content     the contents of images, and the comparison of two images
//!     image       the server side: qcow2 and raw images behind qemu-nbd and nbdkit
//!     daemon      ovirt-imageio and its tickets
//!     disk        a ticket for an image: the disk that a test mounts
//!     engine      the stand-in for the oVirt engine over a daemon of its own, with disks and transfers
//!     foreground  a mount that stays in the foreground, and its signals
//!     manager     a service manager that a mount tells how it goes
//!     terminal    a terminal, and what is on its screen
//!
//! Every value owns what it started and ends it when dropped, so a failing test leaves nothing behind.

#![allow(
    dead_code,
    unreachable_pub,
    unused_imports,
    reason = "each test crate uses its own part of the harness"
)]

pub mod content;
pub mod daemon;
pub mod disk;
pub mod engine;
pub mod foreground;
pub mod image;
pub mod manager;
pub mod mount;
pub mod redaction;
pub mod refusing;
pub mod run;
pub mod terminal;
