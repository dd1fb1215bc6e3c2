//! `--progress json` of a disk of an engine: the names of disk and transfer, and the finalize.

use serde_json::{Value, json};

use crate::rig::{create, existing, source, used_disk};
use crate::support::content::MIB;
use crate::support::engine::Engine;
use crate::support::run::{Ran, run};

/// Copies onto the disk, and returns the objects on stderr.
fn copied(engine: &Engine, args: &[String]) -> (Ran, Vec<Value>) {
    let mut program = engine.program();
    program.args(engine.args()).args(args);
    program
        .args(["--progress", "json"])
        .arg(crate::rig::point(engine, "disk"));
    program.args(["--", "cp"]).arg(source(engine, 71)).arg("{}");
    let ran = run(&mut program, 120).ok();
    let objects = ran
        .stderr
        .lines()
        .map(|line| serde_json::from_str(line).expect(line))
        .collect();
    (ran, objects)
}

#[test]
fn disk_transfer_and_finalize_are_told() {
    let engine = Engine::start();
    let (disk, _) = used_disk(&engine, "web01", "raw");
    engine.switch(&json!({"switch": "finalize_slow", "value": 3}));
    let (ran, told) = copied(&engine, &existing("web01"));
    let finalizing = told
        .iter()
        .find(|one| one["stage"] == "finalizing")
        .expect("the finalize is told");
    assert_eq!(
        (
            &finalizing["disk_id"],
            &finalizing["disk_name"],
            &finalizing["transfer"]
        ),
        (&json!(disk.id), &json!("web01"), &json!(engine.transfers()[0].id)),
        "{ran}"
    );
    let last = told.last().expect("a last line");
    assert_eq!(
        (&last["event"], &last["exit_status"], &last["disk_id"]),
        (&json!("ended"), &json!(0), &json!(disk.id)),
        "{ran}"
    );
}

#[test]
fn a_disk_that_fails_to_open_is_an_object_too() {
    let engine = Engine::start();
    let mut program = engine.program();
    program.args(engine.args()).args(existing("missing"));
    program
        .args(["--progress", "json"])
        .arg(crate::rig::point(&engine, "disk"));
    let ran = run(program.args(["--", "true"]), 120);
    let told: Vec<Value> = ran
        .stderr
        .lines()
        .map(|line| serde_json::from_str(line).expect(line))
        .collect();
    assert_eq!(ran.code, Some(4), "{ran}");
    let ended = told
        .iter()
        .find(|one| one["event"] == "ended")
        .expect("the end is told");
    let why = ended["message"].as_str().expect("the reason");
    assert!(
        ended["exit_status"] == 4 && why.contains("no disk missing"),
        "{ran}"
    );
    let message = told.last().expect("a last line");
    assert_eq!(
        (&message["event"], &message["text"]),
        (&json!("message"), &json!(why))
    );
}

/// The size of a new disk is the whole where nothing else is known.
#[test]
fn the_size_of_a_new_disk_is_the_whole_where_no_file_is_named() {
    let engine = Engine::start();
    let mut program = engine.program();
    program.args(engine.args()).args(create("web02"));
    program
        .args(["--progress", "json"])
        .arg(crate::rig::point(&engine, "disk"));
    let script = "head -c 1048576 /dev/urandom | dd of={} bs=1M conv=notrunc,fsync status=none; sleep 3";
    let ran = run(program.args(["--", "sh", "-c", script]), 120).ok();
    let told: Vec<Value> = ran
        .stderr
        .lines()
        .map(|line| serde_json::from_str(line).expect(line))
        .collect();
    let half = |one: &Value| one["bytes_done"] == MIB && one["bytes_total"] == crate::rig::SIZE;
    assert!(told.iter().any(half), "{ran}");
}
