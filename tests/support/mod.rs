//! What the integration tests stand on: running programs within a time limit, mounts of the built binary, and (for the
//! tests against real parts) the imageio daemon, its storage and the disks on it.
//!
//! Layers, each needs only those before it:
//!
//!     run      a program, its exit code and output, never longer than its limit; the tests' scratch directories
//!     redaction  the search for secrets in all that a mount writes
//!     mount    the built rhv-mount over some transfer URL
//!     content  what the images hold, and how two of them are compared
//!     image    the server side: qcow2 and raw images, qemu-nbd and nbdkit in front of them
//!     daemon   ovirt-imageio and its tickets
//!     disk     a ticket over an image: what a test mounts
//!     engine   the stand-in of the oVirt engine over a daemon of its own: disks and transfers as users have them
//!     foreground  a mount that stays in the foreground, and its signals
//!
//! Every value owns what it started and ends it when dropped, so a test that fails leaves nothing behind.

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
pub mod mount;
pub mod redaction;
pub mod run;
