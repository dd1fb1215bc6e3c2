//! The search for secrets in the output of programs and in every file that a mount writes.
//!
//! Every mount logs at trace level into a file, which is searched after the mount has ended. The log of a
//! `Mount` is in its own directory, that of a mount through an engine in the engine's directory, any other in
//! a `Trace`.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::run::{Ran, scratch, text};

/// Checks that neither the output of a program nor its command line shows one of `secrets`.
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

/// True when `line` contains `secret` or any 12 consecutive characters of it. A hex dump shows only such a
/// part: its lines have 16 characters each, so at least 12 of a longer secret stand together in one of them.
pub fn shows(line: &str, secret: &str) -> bool {
    const PART: usize = 12;
    if secret.len() < PART || !secret.is_ascii() {
        return line.contains(secret);
    }
    (0..=secret.len() - PART).any(|start| line.contains(&secret[start..start + PART]))
}

/// Checks that no file in `directory` shows one of `secrets`; returns the number of files searched.
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

/// Checks that no line of `text` shows one of `secrets`; the panic calls the text `what`.
#[track_caller]
pub fn assert_text_shows_none(what: &str, text: &str, secrets: &[impl AsRef<str>]) {
    for line in text.lines() {
        for secret in secrets {
            assert!(!shows(line, secret.as_ref()), "{what} shows a secret: {line}");
        }
    }
}

/// Returns the options that make a mount log at trace level to `log`.
pub fn trace_to(log: &Path) -> [OsString; 4] {
    [
        "--log-level".into(),
        "trace".into(),
        "--log-file".into(),
        log.into(),
    ]
}

/// The trace log of one mount, searched for secrets when dropped.
#[derive(Debug)]
pub struct Trace {
    dir: TempDir,
    secrets: Vec<String>,
}

impl Trace {
    /// Makes a log for a mount whose ticket is in `url`.
    pub fn of(url: &str) -> Self {
        Self {
            dir: scratch(),
            secrets: vec![secret_of(url)],
        }
    }

    /// Returns the options for the command line; they go before the mountpoint.
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

/// Returns the ticket id in a transfer URL: the last part of its path.
pub fn secret_of(url: &str) -> String {
    url.rsplit('/').next().unwrap_or(url).to_owned()
}
