//! The transfers that runs have left behind, from their notes, as `status` shows them: the disk, the
//! transfer, what has happened, and the command that ends it. The engine is not asked.

use std::path::Path;

use serde::Serialize;

use crate::engine::Direction;
use crate::logging::plain;
use crate::path_bytes::bytes_beside_text;
use crate::settings::Task;
use crate::transfer::note::{Note, Owner};
use crate::transfer::note_file::NoteFile;

/// One transfer. The names are those of `status -o json`.
#[derive(Debug, Serialize)]
pub(super) struct Remains {
    /// The path for people: U+FFFD stands for bytes that are not UTF-8.
    mountpoint: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    mountpoint_bytes: Option<Vec<u8>>,
    /// Always `left`.
    phase: &'static str,
    /// A name of [`Cause`](crate::transfer::cause::Cause), or `unknown` where another machine would have to
    /// tell, or `in_recovery`.
    happened: String,
    /// The same for people.
    failure: String,
    read_only: bool,
    disk_id: String,
    disk_name: String,
    /// Absent where the run was killed before it knew.
    #[serde(skip_serializing_if = "Option::is_none")]
    transfer: Option<String>,
    /// A backup of the VM `disk_id`, and no transfer.
    #[serde(skip_serializing_if = "Option::is_none")]
    backup: Option<String>,
    engine_url: String,
    /// The command that ends it, for a shell.
    recover: String,
    /// The path of the note.
    note: String,
}

/// Returns what is left of mounts on `mountpoint`, or of all mounts.
pub(super) fn all(mountpoint: Option<&Path>) -> Vec<Remains> {
    let files = NoteFile::all(mountpoint);
    let left: Vec<(&NoteFile, Owner)> = files
        .iter()
        .filter_map(|file| Some((file, file.owner()?)))
        .filter(|(_, owner)| !matches!(owner, Owner::AtWork | Owner::Elsewhere))
        .collect();
    left.iter()
        .map(|(file, owner)| Remains::of(file, *owner))
        .collect()
}

/// Says what has happened, in a word for programs and a clause for people.
pub(super) fn happened(note: &Note, owner: Owner) -> (String, String) {
    match owner {
        Owner::Busy => (
            "in_recovery".to_owned(),
            format!(
                "a `rhv-mount recover` is at work on it, or {} is about to be gone",
                note.process_shown(owner)
            ),
        ),
        Owner::Foreign | Owner::Unknown => (
            "unknown".to_owned(),
            format!(
                "it may be at work as {}: nothing here tells",
                note.process_shown(owner)
            ),
        ),
        Owner::Gone | Owner::AtWork | Owner::Elsewhere => {
            // Those of a backup are the same whether its disks are mounted or copied.
            let task = note.backup.as_ref().map_or(note.task, |_| Task::Backup);
            (note.cause.name(), note.cause.words(task).to_owned())
        }
    }
}

impl Remains {
    fn of(file: &NoteFile, owner: Owner) -> Remains {
        let note = &file.note;
        let (happened, failure) = happened(note, owner);
        Remains {
            mountpoint: note.mountpoint.display().to_string(),
            mountpoint_bytes: bytes_beside_text(&note.mountpoint),
            phase: "left",
            happened,
            failure,
            read_only: note.direction == Direction::Download,
            disk_id: note.disk_id.clone(),
            disk_name: note.disk_name.clone(),
            transfer: note.transfer.clone(),
            backup: note
                .backup
                .as_ref()
                .map(|backup| backup.id.clone().unwrap_or_else(|| "unknown".to_owned())),
            engine_url: note.engine_url.clone(),
            recover: note.recover_line(),
            note: file.shown().to_string(),
        }
    }

    /// The names that tell it from others: the path of its note is free again when it has been recovered.
    pub(super) fn names(&self) -> [Option<String>; 3] {
        [
            Some(self.note.clone()),
            self.transfer.clone(),
            self.backup.clone(),
        ]
    }

    /// The same in lines for people, each without control characters.
    pub(super) fn text(&self) -> String {
        let mode = if self.read_only { "read-only" } else { "read-write" };
        let transfer = self.transfer.as_deref().unwrap_or("unknown");
        let lines = [
            self.mountpoint.clone(),
            format!("  phase        left ({mode}): {}", self.failure),
            match &self.backup {
                Some(_) => format!("  VM           {} ({})", self.disk_id, self.disk_name),
                None => format!("  disk         {} ({})", self.disk_id, self.disk_name),
            },
            match &self.backup {
                Some(id) => format!("  backup       {id} of {}", self.engine_url),
                None => format!("  transfer     {transfer} of {}", self.engine_url),
            },
            format!("  recover      {}", self.recover),
        ];
        lines.map(|line| plain(&line) + "\n").concat()
    }
}
