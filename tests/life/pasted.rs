//! The command lines in messages: each does what the message says when it is pasted into a shell, whatever
//! the mountpoint is called, and also where several mounts have left something on it.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use crate::left_behind::{kill, mount_on};
use crate::recovering::recover;
use crate::rig::{
    DATA_MAY_BE_LOST, LIMIT, MOUNT_FAILED, assert_free, assert_nothing_deleted, assert_told, command,
    existing, used_disk,
};
use crate::support::engine::Engine;
use crate::support::mount::{BINARY, is_mounted};
use crate::support::run::{Ran, run, sh};

/// A mountpoint that a shell has to have in quotes.
fn strange_point(engine: &Engine) -> PathBuf {
    engine.dir().join("it's $HOME; \"really\".raw")
}

/// Returns the command between backquotes that begins with `begin`.
#[track_caller]
fn line_in(ran: &Ran, begin: &str) -> String {
    let (_, rest) = ran
        .stderr
        .split_once(&format!("`{begin}"))
        .unwrap_or_else(|| panic!("no `{begin}: {ran}"));
    let (line, _) = rest.split_once('`').expect("the end of the command");
    format!("{begin}{line}")
}

fn paste(line: &str) -> Ran {
    let programs = Path::new(BINARY).parent().expect("a directory");
    let script = r#"cd /; PATH=$1:$PATH; eval "$2""#;
    sh(script, [programs.as_os_str(), OsStr::new(line)], 90)
}

#[test]
fn the_line_that_ends_a_live_mount_works_on_any_path() {
    let engine = Engine::start();
    let (disk, content) = used_disk(&engine, "web01", "raw");
    let point = strange_point(&engine);
    for (number, by) in ["recover", "a second mount", "another disk"].iter().enumerate() {
        mount_on(&engine, "web01", &point).ok();
        let ran = match number {
            0 => recover(&engine, &[], Some(&point)),
            1 => mount_on(&engine, "web01", &engine.dir().join("other.raw")),
            _ => mount_on(&engine, "web02", &point),
        };
        assert!(!ran.success(), "{by}: {ran}");
        paste(&line_in(&ran, "rhv-mount umount ")).ok();
        assert!(!is_mounted(&point), "{by}: {ran}");
        assert_free(&engine, &disk.id, &content);
    }
}

/// Both are left paused on one mountpoint, and `recover --finalize` wants to be told which.
#[test]
fn the_line_that_ends_a_left_transfer_works_beside_another_one_on_the_same_mountpoint() {
    let engine = Engine::start();
    let point = strange_point(&engine);
    let script = format!(
        "{}; dd if=/dev/urandom of=\"$RHV_MOUNT_FILE\" bs=1M count=4 conv=notrunc status=none || true",
        engine.kill_storage_line()
    );
    let mut lines = Vec::new();
    for name in ["web01", "web02"] {
        used_disk(&engine, name, "raw");
        let ran = run(&mut command(&engine, &existing(name), &point, &script), LIMIT);
        assert_told(&ran, &[DATA_MAY_BE_LOST], &["left paused", name]);
        lines.push((name, line_in(&ran, "rhv-mount recover --finalize ")));
    }
    let refused = recover(&engine, &["--finalize"], Some(&point));
    assert!(!refused.success(), "{refused}");
    for (name, line) in &lines {
        let left = engine.disk(name).expect("the disk is there");
        assert_eq!(left.status, "locked");
        let ran = paste(line).ok();
        let freed = engine.disk(name).expect("the disk is there");
        assert_eq!((freed.status.as_str(), freed.locked_by.len()), ("ok", 0), "{ran}");
    }
    assert_nothing_deleted(&engine);
    assert!(engine.state_files().is_empty());
}

#[test]
fn the_line_that_removes_a_dead_mount_works_on_any_path() {
    let engine = Engine::start();
    let (disk, content) = used_disk(&engine, "web01", "raw");
    let point = strange_point(&engine);
    mount_on(&engine, "web01", &point).ok();
    kill(&point);
    let ran = mount_on(&engine, "web01", &point);
    assert_told(&ran, &[MOUNT_FAILED], &["whose process died"]);
    let ran = paste(&line_in(&ran, "rhv-mount umount "));
    assert_told(&ran, &[DATA_MAY_BE_LOST], &["may be lost"]);
    assert!(!is_mounted(&point), "{ran}");
    paste(&line_in(&ran, "rhv-mount recover ")).ok();
    assert_free(&engine, &disk.id, &content);
}
