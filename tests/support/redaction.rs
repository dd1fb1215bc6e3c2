//! The search for secrets: in what programs print, and in every file that a mount writes.
//!
//! Whatever mounts does so at trace level, into a file that is searched when the mount has ended: a `Mount` in its own
//! directory, a mount by way of an engine in the engine's, anything else in a `Trace`.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::run::{Ran, scratch, text};

/// Neither what a program printed nor its command line may show one of `secrets`.
#[track_caller]
pub fn assert_shows_none(ran: &Ran, secrets: &[impl AsRef<str>]) {
    for secret in secrets {
        assert!(
            ![&ran.command, &ran.stdout, &ran.stderr]
                .iter()
                .any(|text| shows(text, secret.as_ref())),
            "a secret is shown: {ran}"
        );
    }
}

/// Also a part of it, as a hex dump shows: 16 characters in a row, of which at least 12 belong together.
pub fn shows(line: &str, secret: &str) -> bool {
    const PART: usize = 12;
    if secret.len() < PART || !secret.is_ascii() {
        return line.contains(secret);
    }
    (0..=secret.len() - PART).any(|start| line.contains(&secret[start..start + PART]))
}

/// No file in `directory` may show one of `secrets`. Gives the number of those that were searched.
#[track_caller]
pub fn assert_files_show_none(directory: &Path, secrets: &[impl AsRef<str>]) -> usize {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let files: Vec<PathBuf> = entries
        .map(|entry| entry.path())
        .filter(|path| path.is_file())
        .collect();
    for path in &files {
        assert_text_shows_none(&path.display().to_string(), &text(path), secrets);
    }
    files.len()
}

#[track_caller]
pub fn assert_text_shows_none(what: &str, text: &str, secrets: &[impl AsRef<str>]) {
    for line in text.lines() {
        for secret in secrets {
            assert!(!shows(line, secret.as_ref()), "{what} shows a secret: {line}");
        }
    }
}

/// The options of a mount that tells everything, to `log`.
pub fn trace_to(log: &Path) -> [OsString; 4] {
    [
        "--log-level".into(),
        "trace".into(),
        "--log-file".into(),
        log.into(),
    ]
}

/// The log of one mount, searched when it is dropped.
#[derive(Debug)]
pub struct Trace {
    dir: TempDir,
    secrets: Vec<String>,
}

impl Trace {
    /// Of a mount whose ticket is in `url`.
    pub fn of(url: &str) -> Self {
        Self {
            dir: scratch(),
            secrets: vec![secret_of(url)],
        }
    }

    /// To be given before the mountpoint.
    pub fn args(&self) -> [OsString; 4] {
        trace_to(&self.log())
    }

    pub fn log(&self) -> PathBuf {
        self.dir.path().join("log")
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            assert_files_show_none(self.dir.path(), &self.secrets);
        }
    }
}

/// The ticket id in a transfer URL.
pub fn secret_of(url: &str) -> String {
    url.rsplit('/').next().unwrap_or(url).to_owned()
}
