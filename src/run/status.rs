//! `rhv-mount status`: what is mounted here, from the processes that serve it; and what runs have left behind
//! that ended otherwise, from their notes (see `remains`).
//!
//! In JSON, all of it is one array, and what was asked for by its path is one object: a mount, or, where
//! nothing is mounted there, what is left.

use std::io;
use std::path::Path;

use nix::unistd::Uid;
use serde::Serialize;

use super::remains::{self, Remains};
use crate::failure::{Exit, Failure};
use crate::mount::control::{self, Status};
use crate::mount::holders::holders;
use crate::mount::mount_table::{is_dead, mounted_by};
use crate::mount::mountpoint::canonical;
use crate::mount::record::{self, Place};
use crate::open_disk::DiskStatus;
use crate::output::print;
use crate::process::identity::why_silent;
use crate::process::runtime_directory;
use crate::settings::cli::Output;
use crate::shell;

/// One thing to be told of a mountpoint.
#[derive(Serialize)]
#[serde(untagged)]
enum Entry<'a> {
    Mount(&'a Status),
    Left(&'a Remains),
}

/// Prints what is mounted on `path` or left behind of a mount there, or all of it.
pub(super) fn status(path: Option<&Path>, output: Output) -> Result<u8, Failure> {
    let wanted = match path {
        Some(path) => Some(
            canonical(path).map_err(|e| Failure::text(Exit::Mount, format!("{}: {e}", path.display())))?,
        ),
        None => None,
    };
    // The path names the mountpoint, or the file in it. Others are not asked: one that is stuck takes its
    // time.
    let in_directory = |dir: &Path| match &wanted {
        Some(path) => path
            .ancestors()
            .take(2)
            .map(|path| Place::of(dir, path))
            .collect(),
        None => record::places(dir),
    };
    let places = runtime_directory::directories()
        .into_iter()
        .flat_map(|(user, dir)| in_directory(&dir).into_iter().map(move |place| (user, place)));
    let mut all: Vec<Status> = places.filter_map(|(user, place)| look(user, &place)).collect();
    if let Some(wanted) = &wanted {
        all.retain(|status| status.is_about(wanted));
    }
    let left = remains::all(wanted.as_deref());
    if let (Some(wanted), true, true) = (&wanted, all.is_empty(), left.is_empty()) {
        return Err(Failure::text(
            Exit::Mount,
            format!("no rhv-mount disk is mounted on {}", wanted.display()),
        ));
    }
    match output {
        Output::Json => {
            let entries = all.iter().map(Entry::Mount).chain(left.iter().map(Entry::Left));
            let entries: Vec<Entry<'_>> = entries.collect();
            let json = match (&wanted, entries.first()) {
                (Some(_), Some(one)) => serde_json::to_string_pretty(one),
                _ => serde_json::to_string_pretty(&entries),
            };
            let json = json.map_err(|e| Failure::text(Exit::Other, e))?;
            print(&format!("{}\n", plain_json(&json)))?;
        }
        Output::Text => {
            let all = all.iter().map(text).chain(left.iter().map(Remains::text));
            let all = all.collect::<Vec<_>>().join("\n");
            // Names are the engine's, and another user's process may say anything.
            print(&all.replace(|c: char| c.is_control() && c != '\n', " "))?;
        }
    }
    Ok(Exit::Done as u8)
}

/// Asks the process behind a record. Where it does not answer, its mount is dead if nobody listens on its
/// socket any more; silence is no death. A record without a mount is only a file that a killed process left.
fn look(user: Uid, place: &Place) -> Option<Status> {
    let error = match control::ask_status(place) {
        Ok(mut status) => {
            status.holders = status.held.take().map(holders).unwrap_or_default();
            return Some(status);
        }
        Err(e) => e,
    };
    let record = place.record();
    let Some(record) = record.filter(|r| mounted_by(&r.mountpoint) == Some(user.as_raw())) else {
        return failed(place);
    };
    let mountpoint = &record.mountpoint;
    let nobody_listens = error.kind() == io::ErrorKind::ConnectionRefused;
    let (phase, why) = match nobody_listens || is_dead(&record.mountpoint) {
        true => (
            "dead",
            format!(
                "its process was killed; remove it with `rhv-mount umount {}`",
                shell::word(mountpoint)
            ),
        ),
        false if control::is_silent(&error) => {
            let why = why_silent(control::process_of(place));
            ("silent", format!("it does not answer: {why}"))
        }
        false => ("silent", format!("its process cannot be asked: {error}")),
    };
    let disk = DiskStatus {
        failure: Some(why),
        read_only: record.read_only,
        ..DiskStatus::default()
    };
    Some(Status {
        earlier: place.earlier(),
        ..Status::of(
            mountpoint,
            mountpoint,
            record.pid_here().unwrap_or(0),
            phase,
            disk,
        )
    })
}

/// A mount that has ended badly, where nobody has heard of it yet.
fn failed(place: &Place) -> Option<Status> {
    let mountpoint = place.ending()?.mountpoint?;
    let again = shell::word(&mountpoint);
    let disk = DiskStatus {
        failure: place
            .earlier()
            .map(|words| format!("{words} (`rhv-mount umount {again}` says it once more)")),
        ..DiskStatus::default()
    };
    Some(Status::of(&mountpoint, &mountpoint, 0, "failed", disk))
}

/// Names a process; 0 stands for one that has no number here.
fn process(pid: u32) -> String {
    match pid {
        0 => "a process of another container".to_owned(),
        pid => format!("process {pid}"),
    }
}

/// Says what ends a mount that is unmounted and in use, whose process has this number here.
pub(super) fn ends_all_the_same(pid: Option<u32>) -> String {
    match pid {
        Some(pid) => format!("`kill {pid}` ends it all the same"),
        None => {
            "its process runs in another container, where the signal SIGTERM ends it all the same".to_owned()
        }
    }
}

pub(super) fn text(status: &Status) -> String {
    let disk = &status.disk;
    let plain = |text: &str| text.replace(char::is_control, " ");
    let mode = if disk.read_only { "read-only" } else { "read-write" };
    let mut out = format!(
        "{}\n  phase        {}",
        plain(&status.mountpoint),
        plain(&status.phase)
    );
    out += &match status.phase.as_str() {
        "failed" => "\n".to_owned(),
        _ => format!(" ({mode}, {}, {} s)\n", process(status.pid), disk.seconds),
    };
    if !matches!(status.phase.as_str(), "dead" | "silent" | "failed") {
        out += &format!(
            "  file         {}, {} bytes of a disk of {}\n  host         {} over {}\n  \
             connections  {} ({} writing, {} replaced)\n  bytes        {} read, {} written, {} zeroed\n  \
             flushes      {}{}\n  errors       {}\n",
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
            match disk.durable_writes {
                0 => String::new(),
                n => format!(", and {n} with a write each"),
            },
            disk.errors,
        );
    }
    if status.phase == "detached" {
        out += &format!(
            "  in use       it is unmounted, and ends when whoever still holds it lets go; {}\n",
            ends_all_the_same(Some(status.pid).filter(|pid| *pid != 0))
        );
    }
    for holder in &status.holders {
        out += &format!("  held         {}\n", plain(holder));
    }
    if let (Some(id), Some(name)) = (&disk.disk_id, &disk.disk_name) {
        out += &format!("  disk         {} ({})\n", plain(id), plain(name));
    }
    if let (Some(id), Some(phase)) = (&disk.transfer, &disk.transfer_phase) {
        let told = match phase.as_str() {
            "paused_user" => "; a user of the engine has paused it, and has to resume it",
            _ => "",
        };
        out += &format!("  transfer     {} ({}{told})\n", plain(id), plain(phase));
    }
    if let Some(refused) = &disk.refused {
        out += &format!("  refused      {}\n", plain(refused));
    }
    if let Some(failure) = &disk.failure {
        out += &format!("  failure      {}\n", plain(failure));
    }
    if let Some(earlier) = &status.earlier {
        out += &format!("  earlier      {}\n", plain(earlier));
    }
    out
}

/// Control characters are legal in JSON from DEL on; a terminal obeys them.
pub(super) fn plain_json(json: &str) -> String {
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
            "failure": words, "disk_id": words, "disk_name": words, "transfer": words,
            "transfer_phase": words, "earlier": words,
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
        assert_eq!(shown.lines().count(), 12, "{shown}");
        let json = plain_json(&serde_json::to_string_pretty(&of_somebody_else()).unwrap());
        assert!(!json.contains(|c: char| c.is_control() && c != '\n'), "{json:?}");
        let again: Status = serde_json::from_str(&json).unwrap();
        assert_eq!(again.disk.failure, of_somebody_else().disk.failure);
    }
}
