//! The backups that `--keep` keeps: whole chains go, and so each chain ends. The nightly job of
//! `docs/backup.md` runs as it stands there.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::json;

use crate::backup_chains::{BLOCK, mode, now, root_file, write};
use crate::backups::{assert_holds, assert_nothing_left, back_up, dir, entry, manifests, web};
use crate::support::content::MIB;
use crate::support::engine::{DiskState, Engine, PASSWORD, USER, write_private};
use crate::support::mount::BINARY;
use crate::support::redaction::assert_shows_none;
use crate::support::run::{Ran, run, text, top};

fn disks_of(engine: &Engine) -> Vec<DiskState> {
    web(engine, "up", "4.7")
        .into_iter()
        .map(|(disk, _)| disk)
        .collect()
}

/// The modes of the root disk in all points that are there.
fn modes(engine: &Engine, disks: &[DiskState]) -> Vec<String> {
    let all = manifests(engine);
    all.iter().map(|one| mode(one, &disks[0]).to_owned()).collect()
}

/// An endless chain would never go.
#[test]
fn a_chain_ends_where_it_has_as_many_backups_as_are_kept() {
    let engine = Engine::start();
    let disks = disks_of(&engine);
    let mut points = Vec::new();
    let expected: [&[&str]; 5] = [
        &["full"],
        &["full", "incremental"],
        &["full", "incremental", "full"],
        &["full", "incremental"],
        &["full", "incremental", "full"],
    ];
    for (n, expected) in expected.into_iter().enumerate() {
        let place = n as u64 * 2 * BLOCK;
        write(
            &engine,
            &disks,
            &json!([{"offset": place, "length": BLOCK, "pattern": n + 1}]),
        );
        points.push(now(&engine, &disks, &format!("point-{n}")));
        let ran = back_up(&engine, &["--keep", "2"]).ok();
        assert_eq!(modes(&engine, &disks), expected, "{ran}");
        let ends = expected.last() == Some(&"full") && n > 0;
        let why = "its chain has 2 files, and --full-every, or --keep, lets it have no more than 2";
        assert_eq!(ran.stderr.contains(why), ends, "{ran}");
    }
    for (manifest, contents) in manifests(&engine).iter().zip(&points[2..]) {
        for (disk, content) in disks.iter().zip(contents) {
            assert_holds(&engine, manifest, &disk.id, content);
        }
    }
    let ran = back_up(&engine, &["--keep", "2", "--dry-run"]).ok();
    assert!(ran.stdout.contains("(root): incremental"), "{ran}");
    let ran = back_up(&engine, &["--full-every", "1", "--dry-run"]).ok();
    assert!(ran.stdout.contains("(root): full"), "{ran}");
    assert!(ran.stderr.contains("no more than 1"), "{ran}");
}

/// The older ones may be all that can be restored.
#[test]
fn nothing_goes_in_the_run_that_finds_a_file_changed() {
    let engine = Engine::start();
    let disks = disks_of(&engine);
    back_up(&engine, &[]).ok();
    let path = root_file(&engine, &disks);
    let mut bytes = fs::read(&path).expect("the file");
    let at = bytes.len() - 1_000_000;
    bytes[at] ^= 1;
    fs::write(path, bytes).expect("change a byte");
    let keep = ["--keep", "1", "--full-every", "9"];
    let ran = back_up(&engine, &keep).ok();
    assert!(ran.stderr.contains("--keep removes nothing this time"), "{ran}");
    assert_eq!(modes(&engine, &disks), ["full", "full"], "{ran}");
    back_up(&engine, &["--full", "--keep", "1"]).ok();
    assert_eq!(modes(&engine, &disks), ["full"]);
}

/// The clock was wrong, and is set: the backup that is younger in truth counts as the younger one.
#[test]
fn a_backup_after_one_that_is_yet_to_come_is_the_newest() {
    let engine = Engine::start();
    disks_of(&engine);
    back_up(&engine, &["--full"]).ok();
    let manifest = fs::read_dir(dir(&engine))
        .expect("the directory")
        .map(|entry| entry.expect("a file").path());
    let manifest = manifest
        .into_iter()
        .find(|path| path.to_string_lossy().ends_with(".manifest.json"));
    let path = manifest.expect("a manifest");
    let mut first: serde_json::Value = serde_json::from_str(&text(&path)).expect("JSON");
    let soon = run(Command::new("date").args(["-u", "-d", "+2 hours", "+%FT%T"]), 20).ok();
    let early = format!("{}.250Z", soon.stdout.trim());
    first["time"] = json!(early);
    write_private(&path, &first.to_string());
    let ran = back_up(&engine, &["--full", "--keep", "1"]).ok();
    assert!(ran.stderr.contains("counts as a second younger"), "{ran}");
    let times: Vec<String> = manifests(&engine)
        .iter()
        .filter_map(|one| one["time"].as_str().map(str::to_owned))
        .collect();
    assert_eq!(times.len(), 2, "nothing is removed: {ran}");
    assert_eq!(
        times.iter().min(),
        Some(&early),
        "the second one is the older: {times:?}"
    );
}

