//! What dies, and what becomes of it: the matrix of `docs/failures.md`, row by row, on the real thing: ovirt-imageio,
//! qemu-nbd, the kernel's FUSE, and where an engine takes part its stand-in (`tests/engine`).
//!
//! Each family of rows is a file; `table` sees to it that the document and the tests name each other. Each row says what
//! the user sees (exit code, message, errno), how the disk stands in the engine and in its bytes, and what ends it.
//! Failures that stay are met with a short `--retry-time`, those that go by with the options as they are.
//!
//! `proxy` breaks connections. `endurance` has the long ones: every day they are small, and as large as the issue wants
//! them with `RHV_MOUNT_FULL_MATRIX=1`.

#[path = "../support/mod.rs"]
mod support;

#[allow(
    dead_code,
    reason = "the rig of the tests of whole lives, of which these need a part"
)]
#[path = "../life/rig.rs"]
mod life;

mod cuts;
mod daemon_killed;
mod endurance;
mod engine_away;
mod load;
mod mount_killed;
mod proxy;
mod rig;
mod signals;
mod storage_failing;
mod storage_killed;
mod table;
