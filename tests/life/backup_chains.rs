//! Incremental backups: each point of a chain is what the guest had then, and whatever breaks a chain ends in
//! a whole copy, said, of the disks that it concerns.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::backups::{assert_holds, assert_nothing_left, back_up, dir, entry, manifests, web};
use crate::rig::SIZE;
use crate::support::content::MIB;
use crate::support::engine::{DiskState, Engine};
use crate::support::run::{Ran, is_root};

pub(crate) const BLOCK: u64 = 64 << 10;

/// Copies what the guest of each disk has now; returns the copies.
pub(crate) fn now(engine: &Engine, disks: &[DiskState], name: &str) -> Vec<PathBuf> {
    let copy = |disk: &DiskState| {
        let to = engine.dir().join(format!("{name}-{}", disk.name));
        engine.guest_copy(&disk.id, &to);
        to
    };
    disks.iter().map(copy).collect()
}

pub(crate) fn write(engine: &Engine, disks: &[DiskState], what: &Value) {
    for disk in disks {
        engine.guest_writes(&disk.id, what);
    }
}

pub(crate) fn mode<'a>(manifest: &'a Value, disk: &DiskState) -> &'a str {
    entry(manifest, &disk.id)["mode"].as_str().expect("a mode")
}

/// Full, guest writes, incremental, guest zeroes, incremental, with a disk that is added between.
fn chain(status: &str, level: &str, args: &[&str], kind: &str) {
    let engine = Engine::start();
    let mut disks: Vec<DiskState> = web(&engine, status, level)
        .into_iter()
        .map(|(disk, _)| disk)
        .collect();
    let mut points = vec![(now(&engine, &disks, "first"), disks.clone())];
    back_up(&engine, args).ok();

    disks.push(engine.add_disk(&json!({"name": "added", "size": SIZE, "format": "cow", "vm": "web"})));
    let data = json!([{"offset": MIB, "length": BLOCK, "pattern": 7}, {"offset": 5 * MIB + 512, "length": 512,
        "pattern": 8}]);
    write(&engine, &disks, &data);
    points.push((now(&engine, &disks, "second"), disks.clone()));
    back_up(&engine, args).ok();

    write(
        &engine,
        &disks,
        &json!([{"offset": MIB, "length": BLOCK, "zero": true},
        {"offset": 2 * MIB, "length": MIB, "zero": true}]),
    );
    points.push((now(&engine, &disks, "third"), disks.clone()));
    let ran = back_up(&engine, args).ok();
    assert_nothing_left(&engine, &ran);

    let manifests = manifests(&engine);
    assert_eq!(manifests.len(), 3, "{ran}");
    for (manifest, (contents, disks)) in manifests.iter().zip(&points) {
        assert_eq!(manifest["kind"], kind);
        for (disk, content) in disks.iter().zip(contents) {
            assert_holds(&engine, manifest, &disk.id, content);
        }
    }
    let modes = |n: usize| -> Vec<&str> {
        let (_, disks) = &points[n];
        disks.iter().map(|disk| mode(&manifests[n], disk)).collect()
    };
    assert_eq!(modes(0), ["full", "full"]);
    assert_eq!(modes(1), ["incremental", "full", "full"]);
    assert_eq!(modes(2), ["incremental", "full", "incremental"]);
    for n in [1, 2] {
        assert_eq!(manifests[n]["from_checkpoint"], manifests[n - 1]["checkpoint"]);
        let (this, below) = (
            entry(&manifests[n], &disks[0].id),
            entry(&manifests[n - 1], &disks[0].id),
        );
        assert_eq!(this["backing"], below["file"]);
        let bytes = this["file_size"].as_u64().expect("a size");
        assert!(bytes < MIB, "it is a whole copy: {this}");
    }
    let mut tool = engine.tool();
    tool.args(["backup", "--check"]).arg(dir(&engine));
    crate::support::run::run(&mut tool, 60).ok();
}

#[test]
fn each_point_of_a_chain_from_snapshots_is_what_the_guest_had_then() {
    chain("up", "4.7", &[], "hybrid");
}

#[test]
fn each_point_of_a_chain_without_snapshots_is_what_the_guest_had_then() {
    chain("up", "4.7", &["--live"], "live");
}

