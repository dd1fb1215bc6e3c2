//! `restore`: what a backup has written becomes disks and a VM again, with the bytes of each point in time,
//! in this engine or in another one.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;

use serde_json::{Value, json};

use crate::backups::{back_up, dir, entry, manifests, web};
use crate::listing::objects;
use crate::rig::{LIMIT, SIZE};
use crate::support::content::{MIB, random_image};
use crate::support::engine::{DiskState, Engine, PASSWORD, USER};
use crate::support::mount::BINARY;
use crate::support::redaction::assert_shows_none;
use crate::support::run::{Ran, run, text};

const BLOCK: u64 = 64 << 10;

/// `rhv-mount restore ARGS DIR`, of the backups of `from` into `to`, not yet started.
pub(crate) fn command(to: &Engine, from: &Engine, args: &[&str]) -> Command {
    let mut command = to.program();
    command.arg("restore").args(to.args()).args(args).arg(dir(from));
    command
}

#[track_caller]
pub(crate) fn restore(to: &Engine, from: &Engine, args: &[&str]) -> Ran {
    let sessions = to.sessions();
    let ran = run(&mut command(to, from, args), LIMIT);
    assert_shows_none(&ran, &[PASSWORD]);
    assert!(!ran.timed_out && !ran.stderr.contains("panicked"), "{ran}");
    assert_eq!(to.sessions(), sessions, "a session is left open: {ran}");
    ran
}

/// A backup of the VM `web`, which is down, with its disks and their contents.
pub(crate) fn backed_up() -> (Engine, Vec<(DiskState, PathBuf)>) {
    let engine = Engine::start();
    let disks = web(&engine, "down", "4.7");
    back_up(&engine, &[]).ok();
    (engine, disks)
}

/// The disks of a VM, as `list vms` has them, ordered by name.
#[track_caller]
pub(crate) fn disks_of(engine: &Engine, vm: &str) -> Vec<Value> {
    let vms = objects(engine, &["vms", vm]);
    assert_eq!(vms.len(), 1, "{vms:?}");
    vms[0]["disks"].as_array().expect("its disks").clone()
}

/// True where the engine has a VM of this name.
pub(crate) fn has_vm(engine: &Engine, name: &str) -> bool {
    let vms = engine.state("vms");
    vms.as_array()
        .expect("the VMs")
        .iter()
        .any(|vm| vm["name"] == name)
}

/// The requests that make, change or remove something, but for logins.
pub(crate) fn deeds(engine: &Engine) -> Vec<String> {
    let requests = engine.log("request").into_iter();
    let shown = |one: &Value| format!("{} {}", one["method"], one["path"]).replace('"', "");
    requests
        .map(|one| shown(&one))
        .filter(|one| !one.starts_with("GET ") && !one.contains("/sso"))
        .collect()
}

/// Asserts that no transfer, lock or note is left.
#[track_caller]
pub(crate) fn assert_free(engine: &Engine, ran: &Ran) {
    for transfer in engine.transfers() {
        assert!(transfer.phase.starts_with("finished"), "{transfer:?}: {ran}");
    }
    for disk in engine.disks() {
        assert_eq!(
            (disk.status.as_str(), disk.locked_by.len()),
            ("ok", 0),
            "{disk:?}: {ran}"
        );
    }
    assert!(engine.state_files().is_empty(), "a note is left: {ran}");
}

/// Asserts that the VM has these disks, with these bytes, in the formats and on the buses that they had.
#[track_caller]
pub(crate) fn assert_restored(
    to: &Engine,
    from: &Engine,
    vm: &str,
    disks: &[(DiskState, PathBuf)],
    ran: &Ran,
) -> Vec<DiskState> {
    let (now, before) = (disks_of(to, vm), disks_of(from, "web"));
    assert_eq!(now.len(), disks.len(), "{now:?}: {ran}");
    let found = disks.iter().map(|(disk, content)| {
        let named = |all: &[Value]| {
            let found = all.iter().find(|one| one["name"] == json!(disk.name));
            found
                .cloned()
                .unwrap_or_else(|| panic!("no {}: {all:?}: {ran}", disk.name))
        };
        let (it, was) = (named(&now), named(&before));
        for fact in [
            "bootable",
            "interface",
            "active",
            "read_only",
            "size",
            "format",
            "storage_domain",
        ] {
            assert_eq!(it[fact], was[fact], "{fact} of {}: {ran}", disk.name);
        }
        let made = to.disk(it["id"].as_str().expect("an id")).expect("it is there");
        to.compare(&made, content)
            .unwrap_or_else(|why| panic!("{}: {why}: {ran}", disk.name));
        made
    });
    let found = found.collect();
    assert_free(to, ran);
    found
}

