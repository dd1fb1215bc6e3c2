//! `backup`: every disk of a VM at one point in time, in each of the engine's three ways.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::rig::{DATA_MAY_BE_LOST, DONE, ENGINE_FAILED, LIMIT, SIZE, USAGE, assert_told};
use crate::support::content::{MIB, compare, random_image};
use crate::support::engine::{DiskState, Engine, PASSWORD};
use crate::support::redaction::assert_shows_none;
use crate::support::run::{Ran, run, wait_until};

/// A VM `web` with a qcow2 and a raw disk; returns them with their contents.
pub(crate) fn web(engine: &Engine, status: &str, level: &str) -> Vec<(DiskState, PathBuf)> {
    let disks: Vec<(DiskState, PathBuf)> = [("root", "cow", 41), ("data", "raw", 42)]
        .map(|(name, format, seed)| {
            let content = engine.dir().join(format!("content-{seed}"));
            random_image(&content, SIZE, seed);
            let spec = json!({"name": name, "size": SIZE, "format": format, "content": content});
            (engine.add_disk(&spec), content)
        })
        .into();
    let attachments = json!([
        {"disk": disks[0].0.id, "interface": "virtio", "bootable": true},
        {"disk": disks[1].0.id},
    ]);
    engine.add_vms(&json!([{"name": "web", "status": status, "level": level, "attachments": attachments}]));
    disks
}

/// The directory of the backups.
pub(crate) fn dir(engine: &Engine) -> PathBuf {
    engine.dir().join("backups")
}

/// `rhv-mount backup --vm web ARGS DIR`, not yet started.
pub(crate) fn command(engine: &Engine, args: &[&str]) -> Command {
    command_for(engine, "web", args, &dir(engine))
}

/// The same of another VM, or into another directory.
pub(crate) fn command_for(engine: &Engine, vm: &str, args: &[&str], to: &Path) -> Command {
    let mut command = engine.program();
    command.arg("backup").args(["--vm", vm]).args(engine.args());
    command.args(args).arg(to);
    command
}

#[track_caller]
pub(crate) fn back_up(engine: &Engine, args: &[&str]) -> Ran {
    let ran = run(&mut command(engine, args), LIMIT);
    assert_shows_none(&ran, &[PASSWORD]);
    assert!(!ran.timed_out && !ran.stderr.contains("panicked"), "{ran}");
    ran
}

/// Returns the manifests, the oldest first.
#[track_caller]
pub(crate) fn manifests(engine: &Engine) -> Vec<Value> {
    let mut names: Vec<PathBuf> = files(engine)
        .into_iter()
        .filter(|name| name.ends_with(".manifest.json"))
        .map(|name| dir(engine).join(name))
        .collect();
    names.sort();
    let read = |path: &PathBuf| fs::read(path).expect("read a manifest");
    names
        .iter()
        .map(|path| serde_json::from_slice(&read(path)).expect("a manifest is JSON"))
        .collect()
}

/// Returns the names of all files in the directory.
pub(crate) fn files(engine: &Engine) -> Vec<String> {
    let entries = fs::read_dir(dir(engine)).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries
        .map(|entry| entry.file_name().into_string().expect("a name"))
        .collect();
    names.sort();
    names
}

/// Returns what a manifest says of a disk.
#[track_caller]
pub(crate) fn entry<'a>(manifest: &'a Value, disk: &str) -> &'a Value {
    let disks = manifest["disks"].as_array().expect("the disks");
    let found = disks.iter().find(|one| one["id"] == disk);
    found.unwrap_or_else(|| panic!("no {disk}: {manifest}"))
}

