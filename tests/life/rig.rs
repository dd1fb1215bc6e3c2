//! Helpers of this crate's tests: mounts with a COMMAND that must leave nothing behind, and assertions about
//! messages and disks.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;

use crate::support::content::{MIB, random_image, sparse_image};
use crate::support::engine::{DiskState, Engine, PASSWORD, state_directory};
use crate::support::mount::{is_mounted, processes_with};
use crate::support::redaction::assert_shows_none;
use crate::support::run::{Ran, run, text};

pub(crate) const DONE: i32 = 0;
pub(crate) const USAGE: i32 = 2;
pub(crate) const LOGIN_REFUSED: i32 = 3;
pub(crate) const ENGINE_FAILED: i32 = 4;
pub(crate) const CANNOT_CONNECT: i32 = 5;
/// The engine, not imageio, does not answer or is not trusted.
pub(crate) const CANNOT_REACH_ENGINE: i32 = 4;
pub(crate) const MOUNT_FAILED: i32 = 6;
pub(crate) const DATA_MAY_BE_LOST: i32 = 7;

/// Size of the disks, in bytes.
pub(crate) const SIZE: u64 = 8 * MIB;

/// Upper bound on a run of rhv-mount, in seconds: longer than any of its own waits.
pub(crate) const LIMIT: u64 = 150;

/// Adds an existing disk full of random bytes, and returns it and a raw file with its content.
pub(crate) fn used_disk(engine: &Engine, name: &str, format: &str) -> (DiskState, PathBuf) {
    let content = engine.dir().join(format!("{name}.content"));
    random_image(&content, SIZE, 5);
    let disk = engine.add_disk(&json!({"name": name, "size": SIZE, "format": format, "content": content}));
    (disk, content)
}

/// Returns an image with data and holes, as large as the disks.
pub(crate) fn source(engine: &Engine, seed: u64) -> PathBuf {
    let source = engine.dir().join(format!("source-{seed}.raw"));
    if !source.exists() {
        sparse_image(&source, SIZE, seed);
    }
    source
}

/// The COMMAND that copies `source` into the mounted file.
pub(crate) fn copy_command(source: &Path) -> String {
    format!("cp '{}' {{}}", source.display())
}

/// The arguments that create a sparse raw disk.
pub(crate) fn create(name: &str) -> Vec<String> {
    let words = ["--create", name, "--size", "8M", "--storage-domain", "data"];
    words.map(str::to_owned).to_vec()
}

/// The arguments that select an existing disk.
pub(crate) fn existing(name: &str) -> Vec<String> {
    ["--disk", name].map(str::to_owned).to_vec()
}

/// A mountpoint in the engine's directory; rhv-mount creates it.
pub(crate) fn point(engine: &Engine, name: &str) -> PathBuf {
    engine.dir().join(format!("{name}.raw"))
}

/// `rhv-mount ARGS POINT -- bash -euc SCRIPT`, not yet started.
pub(crate) fn command(engine: &Engine, args: &[String], point: &Path, script: &str) -> Command {
    let mut command = engine.program();
    command.args(engine.args()).args(args).arg(point);
    command.args(["--", "bash", "-euc", script]);
    command
}

/// Runs `rhv-mount ARGS POINT -- bash -euc SCRIPT` to its end, and asserts that nothing of it is left on this
/// machine, except the state file of a transfer that could not be ended.
#[track_caller]
pub(crate) fn over(engine: &Engine, args: &[String], script: &str) -> Ran {
    let name = args.get(1).map_or("none", String::as_str);
    let point = point(engine, name);
    let ran = run(&mut command(engine, args, &point, script), LIMIT);
    assert_shows_none(&ran, &[PASSWORD]);
    assert!(!ran.timed_out, "it hangs: {ran}");
    assert!(!ran.stderr.contains("panicked"), "{ran}");
    assert_nothing_local(&point, &ran);
    ran
}

