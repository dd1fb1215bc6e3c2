//! Names the one who has a disk that another mount wants: a mount of this user's, which its note names, and
//! which the engine confirms. Everybody else is the engine's to name (`engine::disks`).
//!
//! The engine gives a disk to one transfer at a time, whatever its direction (`diskImagesNotLocked`): a
//! second mount is refused at once, where nothing will end the first one by itself.

use tracing::info;

use super::cause::Cause;
use super::note::{Note, Owner};
use super::note_file::NoteFile;
use crate::engine::{self, Direction, Engine, Transfer};
use crate::failure::{Exit, Failure};
use crate::logging::plain;
use crate::settings::Task;
use crate::shell;

/// Looks for a mount that has the disk, or the disk snapshot, with this id; `read_only`: that is how it is
/// wanted. An error says why there is no use in waiting; a text says who has it, and will soon let go.
pub(super) fn look(
    engine: &Engine,
    id: &str,
    name: &str,
    read_only: bool,
) -> Result<Option<String>, Failure> {
    let about_it = |file: &NoteFile| file.note.engine_url == engine.url() && file.note.disk_id == id;
    for file in NoteFile::all(None).iter().filter(|file| about_it(file)) {
        // It is asked for a message only: a disk that is locked is waited for in any case.
        let found = match open_transfer(engine, &file.note) {
            Err(e @ engine::Error::Interrupted) => return Err(e.into()),
            found => found.unwrap_or_else(|e| {
                info!("who has the disk is not known: {e}");
                None
            }),
        };
        let Some(transfer) = found else {
            continue;
        };
        // The run has ended since the engine was asked; the lock is about to go.
        let Some(owner) = file.owner() else {
            continue;
        };
        if let Some(soon) = lets_go_soon(&file.note, owner) {
            return Ok(Some(soon));
        }
        let text = format!(
            "disk {id} ({name}) is locked by transfer {} ({}, {}): {}",
            transfer.id,
            transfer.direction,
            transfer.phase,
            held(&file.note, owner, read_only)
        );
        return Err(Failure::text(Exit::Transfer, plain(&text)));
    }
    Ok(None)
}

/// Returns the transfer that the mount has open, as the engine has it. A mount that is being started may not
/// know its own yet.
fn open_transfer(engine: &Engine, note: &Note) -> Result<Option<Transfer>, engine::Error> {
    let found = match &note.transfer {
        Some(id) => engine.transfer(id)?,
        None => {
            let mut open = engine.open_transfers(&note.disk_id)?;
            open.retain(|transfer| note.is_proven(transfer));
            open.pop()
        }
    };
    Ok(found.filter(Transfer::is_open))
}

/// Says who has the disk, where its transfer is about to end.
fn lets_go_soon(note: &Note, owner: Owner) -> Option<String> {
    let (shown, run) = (note.mountpoint.display(), note.run_shown());
    // The note's word is taken if nobody can tell, for as long as a lock is waited for.
    let says_so = match owner {
        Owner::AtWork | Owner::Elsewhere => note.is_ending(),
        Owner::Foreign | Owner::Unknown => note.cause == Cause::Ending,
        Owner::Gone | Owner::Busy => false,
    };
    match owner {
        _ if says_so && note.task != Task::Mount => Some(format!(
            "{}, {run}, is bringing the last data home",
            note.process_shown(owner)
        )),
        _ if says_so => Some(format!(
            "{}, which had it mounted on {shown}, is bringing the last data home",
            note.process_shown(owner)
        )),
        Owner::Busy => Some(format!(
            "what {run} has left is being recovered, or {} is about to be gone",
            note.process_shown(owner)
        )),
        _ => None,
    }
}

/// Says who has the disk, and what can be done.
fn held(note: &Note, owner: Owner, read_only: bool) -> String {
    let (shown, run) = (note.mountpoint.display(), note.run_shown());
    let one_at_a_time = match read_only && note.direction == Direction::Download {
        true => {
            "the engine gives a disk to one transfer at a time, also to read it. Read it there \
             (--allow-other lets other users do so), mount a snapshot of it (--disk-snapshot), or end that \
             mount"
        }
        false => "the engine gives a disk to one transfer at a time. Use it there, or end that mount",
    };
    match owner {
        Owner::AtWork | Owner::Elsewhere if note.task != Task::Mount => format!(
            "{run} has it ({}), and the engine gives a disk to one transfer at a time: wait until that copy \
             is over",
            note.process_shown(owner)
        ),
        Owner::AtWork => format!(
            "it is mounted on {shown} by process {} of this machine, and {one_at_a_time} with `rhv-mount \
             umount {}`",
            note.pid,
            shell::word(&note.mountpoint)
        ),
        Owner::Elsewhere => format!(
            "it is mounted on {shown} by {}, and {one_at_a_time} there",
            note.process_shown(owner)
        ),
        Owner::Foreign | Owner::Unknown => format!(
            "{} has it ({run}), and nothing here tells whether that is at work; if it is not, end \
             its transfer there, or with `{}`",
            note.process_shown(owner),
            note.recover_with("--finalize")
        ),
        Owner::Gone | Owner::Busy => format!(
            "{run} has left it: {}; end it with `{}`",
            note.cause.words(note.task),
            note.recover_line()
        ),
    }
}
