//! `rhv-mount status`: what is mounted here, from the processes that serve it; and what runs have left behind
//! that ended otherwise, from their notes (see `remains`).
//!
//! In JSON, all of it is one array, and what was asked for by its path is one object: a mount, or, where
//! nothing is mounted there, what is left. With `--follow` each of them is one line.

mod asking;
mod files;

use std::collections::BTreeSet;
use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde::Serialize;

use self::asking::ask;
use super::remains::{self, Remains};
use crate::amounts;
use crate::failure::{Exit, Failure};
use crate::mount::control::{Server, Status};
use crate::mount::mountpoint::canonical;
use crate::mount::record::{self, Place};
use crate::output::{plain_json, print};
use crate::process::runtime_directory;
use crate::settings::cli::{Output, StatusArgs};
use crate::terminal::taking_back;

/// How often `--follow` looks again.
const FOLLOW_INTERVAL: Duration = Duration::from_secs(1);

/// One thing to be told of a mountpoint.
#[derive(Serialize)]
#[serde(untagged)]
enum Entry<'a> {
    Mount(&'a Status),
    Left(&'a Remains),
}

/// Prints what is mounted on the path or left behind of a mount there, or all of it; with `--follow` again
/// and again while something is mounted.
pub(super) fn status(args: &StatusArgs) -> Result<u8, Failure> {
    let wanted = match &args.mountpoint {
        Some(path) => Some(
            canonical(path).map_err(|e| Failure::text(Exit::Mount, format!("{}: {e}", path.display())))?,
        ),
        None => None,
    };
    let found = Found::look(wanted.as_deref());
    if let (Some(wanted), true) = (&wanted, found.is_empty()) {
        return Err(Failure::text(
            Exit::Mount,
            format!("no rhv-mount disk is mounted on {}", wanted.display()),
        ));
    }
    match (args.follow, args.output) {
        (true, output) => return Ok(follow(found, wanted.as_deref(), output)? as u8),
        (false, Output::Json) => print(&found.json(wanted.is_some())?)?,
        (false, Output::Text) => print(&found.text())?,
    }
    Ok(Exit::Done as u8)
}

/// Prints what is found, and looks again every second, until no mount is there. A mount that is just gone is
/// told of where it was started, or by `umount`; what can be seen of a bad end from here is in the exit code.
fn follow(mut found: Found, wanted: Option<&Path>, output: Output) -> Result<Exit, Failure> {
    let on_terminal = io::stdout().is_terminal();
    let names = |found: &Found| -> BTreeSet<_> { found.left.iter().map(Remains::names).collect() };
    let left_before = names(&found);
    loop {
        let goes_on = found.mounts.iter().any(|mount| goes_on(&mount.phase));
        let text = match output {
            Output::Json => found.json_lines()?,
            Output::Text => found.text(),
        };
        print(&text)?;
        let exit = match found.is_bad() || !names(&found).is_subset(&left_before) {
            true => Exit::Other,
            false => Exit::Done,
        };
        if !goes_on || hears_no_more() {
            return Ok(exit);
        }
        sleep(FOLLOW_INTERVAL);
        found = Found::look(wanted);
        if found.is_empty() {
            // It is gone. What was told last stays.
            return Ok(exit);
        }
        if on_terminal && output == Output::Text {
            print(&taking_back(&text))?;
        }
    }
}

/// True for the phase of a mount that may still change.
fn goes_on(phase: &str) -> bool {
    matches!(phase, "mounted" | "ending" | "detached" | "silent")
}

/// True where nobody reads stdout any more: a pipe without a reader.
fn hears_no_more() -> bool {
    let stdout = io::stdout();
    let mut look = [PollFd::new(stdout.as_fd(), PollFlags::empty())];
    poll(&mut look, PollTimeout::ZERO) == Ok(1)
        && look[0]
            .revents()
            .is_some_and(|seen| seen.intersects(PollFlags::POLLERR))
}

/// All that is to be told.
struct Found {
    mounts: Vec<Status>,
    left: Vec<Remains>,
}

impl Found {
    /// Looks for what is mounted on `wanted` or left of a mount there, or for all of it.
    fn look(wanted: Option<&Path>) -> Found {
        // The path names the mountpoint, or the file in it. Others are not asked: one that is stuck takes its
        // time.
        let in_directory = |dir: &Path| match wanted {
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
        let mut mounts = ask(&places.collect::<Vec<_>>());
        if let Some(wanted) = wanted {
            mounts.retain(|status| status.is_about(wanted));
        }
        Found {
            mounts,
            left: remains::all(wanted),
        }
    }

    fn is_empty(&self) -> bool {
        self.mounts.is_empty() && self.left.is_empty()
    }

    /// True where a mount has ended badly, or says that data may be lost.
    fn is_bad(&self) -> bool {
        self.mounts
            .iter()
            .any(|mount| mount.phase != "silent" && mount.disk.failure.is_some())
    }

    fn entries(&self) -> Vec<Entry<'_>> {
        let mounts = self.mounts.iter().map(Entry::Mount);
        mounts.chain(self.left.iter().map(Entry::Left)).collect()
    }

    /// One array of objects, or the first of them alone.
    fn json(&self, one: bool) -> Result<String, Failure> {
        let entries = self.entries();
        let json = match entries.first().filter(|_| one) {
            Some(first) => serde_json::to_string_pretty(first),
            None => serde_json::to_string_pretty(&entries),
        };
        let json = json.map_err(|e| Failure::text(Exit::Other, e))?;
        Ok(format!("{}\n", plain_json(&json)))
    }

    /// An object on each line.
    fn json_lines(&self) -> Result<String, Failure> {
        let line = |entry: &Entry<'_>| serde_json::to_string(entry).map(|json| plain_json(&json) + "\n");
        let lines: Result<String, _> = self.entries().iter().map(line).collect();
        lines.map_err(|e| Failure::text(Exit::Other, e))
    }

    fn text(&self) -> String {
        let all = self
            .mounts
            .iter()
            .map(text)
            .chain(self.left.iter().map(Remains::text));
        let all = all.collect::<Vec<_>>().join("\n");
        // Names are the engine's, and another user's process may say anything.
        all.replace(|c: char| c.is_control() && c != '\n', " ")
    }
}

/// Names the process of a mount that has one.
fn process(pid: Option<u32>) -> String {
    pid.map_or_else(
        || "a process of another container".to_owned(),
        |pid| format!("process {pid}"),
    )
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
            "  file         {}, {} of a disk of {}\n  host         {} over {}\n  \
             connections  {} ({} writing, {} replaced)\n  bytes        {} read, {} written, {} zeroed, {} \
             not flushed\n  flushes      {}{}\n  errors       {}\n",
            plain(&status.file),
            amounts::size(disk.file_size),
            amounts::size(disk.disk_size),
            plain(&disk.host),
            plain(&disk.transport),
            disk.connections,
            disk.writers,
            disk.replaced,
            amounts::size(disk.bytes_read),
            amounts::size(disk.bytes_written),
            amounts::size(disk.bytes_zeroed),
            amounts::size(disk.bytes_unflushed),
            disk.flushes,
            match disk.durable_writes {
                0 => String::new(),
                n => format!(", and {n} with a write each"),
            },
            disk.errors,
        );
    }
    if let Some(pace) = disk.pace_shown() {
        out += &format!("  progress     {pace}\n");
    }
    if let Some(silent) = disk.unanswered_seconds {
        out += &format!(
            "  waiting      no answer from the server for {}; requests are repeated\n",
            amounts::time(silent)
        );
    }
    if status.phase == "detached" {
        out += &format!(
            "  in use       it is unmounted, and ends when whoever still holds it lets go; {}\n",
            status
                .pid
                .map_or(Server::Elsewhere, Server::Here)
                .ends_all_the_same()
        );
    }
    for holder in &status.holders {
        out += &format!("  held         {}\n", plain(holder));
    }
    out += &files::text(status);
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
