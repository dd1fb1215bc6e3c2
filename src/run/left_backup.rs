//! The end of a backup of a VM that a killed run has left. Its transfers have notes of their own, and end
//! before it.

use std::time::Duration;

use crate::engine::{BackupEnd, Engine, Interrupt};
use crate::failure::{Exit, Failure};
use crate::logging::plain;
use crate::output::{report, tell};
use crate::transfer::note::{Note, NotedBackup};
use crate::transfer::note_file::NoteFile;
use crate::transfer::unfinished::Removal;

/// How long the end is waited for once the engine is at it.
const PATIENCE: Duration = Duration::from_secs(600);

/// What a note is about, for people.
pub(super) fn shown(note: &Note, backup: &NotedBackup) -> String {
    plain(&format!(
        "backup {} of VM {} ({})",
        backup.id.as_deref().unwrap_or("(unknown)"),
        note.disk_id,
        note.disk_name
    ))
}

/// Ends the backup of a note that this process has claimed, and removes the files that are worth nothing.
pub(super) fn end(engine: &Engine, file: &NoteFile, backup: &NotedBackup) -> Result<(), Failure> {
    let note = &file.note;
    let (place, vm) = (note.mountpoint.display(), &note.disk_id);
    remove_files(note, backup);
    let id = match &backup.id {
        Some(id) => id.clone(),
        None => match engine.backup_with(vm, &backup.token)? {
            Some(found) => found.id,
            None => {
                report(format_args!("{place}: no backup was begun"));
                file.remove();
                return Ok(());
            }
        },
    };
    // It also has the snapshot, where the run was gone before it had heard of that.
    let seen = engine.backup(vm, &id)?;
    let snapshot = seen.and_then(|seen| seen.snapshot).or(backup.snapshot.clone());
    let ended = engine.finalize_backup(vm, &id, PATIENCE, &Interrupt::default())?;
    report(format_args!(
        "{place}: {}",
        match ended {
            BackupEnd::Succeeded => format!("backup {id} is ended"),
            BackupEnd::Going => format!("the engine is at the end of backup {id}, which needs nobody"),
            BackupEnd::Failed(why) => format!("backup {id} is over, and has failed: {why}"),
            BackupEnd::Forgotten => format!("backup {id} is over, and the engine has forgotten it"),
        }
    ));
    file.remove();
    match engine.left_by_backup(vm, &id, snapshot.as_deref()) {
        Some(left) => Err(Failure::text(Exit::Transfer, left)),
        None => Ok(()),
    }
}

/// Removes the files that no manifest names, as the run was killed before it wrote that.
fn remove_files(note: &Note, backup: &NotedBackup) {
    let shown = note.mountpoint.display();
    if backup.manifest.exists() {
        return;
    }
    for file in &backup.files {
        let path = file.path.display();
        match file.remove() {
            Removal::Removed => report(format_args!(
                "{shown}: {path} is removed: its backup has no manifest"
            )),
            Removal::Gone => {}
            Removal::Left(why) => tell(format_args!(
                "{shown}: {path} is not removed, and its backup has no manifest: {why}"
            )),
        }
    }
}
