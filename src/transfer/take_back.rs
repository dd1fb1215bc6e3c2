//! The way back from a start that has failed: the transfer is ended, or sought where its start got no answer,
//! and a disk that was made is removed. What can't be undone is left to `recover`.
//!
//! [`acquire`](super::acquire) calls it before any data has moved; the note says what there is to undo.

use super::cause::Cause;
use super::head::{self, Danger};
use super::note::Note;
use super::note_file::NoteFile;
use crate::engine::{self, Engine, Interrupt, Transfer};
use crate::failure::Failure;
use crate::logging::plain;
use crate::settings::EngineSource;

/// Nothing was written: frees the disk, or removes it where it was made here. Where it is not known what the
/// engine has done, the note stays, for `recover`. `is_there`: the engine has shown the disk.
pub(super) fn take_back(
    engine: &Engine,
    file: &mut NoteFile,
    is_there: bool,
    source: &EngineSource,
    failure: Failure,
) -> Failure {
    let engine = engine.uninterrupted();
    if file.note.created && file.note.id_given {
        engine.logout();
        file.amend(|note| note.cause = Cause::NotRemoved);
        let text = format!(
            "{failure}; a disk {} that is in the engine now may be this one or another's, so it is left \
             alone: look at it there, and remove it if it is empty; `{}` tells of it",
            file.note.disk_id,
            file.note.recover_line()
        );
        return Failure::text(failure.exit, plain(&text));
    }
    let remove = file.note.created && !source.keep_on_failure;
    let found = find_ours(&engine, file, remove);
    let Err(e) = found.and_then(|()| undo(&engine, &file.note, is_there, remove)) else {
        file.remove();
        engine.logout();
        return failure;
    };
    file.amend(|note| {
        note.cause = match (&e, remove) {
            (NotUndone::Head(danger), _) => danger.cause(),
            (NotUndone::Failed(_), true) => Cause::NotRemoved,
            (NotUndone::Failed(_), false) => Cause::StartFailed,
        };
    });
    let note = &file.note;
    let over = |id: &String| engine.transfer(id).is_ok_and(|t| t.is_none_or(|t| !t.is_open()));
    let text = match e {
        NotUndone::Head(danger) => {
            let left = head::leave(&engine, note, note.id(), &danger);
            format!("{failure}; and {left}")
        }
        NotUndone::Failed(e) if !remove && note.transfer.as_ref().is_some_and(over) => {
            file.remove();
            format!("{failure}; {e}: look at disk {} in the engine", note.disk_id)
        }
        NotUndone::Failed(e) => format!(
            "{failure}; and what was begun is not taken back: {e}; {}",
            file.remedy("does it")
        ),
    };
    Failure::text(failure.exit, text)
}

/// The reason why what was begun stays as it is.
enum NotUndone {
    Failed(engine::Error),
    /// The engine might remove a disk that is to stay.
    Head(Danger),
}

impl From<engine::Error> for NotUndone {
    fn from(error: engine::Error) -> Self {
        NotUndone::Failed(error)
    }
}

/// Looks for the transfer whose start got no answer.
fn find_ours(engine: &Engine, file: &mut NoteFile, remove: bool) -> Result<(), NotUndone> {
    if file.note.transfer.is_some() || !file.note.asked {
        return Ok(());
    }
    let open = engine.open_transfers(&file.note.disk_id)?;
    match open.iter().find(|t| file.note.is_proven(t)) {
        Some(ours) => {
            file.note.transfer = Some(ours.id.clone());
            // It only helps `recover`, which also finds the transfer without it.
            let _ = file.update();
        }
        // A disk that was made here goes, and with it the start, if that is still to come.
        None if remove => {}
        None => return Err(engine::Error::Failed(not_found(&open)).into()),
    }
    Ok(())
}

/// Ends the transfer, and with `remove` the disk.
fn undo(engine: &Engine, note: &Note, is_there: bool, remove: bool) -> Result<(), NotUndone> {
    match (&note.transfer, remove) {
        (Some(id), true) => engine.discard(id, &note.disk_id)?,
        (Some(id), false) => {
            let found = engine.transfer(id)?;
            let danger = found.map(|transfer| head::in_the_way(engine, note, &transfer, false));
            if let Some(danger) = danger.transpose()?.flatten() {
                return Err(NotUndone::Head(danger));
            }
            let disk = note.disk_to_check();
            engine.finalize(id, disk, &Interrupt::default())?;
        }
        (None, true) => match engine.disk(&note.disk_id)? {
            Some(disk) => engine.remove_disk(&disk.id)?,
            // The engine removes the disk of an upload that it could not start.
            None if is_there => {}
            None => {
                let text = format!("disk {} may appear yet", note.disk_id);
                return Err(engine::Error::Failed(text).into());
            }
        },
        (None, false) => {}
    }
    Ok(())
}

/// Says what is known about a start that got no answer, where none of the `open` transfers of the disk is
/// proven to be ours.
fn not_found(open: &[Transfer]) -> String {
    let unknown = "it is not known whether a transfer was started";
    match open.first() {
        Some(other) => format!(
            "{unknown}; transfer {} ({}, {}) has the disk, but not the mark of this one's request, so it is \
             left alone",
            other.id, other.direction, other.phase
        ),
        None => unknown.to_owned(),
    }
}
