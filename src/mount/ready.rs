//! Decides when "mounted" may be said: the system has granted all that a mount needs, and a look through the
//! mount has found our file.
//!
//! A mount whose session does not answer would be told as mounted otherwise; and where the look finds another
//! file, a program would write into that one, with success and for nobody.

use std::ffi::OsStr;
use std::fs::{self, DirEntry};
use std::os::fd::RawFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use crossbeam::channel::bounded;
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::{major, minor};
use nix::unistd::close;
use tracing::info;

use super::mount_table::numbers_of;
use super::mountpoint::Mountpoint;
use super::record::Held;
use crate::failure::{Exit, Failure};
use crate::fuse;
use crate::process::limits::Needs;
use crate::process::{rights, spawn};
use crate::settings::DiskSettings;

/// Longest wait for the look. It needs no network, but for a second at most in which a disk waits for its
/// extents.
const LOOK_LIMIT: Duration = Duration::from_secs(60);

/// The device over which the session answers.
const DEV_FUSE: &str = "/dev/fuse";

/// Threads of a mount beside those of the file system and of the disks, and the processes that it starts:
/// rights, reports, metrics, signals, control, session, callers, open, look, command; COMMAND and
/// fusermount3.
const OWN_THREADS: usize = 12;

/// Threads for each disk beside those of its connections: ahead, extents, watch, renewal, close, finalize.
const THREADS_PER_DISK: usize = 6;

/// Threads for each connection: writer, prefetch, keeper; and the ones that begin and dial it or, later, the
/// one that flushes it.
const THREADS_PER_CONNECTION: usize = 5;

/// Descriptors beside those of the disks: log, signals, control socket and who asks there, /dev/fuse, a
/// resolver, files that are read or written for a moment.
const OWN_DESCRIPTORS: usize = 13;

/// Descriptors for each disk beside those of its connections: the engine, the note, the one of the extents.
const DESCRIPTORS_PER_DISK: usize = 3;

/// Descriptors for each connection: the old socket may be there while a new one is made.
const DESCRIPTORS_PER_CONNECTION: usize = 2;

/// Address space for everything that has no budget, in bytes.
const OWN_BYTES: usize = 64 << 20;

/// Returns what a mount of `count` disks takes at most; each has one connection at least.
pub(super) fn needs<S>(disk: &DiskSettings<S>, count: usize) -> Needs {
    let connections = disk.connections.max(count);
    Needs {
        threads: OWN_THREADS
            + fuse::THREADS
            + if count > 1 { fuse::MAX_APART } else { 0 }
            + THREADS_PER_DISK * count
            + THREADS_PER_CONNECTION * connections,
        descriptors: OWN_DESCRIPTORS
            + DESCRIPTORS_PER_DISK * count
            + DESCRIPTORS_PER_CONNECTION * connections,
        // Each thread apart holds a request of 1 MiB.
        bytes: (fuse::ADDRESS_SPACE + OWN_BYTES + if count > 1 { fuse::MAX_APART << 20 } else { 0 })
            .saturating_add(usize::try_from(disk.budgets.sum()).unwrap_or(usize::MAX)),
    }
}

/// Looks through the mount for the file with this name, in a thread that nobody waits for longer than
/// [`LOOK_LIMIT`]. Returns the numbers of the file system.
pub(super) fn look(mountpoint: &Mountpoint, name: &OsStr) -> Result<Held, Failure> {
    let fail = |why: String| {
        let message = format!("cannot mount on {}: {why}", mountpoint.path.display());
        Err(Failure::text(Exit::Mount, message))
    };
    let Some(ours) = numbers_of(&mountpoint.path) else {
        return fail("it was unmounted again at once".to_owned());
    };
    let (done, looked) = bounded(1);
    let file = mountpoint.path_of(name);
    let looked_for = file.clone();
    // A directory on the way may be another user's: the thread has the rights of the one that makes it.
    rights::with(move || {
        spawn("look", move || {
            let_go_of_session();
            let _ = done.send(fs::metadata(looked_for));
        })
    })?;
    match looked.recv_timeout(LOOK_LIMIT) {
        Ok(Ok(meta)) if meta.is_file() && (major(meta.dev()), minor(meta.dev())) == ours.device => Ok(ours),
        Ok(Ok(_)) => fail(format!("{} is another file", file.display())),
        Ok(Err(e)) => fail(format!("{} does not answer: {e}", file.display())),
        Err(_) => fail(format!(
            "{} does not answer within {} s",
            file.display(),
            LOOK_LIMIT.as_secs()
        )),
    }
}

/// Gives the calling thread a table of files of its own, in which `/dev/fuse` is closed.
///
/// A process that is killed while it waits for itself would never end: the thread that waits for the session
/// keeps `/dev/fuse` open, and the kernel fails the wait only when that is closed. The mount would hang with
/// the process. A system that allows no such table (by a filter of system calls) leaves it so for the moment
/// of the look. The other files stay: to close one on a file system that hangs would hold up the look.
fn let_go_of_session() {
    if let Err(e) = unshare(CloneFlags::CLONE_FILES) {
        return info!("the look shares the files of the process: {e}");
    }
    let entries = match fs::read_dir("/proc/thread-self/fd") {
        Ok(entries) => entries.flatten(),
        Err(e) => return info!("the look keeps the files of the process: {e}"),
    };
    let is_session = |entry: &DirEntry| fs::read_link(entry.path()).is_ok_and(|to| to == Path::new(DEV_FUSE));
    let number = |entry: DirEntry| entry.file_name().to_str()?.parse::<RawFd>().ok();
    let ours: Vec<RawFd> = entries.filter(is_session).filter_map(number).collect();
    for file in ours {
        let _ = close(file);
    }
}
