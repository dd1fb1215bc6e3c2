//! `rhv-mount umount`: asks the process that serves a mount to end it, and waits for the outcome. Where that
//! process was killed, it removes what is left in the tree and says what that means for the data.

use std::io;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::unistd::{Uid, geteuid};

use crate::failure::{Exit, Failure};
use crate::fuse::{MountError, abort};
use crate::mount::control;
use crate::mount::holders::holders;
use crate::mount::mount_table::{is_dead, is_mounted, is_on_top, mounted_by};
use crate::mount::mountpoint::{canonical, remove_placeholder, take_out};
use crate::mount::record::{Ending, Place, Record};
use crate::mount::umount_table::Line;
use crate::output::{tell, tell_plainly};
use crate::process::identity::DYING_LIMIT;
use crate::process::runtime_directory;
use crate::settings::Task;
use crate::shell;
use crate::transfer::cause::Cause;
use crate::transfer::note::Owner;
use crate::transfer::note_file::NoteFile;

/// How a mount leaves the tree, before its end is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Manner {
    /// Not while a program uses it.
    InOrder,
    /// At once (`umount -l`). A program that has the file open then is not waited for, and not an error.
    Lazy,
    /// Like `InOrder`, but the requests that are under way fail (`umount -f`).
    Force,
}

/// Ends the mount on `path` and waits for the outcome, which is the exit code.
pub(super) fn umount(path: &Path, manner: Manner) -> Result<u8, Failure> {
    let shown = path.display();
    let not_mounted = || {
        let left = canonical(path).map(|path| NoteFile::all(Some(&path)));
        let left = left.unwrap_or_default();
        let hint = match left.iter().find(|file| file.owner() == Some(Owner::Gone)) {
            Some(file) => format!(
                "; a mount there has left its transfer: {}; end it with `{}`",
                file.note.cause.words(file.note.task),
                file.note.recover_line()
            ),
            None => String::new(),
        };
        Failure::text(
            Exit::Mount,
            format!("no rhv-mount disk is mounted on {shown}{hint}"),
        )
    };
    // The path of the disk names the mount as well as its directory does.
    let whole = std::path::absolute(path).map(|path| path.components().collect::<PathBuf>());
    let path = match whole {
        // A look at a mount whose process is stuck would be stuck too.
        Ok(path) if is_mounted(&path) => path,
        Ok(path) if path.parent().is_some_and(is_mounted) => path.parent().unwrap_or(&path).to_owned(),
        _ => canonical(path).map_err(|_| not_mounted())?,
    };
    let path = match path.parent() {
        Some(parent) if !is_mounted(&path) && is_mounted(parent) => parent.to_owned(),
        _ => path,
    };
    let owner = mounted_by(&path).map(Uid::from_raw).or_else(|| served_by(&path));
    let user = owner.unwrap_or_else(geteuid);
    if user != geteuid() && !geteuid().is_root() {
        return Err(Failure::text(
            Exit::Mount,
            format!("{shown} was mounted by user {user}, who can unmount it, or root"),
        ));
    }
    let directory = runtime_directory::directory_of(user).map_err(|e| match owner {
        Some(_) => Failure::text(
            Exit::Mount,
            format!("cannot look for the process of {shown}: {e}"),
        ),
        None => not_mounted(),
    })?;
    let place = Place::of(&directory, &path);
    // A `recover` may remove it while this one asks.
    let record = place.record();
    let still = || {
        tell(format_args!(
            "{shown} is on its way to the storage; see `rhv-mount status`"
        ))
    };
    match manner {
        Manner::InOrder => {}
        Manner::Lazy => detach(&path)?,
        Manner::Force if is_on_top(&path) => abort(&path),
        Manner::Force => {}
    }
    let error = match control::ask_umount(&place, still) {
        Ok(Some(mut ending)) => {
            // A refusal is no outcome, and has no mountpoint. A bad outcome was kept in case that nobody
            // hears it.
            if ending.detached {
                ending.notes.push(control::process_of(&place).ends_all_the_same());
            }
            if ending.mountpoint.is_some() {
                let earlier = place.take_earlier_than(Some(&ending));
                ending.notes.extend(earlier);
            }
            return match hear(&ending) {
                _ if manner == Manner::Lazy && ending.mountpoint.is_none() => Ok(Exit::Done as u8),
                code => Ok(code),
            };
        }
        Ok(None) if !has_ended(&path, &place) && place.stays_served() => {
            return Err(Failure::text(
                Exit::Mount,
                format!("the process that serves {shown} has not heard the question; try again"),
            ));
        }
        // It had ended in order before it could read the question.
        Ok(None) if has_ended(&path, &place) && !was_killed_on(&path) => {
            return Ok(place
                .take_ending()
                .map_or(Exit::Done as u8, |ending| hear(&ending)));
        }
        Ok(None) => return clear_up(&path, &place, record),
        Err(e) if control::is_silent(&e) => {
            let server = control::process_of(&place);
            return Err(Failure::text(
                Exit::DataLoss,
                format!(
                    "the process that serves {shown} does not answer, not even with its status ({}): what \
                     was written since the last fsync may not be on the storage. It ends as soon as it goes \
                     on; {}",
                    server.why_silent(),
                    server.gives_up()
                ),
            ));
        }
        Err(e) => e,
    };
    if let Some(ending) = place.take_ending() {
        return Ok(hear(&ending));
    }
    if owner.is_none() {
        return Err(not_mounted());
    }
    // A process that ends in order removes its socket before it stops to listen there.
    let was_killed = error.kind() == io::ErrorKind::ConnectionRefused;
    if !was_killed && has_ended(&path, &place) {
        return match was_killed_on(&path) {
            true => clear_up(&path, &place, record),
            false => Ok(Exit::Done as u8),
        };
    }
    if !dies(&path, &error) {
        return Err(Failure::text(
            Exit::Mount,
            format!(
                "the process that serves {shown} cannot be asked over its socket {}: {error}; unmount with \
                 `fusermount3 -u {}`, and wait until that process has ended",
                place.socket().display(),
                shell::word(&path)
            ),
        ));
    }
    clear_up(&path, &place, record)
}

