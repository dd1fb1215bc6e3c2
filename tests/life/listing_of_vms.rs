//! `rhv-mount list snapshots` and `list vms`: disk snapshots are told from the snapshots of their VMs.

use std::path::PathBuf;

use serde_json::{Value, json};

use crate::listing::{each, list, objects, table};
use crate::rig::{ENGINE_FAILED, SIZE, assert_refused, over};
use crate::support::content::{MIB, random_image};
use crate::support::engine::Engine;

/// An id that nothing has.
const NOWHERE: &str = "0f3c2d4e-88f5-4a59-b1a9-3c6e2f1d7a60";

/// Two disks of a VM, each with two snapshots, and their contents.
pub(crate) fn machine(engine: &Engine) -> Vec<PathBuf> {
    let contents = [("web_Disk1", 3), ("web_Disk2", 4)].map(|(name, seed)| {
        let content = engine.dir().join(format!("{name}.content"));
        random_image(&content, SIZE, seed);
        engine.add_disk(
            &json!({"name": name, "size": SIZE, "format": "cow", "content": content,
            "snapshots": 2, "vm": "web"}),
        );
        content
    });
    contents.to_vec()
}

#[test]
fn a_listed_disk_snapshot_is_what_the_mount_takes_and_a_vm_snapshot_is_not() {
    let engine = Engine::start();
    let contents = machine(&engine);
    let listed = objects(&engine, &["snapshots", "web"]);
    let disks = each(&listed, "disk");
    assert_eq!(disks, [vec!["web_Disk1"; 3], vec!["web_Disk2"; 3]].concat());
    for (disk, content) in listed.chunks(3).zip(&contents) {
        let active: Vec<&Value> = disk.iter().map(|one| &one["active"]).collect();
        assert_eq!(active, [false, false, true]);
        assert_eq!(
            each(disk, "description"),
            ["snapshot 0", "snapshot 1", "Active VM"]
        );
        let ids = each(disk, "id");
        assert_eq!(each(disk, "parent_id"), ["-", &ids[0], &ids[1]]);
        let date = disk[1]["date"].as_str().unwrap_or_default();
        assert_eq!(date, "2020-09-13T13:26:40Z");
        let id = disk[1]["id"].as_str().expect("an id").to_owned();
        let script = format!("cmp {{}} '{}'", content.display());
        over(&engine, &["--disk-snapshot".into(), id], &script).ok();
    }
    let of_the_vm = listed[1]["vm_snapshot_id"].as_str().expect("an id").to_owned();
    assert_eq!(listed[4]["vm_snapshot_id"], *of_the_vm, "the disks share it");
    // Whatever somebody takes for a disk snapshot is answered with those that may be meant.
    let ids = each(&listed, "id");
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    let disk = engine.disk("web_Disk2").expect("the disk").id;
    let none = "no disk snapshot with the id";
    for (given, meant) in [
        (of_the_vm.as_str(), [ids[1], ids[4], "a snapshot of a VM"]),
        ("snapshot 1", [ids[1], ids[4], "a snapshot of a VM"]),
        (&disk, [ids[3], ids[4], "a disk"]),
        ("web_Disk2", [ids[3], ids[4], "a disk"]),
        ("nothing", ["nothing", none, "this user can list"]),
        (NOWHERE, [NOWHERE, none, "this user can list"]),
    ] {
        let ran = over(&engine, &["--disk-snapshot".into(), given.into()], "true");
        let words = [&meant[..], &["rhv-mount list snapshots"]].concat();
        assert_refused(&ran, &[ENGINE_FAILED], &words);
        assert!(!ran.stderr.contains(ids[0]), "{ran}");
    }
    assert!(engine.state_files().is_empty());
}