/// Asserts that no mount, process, mountpoint or control file of an ended mount is left.
#[track_caller]
pub(crate) fn assert_nothing_local(point: &Path, ran: &Ran) {
    assert!(!is_mounted(point), "still mounted after: {ran}");
    assert!(
        processes_with(point.as_os_str()).is_empty(),
        "still running after: {ran}"
    );
    assert!(
        !point.exists(),
        "the mountpoint that rhv-mount made is still there: {ran}"
    );
    let left = control_files(point);
    assert!(left.is_empty(), "{left:?} is left after: {ran}");
}

/// Returns the control files of the mount on `point`; only a live mount has them.
pub(crate) fn control_files(point: &Path) -> Vec<PathBuf> {
    files_naming(Path::new("/run/rhv-mount"), point)
}

/// Returns the state file of the mount on `point`, if there is one.
pub(crate) fn state_file(point: &Path) -> Option<PathBuf> {
    files_naming(&state_directory(), point).into_iter().next()
}

fn files_naming(directory: &Path, point: &Path) -> Vec<PathBuf> {
    let name = format!("\"{}\"", point.display());
    let files = fs::read_dir(directory).into_iter().flatten().flatten();
    let files = files.map(|file| file.path());
    files
        .filter(|path| path.is_file() && text(path).contains(&name))
        .collect()
}

/// Asserts that the exit code is one of `codes` and that the messages contain each of `words`. `|` separates
/// alternatives, of which one is enough; case does not matter.
#[track_caller]
pub(crate) fn assert_told(ran: &Ran, codes: &[i32], words: &[&str]) {
    assert!(
        ran.code.is_some_and(|code| codes.contains(&code)),
        "expected exit code {codes:?}: {ran}"
    );
    let said = ran.stderr.to_lowercase();
    for word in words {
        assert!(
            word.to_lowercase().split('|').any(|one| said.contains(one)),
            "{word:?} is missing: {ran}"
        );
    }
    assert!(!said.contains("panicked"), "{ran}");
}

/// Asserts one warning for each of `hosts` that it is not verified, and no other warning.
#[track_caller]
pub(crate) fn assert_warned(ran: &Ran, hosts: &[&str]) {
    let warnings = ran.stderr.lines().filter(|line| line.contains("WARNING"));
    let mut warnings: Vec<&str> = warnings.collect();
    for host in hosts {
        let about = |line: &&str| line.contains(&format!("{host} is NOT VERIFIED"));
        let at = warnings.iter().position(about);
        warnings.remove(at.unwrap_or_else(|| panic!("no warning about {host}: {ran}")));
    }
    assert!(warnings.is_empty(), "{warnings:?}: {ran}");
}

/// Asserts the same as [`assert_told`], and that the message of the refusal is a single line.
#[track_caller]
pub(crate) fn assert_refused(ran: &Ran, codes: &[i32], words: &[&str]) {
    assert_told(ran, codes, words);
    let said = |line: &&str| line.starts_with("rhv-mount:") && !line.contains("WARNING");
    let lines = ran.stderr.lines().filter(said);
    assert_eq!(lines.count(), 1, "the message is not one line: {ran}");
}

/// Asserts that the disk exists, is not locked, and holds `content`.
#[track_caller]
pub(crate) fn assert_free(engine: &Engine, which: &str, content: &Path) {
    let disk = engine
        .disk(which)
        .unwrap_or_else(|| panic!("disk {which} is gone"));
    assert_eq!(
        (disk.status.as_str(), disk.locked_by.as_slice()),
        ("ok", &[] as &[String]),
        "disk {which}"
    );
    engine
        .compare(&disk, content)
        .unwrap_or_else(|reason| panic!("disk {which}: {reason}"));
}

/// Asserts that no request asked the engine to cancel a transfer or to delete anything.
#[track_caller]
pub(crate) fn assert_nothing_deleted(engine: &Engine) {
    let cancels = engine.requests("POST", "/cancel");
    assert!(cancels.is_empty(), "a transfer was cancelled: {cancels:?}");
    let mut removals = engine.log("request");
    removals.retain(|one| one["method"] == "DELETE");
    assert!(removals.is_empty(), "something was deleted: {removals:?}");
}