/// The guest's bytes of each disk now.
fn now(engine: &Engine, disks: &[DiskState], name: &str) -> Vec<(DiskState, PathBuf)> {
    let copy = |disk: &DiskState| {
        let to = engine.dir().join(format!("{name}-{}", disk.name));
        engine.guest_copy(&disk.id, &to);
        (disk.clone(), to)
    };
    disks.iter().map(copy).collect()
}

/// Full, guest writes, incremental, guest zeroes, incremental, with three disks, one of them raw; then a
/// restore of each point into an engine that has nothing, and once more beside what is there then.
fn each_point(status: &str, level: &str, args: &[&str], kind: &str) {
    let from = Engine::start();
    let mut disks: Vec<DiskState> = web(&from, status, level)
        .into_iter()
        .map(|(disk, _)| disk)
        .collect();
    let content = from.dir().join("content-more");
    random_image(&content, SIZE, 43);
    disks.push(
        from.add_disk(
            &json!({"name": "more", "size": SIZE, "format": "cow", "content": content, "vm": "web"}),
        ),
    );
    let write = |what: Value| disks.iter().for_each(|disk| from.guest_writes(&disk.id, &what));
    let mut points = vec![now(&from, &disks, "first")];
    back_up(&from, args).ok();
    write(
        json!([{"offset": MIB, "length": BLOCK, "pattern": 7}, {"offset": 5 * MIB + 512, "length": 512,
        "pattern": 8}]),
    );
    points.push(now(&from, &disks, "second"));
    back_up(&from, args).ok();
    write(
        json!([{"offset": MIB, "length": BLOCK, "zero": true}, {"offset": 2 * MIB, "length": MIB,
        "zero": true}]),
    );
    points.push(now(&from, &disks, "third"));
    back_up(&from, args).ok();
    let manifests = manifests(&from);
    assert_eq!(manifests[2]["kind"], kind);
    assert_eq!(entry(&manifests[2], &disks[0].id)["mode"], "incremental");

    let to = Engine::start();
    let ran = restore(&to, &from, &[]).ok();
    let made = assert_restored(&to, &from, "web", &points[2], &ran);
    for (disk, made) in disks.iter().zip(&made) {
        assert_eq!(made.id, disk.id, "its id was free: {ran}");
    }
    let shown = disks_of(&from, "web");
    assert_eq!(shown.len(), 3, "{shown:?}");
    for (n, (manifest, contents)) in manifests.iter().zip(&points).enumerate().take(2) {
        let name = format!("web-{n}");
        let by = if n == 0 {
            &manifest["checkpoint"]
        } else {
            &manifest["time"]
        };
        let by = by.as_str().expect("a point");
        let ran = restore(&to, &from, &["--point", by, "--name", &name]).ok();
        let made = assert_restored(&to, &from, &name, contents, &ran);
        for (disk, made) in disks.iter().zip(&made) {
            assert_ne!(made.id, disk.id, "{ran}");
        }
        assert!(ran.stderr.contains("its copy gets a new id"), "{ran}");
    }
    assert_eq!(to.disks().len(), 9);
}

#[test]
fn each_point_of_a_chain_from_snapshots_is_restored() {
    each_point("up", "4.7", &[], "hybrid");
}

#[test]
fn each_point_of_a_chain_without_snapshots_is_restored() {
    each_point("up", "4.7", &["--live"], "live");
}

#[test]
fn each_point_of_a_chain_of_a_vm_that_is_down_is_restored() {
    each_point("down", "4.6", &[], "cold");
}

/// Nothing that is there may be touched, whatever is made beside it.
#[test]
fn a_vm_is_cloned_beside_the_one_that_was_backed_up() {
    let (engine, disks) = backed_up();
    let before = deeds(&engine).len();
    let ran = restore(&engine, &engine, &["--name", "web2"]).ok();
    let made = assert_restored(&engine, &engine, "web2", &disks, &ran);
    assert_restored(&engine, &engine, "web", &disks, &ran);
    for (disk, made) in disks.iter().zip(&made) {
        assert_ne!(disk.0.id, made.id);
        let touched = deeds(&engine)[before..]
            .iter()
            .any(|one| one.contains(&disk.0.id));
        assert!(!touched, "{:?}", &deeds(&engine)[before..]);
    }
    assert!(ran.stderr.contains("MAC addresses"), "{ran}");
    assert!(
        ran.stdout.contains("VM web2 (") && ran.stdout.contains("verified"),
        "{ran}"
    );
}