/// True when the mount on `path` is gone, and its process has taken its record and its socket away, as it
/// does at the end. Somebody else may have removed the record alone: /tmp is cleaned of old files.
fn has_ended(path: &Path, place: &Place) -> bool {
    let socket = place.socket().symlink_metadata();
    let is_gone = socket.is_err_and(|e| e.kind() == io::ErrorKind::NotFound);
    !is_mounted(path) && place.record().is_none() && is_gone
}

/// True where the note of a mount on `path` is left, whose process was killed: another `umount` may have been
/// the first to clear up after it.
fn was_killed_on(path: &Path) -> bool {
    let is_it = |file: &NoteFile| {
        let note = &file.note;
        note.task == Task::Mount
            && matches!(note.cause, Cause::Killed | Cause::Ending)
            && file.owner() == Some(Owner::Gone)
    };
    NoteFile::all(Some(path)).iter().any(is_it)
}

/// Returns the user whose process serves a mount that is out of the tree, where that is not this user.
fn served_by(path: &Path) -> Option<Uid> {
    let served = |directory: &Path| Place::of(directory, path).is_served();
    // This user's own comes first.
    let mut all = runtime_directory::directories().into_iter();
    let found = all.find(|(_, directory)| served(directory));
    found.map(|(user, _)| user).filter(|user| *user != geteuid())
}

/// True when the mount on `path` is dead, or about to be: a killed process, at whose socket nobody listens
/// any more, takes a moment to let go of its files. Somebody may have taken its mount out of the tree by now.
fn dies(path: &Path, error: &io::Error) -> bool {
    let was_killed = error.kind() == io::ErrorKind::ConnectionRefused;
    let limit = if was_killed { DYING_LIMIT } else { Duration::ZERO };
    let until = Instant::now() + limit;
    loop {
        if is_dead(path) || was_killed && !is_mounted(path) {
            return true;
        }
        if Instant::now() >= until {
            return false;
        }
        sleep(Duration::from_millis(20));
    }
}

/// Takes a mount of ours out of the tree, where there is one, and nothing that is mounted over it.
fn detach(path: &Path) -> Result<(), MountError> {
    match is_mounted(path) {
        false => Ok(()),
        true if is_on_top(path) => take_out(path, true),
        true => Err(MountError::Covered {
            path: path.to_owned(),
        }),
    }
}

/// Removes what a process left that was killed before or while it was asked, and says what that means. `seen`
/// is the record as it was before.
fn clear_up(path: &Path, place: &Place, seen: Option<Record>) -> Result<u8, Failure> {
    detach(path)?;
    let record = seen.or_else(|| place.record());
    place.take_earlier_than(None).iter().for_each(tell);
    // A later mount may have the place by now.
    if !place.is_served() {
        place.clear();
    }
    drop(Line::left(path));
    if record.as_ref().is_some_and(|r| r.created) {
        remove_placeholder(path);
    }
    let notes = NoteFile::all(Some(path));
    let lines: Vec<String> = notes
        .iter()
        .map(|file| format!("`{}`", file.note.recover_line()))
        .collect();
    let recover = lines.join(" and ");
    match record {
        Some(record) if record.read_only && !recover.is_empty() => Err(Failure::text(
            Exit::Transfer,
            format!(
                "the process that served {} was gone; the dead mount is removed, and its transfer holds the \
                 disk: end it with {recover}",
                path.display()
            ),
        )),
        Some(record) if record.read_only => Ok(Exit::Done as u8),
        _ => Err(Failure::text(
            Exit::DataLoss,
            format!(
                "the process that served {} was gone; the dead mount is removed, but what was written \
                 since the last fsync may be lost: {}write the image again",
                path.display(),
                match recover.as_str() {
                    "" => String::new(),
                    recover => format!("end its transfer with {recover}, and "),
                }
            ),
        )),
    }
}

fn hear(ending: &Ending) -> u8 {
    let holders: Vec<String> = ending.held.map(holders).unwrap_or_default();
    let texts = ending.message.iter().chain(&ending.notes).chain(&holders);
    let words = texts.map(|text| format!("rhv-mount: {text}"));
    for line in ending.stats.iter().cloned().chain(words) {
        // The words of another user's process must not steer root's terminal.
        tell_plainly(line.replace(char::is_control, " "));
    }
    ending.code
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A `recover` or another `umount` may be the first to clear its place.
    #[test]
    fn a_dead_mount_that_another_one_clears_up_lost_no_more_than_its_record_tells() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("mnt");
        let place = Place::of(dir.path(), &path);
        let record = |read_only| Record {
            mountpoint: path.clone(),
            file: None,
            pid: 1,
            namespace: String::new(),
            created: false,
            read_only,
        };
        for read_only in [true, false] {
            let cleared = clear_up(&path, &place, Some(record(read_only)));
            let code = cleared.unwrap_or_else(|failure| failure.exit as u8);
            assert_eq!(code == Exit::Done as u8, read_only, "{code}");
        }
        let refused = io::Error::from(io::ErrorKind::ConnectionRefused);
        assert!(dies(&path, &refused), "nobody waits for what is gone");
        let denied = io::Error::from(io::ErrorKind::PermissionDenied);
        assert!(!dies(&path, &denied), "its process may be at work");
    }
}
