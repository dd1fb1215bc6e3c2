//! This process: its capabilities, its limits, its memory, its privacy, its name on this machine, the lock
//! that tells that it lives, the file with its number, its words to a service manager, threads that work side
//! by side, and the handover to the process that serves.

pub(crate) mod allocator;
pub(crate) mod handover;
pub(crate) mod identity;
pub(crate) mod limits;
pub(crate) mod lock;
pub(crate) mod memory_limit;
pub(crate) mod notify;
pub(crate) mod pid_file;
pub(crate) mod privacy;
pub(crate) mod rights;
pub(crate) mod runtime_directory;
mod side_by_side;

pub(crate) use self::side_by_side::side_by_side;
use crate::failure::Failure;

/// Starts a thread with a name, which a debugger and the message of a panic show.
pub(crate) fn spawn(
    name: &str,
    body: impl FnOnce() + Send + 'static,
) -> Result<std::thread::JoinHandle<()>, Failure> {
    let spawned = std::thread::Builder::new().name(name.into()).spawn(body);
    spawned.map_err(|e| limits::no_thread(name, &e))
}
