//! `rhv-mount recover --forget`: drops the note of an engine that is gone for good. Nothing is asked of the
//! engine, so the message says what stays as it was there.

use super::claim::{claim, remove_dead_mount};
use super::left_backup;
use crate::engine::Direction;
use crate::failure::Failure;
use crate::logging::plain;
use crate::output::tell;
use crate::settings::cli::RecoverArgs;
use crate::transfer::note_file::NoteFile;

/// Drops a note, and ends nothing: its engine is gone for good.
pub(super) fn forget(file: &mut NoteFile, args: &RecoverArgs) -> Result<(), Failure> {
    if !claim(file, args)? {
        return Ok(());
    }
    let note = &file.note;
    remove_dead_mount(note)?;
    if let Some(backup) = &note.backup {
        let text = format!(
            "WARNING: {}: the note of it is dropped, and nothing was ended: if the engine {} still exists, \
             {} is as it was: finalize it there (POST /ovirt-engine/api/vms/{}/backups/ID/finalize)",
            note.mountpoint.display(),
            note.engine_url,
            left_backup::shown(note, backup),
            note.disk_id
        );
        file.remove();
        tell(plain(&text));
        return Ok(());
    }
    let kept = match note.snapshot {
        true => format!("disk snapshot {} stays locked there", note.disk_id),
        false => format!(
            "disk {} ({}){} stays locked there",
            note.disk_id,
            note.disk_name,
            match note.created {
                true => ", which was made for that mount,",
                false => "",
            }
        ),
    };
    let (action, danger) = match note.direction {
        Direction::Upload => (
            "finalize",
            "; do NOT cancel it there: that removes the disk with its data",
        ),
        Direction::Download => ("finalize or cancel", ""),
    };
    file.remove();
    tell(plain(&format!(
        "WARNING: {}: the note of it is dropped, and nothing was ended: if the engine {} still exists, \
         transfer {} ({}) is as it was, and {kept} until that has ended. There, {action} the transfer (POST \
         /ovirt-engine/api/imagetransfers/ID/finalize){danger}; where the engine has lost it, its \
         administrator unlocks the disk (unlock_entity.sh -t disk {})",
        note.mountpoint.display(),
        note.engine_url,
        note.transfer.as_deref().unwrap_or("(its id is not known)"),
        note.direction,
        note.disk_id
    )));
    Ok(())
}
