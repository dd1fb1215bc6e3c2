//! The phases of a transfer, and its direction.
//!
//! ```text
//! initializing -> transferring -> finalizing_success -> finished_success
//!                 |    ^                      \-> paused_system: ticket or storage trouble, the disk is kept
//!                 v    |
//!       paused_system -> resuming
//! cancelled_user, cancelled_system -> finalizing_... -> finished_failure: an upload's disk is removed
//! ```

use std::fmt;

use serde::{Deserialize, Serialize};
use tracing::info;

/// The direction of a transfer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Direction {
    /// Read-write: the ticket of an upload also allows reading.
    Upload,
    /// Read-only.
    Download,
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if *self == Direction::Upload {
            "upload"
        } else {
            "download"
        })
    }
}

/// The phase of a transfer, in the classes that decide how to go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Not ready yet: `initializing`, `resuming`, or an unknown name.
    Coming(String),
    /// Data may move.
    Transferring,
    /// `paused_system` or `paused_user`.
    Paused(String),
    /// `finalizing_success`: on its way to success.
    Finalizing,
    /// `finished_success`: ended well.
    Finished,
    /// Cancelled, or on its way to failure.
    Failing(String),
    /// `finished_failure`: ended with a failure.
    Failed,
}

impl Phase {
    /// The phase with the engine's name for it.
    pub(crate) fn of(name: &str) -> Phase {
        match name {
            "transferring" => Phase::Transferring,
            "paused_system" | "paused_user" => Phase::Paused(name.to_owned()),
            "finalizing_success" => Phase::Finalizing,
            "finished_success" => Phase::Finished,
            "cancelled_user" | "cancelled_system" | "finalizing_failure" | "finalizing_cleanup"
            | "finished_cleanup" | "cancelled" => Phase::Failing(name.to_owned()),
            // Apache CloudStack's control service has the second name.
            "finished_failure" | "finished_failed" => Phase::Failed,
            "initializing" | "resuming" => Phase::Coming(name.to_owned()),
            unknown => {
                info!(phase = unknown, "unknown phase of a transfer");
                Phase::Coming(unknown.to_owned())
            }
        }
    }
}

impl Phase {
    /// True for a pause that a user has made, and not the system. It is the user's to end.
    pub(crate) fn is_paused_by_user(&self) -> bool {
        matches!(self, Phase::Paused(name) if name == "paused_user")
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Phase::Coming(name) | Phase::Paused(name) | Phase::Failing(name) => name,
            Phase::Transferring => "transferring",
            Phase::Finalizing => "finalizing_success",
            Phase::Finished => "finished_success",
            Phase::Failed => "finished_failure",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_phase_that_nobody_knows_is_waited_for() {
        assert_eq!(Phase::of("warming_up"), Phase::Coming("warming_up".into()));
        assert_eq!(Phase::of("finished_failed"), Phase::Failed);
        assert!(
            Phase::of("paused_user").is_paused_by_user() && !Phase::of("paused_system").is_paused_by_user()
        );
        for name in [
            "finalizing_success",
            "cancelled_system",
            "finished_failure",
            "transferring",
        ] {
            assert_eq!(Phase::of(name).to_string(), name);
        }
    }
}
