//! The right to end what a mount has left: its note becomes this process's, unless the mount may be in use.

use super::left_behind::clear_place;
use crate::failure::{Exit, Failure};
use crate::mount::control;
use crate::mount::mount_table::{is_dead, is_mounted};
use crate::mount::mountpoint::take_out;
use crate::mount::record::Place;
use crate::output::report;
use crate::process::runtime_directory;
use crate::settings::cli::RecoverArgs;
use crate::shell;
use crate::transfer::note::{Note, Owner};
use crate::transfer::note_file::NoteFile;

/// Makes this process the owner of the note, unless the mount may be in use. False when there is nothing left
/// to end.
pub(super) fn claim(file: &mut NoteFile, args: &RecoverArgs) -> Result<bool, Failure> {
    let owner = file.claim().map_err(|e| {
        let text = format!("the note of a mount, {}, cannot be used: {e}", file.shown());
        Failure::text(Exit::Other, text)
    })?;
    let note = &file.note;
    let mountpoint = &note.mountpoint;
    let shown = mountpoint.display();
    let umount = format!("`rhv-mount umount {}`", shell::word(mountpoint));
    let process = || owner.map_or_else(String::new, |owner| note.process_shown(owner));
    let why = match owner {
        None => {
            report(format_args!(
                "{shown}: it has ended meanwhile, and nothing is left to do"
            ));
            return Ok(false);
        }
        Some(Owner::Gone | Owner::Unknown) if serves(note) => {
            format!("{shown} is served by a process that answers; end it with {umount}")
        }
        Some(Owner::Gone) => return Ok(true),
        Some(Owner::Unknown) if args.vouches() => return Ok(true),
        Some(Owner::Unknown | Owner::Foreign) if args.forget => return Ok(true),
        Some(Owner::AtWork) => {
            format!("{shown} is served by {}; end it with {umount}", process())
        }
        Some(Owner::Elsewhere) => format!(
            "{shown} is served by {}, or is being recovered there; end it there with {umount}",
            process()
        ),
        Some(Owner::Busy) => format!(
            "{shown} is being recovered by another `rhv-mount recover`, or {}, which served it, is not gone \
             yet; try again later",
            process()
        ),
        Some(Owner::Foreign) => format!(
            "{shown} was mounted on {}: only there it is known whether it is still in use",
            note.machine
        ),
        Some(Owner::Unknown) => format!(
            "it is not known whether {shown} is served by {}: nothing on the file system of {} tells; if it \
             is not, end it with `{}`, or remove a disk that was made for it with `{}`",
            process(),
            file.shown(),
            note.recover_with("--finalize"),
            note.recover_with("--cancel")
        ),
    };
    Err(Failure::text(Exit::Mount, why))
}

/// True when the process that listens at the mountpoint's place has the transfer or the backup of the note. A
/// lock says the same, unless somebody has replaced the file that it is on.
fn serves(note: &Note) -> bool {
    let place = runtime_directory::directory().map(|directory| Place::of(&directory, &note.mountpoint));
    let status = place.and_then(|place| control::ask_status(&place));
    let backup = note.backup.as_ref().and_then(|backup| backup.id.as_deref());
    status.is_ok_and(|status| {
        let has_transfer = |id: &String| status.has_transfer(id);
        note.transfer.as_ref().is_some_and(has_transfer) || backup.is_some_and(|id| status.has_backup(id))
    })
}

/// Removes what a killed mount left in the tree, and its record.
pub(super) fn remove_dead_mount(note: &Note) -> Result<(), Failure> {
    if is_mounted(&note.mountpoint) && is_dead(&note.mountpoint) {
        take_out(&note.mountpoint, true)?;
        report(format_args!(
            "{}: the dead mount is removed",
            note.mountpoint.display()
        ));
    }
    if let Ok(directory) = runtime_directory::directory() {
        clear_place(&Place::of(&directory, &note.mountpoint), note);
    }
    Ok(())
}
