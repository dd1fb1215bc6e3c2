//! Faults of the engine in a backup: each ends in a right outcome, a message with its cause, and
//! nothing left behind.

use serde_json::{Value, json};

use crate::backup_chains::checkpoints;
use crate::backups::{assert_holds, assert_nothing_left, back_up, command_for, manifests, web};
use crate::rig::{ENGINE_FAILED, assert_told};
use crate::support::engine::Engine;
use crate::support::run::{Ran, run, wait_until};

fn events(engine: &Engine) -> Vec<u64> {
    let events = engine.state("events");
    let all = events.as_array().expect("events").iter();
    all.filter_map(|event| event["code"].as_u64()).collect()
}

fn backups(engine: &Engine) -> usize {
    engine.log("backup_created").len()
}

/// Backs up in spite of a switch, and asserts that all is well.
#[track_caller]
fn in_spite_of(switch: &Value, args: &[&str]) -> (Engine, Ran) {
    let engine = Engine::start();
    let disks = web(&engine, "up", "4.7");
    engine.switch(switch);
    let ran = back_up(&engine, args).ok();
    for (disk, content) in &disks {
        assert_holds(&engine, &manifests(&engine)[0], &disk.id, content);
    }
    assert_nothing_left(&engine, &ran);
    (engine, ran)
}

/// The engine is never given an id, and the words in the description find the backup.
#[test]
fn a_start_whose_answer_is_lost_is_found_and_never_made_twice() {
    let order = json!({"switch": "cut_after", "times": 1, "match": "^POST .*/backups(\\?.*)?$"});
    let (engine, _) = in_spite_of(&order, &[]);
    assert_eq!(backups(&engine), 1);
    for created in engine.log("backup_created") {
        assert!(created.get("own_id").is_none(), "{created}");
    }
    let bodies = engine.log("request");
    let started = bodies.iter().find(|one| {
        one["method"] == "POST"
            && one["path"]
                .as_str()
                .is_some_and(|path| path.ends_with("/backups"))
    });
    let body = &started.expect("a start")["body"];
    assert!(body.get("id").is_none(), "{body}");
}

#[test]
fn a_live_backup_is_asked_for_by_both_parameters() {
    let engine = Engine::start();
    web(&engine, "up", "4.7");
    back_up(&engine, &["--live"]).ok();
    assert_eq!(engine.log("backup_created")[0]["backup_kind"], "live");
    let asked = engine.requests("POST", "/backups");
    let query = &asked[0]["query"];
    assert_eq!(
        (&query["legacy"], &query["use_active"]),
        (&json!("true"), &json!("true")),
        "{query}"
    );
}

#[test]
fn transfers_that_the_engine_still_takes_for_active_are_waited_for() {
    in_spite_of(&json!({"switch": "finalize_conflict", "times": 2}), &[]);
}

/// A finalized hybrid backup stays ready for a while, and a second finalize would be a fault.
#[test]
fn a_backup_that_stays_ready_after_its_finalize_is_waited_for() {
    let (engine, _) = in_spite_of(&json!({"switch": "finalize_lag", "value": 3.0, "times": 1}), &[]);
    assert_eq!(
        engine
            .requests("POST", "/finalize")
            .iter()
            .filter(|one| one["path"]
                .as_str()
                .is_some_and(|path| path.contains("/backups/")))
            .count(),
        1
    );
}

#[test]
fn a_finalize_whose_answer_is_lost_ends_the_backup_once() {
    let order = json!({"switch": "cut_after", "times": 1, "match": "^POST .*/backups/.*/finalize$"});
    in_spite_of(&order, &["--live"]);
    in_spite_of(&order, &[]);
}

/// A 404 after the end says neither that it went well nor that it failed.
#[test]
fn the_end_of_a_backup_that_the_engine_has_forgotten_is_read_from_the_events() {
    let (engine, ran) = in_spite_of(&json!({"switch": "backup_vanishes", "value": "succeeded"}), &[]);
    assert!(engine.state("backups").as_array().expect("backups").is_empty());
    assert!(!ran.stderr.contains("forgotten"), "{ran}");
}

