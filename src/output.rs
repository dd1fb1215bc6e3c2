//! The lines that this process writes to stdout and stderr.
//!
//! A script may close either stream, fill the disk behind it, or start a reader that does not read. No work
//! and no exit code depends on a message: what cannot be written is dropped, where `println!` would panic and
//! a full pipe would block. Only where the text is all that was asked for (`status`, `ca`, `--help`) does
//! [`print`] wait for the reader and report what failed; a reader that has gone away wanted no more.
//!
//! With `--progress json` each line on stderr is an object: a program reads them, and finds our messages
//! between those about the progress.
//!
//! The library writes to these streams nowhere else, which two lints of clippy check.

use std::fmt::Display;
use std::io::{self, ErrorKind, Write};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use parking_lot::Mutex;
use serde::Serialize;

/// Longest wait for a reader who does not read, in milliseconds. After one such wait nobody is waited for
/// until a line gets through.
const PATIENCE_MS: u16 = 2000;

/// The kernel takes that many bytes into a pipe without waiting, once it says that there is room
/// (PIPE_BUF, `pipe(7)`).
const PIECE_BYTES: usize = 4096;

/// Held from the look for room to the end of the write.
static WRITING: Mutex<()> = Mutex::new(());

/// Set while the reader of a stream does not read.
static NOBODY_READS: AtomicBool = AtomicBool::new(false);

/// Set once the lines on stderr are objects.
static IN_OBJECTS: AtomicBool = AtomicBool::new(false);

/// Set once only warnings and errors are told.
static QUIET: AtomicBool = AtomicBool::new(false);

/// A line that is no object by itself, for a program.
#[derive(Serialize)]
struct Said<'a> {
    event: &'static str,
    text: &'a str,
}

/// Makes each line on stderr an object from now on.
pub(crate) fn tell_in_objects() {
    IN_OBJECTS.store(true, Ordering::Relaxed);
}

/// Has [`inform`] tell nothing from now on.
pub(crate) fn be_quiet() {
    QUIET.store(true, Ordering::Relaxed);
}

/// Writes a message to stderr, as one line that begins with the program's name.
pub(crate) fn tell(message: impl Display) {
    match IN_OBJECTS.load(Ordering::Relaxed) {
        true => tell_as("message", &message.to_string()),
        false => offer(&mut io::stderr(), &format!("rhv-mount: {message}\n")),
    }
}

/// Does the same with a message that is neither a warning nor an error, unless `--quiet` is given.
pub(crate) fn inform(message: impl Display) {
    if !QUIET.load(Ordering::Relaxed) {
        tell(message);
    }
}

/// Writes a line of figures to stderr.
pub(crate) fn tell_plainly(line: impl Display) {
    match IN_OBJECTS.load(Ordering::Relaxed) {
        true => tell_as("message", &line.to_string()),
        false => offer(&mut io::stderr(), &format!("{line}\n")),
    }
}

fn tell_as(event: &'static str, text: &str) {
    tell_object(&Said { event, text });
}

/// Writes an object to stderr, as one line.
pub(crate) fn tell_object(object: &impl Serialize) {
    if let Ok(json) = serde_json::to_string(object) {
        offer(&mut io::stderr(), &format!("{}\n", plain_json(&json)));
    }
}

/// Writes to the terminal at stderr, as it is: control sequences, and text that has none.
pub(crate) fn draw(text: &str) {
    if !IN_OBJECTS.load(Ordering::Relaxed) {
        offer(&mut io::stderr(), text);
    }
}

/// Control characters are legal in JSON from DEL on; a terminal obeys them.
pub(crate) fn plain_json(json: &str) -> String {
    json.chars().fold(String::new(), |mut out, c| {
        match c.is_control() && c != '\n' {
            true => out += &format!("\\u{:04x}", c as u32),
            false => out.push(c),
        }
        out
    })
}

/// Writes a line about a step of the work to stdout.
pub(crate) fn report(line: impl Display) {
    offer(&mut io::stdout(), &format!("{line}\n"));
}

/// Writes the text for which this process was started to stdout.
pub(crate) fn print(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(e) if e.kind() != ErrorKind::BrokenPipe => {
            Err(io::Error::new(e.kind(), format!("cannot write to stdout: {e}")))
        }
        _ => Ok(()),
    }
}

/// Stderr as the place of the log; a write never fails.
#[derive(Debug)]
pub(crate) struct Stderr;

impl Write for Stderr {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        match IN_OBJECTS.load(Ordering::Relaxed) {
            true => {
                let lines = String::from_utf8_lossy(text);
                lines.lines().for_each(|line| tell_as("log", line));
            }
            false => offer_bytes(&mut io::stderr(), text),
        }
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn offer(stream: &mut (impl Write + AsFd), text: &str) {
    offer_bytes(stream, text.as_bytes());
}

/// Writes `text` as far as the reader takes it.
fn offer_bytes(stream: &mut (impl Write + AsFd), text: &[u8]) {
    // Two writers could both see the room that is enough for one.
    let _one_at_a_time = WRITING.lock();
    for piece in text.chunks(PIECE_BYTES) {
        if !has_room(stream) || stream.write_all(piece).is_err() {
            return;
        }
    }
    let _ = stream.flush();
}

/// True when a write of [`PIECE_BYTES`] would not block, or fail at once.
fn has_room(stream: &impl AsFd) -> bool {
    let patience = match NOBODY_READS.load(Ordering::Relaxed) {
        true => Duration::ZERO,
        false => Duration::from_millis(PATIENCE_MS.into()),
    };
    let until = Instant::now() + patience;
    let room = loop {
        let left = until.saturating_duration_since(Instant::now());
        let left = PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO);
        let mut look = [PollFd::new(stream.as_fd(), PollFlags::POLLOUT)];
        match poll(&mut look, left) {
            // A signal says nothing about the reader.
            Err(Errno::EINTR) => continue,
            other => break other != Ok(0),
        }
    };
    NOBODY_READS.store(!room, Ordering::Relaxed);
    room
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::Read;

    fn pipe() -> (File, File) {
        let (reader, writer) = nix::unistd::pipe().unwrap();
        (reader.into(), writer.into())
    }

    /// A pipe into which nothing fits any more.
    fn full() -> (File, File) {
        let (reader, mut writer) = pipe();
        let ready = |writer: &File| {
            let mut look = [PollFd::new(writer.as_fd(), PollFlags::POLLOUT)];
            poll(&mut look, PollTimeout::ZERO) != Ok(0)
        };
        while ready(&writer) {
            writer.write_all(&[b'.'; PIECE_BYTES]).unwrap();
        }
        (reader, writer)
    }

    #[test]
    fn a_reader_who_does_not_read_holds_nothing_up() {
        let (mut reader, mut writer) = full();
        let start = Instant::now();
        for _ in 0..1000 {
            offer(&mut writer, "dropped\n");
        }
        let once = Duration::from_millis(PATIENCE_MS.into());
        assert!(start.elapsed() < 20 * once, "each line waits");
        reader.read_exact(&mut vec![0; PIECE_BYTES]).unwrap();
        offer(&mut writer, "back\n");
        drop(writer);
        let mut rest = String::new();
        reader.read_to_string(&mut rest).unwrap();
        assert!(rest.ends_with(".back\n"), "{:?}", rest.trim_start_matches('.'));
    }

    #[test]
    fn a_stream_that_fails_is_no_failure() {
        offer(&mut File::create("/dev/full").unwrap(), "x\n");
        let (reader, mut writer) = pipe();
        drop(reader);
        offer(&mut writer, "x\n");
    }
}
