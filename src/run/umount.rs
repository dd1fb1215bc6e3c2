//! `rhv-mount umount` and `rhv-mount status`: the side that asks.

use std::path::Path;

use nix::unistd::{Uid, geteuid};

use crate::failure::{Exit, Failure};
use crate::fuse::unmount;
use crate::mount::control::{self, Status};
use crate::mount::mountpoint::{canonical, is_dead, is_mounted, mounted_by, remove_placeholder};
use crate::mount::record::{self, Ending, Place};
use crate::open_disk::DiskStatus;
use crate::process::runtime_directory;
use crate::settings::cli::Output;
use crate::transfer::note::NoteFile;

/// Ends the mount on `path` and waits for the outcome, which is the exit code.
pub(super) fn umount(path: &Path) -> Result<u8, Failure> {
    let shown = path.display();
    let not_mounted = || Failure::text(Exit::Mount, format!("no rhv-mount disk is mounted on {shown}"));
    // The disk itself is as good a name for a mount as its directory.
    let path = match std::path::absolute(path) {
        // Looking at a mount whose process is stuck would be stuck too.
        Ok(path) if is_mounted(&path) => path,
        Ok(path) if path.parent().is_some_and(is_mounted) => path.parent().unwrap_or(&path).to_owned(),
        _ => canonical(path).map_err(|_| not_mounted())?,
    };
    let path = match path.parent() {
        Some(parent) if !is_mounted(&path) && is_mounted(parent) => parent.to_owned(),
        _ => path,
    };
    let owner = mounted_by(&path).map(Uid::from_raw);
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
    let still = || eprintln!("rhv-mount: {shown} is on its way to the storage; see `rhv-mount status`");
    match control::ask_umount(&place, still) {
        Ok(Some(ending)) => return Ok(tell(&ending)),
        Ok(None) => return clear_up(&path, &place),
        Err(e) if control::is_silent(&e) => {
            let pid = place.record().map_or(0, |record| record.pid);
            return Err(Failure::text(
                Exit::DataLoss,
                format!(
                    "process {pid}, which serves {shown}, does not answer, not even with its status: what was written since \
                     the last fsync may not be on the storage. If it is stopped, `kill -CONT {pid}` lets it go on and end; \
                     `kill {pid}` twice makes it give up"
                ),
            ));
        }
        Err(_) => {}
    }
    if let Some(ending) = place.take_ending() {
        return Ok(tell(&ending));
    }
    if owner.is_none() {
        return Err(not_mounted());
    }
    if !is_dead(&path) {
        return Err(Failure::text(
            Exit::Mount,
            format!(
                "the process that serves {shown} cannot be asked, its socket {} is gone; unmount with \
                 `fusermount3 -u {shown}`, and wait until that process has ended",
                place.socket().display()
            ),
        ));
    }
    clear_up(&path, &place)
}

/// The process was killed, before or while it was asked: removes what it left, and says what that means.
fn clear_up(path: &Path, place: &Place) -> Result<u8, Failure> {
    if is_mounted(path) {
        unmount(path, true)?;
    }
    let record = place.record();
    place.clear();
    if record.as_ref().is_some_and(|r| r.created) {
        remove_placeholder(path);
    }
    let transfer = !NoteFile::all(Some(path)).is_empty();
    match record {
        Some(record) if record.read_only && transfer => Err(Failure::text(
            Exit::Transfer,
            format!(
                "the process that served {0} was gone; the dead mount is removed, and its transfer holds the disk: \
                 end it with `rhv-mount recover {0}`",
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
                match transfer {
                    true => format!(
                        "end its transfer with `rhv-mount recover {}`, and ",
                        path.display()
                    ),
                    false => String::new(),
                }
            ),
        )),
    }
}

fn tell(ending: &Ending) -> u8 {
    let words = ending
        .message
        .iter()
        .map(|message| format!("rhv-mount: {message}"));
    for line in ending.stats.iter().cloned().chain(words) {
        // What another user's process says must not steer root's terminal.
        eprintln!("{}", line.replace(char::is_control, " "));
    }
    ending.code
}

/// Prints what is mounted on `path`, or everything that is mounted.
pub(super) fn status(path: Option<&Path>, output: Output) -> Result<u8, Failure> {
    let wanted = match path {
        Some(path) => Some(
            canonical(path).map_err(|e| Failure::text(Exit::Mount, format!("{}: {e}", path.display())))?,
        ),
        None => None,
    };
    let places = runtime_directory::directories()
        .into_iter()
        .flat_map(|(user, dir)| record::places(&dir).into_iter().map(move |place| (user, place)));
    let mut all: Vec<Status> = places.filter_map(|(user, place)| look(user, &place)).collect();
    if let Some(wanted) = &wanted {
        all.retain(|status| Path::new(&status.mountpoint) == wanted || Path::new(&status.file) == wanted);
    }
    if let (Some(wanted), true) = (&wanted, all.is_empty()) {
        return Err(Failure::text(
            Exit::Mount,
            format!("no rhv-mount disk is mounted on {}", wanted.display()),
        ));
    }
    match output {
        Output::Json => {
            let json = match (&wanted, all.first()) {
                (Some(_), Some(one)) => serde_json::to_string_pretty(one),
                _ => serde_json::to_string_pretty(&all),
            };
            println!(
                "{}",
                plain_json(&json.map_err(|e| Failure::text(Exit::Other, e))?)
            );
        }
        Output::Text => {
            let all = all.iter().map(text).collect::<Vec<_>>().join("\n");
            // Names are the engine's, and another user's process may say anything.
            print!("{}", all.replace(|c: char| c.is_control() && c != '\n', " "));
        }
    }
    Ok(Exit::Done as u8)
}

