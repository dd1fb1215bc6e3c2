//! The log as lines, one for each record, and where they go.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tracing::{Level, Metadata};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::{Layer, Registry};

use super::datagrams::Datagrams;
pub(super) use crate::output::Stderr;
use crate::secret::clean;

/// How often a log file is looked for at its path.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// The facility daemon, as `<PRI>` in a record of syslog counts it (RFC 3164): 3, times 8.
const DAEMON: u8 = 3 << 3;

/// Returns the layer that writes a line for each record.
pub(super) fn layer(sink: Sink, shows_target: bool) -> Box<dyn Layer<Registry> + Send + Sync> {
    let daemon_adds_time_and_level = matches!(sink, Sink::Syslog(_));
    let lines = tracing_subscriber::fmt::layer()
        .with_ansi(false)
        .with_target(shows_target)
        .log_internal_errors(false)
        .with_writer(CleanLines::to(sink));
    match daemon_adds_time_and_level {
        true => Box::new(lines.with_level(false).without_time()),
        false => Box::new(lines),
    }
}

/// The place of the lines.
#[derive(Debug)]
pub(super) enum Sink {
    Stderr(Stderr),
    File(LogFile),
    Syslog(Syslog),
}

/// A file at the path that the user gave. logrotate moves it away: the lines then go to a new file at the
/// path, so nobody has to be signalled.
#[derive(Debug)]
pub(super) struct LogFile {
    path: PathBuf,
    file: File,
    looked: Instant,
}

impl LogFile {
    pub(super) fn open(path: &Path) -> io::Result<LogFile> {
        Ok(LogFile {
            path: path.to_owned(),
            file: open(path)?,
            looked: Instant::now(),
        })
    }

    fn write(&mut self, line: &[u8]) {
        if self.looked.elapsed() >= LOOK_INTERVAL {
            self.looked = Instant::now();
            // The old one goes on if no new one can be made.
            if let Some(file) = self.was_moved().then(|| open(&self.path).ok()).flatten() {
                self.file = file;
            }
        }
        let _ = self.file.write_all(line);
    }

    /// True when another regular file, or none, is at the path. A pipe or a terminal is no file to rotate.
    fn was_moved(&self) -> bool {
        let Ok(ours) = self
            .file
            .metadata()
            .map(|meta| (meta.is_file(), meta.dev(), meta.ino()))
        else {
            return false;
        };
        match fs::metadata(&self.path) {
            Ok(there) => ours.0 && there.is_file() && (ours.1, ours.2) != (there.dev(), there.ino()),
            Err(e) => ours.0 && e.kind() == io::ErrorKind::NotFound,
        }
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(path)
}

/// Records for a syslog daemon: `<PRI>rhv-mount[PID]: LINE`. They have no time, since daemons take that at
/// which a record arrives.
#[derive(Debug)]
pub(super) struct Syslog {
    socket: Datagrams,
}

impl Syslog {
    pub(super) fn over(socket: Datagrams) -> Syslog {
        Syslog { socket }
    }

    fn write(&mut self, level: Level, line: &str) {
        let (priority, pid) = (DAEMON | severity(level), std::process::id());
        let record = format!("<{priority}>rhv-mount[{pid}]: {}", line.trim_end());
        self.socket.send(record.as_bytes());
    }
}

/// The severity of a level, by the numbers of `syslog(3)`, which journald has too.
pub(super) fn severity(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        Level::DEBUG | Level::TRACE => 7,
    }
}

/// The way of a line to its sink, on which it loses its secrets.
#[derive(Debug, Clone)]
struct CleanLines {
    sink: Arc<Mutex<Sink>>,
    level: Level,
}

impl CleanLines {
    fn to(sink: Sink) -> CleanLines {
        CleanLines {
            sink: Arc::new(Mutex::new(sink)),
            level: Level::INFO,
        }
    }
}

impl<'a> MakeWriter<'a> for CleanLines {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }

    fn make_writer_for(&'a self, meta: &Metadata<'_>) -> Self {
        CleanLines {
            level: *meta.level(),
            ..self.clone()
        }
    }
}

/// The formatter writes each record as a whole, so no secret is split between two writes. A record that
/// cannot be written (a full disk) is dropped.
impl Write for CleanLines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(line);
        let text = clean(&text);
        match &mut *self.sink.lock() {
            Sink::Stderr(stderr) => drop(stderr.write_all(text.as_bytes())),
            Sink::File(file) => file.write(text.as_bytes()),
            Sink::Syslog(syslog) => syslog.write(self.level, &text),
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;

    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    #[test]
    fn a_file_that_was_moved_away_is_followed_by_a_new_one_at_its_path() {
        let dir = tempfile::tempdir().unwrap();
        let (path, moved) = (dir.path().join("log"), dir.path().join("log.1"));
        let mut log = LogFile::open(&path).unwrap();
        log.write(b"first\n");
        fs::rename(&path, &moved).unwrap();
        log.looked -= LOOK_INTERVAL;
        log.write(b"second\n");
        assert_eq!(fs::read(&moved).unwrap(), b"first\n");
        assert_eq!(fs::read(&path).unwrap(), b"second\n");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_file_whose_directory_is_gone_is_written_on() {
        let dir = tempfile::tempdir().unwrap();
        let inside = dir.path().join("inside");
        fs::create_dir(&inside).unwrap();
        let mut log = LogFile::open(&inside.join("log")).unwrap();
        fs::rename(&inside, dir.path().join("elsewhere")).unwrap();
        log.looked -= LOOK_INTERVAL;
        log.write(b"kept\n");
        assert_eq!(fs::read(dir.path().join("elsewhere/log")).unwrap(), b"kept\n");
    }

    #[test]
    fn a_record_for_syslog_has_its_severity_and_no_secret() {
        crate::secret::hide("zyx-syslog-7f31");
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let daemon = UnixDatagram::bind(&path).unwrap();
        let syslog = Syslog::over(Datagrams::to(&path).unwrap());
        let subscriber = tracing_subscriber::registry().with(layer(Sink::Syslog(syslog), false));
        tracing::subscriber::with_default(subscriber, || {
            tracing::warn!(disk = "web01", "GET /images/zyx-syslog-7f31");
            tracing::info!("second");
        });
        let mut record = [0; 256];
        let n = daemon.recv(&mut record).unwrap();
        let pid = std::process::id();
        let text = String::from_utf8_lossy(&record[..n]);
        assert_eq!(
            text,
            format!("<28>rhv-mount[{pid}]: GET /images/*** disk=\"web01\"")
        );
        let n = daemon.recv(&mut record).unwrap();
        assert_eq!(&record[..4], b"<30>", "{}", String::from_utf8_lossy(&record[..n]));
    }
}
