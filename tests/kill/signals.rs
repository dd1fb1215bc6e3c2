//! Signals to rhv-mount, and to COMMAND, while `dd` writes. Every acknowledged direct write is on the disk,
//! however the mount ends.

use std::path::{Path, PathBuf};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use crate::rig::{DONE, assert_nothing_deleted};
use crate::support::content::{MIB, random_image, sparse_image};
use crate::support::engine::Engine;
use crate::support::foreground::Foreground;
use crate::support::run::{run, text, wait_until};

/// Size of the disk, in bytes: large enough for a signal to arrive during the copy.
const SIZE: u64 = 256 * MIB;

const BLOCK: u64 = 64 << 10;

/// Returns a shell command that copies `source` with `dd` and appends dd's summary to the file `said`.
fn dd(source: &Path, target: &str, flags: &str, said: &Path) -> String {
    format!(
        "dd if='{}' of={target} bs={BLOCK} oflag={flags} conv=notrunc,nocreat 2>>'{}'",
        source.display(),
        said.display()
    )
}

/// Returns the bytes in whole blocks that `dd` reported, the most of all its runs.
fn written(said: &Path) -> u64 {
    let said = text(said);
    let lines = said.lines().filter(|line| line.contains("records out"));
    let blocks = lines.filter_map(|line| line.split('+').next()?.parse::<u64>().ok());
    blocks.max().unwrap_or_else(|| panic!("no summary of dd: {said}")) * BLOCK
}

struct Setting {
    engine: Engine,
    source: PathBuf,
    said: PathBuf,
    point: PathBuf,
}

impl Setting {
    fn new() -> Self {
        let engine = Engine::start();
        let (source, said) = (engine.dir().join("source.raw"), engine.dir().join("said"));
        random_image(&source, SIZE, 77);
        let point = crate::life::point(&engine, "web01");
        Self {
            engine,
            source,
            said,
            point,
        }
    }

    fn add_disk(&self) {
        let content = self.engine.dir().join("content.raw");
        sparse_image(&content, SIZE, 5);
        self.engine
            .add_disk(&json!({"name": "web01", "size": SIZE, "format": "raw", "content": content}));
    }

    /// Asserts that the disk begins with the source, as far as `dd` has come. The rest is not compared: it is
    /// old, or more of the source, since an unanswered write may have arrived.
    #[track_caller]
    fn assert_begins_with_what_dd_wrote(&self) {
        let length = written(&self.said);
        assert!(length > 0, "dd had not begun, so the test proves nothing");
        let disk = self.engine.disk("web01").expect("the disk is there");
        assert_eq!((disk.status.as_str(), disk.locked_by.len()), ("ok", 0));
        let mut compare = std::process::Command::new("cmp");
        compare.args(["-n", &length.to_string()]).arg(&disk.path);
        run(compare.arg(&self.source), 60).ok();
    }

    fn wait_until_dd_writes(&self) {
        wait_until("dd writes", 40, || {
            let ran = self.engine.run(
                [
                    "status".as_ref(),
                    "-o".as_ref(),
                    "json".as_ref(),
                    self.point.as_os_str(),
                ],
                20,
            );
            let status: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap_or_default();
            status["bytes_written"].as_u64() > Some(2 * MIB)
        });
    }
}

#[test]
fn sigterm_to_a_mount_under_dd_keeps_every_byte_that_dd_was_told_of() {
    let mut setting = Setting::new();
    setting.add_disk();
    // The mountpoint is a directory, so that no file is left for `dd` to write once the mount is gone.
    setting.point = setting.engine.dir().join("mnt");
    std::fs::create_dir(&setting.point).expect("make the mountpoint");
    let mut command = setting.engine.program();
    command
        .args(setting.engine.args())
        .args(["--disk", "web01", "--foreground"]);
    let mut mount = Foreground::start(command.arg(&setting.point), &setting.point);
    let target = format!("'{}/disk'", setting.point.display());
    // dd runs over and over, until it fails.
    let script = format!(
        "while {}; do :; done; exit 9",
        dd(&setting.source, &target, "direct", &setting.said)
    );
    let writing = std::thread::spawn(move || crate::support::run::sh::<&str>(&script, [], 120));
    setting.wait_until_dd_writes();
    mount.signal(Signal::SIGTERM);
    assert_eq!(mount.wait(60).code(), Some(DONE), "{}", mount.stderr());
    let ran = writing.join().expect("dd ends");
    assert_eq!(ran.code, Some(9), "{ran}");
    setting.assert_begins_with_what_dd_wrote();
    assert_nothing_deleted(&setting.engine);
    assert!(setting.engine.state_files().is_empty());
}

/// Runs `dd` as COMMAND, sends `to_command` to it, or without one SIGTERM to rhv-mount, and asserts the exit
/// code.
fn signal_under_a_command(made: bool, to_command: Option<Signal>, expected: i32) -> Setting {
    let setting = Setting::new();
    let args = match made {
        true => ["--create", "web01", "--size", "256M", "--storage-domain", "data"]
            .map(str::to_owned)
            .to_vec(),
        false => {
            setting.add_disk();
            crate::rig::existing("web01")
        }
    };
    let pid = setting.engine.dir().join("pid");
    let script = format!(
        "echo $$ >'{}'; exec {}",
        pid.display(),
        // dsync makes each write wait for the storage, so that dd takes seconds.
        dd(&setting.source, "{}", "direct,dsync", &setting.said)
    );
    let mut command = crate::life::command(&setting.engine, &args, &setting.point, &script);
    let mut mount = Foreground::spawn(&mut command);
    setting.wait_until_dd_writes();
    match to_command {
        Some(signal) => {
            let pid = text(&pid).trim().parse().expect("COMMAND's pid");
            kill(Pid::from_raw(pid), signal).expect("signal COMMAND");
        }
        None => mount.signal(Signal::SIGTERM),
    }
    assert_eq!(mount.wait(60).code(), Some(expected), "{}", mount.stderr());
    assert!(setting.engine.state_files().is_empty());
    assert!(!setting.point.exists(), "the mountpoint is left");
    setting
}

#[test]
fn sigterm_under_a_command_is_passed_on_and_a_disk_that_was_there_is_freed() {
    let setting = signal_under_a_command(false, None, 128 + 15);
    let disk = setting.engine.disk("web01").expect("the disk is kept");
    assert_eq!((disk.status.as_str(), disk.locked_by.len()), ("ok", 0));
    assert_nothing_deleted(&setting.engine);
}

#[test]
fn sigkill_of_a_command_frees_a_disk_that_was_there() {
    let setting = signal_under_a_command(false, Some(Signal::SIGKILL), 128 + 9);
    let disk = setting.engine.disk("web01").expect("the disk is kept");
    assert_eq!((disk.status.as_str(), disk.locked_by.len()), ("ok", 0));
    let mut compare = std::process::Command::new("cmp");
    compare.args(["-n", &MIB.to_string()]).arg(&disk.path);
    run(compare.arg(&setting.source), 60).ok();
    assert_nothing_deleted(&setting.engine);
}

#[test]
fn sigterm_or_sigkill_of_a_command_removes_a_disk_that_was_made_for_it() {
    for (to_command, expected) in [(None, 128 + 15), (Some(Signal::SIGKILL), 128 + 9)] {
        let setting = signal_under_a_command(true, to_command, expected);
        wait_until("the disk is removed", 30, || {
            setting.engine.disk("web01").is_none()
        });
    }
}