#[test]
fn each_point_of_a_chain_of_a_vm_that_is_down_is_what_the_guest_had_then() {
    chain("down", "4.6", &[], "cold");
}

/// A full backup, and then another one after `meanwhile`, which may break the chain. Returns the second run,
/// whose bytes are right.
#[track_caller]
fn after(args: &[&str], meanwhile: impl FnOnce(&Engine, &[DiskState])) -> (Engine, Vec<DiskState>, Ran) {
    let engine = Engine::start();
    let disks: Vec<DiskState> = web(&engine, "up", "4.7")
        .into_iter()
        .map(|(disk, _)| disk)
        .collect();
    back_up(&engine, args).ok();
    write(
        &engine,
        &disks,
        &json!([{"offset": 3 * MIB, "length": BLOCK, "pattern": 5}]),
    );
    meanwhile(&engine, &disks);
    let contents = now(&engine, &disks, "then");
    let ran = back_up(&engine, args).ok();
    assert_nothing_left(&engine, &ran);
    let manifests = manifests(&engine);
    for (disk, content) in disks.iter().zip(&contents) {
        let with = manifests[1..].iter().rev().find(|manifest| {
            let entries = manifest["disks"].as_array().expect("disks");
            entries.iter().any(|one| one["id"] == json!(disk.id))
        });
        assert_holds(&engine, with.expect("a manifest has it"), &disk.id, content);
    }
    (engine, disks, ran)
}

/// The same where `root` has to be copied as a whole, and that is said with these words.
#[track_caller]
fn whole_after(args: &[&str], words: &str, meanwhile: impl FnOnce(&Engine, &[DiskState])) -> Engine {
    let (engine, disks, ran) = after(args, meanwhile);
    assert!(ran.stderr.contains(words), "{words:?} is not said: {ran}");
    let all = manifests(&engine);
    assert_eq!(mode(all.last().expect("a manifest"), &disks[0]), "full");
    // The next one is incremental again.
    back_up(&engine, args).ok();
    assert_eq!(
        mode(manifests(&engine).last().expect("a manifest"), &disks[0]),
        "incremental"
    );
    engine
}

/// Has the daemon log each request, in lines that [`bytes_read`] understands.
fn log_requests(engine: &Engine) {
    let configuration = engine.daemon().dir().join("conf.d/60-requests.conf");
    fs::write(configuration, "[logger_root]\nlevel = DEBUG\n").expect("write a configuration");
    engine.daemon().kill();
    engine.daemon().restart();
}

/// Returns how many bytes the daemon was asked for since it was started. A single one is no part of a disk's
/// copy: a connection is authorised by it.
fn bytes_read(engine: &Engine) -> u64 {
    let log = engine.daemon().log();
    let reads = log.lines().filter_map(|line| line.split_once(" READ size="));
    reads
        .map(|(_, rest)| rest.split(' ').next().and_then(|size| size.parse::<u64>().ok()))
        .map(|size| size.expect("a size"))
        .filter(|size| *size > 1)
        .sum()
}

/// The size of a file would not tell: what is read and found to be zero, or unchanged, leaves no trace there.
#[test]
fn an_incremental_backup_asks_the_server_for_what_has_changed_and_nothing_else() {
    for args in [&["--exclude", "data"][..], &["--exclude", "data", "--live"]] {
        let engine = Engine::start();
        let disks: Vec<DiskState> = web(&engine, "up", "4.7")
            .into_iter()
            .map(|(disk, _)| disk)
            .collect();
        log_requests(&engine);
        back_up(&engine, args).ok();
        let full = bytes_read(&engine);
        assert!(full >= SIZE, "the daemon logs no reads: {full}");
        let places = [1, 3, 6].map(|place| json!({"offset": place * MIB, "length": BLOCK, "pattern": 7}));
        write(&engine, &disks[..1], &json!(places));
        let ran = back_up(&engine, args).ok();
        assert_eq!(mode(&manifests(&engine)[1], &disks[0]), "incremental", "{ran}");
        assert_eq!(bytes_read(&engine) - full, 3 * BLOCK, "{ran}");
    }
}