/// Asserts that the file of a disk holds these bytes, as QEMU reads it.
#[track_caller]
pub(crate) fn assert_holds(engine: &Engine, manifest: &Value, disk: &str, content: &Path) {
    let name = entry(manifest, disk)["file"].as_str().expect("a file");
    let (from, to) = (dir(engine).join(name), engine.dir().join("restored.raw"));
    let mut convert = Command::new("qemu-img");
    convert
        .args(["convert", "-f", "qcow2", "-O", "raw"])
        .args([&from, &to]);
    run(&mut convert, 60).ok();
    compare(&to, content).unwrap();
    let checked = run(
        Command::new("qemu-img").args(["check", "-f", "qcow2"]).arg(&from),
        60,
    );
    assert!(checked.success(), "{checked}");
}

/// Asserts that the engine has nothing of a backup any more: no transfer, no lock, no snapshot, no session,
/// and no note here.
#[track_caller]
pub(crate) fn assert_nothing_left(engine: &Engine, ran: &Ran) {
    for transfer in engine.transfers() {
        assert!(transfer.phase.starts_with("finished"), "{transfer:?}: {ran}");
    }
    let backups = engine.state("backups");
    for backup in backups.as_array().expect("the backups") {
        let phase = backup["phase"].as_str().unwrap_or_default();
        assert!(["succeeded", "failed"].contains(&phase), "{backup}: {ran}");
    }
    for disk in engine.disks() {
        assert_eq!(disk.status, "ok", "{disk:?}: {ran}");
        assert!(disk.snapshots.is_empty(), "{disk:?}: {ran}");
    }
    assert!(engine.state_files().is_empty(), "a note is left: {ran}");
    let parts: Vec<String> = files(engine)
        .into_iter()
        .filter(|name| name.ends_with(".part"))
        .collect();
    assert!(parts.is_empty(), "{parts:?}: {ran}");
}

/// The guest's writes once the disks are frozen must not be in the backup.
fn at_one_point(status: &str, level: &str, args: &[&str], kind: &str) {
    let engine = Engine::start();
    let disks = web(&engine, status, level);
    if status == "up" {
        engine.switch(&json!({"switch": "slow", "value": 5.0, "match": "^POST .*/imagetransfers$"}));
    }
    let running = std::thread::scope(|scope| {
        let running = scope.spawn(|| back_up(&engine, args));
        if status == "up" {
            wait_until("the backup is ready", 60, || {
                let backups = engine.state("backups");
                backups[0]["phase"] == "ready"
            });
            for (disk, _) in &disks {
                engine.guest_writes(&disk.id, &json!([{"offset": MIB, "length": MIB, "pattern": 9}]));
            }
        }
        running.join().expect("it runs")
    });
    let ran = running.ok();
    assert_nothing_left(&engine, &ran);
    assert_eq!(engine.sessions(), 0, "a session is left open");
    let manifests = manifests(&engine);
    let [manifest] = manifests.as_slice() else {
        panic!("{manifests:?}");
    };
    let checkpoints = engine.state("checkpoints");
    assert_eq!(manifest["checkpoint"], checkpoints[0]["id"], "{manifest}");
    assert_eq!(manifest["kind"], kind, "{manifest}");
    assert_eq!(manifest["version"], 1);
    assert_eq!(manifest["vm"]["name"], "web");
    assert_eq!(manifest["backup"], engine.state("backups")[0]["id"]);
    for (disk, content) in &disks {
        assert_holds(&engine, manifest, &disk.id, content);
        let one = entry(manifest, &disk.id);
        assert_eq!(
            (&one["mode"], &one["size"], &one["backing"], &one["verified_by"]),
            (&json!("full"), &json!(SIZE), &Value::Null, &json!("server")),
        );
        let name = one["file"].as_str().expect("a name");
        let parts: Vec<&str> = name.split('.').collect();
        let checkpoint = manifest["checkpoint"].as_str().expect("a checkpoint");
        assert_eq!(
            parts[1..],
            [checkpoint, disk.id.as_str(), "full", "qcow2"],
            "the SDK's example names it otherwise: {name}"
        );
        assert!(
            parts[0].len() == 14 && parts[0].bytes().all(|byte| byte.is_ascii_digit()),
            "{name}"
        );
        let known = match disk.format.as_str() {
            "raw" => &Value::Null,
            _ => &manifest["checkpoint"],
        };
        assert_eq!(&one["checkpoint"], known, "{manifest}");
        let length = fs::metadata(dir(&engine).join(name)).expect("the file").len();
        assert_eq!(one["file_size"], length);
    }
    let ovf = manifest["configuration"].as_str().expect("a configuration");
    let ovf = fs::read_to_string(dir(&engine).join(ovf)).expect("the OVF");
    for (disk, _) in &disks {
        assert!(ovf.contains(&disk.id), "{ovf}");
    }
}

