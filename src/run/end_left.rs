//! The end of one transfer that a killed or failed run has left: it is finalized, or cancelled where that
//! costs only a disk that was made for it, and what is not known about the disk then is told. One that has
//! ended without us is looked for by its disk.

use super::claim::{claim, remove_dead_mount};
use super::left_backup;
use super::left_behind::{Cost, Left, asked_for, cost, left};
use super::sessions::Sessions;
use crate::engine::{Direction, Engine, Interrupt, Patience, Phase, Transfer};
use crate::failure::{Exit, Failure};
use crate::logging::plain;
use crate::output::{report, tell};
use crate::settings::Task;
use crate::settings::cli::RecoverArgs;
use crate::transfer::cause::Cause;
use crate::transfer::head::{self, Danger};
use crate::transfer::note::Note;
use crate::transfer::note_file::NoteFile;
use crate::transfer::unfinished::Removal;

/// The same copy is about to be made again, and nobody has looked at what is left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Again {
    /// To a disk that it makes: what is left of that one may go.
    WithNewDisk,
    /// To or from a disk that is there.
    WithSameDisk,
}

/// Ends the transfer of one note, which nobody has named where `again` is something.
pub(super) fn end(
    file: &mut NoteFile,
    args: &RecoverArgs,
    sessions: &mut Sessions,
    again: Option<Again>,
) -> Result<(), Failure> {
    if !claim(file, args)? {
        return Ok(());
    }
    let note = &file.note;
    let shown = note.mountpoint.display();
    remove_unfinished(note);
    let disk = plain(&format!("disk {} ({})", note.disk_id, note.disk_name));
    let destructive = match cost(note, args.cancel) {
        Cost::Nothing => false,
        Cost::DiskOfOurs => true,
        Cost::DiskThatWasThere => {
            return Err(Failure::text(
                Exit::Usage,
                format!(
                    "{disk} was there before it was mounted on {shown}, and cancelling its upload would \
                     delete it: use --finalize"
                ),
            ));
        }
    };
    let engine = sessions.of(note, args)?;
    if note.task == Task::Mount || note.backup.is_none() {
        remove_dead_mount(note)?;
    }
    if let Some(backup) = &note.backup {
        return left_backup::end(engine, file, backup);
    }
    match find(engine, note)? {
        Found::Open(transfer, sure) => {
            report(format_args!(
                "{shown}: transfer {} ({}, {}) of {disk} on host {}",
                transfer.id,
                transfer.direction,
                transfer.phase,
                transfer.host.as_deref().unwrap_or("unknown")
            ));
            let is_marked = transfer.is_of(note.direction, note.mark);
            // Somebody else may have begun to write to a disk that was made for it.
            let sure = sure && (again.is_none() || note.transfer.is_some() || is_marked);
            if !(sure || args.vouches_for_finalize()) {
                return Err(Failure::text(
                    Exit::Transfer,
                    format!(
                        "{shown}: the mount was gone before it knew its transfer, so this one{} may be \
                         somebody else's: if it is not, end it with `{}`",
                        match is_marked {
                            true => ", which has the mark of its request,",
                            false => ", which does not have the mark of its request,",
                        },
                        note.recover_with("--finalize")
                    ),
                ));
            }
            end_transfer(engine, file, &transfer, &disk, destructive, args, again)?;
        }
        Found::Ended(phase) => ended(engine, file, &disk, phase, destructive)?,
    }
    file.remove();
    Ok(())
}

/// Removes the image that a killed download has not finished. It is no reason to fail where it stays.
fn remove_unfinished(note: &Note) {
    let Some(image) = &note.unfinished else { return };
    let (shown, path) = (note.mountpoint.display(), image.path.display());
    match image.remove() {
        Removal::Removed => report(format_args!("{shown}: the unfinished image {path} is removed")),
        Removal::Gone => {}
        Removal::Left(why) => tell(format_args!(
            "{shown}: the unfinished image {path} is not removed: {why}"
        )),
    }
}

fn end_transfer(
    engine: &Engine,
    file: &mut NoteFile,
    transfer: &Transfer,
    disk: &str,
    destructive: bool,
    args: &RecoverArgs,
    again: Option<Again>,
) -> Result<(), Failure> {
    let note = &file.note;
    let shown = note.mountpoint.display().to_string();
    if destructive {
        return discard(engine, note, transfer, disk);
    }
    // Messages also name --finalize for a mount that may be alive, or a transfer that may be somebody else's.
    // It vouches for the head only after a message that has told of it.
    let at_all_costs = args.vouches_for_finalize() && note.cause == Cause::HeadUnseen;
    if let Some(danger) = head::in_the_way(engine, note, transfer, at_all_costs)? {
        if again == Some(Again::WithNewDisk) && cost(note, true) == Cost::DiskOfOurs {
            return discard(engine, note, transfer, disk);
        }
        file.amend(|note| {
            note.cause = danger.cause();
            if let Danger::Like(format) = &danger {
                note.head = Some(format.clone());
            }
        });
        return Err(Failure::text(
            Exit::DataLoss,
            format!(
                "{shown}: transfer {} of {disk} is not finalized: {}",
                transfer.id,
                head::way_out(&danger, &file.note)
            ),
        ));
    }
    let is_free = engine.finalize(&transfer.id, note.disk_to_check(), &Interrupt::default())?;
    let doubt = doubt(note);
    match is_free {
        true => report(format_args!("{shown}: finalized; {disk} is free{doubt}")),
        false => report(format_args!(
            "{shown}: finalized; {disk} is locked by something else{doubt}"
        )),
    }
    Ok(())
}

