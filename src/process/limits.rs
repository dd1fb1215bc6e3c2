//! The system's limits on threads, descriptors and memory, tried out before anything is begun.
//!
//! A mount that runs into one of them half way is a dead mount: its file system has no threads that answer,
//! or a buffer is missing and the process aborts. A copy aborts with its transfer open. So [`check`] takes
//! all that the run will need at once, lets go of it again, and refuses with the number that is needed.
//! Somebody else may take it in between; every step that needs a thread therefore fails in order too.

use std::fs::File;
use std::io;
use std::sync::OnceLock;
use std::thread::Builder;

use crossbeam::channel::bounded;
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit, rlim_t, setrlimit};

use crate::failure::{Exit, Failure};

/// Memory is tried out in pieces of this size, in bytes: the kernel refuses a single one that is larger than
/// all its memory, although nobody may ever fill it.
const PIECE_BYTES: usize = 16 << 20;

/// The soft limit on descriptors that this process was started with, where it was raised.
static DESCRIPTOR_LIMIT: OnceLock<rlim_t> = OnceLock::new();

/// The kind of the run that has needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Mount,
    /// A copy, or a checksum: an open disk without a mount.
    Copy,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Kind::Mount => "a mount",
            Kind::Copy => "a copy",
        }
    }

    fn refuse(self, why: String) -> Failure {
        let exit = match self {
            Kind::Mount => Exit::Mount,
            Kind::Copy => Exit::Other,
        };
        Failure::text(exit, format!("{} needs {why}", self.name()))
    }
}

/// The needs of a run beyond what this process has already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Needs {
    /// Threads and processes at once.
    pub(crate) threads: usize,
    /// Open descriptors at once.
    pub(crate) descriptors: usize,
    /// Address space in bytes, without the stacks of the threads.
    pub(crate) bytes: usize,
}

/// Refuses where the system does not grant `needs`, a mount with exit code 6. Raises the soft limit on
/// descriptors where that is enough.
pub(crate) fn check(kind: Kind, needs: Needs) -> Result<(), Failure> {
    if let Err(e) = take_descriptors(needs.descriptors) {
        raise_descriptors();
        let taken = take_descriptors(needs.descriptors);
        taken.map_err(|_| too_few_descriptors(kind, needs.descriptors, &e))?;
    }
    let (hold, held) = bounded::<()>(0);
    let mut threads = Vec::with_capacity(needs.threads);
    let enough = (0..needs.threads).try_for_each(|n| {
        let held = held.clone();
        let spawned = Builder::new().spawn(move || held.recv().unwrap_or(()));
        threads.push(spawned.map_err(|e| too_few_threads(kind, needs.threads, n, &e))?);
        Ok(())
    });
    // The stacks still take their part of it.
    let enough = enough.and_then(|()| take_memory(kind, needs.bytes));
    drop(hold);
    threads.into_iter().for_each(|thread| drop(thread.join()));
    enough
}

/// Runs `start`, which starts a program, under the limit that this process was started with.
pub(crate) fn as_before<T>(start: impl FnOnce() -> T) -> T {
    let raised = DESCRIPTOR_LIMIT.get().copied();
    let now = getrlimit(Resource::RLIMIT_NOFILE);
    let (Some(before), Ok((soft, hard))) = (raised, now) else {
        return start();
    };
    let _ = setrlimit(Resource::RLIMIT_NOFILE, before, hard);
    let started = start();
    let _ = setrlimit(Resource::RLIMIT_NOFILE, soft, hard);
    started
}

/// The failure to start the thread `name`.
pub(crate) fn no_thread(name: &str, error: &io::Error) -> Failure {
    Failure::text(
        Exit::Mount,
        format!("cannot start the thread {name}: {error}; {RAISE_THREADS}"),
    )
}

/// The failure to start the process in the background.
pub(crate) fn no_process(error: &io::Error) -> Failure {
    let message = format!("cannot start the background process: {error}");
    match error.kind() {
        io::ErrorKind::WouldBlock => Failure::text(Exit::Mount, format!("{message}; {RAISE_THREADS}")),
        _ => Failure::text(Exit::Mount, message),
    }
}

const RAISE_THREADS: &str = "raise the limit (pids.max of its cgroup, TasksMax= of its unit, ulimit -u), or \
                             take fewer --connections";

fn too_few_threads(kind: Kind, needed: usize, got: usize, error: &io::Error) -> Failure {
    kind.refuse(format!(
        "{needed} threads, and the system grants {got} ({error}): {RAISE_THREADS}"
    ))
}

fn too_few_descriptors(kind: Kind, needed: usize, error: &io::Error) -> Failure {
    let limit = getrlimit(Resource::RLIMIT_NOFILE).map_or(0, |(soft, _)| soft);
    kind.refuse(format!(
        "{needed} file descriptors beside those that are open, and the limit is {limit} ({error}): raise it \
         (ulimit -n, LimitNOFILE= of its unit), or take fewer --connections"
    ))
}

fn take_descriptors(count: usize) -> io::Result<()> {
    let one = File::open("/dev/null")?;
    let all: io::Result<Vec<File>> = (1..count).map(|_| one.try_clone()).collect();
    all.map(drop)
}

fn raise_descriptors() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE).and_then(|(soft, hard)| {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
        Ok(soft)
    });
    if let Ok(before) = raised {
        let _ = DESCRIPTOR_LIMIT.set(before);
    }
}

fn take_memory(kind: Kind, bytes: usize) -> Result<(), Failure> {
    let mut pieces: Vec<Vec<u8>> = Vec::new();
    for _ in 0..bytes.div_ceil(PIECE_BYTES) {
        let mut piece = Vec::new();
        piece.try_reserve_exact(PIECE_BYTES).map_err(|e| {
            let limit = getrlimit(Resource::RLIMIT_AS).map_or(RLIM_INFINITY, |(soft, _)| soft);
            let why = match limit {
                RLIM_INFINITY => format!("this machine does not give it ({e})"),
                bytes => format!("the limit is {} MiB ({e})", bytes >> 20),
            };
            kind.refuse(format!(
                "{} MiB of address space beside its threads, and {why}: raise the limit (ulimit -v and -d, \
                 LimitAS= of its unit), or take a smaller --memory",
                bytes >> 20
            ))
        })?;
        pieces.push(piece);
    }
    Ok(())
}
