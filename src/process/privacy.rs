//! Keeps others of the same user out of this process, which holds a password, a token and a ticket.
//!
//! A process that is not dumpable leaves no core file, not even to a collector of them, can't be traced, and
//! its `/proc/PID/environ`, `mem` and `fd` are root's. This holds until the next exec, so each of our
//! processes does it first; COMMAND and fusermount3 are like anybody else's programs. The limit on core files
//! is a second lock. It is inherited, so a program that we start gets the old limit back.

use std::io;
use std::sync::OnceLock;

use nix::sys::prctl::set_dumpable;
use nix::sys::resource::{Resource, getrlimit, rlim_t, setrlimit};

/// The soft limit on core files that this process was started with.
static CORE_LIMIT: OnceLock<rlim_t> = OnceLock::new();

/// Closes this process to others of the same user.
pub(crate) fn close() -> io::Result<()> {
    set_dumpable(false)?;
    let (soft, hard) = getrlimit(Resource::RLIMIT_CORE)?;
    let _ = CORE_LIMIT.set(soft);
    Ok(setrlimit(Resource::RLIMIT_CORE, 0, hard)?)
}

/// Runs `start`, which starts a program, under the limit that this process was started with.
pub(crate) fn as_before<T>(start: impl FnOnce() -> T) -> T {
    let set = |soft| {
        let limit = getrlimit(Resource::RLIMIT_CORE);
        limit.and_then(|(_, hard)| setrlimit(Resource::RLIMIT_CORE, soft, hard))
    };
    let raised = CORE_LIMIT.get().is_some_and(|soft| set(*soft).is_ok());
    let started = start();
    if raised {
        let _ = set(0);
    }
    started
}
