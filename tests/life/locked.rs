//! A disk that somebody has: the refusal, or the wait, names who that is, and what to do is true.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::json;

use crate::rig::{
    ENGINE_FAILED, assert_free, assert_nothing_deleted, assert_refused, assert_told, command, existing, over,
    point, state_file, used_disk,
};
use crate::support::engine::Engine;
use crate::support::foreground::Foreground;
use crate::support::mount::rhv_mount;
use crate::support::run::{is_root, run, wait_until};

fn read_only(name: &str) -> Vec<String> {
    let mut args = existing(name);
    args.push("--read-only".into());
    args
}

/// Nothing is waited for: the disk was found by its name, and was not looked at again.
#[track_caller]
fn assert_not_waited(engine: &Engine, disk: &str) {
    let looks = engine.requests("GET", &format!("/disks/{disk}"));
    assert!(looks.is_empty(), "it was waited for: {looks:?}");
}

#[test]
fn a_second_mount_names_the_mountpoint_and_the_process_of_the_first_and_does_not_wait() {
    let engine = Engine::start();
    let (disk, content) = used_disk(&engine, "web01", "raw");
    let first = engine.mounting(existing("web01")).start();
    let shown = first.mountpoint().display().to_string();
    let process = format!("process {} ", first.server());
    let transfer = engine.transfer().id;
    for args in [existing("web01"), read_only("web01")] {
        let ran = over(&engine, &args, "true");
        let umount = format!("rhv-mount umount {shown}");
        assert_refused(
            &ran,
            &[ENGINE_FAILED],
            &["locked", &disk.id, &transfer, &process, &umount],
        );
        assert!(!ran.stderr.contains("recover"), "it is alive: {ran}");
    }
    assert_not_waited(&engine, &disk.id);
    first.umount().ok();
    over(&engine, &existing("web01"), "true").ok();
    assert_free(&engine, &disk.id, &content);
    assert_nothing_deleted(&engine);
}

/// The engine gives a disk, and a snapshot, to one download at a time too.
#[test]
fn a_second_read_only_mount_is_refused_at_once_with_the_reason() {
    let engine = Engine::start();
    let (disk, content) = used_disk(&engine, "web01", "raw");
    let first = engine.mounting(read_only("web01")).start();
    let shown = first.mountpoint().display().to_string();
    let ran = over(&engine, &read_only("web01"), "true");
    assert_refused(
        &ran,
        &[ENGINE_FAILED],
        &["also to read it", "--disk-snapshot", &shown],
    );
    assert_not_waited(&engine, &disk.id);
    first.umount().ok();
    assert_free(&engine, &disk.id, &content);
}

#[test]
fn a_disk_that_a_killed_mount_has_left_is_refused_with_the_line_that_ends_it() {
    let engine = Engine::start();
    let (disk, content) = used_disk(&engine, "web01", "raw");
    let first = engine.mounting(existing("web01")).start();
    first.kill();
    let line = format!("`rhv-mount recover {}`", engine.transfer().id);
    let ran = over(&engine, &existing("web01"), "true");
    assert_refused(&ran, &[ENGINE_FAILED], &["was killed", &line]);
    assert_not_waited(&engine, &disk.id);
    rhv_mount(None, [Path::new("recover"), first.mountpoint()]).ok();
    over(&engine, &existing("web01"), "true").ok();
    assert_free(&engine, &disk.id, &content);
}

/// Without its note the first mount is somebody's whom only the engine knows.
#[test]
fn the_holder_that_the_engine_names_is_told_while_it_is_waited_for() {
    let engine = Engine::start();
    let (disk, content) = used_disk(&engine, "web01", "raw");
    let first = engine.mounting(existing("web01")).start();
    let transfer = engine.transfer().id;
    fs::remove_file(state_file(first.mountpoint()).expect("its note")).expect("remove the note");
    let point = point(&engine, "second");
    let mut second = Foreground::spawn(&mut command(&engine, &existing("web01"), &point, "true"));
    wait_until("it says what it waits for", 25, || {
        let said = second.stderr();
        said.contains(&transfer) && said.contains("upload") && said.contains("30 s")
    });
    first.umount().ok();
    assert_eq!(second.wait(60).code(), Some(0), "{}", second.stderr());
    assert_free(&engine, &disk.id, &content);
}

/// The first mount has left the tree, and its last bytes are on their way.
#[test]
fn a_disk_whose_mount_is_about_to_end_is_waited_for() {
    let engine = Engine::start();
    let (disk, content) = used_disk(&engine, "web01", "raw");
    let first = engine.mounting(existing("web01")).start();
    engine.switch(&json!({"switch": "finalize_slow", "value": 6, "times": 1}));
    let mut umount = match is_root() {
        true => Command::new("umount"),
        false => Command::new("fusermount3"),
    };
    umount.args((!is_root()).then_some("-u")).arg(first.mountpoint());
    run(&mut umount, 20).ok();
    wait_until("the first one asks to finalize", 30, || {
        !engine.requests("POST", "/finalize").is_empty()
    });
    over(&engine, &existing("web01"), "true").ok();
    first.wait_until_ended();
    assert_free(&engine, &disk.id, &content);
}

/// Somebody has waited for it: a backup, a snapshot, another transfer. What was written is safe, and the end
/// says so.
#[test]
fn a_disk_that_another_takes_right_after_the_end_is_no_failed_end() {
    let engine = Engine::start();
    let (disk, _) = used_disk(&engine, "web01", "raw");
    engine.switch(&json!({"switch": "finalize_slow", "value": 6, "times": 1}));
    let point = point(&engine, "mnt");
    let mut mount = Foreground::spawn(&mut command(&engine, &existing("web01"), &point, "true"));
    wait_until("it asks to finalize", 60, || {
        !engine.requests("POST", "/finalize").is_empty()
    });
    // It looks at the disk when the other one has it.
    let looks = format!("GET .*/disks/{}$", disk.id);
    engine.switch(&json!({"switch": "slow", "value": 5, "match": looks}));
    let transfer = engine.transfer().id;
    wait_until("its transfer is over", 60, || {
        engine
            .phases(&transfer)
            .iter()
            .any(|phase| phase == "finished_success")
    });
    engine.change_disk(&disk.id, &json!({"status": "locked"}));
    engine.clear_switches();
    assert_eq!(mount.wait(120).code(), Some(0), "{}", mount.stderr());
}

/// The engine permits it, and a script that runs twice may not want it.
#[test]
fn a_new_disk_with_the_name_of_another_is_made_with_a_warning() {
    let engine = Engine::start();
    let (old, content) = used_disk(&engine, "web01", "raw");
    let ran = over(&engine, &crate::rig::create("web01"), "true").ok();
    assert_told(&ran, &[0], &["WARNING", "web01", &old.id, "same name"]);
    assert_eq!(engine.disks().len(), 2, "it was made");
    assert_free(&engine, &old.id, &content);
    let ran = over(&engine, &crate::rig::create("web02"), "true").ok();
    assert!(!ran.stderr.contains("same name"), "{ran}");
}
