//! rhv-mount against real parts: ovirt-imageio 2.5.1, qemu-nbd and the kernel's FUSE, used by the programs that people
//! use. What a disk holds is always judged on the server side, not through the mount.
//!
//! Needs what `scripts/setup test` installs. The tests share nothing and may run side by side; what measures time is a
//! test binary of its own (`tests/speed.rs`).

#[path = "../support/mod.rs"]
mod support;

mod command;
mod copy_matrix;
mod failures;
mod fsx_fio;
mod loopdev;
mod mountpoints;
mod read_out;
mod tools;
