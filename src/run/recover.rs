//! `rhv-mount recover`: ends the transfers that killed or failed mounts have left. Nothing is deleted unless
//! `--cancel` asks for it, and then only a disk that was made for that mount. A mount that may be in use is
//! left alone: see [`Note::owner`].
//!
//! It tells first what it found and what it will do. An engine that can't be logged in to is skipped, and the
//! others' transfers are ended; the exit code tells.

use std::path::Path;

use super::claim::{claim, remove_dead_mount};
use super::forget::forget;
use super::left_backup;
use super::left_behind::{Cost, Left, asked_for, cost, left};
use super::remains::happened;
use super::sessions::Sessions;
use crate::engine::{Direction, Engine, Interrupt, Patience, Phase, Transfer, is_uuid};
use crate::failure::{Exit, Failure};
use crate::logging::plain;
use crate::mount::mountpoint::canonical;
use crate::output::{report, tell};
use crate::settings::Task;
use crate::settings::cli::{EngineArgs, RecoverArgs};
use crate::transfer::head::{self, Danger};
use crate::transfer::note::{Cause, Note, Owner};
use crate::transfer::note_file::NoteFile;
use crate::transfer::unfinished::Removal;

/// Ends the transfers that `args` names, after it has told what it found and what it will do. The exit code
/// is that of the first failure.
pub(super) fn recover(args: &RecoverArgs) -> Result<u8, Failure> {
    let mut left = select(args.which.as_deref());
    // A backup ends after its transfers.
    left.sort_by_key(|file| file.note.backup.is_some());
    if left.is_empty() {
        match &args.which {
            Some(which) => report(format_args!(
                "nothing is left behind of a mount on {}",
                which.display()
            )),
            None => report("nothing is left behind"),
        }
        return Ok(Exit::Done as u8);
    }
    for file in &left {
        report(plan(file, args));
    }
    if let Some(option) = one_at_a_time(args).filter(|_| left.len() > 1) {
        let names: Vec<&str> = left.iter().map(|file| file.note.id()).collect();
        return Err(Failure::text(
            Exit::Usage,
            format!(
                "{option} is for one of them: name it instead of a mountpoint, by its transfer, or by its \
                 disk where no transfer is known: {}",
                names.join(", ")
            ),
        ));
    }
    let mut engines: Vec<&str> = left.iter().map(|file| file.note.engine_url.as_str()).collect();
    engines.sort_unstable();
    engines.dedup();
    // A password is for one engine.
    if args.engine.password_file.is_some() && args.engine.engine_url.is_none() && engines.len() > 1 {
        return Err(Failure::text(
            Exit::Usage,
            format!(
                "--password-file is for one engine, and these are of several: name it with --engine-url, one \
                 of {}",
                engines.join(", ")
            ),
        ));
    }
    let mut code = Exit::Done as u8;
    let mut sessions = Sessions::default();
    for mut file in left {
        let ended = match args.forget {
            true => forget(&mut file, args),
            false => end(&mut file, args, &mut sessions, None),
        };
        if let Err(failure) = ended {
            tell(&failure);
            code = if code == 0 { failure.exit as u8 } else { code };
        }
    }
    sessions.logout();
    Ok(code)
}

/// Ends what killed runs of one copy have left on this machine, and finds by `is_of_it`. Only what is surely
/// nobody's any more is ended, and as `recover` ends it where nothing else is said: the disk is kept. A disk
/// that was made for such a run, and whose transfer can't be finalized, goes as after a copy that failed
/// where `again` says that it is made again.
pub(super) fn recover_copy(
    engine: EngineArgs,
    again: Again,
    is_of_it: impl Fn(&Note) -> bool,
) -> Result<(), Failure> {
    let args = RecoverArgs {
        which: None,
        finalize: false,
        cancel: false,
        forget: false,
        engine,
    };
    let mut left = NoteFile::all(None);
    left.retain(|file| is_of_it(&file.note) && file.owner() == Owner::Gone);
    let mut sessions = Sessions::default();
    let ended = left.iter_mut().try_for_each(|file| {
        report(plan(file, &args));
        end(file, &args, &mut sessions, Some(again))
    });
    sessions.logout();
    ended
}

/// The same copy is about to be made again, and nobody has looked at what is left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Again {
    /// To a disk that it makes: what is left of that one may go.
    WithNewDisk,
    /// To or from a disk that is there.
    WithSameDisk,
}

/// The option by which the user vouches for what can't be seen. That is said of one transfer, and a
/// mountpoint may have been that of several disks.
fn one_at_a_time(args: &RecoverArgs) -> Option<&'static str> {
    match args.which {
        _ if args.forget => Some("--forget"),
        Some(_) if args.finalize => Some("--finalize"),
        Some(_) if args.cancel => Some("--cancel"),
        _ => None,
    }
}

