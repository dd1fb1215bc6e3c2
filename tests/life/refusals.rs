//! Requests that the engine does not allow, or for missing objects: one line says what failed, why, and what
//! to do; the exit code is right; and nothing was created or locked.

use serde_json::json;

use crate::rig::{
    ENGINE_FAILED, MOUNT_FAILED, USAGE, assert_nothing_deleted, assert_refused, create, existing, over,
    used_disk,
};
use crate::support::content::MIB;
use crate::support::engine::Engine;

#[test]
fn a_storage_domain_that_is_not_there_is_answered_with_those_that_are() {
    let engine = Engine::start();
    let mut args = create("web01");
    for (name, words) in [
        ("dtaa", vec!["dtaa", "data", "san"]),
        ("DATA", vec!["DATA", "san"]),
        ("lost", vec!["lost", "attached|data center"]),
        ("two words", vec!["two words", "data", "san"]),
    ] {
        args[5] = name.into();
        let ran = over(&engine, &args, "true");
        assert_refused(&ran, &[USAGE, ENGINE_FAILED], &words);
    }
    assert!(engine.log("disk_created").is_empty());
    assert_nothing_deleted(&engine);
}

#[test]
fn a_name_of_no_disk_is_answered_with_those_that_are() {
    let engine = Engine::start();
    for name in ["web01", "web02"] {
        engine.add_disk(&json!({"name": name, "size": MIB}));
    }
    for wanted in [
        "web03",
        "web",
        "WEB01",
        "web0*",
        "0f3c2d4e-88f5-4a59-b1a9-3c6e2f1d7a60",
    ] {
        let ran = over(&engine, &existing(wanted), "true");
        assert_refused(&ran, &[USAGE, ENGINE_FAILED], &[wanted, "web01", "web02"]);
    }
    assert!(engine.log("transfer_created").is_empty());
}

#[test]
fn a_name_of_several_disks_is_answered_with_their_ids() {
    let engine = Engine::start();
    let disks = [1, 2].map(|n| engine.add_disk(&json!({"name": "web01", "size": n * MIB})));
    let ran = over(&engine, &existing("web01"), "true");
    let words = ["web01", &disks[0].id, &disks[1].id, "1048576", "2097152"];
    assert_refused(&ran, &[USAGE, ENGINE_FAILED], &words);
    over(
        &engine,
        &existing(&disks[1].id),
        "test $(stat -c %s {}) = 2097152",
    )
    .ok();
}

#[test]
fn a_disk_of_a_running_vm_is_refused_at_once() {
    let engine = Engine::start();
    let disk = engine.add_disk(&json!({"name": "web01", "size": MIB, "vm": "web", "vm_up": true}));
    let ran = over(&engine, &existing("web01"), "true");
    assert_refused(&ran, &[ENGINE_FAILED], &["409", "web01", "attached to VMs"]);
    assert!(ran.took.as_secs() < 25, "{ran}");
    // A disk of a VM that is down is like any other.
    engine.change_disk(&disk.id, &json!({"vm_up": false}));
    over(&engine, &existing("web01"), "true").ok();
    assert_nothing_deleted(&engine);
}

#[test]
fn an_illegal_disk_is_refused_at_once() {
    let engine = Engine::start();
    engine.add_disk(&json!({"name": "bad", "size": MIB, "status": "illegal"}));
    let ran = over(&engine, &existing("bad"), "true");
    assert_refused(&ran, &[ENGINE_FAILED], &["bad", "illegal"]);
    assert!(ran.took.as_secs() < 25, "{ran}");
}

/// A bad mountpoint is reported before any request to the engine.
#[test]
fn a_mountpoint_that_cannot_be_used_costs_no_transfer() {
    let engine = Engine::start();
    used_disk(&engine, "web01", "raw");
    let mut args = engine.args();
    args.extend(["--disk".into(), "web01".into(), "/nowhere/at/all".into()]);
    let ran = engine.run(args, 30);
    assert_refused(&ran, &[MOUNT_FAILED], &["/nowhere/at"]);
    assert!(engine.log("transfer_created").is_empty());
}
