//! The log, without secrets.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use tracing::level_filters::LevelFilter;
use tracing::warn;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::output;
use crate::secret::clean;

/// Sends log records of at least `level` to `file`, or to stderr. Secrets are removed from every line:
/// libraries log request lines, which contain the ticket.
pub(crate) fn start_log(level: &str, file: Option<&Path>) -> io::Result<()> {
    let sink: Box<dyn Write + Send> = match file {
        Some(path) => Box::new(
            OpenOptions::new()
                .create(true)
                .append(true)
                .mode(0o600)
                .open(path)?,
        ),
        None => Box::new(output::Stderr),
    };
    LOGS_TO_A_FILE.store(file.is_some(), Ordering::Relaxed);
    let level = level.parse::<LevelFilter>().map_err(io::Error::other)?;
    // fuser warns about each unsupported operation, although a kernel may well try one.
    let fuser = if level >= LevelFilter::DEBUG {
        level
    } else {
        level.min(LevelFilter::ERROR)
    };
    // At the level trace it dumps requests in hexadecimal, in which no secret would be recognised.
    let ureq_proto = level.min(LevelFilter::DEBUG);
    let filter = Targets::new()
        .with_default(level)
        .with_target("fuser", fuser)
        .with_target("ureq_proto", ureq_proto);
    let lines = tracing_subscriber::fmt::layer()
        .with_ansi(false)
        .with_target(level >= LevelFilter::DEBUG)
        .log_internal_errors(false)
        .with_writer(CleanLines(Arc::new(Mutex::new(sink))))
        .with_filter(filter);
    tracing_subscriber::registry()
        .with(lines)
        .try_init()
        .map_err(io::Error::other)
}

/// Set once the log goes to a file.
static LOGS_TO_A_FILE: AtomicBool = AtomicBool::new(false);

/// Shows a message on stderr, and in the log too where that is another place.
pub(crate) fn announce(message: &str) {
    if LOGS_TO_A_FILE.load(Ordering::Relaxed) {
        warn!("{message}");
    }
    output::tell(message);
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

#[derive(Clone)]
struct CleanLines(Arc<Mutex<Box<dyn Write + Send>>>);

impl<'a> MakeWriter<'a> for CleanLines {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

/// The formatter writes each record as a whole, so no secret is split between two writes. A record that
/// cannot be written (a full disk) is dropped.
impl Write for CleanLines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(line);
        let _ = self.0.lock().write_all(clean(&text).as_bytes());
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let _ = self.0.lock().flush();
        Ok(())
    }
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
}
