//! `--vm`: the disks of a VM as the files of one directory, and with `--snapshot` as a snapshot has them.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::rig::{LIMIT, SIZE, assert_free, assert_nothing_deleted, assert_told};
use crate::support::content::{MIB, random_image};
use crate::support::engine::{DiskState, Engine, PASSWORD};
use crate::support::mount::is_mounted;
use crate::support::redaction::assert_shows_none;
use crate::support::run::{Ran, run, sh};

/// The arguments that select a VM.
pub(crate) fn vm(name: &str) -> Vec<String> {
    ["--vm", name].map(str::to_owned).to_vec()
}

/// Adds a disk of the VM `web` with random content; returns it and a file with its content.
pub(crate) fn disk_of_web(engine: &Engine, name: &str, seed: u64, more: &Value) -> (DiskState, PathBuf) {
    let content = engine.dir().join(format!("content-{seed}"));
    random_image(&content, SIZE, seed);
    let mut spec = json!({"name": name, "size": SIZE, "format": "cow", "content": content, "vm": "web"});
    for (key, value) in more.as_object().expect("an object") {
        spec[key] = value.clone();
    }
    (engine.add_disk(&spec), content)
}

/// A VM `web` that is down, with two disks; returns them with their contents.
pub(crate) fn web(engine: &Engine) -> Vec<(DiskState, PathBuf)> {
    engine.add_vms(&json!([{"name": "web", "status": "down"}]));
    vec![
        disk_of_web(engine, "web_Disk1", 31, &json!({})),
        disk_of_web(engine, "web_Disk2", 32, &json!({"format": "raw"})),
    ]
}

/// Makes an empty directory to mount on.
pub(crate) fn directory(engine: &Engine, name: &str) -> PathBuf {
    let point = engine.dir().join(name);
    fs::create_dir_all(&point).expect("make the mountpoint");
    point
}

/// Runs `rhv-mount ARGS POINT -- bash -euc SCRIPT` to its end on a directory, and asserts that nothing is
/// mounted there any more.
#[track_caller]
pub(crate) fn over(engine: &Engine, args: &[String], script: &str) -> Ran {
    let point = directory(engine, "over");
    let mut command = engine.program();
    command.args(engine.args()).args(args).arg(&point);
    command.args(["--", "bash", "-euc", script]);
    let ran = run(&mut command, LIMIT);
    assert_shows_none(&ran, &[PASSWORD]);
    assert!(!ran.timed_out && !ran.stderr.contains("panicked"), "{ran}");
    assert!(!is_mounted(&point), "still mounted after: {ran}");
    ran
}

/// Returns the file names of a directory with their sizes.
pub(crate) fn files(path: &Path) -> BTreeMap<String, u64> {
    let entries = fs::read_dir(path).expect("list the mount").flatten();
    let size = |entry: &fs::DirEntry| entry.metadata().expect("a file's size").len();
    entries
        .map(|entry| (entry.file_name().into_string().expect("a name"), size(&entry)))
        .collect()
}

/// Returns the status of the mount in JSON.
pub(crate) fn status(engine: &Engine, point: &Path) -> Value {
    let ran = engine
        .run([Path::new("status"), Path::new("-ojson"), point], 20)
        .ok();
    serde_json::from_str(&ran.stdout).expect("the status is JSON")
}

/// Returns what an object in the status says of one file.
pub(crate) fn of_file<'a>(status: &'a Value, name: &str) -> &'a Value {
    let disks = status["disks"].as_array().expect("the disks");
    let found = disks.iter().find(|one| one["file_name"] == name);
    found.unwrap_or_else(|| panic!("no {name}: {status}"))
}

fn transfers_of(engine: &Engine, direction: &str) -> usize {
    let all = engine.transfers();
    all.iter().filter(|one| one.direction == direction).count()
}

