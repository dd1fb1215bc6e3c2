//! The reason why a run has left its transfer behind, as its note has it: for programs a name, for people a
//! clause.

use serde::{Deserialize, Serialize};

use crate::settings::Task;

/// The reason why a run has left its transfer behind. Notes of older versions have none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Cause {
    /// The process has noted no reason, so it had no time for it.
    #[default]
    Killed,
    /// The start has failed, and what was begun could not be taken back.
    StartFailed,
    /// The end had begun, and the process was gone before it was over: killed, or given up at a signal.
    Ending,
    /// The engine has not finalized the transfer.
    FinalizeFailed,
    /// Not every byte has arrived, and the transfer is left paused.
    Paused,
    /// Somebody else has ended the transfer before every byte had arrived.
    EndedByOthers,
    /// The disk begins like an image of another format, so that a finalize would have removed it.
    OtherHead,
    /// Nobody could look at the first bytes of the disk, so that a finalize might have removed it.
    HeadUnseen,
    /// A disk that was made for the run was to be removed, and may be there still.
    NotRemoved,
    /// Whether another transfer was started in place of one that had lost its ticket.
    StartUnclear,
    /// A later version has noted a reason that this one does not know.
    #[serde(other)]
    Unheard,
}

impl Cause {
    /// The name for programs: as in the note.
    pub(crate) fn name(self) -> String {
        let name = serde_json::to_value(self).ok();
        name.and_then(|name| name.as_str().map(str::to_owned))
            .unwrap_or_default()
    }

    /// The clause for people, about a run for `task`.
    pub(crate) fn words(self, task: Task) -> &'static str {
        match self {
            Cause::Killed => "its process was killed",
            Cause::Ending if task == Task::Backup => "its process was gone before it had ended in the engine",
            Cause::StartFailed if task != Task::Mount => {
                "it could not begin, and what was begun could not be taken back"
            }
            Cause::Ending if task != Task::Mount => {
                "the copy was over, and its process was gone before the transfer had ended"
            }
            Cause::EndedByOthers if task != Task::Mount => {
                "its transfer was ended, not by this copy, before every byte had arrived"
            }
            Cause::StartFailed => "it could not be mounted, and what was begun could not be taken back",
            Cause::Ending => "it was unmounted, and its process was gone before the transfer had ended",
            Cause::FinalizeFailed => "the engine has not finalized its transfer",
            Cause::Paused => "not every byte has arrived, so its transfer was left paused",
            Cause::EndedByOthers => {
                "its transfer was ended, not by this mount, before every byte had arrived"
            }
            Cause::OtherHead => {
                "its disk begins like an image of another format, so its transfer is not finalized"
            }
            Cause::HeadUnseen => {
                "nobody could look at the first bytes of its disk, so its transfer is not finalized"
            }
            Cause::NotRemoved => "its disk, which was made for it, was to be removed, and may be there still",
            Cause::StartUnclear => {
                "its transfer had lost its ticket, and whether another one was started is not known"
            }
            Cause::Unheard => "a later version of rhv-mount has left it",
        }
    }
}