#[test]
fn snapshots_are_found_by_disk_and_by_vm() {
    let engine = Engine::start();
    machine(&engine);
    let alone = engine.add_disk(&json!({"name": "alone", "size": MIB, "snapshots": 1}));
    let plain = engine.add_disk(&json!({"name": "plain", "size": MIB, "vm": "other"}));
    let disk = engine.disk("web_Disk2").expect("the disk");
    let vm = engine.state("vms")[0]["id"].as_str().expect("an id").to_owned();
    let both = [vec!["web_Disk1"; 3], vec!["web_Disk2"; 3]].concat();
    let of_alone = vec!["alone"; 2];
    for (wanted, found) in [
        (vec!["web_Disk2"], vec!["web_Disk2"; 3]),
        (vec![disk.id.as_str()], vec!["web_Disk2"; 3]),
        (vec![vm.as_str()], both.clone()),
        (vec!["*_Disk1"], vec!["web_Disk1"; 3]),
        (vec!["we*"], both.clone()),
        (vec!["alone"], of_alone.clone()),
        // A disk that has no snapshots is shown only where it is named.
        (vec!["plain"], vec!["plain"]),
        (vec![], [of_alone, both].concat()),
    ] {
        let listed = objects(&engine, &[&["snapshots"], wanted.as_slice()].concat());
        assert_eq!(each(&listed, "disk"), found, "{wanted:?}");
        for one in listed.iter().filter(|one| one["disk"] == "web_Disk2") {
            assert_eq!(
                (&one["vm"], &one["vm_id"]),
                (&json!("web"), &json!(vm)),
                "{wanted:?}"
            );
            assert!(
                one["date"].is_string() && one["storage_domain"] == "data",
                "{one}"
            );
        }
    }
    let lines = table(&engine, &["snapshots", "alone"]);
    let titles = ["DISK", "DISK SNAPSHOT", "ACTIVE", "DATE"];
    assert_eq!(lines[0][..4], titles);
    assert_eq!(lines[1][..4], ["alone", &alone.snapshots[0].id, "no", "-"]);
    assert_eq!(lines[2][2], "yes");
    assert_eq!(objects(&engine, &["snapshots", "plain"])[0]["disk_id"], *plain.id);
}

#[test]
fn an_old_engine_is_asked_for_the_snapshots_of_a_storage_domain() {
    let engine = Engine::with(["--engine-version", "4.3.10-1.el7"]);
    machine(&engine);
    let listed = objects(&engine, &["snapshots", "web_Disk2"]);
    let disk = engine.disk("web_Disk2").expect("the disk");
    let snapshots: Vec<String> = disk.snapshots.iter().map(|one| one.id.clone()).collect();
    assert_eq!(each(&listed, "id"), snapshots);
    assert_eq!(each(&listed, "description"), ["snapshot 0", "snapshot 1"]);
}

#[test]
fn a_vm_that_is_named_shows_its_disks_and_snapshots() {
    let engine = Engine::start();
    machine(&engine);
    engine.add_vms(&json!([{"name": "empty", "status": "down"}]));
    let lines = table(&engine, &["vms"]);
    assert_eq!(lines[0], ["NAME", "ID", "STATUS", "DISKS"]);
    let short = |line: &[String]| [line[0].clone(), line[2].clone(), line[3].clone()];
    assert_eq!(short(&lines[1]), ["empty", "down", "0"]);
    assert_eq!(short(&lines[2]), ["web", "up", "2"]);
    assert!(objects(&engine, &["vms"])[1].get("disks").is_none());

    let vm = &objects(&engine, &["vms", "web"])[0];
    let disks = vm["disks"].as_array().expect("disks");
    assert_eq!(each(disks, "name"), ["web_Disk1", "web_Disk2"]);
    assert_eq!(
        (&disks[0]["size"], &disks[0]["bootable"], &disks[1]["bootable"]),
        (&json!(SIZE), &json!(true), &json!(false))
    );
    assert_eq!(disks[0]["storage_domain"], "data");
    let snapshots = vm["snapshots"].as_array().expect("snapshots");
    assert_eq!(each(snapshots, "type"), ["regular", "regular", "active"]);
    assert_eq!(each(snapshots, "description")[0], "snapshot 0");

    let shown = list(&engine, &["vms", "web"]).ok().stdout;
    for words in [
        "\nDisks of web:\n",
        "\nSnapshots of web",
        "VM SNAPSHOT",
        "`rhv-mount list snapshots`",
    ] {
        assert!(shown.contains(words), "{words:?} is missing: {shown}");
    }
}

#[test]
fn vms_come_in_pages_and_none_is_lost() {
    let engine = Engine::start();
    let names: Vec<String> = (0..205).map(|n| format!("vm{n:03}")).collect();
    let vms: Vec<Value> = names.iter().rev().map(|name| json!({"name": name})).collect();
    engine.add_vms(&json!(vms));
    assert_eq!(each(&objects(&engine, &["vms"]), "name"), names);
    let pages = engine.requests("GET", "/vms");
    let searches: Vec<&str> = pages
        .iter()
        .filter_map(|one| one["query"]["search"].as_str())
        .collect();
    let expected = [1, 2, 3].map(|n| format!("sortby name asc page {n}"));
    assert_eq!(searches, expected);
    assert_eq!(objects(&engine, &["vms", "vm1*"]).len(), 100);
}