#[test]
fn each_disk_of_a_vm_that_is_down_is_a_file_of_its_own() {
    let engine = Engine::start();
    let disks = web(&engine);
    let mount = engine.mounting(vm("web")).start();
    let point = mount.mountpoint();
    let expected = [("web_Disk1", SIZE), ("web_Disk2", SIZE)].map(|(name, size)| (name.to_owned(), size));
    assert_eq!(files(point), BTreeMap::from(expected));
    // The engine ends a transfer of which everything was read.
    let told = status(&engine, point);
    let mut inodes = Vec::new();
    for (disk, content) in &disks {
        let file = point.join(&disk.name);
        sh(r#"cmp "$1" "$2""#, [&file, content], 60).ok();
        inodes.push(fs::metadata(&file).expect("the file").ino());
        let refused = fs::File::options()
            .write(true)
            .open(&file)
            .expect_err("read-only");
        assert_eq!(refused.raw_os_error(), Some(libc::EROFS), "{refused}");
    }
    assert_ne!(inodes[0], inodes[1]);
    for script in [
        r#"touch "$1/new""#,
        r#"rm "$1/web_Disk1""#,
        r#"mv "$1/web_Disk1" "$1/other""#,
    ] {
        assert!(!sh(script, [point], 20).success(), "{script}");
    }

    assert!(
        told["vm"].as_str().is_some_and(|vm| vm.starts_with("VM web (")),
        "{told}"
    );
    assert_eq!(told["read_only"], true);
    assert_eq!(told["disk_size"], 2 * SIZE);
    let connections = |of: &Value| of["connections"].as_u64().expect("a number");
    assert_eq!(connections(&told), 4, "{told}");
    for (disk, _) in &disks {
        let one = of_file(&told, &disk.name);
        assert_eq!(
            (&one["disk_id"], connections(one)),
            (&json!(disk.id), 2),
            "{told}"
        );
        assert_eq!(one["transfer_phase"], "transferring");
    }
    // A file's path means the mount too.
    let of_file = engine
        .run([Path::new("status"), &point.join("web_Disk2")], 20)
        .ok();
    for (disk, _) in &disks {
        assert!(of_file.stdout.contains(&disk.id), "{of_file}");
    }
    assert_eq!(
        (transfers_of(&engine, "download"), transfers_of(&engine, "upload")),
        (2, 0)
    );
    mount.umount().ok();
    for (disk, content) in &disks {
        assert_free(&engine, &disk.id, content);
    }
    assert_nothing_deleted(&engine);
    assert!(engine.state_files().is_empty());
    assert_eq!(engine.sessions(), 0, "a session is left open");
}

#[test]
fn a_command_gets_the_directory_and_statistics_and_figures_tell_the_disks_apart() {
    let engine = Engine::start();
    let disks = web(&engine);
    let figures = engine.dir().join("vm.prom");
    let mut args = vm("web");
    args.extend([
        "--stats".into(),
        "--metrics-file".into(),
        figures.display().to_string(),
    ]);
    let script = format!(
        "test {{}} = \"$RHV_MOUNT_FILE\"; test -d {{}}; cmp {{}}/web_Disk1 '{}'; cmp {{}}/web_Disk2 '{}'",
        disks[0].1.display(),
        disks[1].1.display()
    );
    let ran = over(&engine, &args, &script).ok();
    for words in [
        "disk=web_Disk1 connection=1 ",
        "disk=web_Disk2 connection=2 ",
        "disks=2 connections=4 ",
    ] {
        assert!(ran.stderr.contains(words), "{words:?} is missing: {ran}");
    }
    let figures = fs::read_to_string(figures).expect("the figures");
    for (disk, _) in &disks {
        let label = format!(r#",disk="{}",disk_id="{}"}} {SIZE}"#, disk.name, disk.id);
        let is_size = |line: &str| line.starts_with("rhv_mount_disk_size_bytes{") && line.ends_with(&label);
        assert!(figures.lines().any(is_size), "{figures}");
    }
    let ran = over(&engine, &vm("web"), "exit 41");
    assert_eq!(ran.code, Some(41), "{ran}");
    let objects = |option: &str| {
        let ran = over(
            &engine,
            &[vm("web"), vec![option.to_owned()]].concat(),
            "cat {}/* >/dev/null",
        )
        .ok();
        let lines = ran.stderr.lines().map(serde_json::from_str);
        let objects: Result<Vec<Value>, _> = lines.collect();
        objects.unwrap_or_else(|e| panic!("{e}: {ran}"))
    };
    let statistics = objects("--stats=json");
    assert_eq!(statistics.len(), 3, "{statistics:?}");
    assert_eq!(statistics[1]["disk"]["disk_name"], "web_Disk2");
    assert_eq!(statistics[2]["sum"]["bytes_read"], 2 * SIZE, "{statistics:?}");
    let progress = objects("--progress=json");
    let last = progress.last().expect("a line");
    assert_eq!(
        (&last["exit_status"], &last["disk_size"]),
        (&json!(0), &json!(2 * SIZE)),
        "{last}"
    );
    assert_eq!(last["disks"].as_array().map(Vec::len), Some(2), "{last}");
}

#[test]
fn names_that_no_file_can_have_or_that_collide_become_ids() {
    let engine = Engine::start();
    engine.add_vms(&json!([{"name": "web", "status": "down"}]));
    let names = ["same", "same", "a/b", "..", ".rhv-mount", "größe 1"];
    let disks: Vec<(DiskState, PathBuf)> = names
        .iter()
        .zip(50..)
        .map(|(name, seed)| disk_of_web(&engine, name, seed, &json!({})))
        .collect();
    let mount = engine.mounting(vm("web")).start();
    let expected = disks.iter().map(|(disk, _)| match disk.name.as_str() {
        "größe 1" => disk.name.clone(),
        _ => disk.id.clone(),
    });
    let expected: BTreeMap<String, u64> = expected.map(|name| (name, SIZE)).collect();
    assert_eq!(files(mount.mountpoint()), expected);
    for (disk, content) in &disks {
        let name = if disk.name == "größe 1" {
            &disk.name
        } else {
            &disk.id
        };
        sh(r#"cmp "$1" "$2""#, [&mount.mountpoint().join(name), content], 60).ok();
    }
    mount.umount().ok();
    // The same disk is found under the same name while its namesake is not active.
    engine.change_vm(
        "web",
        &json!({"attachments": [{"disk": disks[1].0.id, "active": false}]}),
    );
    let mount = engine.mounting(vm("web")).start();
    let names = files(mount.mountpoint());
    assert!(names.contains_key(&disks[0].0.id), "{names:?}");
    assert!(!names.contains_key("same"), "{names:?}");
    mount.umount().ok();
}

#[test]
fn a_disk_that_cannot_take_part_is_named_and_has_no_file() {
    let engine = Engine::start();
    let disks = web(&engine);
    let mut left: Vec<(String, &str)> = Vec::new();
    for (name, seed, more, why) in [
        ("shared", 61, json!({"shareable": true}), "shareable"),
        ("lun", 62, json!({"is_lun": true}), "direct LUN"),
        ("off", 63, json!({}), "not active"),
    ] {
        let (disk, _) = disk_of_web(&engine, name, seed, &more);
        if name == "off" {
            engine.change_vm(
                "web",
                &json!({"attachments": [{"disk": disk.id, "active": false}]}),
            );
        }
        left.push((disk.id, why));
    }
    let mount = engine.mounting(vm("web")).start();
    let names: Vec<String> = files(mount.mountpoint()).into_keys().collect();
    assert_eq!(names, ["web_Disk1", "web_Disk2"]);
    let told = status(&engine, mount.mountpoint());
    let shown = mount.status(&[]).ok().stdout;
    let said = mount.stderr();
    for (id, why) in &left {
        let is_it = |one: &&Value| one["disk_id"] == id.as_str();
        let of_status = told["left_out"].as_array().and_then(|all| all.iter().find(is_it));
        let reason = of_status.and_then(|one| one["why"].as_str()).unwrap_or_default();
        assert!(reason.contains(why), "{id} {why}: {told}");
        for text in [&said, &shown] {
            let names_it = |line: &str| line.contains(id) && line.contains(why);
            assert!(text.lines().any(names_it), "{id} {why}: {text}");
        }
    }
    // The good end of what is mounted is a good end.
    mount.umount().ok();
    assert_free(&engine, &disks[0].0.id, &disks[0].1);
    // There is no mount where there is nothing else.
    engine.add_vms(&json!([{"name": "odd", "attachments": [{"disk": left[0].0}]}]));
    let refused = engine.mounting(vm("odd")).try_start().expect_err("no disk");
    assert_told(&refused, &[4], &["no disk of VM odd", &left[0].0, "shareable"]);
}

#[test]
fn a_snapshot_of_a_vm_that_runs_shows_each_disk_as_it_was_then() {
    let engine = Engine::start();
    let disks = web(&engine);
    engine.change_vm("web", &json!({"status": "up"}));
    let snapshot = engine.make_snapshot("web", "before the update");
    for (disk, _) in &disks {
        engine.guest_writes(&disk.id, &json!([{"offset": 0, "length": MIB, "pattern": 9}]));
    }
    let (added, _) = disk_of_web(&engine, "web_Disk3", 33, &json!({}));
    for which in ["before the update", snapshot.as_str()] {
        let mut args = vm("web");
        args.extend(["--snapshot".into(), which.to_owned()]);
        let mount = engine.mounting(&args).start();
        let names: Vec<String> = files(mount.mountpoint()).into_keys().collect();
        assert_eq!(names, ["web_Disk1", "web_Disk2"]);
        for (disk, content) in &disks {
            sh(
                r#"cmp "$1" "$2""#,
                [&mount.mountpoint().join(&disk.name), content],
                60,
            )
            .ok();
        }
        let said = mount.stderr();
        assert!(
            said.contains(&added.id) && said.contains("not in the snapshot"),
            "{said}"
        );
        let told = status(&engine, mount.mountpoint());
        assert!(
            told["vm"]
                .as_str()
                .is_some_and(|vm| vm.contains("before the update")),
            "{told}"
        );
        assert_eq!(of_file(&told, "web_Disk1")["disk_name"], "web_Disk1");
        mount.umount().ok();
    }
    assert_eq!(transfers_of(&engine, "upload"), 0);
    assert_nothing_deleted(&engine);
    assert!(engine.state_files().is_empty());
}
