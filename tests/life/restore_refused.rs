//! The refusals of `restore`, each before anything is made, with what to do.

use std::fs;

use serde_json::{Value, json};

use crate::backups::{back_up, dir, entry, files, manifests};
use crate::restoring::{assert_free, assert_restored, backed_up, deeds, disks_of, has_vm, restore};
use crate::rig::{DATA_MAY_BE_LOST, ENGINE_FAILED, SIZE, USAGE, assert_told};
use crate::support::engine::Engine;

/// Asserts that the restore is refused with these words, and that nothing was made.
#[track_caller]
fn refused(to: &Engine, from: &Engine, args: &[&str], code: i32, words: &[&str]) {
    let (before, disks) = (deeds(to).len(), to.disks().len());
    let ran = restore(to, from, args);
    assert_told(&ran, &[code], words);
    assert_eq!(deeds(to).len(), before, "{:?}: {ran}", deeds(to));
    assert_eq!(to.disks().len(), disks, "{ran}");
}

/// Changes the only manifest.
fn change(engine: &Engine, change: impl FnOnce(&mut Value)) {
    let name = files(engine)
        .into_iter()
        .find(|name| name.ends_with(".manifest.json"));
    let path = dir(engine).join(name.expect("a manifest"));
    let mut manifest = manifests(engine)[0].clone();
    change(&mut manifest);
    fs::write(path, manifest.to_string()).expect("write the manifest");
}

#[test]
fn a_vm_that_exists_is_refused_and_not_touched() {
    let (engine, disks) = backed_up();
    let ways = ["exists, and is left alone", "--name NEW", "--disks-only"];
    refused(&engine, &engine, &[], ENGINE_FAILED, &ways);
    // Its id is what counts, and so is its name.
    engine.change_vm("web", &json!({"name": "renamed"}));
    refused(&engine, &engine, &[], ENGINE_FAILED, &ways);
    engine.change_vm("renamed", &json!({"name": "web"}));
    let to = Engine::start();
    to.add_vms(&json!([{"name": "web"}, {"name": "taken"}]));
    refused(&to, &engine, &[], ENGINE_FAILED, &ways);
    let words = ["VM taken (", "take another --name"];
    refused(&to, &engine, &["--name", "taken"], ENGINE_FAILED, &words);
    assert!(disks_of(&to, "web").is_empty());
    for (disk, content) in &disks {
        engine
            .compare(&engine.disk(&disk.id).expect("it is there"), content)
            .unwrap();
    }
}

#[test]
fn a_point_that_is_none_or_may_be_several_is_refused_with_all_of_them() {
    let (from, _) = backed_up();
    back_up(&from, &[]).ok();
    let to = Engine::start();
    let all = manifests(&from);
    let times: Vec<&str> = all.iter().filter_map(|one| one["time"].as_str()).collect();
    for point in ["1999-12-31", "2"] {
        let words = [point, times[0], times[1], ".manifest.json"];
        refused(&to, &from, &["--point", point], USAGE, &words);
    }
    refused(
        &to,
        &from,
        &["--vm", "db"],
        USAGE,
        &["no backup of a VM db", "web ("],
    );
    refused(
        &to,
        &from,
        &["--include", "nothing"],
        USAGE,
        &["--include nothing", "root"],
    );
    let both = ["--exclude", "root", "--exclude", "data"];
    refused(&to, &from, &both, USAGE, &["leave no disk"]);
    refused(
        &to,
        &from,
        &["--disks-only", "--name", "x"],
        USAGE,
        &["--name", "--disks-only"],
    );
    assert!(to.log("request").is_empty(), "the engine was asked");
}

#[test]
fn a_chain_that_is_not_whole_is_refused_before_the_engine_is_asked() {
    let (from, disks) = backed_up();
    back_up(&from, &[]).ok();
    let to = Engine::start();
    let root = &disks[0].0.id;
    let name = |n: usize| {
        entry(&manifests(&from)[n], root)["file"]
            .as_str()
            .expect("a file")
            .to_owned()
    };
    let (full, over) = (dir(&from).join(name(0)), dir(&from).join(name(1)));
    let (aside, bytes) = (from.dir().join("aside"), fs::read(&over).expect("the file"));
    fs::rename(&full, &aside).expect("move it");
    refused(
        &to,
        &from,
        &[],
        DATA_MAY_BE_LOST,
        &["(root) can't be restored", &name(0), "No such file"],
    );
    fs::rename(&aside, &full).expect("move it back");
    fs::write(&over, &bytes[..bytes.len() - 1]).expect("cut it");
    refused(&to, &from, &[], DATA_MAY_BE_LOST, &[&name(1), "bytes, and had"]);
    // Another file of the chain below it would give other bytes.
    let mut other = bytes.clone();
    let at = other
        .windows(name(0).len())
        .position(|part| part == name(0).as_bytes());
    other[at.expect("the name of the file below it")] ^= 1;
    fs::write(&over, other).expect("change the name");
    refused(&to, &from, &[], DATA_MAY_BE_LOST, &[&name(1), "and went over"]);
    assert!(to.log("request").is_empty(), "the engine was asked");
    let ran = restore(&to, &from, &["--exclude", "root"]).ok();
    assert_restored(&to, &from, "web", &disks[1..], &ran);
}

