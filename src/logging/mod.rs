//! The log, without secrets: libraries log request lines, which contain the ticket, so every line and every
//! field passes [`clean`](crate::secret::clean) on its way out.
//!
//! ```text
//! lines        a line for each record: stderr, syslog, or a file that logrotate may move away
//! journal      a record with fields for journald
//! datagrams    the socket of either daemon
//! ```
//!
//! A record that its place does not take is dropped: no work depends on the log.

mod datagrams;
mod journal;
mod lines;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::stat::fstat;
use serde::{Deserialize, Serialize};
use tracing::level_filters::LevelFilter;
use tracing::{error, warn};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry};

use self::datagrams::Datagrams;
use self::journal::Journal;
use self::lines::{LogFile, Sink, Stderr, Syslog};
use crate::output;

/// The socket of syslog (`syslog(3)`).
const SYSLOG: &str = "/dev/log";

/// The socket of journald's own protocol.
const JOURNALD: &str = "/run/systemd/journal/socket";

/// The target of statistics that a user has asked for: they are logged at every level but `off`.
pub(crate) const STATISTICS: &str = "rhv_mount::statistics";

/// The place of the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Place {
    /// Standard error, as long as the process has one: a mount in the background has none.
    Stderr,
    /// A file, which is appended to.
    File(#[serde(with = "crate::path_bytes")] PathBuf),
    /// The syslog daemon of this machine, as the facility daemon.
    Syslog,
    /// The journal of systemd, with a field for each value.
    Journald,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Stderr => f.write_str("stderr"),
            Place::File(path) => write!(f, "{}", path.display()),
            Place::Syslog => write!(f, "syslog ({SYSLOG})"),
            Place::Journald => write!(f, "journald ({JOURNALD})"),
        }
    }
}

/// Sends log records of at least `level` to `place`. Records in the journal name `mountpoint`.
pub(crate) fn start_log(level: &str, place: &Place, mountpoint: &Path) -> io::Result<()> {
    let level = level.parse::<LevelFilter>().map_err(io::Error::other)?;
    let shows_target = level >= LevelFilter::DEBUG;
    let layer: Box<dyn Layer<Registry> + Send + Sync> = match place {
        Place::Stderr => lines::layer(Sink::Stderr(Stderr), shows_target),
        Place::File(path) => lines::layer(Sink::File(LogFile::open(path)?), shows_target),
        Place::Syslog => {
            let socket = Datagrams::to(Path::new(SYSLOG))?;
            lines::layer(Sink::Syslog(Syslog::over(socket)), shows_target)
        }
        Place::Journald => {
            let socket = Datagrams::to(Path::new(JOURNALD))?;
            Box::new(Journal::over(socket, mountpoint))
        }
    };
    LOGS_ELSEWHERE.store(*place != Place::Stderr, Ordering::Relaxed);
    LOGS_TO_A_DAEMON.store(
        matches!(place, Place::Syslog | Place::Journald),
        Ordering::Relaxed,
    );
    tracing_subscriber::registry()
        .with(layer.with_filter(filter(level)))
        .try_init()
        .map_err(io::Error::other)
}

fn filter(level: LevelFilter) -> Targets {
    // fuser warns about each unsupported operation, although a kernel may well try one.
    let fuser = if level >= LevelFilter::DEBUG {
        level
    } else {
        level.min(LevelFilter::ERROR)
    };
    // At the level trace it dumps requests in hexadecimal, in which no secret would be recognised.
    let ureq_proto = level.min(LevelFilter::DEBUG);
    let statistics = match level {
        LevelFilter::OFF => level,
        _ => level.max(LevelFilter::INFO),
    };
    Targets::new()
        .with_default(level)
        .with_target("fuser", fuser)
        .with_target("ureq_proto", ureq_proto)
        .with_target(STATISTICS, statistics)
}

/// Set once the log goes to another place than stderr.
static LOGS_ELSEWHERE: AtomicBool = AtomicBool::new(false);

/// Set once the log goes to syslog or journald.
static LOGS_TO_A_DAEMON: AtomicBool = AtomicBool::new(false);

/// Shows a message on stderr, and in the log too where that is another place.
pub(crate) fn announce(message: &str) {
    if LOGS_ELSEWHERE.load(Ordering::Relaxed) {
        warn!("{message}");
    }
    show(message);
}

/// Does the same with the message of a failure.
pub(crate) fn announce_failure(message: &str) {
    if LOGS_ELSEWHERE.load(Ordering::Relaxed) {
        error!("{message}");
    }
    show(message);
}

/// Shows a message on stderr, unless stderr ends where the log has it already.
fn show(message: &str) {
    if !(LOGS_TO_A_DAEMON.load(Ordering::Relaxed) && stderr_is_the_journal()) {
        output::tell(message);
    }
}

/// True where systemd has connected stderr to its journal: `$JOURNAL_STREAM` has the numbers of its device
/// and inode (systemd.exec(5)).
fn stderr_is_the_journal() -> bool {
    let stream = std::env::var("JOURNAL_STREAM").unwrap_or_default();
    let ours = fstat(io::stderr()).map(|stat| format!("{}:{}", stat.st_dev, stat.st_ino));
    ours.is_ok_and(|ours| ours == stream)
}

/// Upper bound on a text from a server, a file or a user in one of our messages, in characters.
const MAX_FOREIGN_CHARS: usize = 2000;

/// Returns `text` as one bounded line without control characters, since servers choose their messages and
/// names, and a terminal obeys control characters.
pub(crate) fn plain(text: &str) -> String {
    let mut line: String = text
        .chars()
        .take(MAX_FOREIGN_CHARS)
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    if text.chars().nth(MAX_FOREIGN_CHARS).is_some() {
        line.push_str(" [...]");
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_from_elsewhere_cannot_steer_a_terminal_or_fill_it() {
        assert_eq!(plain("a\x1b[2J\tb\u{9b}c\n"), "a [2J b c ");
        let endless = plain(&"x".repeat(1 << 20));
        assert!(endless.len() < MAX_FOREIGN_CHARS + 10 && endless.ends_with("[...]"));
    }

    #[test]
    fn statistics_that_were_asked_for_are_logged_at_every_level_but_off() {
        use tracing::Level;
        for (level, logged) in [
            (LevelFilter::OFF, false),
            (LevelFilter::ERROR, true),
            (LevelFilter::TRACE, true),
        ] {
            let filter = filter(level);
            assert_eq!(filter.would_enable(STATISTICS, &Level::INFO), logged, "{level}");
            assert_eq!(
                filter.would_enable("rhv_mount::pool", &Level::INFO),
                level == LevelFilter::TRACE
            );
        }
    }
}