/// Asserts that a backup that can't begin fails with these words, and leaves nothing.
#[track_caller]
fn fails(switch: &Value, args: &[&str], words: &[&str]) {
    let engine = Engine::start();
    web(&engine, "up", "4.7");
    engine.switch(switch);
    let ran = back_up(&engine, args);
    assert_told(&ran, &[ENGINE_FAILED], words);
    assert!(manifests(&engine).is_empty(), "{ran}");
    assert!(checkpoints(&engine).is_empty(), "{ran}");
    assert_nothing_left(&engine, &ran);
}

/// A second backup would meet the same refusal, after a wait for the merge of the first one.
#[test]
fn a_transfer_that_the_engine_refuses_costs_no_second_backup() {
    let engine = Engine::start();
    let disks = web(&engine, "up", "4.7");
    back_up(&engine, &[]).ok();
    engine.switch(&json!({"switch": "transfer_fault", "value": "refused", "match": "root"}));
    let ran = back_up(&engine, &[]);
    assert_told(&ran, &[ENGINE_FAILED], &["(root) is not backed up"]);
    assert!(!ran.stderr.contains("its changes can't be read"), "{ran}");
    assert_eq!(backups(&engine), 2, "{ran}");
    let manifest = &manifests(&engine)[1];
    assert_eq!(manifest["failed"][0]["id"], json!(disks[0].0.id), "{manifest}");
    assert_nothing_left(&engine, &ran);
}

#[test]
fn a_backup_that_fails_before_it_is_ready_is_told_with_the_engines_reason() {
    fails(
        &json!({"switch": "backup_fails"}),
        &[],
        &["has failed before any disk could be read", "10792"],
    );
    fails(
        &json!({"switch": "backup_vanishes"}),
        &[],
        &["has failed before any disk could be read", "10792"],
    );
    fails(
        &json!({"switch": "scratch_fails"}),
        &["--live"],
        &["10806", "make room"],
    );
}

#[test]
fn a_guest_that_can_not_be_frozen_is_a_failure_only_where_that_is_asked_for() {
    fails(
        &json!({"switch": "freeze_fails"}),
        &["--require-consistency"],
        &["has failed before any disk could be read"],
    );
    in_spite_of(&json!({"switch": "freeze_fails"}), &["--live"]);
}

#[test]
fn a_disk_that_the_engine_leaves_out_without_a_word_is_named() {
    let engine = Engine::start();
    let disks = web(&engine, "up", "4.7");
    engine.switch(&json!({"switch": "disk_dropped", "match": "data"}));
    let ran = back_up(&engine, &[]);
    assert_told(
        &ran,
        &[ENGINE_FAILED],
        &["(data) is not backed up", "has left it out"],
    );
    let manifest = &manifests(&engine)[0];
    assert_holds(&engine, manifest, &disks[0].0.id, &disks[0].1);
    assert_eq!(manifest["failed"][0]["name"], "data", "{manifest}");
    assert_nothing_left(&engine, &ran);
}

#[test]
fn a_snapshot_that_the_engine_leaves_is_named_with_what_to_do() {
    let engine = Engine::start();
    let disks = web(&engine, "up", "4.7");
    engine.switch(&json!({"switch": "snapshot_left", "times": 1}));
    let ran = back_up(&engine, &[]);
    let backup = engine.state("backups")[0].clone();
    let snapshot = backup["snapshot"]["id"].as_str().expect("a snapshot");
    assert!(events(&engine).contains(&10813));
    assert_told(&ran, &[ENGINE_FAILED], &[snapshot, "delete that snapshot"]);
    for (disk, content) in &disks {
        assert_holds(&engine, &manifests(&engine)[0], &disk.id, content);
    }
    assert!(engine.state_files().is_empty(), "{ran}");
    // The next one tells of it, too.
    let ran = back_up(&engine, &[]).ok();
    assert!(
        ran.stderr.contains(snapshot) && ran.stderr.contains("left over"),
        "{ran}"
    );
}

