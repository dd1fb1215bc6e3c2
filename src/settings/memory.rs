//! Divides the memory of a mount: read cache, write-behind and journal, together the *budgets*.
//!
//! `--memory` sets their sum, `--cache-size` and `--journal-size` one of them each. Where nothing is said,
//! the sum is what the defaults add up to, or less where the process has less: killed for its memory, it
//! would lose what it has acknowledged.

use serde::{Deserialize, Serialize};

use crate::process::memory_limit::MemoryLimit;

/// Upper bound on the memory that a mount takes beside its budgets, in bytes.
const BASE_BYTES: u64 = 64 << 20;

/// Lower bound on the sum, in bytes, even where it does not fit: with less, no copy makes progress.
const MIN_BYTES: u64 = 12 << 20;

/// Lower bound on `--memory`, in bytes.
pub(super) const MIN_MEMORY_BYTES: u64 = 8 << 20;

const DEFAULT_CACHE_BYTES: u64 = 64 << 20;
const DEFAULT_JOURNAL_BYTES: u64 = 256 << 20;

/// Lower bound on a journal that nobody has switched off, in bytes: without one, a lost connection is a loss.
const MIN_JOURNAL_BYTES: u64 = 4 << 20;

/// Lower bound on the write-behind of one of several disks, in bytes: as much as the kernel writes at once.
const MIN_WRITE_BEHIND_BYTES: u64 = 1 << 20;

/// Bounds on one request, in bytes: half of what the kernel writes at once, and as much as the server takes
/// in before it turns to the storage (its buffer). On storage that is far away size hides latency: with 20 ms
/// a request and 4 connections, 1 MiB gave 160 MiB/s, 4 MiB 380, 8 MiB 455.
const REQUEST_BYTES: (u64, u64) = (512 << 10, 8 << 20);

/// Upper bound on the write-behind, in bytes: more does not make a copy faster.
const MAX_WRITE_BEHIND_BYTES: u64 = 128 << 20;

/// The budgets, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Budgets {
    /// Upper bound on the read cache.
    pub(crate) cache: u64,
    /// Upper bound on writes that are answered and not flushed.
    pub(crate) journal: u64,
    /// Upper bound on writes that are acknowledged and not answered.
    pub(crate) write_behind: u64,
}

/// The options of the user, in bytes.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Said {
    pub(super) memory: Option<u64>,
    pub(super) cache: Option<u64>,
    pub(super) journal: Option<u64>,
}

impl Budgets {
    /// Divides the memory; the text is for the user, where a limit has made the budgets smaller.
    pub(super) fn divide(said: Said, limit: Option<&MemoryLimit>) -> (Budgets, Option<String>) {
        let usual = Budgets {
            cache: said.cache.unwrap_or(DEFAULT_CACHE_BYTES),
            journal: said.journal.unwrap_or(DEFAULT_JOURNAL_BYTES),
            write_behind: MAX_WRITE_BEHIND_BYTES,
        };
        if let Some(sum) = said.memory {
            return (Budgets::of_sum(sum, said), None);
        }
        // Half of the rest is for the programs in the same group, for sockets, and for the kernel.
        let fitting = limit.map(|limit| (limit.bytes.saturating_sub(BASE_BYTES) / 2).max(MIN_BYTES));
        let (Some(limit), Some(sum)) = (limit, fitting.filter(|sum| *sum < usual.sum())) else {
            return (usual, None);
        };
        let budgets = Budgets::of_sum(sum, said);
        let told = format!(
            "memory is limited to {} MiB ({}): the read cache takes {} MiB, the journal {} MiB and the \
             write-behind {} MiB; --memory sets another sum",
            limit.bytes >> 20,
            limit.from,
            budgets.cache >> 20,
            budgets.journal >> 20,
            budgets.write_behind >> 20
        );
        (budgets, (budgets != usual).then_some(told))
    }

    /// Divides `sum` in the proportions of the defaults; what the user has said of a part holds.
    fn of_sum(sum: u64, said: Said) -> Budgets {
        let rest = sum.saturating_sub(said.cache.unwrap_or(0).saturating_add(said.journal.unwrap_or(0)));
        // One part each for the write-behind and the cache, four for the journal.
        let parts = 1 + said.cache.map_or(1, |_| 0) + said.journal.map_or(4, |_| 0);
        let part = (rest / parts).max(1 << 20);
        let write_behind = part.min(MAX_WRITE_BEHIND_BYTES);
        let cache = said.cache.unwrap_or(part);
        let left = rest.saturating_sub(write_behind + said.cache.map_or(cache, |_| 0));
        Budgets {
            cache,
            journal: said.journal.unwrap_or(left.max(MIN_JOURNAL_BYTES)),
            write_behind,
        }
    }

