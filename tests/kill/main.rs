//! Tests the matrix of `docs/failures.md`, row by row, on the real ovirt-imageio, qemu-nbd and FUSE, and
//! where an engine takes part with its stand-in (`tests/engine`): something dies, and the test judges the
//! consequences.
//!
//! Each family of rows is a file; `table` checks that the document and the tests name each other. Each row
//! says what the user sees (exit code, message, errno), the state of the disk in the engine and in its bytes,
//! and what ends it. Tests of lasting failures use a short `--retry-time`, tests of passing ones the default.
//!
//! `proxy` breaks connections. `endurance` has the long tests, which are small by default and reach their
//! full size with `RHV_MOUNT_FULL_MATRIX=1`.

#[path = "../support/mod.rs"]
mod support;

#[allow(dead_code, reason = "these tests need only a part of the life tests' rig")]
#[path = "../life/rig.rs"]
mod life;

mod certificates;
mod cuts;
mod daemon_killed;
mod endurance;
mod engine_away;
mod load;
mod mount_killed;
#[allow(
    dead_code,
    reason = "scripts/soak uses it too, through examples/cutting_proxy.rs"
)]
mod proxy;
mod rig;
mod signals;
mod storage_failing;
mod storage_killed;
mod table;
