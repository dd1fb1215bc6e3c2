//! What rhv-mount tells about itself: log lines, without secrets.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::secret::clean;

/// Sends log records of at least `level` to `file`, or to stderr. Every line is cleaned of secrets:
/// libraries log request lines, and those hold the ticket.
pub(crate) fn start_log(level: &str, file: Option<&Path>) -> io::Result<()> {
    let sink: Box<dyn Write + Send> = match file {
        Some(path) => Box::new(
            OpenOptions::new()
                .create(true)
                .append(true)
                .mode(0o600)
                .open(path)?,
        ),
        None => Box::new(io::stderr()),
    };
    let level = level.parse::<LevelFilter>().map_err(io::Error::other)?;
    // fuser warns about each operation that a kernel may well ask for in vain.
    let fuser = if level >= LevelFilter::DEBUG {
        level
    } else {
        level.min(LevelFilter::ERROR)
    };
    // At trace it dumps requests in hexadecimal, where no secret would be recognised.
    let ureq_proto = level.min(LevelFilter::DEBUG);
    let filter = Targets::new()
        .with_default(level)
        .with_target("fuser", fuser)
        .with_target("ureq_proto", ureq_proto);
    let lines = tracing_subscriber::fmt::layer()
        .with_ansi(false)
        .with_target(level >= LevelFilter::DEBUG)
        .with_writer(CleanLines(Arc::new(Mutex::new(sink))))
        .with_filter(filter);
    tracing_subscriber::registry()
        .with(lines)
        .try_init()
        .map_err(io::Error::other)
}

/// Longest text of a message that is not ours, characters.
const MAX_FOREIGN_CHARS: usize = 2000;

/// `text` as one line that is fit for a terminal: without control characters, and not longer than anybody reads. Servers
/// choose what their messages and names say.
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

/// The formatter writes each record whole, so that a secret can't be cut in two.
impl Write for CleanLines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(line);
        self.0.lock().write_all(clean(&text).as_bytes())?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.lock().flush()
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