#[test]
fn a_vm_that_runs_is_backed_up_from_a_snapshot_at_one_point_in_time() {
    at_one_point("up", "4.7", &[], "hybrid");
}

#[test]
fn a_vm_that_runs_is_backed_up_without_a_snapshot_at_one_point_in_time() {
    at_one_point("up", "4.7", &["--live"], "live");
}

#[test]
fn a_vm_that_is_down_is_backed_up() {
    at_one_point("down", "4.6", &[], "cold");
    at_one_point("down", "4.7", &[], "hybrid");
}

#[test]
fn the_configuration_is_that_of_the_moment_of_the_backup() {
    let engine = Engine::start();
    web(&engine, "up", "4.7");
    back_up(&engine, &[]).ok();
    let requests = engine.log("request");
    let asked = requests.iter().find(|one| one["query"]["all_content"] == "true");
    let path = asked.expect("it is asked for")["path"].as_str().expect("a path");
    assert!(path.contains("/snapshots/"), "{path}");
}

#[test]
fn disks_that_do_not_take_part_are_named_and_a_wrong_name_is_refused() {
    let engine = Engine::start();
    let disks = web(&engine, "down", "4.7");
    engine.add_disk(&json!({"name": "shared", "size": SIZE, "shareable": true, "vm": "web"}));
    let ran = back_up(&engine, &["--exclude", "nothing"]);
    assert_told(&ran, &[USAGE], &["--exclude nothing", "no such disk", "root"]);
    assert!(engine.state("backups").as_array().expect("backups").is_empty());
    assert!(!dir(&engine).exists());

    let ran = back_up(&engine, &["--exclude", "data"]).ok();
    for words in ["shareable", "--exclude names it"] {
        assert!(ran.stderr.contains(words), "{ran}");
    }
    let manifest = &manifests(&engine)[0];
    let left: Vec<&str> = manifest["left_out"]
        .as_array()
        .expect("those left out")
        .iter()
        .filter_map(|one| one["name"].as_str())
        .collect();
    assert_eq!(left.len(), 2, "{manifest}");
    assert!(left.contains(&"shared") && left.contains(&"data"), "{manifest}");
    assert_holds(&engine, manifest, &disks[0].0.id, &disks[0].1);
    assert_nothing_left(&engine, &ran);

    let ran = back_up(&engine, &["--include", disks[1].0.id.as_str()]).ok();
    let manifest = &manifests(&engine)[1];
    assert_eq!(manifest["disks"].as_array().expect("disks").len(), 1);
    assert_holds(&engine, manifest, &disks[1].0.id, &disks[1].1);
    assert_nothing_left(&engine, &ran);
}

#[test]
fn a_dry_run_tells_how_much_would_move_and_begins_nothing() {
    let engine = Engine::start();
    web(&engine, "up", "4.7");
    let ran = back_up(&engine, &["--dry-run"]).ok();
    for words in ["(root): full", "(data): full", "nothing was begun"] {
        assert!(ran.stdout.contains(words), "{ran}");
    }
    assert!(engine.state("backups").as_array().expect("backups").is_empty());
    assert!(!dir(&engine).exists() && engine.transfers().is_empty());
}

