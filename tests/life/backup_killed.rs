//! A backup that is killed or stopped: `recover` leaves nothing locked and nothing behind.

use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::backup_chains::checkpoints;
use crate::backups::entry;
use crate::backups::{assert_holds, assert_nothing_left, back_up, command, dir, files, manifests, web};
use crate::recovering::recover;
use crate::rig::{ENGINE_FAILED, LIMIT};
use crate::support::content::Random;
use crate::support::engine::Engine;
use crate::support::foreground::Foreground;
use crate::support::run::{run, wait_until};

fn phase(engine: &Engine) -> Option<String> {
    let backups = engine.state("backups");
    backups[0]["phase"].as_str().map(str::to_owned)
}

/// Kills a backup once `moment` has come, and recovers.
#[track_caller]
fn killed_at(engine: &Engine, args: &[&str], moment: impl Fn(&Engine) -> bool) {
    let mut running = Foreground::spawn(&mut command(engine, args));
    wait_until("the moment has come", 60, || {
        assert!(!running.has_ended(), "it has ended: {}", running.stderr());
        moment(engine)
    });
    running.signal(Signal::SIGKILL);
    running.wait(60);
    engine.clear_switches();
    let ran = recover(engine, &[], Some(&dir(engine))).ok();
    assert_nothing_left(engine, &ran);
    let manifest_files: Vec<Value> = manifests(engine);
    let images = files(engine)
        .iter()
        .filter(|name| name.ends_with(".qcow2"))
        .count();
    let named: usize = manifest_files
        .iter()
        .map(|one| one["disks"].as_array().map_or(0, Vec::len))
        .sum();
    assert_eq!(images, named, "files that no manifest names: {ran}");
    // All is free: the next one works.
    let before = manifest_files.len();
    let ran = back_up(engine, &[]).ok();
    assert_eq!(manifests(engine).len(), before + 1, "{ran}");
    assert_nothing_left(engine, &ran);
    let all = manifests(engine);
    for id in checkpoints(engine) {
        assert!(
            all.iter().any(|one| one["checkpoint"] == json!(id)),
            "{id} is of no backup: {ran}"
        );
    }
}

#[test]
fn a_backup_that_is_killed_before_it_is_ready_is_ended_by_recover() {
    for args in [&[][..], &["--live"]] {
        let engine = Engine::start();
        web(&engine, "up", "4.7");
        engine.switch(&json!({"switch": "backup_stuck", "value": 15.0, "times": 1}));
        killed_at(&engine, args, |engine| {
            phase(engine).is_some_and(|phase| phase == "initializing") && !engine.state_files().is_empty()
        });
    }
}

#[test]
fn a_backup_that_is_killed_before_its_id_was_heard_is_found_by_its_words() {
    let engine = Engine::start();
    web(&engine, "up", "4.7");
    engine.switch(&json!({"switch": "answer_slow", "value": 30.0, "match": "^POST .*/backups(\\?.*)?$"}));
    killed_at(&engine, &[], |engine| phase(engine).is_some());
}

#[test]
fn a_backup_that_is_killed_while_disks_are_copied_leaves_no_transfer_and_no_file() {
    for args in [&[][..], &["--live"]] {
        let engine = Engine::start();
        web(&engine, "up", "4.7");
        // The server's hash is slow enough for a look at the files.
        engine.switch(&json!({"switch": "slow", "value": 8.0, "match": "^POST .*/finalize$"}));
        killed_at(&engine, args, |engine| {
            engine
                .transfers()
                .iter()
                .any(|transfer| transfer.phase == "transferring")
        });
    }
}

#[test]
fn a_backup_that_is_killed_while_its_snapshot_is_merged_keeps_its_files() {
    let engine = Engine::start();
    let disks = web(&engine, "up", "4.7");
    engine.switch(&json!({"switch": "merge_slow", "value": 15.0, "times": 1}));
    killed_at(&engine, &[], |engine| {
        phase(engine).is_some_and(|phase| phase == "finalizing")
    });
    let first = &manifests(&engine)[0];
    for (disk, content) in &disks {
        assert_holds(&engine, first, &disk.id, content);
    }
}

