//! `--since`: a mount tells what has changed since a checkpoint, and its bytes are the guest's everywhere.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::backups::{assert_nothing_left, web};
use crate::rig::{ENGINE_FAILED, SIZE, assert_told};
use crate::support::content::{MIB, compare};
use crate::support::engine::{DiskState, Engine};
use crate::support::run::{Ran, sh};
use crate::vm_backups::{assert_ended_in_order, attribute, in_backup};
use crate::vm_mounts::{over, status};

/// The granularity of the record of changes.
const BLOCK: u64 = 64 << 10;

/// The guest's writes between two points in time, and the ranges in which they show.
fn writes() -> (Value, Value) {
    (
        json!([
            {"offset": MIB, "length": BLOCK, "pattern": 7},
            {"offset": 2 * MIB, "length": MIB, "zero": true},
            {"offset": 5 * MIB + 512, "length": 512, "pattern": 8},
        ]),
        json!([
            {"start": MIB, "length": BLOCK, "zero": false},
            {"start": 2 * MIB, "length": MIB, "zero": true},
            {"start": 5 * MIB, "length": BLOCK, "zero": false},
        ]),
    )
}

/// Mounts a backup, and keeps what the disk `root` has; returns the copy and the checkpoint.
fn first(engine: &Engine, more: &[&str]) -> (PathBuf, String) {
    let (old, known) = (engine.dir().join("old.raw"), engine.dir().join("checkpoint"));
    let script = format!(
        "cp {{}}/root '{}'; python3 -c 'import os, sys; print(os.getxattr(sys.argv[1], \
         \"user.rhv_mount.checkpoint\").decode())' {{}}/root >'{}'",
        old.display(),
        known.display()
    );
    let ran = over(engine, &in_backup(more), &script).ok();
    let checkpoint = fs::read_to_string(known)
        .expect("the checkpoint")
        .trim()
        .to_owned();
    assert!(ran.stderr.contains(&checkpoint), "{ran}");
    (old, checkpoint)
}

/// Returns the ranges that are told of a disk, by the way that its attribute shows.
#[track_caller]
fn told(point: &Path, disk: &str) -> Value {
    let path = attribute(&point.join(disk), "user.rhv_mount.dirty").expect("the attribute");
    assert_eq!(path, format!(".rhv-mount/{disk}.dirty.json"));
    let text = fs::read(point.join(path)).expect("the list");
    serde_json::from_slice(&text).expect("it is JSON")
}

/// The sum of the lengths of the ranges.
fn bytes(ranges: &Value) -> u64 {
    let ranges = ranges.as_array().expect("a list").iter();
    ranges
        .map(|range| range["length"].as_u64().expect("a length"))
        .sum()
}

/// Reads only what has changed, onto a copy of the bytes of the checkpoint.
fn lay_over(ranges: &Value, from: &Path, to: &Path) {
    let (from, to) = (
        File::open(from).expect("open the disk"),
        File::options().write(true).open(to).expect("open the copy"),
    );
    for range in ranges.as_array().expect("a list") {
        let number = |key: &str| range[key].as_u64().expect("a number");
        let mut buffer = vec![0; number("length") as usize];
        if range["zero"] == false {
            from.read_exact_at(&mut buffer, number("start"))
                .expect("read a range");
        }
        to.write_all_at(&buffer, number("start")).expect("write a range");
    }
}

