//! The disks of a backup, side by side.
//!
//! A few threads take the disks one after the other; each has an equal share of the connections and of the
//! memory, so that ten disks take no more than one. A disk that fails ends alone.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::file;
use super::shared::{Backed, Shared};
use crate::engine::VmDisk;
use crate::failure::{Exit, Failure};
use crate::process::side_by_side;
use crate::settings::backup::BackupSettings;

/// Upper bound on the disks that are copied at the same time.
const MAX_AT_ONCE: usize = 8;

/// How many disks are copied at the same time, of so many: each has a connection at least.
pub(super) fn at_once(settings: &BackupSettings, disks: usize) -> usize {
    settings.disk.connections.min(MAX_AT_ONCE).min(disks).max(1)
}

/// Copies the disks; the results are in their order.
pub(super) fn copy(shared: &Shared<'_>, disks: &[(&VmDisk, bool)]) -> Vec<Backed> {
    let count = at_once(shared.settings, disks.len());
    let work = |share: usize, _, (disk, changes): &(&VmDisk, bool)| {
        let copied = || file::copy(shared, disk, *changes, (share, count));
        let copied = catch_unwind(AssertUnwindSafe(copied));
        copied.unwrap_or_else(|_| Backed {
            entry: Err(Failure::text(
                Exit::Other,
                "internal error in the copy of a disk; report it with the log of --log-level debug",
            )),
            ended: Vec::new(),
            again: false,
        })
    };
    side_by_side("disk", disks, count, work)
}
