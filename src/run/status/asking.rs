//! Asks the processes behind mounts how they are. One that is stopped or stuck takes its time, so all are
//! asked at once, by threads of their own, and nobody waits for the silent ones in turn.

use std::io;
use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use nix::unistd::Uid;

use crate::mount::control::{self, Status};
use crate::mount::holders::holders;
use crate::mount::mount_table::{is_dead, mounted_by};
use crate::mount::record::Place;
use crate::open_disk::DiskStatus;
use crate::shell;

/// Upper bound on the mounts that are asked at the same time. One that does not answer takes ten seconds or
/// more, and so many of them take no longer than one.
const MAX_ASKED_AT_ONCE: usize = 64;

/// Asks all of `places` at once, and returns their answers in this order.
pub(super) fn ask(places: &[(Uid, Place)]) -> Vec<Status> {
    let answers: Vec<OnceLock<Option<Status>>> = places.iter().map(|_| OnceLock::new()).collect();
    let next = AtomicUsize::new(0);
    let work = || {
        loop {
            let n = next.fetch_add(1, Ordering::Relaxed);
            let Some((user, place)) = places.get(n) else {
                return;
            };
            let _ = answers[n].set(look(*user, place));
        }
    };
    thread::scope(|scope| {
        // This thread works too, so all are asked even where the system grants no thread.
        for _ in 1..places.len().min(MAX_ASKED_AT_ONCE) {
            if thread::Builder::new().spawn_scoped(scope, work).is_err() {
                break;
            }
        }
        work();
    });
    answers
        .into_iter()
        .filter_map(|answer| answer.into_inner()?)
        .collect()
}

/// Asks the process behind a record. Where it does not answer, its mount is dead if nobody listens on its
/// socket any more; silence is no death. A record without a mount is that of a process at its end, which
/// listens still, or only a file that a killed process left.
fn look(user: Uid, place: &Place) -> Option<Status> {
    let error = match control::ask_status(place) {
        Ok(mut status) => {
            status.holders = status.held.take().map(holders).unwrap_or_default();
            return Some(status);
        }
        Err(e) => e,
    };
    let record = place.record();
    let is_mounted = |path: &Path| mounted_by(path) == Some(user.as_raw());
    let is_there = |path: &Path| control::is_silent(&error) || is_mounted(path);
    let Some(record) = record.filter(|r| is_there(&r.mountpoint)) else {
        return failed(place);
    };
    let mountpoint = &record.mountpoint;
    let nobody_listens = error.kind() == io::ErrorKind::ConnectionRefused;
    let (phase, why) = match nobody_listens || is_mounted(mountpoint) && is_dead(mountpoint) {
        true => (
            "dead",
            format!(
                "its process was killed; remove it with `rhv-mount umount {}`",
                shell::word(mountpoint)
            ),
        ),
        false if control::is_silent(&error) => {
            let why = control::process_of(place).why_silent();
            ("silent", format!("it does not answer: {why}"))
        }
        false => ("silent", format!("its process cannot be asked: {error}")),
    };
    let disk = DiskStatus {
        failure: Some(why),
        read_only: record.read_only,
        ..DiskStatus::default()
    };
    // Earlier versions noted no file.
    let file = record.file.as_ref().unwrap_or(mountpoint);
    Some(Status {
        earlier: place.earlier(),
        ..Status::of(mountpoint, file, record.pid_here(), phase, disk)
    })
}

/// A mount that has ended badly, where nobody has heard of it yet, also not since its outcome was read.
fn failed(place: &Place) -> Option<Status> {
    let mountpoint = place.ending()?.mountpoint?;
    let again = shell::word(&mountpoint);
    let words = place.earlier()?;
    let disk = DiskStatus {
        failure: Some(format!("{words} (`rhv-mount umount {again}` says it once more)")),
        ..DiskStatus::default()
    };
    Some(Status::of(&mountpoint, &mountpoint, None, "failed", disk))
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Write};
    use std::os::unix::net::UnixListener;
    use std::sync::Barrier;

    use super::*;

    /// Each mount answers only when all of them have been asked, so one that is asked after another one's
    /// answer finds silence instead.
    #[test]
    fn all_mounts_are_asked_at_once_and_told_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let names = ["/mnt/c", "/mnt/a", "/mnt/b"].map(Path::new);
        let places = names.map(|name| (Uid::from_raw(0), Place::of(dir.path(), name)));
        let asked = Barrier::new(places.len());
        let told = thread::scope(|scope| {
            for ((_, place), name) in places.iter().zip(names) {
                let (listener, asked) = (UnixListener::bind(place.socket()).unwrap(), &asked);
                scope.spawn(move || {
                    let (mut stream, _) = listener.accept().unwrap();
                    let mut words = String::new();
                    BufReader::new(&stream).read_line(&mut words).unwrap();
                    asked.wait();
                    let status = Status::of(name, name, None, "mounted", DiskStatus::default());
                    // Nobody may wait for it any more.
                    let _ = writeln!(stream, "{}", serde_json::to_string(&status).unwrap());
                });
            }
            ask(&places)
        });
        let told: Vec<&str> = told.iter().map(|status| status.mountpoint.as_str()).collect();
        assert_eq!(told, names.map(|name| name.to_str().unwrap()));
    }
}
