//! The words of this process to a service manager, in the protocol of `sd_notify(3)`: one datagram for each
//! message, to the socket that `$NOTIFY_SOCKET` names. Without that variable nothing is sent.
//!
//! A manager listens to the process that it knows as the main one (`NotifyAccess=main`). In the foreground
//! that is the process that serves, since an exec keeps its number. In the background form it is the
//! launcher: so the launcher says that the disk is mounted and which process serves it (`MAINPID=`), and the
//! server is silent until the launcher has ended (`handover`).
//!
//! No work depends on a manager that reads: a message waits for room for [`PATIENCE`] and is dropped then.
//! The crate sd-notify would wait for ever.

use std::env;
use std::fmt;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::process::Command;
use std::time::Duration;

use tracing::info;

use crate::logging::plain;
use crate::secret::clean;

/// The variable that holds the manager's address: a path, or `@` and an abstract name.
const ADDRESS: &str = "NOTIFY_SOCKET";

/// The variable that holds the longest silence that a watchdog allows, in microseconds.
const WATCHDOG_TIME: &str = "WATCHDOG_USEC";

/// The variable that holds the number of the process that the watchdog is for.
const WATCHDOG_PROCESS: &str = "WATCHDOG_PID";

/// The variable that holds the number of the process that systemd has started.
const STARTED: &str = "SYSTEMD_EXEC_PID";

/// Longest wait for a manager that does not read.
const PATIENCE: Duration = Duration::from_secs(2);

/// One assignment of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Word<'a> {
    /// The disk is mounted, and was seen.
    Ready,
    /// The process that serves has this number.
    MainPid(u32),
    /// A line for people: what goes on.
    Status(&'a str),
    /// The mount is ending.
    Stopping,
    /// The manager has to wait for so long from now on before it counts this process as stuck.
    ExtendTimeout(Duration),
    /// This process is alive.
    Watchdog,
}

impl fmt::Display for Word<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Word::Ready => f.write_str("READY=1"),
            Word::MainPid(pid) => write!(f, "MAINPID={pid}"),
            // A line break would begin another assignment.
            Word::Status(text) => write!(f, "STATUS={}", plain(&clean(text))),
            Word::Stopping => f.write_str("STOPPING=1"),
            Word::ExtendTimeout(time) => write!(f, "EXTEND_TIMEOUT_USEC={}", time.as_micros()),
            Word::Watchdog => f.write_str("WATCHDOG=1"),
        }
    }
}

/// True where the manager has started this process itself, as far as it says (systemd 248 and later do); its
/// socket is inherited by every program below.
pub(crate) fn is_for_us() -> bool {
    let process = env::var(STARTED).ok();
    process.is_none_or(|process| process.parse() == Ok(std::process::id()))
}

/// True when a service manager wants to be told.
pub(crate) fn is_wanted() -> bool {
    address().is_some()
}

/// Sends one message, as far as the manager takes it.
pub(crate) fn tell(words: &[Word<'_>]) {
    let Some(address) = address().filter(|_| !words.is_empty()) else {
        return;
    };
    let message: String = words.iter().map(|word| format!("{word}\n")).collect();
    if let Err(e) = send(&address, message.as_bytes()) {
        info!("the service manager cannot be told: {e}");
    }
}

/// How often a watchdog wants to hear of this process: after half of its limit.
pub(crate) fn watchdog_period() -> Option<Duration> {
    if !is_wanted() || !is_watched(env::var(WATCHDOG_PROCESS).ok().as_deref()) {
        return None;
    }
    let limit: u64 = env::var(WATCHDOG_TIME).ok()?.parse().ok()?;
    (limit > 0).then(|| Duration::from_micros(limit) / 2)
}

/// Lets the process that `command` starts serve in this one's place: what the watchdog asked of this process,
/// it asks of that one.
pub(crate) fn pass_on(command: &mut Command) {
    command.env_remove(STARTED);
    if is_watched(env::var(WATCHDOG_PROCESS).ok().as_deref()) {
        command.env_remove(WATCHDOG_PROCESS);
    }
}

/// Keeps the program that `command` starts from speaking in this one's place.
pub(crate) fn keep_from(command: &mut Command) {
    for variable in [ADDRESS, WATCHDOG_TIME, WATCHDOG_PROCESS] {
        command.env_remove(variable);
    }
}

/// True when a watchdog that names `process` means this one. One that names none means whoever has its
/// variables.
fn is_watched(process: Option<&str>) -> bool {
    process.is_none_or(|process| process.parse() == Ok(std::process::id()))
}

fn address() -> Option<SocketAddr> {
    let name = env::var_os(ADDRESS)?;
    match name.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name).ok(),
        [b'/', ..] => SocketAddr::from_pathname(&name).ok(),
        _ => None,
    }
}

fn send(address: &SocketAddr, message: &[u8]) -> io::Result<()> {
    let socket = UnixDatagram::unbound()?;
    socket.set_write_timeout(Some(PATIENCE))?;
    socket.send_to_addr(message, address).map(drop)
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn a_status_is_one_assignment_and_has_no_secret() {
        crate::secret::hide("zyx-notify-7f31");
        let text = Word::Status("a zyx-notify-7f31\nREADY=1").to_string();
        assert_eq!(text, "STATUS=a *** READY=1");
        let time = Word::ExtendTimeout(Duration::from_secs(30)).to_string();
        assert_eq!(time, "EXTEND_TIMEOUT_USEC=30000000");
    }

    #[test]
    fn a_watchdog_for_another_process_is_not_ours() {
        assert!(is_watched(None) && is_watched(Some(&std::process::id().to_string())));
        assert!(!is_watched(Some("1")) && !is_watched(Some("no number")));
    }

    #[test]
    fn a_manager_that_does_not_read_is_not_waited_for_for_ever() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let _manager = UnixDatagram::bind(&path).unwrap();
        let address = SocketAddr::from_pathname(&path).unwrap();
        let began = Instant::now();
        let full = (0..100_000).find_map(|_| send(&address, b"WATCHDOG=1\n").err());
        assert_eq!(full.map(|e| e.kind()), Some(io::ErrorKind::WouldBlock));
        assert!(began.elapsed() >= PATIENCE);
    }
}
