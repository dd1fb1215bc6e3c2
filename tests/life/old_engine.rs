//! An engine before 4.4.7 forgets a transfer as soon as it has ended, so only the disk shows the outcome.

use serde_json::json;

use crate::rig::{
    DATA_MAY_BE_LOST, assert_free, assert_nothing_deleted, assert_told, copy_command, create, existing, over,
    source, used_disk,
};
use crate::support::engine::Engine;
use crate::support::run::wait_until;

fn old_engine() -> Engine {
    Engine::with(["--engine-version", "4.4.6", "--unlock-delay", "0.5"])
}

#[test]
fn disks_are_filled_and_changed_as_with_a_newer_one() {
    let engine = old_engine();
    let source = source(&engine, 101);
    let script = copy_command(&source);
    over(&engine, &create("new"), &script).ok();
    assert_free(&engine, "new", &source);
    used_disk(&engine, "old", "cow");
    over(&engine, &existing("old"), &script).ok();
    assert_free(&engine, "old", &source);
    // The disk is really free: the next mount starts at once.
    over(&engine, &existing("old"), "true").ok();
    assert!(engine.transfers().is_empty());
    assert_nothing_deleted(&engine);
    assert!(engine.state_files().is_empty());
}

#[test]
fn a_created_disk_is_gone_after_a_failure() {
    let engine = old_engine();
    let ran = over(&engine, &create("new"), "exit 42");
    assert_told(&ran, &[42], &[]);
    wait_until("the disk is removed", 60, || engine.disks().is_empty());
    assert!(engine.state_files().is_empty());
}

#[test]
fn a_disk_that_is_illegal_or_gone_after_the_end_is_a_loss() {
    let engine = Engine::start();
    for (outcome, word) in [("illegal", "illegal"), ("removed", "gone|removed|locked")] {
        used_disk(&engine, outcome, "raw");
        engine.switch(&json!({"switch": "finalize_vanish", "value": outcome, "times": 1, "match": outcome}));
        let ran = over(&engine, &existing(outcome), "true");
        assert_told(&ran, &[DATA_MAY_BE_LOST], &[word]);
    }
    assert_nothing_deleted(&engine);
}