/// Returns the notes of the mountpoint, the transfer or the disk `which`, or all that nobody is at work on.
fn select(which: Option<&Path>) -> Vec<NoteFile> {
    let mut all = NoteFile::all(None);
    let Some(which) = which else {
        // A mount at work has left nothing.
        all.retain(|file| !matches!(file.owner(), Owner::AtWork | Owner::Elsewhere));
        return all;
    };
    if let Some(id) = which.to_str().filter(|text| is_uuid(text)) {
        let is_it = |file: &NoteFile| {
            // The transfers of a backup end with it.
            let backup = file.note.of_backup.as_deref();
            file.note.id().eq_ignore_ascii_case(id)
                || backup.is_some_and(|backup| backup.eq_ignore_ascii_case(id))
        };
        // A message may have named the disk, while its transfer was being replaced.
        let is_of_it = |file: &NoteFile| file.note.disk_id.eq_ignore_ascii_case(id);
        let fits: [&dyn Fn(&NoteFile) -> bool; 2] = [&is_it, &is_of_it];
        if let Some(fits) = fits.into_iter().find(|fits| all.iter().any(fits)) {
            all.retain(fits);
            return all;
        }
    }
    let mountpoint = canonical(which).unwrap_or_else(|_| which.to_owned());
    all.retain(|file| is_on(&file.note, which, &mountpoint));
    // A mount at work, of another disk on the same path, is told of only where there is nothing else.
    let is_left = |file: &NoteFile| !matches!(file.owner(), Owner::AtWork | Owner::Elsewhere);
    if all.iter().any(is_left) {
        all.retain(is_left);
    }
    all
}

/// True for the note of the run on `mountpoint`, which the user has called `which`. The note of a copy has
/// the path of its image as that user has named it, a stream, or a disk.
fn is_on(note: &Note, which: &Path, mountpoint: &Path) -> bool {
    let path = &note.mountpoint;
    let is_copy = note.task != Task::Mount;
    path == mountpoint || is_copy && (path == which || canonical(path).is_ok_and(|path| path == mountpoint))
}

/// One line about what is left, and what will be done about it.
fn plan(file: &NoteFile, args: &RecoverArgs) -> String {
    let note = &file.note;
    let owner = file.owner();
    let (what, will) = match owner {
        Owner::AtWork | Owner::Elsewhere => (
            format!("{} serves it", note.process_shown(owner)),
            "it is left alone".to_owned(),
        ),
        _ => (happened(note, owner).1, will_do(note, owner, args)),
    };
    if let Some(backup) = &note.backup {
        return plain(&format!(
            "{}: {} of {}: {what}; {will}",
            note.mountpoint.display(),
            left_backup::shown(note, backup),
            note.engine_url
        ));
    }
    plain(&format!(
        "{}: transfer {} ({}) of disk {} ({}) of {}: {what}; {will}",
        note.mountpoint.display(),
        note.transfer.as_deref().unwrap_or("(unknown)"),
        note.direction,
        note.disk_id,
        note.disk_name,
        note.engine_url
    ))
}

fn will_do(note: &Note, owner: Owner, args: &RecoverArgs) -> String {
    let sure = owner == Owner::Gone || args.finalize || args.cancel || args.forget;
    let will = match (args.forget, cost(note, args.cancel)) {
        _ if !sure => "it is left alone without --finalize or --cancel",
        (true, _) => "its note will be dropped, and nothing else",
        (false, Cost::Nothing) if note.backup.is_some() => "it will be finalized",
        (false, Cost::Nothing) => "it will be finalized, and the disk kept",
        (false, Cost::DiskOfOurs) => "it will be cancelled, and the disk, which was made for it, removed",
        (false, Cost::DiskThatWasThere) => "it can't be cancelled without the loss of a disk that was there",
    };
    will.to_owned()
}

/// Ends the transfer of one note, which nobody has named where `again` is something.
fn end(
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
    if let Some(backup) = &note.backup {
        return left_backup::end(engine, file, backup);
    }
    remove_dead_mount(note)?;
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
            if !(sure || args.finalize) {
                return Err(Failure::text(
                    Exit::Transfer,
                    format!(
                        "{shown}: the mount was gone before it knew its transfer, so this one{} may be \
                         somebody else's: if it is not, end it with --finalize",
                        match is_marked {
                            true => ", which has the mark of its request,",
                            false => ", which does not have the mark of its request,",
                        }
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
    let at_all_costs = args.finalize && note.cause == Cause::HeadUnseen;
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
    engine.finalize(&transfer.id, note.disk_to_check(), &Interrupt::default())?;
    report(format_args!("{shown}: finalized; {disk} is free{}", doubt(note)));
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