#[test]
fn a_disk_whose_id_is_taken_gets_another_one_in_the_vm_too() {
    let (from, disks) = backed_up();
    let to = Engine::start();
    let theirs = to.dir().join("theirs");
    random_image(&theirs, SIZE, 9);
    let spec = json!({"id": disks[0].0.id, "name": "theirs", "size": SIZE, "content": theirs});
    let other = to.add_disk(&spec);
    let ran = restore(&to, &from, &[]).ok();
    let made = assert_restored(&to, &from, "web", &disks, &ran);
    assert_ne!(made[0].id, disks[0].0.id, "{ran}");
    assert_eq!(made[1].id, disks[1].0.id, "{ran}");
    to.compare(&other, &theirs).unwrap();
    assert!(ran.stderr.contains("exists, and is left alone"), "{ran}");
}

/// The engine would attach a disk of that id, whosever it is.
#[test]
fn a_disk_that_is_left_out_is_not_attached_though_its_id_is_there() {
    let (from, disks) = backed_up();
    let to = Engine::start();
    to.add_disk(&json!({"id": disks[1].0.id, "name": "theirs", "size": SIZE}));
    let ran = restore(&to, &from, &["--exclude", "data"]).ok();
    assert_restored(&to, &from, "web", &disks[..1], &ran);
    assert!(ran.stderr.contains("is made without disk"), "{ran}");
    assert!(to.log("event").is_empty(), "{:?}", to.log("event"));
}

/// Else its blocks would go to their next owner with what is in them.
#[test]
fn a_disk_that_is_wiped_when_it_is_removed_stays_one() {
    let from = Engine::start();
    let disks = web(&from, "down", "4.7");
    from.change_disk(&disks[0].0.id, &json!({"wipe_after_delete": true}));
    back_up(&from, &[]).ok();
    let to = Engine::start();
    let ran = restore(&to, &from, &[]).ok();
    assert_restored(&to, &from, "web", &disks, &ran);
    for (disk, wiped) in disks.iter().zip([true, false]) {
        let all = to.state("disks");
        let mut all = all.as_array().expect("the disks").iter();
        let made = all.find(|one| one["name"] == disk.0.name).expect("the disk");
        assert_eq!(made["wipe_after_delete"], json!(wiped), "{made}: {ran}");
    }
}

/// It names the one for uploads, and the disks were on another one.
#[test]
fn the_storage_domain_of_a_section_is_not_that_of_the_disks() {
    let (from, disks) = backed_up();
    let to = Engine::start();
    let section = to.dir().join("ovirt-img.conf");
    fs::write(&section, "[prod]\nstorage_domain = san\n").expect("write the section");
    fs::set_permissions(&section, fs::Permissions::from_mode(0o600)).expect("make it private");
    let section = section.display().to_string();
    let ran = restore(&to, &from, &["-c", "prod", "--config-file", &section]).ok();
    assert_restored(&to, &from, "web", &disks, &ran);
    let domains: Vec<String> = to.disks().into_iter().map(|disk| disk.domain).collect();
    assert_eq!(domains, ["data", "data"], "{ran}");
}

#[test]
fn disks_alone_are_restored_without_a_vm_and_where_the_user_says() {
    let (from, disks) = backed_up();
    let to = Engine::start();
    let ran = restore(
        &to,
        &from,
        &["--disks-only", "--include", "root", "--storage-domain", "san"],
    )
    .ok();
    let all = to.disks();
    let [made] = all.as_slice() else {
        panic!("{all:?}: {ran}");
    };
    assert_eq!(
        (made.id.as_str(), made.domain.as_str()),
        (disks[0].0.id.as_str(), "san")
    );
    to.compare(made, &disks[0].1).unwrap();
    assert!(!has_vm(&to, "web"), "{ran}");
    assert!(ran.stdout.contains("disks of VM web ("), "{ran}");
    assert_free(&to, &ran);
    // The raw one is thin, which block storage does not have.
    let ran = restore(
        &to,
        &from,
        &["--disks-only", "--include", "data", "--storage-domain", "san"],
    )
    .ok();
    assert!(ran.stderr.contains("it is preallocated"), "{ran}");
    let data = to.disk("data").expect("the disk");
    assert_eq!((data.format.as_str(), data.sparse), ("raw", false));
    to.compare(&data, &disks[1].1).unwrap();
}