/// A record whose process doesn't answer, and whose mount is still there, is a dead mount. One without a
/// mount is only a file that a killed process left.
fn look(user: Uid, place: &Place) -> Option<Status> {
    if let Ok(status) = control::ask_status(place) {
        return Some(status);
    }
    let record = place.record()?;
    if mounted_by(&record.mountpoint) != Some(user.as_raw()) {
        return None;
    }
    let mountpoint = record.mountpoint.display().to_string();
    let disk = DiskStatus {
        failure: Some(format!(
            "its process was killed; remove it with `rhv-mount umount {mountpoint}`"
        )),
        read_only: record.read_only,
        ..DiskStatus::default()
    };
    Some(Status {
        file: mountpoint.clone(),
        mountpoint,
        pid: record.pid,
        phase: "dead".to_owned(),
        disk,
    })
}

pub(super) fn text(status: &Status) -> String {
    let disk = &status.disk;
    let plain = |text: &str| text.replace(char::is_control, " ");
    let mode = if disk.read_only { "read-only" } else { "read-write" };
    let mut out = format!(
        "{}\n  phase        {} ({mode}, process {}, {} s)\n",
        plain(&status.mountpoint),
        plain(&status.phase),
        status.pid,
        disk.seconds
    );
    if status.phase != "dead" {
        out += &format!(
            "  file         {}, {} bytes of a disk of {}\n  host         {} over {}\n  \
             connections  {} ({} writing, {} replaced)\n  bytes        {} read, {} written, {} zeroed\n  \
             flushes      {}\n  errors       {}\n",
            plain(&status.file),
            disk.file_size,
            disk.disk_size,
            plain(&disk.host),
            plain(&disk.transport),
            disk.connections,
            disk.writers,
            disk.replaced,
            disk.bytes_read,
            disk.bytes_written,
            disk.bytes_zeroed,
            disk.flushes,
            disk.errors,
        );
    }
    if let (Some(id), Some(name)) = (&disk.disk_id, &disk.disk_name) {
        out += &format!("  disk         {} ({})\n", plain(id), plain(name));
    }
    if let (Some(id), Some(phase)) = (&disk.transfer, &disk.transfer_phase) {
        out += &format!("  transfer     {} ({})\n", plain(id), plain(phase));
    }
    if let Some(failure) = &disk.failure {
        out += &format!("  failure      {}\n", plain(failure));
    }
    out
}

/// Control characters are legal in JSON from DEL on; a terminal obeys them.
fn plain_json(json: &str) -> String {
    json.chars().fold(String::new(), |mut out, c| {
        match c.is_control() && c != '\n' {
            true => out += &format!("\\u{:04x}", c as u32),
            false => out.push(c),
        }
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_somebody_else() -> Status {
        let words = "a\u{1b}[2Jb\n  failure      none\u{9b}0m";
        let text = serde_json::json!({
            "mountpoint": words, "file": words, "pid": 1, "phase": words, "host": words, "transport": words,
            "read_only": true, "disk_size": 0, "file_size": 0, "connections": 0, "writers": 0, "replaced": 0,
            "seconds": 0, "bytes_read": 0, "bytes_written": 0, "bytes_zeroed": 0, "flushes": 0, "errors": 0,
            "failure": words, "disk_id": words, "disk_name": words, "transfer": words, "transfer_phase": words,
        });
        serde_json::from_value(text).unwrap()
    }

    /// Root sees the mounts of all users, and each of them may have written the answer by hand.
    #[test]
    fn what_another_process_says_of_itself_steers_no_terminal() {
        let shown = text(&of_somebody_else());
        assert!(
            !shown.contains(|c: char| c.is_control() && c != '\n'),
            "{shown:?}"
        );
        assert_eq!(shown.lines().count(), 11, "{shown}");
        let json = plain_json(&serde_json::to_string_pretty(&of_somebody_else()).unwrap());
        assert!(!json.contains(|c: char| c.is_control() && c != '\n'), "{json:?}");
        let again: Status = serde_json::from_str(&json).unwrap();
        assert_eq!(again.disk.failure, of_somebody_else().disk.failure);
    }
}