fn exactly(vm_status: &str, level: &str, more: &[&str]) {
    let engine = Engine::start();
    let disks: Vec<DiskState> = web(&engine, vm_status, level)
        .into_iter()
        .map(|(disk, _)| disk)
        .collect();
    let (old, checkpoint) = first(&engine, more);
    let (writes, expected) = writes();
    for disk in &disks {
        engine.guest_writes(&disk.id, &writes);
    }
    let now = engine.dir().join("now.raw");
    engine.guest_copy(&disks[0].id, &now);

    let more = [more, ["--since", checkpoint.as_str()].as_slice()].concat();
    let mount = engine.mounting(in_backup(&more)).start();
    let point = mount.mountpoint();
    if vm_status == "up" {
        engine.guest_writes(
            &disks[0].id,
            &json!([{"offset": 7 * MIB, "length": BLOCK, "pattern": 6}]),
        );
    }
    let ranges = told(point, "root");
    assert_eq!(ranges, expected);
    lay_over(&ranges, &point.join("root"), &old);
    compare(&old, &now).unwrap();
    // The bytes are the guest's also where nothing has changed.
    sh(r#"cmp "$1" "$2""#, [&point.join("root"), &now], 60).ok();
    // The disk with raw volumes has no record of changes, so that all of it is told.
    assert_eq!(bytes(&told(point, "data")), SIZE);
    let said = mount.stderr();
    assert!(said.contains("(data): all of it is told as changed"), "{said}");
    let told = status(&engine, point);
    assert_eq!(told["backup"]["from_checkpoint"], json!(checkpoint), "{told}");
    let ran = mount.umount().ok();
    assert_nothing_left(&engine, &ran);
}

#[test]
fn the_ranges_that_are_told_are_those_that_the_guest_wrote() {
    exactly("up", "4.7", &[]);
}

#[test]
fn the_ranges_are_the_same_without_a_snapshot() {
    exactly("up", "4.7", &["--live"]);
}

#[test]
fn the_ranges_are_the_same_of_a_vm_that_is_down() {
    exactly("down", "4.6", &[]);
}

/// Nothing has changed: the list is empty, and its directory is one like any other.
#[test]
fn the_directory_of_the_lists_can_be_used_with_ordinary_tools_and_not_be_written() {
    let engine = Engine::start();
    web(&engine, "up", "4.7");
    let (_, checkpoint) = first(&engine, &[]);
    let mount = engine.mounting(in_backup(&["--since", &checkpoint])).start();
    let point = mount.mountpoint();
    assert_eq!(told(point, "root"), json!([]));
    let found = sh(r#"cd "$1"; find . -type f | LC_ALL=C sort"#, [point], 20).ok();
    let names: Vec<&str> = found.stdout.lines().collect();
    assert_eq!(
        names,
        [
            "./.rhv-mount/data.dirty.json",
            "./.rhv-mount/root.dirty.json",
            "./data",
            "./root"
        ]
    );
    let beside = point.join(".rhv-mount");
    let mode = |path: &Path| fs::metadata(path).expect("look").permissions().mode() & 0o777;
    assert_eq!(
        (mode(&beside), mode(&beside.join("root.dirty.json"))),
        (0o500, 0o400)
    );
    for script in [
        r#"touch "$1/new""#,
        r#"rm "$1/root.dirty.json""#,
        r#"echo >"$1/root.dirty.json""#,
        r#"ls "$1/root.dirty.json/x""#,
        r#"cat "$1/none""#,
    ] {
        assert!(!sh(script, [&beside], 20).success(), "{script}");
    }
    let copy = engine.dir().join("copy");
    sh(
        r#"cp -r "$1" "$2"; cmp "$1/data.dirty.json" "$2/data.dirty.json""#,
        [&beside, &copy],
        20,
    )
    .ok();
    let read = fs::read_to_string(beside.join("data.dirty.json")).expect("the list");
    assert_eq!(
        read.len() as u64,
        fs::metadata(beside.join("data.dirty.json")).expect("look").len()
    );
    let ran = mount.umount().ok();
    assert_nothing_left(&engine, &ran);
}

/// Nothing is begun with a checkpoint that can't be used.
#[track_caller]
fn refused(engine: &Engine, checkpoint: &str, words: &[&str]) {
    let before = engine.log("backup_created").len();
    let ran = over(engine, &in_backup(&["--since", checkpoint]), "true");
    assert_told(&ran, &[ENGINE_FAILED], words);
    assert_eq!(engine.log("backup_created").len(), before, "{ran}");
    assert_nothing_left(engine, &ran);
    assert_eq!(engine.sessions(), 0, "a session is left open: {ran}");
}

#[test]
fn a_checkpoint_that_is_none_or_invalid_is_refused_before_anything_is_begun() {
    let engine = Engine::start();
    web(&engine, "up", "4.7");
    let unknown = "6f9619ff-8b86-4011-b42d-00c04fc964aa";
    refused(&engine, unknown, &["no checkpoint", unknown, "it has none"]);
    let (_, checkpoint) = first(&engine, &[]);
    refused(&engine, unknown, &["no checkpoint", &checkpoint]);
    let order = json!({"state": "invalid"});
    engine.control(
        "POST",
        &format!("/vms/web/checkpoints/{checkpoint}"),
        Some(&order),
    );
    refused(
        &engine,
        &checkpoint,
        &["invalid by now", "it has none", "leave --since out"],
    );
}

/// The engine deletes the whole chain then (event 10791).
#[test]
fn a_chain_that_can_not_be_defined_anew_is_told_with_what_to_do() {
    let engine = Engine::start();
    web(&engine, "up", "4.7");
    let (_, checkpoint) = first(&engine, &["--live"]);
    engine.switch(&json!({"switch": "redefine_fails", "times": 1}));
    let ran = over(&engine, &in_backup(&["--live", "--since", &checkpoint]), "true");
    assert_told(&ran, &[ENGINE_FAILED], &[&checkpoint, "mount without --since"]);
    assert_nothing_left(&engine, &ran);
    assert!(engine.state("checkpoints").as_array().expect("a list").is_empty());
    let ran = over(&engine, &in_backup(&["--live"]), "true").ok();
    assert_nothing_left(&engine, &ran);
}

#[test]
fn a_bitmap_that_is_missing_fails_its_disk_alone_with_what_to_do() {
    let engine = Engine::start();
    let disks = web(&engine, "up", "4.7");
    let (_, checkpoint) = first(&engine, &[]);
    engine.switch(&json!({"switch": "bitmap_missing", "match": "root", "times": 1}));
    let script = format!(
        "if cat {{}}/root 2>/dev/null; then exit 9; fi; cmp {{}}/data '{}'",
        disks[1].1.display()
    );
    let ran = over(&engine, &in_backup(&["--since", &checkpoint]), &script);
    assert_told(
        &ran,
        &[ENGINE_FAILED],
        &[
            "(root) could not be opened",
            "a mount without --since has the disk",
        ],
    );
    assert_nothing_left(&engine, &ran);
}

/// Mounts with changes under a switch; returns the ranges of `root`.
fn under(switch: &Value) -> (Value, Ran) {
    let engine = Engine::start();
    let disks = web(&engine, "up", "4.7");
    let (_, checkpoint) = first(&engine, &[]);
    engine.guest_writes(&disks[0].0.id, &writes().0);
    engine.switch(switch);
    let kept = engine.dir().join("ranges.json");
    let script = format!("cp {{}}/.rhv-mount/root.dirty.json '{}'", kept.display());
    let ran = over(&engine, &in_backup(&["--since", &checkpoint]), &script).ok();
    assert_ended_twice(&engine, &ran);
    let text = fs::read(kept).expect("the list");
    (serde_json::from_slice(&text).expect("it is JSON"), ran)
}

/// Two backups were begun, and both are over.
#[track_caller]
fn assert_ended_twice(engine: &Engine, ran: &Ran) {
    assert_eq!(engine.log("backup_created").len(), 2, "{ran}");
    assert_nothing_left(engine, ran);
}

#[test]
fn a_server_without_a_record_of_changes_has_all_of_the_disk_told_as_changed() {
    let (ranges, ran) = under(&json!({"switch": "dirty_missing"}));
    assert_eq!(bytes(&ranges), SIZE, "{ranges}");
    let is_zero = |range: &&Value| range["zero"] == true;
    let zeros: Vec<&Value> = ranges
        .as_array()
        .expect("a list")
        .iter()
        .filter(is_zero)
        .collect();
    let expected = json!({"start": 2 * MIB, "length": MIB, "zero": true});
    assert_eq!(zeros, [&expected], "{ran}");
    assert!(ran.stderr.contains("all of it is told as changed"), "{ran}");
}

#[test]
fn extents_that_do_not_tell_zeros_are_told_as_data() {
    let (ranges, ran) = under(&json!({"switch": "extents_without_zero"}));
    let mut expected = writes().1;
    expected[1]["zero"] = json!(false);
    assert_eq!(ranges, expected, "{ran}");
}

#[test]
fn the_first_mount_of_a_chain_ends_in_order() {
    let engine = Engine::start();
    web(&engine, "down", "4.7");
    let ran = over(&engine, &in_backup(&[]), "true").ok();
    assert_ended_in_order(&engine, &ran);
}