#[test]
fn a_place_that_is_not_there_is_refused_with_those_that_are() {
    let (from, disks) = backed_up();
    let to = Engine::with(["--domain", "other=nfs", "--domain", "lost=nfs,detached"]);
    refused(
        &to,
        &from,
        &[],
        USAGE,
        &["(data)|(root)", "name one with --storage-domain", "other"],
    );
    let nowhere = ["--storage-domain", "nowhere"];
    refused(
        &to,
        &from,
        &nowhere,
        ENGINE_FAILED,
        &["no storage domain nowhere", "other"],
    );
    let lost = ["--storage-domain", "lost"];
    refused(&to, &from, &lost, ENGINE_FAILED, &["lost", "not attached"]);
    let cluster = ["--storage-domain", "other", "--cluster", "nowhere"];
    refused(
        &to,
        &from,
        &cluster,
        ENGINE_FAILED,
        &["no cluster nowhere", "Default"],
    );
    let ovf = files(&from)
        .into_iter()
        .find(|name| name.ends_with(".ovf"))
        .expect("the OVF");
    let ovf = dir(&from).join(ovf);
    let text = fs::read_to_string(&ovf).expect("the OVF");
    fs::write(&ovf, text.replace("<ClusterName>Default<", "<ClusterName>Gone<")).expect("change it");
    let here = ["--storage-domain", "other"];
    refused(
        &to,
        &from,
        &here,
        USAGE,
        &["cluster Gone", "name one with --cluster", "Default"],
    );
    let ran = restore(&to, &from, &[&here[..], &["--cluster", "Default"]].concat()).ok();
    assert!(has_vm(&to, "web"), "{ran}");
    for (disk, content) in &disks {
        let made = to.disk(&disk.id).expect("it is there");
        assert_eq!(made.domain, "other");
        to.compare(&made, content).unwrap();
    }
}

#[test]
fn without_a_configuration_only_the_disks_can_be_restored() {
    let (from, disks) = backed_up();
    let to = Engine::start();
    let ovf = files(&from)
        .into_iter()
        .find(|name| name.ends_with(".ovf"))
        .expect("the OVF");
    let text = fs::read_to_string(dir(&from).join(&ovf)).expect("the OVF");
    fs::write(dir(&from).join(&ovf), &text[..text.len() / 2]).expect("cut it");
    refused(&to, &from, &[], USAGE, &["can't be used", "--disks-only"]);
    change(&from, |manifest| manifest["configuration"] = Value::Null);
    refused(
        &to,
        &from,
        &[],
        USAGE,
        &["no configuration of the VM", "--disks-only"],
    );
    let nowhere = ["--disks-only"];
    refused(
        &to,
        &from,
        &nowhere,
        USAGE,
        &["does not tell on which storage domain"],
    );
    let ran = restore(&to, &from, &["--disks-only", "--storage-domain", "data"]).ok();
    assert!(!has_vm(&to, "web"), "{ran}");
    for (disk, content) in &disks {
        let made = to.disk(&disk.id).expect("it is there");
        assert_eq!(made.format, "cow", "the format is not known: {ran}");
        to.compare(&made, content).unwrap();
    }
    assert_free(&to, &ran);
}

/// Half of a run that wrote two manifests is left, as a point of its own.
#[test]
fn a_disk_of_which_no_manifest_tells_is_a_reason_against_the_vm() {
    let (from, disks) = backed_up();
    change(&from, |manifest| {
        let all = manifest["disks"].as_array_mut().expect("disks");
        all.retain(|one| one["name"] != "data");
        manifest["second_of"] = json!("20261129083501.gone.manifest.json");
    });
    let to = Engine::start();
    let words = [
        "(data) is not in the backup",
        "no manifest tells of it",
        "the VM would lack it",
        "--exclude",
    ];
    refused(&to, &from, &[], USAGE, &words);
    assert!(to.log("request").is_empty(), "the engine was asked");
    let ran = restore(&to, &from, &["--exclude", "data"]).ok();
    assert_restored(&to, &from, "web", &disks[..1], &ran);
    let to = Engine::start();
    let ran = restore(&to, &from, &["--disks-only"]).ok();
    assert!(ran.stderr.contains("no manifest tells of it"), "{ran}");
    assert_eq!(to.disks().len(), 1, "{ran}");
}

/// A disk that could not take part was told when it was left out, and the VM goes without it.
#[test]
fn a_disk_that_could_not_take_part_is_no_reason_against_the_vm() {
    let (from, disks) = backed_up();
    change(&from, |manifest| {
        let all = manifest["disks"].as_array_mut().expect("disks");
        all.retain(|one| one["name"] != "data");
        manifest["left_out"] = json!([{"id": disks[1].0.id, "name": "data", "why": "it is shareable"}]);
    });
    let to = Engine::start();
    let ran = restore(&to, &from, &[]).ok();
    assert_restored(&to, &from, "web", &disks[..1], &ran);
    assert!(ran.stderr.contains("it is shareable"), "{ran}");
}

/// A VM without a disk that should have been backed up may not even start.
#[test]
fn a_disk_that_failed_in_the_backup_is_a_reason_against_the_vm() {
    let (from, disks) = backed_up();
    change(&from, |manifest| {
        let all = manifest["disks"].as_array_mut().expect("disks");
        let at = all
            .iter()
            .position(|one| one["name"] == "data")
            .expect("the disk");
        let gone = all.remove(at);
        manifest["failed"] = json!([{"id": gone["id"], "name": "data", "why": "it was locked"}]);
    });
    let to = Engine::start();
    refused(
        &to,
        &from,
        &[],
        USAGE,
        &["(data) is not in the backup", "it was locked", "--exclude"],
    );
    let ran = restore(&to, &from, &["--exclude", "data"]).ok();
    let made = assert_restored(&to, &from, "web", &disks[..1], &ran);
    assert_eq!(made[0].size, SIZE);
}