/// Cancels a transfer to a disk that was made for it; the engine removes the disk.
fn discard(engine: &Engine, note: &Note, transfer: &Transfer, disk: &str) -> Result<(), Failure> {
    engine.discard(&transfer.id, &note.disk_id)?;
    report(format_args!(
        "{}: cancelled; {disk} was made for this mount and is removed",
        note.mountpoint.display()
    ));
    Ok(())
}

/// Returns what is not known about the bytes of a mount that was killed, or that has lost some.
fn doubt(note: &Note) -> &'static str {
    match note.direction {
        Direction::Upload if !note.all_arrived && note.task == Task::Restore => {
            ". It is no whole copy: remove the disk in the engine, and restore it again"
        }
        Direction::Upload if !note.all_arrived => {
            ". Bytes written after the last fsync may be missing: write the image again if you are not sure"
        }
        Direction::Upload | Direction::Download => "",
    }
}

/// The note of a transfer in the engine.
enum Found {
    /// It holds its disk; false where it may be somebody else's.
    Open(Transfer, bool),
    /// It has ended in this phase, or the engine has forgotten it.
    Ended(Option<Phase>),
}

/// Finds the transfer by its id, or, where the mount was killed before it had one, by its disk.
fn find(engine: &Engine, note: &Note) -> Result<Found, Failure> {
    if let Some(id) = &note.transfer {
        return Ok(match engine.transfer(id)? {
            Some(transfer) if transfer.is_open() => Found::Open(transfer, true),
            Some(transfer) => Found::Ended(Some(transfer.phase)),
            None => Found::Ended(None),
        });
    }
    let never = Interrupt::default();
    let mut patience = Patience::new(left_backup::APPEARANCE_PATIENCE, &never);
    let found = loop {
        let found = asked_for(note, engine.open_transfers(&note.disk_id)?);
        // The engine may be at the request still, and the end of the backup waits for its transfer.
        let is_awaited = found.is_none() && note.of_backup.is_some() && note.asked;
        if !(is_awaited && patience.pause()?) {
            break found;
        }
    };
    Ok(match found {
        // The disk of a backup has no other transfer with its mark.
        Some(transfer) => {
            let sure = note.created || note.of_backup.is_some() && note.is_proven(&transfer);
            Found::Open(transfer, sure)
        }
        None => Found::Ended(None),
    })
}

/// The transfer has ended without us; what the disk is now decides.
fn ended(
    engine: &Engine,
    file: &NoteFile,
    disk: &str,
    phase: Option<Phase>,
    destructive: bool,
) -> Result<(), Failure> {
    let note = &file.note;
    let shown = note.mountpoint.display();
    if note.disk_to_check().is_none() {
        report(format_args!("{shown}: no transfer is open"));
        return Ok(());
    }
    let found = engine.disk(&note.disk_id)?;
    match left(
        note,
        phase.as_ref(),
        found.as_ref().map(|disk| disk.status.as_str()),
        destructive,
    ) {
        Left::Locked => Err(Failure::text(
            Exit::Transfer,
            format!(
                "{shown}: no transfer is open, and {disk} is locked by something else; try again when it is \
                 free"
            ),
        )),
        Left::ToRemove => {
            engine.remove_disk(&note.disk_id)?;
            report(format_args!(
                "{shown}: no transfer is open; {disk} was made for this mount and is removed"
            ));
            Ok(())
        }
        Left::EndedWell => {
            report(format_args!(
                "{shown}: the transfer has ended well; {disk} is kept, remove it in the engine if you don't \
                 want it"
            ));
            Ok(())
        }
        Left::MayBeOthers => {
            report(format_args!(
                "{shown}: no transfer is open; {disk} has the id that was given with --disk-id, and whether \
                 it was made for this mount is not known: it is kept, remove it in the engine if you don't \
                 want it"
            ));
            Ok(())
        }
        Left::Free => {
            report(format_args!(
                "{shown}: no transfer is open; {disk} is ok{}",
                doubt(note)
            ));
            Ok(())
        }
        Left::GoneAsAsked => {
            report(format_args!(
                "{shown}: no transfer is open, and {disk}, which was made for this mount, is not there"
            ));
            Ok(())
        }
        Left::Bad(other) => {
            // There is nothing left to end.
            file.remove();
            Err(Failure::text(
                Exit::Transfer,
                format!(
                    "{shown}: the transfer has ended badly, {disk} is {other}: restore it, or remove it in \
                     the engine"
                ),
            ))
        }
        Left::Gone => {
            // There is nothing left to end.
            file.remove();
            Err(Failure::text(
                Exit::Transfer,
                format!(
                    "{shown}: no transfer is open, and {disk} is gone from the engine {}",
                    engine.url()
                ),
            ))
        }
    }
}