#[test]
fn the_length_of_a_chain_can_be_chosen_apart_from_what_is_kept() {
    let engine = Engine::start();
    let disks = disks_of(&engine);
    for _ in 0..3 {
        back_up(&engine, &["--keep", "1", "--full-every", "2"]).ok();
    }
    assert_eq!(modes(&engine, &disks), ["full"]);
    back_up(&engine, &["--keep", "1", "--full-every", "2"]).ok();
    assert_eq!(
        modes(&engine, &disks),
        ["full", "incremental"],
        "the last one needs it"
    );
}

/// Returns the script of the nightly job, with the folders of the test in it.
fn nightly_job(engine: &Engine) -> String {
    let page = text(&top().join("docs/backup.md"));
    let (_, from) = page.split_once("\n    #!/bin/sh\n").expect("the script");
    let lines = from
        .lines()
        .take_while(|line| line.is_empty() || line.starts_with("    "));
    let script: String = lines.map(|line| line.trim_start().to_owned() + "\n").collect();
    let place = engine.dir().join("srv").display().to_string();
    for words in ["/srv/backup", "--keep 14", "web01 db01", "-c prod"] {
        assert!(script.contains(words), "{words:?} is not in it: {script}");
    }
    script
        .replace("/srv/backup", &place)
        .replace("--keep 14", "--keep 2")
        .replace("web01 db01", "web db")
}

fn night(engine: &Engine, script: &Path) -> Ran {
    let folder = Path::new(BINARY).parent().expect("the program's folder");
    let path = format!("{}:/usr/bin:/bin", folder.display());
    let mut job = Command::new("sh");
    job.arg(script).env("PATH", path).env("HOME", engine.dir());
    let job = job.env("XDG_CONFIG_HOME", engine.dir().join("config"));
    let ran = run(job, 300);
    assert_shows_none(&ran, &[PASSWORD]);
    ran
}

#[test]
fn the_nightly_job_of_the_manual_keeps_what_it_says_and_fails_where_a_vm_does() {
    let engine = Engine::start();
    let disks = disks_of(&engine);
    engine.add_disk(&json!({"name": "other", "size": MIB, "format": "cow", "vm": "db"}));
    fs::create_dir_all(engine.dir().join("config")).expect("make a folder");
    let section = format!(
        "[prod]\nengine_url = {}\nusername = {USER}\npassword = {PASSWORD}\ncafile = {}\n",
        engine.url(),
        engine.cafile().display()
    );
    write_private(&engine.dir().join("config/ovirt-img.conf"), &section);
    fs::create_dir(engine.dir().join("srv")).expect("make a folder");
    let script = engine.dir().join("nightly");
    fs::write(&script, nightly_job(&engine)).expect("write the script");
    std::os::unix::fs::symlink(engine.dir().join("srv/web"), dir(&engine)).expect("link");

    for n in 0..4 {
        write(
            &engine,
            &disks,
            &json!([{"offset": n * BLOCK, "length": BLOCK, "pattern": n + 1}]),
        );
        let ran = night(&engine, &script).ok();
        assert_nothing_left(&engine, &ran);
    }
    let contents = now(&engine, &disks, "last");
    assert_eq!(modes(&engine, &disks), ["full", "incremental"]);
    let last = &manifests(&engine)[1];
    for (disk, content) in disks.iter().zip(&contents) {
        assert_holds(&engine, last, &disk.id, content);
    }

    // A bit that rots is heard of in the same night.
    let name = entry(&manifests(&engine)[0], &disks[0].id)["file"].clone();
    let path = dir(&engine).join(name.as_str().expect("a name"));
    let mut bytes = fs::read(&path).expect("the file");
    let at = bytes.len() - 1_000_000;
    bytes[at] ^= 1;
    fs::write(path, bytes).expect("change a byte");
    let ran = night(&engine, &script);
    assert_eq!(ran.code, Some(7), "{ran}");

    engine.change_vm("web", &json!({"status": "paused"}));
    let ran = night(&engine, &script);
    assert_ne!(ran.code, Some(0), "{ran}");
    let db = fs::read_dir(engine.dir().join("srv/db"))
        .expect("its folder")
        .flatten();
    let manifests = db.filter(|one| one.file_name().to_string_lossy().ends_with(".manifest.json"));
    assert!(manifests.count() >= 2, "the other VM was backed up");
}
