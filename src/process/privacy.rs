//! Nobody looks into this process: it holds a password, a token and a ticket.
//!
//! Not dumpable means: no core file, also not for a collector of them, no ptrace, and `/proc/PID/environ`, `mem` and `fd`
//! are root's. It holds until the next exec, so each of our processes does it first; COMMAND and fusermount3 are as
//! anybody else's programs. The limit on core files is the second lock, and it is inherited: what we start gets the old
//! one.

use std::io;
use std::sync::OnceLock;

use nix::sys::prctl::set_dumpable;
use nix::sys::resource::{Resource, getrlimit, rlim_t, setrlimit};

/// The soft limit that we were started with.
static CORE_LIMIT: OnceLock<rlim_t> = OnceLock::new();

/// From now on.
pub(crate) fn close() -> io::Result<()> {
    set_dumpable(false)?;
    let (soft, hard) = getrlimit(Resource::RLIMIT_CORE)?;
    let _ = CORE_LIMIT.set(soft);
    Ok(setrlimit(Resource::RLIMIT_CORE, 0, hard)?)
}

/// Does `start`, which starts a program, with the limit that we were started with.
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