    /// Returns the size of a large request for a disk with so many writing connections, in bytes: where the
    /// write-behind is small, each connection has one on its way and one that grows.
    pub(crate) fn request_size(&self, writers: usize) -> u64 {
        let (least, most) = REQUEST_BYTES;
        if self.write_behind >= MAX_WRITE_BEHIND_BYTES {
            return most;
        }
        let share = self.write_behind / (2 * writers.max(1) as u64);
        share.clamp(least, most).next_power_of_two().min(most)
    }

    /// The part of each of `disks` that share them. No part gets so small that nothing could move any more, so
    /// the parts of many disks may be more than there is to divide.
    pub(crate) fn share(&self, disks: usize) -> Budgets {
        let disks = disks.max(1) as u64;
        let part = |bytes: u64, least: u64| match bytes {
            0 => 0,
            bytes => (bytes / disks).max(least),
        };
        Budgets {
            cache: self.cache / disks,
            journal: part(self.journal, MIN_JOURNAL_BYTES.min(self.journal)),
            write_behind: part(self.write_behind, MIN_WRITE_BEHIND_BYTES.min(self.write_behind)),
        }
    }

    /// All of them together.
    pub(crate) fn sum(&self) -> u64 {
        let journal_and_cache = self.journal.saturating_add(self.cache);
        journal_and_cache.saturating_add(self.write_behind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn limited(mib: u64) -> MemoryLimit {
        MemoryLimit {
            bytes: mib * MIB,
            from: "/group/memory.max".to_owned(),
        }
    }

    #[test]
    fn the_budgets_fit_themselves_to_a_limit_and_say_so() {
        let (usual, told) = Budgets::divide(Said::default(), None);
        assert_eq!((usual.cache, usual.journal, told), (64 * MIB, 256 * MIB, None));
        assert_eq!(
            Budgets::divide(Said::default(), Some(&limited(4096))),
            (usual, None)
        );
        for mib in [128, 256, 512, 900] {
            let (budgets, told) = Budgets::divide(Said::default(), Some(&limited(mib)));
            assert!(budgets.sum() <= (mib - 64) * MIB / 2, "{mib}: {budgets:?}");
            assert!(budgets.sum() >= (mib - 64) * MIB / 2 - 6, "{mib}: {budgets:?}");
            let told = told.expect("it is less than usual");
            assert!(told.contains(&format!("{mib} MiB (/group/memory.max)")), "{told}");
        }
        assert_eq!(
            (usual.request_size(4), usual.request_size(64)),
            (8 * MIB, 8 * MIB)
        );
        let (tight, _) = Budgets::divide(Said::default(), Some(&limited(128)));
        assert_eq!(tight.request_size(4), MIB);
        assert!(Budgets::divide(Said::default(), Some(&limited(1))).0.sum() <= MIN_BYTES);
    }

    #[test]
    fn disks_that_share_the_budgets_never_get_more_than_there_is_unless_nothing_could_move() {
        let (usual, _) = Budgets::divide(Said::default(), None);
        for disks in 1..=40 {
            let each = usual.share(disks);
            assert!(each.sum() * disks as u64 <= usual.sum(), "{disks}: {each:?}");
        }
        let each = usual.share(10_000);
        assert_eq!((each.journal, each.write_behind), (4 * MIB, MIB));
        // What was switched off stays off.
        let said = Said {
            cache: Some(0),
            journal: Some(0),
            ..Said::default()
        };
        let each = Budgets::divide(said, None).0.share(3);
        assert_eq!((each.cache, each.journal), (0, 0));
    }

    #[test]
    fn what_was_said_holds_and_the_rest_is_divided() {
        let said = Said {
            memory: Some(60 * MIB),
            ..Said::default()
        };
        let (budgets, told) = Budgets::divide(said, Some(&limited(128)));
        assert_eq!((budgets.sum(), told), (60 * MIB, None), "it was asked for");
        let (budgets, _) = Budgets::divide(
            Said {
                cache: Some(0),
                ..said
            },
            None,
        );
        assert_eq!((budgets.cache, budgets.sum()), (0, 60 * MIB));
        let (budgets, _) = Budgets::divide(
            Said {
                journal: Some(MIB),
                ..said
            },
            None,
        );
        assert_eq!(budgets.journal, MIB);
        let cache = Some(100 * MIB);
        let said = Said {
            cache,
            ..Said::default()
        };
        let (budgets, _) = Budgets::divide(said, Some(&limited(200)));
        assert_eq!(budgets.cache, 100 * MIB);
        assert!(budgets.journal + budgets.write_behind <= 5 * MIB, "{budgets:?}");
    }
}