/// The first signal ends all in order.
#[test]
fn a_signal_ends_the_backup_in_the_engine() {
    let engine = Engine::start();
    web(&engine, "up", "4.7");
    engine.switch(&json!({"switch": "backup_stuck", "value": 20.0, "times": 1}));
    let mut running = Foreground::spawn(&mut command(&engine, &["--live"]));
    wait_until("the backup is begun", 60, || phase(&engine).is_some());
    wait_until("its id is noted", 60, || {
        let backup = engine.state("backups")[0]["id"].clone();
        let id = backup.as_str().unwrap_or("none").to_owned();
        let notes = engine.state_files();
        notes
            .iter()
            .any(|note| std::fs::read_to_string(note).is_ok_and(|text| text.contains(&id)))
    });
    running.signal(Signal::SIGTERM);
    let status = running.wait(LIMIT);
    assert_eq!(status.code(), Some(1), "{}", running.stderr());
    assert!(
        running.stderr().contains("the backup is stopped"),
        "{}",
        running.stderr()
    );
    assert!(engine.state_files().is_empty(), "{}", running.stderr());
    let ran = back_up(&engine, &[]).ok();
    assert_nothing_left(&engine, &ran);
}

/// No snapshot is made of a VM for a backup that nobody wants any more.
#[test]
fn a_signal_before_a_backup_is_begun_begins_none() {
    let engine = Engine::start();
    web(&engine, "up", "4.7");
    back_up(&engine, &[]).ok();
    let looks = || engine.requests("GET", "/checkpoints").len();
    let before = looks();
    engine.switch(
        &json!({"switch": "answer_slow", "value": 30.0, "match": "^GET .*/checkpoints$", "times": 1}),
    );
    let mut running = Foreground::spawn(&mut command(&engine, &[]));
    wait_until("it looks for a base", 60, || looks() > before);
    running.signal(Signal::SIGTERM);
    let status = running.wait(LIMIT);
    let said = running.stderr();
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(said.contains("before a backup of it could be made"), "{said}");
    assert_eq!(engine.requests("POST", "/backups").len(), 1, "{said}");
}

/// A disk that waits for a second backup has none, and the exit status says so.
#[test]
fn a_signal_before_a_second_backup_fails_the_disks_that_wait_for_it() {
    let engine = Engine::start();
    let disks = web(&engine, "up", "4.7");
    back_up(&engine, &[]).ok();
    engine.switch(&json!({"switch": "bitmap_missing", "match": "root", "times": 1}));
    engine.switch(&json!({"switch": "merge_slow", "value": 600.0, "times": 1}));
    let mut running = Foreground::spawn(&mut command(&engine, &[]));
    wait_until("it waits for the merge", 60, || {
        running.stderr().contains("another backup follows")
    });
    running.signal(Signal::SIGTERM);
    let status = running.wait(LIMIT);
    let said = running.stderr();
    assert_eq!(status.code(), Some(1), "{said}");
    let (root, _) = &disks[0];
    let line = format!("disk {} (root) is not backed up: stopped by a signal", root.id);
    assert!(said.contains(&line), "{said}");
    let second = &manifests(&engine)[1];
    assert_eq!(second["failed"][0]["id"], json!(root.id), "{second}");
}

/// The wait for a merge may take hours; after a signal an engine that is away is waited for as long as it may
/// need for the transfers, which is two minutes, and `recover` ends the rest.
#[test]
fn a_signal_is_heard_while_the_engine_is_away_at_the_end_of_a_backup() {
    let engine = Engine::start();
    web(&engine, "up", "4.7");
    back_up(&engine, &[]).ok();
    engine.switch(&json!({"switch": "bitmap_missing", "match": "root", "times": 1}));
    engine.switch(&json!({"switch": "finalize_lag", "value": 600.0, "times": 1}));
    let mut running = Foreground::spawn(&mut command(&engine, &[]));
    wait_until("it waits for the end", 60, || {
        running.stderr().contains("another backup follows")
    });
    engine.switch(&json!({"switch": "unavailable"}));
    running.signal(Signal::SIGTERM);
    let status = running.wait(600);
    let said = running.stderr();
    assert_eq!(status.code(), Some(ENGINE_FAILED), "{said}");
    assert!(said.contains("it has not ended in the engine"), "{said}");
    assert!(!engine.state_files().is_empty(), "{said}");
}

