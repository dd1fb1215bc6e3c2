//! The lines that this process writes to stdout and stderr.
//!
//! A script may close either stream, fill the disk behind it, or start a reader that does not read. No work
//! and no exit code depends on a message: what cannot be written is dropped (`stream`), where `println!`
//! would panic and a full pipe would block. Only where the text is all that was asked for (`status`, `ca`,
//! `--help`) does [`print`] wait for the reader and report what failed; a reader that has gone away wanted no
//! more.
//!
//! With `--progress json` each line on stderr is an object: a program reads them, and finds our messages
//! between those about the progress.
//!
//! The library writes to these streams nowhere else, which two lints of clippy check.

mod stream;

use std::fmt::Display;
use std::io::{self, ErrorKind, Write};
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use serde::Serialize;

use self::stream::{DRAWING, LINE, Manner, Past, offer};

/// The past of each stream. It is locked for as long as a text is written.
static STDOUT: Mutex<Past> = Mutex::new(Past::new());
static STDERR: Mutex<Past> = Mutex::new(Past::new());

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
        false => drop(offer_stderr(&format!("rhv-mount: {message}\n"), LINE)),
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
        false => drop(offer_stderr(&format!("{line}\n"), LINE)),
    }
}

fn tell_as(event: &'static str, text: &str) {
    tell_object(&Said { event, text });
}

/// Writes an object to stderr, as one line.
pub(crate) fn tell_object(object: &impl Serialize) {
    write_object(object, LINE);
}

/// Does the same with the last object, for which a reader who has not read is waited for once more.
pub(crate) fn tell_last_object(object: &impl Serialize) {
    write_object(object, LINE.last());
}

fn write_object(object: &impl Serialize, manner: Manner) {
    if let Ok(json) = serde_json::to_string(object) {
        offer_stderr(&format!("{}\n", plain_json(&json)), manner);
    }
}

/// Writes to the terminal at stderr, as it is: control sequences, and text that has none. Returns false where
/// a piece of it could not be written.
pub(crate) fn draw(text: &str) -> bool {
    IN_OBJECTS.load(Ordering::Relaxed) || offer_stderr(text, DRAWING)
}

/// Does the same with the last drawing, for which a reader who has not read is waited for once more.
pub(crate) fn draw_last(text: &str) -> bool {
    IN_OBJECTS.load(Ordering::Relaxed) || offer_stderr(text, DRAWING.last())
}

/// Has the next text on stderr begin on a line of its own: the terminal's cursor is not at its start.
pub(crate) fn begin_a_line() {
    let mut past = STDERR.lock();
    if !IN_OBJECTS.load(Ordering::Relaxed) && past.begin_with.is_empty() {
        past.begin_with = "\n";
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
    offer(&io::stdout(), &STDOUT, format!("{line}\n").as_bytes(), LINE);
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
            false => drop(offer(&io::stderr(), &STDERR, text, LINE)),
        }
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn offer_stderr(text: &str, manner: Manner) -> bool {
    offer(&io::stderr(), &STDERR, text.as_bytes(), manner)
}