pub(crate) fn root_file(engine: &Engine, disks: &[DiskState]) -> PathBuf {
    let name = entry(&manifests(engine)[0], &disks[0].id)["file"]
        .as_str()
        .expect("a name")
        .to_owned();
    dir(engine).join(name)
}

#[test]
fn a_checkpoint_that_is_gone_or_invalid_means_a_whole_copy() {
    whole_after(&[], "no checkpoint of its files", |engine, _| {
        engine.control("DELETE", "/vms/web/checkpoints", None);
    });
    whole_after(&[], "no checkpoint of its files", |engine, _| {
        let id = engine.state("checkpoints")[0]["id"]
            .as_str()
            .expect("an id")
            .to_owned();
        let order = json!({"state": "invalid"});
        engine.control("POST", &format!("/vms/web/checkpoints/{id}"), Some(&order));
    });
}

/// It may go after it was looked for.
#[test]
fn a_checkpoint_that_the_engine_refuses_means_a_whole_copy_in_the_same_run() {
    whole_after(&[], "every disk is copied as a whole", |engine, _| {
        engine.switch(
            &json!({"switch": "fault", "times": 1, "match": "^POST .*/backups(\\?.*)?$",
            "value": {"status": 400, "detail": "[Cannot backup VM: The specified checkpoint is invalid.]"}}),
        );
    });
}

/// The engine loses the whole chain then (event 10791).
#[test]
fn a_redefinition_that_fails_means_a_whole_copy_in_the_same_run() {
    let engine = whole_after(&["--live"], "every disk is copied as a whole", |engine, _| {
        engine.switch(&json!({"switch": "redefine_fails", "times": 1}));
    });
    assert_eq!(engine.log("backup_created").len(), 4);
}

/// The backup decides which parts are dirty, so the disk gets a second, full backup of its own.
#[test]
fn a_bitmap_that_is_missing_means_a_full_backup_of_that_disk_alone() {
    let engine = whole_after(&[], "a full backup is made of it", |engine, _| {
        engine.switch(&json!({"switch": "bitmap_missing", "match": "root", "times": 1}));
    });
    let all = manifests(&engine);
    let names = |n: usize| all[n]["disks"].as_array().expect("disks").len();
    assert_eq!((names(1), names(2)), (1, 1), "the others are kept");
}

#[test]
fn a_server_without_a_record_of_changes_means_a_whole_copy_in_the_same_backup() {
    let engine = whole_after(&[], "is copied as a whole", |engine, _| {
        engine.switch(&json!({"switch": "dirty_missing", "times": 1}));
    });
    assert_eq!(manifests(&engine).len(), 3);
}

/// A base counts only while its bytes are those that were verified.
#[test]
fn a_chain_that_has_changed_here_means_a_whole_copy_in_the_same_backup() {
    whole_after(&[], "is copied as a whole", |engine, disks| {
        let path = root_file(engine, disks);
        let mut bytes = fs::read(&path).expect("the file");
        let at = bytes.len() - 1_000_000;
        bytes[at] ^= 1;
        fs::write(path, bytes).expect("change a byte");
    });
    whole_after(&[], "which its last file needs", |engine, disks| {
        fs::remove_file(root_file(engine, disks)).expect("remove the file");
    });
}

/// The first L2 table of the image lies behind its header and its L1 table.
#[test]
fn a_chain_that_can_not_be_read_here_means_a_whole_copy_in_the_same_backup() {
    whole_after(&[], "is copied as a whole", |engine, disks| {
        let path = root_file(engine, disks);
        let mut bytes = fs::read(&path).expect("the file");
        bytes[2 << 16..3 << 16].fill(0x3f);
        fs::write(path, bytes).expect("damage the table");
    });
}