#[test]
fn one_disk_that_fails_takes_no_other_one_with_it() {
    let engine = Engine::start();
    let disks = web(&engine, "up", "4.7");
    engine.switch(&json!({"switch": "transfer_fault", "value": "refused", "match": "data"}));
    let ran = back_up(&engine, &[]);
    assert_told(&ran, &[ENGINE_FAILED], &["(data) is not backed up"]);
    let manifest = &manifests(&engine)[0];
    assert_holds(&engine, manifest, &disks[0].0.id, &disks[0].1);
    assert_eq!(manifest["failed"][0]["id"], json!(disks[1].0.id), "{manifest}");
    assert_eq!(manifest["disks"].as_array().expect("disks").len(), 1);
    assert_nothing_left(&engine, &ran);
}

#[test]
fn where_no_disk_can_be_copied_there_is_no_manifest() {
    let engine = Engine::start();
    web(&engine, "down", "4.7");
    engine.switch(&json!({"switch": "transfer_fault", "value": "refused"}));
    let ran = back_up(&engine, &[]);
    assert_told(&ran, &[ENGINE_FAILED], &["no manifest is written"]);
    assert!(manifests(&engine).is_empty());
    assert_nothing_left(&engine, &ran);
}

#[test]
fn many_disks_share_one_bound_of_connections() {
    let engine = Engine::start();
    let disks = web(&engine, "down", "4.7");
    for n in 0..4 {
        let name = format!("more{n}");
        engine.add_disk(&json!({"name": name, "size": MIB, "format": "cow", "vm": "web"}));
    }
    let ran = back_up(&engine, &["--connections", "2"]).ok();
    let manifest = &manifests(&engine)[0];
    assert_eq!(manifest["disks"].as_array().expect("disks").len(), 6);
    for (disk, content) in &disks {
        assert_holds(&engine, manifest, &disk.id, content);
    }
    assert_nothing_left(&engine, &ran);
}

#[test]
fn what_a_directory_has_is_listed_and_checked_without_an_engine() {
    let engine = Engine::start();
    let disks = web(&engine, "down", "4.7");
    back_up(&engine, &[]).ok();
    let tool = |args: &[&str]| {
        let mut command = engine.tool();
        command.arg("backup").args(args).arg(dir(&engine));
        run(&mut command, LIMIT)
    };
    let requests = engine.log("request").len();
    let ran = tool(&["--list", "-o", "json"]).ok();
    let told: Value = serde_json::from_str(&ran.stdout).expect("JSON");
    let point = &told["points"][0];
    assert_eq!(point["vm"]["name"], "web", "{told}");
    assert_eq!(point["chains"][0].as_array().expect("a chain").len(), 1);
    let text = tool(&["--list"]).ok();
    assert!(
        text.stdout.contains("VM web") && text.stdout.contains("(root)"),
        "{text}"
    );
    let ran = tool(&["--check"]).ok();
    assert!(ran.stdout.contains("2 files are whole, 0 are not"), "{ran}");

    let name = entry(&manifests(&engine)[0], &disks[0].0.id)["file"]
        .as_str()
        .expect("a name")
        .to_owned();
    let mut bytes = fs::read(dir(&engine).join(&name)).expect("the file");
    let at = bytes.len() / 2;
    bytes[at] ^= 1;
    fs::write(dir(&engine).join(&name), bytes).expect("change a byte");
    let ran = tool(&["--check"]);
    assert_told(
        &ran,
        &[DATA_MAY_BE_LOST],
        &[&name, "not those that were backed up"],
    );
    fs::remove_file(dir(&engine).join(&name)).expect("remove the file");
    let ran = tool(&["--check"]);
    assert_told(&ran, &[DATA_MAY_BE_LOST], &[&name, "No such file"]);
    assert_eq!(engine.log("request").len(), requests, "the engine was asked");
    assert_eq!(ran.code, Some(DATA_MAY_BE_LOST));
    assert_ne!(ran.code, Some(DONE));
}