#[test]
fn a_dry_run_tells_what_would_be_made_and_makes_nothing() {
    let (from, disks) = backed_up();
    let to = Engine::start();
    let ran = restore(&to, &from, &["--dry-run"]).ok();
    let told = [
        "(root)",
        "(data)",
        "the same id",
        "raw on data",
        "in cluster Default",
        "nothing was made",
    ];
    for words in told {
        assert!(ran.stdout.contains(words), "{words}: {ran}");
    }
    assert!(ran.stdout.contains(&disks[0].0.id), "{ran}");
    assert!(deeds(&to).is_empty(), "{:?}", deeds(&to));
    assert!(to.disks().is_empty() && !has_vm(&to, "web"), "{ran}");
}

#[test]
fn programs_get_the_outcome_as_an_object() {
    let (from, disks) = backed_up();
    let to = Engine::start();
    let ran = restore(&to, &from, &["-o", "json"]).ok();
    let told: Value = serde_json::from_str(&ran.stdout).expect("one object on stdout");
    assert_eq!(told["point"], manifests(&from)[0]["time"]);
    assert_eq!(told["vm"]["name"], "web");
    assert_eq!(told["bytes"], 2 * SIZE);
    let all = told["disks"].as_array().expect("disks");
    for (disk, _) in &disks {
        let one = all
            .iter()
            .find(|one| one["was"] == json!(disk.id))
            .expect("the disk");
        assert_eq!(
            (&one["id"], &one["verified_by"]),
            (&json!(disk.id), &json!("server"))
        );
    }
}

/// A disk that the same run had to back up on its own is in another manifest.
#[test]
fn the_newest_point_has_a_disk_that_got_a_backup_of_its_own() {
    let from = Engine::start();
    let disks: Vec<DiskState> = web(&from, "up", "4.7")
        .into_iter()
        .map(|(disk, _)| disk)
        .collect();
    back_up(&from, &[]).ok();
    for disk in &disks {
        from.guest_writes(&disk.id, &json!([{"offset": 0, "length": BLOCK, "pattern": 4}]));
    }
    from.switch(&json!({"switch": "bitmap_missing", "match": "root", "times": 1}));
    back_up(&from, &[]).ok();
    assert_eq!(manifests(&from).len(), 3);
    let to = Engine::start();
    let ran = restore(&to, &from, &[]).ok();
    assert_restored(&to, &from, "web", &now(&from, &disks, "now"), &ran);
    assert!(ran.stderr.contains("had to copy it on its own"), "{ran}");
}

/// The commands of the page, with a directory and an engine of the test.
#[test]
fn the_drill_of_the_page_restores_the_vm_under_another_name() {
    let (from, disks) = backed_up();
    let page = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/backup.md")).expect("the page");
    let (_, drill) = page.split_once("```sh\n").expect("the drill");
    let (drill, _) = drill.split_once("```").expect("its end");
    let place = dir(&from).display().to_string();
    let drill = drill.replace("/srv/backup/web01", &place).replace("web01", "web");
    let config = from.dir().join("config/ovirt-img.conf");
    let section = format!(
        "[prod]\nengine_url = {}\nusername = {USER}\npassword = {PASSWORD}\ncafile = {}\n",
        from.url(),
        from.cafile().display()
    );
    fs::write(&config, section).expect("write the configuration");
    fs::set_permissions(&config, fs::Permissions::from_mode(0o600)).expect("close it");
    let folder = PathBuf::from(BINARY).parent().expect("a folder").to_owned();
    let path = format!(
        "{}:{}",
        folder.display(),
        std::env::var("PATH").unwrap_or_default()
    );
    let mut shell = Command::new("sh");
    shell
        .args(["-euc", &drill])
        .env("PATH", path)
        .current_dir(from.dir());
    shell.env("XDG_CONFIG_HOME", from.dir().join("config"));
    let ran = run(&mut shell, LIMIT).ok();
    assert_restored(&from, &from, "web-drill", &disks, &ran);
    let told: Value = serde_json::from_str(&text(&from.dir().join("drill.json"))).expect("an object");
    assert_eq!(told["vm"]["name"], "web-drill");
}
