//! `rhv-mount recover`: ends the transfers that killed or failed mounts have left. Nothing is deleted unless
//! `--cancel` asks for it, and then only a disk that was made for that mount. A mount that may be in use is
//! left alone: see [`Note::owner`].
//!
//! It tells first what it found and what it will do. An engine that can't be logged in to is skipped, and the
//! others' transfers are ended; the exit code tells.

use std::path::Path;

use super::end_left::{Again, end};
use super::forget::forget;
use super::left_backup;
use super::left_behind::{Cost, cost};
use super::remains::happened;
use super::sessions::Sessions;
use crate::engine::is_uuid;
use crate::failure::{Exit, Failure};
use crate::logging::plain;
use crate::mount::mountpoint::canonical;
use crate::output::{report, tell};
use crate::settings::Task;
use crate::settings::cli::{EngineArgs, RecoverArgs};
use crate::transfer::note::{Note, Owner};
use crate::transfer::note_file::NoteFile;

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
    let engines = engines_of(&left);
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
    let mut sessions = Sessions::with(engines.len());
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
    left.retain(|file| is_of_it(&file.note) && file.owner() == Some(Owner::Gone));
    let mut sessions = Sessions::with(engines_of(&left).len());
    let ended = left.iter_mut().try_for_each(|file| {
        report(plan(file, &args));
        end(file, &args, &mut sessions, Some(again))
    });
    sessions.logout();
    ended
}

/// Returns the engines of the notes, each once.
fn engines_of(left: &[NoteFile]) -> Vec<String> {
    let mut engines: Vec<String> = left.iter().map(|file| file.note.engine_url.clone()).collect();
    engines.sort_unstable();
    engines.dedup();
    engines
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
        all.retain(NoteFile::is_left);
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
    if all.iter().any(NoteFile::is_left) {
        all.retain(NoteFile::is_left);
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
        None => (
            "it has ended meanwhile".to_owned(),
            "nothing is left to do".to_owned(),
        ),
        Some(owner @ (Owner::AtWork | Owner::Elsewhere)) => (
            format!("{} serves it", note.process_shown(owner)),
            "it is left alone".to_owned(),
        ),
        Some(owner) => (happened(note, owner).1, will_do(note, owner, args)),
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
    let sure = owner == Owner::Gone || args.vouches() || args.forget;
    let will = match (args.forget, cost(note, args.cancel)) {
        _ if !sure => "it is left alone unless it is named, with --finalize or --cancel",
        (true, _) => "its note will be dropped, and nothing else",
        (false, Cost::Nothing) if note.backup.is_some() => "it will be finalized",
        (false, Cost::Nothing) => "it will be finalized, and the disk kept",
        (false, Cost::DiskOfOurs) => "it will be cancelled, and the disk, which was made for it, removed",
        (false, Cost::DiskThatWasThere) => "it can't be cancelled without the loss of a disk that was there",
    };
    will.to_owned()
}
