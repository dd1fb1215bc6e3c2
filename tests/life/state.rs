//! The state file of a mount: it exists before the first byte moves, is private, and is gone when the
//! transfer has ended. Also the output of `status` about the disk and its transfer.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use serde_json::{Value, json};

use crate::rig::{assert_free, create, existing, over, source, state_file, used_disk};
use crate::support::engine::{Engine, PASSWORD, USER, state_directory};
use crate::support::mount::{MountKind, rhv_mount};
use crate::support::run::{run, text};

#[test]
fn a_state_file_lives_as_long_as_the_transfer_and_is_private() {
    let engine = Engine::start();
    let (disk, content) = used_disk(&engine, "web01", "raw");
    for kind in [MountKind::Directory, MountKind::New] {
        let mount = engine.mounting(existing("web01")).kind(kind).start();
        let path = state_file(mount.mountpoint()).expect("a state file");
        let meta = fs::metadata(&path).expect("look at the state file");
        assert_eq!(meta.permissions().mode() & 0o777, 0o600, "{}", path.display());
        assert_eq!(meta.uid(), nix::unistd::geteuid().as_raw());
        let directory = fs::metadata(state_directory()).expect("look at the directory");
        assert_eq!(
            directory.permissions().mode() & 0o022,
            0,
            "others may write to the directory"
        );
        let state: Value = serde_json::from_str(&text(&path)).expect("the state file is JSON");
        let transfer = engine.transfer();
        assert_eq!(state["mountpoint"], json!(mount.mountpoint()));
        assert_eq!(state["transfer"], json!(transfer.id));
        assert_eq!(state["disk_id"], json!(disk.id));
        assert_eq!(state["engine_url"], json!(engine.url()));
        assert_eq!(state["username"], json!(USER));
        for secret in engine.secrets().iter().map(String::as_str).chain([PASSWORD]) {
            assert!(!text(&path).contains(secret), "the state file holds a secret");
        }
        mount.umount().ok();
        assert!(!path.exists(), "the state file is left");
    }
    assert!(engine.state_files().is_empty());
    assert_free(&engine, &disk.id, &content);
}

/// A started transfer has its file: COMMAND finds it when it starts.
#[test]
fn a_state_file_is_there_before_the_first_byte_moves() {
    let engine = Engine::start();
    let source = source(&engine, 111);
    let script = format!(
        "grep -l '{}' '{}'/*.json > /dev/null; cp '{}' {{}}",
        engine.url(),
        state_directory().display(),
        source.display()
    );
    over(&engine, &create("new"), &script).ok();
    assert_free(&engine, "new", &source);
    assert!(engine.state_files().is_empty());
}

/// A symbolic link in the state file's place must not make rhv-mount overwrite its target.
#[test]
fn a_state_file_that_is_in_the_way_is_not_followed() {
    let engine = Engine::start();
    used_disk(&engine, "web01", "raw");
    let mount = engine.mounting(existing("web01")).kind(MountKind::New).start();
    let (path, point) = (
        state_file(mount.mountpoint()).expect("a state file"),
        mount.mountpoint().to_owned(),
    );
    mount.umount().ok();
    let victim = engine.dir().join("victim");
    fs::write(&victim, "mine").expect("write a file of somebody else");
    // The same mountpoint gets the same file name, or an unpredictable one: in that case the link is not
    // touched at all.
    std::os::unix::fs::symlink(&victim, &path).expect("lay a link in the way");
    fs::create_dir_all(point.parent().expect("a directory")).expect("make the mount's directory again");
    let mut program = engine.program();
    program
        .args(engine.args())
        .args(existing("web01"))
        .arg(&point)
        .args(["--", "true"]);
    let ran = run(&mut program, 60);
    let seen = text(&victim);
    let _ = fs::remove_file(&path);
    let _ = fs::remove_dir_all(point.parent().expect("a directory"));
    assert_eq!(seen, "mine", "the link was followed: {ran}");
    assert!(!ran.stderr.contains("panicked"), "{ran}");
    assert!(
        engine.disk("web01").expect("the disk").locked_by.is_empty(),
        "{ran}"
    );
}

#[test]
fn status_tells_of_the_disk_and_its_transfer() {
    let engine = Engine::start();
    let (disk, _) = used_disk(&engine, "web01", "raw");
    let mount = engine.mounting(existing("web01")).start();
    let transfer = engine.transfer().id;
    let json = mount.status(&["-o", "json"]).ok().stdout;
    let value: Value = serde_json::from_str(&json).expect("status prints JSON");
    assert_eq!(value["disk_id"], json!(disk.id));
    assert_eq!(value["disk_name"], "web01");
    assert_eq!(value["transfer"], json!(transfer));
    assert_eq!(value["transfer_phase"], "transferring");
    let shown = mount.status(&[]).ok().stdout;
    assert!(shown.contains("web01") && shown.contains(&transfer), "{shown}");
    let all = rhv_mount(None, ["status", "-o", "json"]).ok().stdout;
    assert!(all.contains(&transfer), "{all}");
    mount.umount().ok();
}
