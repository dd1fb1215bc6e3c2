//! The disks of a backup, side by side.
//!
//! A few threads take the disks one after the other; each has an equal share of the connections and of the
//! memory, so that ten disks take no more than one. A disk that fails ends alone.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use parking_lot::Mutex;

use super::file;
use super::shared::{Backed, Shared};
use crate::engine::VmDisk;
use crate::failure::{Exit, Failure};
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
    let next = AtomicUsize::new(0);
    let results: Vec<Mutex<Option<Backed>>> = disks.iter().map(|_| Mutex::new(None)).collect();
    let work = |share: usize| {
        loop {
            let n = next.fetch_add(1, Ordering::Relaxed);
            let Some((disk, changes)) = disks.get(n) else {
                return;
            };
            let copied = || file::copy(shared, disk, *changes, (share, count));
            let copied = std::panic::catch_unwind(std::panic::AssertUnwindSafe(copied));
            *results[n].lock() = Some(copied.unwrap_or_else(|_| Backed {
                entry: Err(Failure::text(
                    Exit::Other,
                    "internal error in the copy of a disk; report it with the log of --log-level debug",
                )),
                ended: Vec::new(),
                again: false,
            }));
        }
    };
    thread::scope(|scope| {
        for share in 1..count {
            let builder = thread::Builder::new().name(format!("disk-{share}"));
            // With fewer threads it takes longer.
            if builder.spawn_scoped(scope, move || work(share)).is_err() {
                break;
            }
        }
        work(0);
    });
    results.into_iter().filter_map(Mutex::into_inner).collect()
}