/// Without its note nobody would end it, and the VM would stay locked.
#[test]
fn a_backup_that_can_not_be_noted_once_it_is_ready_is_ended_in_the_engine() {
    let engine = Engine::start();
    web(&engine, "up", "4.7");
    engine.switch(&json!({"switch": "backup_stuck", "value": 15.0, "times": 1}));
    let mut running = Foreground::spawn(&mut command(&engine, &["--live"]));
    let noted = |engine: &Engine| {
        let backup = engine.state("backups")[0]["id"].clone();
        let id = backup.as_str().unwrap_or("none").to_owned();
        let notes = engine.state_files();
        let has_id = |note: &std::path::PathBuf| {
            let text = std::fs::read_to_string(note);
            text.is_ok_and(|text| text.contains(&id))
        };
        notes.into_iter().find(has_id)
    };
    wait_until("its id is noted", 60, || noted(&engine).is_some());
    let note = noted(&engine).expect("the note");
    std::fs::remove_file(&note).expect("remove the note");
    std::fs::write(&note, "of somebody else").expect("take its place");
    let status = running.wait(LIMIT);
    assert_ne!(status.code(), Some(0), "{}", running.stderr());
    std::fs::remove_file(&note).expect("what is somebody else's stays");
    wait_until("the backup has ended", 60, || {
        phase(&engine).is_some_and(|phase| phase == "succeeded" || phase == "failed")
    });
    assert!(manifests(&engine).is_empty(), "{}", running.stderr());
}

#[test]
fn what_is_left_is_shown_by_status_and_named_by_recover() {
    let engine = Engine::start();
    web(&engine, "up", "4.7");
    engine.switch(&json!({"switch": "backup_stuck", "value": "forever", "times": 1}));
    let mut running = Foreground::spawn(&mut command(&engine, &["--live"]));
    wait_until("it is begun", 60, || {
        phase(&engine).is_some() && !engine.state_files().is_empty()
    });
    running.signal(Signal::SIGKILL);
    running.wait(60);
    let mut status = engine.tool();
    let ran = run(status.arg("status").arg(dir(&engine)), 20).ok();
    for words in ["backup", "VM", "(web)", "rhv-mount recover"] {
        assert!(ran.stdout.contains(words), "{ran}");
    }
    engine.clear_switches();
    let ran = recover(&engine, &[], Some(&dir(&engine))).ok();
    assert!(
        ran.stdout.contains("backup") && ran.stdout.contains("(web)"),
        "{ran}"
    );
    assert_nothing_left(&engine, &ran);
}

/// Whatever a killed backup was at, `recover` leaves nothing, and the next one is right.
#[test]
fn a_backup_may_be_killed_at_any_moment() {
    let engine = Engine::start();
    let disks = web(&engine, "up", "4.7");
    back_up(&engine, &[]).ok();
    let mut random = Random::new(20);
    for n in 0..20 {
        let args: &[&str] = if n % 3 == 2 { &["--live"] } else { &[] };
        let mut running = Foreground::spawn(&mut command(&engine, args));
        std::thread::sleep(Duration::from_millis(random.below(2500)));
        if !running.has_ended() {
            running.signal(Signal::SIGKILL);
        }
        running.wait(60);
        let ran = recover(&engine, &[], Some(&dir(&engine))).ok();
        assert_nothing_left(&engine, &ran);
    }
    let writes = json!([{"offset": 0, "length": 65536, "pattern": 3}]);
    for (disk, content) in &disks {
        engine.guest_writes(&disk.id, &writes);
        engine.guest_copy(&disk.id, content);
    }
    let ran = back_up(&engine, &[]).ok();
    let all = manifests(&engine);
    let last = all.last().expect("a manifest");
    assert_eq!(entry(last, &disks[0].0.id)["mode"], "incremental", "{ran}");
    for (disk, content) in &disks {
        assert_holds(&engine, last, &disk.id, content);
    }
    let mut check = engine.tool();
    run(check.args(["backup", "--check"]).arg(dir(&engine)), LIMIT).ok();
}
