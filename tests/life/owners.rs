//! A mount that is at work is nobody else's to end, wherever `recover` runs; and what `recover` ends, it ends
//! alone.

use std::ffi::OsString;
use std::path::Path;
use std::process::Command;

use serde_json::json;

use crate::existing::{expected, write_and_sync};
use crate::recovering::recover;
use crate::rig::{
    MOUNT_FAILED, assert_free, assert_nothing_deleted, assert_told, existing, state_file, used_disk,
};
use crate::support::content::MIB;
use crate::support::engine::{Engine, PASSWORD};
use crate::support::mount::{APART, clean_environment};
use crate::support::redaction::assert_shows_none;
use crate::support::run::{Ran, is_root, run, wait_until};

/// Runs `rhv-mount recover OPTIONS POINT` in a PID namespace of its own, where no process of this one is
/// seen: as in another container, or on another machine.
fn recover_elsewhere(engine: &Engine, options: &[&str], point: &Path) -> Ran {
    let mut args: Vec<OsString> = ["--pid", "--fork", "--mount-proc", "--", APART]
        .map(OsString::from)
        .to_vec();
    args.extend([engine.tool().get_program().to_owned(), "recover".into()]);
    args.extend(options.iter().map(OsString::from));
    args.extend(engine.args());
    args.push(point.into());
    let mut unshare = Command::new("unshare");
    clean_environment(&mut unshare);
    let ran = run(unshare.args(args), 60);
    assert_shows_none(&ran, &[PASSWORD]);
    ran
}

/// The note is written anew by the renewal, and is the mount's all the time.
#[test]
fn a_mount_that_is_not_seen_from_here_is_not_recovered_from_under_its_user() {
    if !is_root() {
        return;
    }
    let engine = Engine::start();
    let (disk, content) = used_disk(&engine, "web01", "raw");
    let mount = engine.mounting(existing("web01")).start();
    write_and_sync(&mount.file(), MIB, MIB, 61);
    for renewed in [false, true] {
        if renewed {
            assert_eq!(engine.switch(&json!({"switch": "ticket_remove"}))["met"], 1);
            write_and_sync(&mount.file(), 2 * MIB, MIB, 62);
            assert_eq!(engine.transfers().len(), 2);
        }
        for options in [vec![], vec!["--finalize"]] {
            let ran = recover_elsewhere(&engine, &options, mount.mountpoint());
            assert_told(&ran, &[MOUNT_FAILED], &["is served by", "rhv-mount umount"]);
            assert_eq!(engine.transfer().phase, "transferring", "{ran}");
        }
    }
    write_and_sync(&mount.file(), 3 * MIB, MIB, 63);
    let status = mount.status(&[]).ok().stdout;
    assert!(status.contains("mounted"), "{status}");
    mount.umount().ok();
    let content = expected(&content, MIB, MIB, 61);
    let content = expected(&content, 2 * MIB, MIB, 62);
    assert_free(&engine, &disk.id, &expected(&content, 3 * MIB, MIB, 63));
    assert_nothing_deleted(&engine);
}

/// The remains of a killed mount can be ended from anywhere: its lock is free.
#[test]
fn a_killed_mount_is_recovered_from_another_pid_namespace() {
    if !is_root() {
        return;
    }
    let engine = Engine::start();
    let (disk, content) = used_disk(&engine, "web01", "raw");
    let mount = engine.mounting(existing("web01")).start();
    write_and_sync(&mount.file(), MIB, MIB, 64);
    mount.kill();
    recover_elsewhere(&engine, &[], mount.mountpoint()).ok();
    assert_free(&engine, &disk.id, &expected(&content, MIB, MIB, 64));
    assert!(state_file(mount.mountpoint()).is_none());
    assert_nothing_deleted(&engine);
}

/// The second `recover` comes while the first one waits for the engine.
#[test]
fn two_recovers_at_once_end_a_transfer_once() {
    let engine = Engine::start();
    let (disk, content) = used_disk(&engine, "web01", "raw");
    let mount = engine.mounting(existing("web01")).start();
    write_and_sync(&mount.file(), MIB, MIB, 65);
    let point = mount.mountpoint().to_path_buf();
    mount.kill();
    engine.switch(&json!({"switch": "finalize_slow", "value": 15}));
    std::thread::scope(|scope| {
        let first = scope.spawn(|| recover(&engine, &[], Some(&point)));
        wait_until("it asks to finalize", 30, || {
            !engine.requests("POST", "/finalize").is_empty()
        });
        let second = recover(&engine, &[], Some(&point));
        let said = second.stdout.clone() + &second.stderr;
        assert!(said.contains("another `rhv-mount recover`"), "{second}");
        first.join().expect("the first recover").ok();
    });
    assert_eq!(engine.requests("POST", "/finalize").len(), 1);
    assert_free(&engine, &disk.id, &expected(&content, MIB, MIB, 65));
    assert!(state_file(&point).is_none());
}