/// Only one thread of root's may look into a directory of another user, or remove anything there.
#[test]
fn root_goes_on_with_a_chain_in_the_directory_of_another_user() {
    if !is_root() {
        return;
    }
    let engine = Engine::start();
    let disks = web(&engine, "up", "4.7");
    fs::create_dir(dir(&engine)).expect("make the directory");
    fs::set_permissions(dir(&engine), fs::Permissions::from_mode(0o700)).expect("close it");
    chown(dir(&engine), Some(65534), Some(65534)).expect("give it to nobody");
    back_up(&engine, &[]).ok();
    back_up(&engine, &[]).ok();
    let root = &disks[0].0;
    assert_eq!(mode(&manifests(&engine)[1], root), "incremental");
    let path = root_file(&engine, std::slice::from_ref(root));
    let mut bytes = fs::read(&path).expect("the file");
    bytes[2 << 16..3 << 16].fill(0x3f);
    fs::write(path, bytes).expect("damage the table");
    let ran = back_up(&engine, &[]).ok();
    assert_eq!(mode(&manifests(&engine)[2], root), "full");
    assert_nothing_left(&engine, &ran);
}

#[test]
fn extents_that_do_not_tell_zeros_are_data() {
    let (engine, disks, _) = after(&[], |engine, _| {
        engine.switch(&json!({"switch": "extents_without_zero"}));
    });
    assert_eq!(mode(&manifests(&engine)[1], &disks[0]), "incremental");
}

#[test]
fn a_whole_copy_can_be_asked_for() {
    let engine = Engine::start();
    let disks = web(&engine, "down", "4.7");
    back_up(&engine, &[]).ok();
    let ran = back_up(&engine, &["--dry-run"]).ok();
    assert!(ran.stdout.contains("incremental since checkpoint"), "{ran}");
    back_up(&engine, &["--full"]).ok();
    let manifest = &manifests(&engine)[1];
    assert_eq!(mode(manifest, &disks[0].0), "full");
    assert_eq!(manifest["from_checkpoint"], Value::Null);
}

pub(crate) fn checkpoints(engine: &Engine) -> Vec<String> {
    let all = engine.state("checkpoints");
    let ids = all.as_array().expect("checkpoints").iter();
    ids.filter_map(|one| one["id"].as_str().map(str::to_owned))
        .collect()
}

/// A checkpoint that nobody needs costs a bitmap in each disk; one of somebody else's is left alone.
#[test]
fn checkpoints_of_ours_go_once_a_newer_one_is_a_base() {
    let engine = Engine::start();
    let disks = web(&engine, "up", "4.7");
    back_up(&engine, &[]).ok();
    // Another program's backup of the same VM.
    let other = engine.dir().join("elsewhere");
    let mut command = engine.program();
    command
        .arg("backup")
        .args(["--vm", "web"])
        .args(engine.args())
        .arg(&other);
    crate::support::run::run(&mut command, 150).ok();
    let theirs = checkpoints(&engine)[1].clone();
    back_up(&engine, &[]).ok();
    back_up(&engine, &["--exclude", "root"]).ok();
    let ran = back_up(&engine, &[]).ok();
    assert_nothing_left(&engine, &ran);
    let newest = entry(manifests(&engine).last().expect("a manifest"), &disks[0].0.id)["checkpoint"].clone();
    let left = checkpoints(&engine);
    assert!(left.contains(&theirs), "{left:?}: {ran}");
    assert_eq!(left.len(), 2, "{left:?}: {ran}");
    assert_eq!(left[1], newest, "{left:?}: {ran}");
}

/// An engine up to 4.5.6 destroys the disks of a VM that is paused.
#[test]
fn no_checkpoint_of_a_vm_that_was_paused_meanwhile_is_deleted() {
    let engine = Engine::start();
    web(&engine, "up", "4.7");
    back_up(&engine, &[]).ok();
    engine.switch(&json!({"switch": "slow", "value": 10.0, "match": "^GET .*/checkpoints$", "after": 1}));
    let ran = std::thread::scope(|scope| {
        let running = scope.spawn(|| back_up(&engine, &[]));
        crate::support::run::wait_until("the backup has ended", 100, || {
            let backups = engine.state("backups");
            backups
                .as_array()
                .is_some_and(|all| all.len() == 2 && all[1]["phase"] == "succeeded")
        });
        engine.change_vm("web", &json!({"status": "paused"}));
        running.join().expect("it runs")
    });
    ran.ok();
    let deleted = engine.requests("DELETE", "");
    let of_checkpoints = deleted.iter().filter(|one| {
        one["path"]
            .as_str()
            .is_some_and(|path| path.contains("/checkpoints/"))
    });
    assert_eq!(of_checkpoints.count(), 0, "{deleted:?}");
}

