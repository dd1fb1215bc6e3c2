//! `--vm` refuses, before anything is started, what it cannot do, and says what can be done.

use std::fs;

use serde_json::json;

use crate::rig::{DONE, ENGINE_FAILED, MOUNT_FAILED, USAGE, assert_refused};
use crate::support::engine::Engine;
use crate::support::run::{Ran, run, sh};
use crate::vm_mounts::{directory, files, over, vm, web};

fn snapshot(name: &str) -> Vec<String> {
    let mut args = vm("web");
    args.extend(["--snapshot", name].map(str::to_owned));
    args
}

/// Runs `rhv-mount WORDS`, which has to refuse before it starts a transfer.
#[track_caller]
fn refused(engine: &Engine, args: &[String], codes: &[i32], words: &[&str]) -> Ran {
    let ran = over(engine, args, "true");
    assert_refused(&ran, codes, words);
    assert!(engine.transfers().is_empty(), "a transfer was started: {ran}");
    assert!(engine.state_files().is_empty(), "{ran}");
    assert_eq!(engine.sessions(), 0, "a session is left open");
    ran
}

#[test]
fn a_vm_that_is_not_down_is_refused_before_any_transfer_with_what_to_do() {
    let engine = Engine::start();
    web(&engine);
    for status in ["up", "paused", "suspended"] {
        engine.change_vm("web", &json!({"status": status}));
        let words = [
            status,
            "not down",
            "--snapshot",
            "--backup",
            "Shut it down",
            "rhv-mount list vms web",
        ];
        refused(&engine, &vm("web"), &[ENGINE_FAILED], &words);
    }
}

#[test]
fn a_name_that_is_no_vms_or_several_ones_is_refused_with_the_list() {
    let engine = Engine::start();
    web(&engine);
    let ids = [
        "6f9619ff-8b86-4011-b42d-00c04fc964aa",
        "6f9619ff-8b86-4011-b42d-00c04fc964bb",
    ];
    engine.add_vms(&json!([{"name": "db", "id": ids[0]}, {"name": "db", "id": ids[1], "status": "up"}]));
    refused(
        &engine,
        &vm("db"),
        &[ENGINE_FAILED],
        &["2 VMs", ids[0], ids[1], "--vm with one of these ids"],
    );
    refused(&engine, &vm("we"), &[ENGINE_FAILED], &["no VM we on", "db, web"]);
    // A pattern is for lists.
    refused(
        &engine,
        &vm("we*"),
        &[ENGINE_FAILED],
        &["no VM we* on", "db, web"],
    );
    refused(
        &engine,
        &vm(ids[0]),
        &[ENGINE_FAILED],
        &["no disk of VM db", "no disks"],
    );
}

#[test]
fn a_snapshot_that_is_none_or_not_the_only_one_is_refused_with_the_list() {
    let engine = Engine::start();
    web(&engine);
    refused(
        &engine,
        &snapshot("nightly"),
        &[ENGINE_FAILED],
        &["no snapshot nightly", "has no snapshots"],
    );
    let ids = ["nightly", "nightly", "weekly"].map(|name| engine.make_snapshot("web", name));
    let words = [
        "2 snapshots",
        ids[0].as_str(),
        &ids[1],
        "--snapshot with one of these ids",
    ];
    let ran = refused(&engine, &snapshot("nightly"), &[ENGINE_FAILED], &words);
    assert!(!ran.stderr.contains(&ids[2]), "{ran}");
    let words = ["as it is now", "shut it down", ids[2].as_str()];
    refused(&engine, &snapshot("Active VM"), &[ENGINE_FAILED], &words);
    refused(
        &engine,
        &snapshot("monthly"),
        &[ENGINE_FAILED],
        &["no snapshot monthly", &ids[2], "weekly"],
    );
}

