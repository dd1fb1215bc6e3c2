//! Why the engine refuses a backup, and what to do about it.
//!
//! A refusal is text (EngineMessage, AppErrors.properties); the words that tell the reasons apart are few.

use super::Error;

/// The meaning of words in a refusal, and the remedy. The first that fits counts.
const REMEDIES: [(&[&str], &str); 11] = [
    (
        &["hosted engine"],
        "the engine's own VM can't be backed up this way; engine-backup saves the engine",
    ),
    (
        &["is during"],
        "another backup of this VM is under way: wait until it has ended; where it was ours and killed, \
         `rhv-mount recover` ends it",
    ),
    (
        &["checkpoint removal"],
        "a checkpoint of this VM is being removed: try again when that is over",
    ),
    (
        &["preview"],
        "commit or undo the preview of its snapshot in the engine first",
    ),
    (
        &["neither up"],
        "wait until the VM is up or down; one that is paused has to go on, or to be stopped, first",
    ),
    (
        &["locked"],
        "something else is at work on it; try again when that is over",
    ),
    (
        &["unplugged", "not active"],
        "activate its disks in the engine, or leave them out with --exclude",
    ),
    (
        &["checkpoint"],
        "its checkpoint can't be used any more, so a full backup is needed",
    ),
    (
        &["not supported", "not support", "outdated", "upgrade"],
        "the host, or the cluster of the VM, is too old for such a backup: hosts need 4.4.5",
    ),
    (&["description"], "report this with the log of --log-level debug"),
    (
        &["permission", "not authorized"],
        "the user needs the permissions BACKUP_DISK and EDIT_DISK_PROPERTIES on each disk",
    ),
];

/// Returns `error` with the remedy, where it is a refusal whose reason is known.
pub(super) fn explained(error: Error) -> Error {
    let Error::Fault { message, status, .. } = &error else {
        return error;
    };
    let words = message.to_lowercase();
    let known = REMEDIES
        .iter()
        .find(|(signs, _)| signs.iter().any(|sign| words.contains(sign)));
    match (known, status) {
        (Some((_, remedy)), _) => Error::Unfit(format!("{error}; {remedy}")),
        (None, 403) => Error::Unfit(format!("{error}; {}", REMEDIES[REMEDIES.len() - 1].1)),
        (None, _) => error,
    }
}

/// True where an incremental backup is refused because of its checkpoint, or because the engine makes none
/// for this VM: a full one may begin.
pub(super) fn needs_full(error: &Error) -> bool {
    let Error::Fault {
        message, status: 400, ..
    } = error
    else {
        return false;
    };
    let words = message.to_lowercase();
    words.contains("checkpoint") || words.contains("incremental")
}

/// True for a refusal that says that a backup of the VM is under way, which usually ends by itself.
pub(super) fn is_busy(error: &Error) -> bool {
    let Error::Fault {
        message, status: 409, ..
    } = error
    else {
        return false;
    };
    let words = message.to_lowercase();
    ["is during", "locked", "checkpoint removal", "being transferred"]
        .iter()
        .any(|sign| words.contains(sign))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::error::Meaning;

    fn refused(status: u16, message: &str) -> Error {
        Error::Fault {
            what: "backup of VM web".to_owned(),
            status,
            meaning: Meaning::Final,
            message: message.to_owned(),
            correlation: "c".to_owned(),
        }
    }

    #[test]
    fn a_refusal_whose_reason_is_known_names_the_remedy() {
        for (status, message, remedy) in [
            (409, "The VM is during a backup operation.", "recover"),
            (409, "A checkpoint removal is running.", "being removed"),
            (409, "VM is previewing a Snapshot.", "undo the preview"),
            (409, "The following disks are locked: a.", "try again"),
            (409, "VM is neither up nor down.", "paused"),
            (409, "The hosted engine VM can't be backed up.", "engine-backup"),
            (400, "The specified checkpoint is invalid.", "full backup"),
            (403, "query execution failed", "BACKUP_DISK"),
        ] {
            let told = explained(refused(status, message)).to_string();
            assert!(told.contains(remedy) && told.contains(message), "{told}");
        }
        let other = explained(refused(409, "something new")).to_string();
        assert!(
            other.contains("something new") && !other.contains("; the"),
            "{other}"
        );
    }

    #[test]
    fn what_is_wrong_with_a_checkpoint_is_no_reason_against_a_full_backup() {
        assert!(needs_full(&refused(
            400,
            "The specified checkpoint does not exist."
        )));
        assert!(needs_full(&refused(400, "Incremental backup is not supported.")));
        assert!(!needs_full(&refused(409, "A checkpoint removal is running.")));
        assert!(!needs_full(&refused(400, "The specified disks do not exist.")));
    }

    #[test]
    fn only_what_ends_by_itself_is_waited_for() {
        assert!(is_busy(&refused(409, "The VM is during a backup operation.")));
        assert!(is_busy(&refused(409, "The following disks are locked: a.")));
        assert!(!is_busy(&refused(409, "VM is previewing a Snapshot.")));
        assert!(!is_busy(&refused(400, "The following disks are locked: a.")));
    }
}
