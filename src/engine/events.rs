//! Events: what the engine has noted about its commands. A backup that the engine has forgotten is judged by
//! them.

use super::address::query;
use super::json::{list, number, text};
use super::{Engine, Error};
use crate::logging::plain;

/// An event. Its code is that of AuditLogType.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Event {
    pub(crate) code: u64,
    pub(crate) description: String,
}

impl Event {
    /// An incremental backup could not begin, and a full one is needed.
    pub(super) const FULL_NEEDED: u64 = 10791;
    const FAILED: u64 = 10792;
    pub(super) const SUCCEEDED: u64 = 10793;
    const NOT_FINALIZED: u64 = 10795;
    const NO_SCRATCH_DISKS: u64 = 10806;
    /// The snapshot of a backup may not have been removed.
    pub(super) const SNAPSHOT_LEFT: u64 = 10813;
    const UNMONITORED: u64 = 10814;

    /// True for one that tells of a failure.
    pub(super) fn is_failure(&self) -> bool {
        matches!(
            self.code,
            Event::FULL_NEEDED
                | Event::FAILED
                | Event::NOT_FINALIZED
                | Event::NO_SCRATCH_DISKS
                | Event::UNMONITORED
        )
    }

    /// The remedy where there is one that the words of the engine do not tell.
    pub(super) fn remedy(&self) -> Option<&'static str> {
        match self.code {
            Event::NO_SCRATCH_DISKS => Some(
                "the storage domain of a disk has no room for a scratch disk: make room, or back the VM up \
                 while it is down",
            ),
            Event::UNMONITORED => Some("the engine was restarted and has lost it: back the VM up again"),
            _ => None,
        }
    }
}

impl Engine {
    /// Returns the events that name `id`, the newest first.
    pub(super) fn events_of(&self, id: &str) -> Result<Vec<Event>, Error> {
        let answer = self.get_list("events", &query("/events", id))?;
        let answer = self.listed("events", "event", answer)?;
        let of = |value| {
            Some(Event {
                code: number(value, "code")?,
                description: plain(&text(value, "description").unwrap_or_default()),
            })
        };
        Ok(list(&answer, "event").iter().filter_map(of).collect())
    }
}