#[test]
fn older_backups_go_and_nothing_that_a_kept_one_needs() {
    let engine = Engine::start();
    let disks: Vec<DiskState> = web(&engine, "up", "4.7")
        .into_iter()
        .map(|(disk, _)| disk)
        .collect();
    let mut contents = Vec::new();
    for (n, args) in [&[][..], &[], &["--full"], &[]].into_iter().enumerate() {
        let place = n as u64 * 2 * BLOCK;
        write(
            &engine,
            &disks,
            &json!([{"offset": place, "length": BLOCK, "pattern": n + 1}]),
        );
        contents.push(now(&engine, &disks, &format!("point-{n}")));
        back_up(&engine, &[args, &["--keep", "3"]].concat()).ok();
    }
    // The second needs the first one's file.
    assert_eq!(manifests(&engine).len(), 4);
    let ran = back_up(&engine, &["--keep", "3"]).ok();
    assert!(ran.stderr.contains("2 older backups are removed"), "{ran}");
    let all = manifests(&engine);
    assert_eq!(all.len(), 3);
    for (manifest, contents) in all.iter().zip(&contents[2..]) {
        for (disk, content) in disks.iter().zip(contents) {
            assert_holds(&engine, manifest, &disk.id, content);
        }
    }
    let images = crate::backups::files(&engine)
        .iter()
        .filter(|name| name.ends_with(".qcow2"))
        .count();
    assert_eq!(images, 6, "{ran}");

    // A file that no manifest names may need any other.
    fs::write(dir(&engine).join("other.qcow2"), "of another program").expect("write a file");
    let ran = back_up(&engine, &["--keep", "1"]).ok();
    assert!(ran.stderr.contains("--keep removes nothing"), "{ran}");
    assert_eq!(manifests(&engine).len(), 4);
}

/// The names are those of the SDK's example, so each finds the other's files.
#[test]
fn the_sdks_example_goes_on_with_a_chain_of_ours_and_ours_after_it() {
    let engine = Engine::start();
    let disks: Vec<DiskState> = web(&engine, "up", "4.7")
        .into_iter()
        .map(|(disk, _)| disk)
        .collect();
    back_up(&engine, &[]).ok();
    let vm = engine.state("vms")[0]["id"].as_str().expect("an id").to_owned();
    let checkpoint = manifests(&engine)[0]["checkpoint"]
        .as_str()
        .expect("a checkpoint")
        .to_owned();
    write(
        &engine,
        &disks,
        &json!([{"offset": MIB, "length": BLOCK, "pattern": 4}]),
    );
    let contents = now(&engine, &disks, "theirs");
    let theirs = engine.sdk_backup(&vm, &dir(&engine), Some(&checkpoint));
    assert_eq!(theirs.len(), 2);
    for (disk, content) in disks.iter().zip(&contents) {
        let file = theirs
            .iter()
            .find(|file| file.to_string_lossy().contains(&disk.id));
        let (file, to) = (
            file.expect("a file of the disk"),
            engine.dir().join("restored.raw"),
        );
        let mut convert = std::process::Command::new("qemu-img");
        convert
            .args(["convert", "-f", "qcow2", "-O", "raw"])
            .arg(file)
            .arg(&to);
        crate::support::run::run(&mut convert, 60).ok();
        crate::support::content::compare(&to, content).unwrap();
    }
    write(
        &engine,
        &disks,
        &json!([{"offset": 2 * MIB, "length": BLOCK, "zero": true}]),
    );
    let contents = now(&engine, &disks, "ours");
    let ran = back_up(&engine, &[]).ok();
    assert_nothing_left(&engine, &ran);
    let last = &manifests(&engine)[1];
    assert_eq!(mode(last, &disks[0]), "incremental");
    let is_theirs = |file: &&PathBuf| file.to_string_lossy().contains(&disks[0].id);
    let below = theirs.iter().find(is_theirs).and_then(|file| file.file_name());
    assert_eq!(
        entry(last, &disks[0].id)["backing"].as_str(),
        below.and_then(|name| name.to_str())
    );
    for (disk, content) in disks.iter().zip(&contents) {
        assert_holds(&engine, last, &disk.id, content);
    }
}