/// Each refusal is told with its cause and the remedy, and nothing is begun.
#[test]
fn a_refusal_names_its_cause_and_the_remedy() {
    let engine = Engine::start();
    web(&engine, "up", "4.7");
    for (detail, remedy) in [
        (
            "[Cannot backup VM: VM is previewing a Snapshot.]",
            "undo the preview",
        ),
        ("[Cannot backup VM: VM is neither up nor down.]", "has to go on"),
        ("[Cannot backup VM: The host is outdated.]", "4.4.5"),
    ] {
        engine.clear_switches();
        engine.switch(&json!({"switch": "fault", "match": "^POST .*/backups(\\?.*)?$",
            "value": {"status": 409, "detail": detail}}));
        let ran = back_up(&engine, &[]);
        assert_told(
            &ran,
            &[ENGINE_FAILED],
            &[detail.trim_matches(['[', ']', '.']), remedy],
        );
        assert_nothing_left(&engine, &ran);
    }
    assert_eq!(backups(&engine), 0);
}

/// A live backup blocks the next one of its VM, and its disks are locked, until it has ended.
#[test]
fn two_backups_of_a_vm_into_two_directories_follow_each_other() {
    let engine = Engine::start();
    let disks = web(&engine, "up", "4.7");
    engine.switch(&json!({"switch": "slow", "value": 2.0, "match": "^POST .*/imagetransfers$"}));
    let other = engine.dir().join("elsewhere");
    let (first, second) = std::thread::scope(|scope| {
        let first = scope.spawn(|| back_up(&engine, &["--live"]));
        wait_until("the first one is ready", 60, || {
            engine.state("backups")[0]["phase"] == "ready"
        });
        let second = run(&mut command_for(&engine, "web", &["--live"], &other), 300);
        (first.join().expect("it runs"), second)
    });
    first.ok();
    let second = second.ok();
    for (disk, content) in &disks {
        assert_holds(&engine, &manifests(&engine)[0], &disk.id, content);
    }
    assert_eq!(backups(&engine), 2);
    assert_nothing_left(&engine, &second);
}

#[test]
fn disks_that_something_else_has_locked_are_waited_for() {
    let detail = "[Cannot backup VM: The following disks are locked: root. Please try again.]";
    in_spite_of(
        &json!({"switch": "fault", "times": 2, "match": "^POST .*/backups(\\?.*)?$",
        "value": {"status": 409, "detail": detail}}),
        &["--live"],
    );
}

/// Its qemu is the server of the disks in a live backup, and finalize takes the missing one for the end.
#[test]
fn a_vm_that_is_powered_off_in_its_live_backup_is_told_and_nothing_stays_locked() {
    for crashed in [false, true] {
        let engine = Engine::start();
        web(&engine, "up", "4.7");
        engine.switch(&json!({"switch": "slow", "value": 10.0, "match": "^POST .*/imagetransfers$"}));
        let ran = std::thread::scope(|scope| {
            let running = scope.spawn(|| back_up(&engine, &["--live"]));
            wait_until("the backup is ready", 60, || {
                engine.state("backups")[0]["phase"] == "ready"
            });
            engine.change_vm("web", &json!({"status": "down", "crashed": crashed}));
            running.join().expect("it runs")
        });
        assert_told(
            &ran,
            &[ENGINE_FAILED],
            &["is not backed up", "was powered off", "back it up again"],
        );
        assert!(
            manifests(&engine).is_empty() && checkpoints(&engine).is_empty(),
            "{ran}"
        );
        assert_nothing_left(&engine, &ran);
        // The next one is of a VM that is down.
        engine.clear_switches();
        let ran = back_up(&engine, &[]).ok();
        assert_nothing_left(&engine, &ran);
    }
}

#[test]
fn a_vm_that_is_in_another_backup_is_waited_for() {
    let engine = Engine::start();
    web(&engine, "up", "4.7");
    engine.switch(
        &json!({"switch": "fault", "times": 2, "match": "^POST .*/backups(\\?.*)?$",
        "value": {"status": 409, "detail": "[Cannot backup VM: The VM is during a backup operation.]"}}),
    );
    let ran = back_up(&engine, &[]).ok();
    assert_nothing_left(&engine, &ran);
}