#[test]
fn options_that_mean_nothing_with_a_vm_or_without_one_are_refused() {
    let engine = Engine::start();
    web(&engine);
    for (args, words) in [
        ("--vm web --disk a", vec!["two disks are named"]),
        (
            "--vm web --create a --size 1M --storage-domain data",
            vec!["two disks are named"],
        ),
        ("--vm web --size 1M", vec!["--create"]),
        ("--vm web --storage-domain data", vec!["--create"]),
        ("--vm web --keep-on-failure", vec!["--create"]),
        ("--vm web --file-name x", vec!["--file-name", "name of its disk"]),
        ("--vm web --snapshot a --read-write", vec!["never changes"]),
        ("--vm web --read-only --read-write", vec!["leave one out"]),
        ("--vm web --verify", vec!["--verify", "--read-only"]),
        (
            "--vm web --read-write --verify=/etc/passwd",
            vec!["--verify=IMAGE", "one disk"],
        ),
        (
            "--disk web --snapshot a",
            vec!["--snapshot is for --vm", "--disk-snapshot"],
        ),
        (
            "--disk web --read-write",
            vec!["--read-write is for --vm", "--read-only"],
        ),
    ] {
        let args: Vec<String> = args.split(' ').map(str::to_owned).collect();
        refused(&engine, &args, &[USAGE], &words);
    }
    for words in [
        &["upload", "/etc/passwd"][..],
        &["download", "/var/tmp/no-such-image"],
        &["checksum"],
    ] {
        let mut program = engine.tool();
        program.env("RHV_MOUNT_VM", "web").args(words).args(engine.args());
        let ran = run(&mut program, 60);
        assert_refused(&ran, &[USAGE], &["names the VM web", "--disk"]);
    }
}

#[test]
fn a_mountpoint_that_is_no_directory_is_refused() {
    let engine = Engine::start();
    web(&engine);
    let (file, missing) = (engine.dir().join("file"), engine.dir().join("missing"));
    fs::write(&file, "").expect("write a file");
    for (point, word) in [(&file, "name an empty one"), (&missing, "mkdir ")] {
        let mut program = engine.program();
        program.args(engine.args()).args(vm("web")).arg(point);
        let ran = run(&mut program, 60);
        assert_refused(&ran, &[MOUNT_FAILED], &["in a directory", word]);
    }
    assert!(!missing.exists());
    assert!(engine.transfers().is_empty());
}

#[test]
fn mount8_names_the_vm_by_an_option_and_the_environment_by_a_variable() {
    let engine = Engine::start();
    let disks = web(&engine);
    let point = directory(&engine, "point");
    let mounted = |words: &[&str], variables: &[(&str, &str)]| {
        let mut program = engine.program();
        program.args(engine.args()).envs(variables.iter().copied());
        program
            .args(&words[..words.len() - 1])
            .arg(&point)
            .args(words.last());
        run(&mut program, 60)
    };
    for (words, variables) in [
        (vec!["none", "-orw,vm=web,_netdev"], vec![]),
        (vec!["-oro"], vec![("RHV_MOUNT_VM", "web")]),
    ] {
        let ran = mounted(&words, &variables);
        assert_eq!(ran.code, Some(DONE), "{ran}");
        assert_eq!(files(&point).len(), 2);
        let source = sh(r#"findmnt -n -o SOURCE "$1""#, [&point], 20).ok().stdout;
        assert_eq!(source.trim(), if words.len() == 2 { "none" } else { "web" });
        // The word rw, which mount(8) says of every mount, asks for no writes.
        let opened = fs::File::options().write(true).open(point.join(&disks[0].0.name));
        assert!(opened.is_err(), "it can be written: {words:?}");
        engine
            .run([std::ffi::OsStr::new("umount"), point.as_os_str()], 60)
            .ok();
    }
    let ran = mounted(&["web_Disk1", "-ovm=web"], &[]);
    assert_refused(&ran, &[USAGE], &["SOURCE web_Disk1", "--vm", "`none`"]);
}
