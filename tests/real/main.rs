//! rhv-mount against real components: ovirt-imageio 2.5.1, qemu-nbd and the kernel's FUSE, used through the
//! programs that people use. The contents of a disk are always checked on the server side, not through the
//! mount.
//!
//! The tests need the programs that `scripts/setup test` installs. They share nothing and may run in
//! parallel; what counts requests is a test binary of its own (`tests/speed.rs`).

#[path = "../support/mod.rs"]
mod support;

mod blocks;
mod checksum;
mod command;
mod copies;
mod copy_matrix;
mod failures;
mod fsx_fio;
mod loopdev;
mod manifests;
mod mount8;
mod mountpoints;
mod old_releases;
mod read_out;
mod readme;
mod recipes;
mod tools;
